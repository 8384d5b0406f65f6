//! What can be observed of the kernel.

use std::array;

use super::process::KEEPER;
use super::wire::{self, FILE_FD, LOOKED, op};
use super::{Kernel, KernelError, proc};
use crate::observe::{FileState, Observation, Outcome, PageMap, PageState, ProcessState, Residency};
use crate::program::{Bytes, FILES, PAGE, PROCESSES, Places, Policy};

impl Kernel {
    /// Looks at everything after a step.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn observe(
        &mut self,
        places: &Places,
        outcome: Outcome,
        faults: Option<u64>,
    ) -> Result<Observation, KernelError> {
        let mut files = [None; FILES];
        for (file, state) in files.iter_mut().enumerate().filter(|(file, _)| self.open[*file]) {
            let stat = self.ask(KEEPER, op::STAT, &[(FILE_FD + file as i32) as u64])?;
            if let &[size, blocks] = stat.more.as_slice() {
                *state = Some(FileState { size: Bytes(size), pages: blocks * 512 / PAGE });
            }
        }
        let mut processes = array::from_fn(|_| None);
        for (process, state) in processes.iter_mut().enumerate().take(PROCESSES) {
            if self.running[process].is_some() {
                *state = Some(self.look(process, places)?);
            }
        }
        Ok(Observation { outcome, faults, pool: self.pool()?, files, processes })
    }

    fn look(&self, process: usize, places: &Places) -> Result<ProcessState, KernelError> {
        let pid = self.running[process].as_ref().map_or(0, |running| running.pid);
        let (mappings, huge_pages) = proc::mappings(pid).map_err(|_| KernelError::Died)?;
        let Places { pages, offsets } = places;
        let counts = [pages.len() as u64, offsets.len() as u64];
        let addresses = pages.iter().map(|page| page.address());
        let arguments: Vec<u64> =
            counts.into_iter().chain(addresses).chain(offsets.iter().copied()).collect();
        let looked = self.ask(process, op::LOOK, &arguments)?;
        let each = looked.more.chunks_exact(LOOKED + offsets.len());
        let pages = pages.iter().zip(each).map(|(&at, words)| PageState {
            at,
            map: page_map(words[0]),
            residency: residency(words[1]),
            policy: Policy::of_numbers(words[2], words[3]),
            bytes: words[LOOKED..].iter().map(|&byte| u8::try_from(byte).ok()).collect(),
        });
        Ok(ProcessState { huge_pages, mappings, pages: pages.collect() })
    }
}

pub(super) const fn residency(word: u64) -> Residency {
    match word {
        wire::ABSENT => Residency::Absent,
        wire::RESIDENT => Residency::Resident,
        wire::UNMAPPED => Residency::Unmapped,
        _ => Residency::Mixed,
    }
}

/// Linux: Documentation/admin-guide/mm/pagemap.rst
fn page_map(entry: u64) -> PageMap {
    let bits = [
        (63, PageMap::PRESENT),
        (62, PageMap::SWAP),
        (61, PageMap::FILE),
        (57, PageMap::UFFD_WP),
        (56, PageMap::EXCLUSIVE),
        (55, PageMap::SOFT_DIRTY),
    ];
    let set = bits.into_iter().filter(|(bit, _)| entry >> bit & 1 != 0);
    set.fold(PageMap::empty(), |all, (_, bit)| all | bit)
}
