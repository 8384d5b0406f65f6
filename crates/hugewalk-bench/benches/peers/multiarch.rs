//! What `page_table_multiarch` asks of whoever uses it: tables, and where they lie.

use std::alloc::{Layout, alloc, dealloc};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use memory_addr::{PhysAddr, VirtAddr};
use page_table_multiarch::PagingHandler;

/// Bytes of a table.
const TABLE: usize = 4096;

/// Where the table with the physical address 0 would lie. The trait's functions have no `self`, so this is a global; reading it is
/// a plain load.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// Tables of the heap, as seen from [`BASE`].
pub(crate) struct Handler;

impl Handler {
    /// Sets the base for all that is done from here on. Tables that were allocated before must not be used any more.
    pub(crate) fn set_base(base: usize) {
        BASE.store(base, Relaxed);
    }
}

fn layout(number: usize, align: usize) -> Option<Layout> {
    Layout::from_size_align(number * TABLE, align.max(TABLE)).ok()
}

impl PagingHandler for Handler {
    fn alloc_frames(number: usize, align: usize) -> Option<PhysAddr> {
        // SAFETY: at least one table.
        let tables = unsafe { alloc(layout(number, align)?) };
        (!tables.is_null())
            .then(|| PhysAddr::from(tables.expose_provenance().wrapping_sub(BASE.load(Relaxed))))
    }

    fn dealloc_frames(address: PhysAddr, number: usize) {
        let Some(layout) = layout(number, TABLE) else { return };
        let tables = std::ptr::with_exposed_provenance_mut(Self::phys_to_virt(address).as_usize());
        // SAFETY: these are tables of `alloc_frames`, which were aligned to one table.
        unsafe { dealloc(tables, layout) };
    }

    #[inline]
    fn phys_to_virt(address: PhysAddr) -> VirtAddr {
        VirtAddr::from(address.as_usize().wrapping_add(BASE.load(Relaxed)))
    }
}
