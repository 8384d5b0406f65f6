//! What a run of unmaps owes: TLB flushes, references to pages, tables to free.
//!
//! # Protocol
//!
//! An entry is cleared first, under the table lock; then the TLB is flushed; only then is the page's reference given up
//! and the table handed to RCU. A gather collects the middle: one flush for a batch. It borrows the `i_mmap` lock in
//! write, so that the lock cannot be let go before the flush (CVE-2021-4002, scenario S11); dropping the gather is
//! finishing it.
//!
//! A flush that unwinds has flushed nothing that one could rely on. What was to be freed after it is then leaked, when the
//! gather is dropped: see [`platform`](crate::platform) on callbacks that unwind.
//!
//! If memory for its list cannot be had, the batch is as large as the part that needs none. Retired tables are linked
//! through their own records and never need memory (scenario S4).
//!
//! Linux: `struct mmu_gather` in include/asm-generic/tlb.h.

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr;

use crate::addr::{HugeFrame, HugeSize, VirtAddr};
use crate::file::{FileProof, HugeFile, IMmapWriteGuard};
use crate::mm::Mm;
use crate::platform::{Event, Platform, Protocol, Step};
use crate::reserve::{PrivateReserve, Room};
use crate::sync::Arc;
use crate::table::{Retired, TableRef};
use crate::vma::Vma;

/// Pages a batch holds without memory of its own.
const INLINE: usize = 8;
/// Pages a batch holds at most.
const BATCH: usize = 512;

/// A page whose mapping and reference are owed.
#[derive(Clone, Copy)]
struct Owed {
    frame: HugeFrame,
    /// If that was the last reference, the page's promise comes back with it.
    promised: bool,
}

/// Flushes and frees that are owed. Linux: `struct mmu_gather`.
#[must_use = "dropping a gather at once flushes nothing of what comes later"]
pub struct Gather<'g, P: Platform> {
    mm: &'g Mm<P>,
    /// What must not be released before the flush.
    i_mmap: Option<&'g IMmapWriteGuard<'g, P>>,
    size: HugeSize,
    /// What has to be flushed. Empty only after a flush that has returned.
    range: Option<Range<VirtAddr>>,
    /// A flush is under way, or has unwound.
    unflushed: bool,
    inline: [Owed; INLINE],
    inline_len: usize,
    more: Vec<Owed>,
    /// To whom the promises of pages come back.
    reserve: Option<Arc<PrivateReserve<P>>>,
    retired: Retired,
    unshared: u64,
    last: u64,
}

impl<'g, P: Platform> Gather<'g, P> {
    /// Calls `work` with an empty gather for `mm`, and pays what it owes before it returns, while `i_mmap` is still held.
    /// Does not sleep by itself.
    ///
    /// It lends the gather out and never gives it away: a gather that is forgotten would flush nothing.
    ///
    /// `i_mmap` is borrowed mutably because its holder may unshare in here: no slot that was found under it survives.
    /// The VMAs of the file are lent out by [`vmas`](Gather::vmas) meanwhile.
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

    /// The VMAs that map any of these offsets (in huge pages) of the file whose `i_mmap` is held: for those that unshare.
    /// Unsharing borrows the gather mutably, so no slot that was found in one of them survives it.
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

    /// An empty gather for `mm`, to be finished before `i_mmap` is released. No slot that was found under `i_mmap` is left.
    pub(crate) fn new(mm: &'g Mm<P>, i_mmap: &'g mut IMmapWriteGuard<'_, P>) -> Self {
        Self::on_file_side(mm, i_mmap)
    }

    /// As [`new`](Self::new), for walks over the VMAs of a file, which go on with `i_mmap` as the proof that keeps each VMA. The
    /// caller uses no slot of a table again once it has unshared it.
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
            unflushed: false,
            inline: [Owed { frame: HugeFrame(0), promised: false }; INLINE],
            inline_len: 0,
            more: Vec::new(),
            reserve: None,
            retired: Retired::new(),
            unshared: 0,
            last: 0,
        }
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
        self.range = Some(match self.range.take() {
            None => range,
            Some(so_far) => so_far.start.min(range.start)..so_far.end.max(range.end),
        });
    }

    /// The leaf at `address` was cleared; what it held on the page, a mapping and a reference, is owed.
    pub(crate) fn unmapped(&mut self, address: VirtAddr, frame: HugeFrame) {
        self.owe(address, Owed { frame, promised: false });
    }

    /// As [`unmapped`](Self::unmapped), of a private page of the mapping that made these promises. If nobody else holds the
    /// page it goes back to the pool as one that is promised: the next touch finds it, whoever else wants pages. The caller
    /// holds the lock of `reserve` in write until the gather is finished.
    pub(crate) fn unmapped_promised(
        &mut self,
        address: VirtAddr,
        frame: HugeFrame,
        reserve: &Arc<PrivateReserve<P>>,
    ) {
        if !self.reserve.as_ref().is_some_and(|known| Arc::ptr_eq(known, reserve)) {
            self.pay(Room::AsItIs);
            self.reserve = Some(reserve.clone());
        }
        self.owe(address, Owed { frame, promised: true });
    }

    fn owe(&mut self, address: VirtAddr, owed: Owed) {
        self.changed(address..address.plus(self.size.bytes()));
        if let Some(place) = self.inline.get_mut(self.inline_len) {
            *place = owed;
            self.inline_len += 1;
        } else if self.more.len() < self.more.capacity() {
            self.more.push(owed);
        } else {
            // Nobody made room. With a table lock held nothing is allocated.
            self.pay(Room::AsItIs);
            // After the flush nothing else is owed for this page.
            self.put(owed, Room::AsItIs);
        }
    }

    /// Is there room for what one more entry can owe?
    pub(crate) fn has_room(&self) -> bool {
        self.inline_len < INLINE || self.more.len() < self.more.capacity()
    }

    /// Makes room for what one more entry can owe, before its table is locked: under that lock nothing is allocated or freed.
    /// If there is no memory, what is owed so far is paid.
    pub(crate) fn make_room(&mut self) {
        if self.has_room() {
            return;
        }
        let more = self.more.len().max(BATCH / 8);
        if self.more.len() >= BATCH || self.more.try_reserve(more).is_err() {
            self.flush();
        }
    }

    /// A table was unshared: the whole of its range has to be flushed. `users` use it still.
    pub(crate) fn unshared(&mut self, address: VirtAddr, users: u64) {
        if P::Protocol::keeps(Step::FlushWholeTable) {
            self.changed(address.pud_floor()..address.pud_end());
        } else {
            self.changed(address..address.plus(self.size.bytes()));
        }
        self.unshared += 1;
        self.last += u64::from(users == 1);
        self.mm.hugetlb().platform().trace(Event::Unshared {
            mm: self.mm.id(),
            address: address.pud_floor(),
            users,
        });
    }

    /// A table that covered `range` was detached by its last user.
    ///
    /// # Safety
    ///
    /// As for [`Retired::push`].
    pub(crate) unsafe fn retire(&mut self, range: Range<VirtAddr>, table: TableRef<'_, P>) {
        self.changed(range);
        // SAFETY: passed on to the caller.
        unsafe { self.retired.push(self.mm.hugetlb(), table) };
    }

    /// Flushes what other address spaces have of the same entries, by `flush`, before what is owed for them is paid.
    pub(crate) fn flush_others(&mut self, flush: impl FnOnce()) {
        self.unflushed = true;
        flush();
        self.unflushed = false;
    }

    /// Pays what is owed so far. Does not sleep.
    pub(crate) fn flush(&mut self) {
        self.pay(Room::MayGrow);
    }

    fn pay(&mut self, room: Room) {
        let hugetlb = self.mm.hugetlb();
        if let Some(range) = self.range.clone() {
            self.unflushed = true;
            let flush = || {
                if P::Protocol::keeps(Step::Flush) {
                    hugetlb.platform().flush_tlb(self.mm.context(), range);
                }
                let (mm, unshared, last) = (self.mm.id(), self.unshared, self.last);
                hugetlb.platform().trace(Event::Flushed { mm, unshared, last });
            };
            match self.i_mmap.filter(|_| !P::Protocol::keeps(Step::FlushUnderIMmap)) {
                None => flush(),
                Some(i_mmap) => i_mmap.released(flush),
            }
            (self.range, self.unflushed) = (None, false);
        }
        (self.unshared, self.last) = (0, 0);
        // Forgotten before it is paid: a platform that unwinds while it takes a page back must not be given it twice.
        let (inline, inline_len) = (self.inline, core::mem::take(&mut self.inline_len));
        for owed in inline.into_iter().take(inline_len) {
            self.put(owed, room);
        }
        let mut more = core::mem::take(&mut self.more);
        for owed in more.drain(..) {
            self.put(owed, room);
        }
        // The room stays: a table may be locked, under which nothing is freed either.
        self.more = more;
        self.retired.free_after_grace_period(hugetlb, self.mm.id());
    }

    /// Pays everything. Does not sleep.
    pub(crate) fn finish(self) {
        drop(self);
    }

    /// Gives up on what is owed: processors may still reach the pages and through the tables, so neither is ever freed.
    #[cold]
    fn leak(&mut self) {
        let owed = self.inline.iter().take(self.inline_len).chain(&self.more);
        for page in owed.map(|owed| self.mm.hugetlb().page(owed.frame)) {
            // The reference stays. So does the mapping of a private page: who finds it mapped once takes it for its own. A
            // file's page is nobody's own, and truncation waits until it is not mapped.
            if !page.is_anon() {
                page.remove_mapping();
            }
        }
        // What is left of the gather owns nothing: the tables' records are not freed with their list.
    }

    fn put(&self, Owed { frame, promised }: Owed, room: Room) {
        let hugetlb = self.mm.hugetlb();
        // Only after the flush: who finds the page mapped once takes it for its own and writes to it, while a processor
        // of this address space could still read it.
        hugetlb.page(frame).remove_mapping();
        match self.reserve.as_ref().filter(|_| promised) {
            Some(reserve) => hugetlb.put_page_promised(frame, |index| reserve.restore(index, room)),
            None => hugetlb.put_page(frame),
        }
    }
}

impl<P: Platform> Drop for Gather<'_, P> {
    fn drop(&mut self) {
        let last = Last(self);
        if !last.0.unflushed {
            last.0.flush();
        }
    }
}

/// The end of a gather: also if the last flush unwinds.
struct Last<'l, 'g, P: Platform>(&'l mut Gather<'g, P>);

impl<P: Platform> Drop for Last<'_, '_, P> {
    fn drop(&mut self) {
        if self.0.unflushed {
            self.0.leak();
        }
    }
}
