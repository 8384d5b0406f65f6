//! Faulting pages in by the table: before they are touched, and many at once.
//!
//! # Protocol
//!
//! A run is a few pages side by side, in one table, of which none is mapped. It takes the locks of a [fault](super), in the same
//! order: the mmap lock in read, the fault mutex of each page, the VMA lock in read, the table lock.
//!
//! - It tries the fault mutexes, and ends before the first page whose mutex is busy. So it waits for none while it holds
//!   others.
//! - With the mutexes held it looks whether anything is mapped. A fault that came first has finished by then. So
//!   each page is taken from the pool once, and each reservation used once.
//! - It finds the pages in the file, or takes fresh ones and fills them. It holds no VMA lock meanwhile. Before a fresh page goes into the
//!   file, the tables are made: without memory for them the file stays as it was.
//! - It takes the VMA lock, walks, locks the table, and maps a page where the entry is empty still. The
//!   entry may have come with a table that is shared now.
//!
//! Whatever else there is to do is left to faults: a page to be copied, a handler to be asked, an error to be reported.
//!
//! Linux has no such thing for huge pages. `do_fault_around()` in mm/memory.c maps base pages that are in the page cache.

use core::ops::Range;

use crate::addr::VirtAddr;
use crate::arch::Entry;
use crate::entries::{Install, install_run};
use crate::hugetlb::{FaultMutexes, RUN};
use crate::page::PageRef;
use crate::platform::Platform;
use crate::protocol::{Step, keeps};
use crate::reserve::{NewPage, NewRun};
use crate::root::Mm;
use crate::share::huge_pte_alloc;
use crate::space::AddressSpace;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{Access, MmapLocked, Vma};
use crate::walk::huge_pte_offset;

use super::allows;

/// How many bytes a run fills at most while it holds fault mutexes.
const BYTES: u64 = 32 << 20;

/// What a run has done.
pub(crate) enum Ahead {
    /// So many pages are mapped now, from the first on.
    Mapped(u64),
    /// Nothing. So many pages, from the first on, are for faults.
    Faults(u64),
}

/// What a run finds at its start.
enum Look {
    /// So many entries are empty.
    Empty(u64),
    /// So many are not.
    Taken(u64),
}

impl<P: Platform> AddressSpace<P> {
    /// Faults in pages at the start of a range, which begins with a page: as many as one run has. Sleeps.
    ///
    /// Takes the mmap lock in read, fault mutexes, the VMA lock in read, `i_mmap` in read to share a table, and table locks.
    pub(crate) fn fault_in_run(&self, task: &mut Task<P>, range: Range<VirtAddr>, access: Access) -> Ahead {
        let mmap = self.mmap_read(task);
        let Some(vma) = mmap.find(range.start) else { return Ahead::Faults(1) };
        if !allows(vma.protection(), access) || vma.userfault().is_some() || vma.is_robbed() {
            return Ahead::Faults(range.end.offset_from(range.start).div_ceil(vma.size().bytes()).max(1));
        }
        Run { mmap: &mmap.held, vma, access }.fault_in(task, range)
    }
}

struct Run<'r, 'm, P: Platform> {
    mmap: &'r MmapLocked<'m, P>,
    vma: &'r Arc<Vma<P>>,
    access: Access,
}

impl<'r, P: Platform> Run<'r, '_, P> {
    fn mm(&self) -> &'r Mm<P> {
        self.vma.mm()
    }

    fn fault_in(&self, task: &mut Task<P>, range: Range<VirtAddr>) -> Ahead {
        let (vma, hugetlb, size) = (self.vma, self.mm().hugetlb(), self.vma.size());
        let in_table = self.mm().geometry().table_range(range.start, size.level()).end;
        let end = range.end.min(in_table).min(vma.end());
        let most = (end.offset_from(range.start) >> size.shift()).min(BYTES >> size.shift()).min(RUN as u64);
        if most <= 1 {
            return Ahead::Faults(1);
        }
        let pages = match self.look(range.start, most, task) {
            Look::Empty(pages) => pages,
            Look::Taken(pages) => return Ahead::Faults(pages),
        };
        let (file, index) = (vma.file(), vma.offset_of(range.start));
        let mut mutexes = FaultMutexes::new(hugetlb);
        let locked = (index..index + pages).take_while(|&index| mutexes.try_add(file.id(), index)).count();
        if locked == 0 {
            return Ahead::Faults(1);
        }
        let mut pages = locked as u64;
        if keeps::<P>(Step::RunLooksAgain) {
            match self.look(range.start, pages, task) {
                Look::Empty(empty) => pages = empty,
                Look::Taken(taken) => return Ahead::Faults(taken),
            }
        }
        let mapped = match file.next_page(&(index..index + pages)) {
            Some(first) if first == index => self.cached(range.start, index, pages, task),
            Some(first) => self.fresh(range.start, index, first - index, task),
            None => self.fresh(range.start, index, pages, task),
        };
        if mapped > 0 { Ahead::Mapped(mapped) } else { Ahead::Faults(1) }
    }

    /// Looks at the entries of a table, `pages` of them.
    fn look(&self, start: VirtAddr, pages: u64, task: &Task<P>) -> Look {
        let (section, size) = (task.rcu_read_lock(), self.vma.size());
        let mut slot = match huge_pte_offset(&section, self.mm(), start, size) {
            Ok(Some(slot)) => slot,
            Ok(None) => return Look::Empty(pages),
            Err(_) => return Look::Taken(pages),
        };
        let mut is_empty = |page: u64| {
            slot.move_to(start.plus(page * size.bytes()));
            matches!(slot.read(), Ok(Entry::None))
        };
        let empty = is_empty(0);
        let alike = 1 + (1..pages).take_while(|&page| is_empty(page) == empty).count() as u64;
        if empty { Look::Empty(alike) } else { Look::Taken(alike) }
    }

    /// Maps pages that the file has.
    fn cached(&self, start: VirtAddr, index: u64, pages: u64, task: &mut Task<P>) -> u64 {
        let vma = self.vma;
        if !vma.is_shared() && self.access == Access::Write {
            return 0;
        }
        let mut found = vma.file().find_run(index, pages as usize);
        let most = found.frames().len() as u64;
        self.install(start, || most, || found.pop(), vma.is_shared(), task)
    }

    /// Maps fresh pages.
    fn fresh(&self, start: VirtAddr, index: u64, pages: u64, task: &mut Task<P>) -> u64 {
        let (vma, file, size) = (self.vma, self.vma.file(), self.vma.size());
        let hugetlb = file.hugetlb();
        let pages = pages.min((file.size() >> size.shift()).saturating_sub(index));
        if pages == 0 {
            return 0;
        }
        if !vma.is_shared() {
            vma.set_anon();
        } else if !self.make_tables(start, task) {
            return 0;
        }
        let run = NewRun::take(hugetlb, size, &vma.reservations(), file.subpool(), index, pages as usize);
        let Some(mut run) = run else { return 0 };
        for &frame in run.frames() {
            // SAFETY: taken above, with this size.
            unsafe { hugetlb.platform().zero_huge(frame, size) };
        }
        if vma.is_shared() {
            let inserted = file.insert_run(index, run.frames());
            let mut pages = run.commit(hugetlb, inserted);
            return self.install(start, || inserted as u64, || pages.pop(), true, task);
        }
        for (index, &frame) in (index..).zip(run.frames()) {
            hugetlb.set_private(frame, file, index);
        }
        let pages = run.frames().len() as u64;
        let within = || file.still_has(index, pages);
        self.install(start, within, || run.pop().map(NewPage::commit), self.access == Access::Write, task)
    }

    /// Makes the tables on the way. A page that comes into the file can be mapped then.
    fn make_tables(&self, start: VirtAddr, task: &mut Task<P>) -> bool {
        let Some(guard) = self.mmap.lock_vma(self.vma, task) else { return false };
        huge_pte_alloc(&guard, self.vma, start, Some(&guard), task).is_ok()
    }

    /// Maps pages where the entries are empty still. Returns how many. What is left of the pages is dropped by the caller, with
    /// the table unlocked.
    fn install<'p>(
        &self,
        start: VirtAddr,
        within: impl FnOnce() -> u64,
        page: impl FnMut() -> Option<PageRef<'p, P>>,
        writable: bool,
        task: &mut Task<P>,
    ) -> u64
    where
        P: 'p,
    {
        let vma = self.vma;
        let Some(guard) = self.mmap.lock_vma(vma, task) else { return 0 };
        let Ok(slot) = huge_pte_alloc(&guard, vma, start, Some(&guard), task) else { return 0 };
        let written = self.access == Access::Write && writable;
        let how = Install { writable, protected: false, written };
        install_run(&slot, (vma, start), within, page, how, task)
    }
}
