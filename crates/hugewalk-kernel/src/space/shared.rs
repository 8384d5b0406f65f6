//! Shared memory of base pages without a name: `MAP_SHARED | MAP_ANONYMOUS`, and what /dev/zero maps.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::ops::Range;

use spin::Mutex;

use super::area::PageSource;
use crate::errno::{Errno, Result};
use crate::memory::page::BasePage;

/// Pages that several mappings have in common; made when they are first touched.
pub struct SharedPages(Mutex<BTreeMap<u64, BasePage>>);

impl SharedPages {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl PageSource for SharedPages {
    fn page(&self, index: u64, _: bool) -> Result<BasePage> {
        if let Some(page) = self.0.lock().get(&index) {
            return Ok(page.clone());
        }
        let fresh = BasePage::zeroed()?;
        Ok(self.0.lock().entry(index).or_insert(fresh).clone())
    }

    fn install(&self, index: u64, page: BasePage) -> Result<()> {
        let mut pages = self.0.lock();
        if pages.contains_key(&index) {
            return Err(Errno::EEXIST);
        }
        pages.insert(index, page);
        Ok(())
    }

    fn remove(&self, pages: Range<u64>) -> Result<()> {
        let gone = {
            let mut all = self.0.lock();
            let mut gone = all.split_off(&pages.start);
            all.append(&mut gone.split_off(&pages.end));
            gone
        };
        // With the lock released: the last reference frees a page.
        drop(gone);
        Ok(())
    }

    fn has_page(&self, index: u64) -> bool {
        self.0.lock().contains_key(&index)
    }

    fn name(&self) -> String {
        String::from("/dev/zero (deleted)")
    }
}
