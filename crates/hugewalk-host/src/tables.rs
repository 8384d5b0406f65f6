//! The frames of page tables: pages of one reserved range, and a record for each in another.
//!
//! Frame `n` lies `n` frames into the range, so a walk gets from an entry to the next table by one
//! addition. Tables are as large as base pages; where that is more than a frame, their frames are multiples. Frame 0 is never allocated: an entry that points there is a mistake that shows.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::io;

use hugewalk::addr::{FRAME_BYTES, TableFrame};
use hugewalk::arch::Paging;
use lock_api::Mutex;

use crate::SpinLock;
use crate::reserve::Reservation;

/// Frames have 32 bits: 16 TiB of tables, for 4 EiB of huge pages.
const MAX_TABLES: u64 = u32::MAX as u64;

/// Table pages of a format, each with a record of type `R`.
///
/// # Invariants
///
/// `max_tables` is at most [`MAX_TABLES`]. A frame is in one of two states:
///
/// - allocated: its page and its record belong to the caller of `alloc`;
/// - in the free list or beyond `fresh`: its page belongs to the arena.
pub(crate) struct TableArena<R, F> {
    paging: F,
    pages: Reservation,
    records: Reservation,
    max_tables: u64,
    frames: Mutex<SpinLock, Frames>,
    record: PhantomData<fn() -> R>,
}

/// Which frames are free. Freed ones are linked through the first entry of their page, so that
/// freeing needs no memory. The page freed last, which is most likely in the cache, is allocated
/// first.
struct Frames {
    /// The frame freed last; 0 if there is none.
    free: u64,
    /// The first frame that was never allocated: its page is still all zero.
    fresh: u64,
    in_use: u64,
    peak: u64,
}

impl<R, F: Paging> TableArena<R, F> {
    pub(crate) fn new(paging: F, max_tables: u64) -> io::Result<Self> {
        const { assert!(align_of::<R>() <= FRAME_BYTES as usize) };
        // Frame 0 is never allocated, but has its place.
        let all = max_tables.checked_add(1).and_then(|all| all.checked_mul(paging.geometry().base_bytes()));
        let table_bytes = all.ok_or(io::ErrorKind::OutOfMemory)?;
        let max_tables = max_tables.min(MAX_TABLES);
        let record_bytes = (max_tables + 1).checked_mul(size_of::<R>() as u64);
        let frames = Frames { free: 0, fresh: 1, in_use: 0, peak: 0 };
        Ok(Self {
            paging,
            pages: Reservation::anonymous(table_bytes)?,
            records: Reservation::anonymous(record_bytes.ok_or(io::ErrorKind::OutOfMemory)?)?,
            max_tables,
            frames: Mutex::new(frames),
            record: PhantomData,
        })
    }

    /// A page of zeroes.
    pub(crate) fn alloc(&self) -> Option<TableFrame> {
        let mut frames = self.frames.lock();
        let reused = frames.free != 0;
        let frame = if reused {
            let frame = TableFrame(frames.free);
            frames.free = self.link(frame).load(Ordering::Relaxed);
            frame
        } else if frames.fresh <= self.max_tables {
            frames.fresh += 1;
            TableFrame((frames.fresh - 1) << self.frames_shift())
        } else {
            return None;
        };
        frames.in_use += 1;
        frames.peak = frames.peak.max(frames.in_use);
        drop(frames);
        if reused {
            // SAFETY: the page lies in the arena, which allocates frames from 1 to `max_tables`
            // only. By the type invariants it belonged to the arena, and the caller does not have
            // it yet, so nothing else reaches it.
            let entries = unsafe { self.entries(frame) }.cast::<u64>();
            // SAFETY: as above.
            unsafe { entries.write_bytes(0, 1 << self.paging.geometry().index_bits) };
        }
        Some(frame)
    }

    /// Takes a page back.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc`](Self::alloc), and nothing reaches it any more.
    pub(crate) unsafe fn free(&self, frame: TableFrame) {
        let mut frames = self.frames.lock();
        debug_assert!(frame.0 != 0 && self.number(frame) < frames.fresh, "{frame:?} was never allocated");
        // INVARIANT: the caller gives up the page, which enters the list under the lock.
        self.link(frame).store(frames.free, Ordering::Relaxed);
        frames.free = frame.0;
        frames.in_use -= 1;
    }

    /// The first entry of a table page.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc`](Self::alloc).
    #[inline]
    pub(crate) unsafe fn entries(&self, frame: TableFrame) -> NonNull<AtomicU64> {
        // SAFETY: frames are handed out up to `max_tables`, for which the range was made.
        unsafe { self.pages.at((frame.0 as usize).wrapping_mul(FRAME_BYTES as usize)) }.cast()
    }

    /// One entry of a table page.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc`](Self::alloc). `index` is below the number of entries.
    #[inline]
    pub(crate) unsafe fn entry(&self, frame: TableFrame, index: usize) -> NonNull<AtomicU64> {
        // The index first: a walk knows it before the frame, and waits for one addition less.
        //
        // SAFETY: an index lies in a page, and the range has at least one page.
        let in_first = unsafe { self.pages.at(index.wrapping_mul(size_of::<AtomicU64>())) };
        // SAFETY: frames are handed out up to `max_tables`, for which the range was made.
        unsafe { in_first.add((frame.0 as usize).wrapping_mul(FRAME_BYTES as usize)) }.cast()
    }

    /// The record of a table page.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc`](Self::alloc).
    #[inline]
    pub(crate) unsafe fn record(&self, frame: TableFrame) -> NonNull<R> {
        // Frames have 32 bits. The compiler computes this place and that of the entries from the
        // table's entry independently, so a walk waits for one instruction between two loads
        // instead of three.
        let number = self.number(frame) as u32 as usize;
        // SAFETY: frames are handed out up to `max_tables`, for which the range was made.
        unsafe { self.records.at(number.wrapping_mul(size_of::<R>())) }.cast()
    }

    /// Base-2 logarithm of the frames of a table.
    #[inline]
    fn frames_shift(&self) -> u32 {
        self.paging.geometry().base_shift - FRAME_BYTES.trailing_zeros()
    }

    /// The place of a table among the tables.
    #[inline]
    fn number(&self, frame: TableFrame) -> u64 {
        frame.0 >> self.frames_shift()
    }

    /// Tables in use now, and the most there ever were.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let frames = self.frames.lock();
        (frames.in_use, frames.peak)
    }

    fn link(&self, frame: TableFrame) -> &AtomicU64 {
        // SAFETY: called only for frames that are or were allocated, so it lies in the arena, is
        // aligned, and is zero or was written as an atomic.
        let entries = unsafe { self.entries(frame) };
        // SAFETY: as above.
        unsafe { entries.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hugewalk::arch::{Aarch64, Granule, X86_64};

    fn arena(tables: u64) -> TableArena<u64, X86_64> {
        TableArena::new(X86_64::FOUR_LEVELS, tables).unwrap()
    }

    fn entries(arena: &TableArena<u64, X86_64>, frame: TableFrame) -> &[AtomicU64; X86_64::ENTRIES] {
        // SAFETY: the tests ask for allocated frames only.
        let entries = unsafe { arena.entries(frame) };
        // SAFETY: likewise.
        unsafe { entries.cast().as_ref() }
    }

    #[test]
    fn a_reused_page_is_zero_again() {
        let arena = arena(1);
        let frame = arena.alloc().unwrap();
        for entry in entries(&arena, frame) {
            entry.store(u64::MAX, Ordering::Relaxed);
        }
        // SAFETY: allocated above, not used afterwards.
        unsafe { arena.free(frame) };
        assert_eq!(arena.alloc(), Some(frame));
        assert!(entries(&arena, frame).iter().all(|entry| entry.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn frame_zero_is_never_handed_out_and_the_last_frame_is() {
        let arena = arena(3);
        let frames = [(); 4].map(|()| arena.alloc());
        assert_eq!(frames, [Some(TableFrame(1)), Some(TableFrame(2)), Some(TableFrame(3)), None]);
        assert_eq!(arena.usage(), (3, 3));
    }

    #[test]
    fn every_frame_has_a_page_and_a_record_of_its_own() {
        let arena = arena(100);
        let frames: Vec<_> = (0..100).map(|_| arena.alloc().unwrap()).collect();
        for &frame in &frames {
            entries(&arena, frame)[511].store(frame.0, Ordering::Relaxed);
            // SAFETY: allocated above.
            let last = unsafe { arena.entry(frame, 511) };
            assert!(core::ptr::eq(&raw const entries(&arena, frame)[511], last.as_ptr()));
            // SAFETY: allocated above.
            let record = unsafe { arena.record(frame) };
            // SAFETY: the record of an allocated frame.
            unsafe { record.write(!frame.0) };
        }
        for &frame in &frames {
            assert_eq!(entries(&arena, frame)[511].load(Ordering::Relaxed), frame.0);
            // SAFETY: allocated above.
            let record = unsafe { arena.record(frame) };
            // SAFETY: written above.
            assert_eq!(unsafe { record.read() }, !frame.0);
            // SAFETY: allocated above, not used afterwards.
            unsafe { arena.free(frame) };
        }
        assert_eq!(arena.usage(), (0, 100));
    }

    #[test]
    fn threads_never_get_the_same_page() {
        let arena = arena(64);
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let arena = &arena;
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        let frame = arena.alloc().unwrap();
                        let entry = &entries(arena, frame)[0];
                        assert_eq!(entry.swap(thread, Ordering::Relaxed), 0);
                        std::hint::spin_loop();
                        assert_eq!(entry.swap(0, Ordering::Relaxed), thread);
                        // SAFETY: allocated above, not used afterwards.
                        unsafe { arena.free(frame) };
                    }
                });
            }
        });
        assert_eq!(arena.usage().0, 0);
    }

    #[test]
    fn larger_tables_lie_side_by_side() {
        let paging = Aarch64::new(Granule::K64, 48).unwrap();
        let arena = TableArena::<u64, _>::new(paging, 2).unwrap();
        let [one, two] = [(); 2].map(|()| arena.alloc().unwrap());
        assert_eq!((one, two), (TableFrame(16), TableFrame(32)));
        assert_eq!(arena.alloc(), None);
        // SAFETY: allocated above; a table has 8192 entries.
        let last = unsafe { arena.entry(one, 8191) };
        // SAFETY: allocated above.
        let next = unsafe { arena.entries(two) };
        assert_eq!(last.addr().get() + 8, next.addr().get());
        // SAFETY: allocated above; nothing else reaches the entry.
        unsafe { last.as_ref() }.store(9, Ordering::Relaxed);
        // SAFETY: allocated above, not used afterwards.
        unsafe { arena.free(one) };
        assert_eq!(arena.alloc(), Some(one));
        // SAFETY: as before.
        assert_eq!(unsafe { last.as_ref() }.load(Ordering::Relaxed), 0);
    }
}
