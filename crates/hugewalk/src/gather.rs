//! What a run of unmaps still has to do: flush TLBs, put pages, free tables.
//!
//! # Protocol
//!
//! Three steps, in this order:
//!
//! - an entry is cleared under the table lock,
//! - the TLB is flushed,
//! - the reference to the page is put, and the table is handed to RCU.
//!
//! A gather collects the second and the third for many entries, so that one flush serves a batch. It
//! borrows the `i_mmap` lock in write, so that the lock cannot be released before the flush: a process that
//! then takes the lock could free the pages while stale translations still reach them (CVE-2021-4002).
//! Dropping a gather finishes it.
//!
//! A flush that unwinds may have flushed nothing. What was to be freed after it is then leaked when the
//! gather is dropped: see [`platform`](crate::platform) on callbacks that unwind.
//!
//! Secondary MMUs are told of the change before the first entry is cleared, and of its end after the last flush: see
//! [`Notify`](crate::platform::Notify#secondary-mmus).
//!
//! If there is no memory for its list, a batch is limited to the entries that need none. Retired tables are
//! linked through their own records and never need memory.
//!
//! Linux: `struct mmu_gather` in include/asm-generic/tlb.h.

mod announce;

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr;

use crate::addr::{HugeFrame, HugeSize, VirtAddr};
use crate::file::{FileProof, HugeFile, IMmapWriteGuard};
use crate::notice::Notice;
use crate::page::PutBatch;
use crate::platform::{Event, Flush, Platform};
use crate::protocol::{Step, keeps};
use crate::reserve::{PrivateReserve, Room};
use crate::root::Mm;
use crate::sync::Arc;
use crate::table::{Retired, TableRef};
use crate::vma::Vma;

/// Pages a batch holds without memory of its own.
const INLINE: usize = 8;
/// Pages a batch holds at most.
const BATCH: usize = 512;

/// A page that was unmapped. Its mapping and its reference are given up after the flush.
#[derive(Clone, Copy)]
struct Unmapped {
    frame: HugeFrame,
    /// If this was the last reference, the page goes back to the pool with its reservation.
    reserved: bool,
}

/// Flushes and frees that are still to be done. Linux: `struct mmu_gather`.
///
/// Dropping it does them. It does not sleep.
#[must_use = "dropping a gather at once flushes nothing of what comes later"]
pub struct Gather<'g, P: Platform> {
    mm: &'g Mm<P>,
    /// The lock that must not be released before the flush.
    i_mmap: Option<&'g IMmapWriteGuard<'g, P>>,
    size: HugeSize,
    /// What has to be flushed. Empty only after a flush that has returned.
    range: Option<Range<VirtAddr>>,
    /// Did a table go since the last flush?
    tables: bool,
    /// Are there base pages of the host's in it?
    base_pages: bool,
    /// A flush is under way, or has unwound.
    unflushed: bool,
    inline: [Unmapped; INLINE],
    inline_len: usize,
    more: Vec<Unmapped>,
    /// Leaves that were cleared, and are not yet counted as gone.
    cleared: u64,
    /// The reservation that pages go back to.
    reserve: Option<Arc<PrivateReserve<P>>>,
    retired: Retired,
    unshared: u64,
    last: u64,
    /// Secondary MMUs know what changes. Dropped last: they are told of the end after the flush.
    notice: Option<Notice<'g, P>>,
}

impl<'g, P: Platform> Gather<'g, P> {
    /// Calls `work` with an empty gather for `mm`, and finishes the gather before it returns, while
    /// `i_mmap` is still held. Does not sleep by itself.
    ///
    /// The gather is only lent to `work`: one that was given away could be forgotten, and would then flush
    /// nothing.
    ///
    /// `i_mmap` is borrowed mutably because its holder may unshare in here: no slot that was found under it
    /// survives. [`vmas`](Gather::vmas) lends out the VMAs of the file meanwhile.
    pub fn scope<R>(
        mm: &Mm<P>,
        i_mmap: &mut IMmapWriteGuard<'_, P>,
        work: impl FnOnce(&mut Gather<'_, P>) -> R,
    ) -> R {
        let mut gather = Gather::new(mm, i_mmap);
        let result = work(&mut gather);
        gather.finish();
        result
    }

    /// The VMAs that map any of these offsets (in huge pages) of the file whose `i_mmap` is held, for
    /// callers that unshare. Unsharing borrows the gather mutably, so no slot that was found in one of
    /// these VMAs survives it.
    ///
    /// ```compile_fail,E0502
    /// # use hugewalk::{Task, addr::VirtAddr, gather::Gather, platform::Platform, vma::VmaWriteGuard};
    /// # use hugewalk::{share::huge_pmd_unshare, walk::huge_pte_offset};
    /// # fn f<P: Platform>(vma: &mut VmaWriteGuard<'_, P>, at: VirtAddr, gather: &mut Gather<'_, P>, task: &Task<P>) {
    /// let proof = gather.vmas(0..1).next().unwrap();
    /// let slot = huge_pte_offset(&proof, proof.vma().mm(), at, proof.vma().size());
    /// let _ = huge_pmd_unshare(vma, at, gather, task);
    /// drop(slot);
    /// # }
    /// ```
    pub fn vmas(&self, offsets: Range<u64>) -> impl Iterator<Item = FileProof<'_, P>> {
        self.i_mmap.into_iter().flat_map(move |i_mmap| i_mmap.vmas(offsets.clone()))
    }

    /// An empty gather for `mm`, to be finished before `i_mmap` is released. Borrows `i_mmap` mutably, so
    /// no slot that was found under it is left.
    pub(crate) fn new(mm: &'g Mm<P>, i_mmap: &'g mut IMmapWriteGuard<'_, P>) -> Self {
        Self::on_file_side(mm, i_mmap)
    }

    /// As [`new`](Self::new), for walks over the VMAs of a file. They go on with `i_mmap` as the proof that
    /// keeps each VMA. The caller does not use a slot of a table again once it has unshared that table.
    pub(crate) fn on_file_side(mm: &'g Mm<P>, i_mmap: &'g IMmapWriteGuard<'_, P>) -> Self {
        let mut gather = Self::without_i_mmap(mm, i_mmap.file().size_class());
        gather.i_mmap = Some(i_mmap);
        gather
    }

    /// For tables whose VMAs are in no file's tree any more, under the mmap lock in write.
    pub(crate) fn without_i_mmap(mm: &'g Mm<P>, size: HugeSize) -> Self {
        Self {
            mm,
            i_mmap: None,
            size,
            range: None,
            tables: false,
            base_pages: false,
            unflushed: false,
            inline: [Unmapped { frame: HugeFrame(0), reserved: false }; INLINE],
            inline_len: 0,
            more: Vec::new(),
            cleared: 0,
            reserve: None,
            retired: Retired::new(),
            unshared: 0,
            last: 0,
            notice: None,
        }
    }

    /// The address space that it flushes.
    pub(crate) fn mm(&self) -> &'g Mm<P> {
        self.mm
    }

    /// Does it flush the address space of `vma`, and keep `i_mmap` of the file of `vma` until then?
    pub(crate) fn is_for(&self, vma: &Vma<P>) -> bool {
        ptr::eq::<Mm<P>>(self.mm, &raw const **vma.mm())
            && self
                .i_mmap
                .is_some_and(|i_mmap| ptr::eq::<HugeFile<P>>(i_mmap.file(), &raw const **vma.file()))
    }

    /// A translation in `range` was taken away or narrowed.
    pub(crate) fn changed(&mut self, range: Range<VirtAddr>) {
        debug_assert!(self.is_announced(&range), "{range:?} changes, and nobody was told");
        self.range = Some(match self.range.take() {
            None => range,
            Some(so_far) => so_far.start.min(range.start)..so_far.end.max(range.end),
        });
    }

    /// A table of the host's, for `block`, was taken away, or the host has changed entries of one.
    pub(crate) fn changed_by_host(&mut self, block: Range<VirtAddr>) {
        self.changed(block);
        (self.tables, self.base_pages) = (true, true);
    }

    /// The leaf at `address` was cleared. It held a mapping of the page and a reference, which are given up
    /// after the flush.
    pub(crate) fn unmapped(&mut self, address: VirtAddr, frame: HugeFrame) {
        self.add(address, Unmapped { frame, reserved: false });
    }

    /// As [`unmapped`](Self::unmapped), for a private page of the mapping that owns `reserve`. If there is
    /// no other reference, the page goes back to the pool as a reserved one. So the next touch finds a
    /// page, whatever others allocate meanwhile.
    ///
    /// The caller holds the lock of `reserve` in write until the gather is finished.
    pub(crate) fn unmapped_reserved(
        &mut self,
        address: VirtAddr,
        frame: HugeFrame,
        reserve: &Arc<PrivateReserve<P>>,
    ) {
        if !self.reserve.as_ref().is_some_and(|known| Arc::ptr_eq(known, reserve)) {
            self.flush_with(Room::AsItIs);
            self.reserve = Some(reserve.clone());
        }
        self.add(address, Unmapped { frame, reserved: true });
    }

    fn add(&mut self, address: VirtAddr, page: Unmapped) {
        self.changed(address..address.plus(self.size.bytes()));
        self.cleared += 1;
        if let Some(place) = self.inline.get_mut(self.inline_len) {
            *place = page;
            self.inline_len += 1;
        } else if self.more.len() < self.more.capacity() {
            self.more.push(page);
        } else {
            // There is no room, and with a table lock held nothing is allocated.
            self.flush_with(Room::AsItIs);
            // The flush covered this page too.
            let restore = restore(self.reserve.as_ref(), Room::AsItIs);
            let mut batch = PutBatch::new(self.mm.hugetlb(), self.size, restore);
            self.put(page, &mut batch);
            batch.finish();
        }
    }

    /// Is there room for one more page?
    pub(crate) fn has_room(&self) -> bool {
        self.inline_len < INLINE || self.more.len() < self.more.capacity()
    }

    /// Makes room for one more page, before its table is locked: under that lock nothing is allocated or
    /// freed. If there is no memory, it flushes instead.
    pub(crate) fn make_room(&mut self) {
        if self.has_room() {
            return;
        }
        let more = self.more.len().max(BATCH / 8);
        if self.more.len() >= BATCH || self.more.try_reserve(more).is_err() {
            self.flush();
        }
    }

    /// A table was unshared, so the whole of its range has to be flushed. `users` address spaces still use
    /// it.
    pub(crate) fn unshared(&mut self, address: VirtAddr, users: u64) {
        let table = self.mm.geometry().table_range(address, self.size.level());
        let start = table.start;
        self.tables = true;
        if keeps::<P>(Step::FlushWholeTable) {
            self.changed(table);
        } else {
            self.changed(address..address.plus(self.size.bytes()));
        }
        self.unshared += 1;
        self.last += u64::from(users == 1);
        self.mm.hugetlb().platform().trace(Event::Unshared { mm: self.mm.id(), address: start, users });
    }

    /// A table that covered `range` was detached by its last user.
    ///
    /// # Safety
    ///
    /// As for [`Retired::push`].
    pub(crate) unsafe fn retire(&mut self, range: Range<VirtAddr>, table: TableRef<'_, P>) {
        self.changed(range);
        self.tables = true;
        // SAFETY: passed on to the caller.
        unsafe { self.retired.push(self.mm.hugetlb(), table) };
    }

    /// Flushes, by `flush`, what other address spaces hold of the same entries, before the pages behind
    /// them are put.
    pub(crate) fn flush_others(&mut self, flush: impl FnOnce()) {
        self.unflushed = true;
        flush();
        self.unflushed = false;
    }

    /// Flushes, and gives up the pages and tables collected so far. Does not sleep.
    pub(crate) fn flush(&mut self) {
        self.flush_with(Room::MayGrow);
    }

    fn flush_with(&mut self, room: Room) {
        let hugetlb = self.mm.hugetlb();
        let cleared = core::mem::take(&mut self.cleared);
        if cleared > 0 {
            // Once for all of them: a thread that faults meanwhile counts in the same word.
            self.mm.sub_resident(self.size, cleared);
        }
        if let Some(range) = self.range.clone() {
            self.unflushed = true;
            if !keeps::<P>(Step::NotifyEndLast) {
                self.notice = None;
            }
            let flush = || {
                if keeps::<P>(Step::Flush) {
                    let tables = self.tables && keeps::<P>(Step::FlushTables);
                    let stride = if self.base_pages { self.mm.base_page() } else { self.size.member_bytes() };
                    let flush = Flush { range, stride, tables };
                    hugetlb.platform().flush_tlb(self.mm.context(), flush);
                }
                let (mm, unshared, last) = (self.mm.id(), self.unshared, self.last);
                hugetlb.platform().trace(Event::Flushed { mm, unshared, last });
            };
            match self.i_mmap {
                Some(i_mmap) => i_mmap.flush(flush),
                None => flush(),
            }
            (self.range, self.tables, self.unflushed) = (None, false, false);
            self.base_pages = false;
        }
        (self.unshared, self.last) = (0, 0);
        if self.inline_len > 0 || !self.more.is_empty() {
            self.put_all(room);
        }
        self.retired.free_after_grace_period(hugetlb, self.mm.id());
    }

    /// Puts the pages collected so far. They have been flushed.
    fn put_all(&mut self, room: Room) {
        // Taken out of the list before it is put: a platform that unwinds while it takes a page back must
        // not get it twice.
        let (inline, inline_len) = (self.inline, core::mem::take(&mut self.inline_len));
        let restore = restore(self.reserve.as_ref(), room);
        let mut batch = PutBatch::new(self.mm.hugetlb(), self.size, restore);
        for page in inline.into_iter().take(inline_len) {
            self.put(page, &mut batch);
        }
        // If that unwinds, the others are still in their list.
        batch.flush();
        let mut more = core::mem::take(&mut self.more);
        for page in more.drain(..) {
            self.put(page, &mut batch);
        }
        batch.finish();
        // Keeps its capacity: a table may be locked, and nothing is freed under that lock either.
        self.more = more;
    }

    /// Flushes, and gives up everything. Does not sleep.
    pub(crate) fn finish(self) {
        drop(self);
    }

    /// Leaks what was to be freed. Processors may still reach the pages, and the tables below others, so
    /// none of them is ever freed.
    #[cold]
    fn leak(&mut self) {
        let pages = self.inline.iter().take(self.inline_len).chain(&self.more);
        for page in pages.map(|page| self.mm.hugetlb().page(page.frame)) {
            // The reference stays. The mapping of a private page stays too: a fault that finds such a page
            // mapped once would take it for its own. A file's page is not taken over like that, and
            // truncation waits until it is not mapped.
            if !page.is_anon() {
                page.remove_mapping();
            }
        }
        // What is left of the gather owns nothing: the tables' records are not freed with their list.
    }

    fn put(
        &self,
        Unmapped { frame, reserved }: Unmapped,
        batch: &mut PutBatch<'_, P, impl FnMut(Range<u64>) -> bool>,
    ) {
        // Only after the flush. A fault that finds the page mapped once takes it for its own and writes to
        // it, while a processor of this address space could still read it.
        self.mm.hugetlb().page(frame).remove_mapping();
        batch.put(frame, reserved);
    }
}

/// Restores reservations of a private mapping, if there is one that has some.
fn restore<P: Platform>(
    reserve: Option<&Arc<PrivateReserve<P>>>,
    room: Room,
) -> impl FnMut(Range<u64>) -> bool {
    move |indices| reserve.is_some_and(|reserve| reserve.restore(indices, room))
}

impl<P: Platform> Drop for Gather<'_, P> {
    fn drop(&mut self) {
        let last = Last(self);
        if !last.0.unflushed {
            last.0.flush();
        }
    }
}

/// Runs at the end of a gather, also if the last flush unwinds.
struct Last<'l, 'g, P: Platform>(&'l mut Gather<'g, P>);

impl<P: Platform> Drop for Last<'_, '_, P> {
    fn drop(&mut self) {
        if self.0.unflushed {
            self.0.leak();
        }
    }
}
