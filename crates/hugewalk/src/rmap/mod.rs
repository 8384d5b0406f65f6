//! Reverse mapping: from a page to the entries that map it, and what is done to all of them at once.
//!
//! # From a page to its place
//!
//! A page belongs to one place, a (file, index), from its first use to its last: a page of a page cache to where it lies
//! there; a private copy to the place in the file that it was copied for, since whatever splits, moves or forks a
//! mapping keeps the offset that each page is mapped at. All huge-page mappings, private ones too, are in the tree of
//! their file. So rmap needs no second kind of tree (Linux: `anon_vma`): it walks the file's tree for the index, and
//! looks which of the entries there map this very page.
//!
//! The page's record notes its place, `Owner` in [`page`](crate::page): a pointer to the file, and the index.
//!
//! - A page in a cache must not keep its file alive: the file keeps the page. The note is cleared when the page leaves the
//!   cache, also when the file goes.
//! - A private page does keep it: it may outlive every mapping of the file, held by a pin.
//!
//! Who comes from a frame first takes a reference to the page, if it is in use, and then reads the note under the page's
//! *owner lock* (a spinning lock, spread over by frame), and under that lock takes a reference to the file, unless the
//! last one is gone already. The file's drop clears the notes of its pages under the same locks before its memory goes;
//! so the memory that the note leads to is there as long as the lock is held.
//!
//! # The page lock
//!
//! Linux has one in each page. Here the fault mutex of the page's place is what excludes: a fault that maps or copies a
//! page holds it, and so does who takes the page out of the file, writes to it from the file's side, or moves it. It is
//! taken first of all, then the note is read again. So the order is that of [`walk`](crate::walk), fault mutex, VMA lock,
//! `i_mmap`, table lock, and there is no lock that is taken after `i_mmap` here and before it there (scenario S27).
//!
//! With the fault mutex and `i_mmap` in write, what can still happen to the entries at that index is this:
//!
//! - a processor sets accessed and dirty bits: entries are exchanged by compare-and-swap;
//! - fork copies entries of a private mapping, with both tables locked: from one that was not visited yet to one that was.
//!   So whoever takes a page out of all entries goes round until its mapcount is zero.
//! - GUP takes references and pins: under the table lock, or without one and then looks at the entry again.
//!
//! # VMA locks
//!
//! Entries change under the table lock; the VMA lock is needed to unshare. With `i_mmap` held it may only be tried. What
//! finds it busy goes on to the other users of the table, for the last one that is left works in place and needs no VMA
//! lock. Where that does not help it backs off: lets `i_mmap` go, waits for the VMA lock (which comes after the fault mutex
//! it holds), and starts over; the VMA may have left the tree by then (scenario S21). After some rounds of that it stops
//! being polite: it changes the entry in place, in the table that is still shared, and flushes every address space that
//! uses the table, which it knows since `i_mmap` in write holds off sharing and unsharing.
//!
//! Linux: mm/rmap.c, mm/page_vma_mapped.c, mm/migrate.c, mm/memory-failure.c.

mod displace;
mod failure;
mod migrate;
mod owner;
mod walk;

use thiserror::Error;

use crate::addr::{HugeFrame, HugeSize, PAGE_SIZE};
use crate::error::{Errno, WrongSystem};
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::page::{NotHeld, PageRef, Speculative};
use crate::platform::Platform;
use crate::pool::PoolEmpty;
use crate::sync::{Arc, SleepLockGuard};
use crate::task::Task;

pub use self::failure::Recovery;

/// Why an operation on a page failed. Unless the variant says otherwise, nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PageError {
    /// No pool has a page there.
    #[error("there is no huge page at {frame:?}")]
    NoHugePage {
        /// The frame.
        frame: HugeFrame,
    },
    /// Nobody uses the page.
    #[error("nobody uses the page")]
    NotInUse,
    /// Somebody holds the page, by a pin for example. Memory failure has taken it out of all mappings even so, and
    /// the pool loses it when they let go.
    #[error("others hold {references} references to the page")]
    Held {
        /// References besides those of mappings and the page cache, at that moment.
        references: u64,
    },
    /// The page is on its way into use or out of it. Try again.
    #[error("the page is on its way into use, or out of it")]
    OnItsWay,
    /// The page has no copy but this one: it belongs to private mappings.
    #[error("the page belongs to private mappings, and there is no other copy of it")]
    Private,
    /// Memory failure hit the page before.
    #[error("memory failure has hit the page")]
    Hwpoison,
    /// Memory failure never hit the page.
    #[error("memory failure has not hit the page")]
    Sound,
    /// The page is free, but every free page is reserved. It will never be allocated, and leaves
    /// the pool when a reservation is given back.
    #[error("every free page is reserved")]
    Reserved,
    /// The pool has no page to move it to.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// The task belongs to another system than the page.
    #[error(transparent)]
    WrongSystem(#[from] WrongSystem),
}

impl PageError {
    /// The number that Linux returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoHugePage { .. } => Errno::ENXIO,
            Self::NotInUse => Errno::ENOENT,
            Self::Held { .. } | Self::Sound | Self::Reserved => Errno::EBUSY,
            Self::OnItsWay => Errno::EAGAIN,
            Self::Private | Self::WrongSystem(_) => Errno::EINVAL,
            Self::Hwpoison => Errno::EHWPOISON,
            Self::PoolEmpty(_) => Errno::ENOMEM,
        }
    }
}

/// A page in use, with the fault mutex of its place: what the page lock is in Linux.
///
/// # Invariants
///
/// `mutex` is the fault mutex of `index` of `file`, and the page has belonged there since it was taken.
pub(crate) struct LockedPage<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    page: PageRef<'h, P>,
    file: Arc<HugeFile<P>>,
    index: u64,
    _mutex: SleepLockGuard<'h, P>,
}

impl<P: Platform> LockedPage<'_, P> {
    /// The references that mappings do not account for: ours, and the page cache's.
    fn own_references(&self) -> u64 {
        1 + u64::from(!self.page.page().is_anon())
    }
}

impl<P: Platform> Hugetlb<P> {
    /// The huge page that has this frame somewhere in it, and its size.
    fn huge_page_at(&self, frame: HugeFrame) -> Result<(HugeFrame, HugeSize), PageError> {
        let head_of = |size: HugeSize| {
            let head = HugeFrame(frame.0 & !((size.bytes() >> PAGE_SIZE.trailing_zeros()) - 1));
            // Of a platform that serves two systems, the other one may have the page.
            let ours = self.platform().has_page_record(head)
                && self.page(head).pooled() == Some(size)
                && self.page(head).is_of(self);
            ours.then_some((head, size))
        };
        HugeSize::ALL.into_iter().find_map(head_of).ok_or(PageError::NoHugePage { frame })
    }

    /// A reference to the page that has this frame somewhere in it, if it is in use.
    fn hold_named(&self, frame: HugeFrame) -> Result<PageRef<'_, P>, PageError> {
        let (head, _) = self.huge_page_at(frame)?;
        let page = Speculative::take(self, head, false).map_err(|not_held| match not_held {
            NotHeld::Free => PageError::NotInUse,
            NotHeld::Crowded => PageError::Held { references: self.page(head).references() },
        })?;
        // Between the look and the reference it may have gone to the host, and come to another pool, or to another system.
        // While it is held it stays what it is; but a smaller page at the same place need not have the frame in it.
        let page = page.into_page();
        if page.page().is_of(self) && frame.0 - head.0 < page.size().bytes() >> PAGE_SIZE.trailing_zeros() {
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
            // Taken out of its file, and held by pins alone.
            return Err(PageError::Held { references: page.page().references() - 1 });
        };
        let mutex = self.fault_mutex(task, file.id(), index);
        // It cannot belong elsewhere while it is held; but it may have left its file.
        if self.owner_of(&page).is_none() {
            return Err(PageError::NotInUse);
        }
        // INVARIANT: taken above, and looked at again since.
        Ok(LockedPage { hugetlb: self, page, file, index, _mutex: mutex })
    }
}
