//! Loads for the tests of platforms: a processor with only a TLB, on the calling thread.
//!
//! Programs run on [`Cpu`](crate::Cpu), which belongs to systems made of [`Host`] itself and
//! resolves its faults. The programs that check a platform need neither.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::{Entry, RawEntry};
use hugewalk::platform::{ENTRIES, Levels, Platform};

use crate::checked::Loads;
use crate::{Host, MmContext};

thread_local! {
    /// Translations, by their generation and page. No two address spaces have a generation in
    /// common.
    static TLB: RefCell<HashMap<(u64, u64), (HugeFrame, HugeSize)>> = RefCell::default();
}

impl Loads for Host {
    unsafe fn load(&self, context: &MmContext, root: TableFrame, address: VirtAddr) -> Option<u8> {
        let key = (context.generation(), address.as_u64() >> HugeSize::Size2M.shift());
        let cached = TLB.with_borrow(|tlb| tlb.get(&key).copied());
        // SAFETY: passed on to the caller.
        let (frame, size) = cached.or_else(|| unsafe { self.translate(root, address) })?;
        TLB.with_borrow_mut(|tlb| tlb.insert(key, (frame, size)));
        let mut byte = [0];
        let offset = address.as_u64() & (size.bytes() - 1);
        // SAFETY: the page was mapped when the entry was read. By the contract nothing has changed
        // it since, or a flush was forgotten; the host's memory stays mapped in either case.
        unsafe { self.read_huge(frame, offset, &mut byte) };
        Some(byte[0])
    }
}

impl Host {
    /// The page that the tables lead to.
    ///
    /// # Safety
    ///
    /// `root` is a root table of this host, and nothing changes the tables meanwhile.
    unsafe fn translate(&self, root: TableFrame, address: VirtAddr) -> Option<(HugeFrame, HugeSize)> {
        let shifts: &[u32] = match self.levels() {
            Levels::Four => &[39, 30, 21],
            Levels::Five => &[48, 39, 30, 21],
        };
        let mut frame = root;
        for &shift in shifts {
            // SAFETY: the frame is the root's, or that of a table that an entry points to.
            let entries = unsafe { self.table_entries(frame) };
            // SAFETY: likewise; entries are atomics.
            let entries = unsafe { entries.as_ref() };
            let index = (address.as_u64() >> shift) as usize % ENTRIES;
            match RawEntry::from_bits(entries[index].load(Ordering::Acquire)).decode() {
                Entry::Table(next) => frame = next,
                Entry::Leaf(leaf) if leaf.is_accessible() => {
                    let size = if shift == 30 { HugeSize::Size1G } else { HugeSize::Size2M };
                    return Some((leaf.frame, size));
                }
                _ => return None,
            }
        }
        None
    }
}
