//! Table pages, and the format of what is in them.

use core::ptr::NonNull;

use super::TableRecord;
use crate::addr::TableFrame;
use crate::arch::Paging;
use crate::sync::Barriers;

/// Table pages. Linux: `pte_alloc_one()` and its like, `struct ptdesc`.
///
/// # Safety
///
/// - A frame that [`alloc_table`](Self::alloc_table) returned belongs to the caller alone until
///   [`free_table`](Self::free_table), and so does its record.
/// - It fits into an entry: its number is below [`FRAMES`](crate::addr::FRAMES). Frame 0 is a valid frame.
/// - The entries of a table that [`alloc_table`](Self::alloc_table) returned are zero.
/// - For an allocated frame, [`table_entries`](Self::table_entries) and
///   [`table_record`](Self::table_record) always return the same pointer. The memory there overlaps
///   nothing else, and stays mapped as long as the platform exists. A table page has room for all entries that a table of
///   the format can have. They are aligned to a table page where a processor walks them, and to a
///   [`Word`](crate::sync::Word) elsewhere.
pub unsafe trait Tables: Barriers {
    /// The format of the tables.
    type Paging: Paging;

    /// The format of the tables: how many levels, and what the processors have of what is optional. Asked once by each
    /// system; the answer is always the same.
    fn paging(&self) -> Self::Paging;

    /// Allocates a table page whose entries are all zero. `None` if there is no memory.
    ///
    /// May sleep, to reclaim memory for example. Called with sleeping locks held, up to the VMA lock in read or `i_mmap` in
    /// read, and a fault mutex: what it waits for must not need one of them. Never called with a spinning lock held or in a read
    /// section.
    ///
    /// Linux: `pte_alloc_one()` and its like, with `GFP_PGTABLE_USER`.
    fn alloc_table(&self) -> Option<TableFrame>;

    /// Takes a table page back. The embedder's entries of a root are as it left them. Does
    /// not sleep.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_table`](Self::alloc_table), and neither a processor nor a walker reaches it any more.
    unsafe fn free_table(&self, frame: TableFrame);

    /// Called once for each address space, with its new root table, before anything reaches the
    /// table. A kernel copies its own half of the address space here. It may write entries of addresses above
    /// [`Paging::task_size`] and no others. Does nothing by default.
    ///
    /// # Safety
    ///
    /// `root` came from [`alloc_table`](Self::alloc_table), and nothing reaches it yet.
    unsafe fn init_root(&self, root: TableFrame) {
        let _ = root;
    }

    /// The first entry of a table page.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_table`](Self::alloc_table) and was not given back. (A lockless
    /// lookup calls this inside a read section, before it knows whether the table is still part of
    /// the tree. P1 keeps the table allocated.)
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<Self::Word>;

    /// One entry of a table page, `index` entries after [`table_entries`](Self::table_entries),
    /// which is what it returns by default.
    ///
    /// A walk waits for the frame at every level, and knows the index long before. A host whose
    /// table pages lie in one range adds the index to the start of the range first, so that one
    /// addition less is waited for.
    ///
    /// # Safety
    ///
    /// As for [`table_entries`](Self::table_entries). A table page has more than `index` entries.
    #[inline]
    unsafe fn table_entry(&self, frame: TableFrame, index: usize) -> NonNull<Self::Word> {
        // SAFETY: passed on to the caller.
        let entries = unsafe { self.table_entries(frame) };
        // SAFETY: by the contract of this function the element lies inside the table page.
        unsafe { entries.add(index) }
    }

    /// Room for the record of a table page: uninitialised until the engine writes it.
    ///
    /// # Safety
    ///
    /// As for [`table_entries`](Self::table_entries).
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord>;
}
