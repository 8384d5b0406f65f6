//! Loads for the tests of platforms: a processor with only a TLB, on the calling thread.
//!
//! Programs run on [`Cpu`](crate::Cpu), which belongs to systems made of [`Host`] itself and
//! resolves its faults. The programs that check a platform need neither.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::{Entry, Paging};
use hugewalk::platform::{Contents as _, Tables as _};

use crate::checked::Loads;
use crate::host::smallest;
use crate::{Host, MmContext};

thread_local! {
    /// Translations, by their generation and page. No two address spaces have a generation in
    /// common.
    static TLB: RefCell<HashMap<(u64, u64), (HugeFrame, HugeSize)>> = RefCell::default();
}

impl<F: Paging> Loads for Host<F> {
    unsafe fn load(&self, context: &MmContext, root: TableFrame, address: VirtAddr) -> Option<u8> {
        let key = (context.generation(), address.as_u64() >> smallest(&self.paging()).shift());
        let cached = TLB.with_borrow(|tlb| tlb.get(&key).copied());
        // SAFETY: passed on to the caller.
        let (frame, size) = cached.or_else(|| unsafe { self.translate(root, address) })?;
        TLB.with_borrow_mut(|tlb| tlb.insert(key, (frame, size)));
        let mut byte = [0];
        let offset = address.as_u64() & (size.bytes() - 1);
        // SAFETY: the page was mapped when the entry was read. By the contract nothing has changed
        // it since, or a flush was forgotten; the host's memory stays mapped in either case.
        unsafe { self.read_huge(frame, offset, &mut byte) }.ok()?;
        Some(byte[0])
    }
}

impl<F: Paging> Host<F> {
    /// The page that the tables lead to.
    ///
    /// # Safety
    ///
    /// `root` is a root table of this host, and nothing changes the tables meanwhile.
    unsafe fn translate(&self, root: TableFrame, address: VirtAddr) -> Option<(HugeFrame, HugeSize)> {
        let paging = self.paging();
        let geometry = paging.geometry();
        let mut frame = root;
        for level in (0..geometry.levels).rev() {
            // SAFETY: the frame is the root's, or that of a table that an entry points to; the index is one of a table.
            let entry = unsafe { self.table_entry(frame, geometry.index(address.as_u64(), level)) };
            // SAFETY: likewise; entries are atomics.
            let bits = unsafe { entry.as_ref() }.load(Ordering::Acquire);
            match paging.decode(bits, level) {
                Entry::Table(next) => frame = next,
                Entry::Leaf(leaf) if leaf.is_accessible() => {
                    return Some((leaf.frame, paging.leaf_size(bits, level)?));
                }
                _ => return None,
            }
        }
        None
    }
}
