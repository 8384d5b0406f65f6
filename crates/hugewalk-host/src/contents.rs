//! The contents of huge pages: a memory file, mapped once, or nothing.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hugewalk::addr::{HugeFrame, HugeSize};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::reserve::Reservation;
use crate::{arena, bulk};

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

/// One bit for each *unit*, a page of the smallest size. It is set while the memory is known to be all zero, because nothing has
/// written to it since the file was made. It is cleared before the first write, and before a
/// processor can write, and is never set again.
#[derive(Debug)]
struct Fresh {
    unit: HugeSize,
    bits: Box<[AtomicU64]>,
}

impl MemoryFile {
    /// A file of so many bytes. `unit` is the smallest size of page.
    pub(crate) fn new(bytes: u64, unit: HugeSize) -> io::Result<Self> {
        let file = memfd_create("hugewalk", MemfdFlags::CLOEXEC)?;
        // The kernel maps no empty file.
        let bytes = bytes.max(unit.bytes());
        ftruncate(&file, bytes)?;
        let map = Reservation::of_file(file.as_fd(), bytes)?;
        Ok(Self { file, map, fresh: Fresh::new(bytes, unit)? })
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Fills a whole page with zeroes, sparing the parts that are known to be zero.
    pub(crate) fn zero(&self, frame: HugeFrame, size: HugeSize) {
        let (start, unit) = (arena::offset(frame), self.fresh.unit);
        for at in (start..start + size.bytes()).step_by(unit.bytes() as usize) {
            if !self.fresh.take(at >> unit.shift()) {
                self.clear_bytes(at, unit.bytes());
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
    fn new(bytes: u64, unit: HugeSize) -> io::Result<Self> {
        let count = (bytes >> unit.shift()).div_ceil(64) as usize;
        let mut words = Vec::new();
        words.try_reserve_exact(count)?;
        words.resize_with(count, || AtomicU64::new(u64::MAX));
        Ok(Self { unit, bits: words.into_boxed_slice() })
    }

    /// Was the unit known to be zero? It no longer is.
    fn take(&self, unit: u64) -> bool {
        self.take_bits(unit / 64, 1 << (unit % 64)) != 0
    }

    /// The same for all units that these bytes touch.
    #[inline]
    fn take_all(&self, at: u64, length: u64) {
        let (mut unit, end) = (at >> self.unit.shift(), (at + length).div_ceil(self.unit.bytes()));
        while unit < end {
            let count = (64 - unit % 64).min(end - unit);
            self.take_bits(unit / 64, (u64::MAX >> (64 - count)) << (unit % 64));
            unit += count;
        }
    }

    /// Clears bits and returns which of them were set.
    #[inline]
    fn take_bits(&self, word: u64, bits: u64) -> u64 {
        let word = &self.bits[word as usize];
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
    use hugewalk::arch::X86_64;

    const UNIT: u64 = X86_64::SIZE_2M.bytes();

    fn memory(bytes: u64) -> MemoryFile {
        MemoryFile::new(bytes, X86_64::SIZE_2M).unwrap()
    }

    fn arena(bytes: u64) -> arena::HugeArena {
        arena::HugeArena::new(bytes, &X86_64::SIZES).unwrap()
    }

    fn page_of(memory: &MemoryFile, frame: HugeFrame) -> Vec<u8> {
        let mut bytes = vec![1; UNIT as usize];
        memory.read(frame, 0, &mut bytes);
        bytes
    }

    #[test]
    fn pages_do_not_share_contents() {
        let memory = memory(8 * UNIT);
        let arena = arena(8 * UNIT);
        let frames: Vec<_> = std::iter::from_fn(|| arena.alloc(X86_64::SIZE_2M)).collect();
        for (value, &frame) in frames.iter().enumerate() {
            memory.write(frame, 0, &vec![value as u8; UNIT as usize]);
        }
        memory.copy(frames[3], frames[5], X86_64::SIZE_2M);
        memory.zero(frames[6], X86_64::SIZE_2M);
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
        let memory = memory(UNIT);
        let frame = arena(UNIT).alloc(X86_64::SIZE_2M).unwrap();
        memory.write(frame, 8, &0x0102_0304_0506_0708_u64.to_ne_bytes());
        assert_eq!(memory.word(frame, 8).load(Ordering::Relaxed), 0x0102_0304_0506_0708);
        memory.byte(frame, UNIT - 1).store(9, Ordering::Relaxed);
        assert_eq!(page_of(&memory, frame)[UNIT as usize - 1], 9);
    }

    #[test]
    fn zeroing_skips_only_what_was_never_writable() {
        let memory = memory(4 * UNIT);
        let arena = arena(4 * UNIT);
        let [a, b, c, d] = [(); 4].map(|()| arena.alloc(X86_64::SIZE_2M).unwrap());
        memory.zero(a, X86_64::SIZE_2M);
        memory.byte(a, 5).store(1, Ordering::Relaxed);
        memory.expose(b, X86_64::SIZE_2M);
        memory.byte(b, 5).store(1, Ordering::Relaxed);
        memory.write(c, UNIT - 1, &[1]);
        memory.copy(a, d, X86_64::SIZE_2M);
        for frame in [a, b, c, d] {
            memory.zero(frame, X86_64::SIZE_2M);
            assert!(page_of(&memory, frame).iter().all(|&byte| byte == 0), "{frame:?}");
        }
    }

    #[test]
    fn a_large_page_is_zeroed_where_it_was_written() {
        let memory = memory(X86_64::SIZE_1G.bytes());
        let frame = arena(X86_64::SIZE_1G.bytes()).alloc(X86_64::SIZE_1G).unwrap();
        for offset in [0, UNIT * 63 - 1, UNIT * 200, X86_64::SIZE_1G.bytes() - 2] {
            memory.write(frame, offset, &[1, 2]);
        }
        memory.zero(frame, X86_64::SIZE_1G);
        for offset in [0, UNIT * 63 - 1, UNIT * 200, X86_64::SIZE_1G.bytes() - 2] {
            assert_eq!(memory.byte(frame, offset).load(Ordering::Relaxed), 0);
            assert_eq!(memory.byte(frame, offset + 1).load(Ordering::Relaxed), 0);
        }
        memory.expose(frame, X86_64::SIZE_1G);
        assert!(memory.fresh.bits.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    #[should_panic = "leave the arena"]
    fn a_page_outside_the_arena_has_no_contents() {
        let memory = memory(UNIT);
        memory.read(HugeFrame(1 << 30), 0, &mut [0]);
    }
}
