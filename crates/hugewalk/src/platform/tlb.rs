//! What processors remember of tables.

use core::ops::Range;

use crate::addr::{HugeFrame, HugeSize, VirtAddr};
use crate::arch::Barrier;
use crate::error::OutOfMemory;

/// What processors remember of tables, and how they are told that it has changed.
///
/// # Safety
///
/// [`flush_tlb`](Self::flush_tlb) does what its documentation says.
pub unsafe trait Tlb {
    /// What the host keeps for each address space: processor mask, TLB generation, ASID. Linux:
    /// `mm_context_t`.
    type MmContext: Send + Sync + 'static;

    /// A fresh [`MmContext`](Self::MmContext).
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if there is no memory for it.
    fn new_context(&self) -> Result<Self::MmContext, OutOfMemory>;

    /// Flushes translations of a range in this address space that were looked up before the call.
    /// When it returns, no processor uses such a translation, and no access through one is still under way. If
    /// [`Flush::tables`], the same holds of tables that a processor cached on the way. Called with table locks and
    /// sleeping locks held. Does not sleep.
    fn flush_tlb(&self, context: &Self::MmContext, flush: Flush);

    /// An entry that maps a page of this size at `address` was stored, and has become valid, or allows more than before. `due`
    /// is what the processors ask for then, for this address: see [`Hooks`](crate::arch::Hooks). Called with
    /// the table lock held, or, where a fault has found that nothing is to be stored, without. Does not sleep. Not called if
    /// nothing is due, as on x86-64.
    ///
    /// Linux: what `set_pte()` and `update_mmu_cache_range()` do, and `flush_tlb_fix_spurious_fault()`.
    #[inline(always)]
    fn entry_stored(&self, context: &Self::MmContext, address: VirtAddr, size: HugeSize, due: Barrier) {
        let _ = (context, address, size, due);
    }

    /// A page is about to be mapped so that it can be executed. Instruction fetches have to find what was stored to it. Called
    /// with the table lock held. Does not sleep. Not called on processors whose fetches are coherent, as on x86-64.
    ///
    /// Linux: `__sync_icache_dcache()` on arm64, `flush_icache_pte()` on riscv64.
    #[inline(always)]
    fn before_execution(&self, frame: HugeFrame, size: HugeSize) {
        let _ = (frame, size);
    }
}

/// What [`Tlb::flush_tlb`] has to flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flush {
    /// The addresses.
    pub range: Range<VirtAddr>,
    /// Bytes that one entry covers, of the smallest pages that are mapped there, base pages of the host's included: what lies
    /// between the addresses to flush. Where a group of entries stands for a page it is less than the page
    /// ([`HugeSize::member_bytes`]), since a processor may cache each entry of a group by itself.
    ///
    /// Linux: the stride that arm64's and riscv64's `flush_hugetlb_tlb_range()` goes by.
    pub stride: u64,
    /// Did tables go, and not only leaves? Then what processors remember of tables has to go too: after `tlbi` for the last
    /// level alone, or for each page alone, a processor goes on to use a table that it has cached.
    ///
    /// Linux: `tlb->freed_tables`, `tlb->unshared_tables`.
    pub tables: bool,
}
