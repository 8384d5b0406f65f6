//! The contents of huge pages: a memory file, mapped once, or nothing.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hugewalk::addr::{HugeFrame, HugeSize};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::reserve::Reservation;
use crate::{arena, bulk};

/// The host notes for units of so many bytes whether they are known to be zero.
const UNIT: u64 = HugeSize::Size2M.bytes();

/// The contents of all huge pages.
#[derive(Debug)]
pub(crate) enum Memory {
    /// Real memory.
    File(MemoryFile),
    /// No contents: stores vanish, loads give zeroes.
    Nothing,
}

/// A memory file, mapped as a whole. Pages that were never used take no memory.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    file: OwnedFd,
    map: Reservation,
    fresh: Fresh,
}

/// One bit for each 2 MiB. It is set while the memory is known to be all zero, because nothing has
/// written to it since the file was made. It is cleared before the first write, and before a
/// processor can write, and is never set again.
#[derive(Debug)]
struct Fresh(Box<[AtomicU64]>);

impl MemoryFile {
    pub(crate) fn new(bytes: u64) -> io::Result<Self> {
        let file = memfd_create("hugewalk", MemfdFlags::CLOEXEC)?;
        // The kernel maps no empty file.
        let bytes = bytes.max(UNIT);
        ftruncate(&file, bytes)?;
        let map = Reservation::of_file(file.as_fd(), bytes)?;
        Ok(Self { file, map, fresh: Fresh::new(bytes / UNIT)? })
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Fills a whole page with zeroes, sparing the parts that are known to be zero.
    pub(crate) fn zero(&self, frame: HugeFrame, size: HugeSize) {
        let start = arena::offset(frame);
        for at in (start..start + size.bytes()).step_by(UNIT as usize) {
            if !self.fresh.take(at / UNIT) {
                self.clear_bytes(at, UNIT);
            }
        }
    }

    /// Copies a whole page.
    pub(crate) fn copy(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) {
        self.expose(to, size);
        let source = self.map.span(arena::offset(from), size.bytes());
        let target = self.map.span(arena::offset(to), size.bytes());
        // SAFETY: `span` has checked both, and pages of one size do not overlap; the file's mapping is only reached by
        // atomics and `bulk`.
        unsafe { bulk::copy(source, target, size.bytes() as usize) };
    }

    /// Copies bytes out of a page.
    pub(crate) fn read(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) {
        let source = self.map.span(arena::offset(frame) + offset, into.len() as u64);
        // SAFETY: `span` has checked the source, which is only reached by atomics and `bulk`; the target is borrowed.
        unsafe { bulk::copy(source, NonNull::from(&mut *into).cast(), into.len()) };
    }

    /// Copies bytes into a page.
    pub(crate) fn write(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        let at = arena::offset(frame) + offset;
        let target = self.map.span(at, from.len() as u64);
        self.fresh.take_all(at, from.len() as u64);
        // SAFETY: `span` has checked the target, which is only reached by atomics and `bulk`; the source is borrowed.
        unsafe { bulk::copy(NonNull::from(from).cast(), target, from.len()) };
    }

    /// Zeroes bytes of a page.
    pub(crate) fn clear(&self, frame: HugeFrame, offset: u64, length: u64) {
        self.clear_bytes(arena::offset(frame) + offset, length);
    }

    fn clear_bytes(&self, at: u64, length: u64) {
        let target = self.map.span(at, length);
        // SAFETY: `span` has checked it; the file's mapping is only reached by atomics and `bulk`.
        unsafe { bulk::zero(target, length as usize) };
    }

    /// Notes that a processor will be able to write to this page.
    #[inline]
    pub(crate) fn expose(&self, frame: HugeFrame, size: HugeSize) {
        self.fresh.take_all(arena::offset(frame), size.bytes());
    }

    /// A byte of a page, as processors see it.
    #[inline]
    pub(crate) fn byte(&self, frame: HugeFrame, offset: u64) -> &AtomicU8 {
        let at = self.map.span(arena::offset(frame) + offset, 1);
        // SAFETY: `span` has checked it; the file's mapping is only reached by atomics and `bulk`, and lives as long as
        // `self`.
        unsafe { at.cast().as_ref() }
    }

    /// The aligned word of a page around `offset`, as processors see it.
    #[inline]
    pub(crate) fn word(&self, frame: HugeFrame, offset: u64) -> &AtomicU64 {
        let at = self.map.span((arena::offset(frame) + offset) & !7, 8);
        // SAFETY: as for `byte`; the mapping begins at a page, so a multiple of 8 bytes into it is aligned.
        unsafe { at.cast().as_ref() }
    }
}

impl Fresh {
    fn new(units: u64) -> io::Result<Self> {
        let count = units.div_ceil(64) as usize;
        let mut words = Vec::new();
        words.try_reserve_exact(count)?;
        words.resize_with(count, || AtomicU64::new(u64::MAX));
        Ok(Self(words.into_boxed_slice()))
    }

    /// Was the unit known to be zero? It no longer is.
    fn take(&self, unit: u64) -> bool {
        self.take_bits(unit / 64, 1 << (unit % 64)) != 0
    }

    /// The same for all units that these bytes touch.
    #[inline]
    fn take_all(&self, at: u64, length: u64) {
        let (mut unit, end) = (at / UNIT, (at + length).div_ceil(UNIT));
        while unit < end {
            let count = (64 - unit % 64).min(end - unit);
            self.take_bits(unit / 64, (u64::MAX >> (64 - count)) << (unit % 64));
            unit += count;
        }
    }

    /// Clears bits and returns which of them were set.
    #[inline]
    fn take_bits(&self, word: u64, bits: u64) -> u64 {
        let word = &self.0[word as usize];
        // Relaxed: the page belongs to the caller, which publishes it by other means. Only the word
        // is shared, with the owners of other pages. The load keeps its cache line shared once all
        // units were written to.
        if word.load(Ordering::Relaxed) & bits == 0 {
            0
        } else {
            word.fetch_and(!bits, Ordering::Relaxed) & bits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::HugeArena;
    use HugeSize::{Size1G, Size2M};

    fn page_of(memory: &MemoryFile, frame: HugeFrame) -> Vec<u8> {
        let mut bytes = vec![1; UNIT as usize];
        memory.read(frame, 0, &mut bytes);
        bytes
    }

    #[test]
    fn pages_do_not_share_contents() {
        let memory = MemoryFile::new(8 * UNIT).unwrap();
        let arena = HugeArena::new(8 * UNIT).unwrap();
        let frames: Vec<_> = std::iter::from_fn(|| arena.alloc(Size2M)).collect();
        for (value, &frame) in frames.iter().enumerate() {
            memory.write(frame, 0, &vec![value as u8; UNIT as usize]);
        }
        memory.copy(frames[3], frames[5], Size2M);
        memory.zero(frames[6], Size2M);
        memory.clear(frames[7], 4096, 4096);
        for (value, &frame) in frames.iter().enumerate() {
            let mut expected = vec![[0, 1, 2, 3, 4, 3, 0, 7][value]; UNIT as usize];
            if value == 7 {
                expected[4096..8192].fill(0);
            }
            assert_eq!(page_of(&memory, frame), expected, "page {value}");
        }
    }

    #[test]
    fn words_and_bytes_are_where_bulk_copies_see_them() {
        let memory = MemoryFile::new(UNIT).unwrap();
        let frame = HugeArena::new(UNIT).unwrap().alloc(Size2M).unwrap();
        memory.write(frame, 8, &0x0102_0304_0506_0708_u64.to_ne_bytes());
        assert_eq!(memory.word(frame, 8).load(Ordering::Relaxed), 0x0102_0304_0506_0708);
        memory.byte(frame, UNIT - 1).store(9, Ordering::Relaxed);
        assert_eq!(page_of(&memory, frame)[UNIT as usize - 1], 9);
    }

    #[test]
    fn zeroing_skips_only_what_was_never_writable() {
        let memory = MemoryFile::new(4 * UNIT).unwrap();
        let arena = HugeArena::new(4 * UNIT).unwrap();
        let [a, b, c, d] = [(); 4].map(|()| arena.alloc(Size2M).unwrap());
        memory.zero(a, Size2M);
        memory.byte(a, 5).store(1, Ordering::Relaxed);
        memory.expose(b, Size2M);
        memory.byte(b, 5).store(1, Ordering::Relaxed);
        memory.write(c, UNIT - 1, &[1]);
        memory.copy(a, d, Size2M);
        for frame in [a, b, c, d] {
            memory.zero(frame, Size2M);
            assert!(page_of(&memory, frame).iter().all(|&byte| byte == 0), "{frame:?}");
        }
    }

    #[test]
    fn a_large_page_is_zeroed_where_it_was_written() {
        let memory = MemoryFile::new(Size1G.bytes()).unwrap();
        let frame = HugeArena::new(Size1G.bytes()).unwrap().alloc(Size1G).unwrap();
        for offset in [0, UNIT * 63 - 1, UNIT * 200, Size1G.bytes() - 2] {
            memory.write(frame, offset, &[1, 2]);
        }
        memory.zero(frame, Size1G);
        for offset in [0, UNIT * 63 - 1, UNIT * 200, Size1G.bytes() - 2] {
            assert_eq!(memory.byte(frame, offset).load(Ordering::Relaxed), 0);
            assert_eq!(memory.byte(frame, offset + 1).load(Ordering::Relaxed), 0);
        }
        memory.expose(frame, Size1G);
        assert!(memory.fresh.0.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    #[should_panic = "leave the arena"]
    fn a_page_outside_the_arena_has_no_contents() {
        let memory = MemoryFile::new(UNIT).unwrap();
        memory.read(HugeFrame(1 << 30), 0, &mut [0]);
    }
}
