//! Reverse mapping: finds the entries that map a page, and changes all of them.
//!
//! # From a page to its place
//!
//! A page belongs to one place, a (file, index), from its first use to its last:
//!
//! - a page of a page cache, to its place in the file;
//! - a private copy, to the place in the file that it was copied for. Splitting, moving or forking
//!   a mapping keeps the offset at which each page is mapped.
//!
//! All mappings of huge pages, private ones too, are in the tree of their file. So rmap needs no
//! second kind of tree (Linux: `anon_vma`). It walks the file's tree for the index, and checks
//! which of the entries there map this page.
//!
//! The page's record notes its place, `Owner` in [`page`](crate::page): a pointer to the file, and
//! the index.
//!
//! - A page in a cache must not keep its file alive, since the file keeps the page. The note is
//!   cleared when the page leaves the cache, and when the file is dropped.
//! - A private page does keep its file alive: a pin may hold the page longer than every mapping of
//!   the file.
//!
//! A caller that comes from a frame first takes a reference to the page, if the page is in use.
//! Then it reads the note under the page's *owner lock*, a spinning lock that several frames share.
//! Under that lock it takes a reference to the file, unless the last one is gone already. Dropping
//! a file clears the notes of its pages under the same locks before it frees its own memory. So the
//! file's memory exists as long as the owner lock is held.
//!
//! # The page lock
//!
//! Linux has one lock in each page. Here the fault mutex of the page's place excludes the same
//! operations: a fault that maps or copies the page holds it, and so does a caller that takes the
//! page out of its file, writes to it through the file, or moves it.
//!
//! The fault mutex is taken first, and the note is read again under it. So the lock order is that
//! of [`walk`](crate::walk): fault mutex, VMA lock, `i_mmap`, table lock. In Linux the page lock
//! comes after `i_mmap` for huge pages and before it for others. Here no lock is taken both before
//! and after `i_mmap`, so no two operations can wait for each other.
//!
//! With the fault mutex and `i_mmap` in write, the entries at that index can still change in these
//! ways:
//!
//! - A processor sets accessed and dirty bits. So entries are exchanged by compare-and-swap.
//! - fork copies entries of a private mapping, with both tables locked. The copy's mapping lies
//!   right behind the original's in the file's tree, and is there before anything is copied into
//!   it. So a walk finds an entry in the original, or comes to its copy later.
//! - An entry is taken out, and its page counts as mapped until that has been flushed. So an
//!   operation that takes a page out of all entries repeats until the mapcount is zero.
//! - GUP takes references and pins. It does so under the table lock, or without a lock and then
//!   rechecks the entry.
//!
//! # VMA locks
//!
//! Entries change under the table lock. Unsharing needs the VMA lock as well, which may only be
//! tried while `i_mmap` is held. If it is busy:
//!
//! 1. The operation goes on to the other users of the table. The last one that is left needs no
//!    unsharing: its entry is changed in place.
//! 2. If that does not help, the operation backs off. It releases `i_mmap`, waits for the VMA lock
//!    (which comes after the fault mutex in the lock order), and starts over. munmap may have
//!    removed the VMA from the tree by then.
//! 3. After some rounds it changes the entry in the table that is still shared, and flushes every
//!    address space that uses the table. It knows all of them, since `i_mmap` in write keeps tables
//!    from being shared and unshared.
//!
//! Linux: mm/rmap.c, mm/page_vma_mapped.c, mm/migrate.c, mm/memory-failure.c.

mod displace;
mod failure;
mod migrate;
mod owner;
mod walk;

use crate::addr::{HugeFrame, HugeSize};
pub use crate::error::PageError;
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::page::{NotHeld, PageRef, Speculative};
use crate::platform::Platform;
use crate::sleep::SleepLockGuard;
use crate::sync::Arc;
use crate::task::Task;

pub use self::failure::Recovery;

/// A page in use, with the fault mutex of its place held. Linux: a locked folio.
///
/// # Invariants
///
/// `mutex` is the fault mutex of `index` of `file`, and the page has belonged to that place since
/// the mutex was taken.
pub(crate) struct LockedPage<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    page: PageRef<'h, P>,
    file: Arc<HugeFile<P>>,
    index: u64,
    _mutex: SleepLockGuard<'h, P>,
}

impl<P: Platform> LockedPage<'_, P> {
    /// The references that do not belong to mappings: this value's, and the page cache's.
    fn own_references(&self) -> u64 {
        1 + u64::from(!self.page.page().is_anon())
    }
}

impl<P: Platform> Hugetlb<P> {
    /// The huge page that contains this frame, and its size.
    fn huge_page_at(&self, frame: HugeFrame) -> Result<(HugeFrame, HugeSize), PageError> {
        let head_of = |size: HugeSize| {
            let head = size.page_around(frame);
            // If the platform serves two systems, the page may belong to the other one.
            let ours = self.platform().has_page_record(head)
                && self.page(head).pooled() == Some(size)
                && self.page(head).is_of(self);
            ours.then_some((head, size))
        };
        self.sizes().find_map(head_of).ok_or(PageError::NoHugePage { frame })
    }

    /// Takes a reference to the page that contains this frame, if the page is in use.
    fn hold_named(&self, frame: HugeFrame) -> Result<PageRef<'_, P>, PageError> {
        let (head, _) = self.huge_page_at(frame)?;
        let page = Speculative::take(self, head, false).map_err(|not_held| match not_held {
            NotHeld::Free => PageError::NotInUse,
            NotHeld::Crowded => PageError::Held { references: self.page(head).references() },
        })?;
        // Before the reference was taken, the page may have gone to the host, and from there to
        // another pool or another system. Now that it is held it cannot; but a smaller page at the
        // same place may not contain the frame.
        let page = page.into_page();
        if page.page().is_of(self) && frame.0 - head.0 < page.size().frames() {
            Ok(page)
        } else {
            Err(PageError::OnItsWay)
        }
    }

    /// Locks a page that is in use. Sleeps.
    ///
    /// Takes the fault mutex of its place.
    fn lock_page(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<LockedPage<'_, P>, PageError> {
        task.enter(self)?;
        let page = self.hold_named(frame)?;
        if !page.page().is_in_use() {
            return Err(PageError::OnItsWay);
        }
        let Some((file, index)) = self.owner_of(&page) else {
            // It was taken out of its file, and only pins hold it.
            return Err(PageError::Held { references: page.page().references() - 1 });
        };
        let mutex = self.fault_mutex(task, file.id(), index);
        // A page that is held cannot move to another place, but it may have left its file.
        if self.owner_of(&page).is_none() {
            return Err(PageError::NotInUse);
        }
        // INVARIANT: the mutex was taken above, and the place was rechecked after that.
        Ok(LockedPage { hugetlb: self, page, file, index, _mutex: mutex })
    }
}
