//! Which huge frames are free: a block of the largest size is whole, or split into blocks of the next size, and so on down.
//!
//! There is one bit for each block of each size. So a block whose parts are all free again is whole without a
//! search, and freeing needs no memory. A small frame is taken from the smallest block that has one, which keeps
//! whole blocks for large pages.

use core::ops::Range;

use hugewalk::addr::{FRAME_BYTES, HugeFrame, HugeSize};
use lock_api::Mutex;

use crate::SpinLock;

/// The frame of the arena's first byte: physical address 1 TiB, beyond any table.
const FIRST: u64 = (1 << 40) / FRAME_BYTES;

/// Where a frame lies in the arena, in bytes.
#[inline]
pub(crate) fn offset(frame: HugeFrame) -> u64 {
    frame.0.wrapping_sub(FIRST).wrapping_mul(FRAME_BYTES)
}

/// Where a frame lies in the arena, in pages of this size.
#[inline]
pub(crate) fn unit(frame: HugeFrame, size: HugeSize) -> usize {
    (frame.0.wrapping_sub(FIRST) / size.frames()) as usize
}

/// The last page of this size in an arena of `bytes`.
pub(crate) fn last(bytes: u64, size: HugeSize) -> Option<HugeFrame> {
    Some(HugeFrame(FIRST + ((bytes >> size.shift()).checked_sub(1)? << size.shift()) / FRAME_BYTES))
}

/// The free frames of all sizes.
#[derive(Debug)]
pub(crate) struct HugeArena {
    /// Smallest first.
    sizes: &'static [HugeSize],
    /// Pages of the smallest size that it is made of.
    units: usize,
    frames: Mutex<SpinLock, Vec<Blocks>>,
}

/// The blocks of one size.
///
/// # Invariants
///
/// A block is free in one size at most: it counts as free there, and its parts do not count as free in theirs. `parts` is how
/// many parts of a block are free.
#[derive(Debug)]
struct Blocks {
    free: Bitmap,
    parts: Vec<u32>,
    /// Parts of a block.
    most: u32,
    in_use: u64,
}

#[derive(Debug)]
struct Bitmap {
    words: Vec<u64>,
    /// All words before it are zero.
    first: usize,
}

impl HugeArena {
    /// An arena of `bytes` for pages of these sizes, smallest first. A rest at the end that does not fill a block gives smaller
    /// frames only.
    pub(crate) fn new(
        bytes: u64,
        sizes: &'static [HugeSize],
    ) -> Result<Self, std::collections::TryReserveError> {
        let mut all = Vec::new();
        all.try_reserve_exact(sizes.len())?;
        let mut below = None;
        for &size in sizes {
            let count = (bytes >> size.shift()) as usize;
            let most = below.map_or(0, |below: HugeSize| 1 << (size.shift() - below.shift()));
            let mut parts = Vec::new();
            parts.try_reserve_exact(count)?;
            parts.resize(count, 0);
            all.push(Blocks { free: Bitmap::new(count)?, parts, most, in_use: 0 });
            below = Some(size);
        }
        // What no larger block covers is free by itself.
        let mut covered = 0;
        for (place, size) in sizes.iter().enumerate().rev() {
            let blocks = (bytes >> size.shift()) as usize;
            for block in (covered >> size.shift()) as usize..blocks {
                all[place].free.set(block, true);
            }
            covered = (blocks as u64) << size.shift();
        }
        let units = all.first().map_or(0, |smallest| smallest.parts.len());
        Ok(Self { sizes, units, frames: Mutex::new(all) })
    }

    /// Does the arena have this frame, free or not?
    pub(crate) fn contains(&self, frame: HugeFrame) -> bool {
        let Some(&smallest) = self.sizes.first() else { return false };
        frame.0 >= FIRST
            && (frame.0 - FIRST).is_multiple_of(smallest.frames())
            && unit(frame, smallest) < self.units
    }

    /// A free frame of this size.
    pub(crate) fn alloc(&self, size: HugeSize) -> Option<HugeFrame> {
        let mut all = self.frames.lock();
        let block = take(&mut all, size.index())?;
        all[size.index()].in_use += 1;
        Some(HugeFrame(FIRST + block as u64 * size.frames()))
    }

    /// Takes back a frame that came from [`alloc`](Self::alloc) with this size.
    ///
    /// # Panics
    ///
    /// If it is free already.
    pub(crate) fn free(&self, frame: HugeFrame, size: HugeSize) {
        let mut all = self.frames.lock();
        let is_free = |place: usize| all[place].free.has(unit(frame, self.sizes[place]));
        assert!(!(size.index()..self.sizes.len()).any(is_free), "{frame:?} of {size:?} is freed twice");
        give_back(&mut all, size.index(), unit(frame, size));
        all[size.index()].in_use -= 1;
    }

    /// Frames of this size that are in use.
    pub(crate) fn in_use(&self, size: HugeSize) -> u64 {
        self.frames.lock()[size.index()].in_use
    }
}

/// A block of size number `place`: one that is free, or a part of one of the next size.
fn take(all: &mut [Blocks], place: usize) -> Option<usize> {
    if let Some(block) = all.get_mut(place)?.free.first() {
        all[place].free.set(block, false);
        if let Some(above) = all.get_mut(place + 1) {
            let whole = block / above.most as usize;
            // The rest at the end is no part of a block.
            if let Some(parts) = above.parts.get_mut(whole) {
                *parts -= 1;
            }
        }
        return Some(block);
    }
    let whole = take(all, place + 1)?;
    let most = all[place + 1].most;
    all[place + 1].parts[whole] = most - 1;
    let first = whole * most as usize;
    all[place].free.set_range(first + 1..first + most as usize, true);
    Some(first)
}

fn give_back(all: &mut [Blocks], place: usize, block: usize) {
    all[place].free.set(block, true);
    let Some(above) = all.get_mut(place + 1) else { return };
    let most = above.most;
    let whole = block / most as usize;
    let Some(parts) = above.parts.get_mut(whole) else { return };
    *parts += 1;
    if *parts == most {
        *parts = 0;
        let first = whole * most as usize;
        all[place].free.set_range(first..first + most as usize, false);
        give_back(all, place + 1, whole);
    }
}

impl Bitmap {
    fn new(bits: usize) -> Result<Self, std::collections::TryReserveError> {
        let mut words = Vec::new();
        words.try_reserve_exact(bits.div_ceil(64))?;
        words.resize(bits.div_ceil(64), 0);
        Ok(Self { words, first: 0 })
    }

    fn has(&self, bit: usize) -> bool {
        self.words.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }

    fn set(&mut self, bit: usize, value: bool) {
        self.set_range(bit..bit + 1, value);
    }

    fn set_range(&mut self, bits: Range<usize>, value: bool) {
        let mut bit = bits.start;
        while bit < bits.end {
            let count = (64 - bit % 64).min(bits.end - bit);
            let mask = u64::MAX >> (64 - count) << (bit % 64);
            if value {
                self.words[bit / 64] |= mask;
                self.first = self.first.min(bit / 64);
            } else {
                self.words[bit / 64] &= !mask;
            }
            bit += count;
        }
    }

    fn first(&mut self) -> Option<usize> {
        let skipped = self.words[self.first..].iter().position(|&word| word != 0);
        self.first = skipped.map_or(self.words.len(), |skipped| self.first + skipped);
        let word = self.words.get(self.first)?;
        Some(self.first * 64 + word.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hugewalk::arch::{Aarch64, Granule, Paging, X86_64};
    use std::collections::HashSet;

    const GIB: u64 = X86_64::SIZE_1G.bytes();

    fn arena(bytes: u64) -> HugeArena {
        HugeArena::new(bytes, &X86_64::SIZES).unwrap()
    }

    #[test]
    fn small_frames_leave_whole_blocks_alone_while_they_can() {
        let arena = arena(3 * GIB);
        let small = arena.alloc(X86_64::SIZE_2M).unwrap();
        let large = arena.alloc(X86_64::SIZE_1G).unwrap();
        let second = arena.alloc(X86_64::SIZE_2M).unwrap();
        assert_eq!(second.0, small.0 + X86_64::SIZE_2M.frames());
        assert!(X86_64::SIZE_1G.is_aligned(large.0 * FRAME_BYTES));
        assert!(arena.alloc(X86_64::SIZE_1G).is_some());
        assert_eq!(arena.alloc(X86_64::SIZE_1G), None);
        assert_eq!((arena.in_use(X86_64::SIZE_2M), arena.in_use(X86_64::SIZE_1G)), (2, 2));
    }

    #[test]
    fn a_block_whose_frames_all_came_back_is_whole_again() {
        let arena = arena(GIB);
        let frames: Vec<_> = std::iter::from_fn(|| arena.alloc(X86_64::SIZE_2M)).collect();
        assert_eq!(frames.iter().collect::<HashSet<_>>().len(), 512);
        assert_eq!(arena.alloc(X86_64::SIZE_1G), None);
        for &frame in frames.iter().rev() {
            assert_eq!(arena.alloc(X86_64::SIZE_1G), None);
            arena.free(frame, X86_64::SIZE_2M);
        }
        let large = arena.alloc(X86_64::SIZE_1G).unwrap();
        assert_eq!(arena.alloc(X86_64::SIZE_2M), None);
        arena.free(large, X86_64::SIZE_1G);
        assert_eq!(arena.alloc(X86_64::SIZE_2M), Some(large));
    }

    #[test]
    fn what_does_not_fill_a_block_gives_small_frames_only() {
        let arena = arena(5 * X86_64::SIZE_2M.bytes());
        assert_eq!(arena.alloc(X86_64::SIZE_1G), None);
        let frames: Vec<_> = std::iter::from_fn(|| arena.alloc(X86_64::SIZE_2M)).collect();
        assert_eq!(frames.len(), 5);
        for frame in frames {
            arena.free(frame, X86_64::SIZE_2M);
        }
        assert_eq!(arena.alloc(X86_64::SIZE_1G), None);
        assert_eq!(arena.in_use(X86_64::SIZE_2M), 0);
    }

    #[test]
    fn an_arena_of_nothing_has_nothing() {
        assert_eq!(arena(0).alloc(X86_64::SIZE_2M), None);
    }

    #[test]
    #[should_panic = "freed twice"]
    fn a_frame_is_not_freed_twice() {
        let arena = arena(GIB);
        let frame = arena.alloc(X86_64::SIZE_2M).unwrap();
        arena.free(frame, X86_64::SIZE_2M);
        arena.free(frame, X86_64::SIZE_2M);
    }

    #[test]
    fn four_sizes_share_the_memory_and_each_block_comes_back_as_a_whole() {
        let format = Aarch64::new(Granule::K4, 48).unwrap();
        let sizes = format.leaves();
        // A rest of each size.
        let bytes = 2 * GIB + 3 * sizes[2].bytes() + 5 * sizes[1].bytes() + 7 * sizes[0].bytes();
        let arena = HugeArena::new(bytes, sizes).unwrap();
        let all_of = |size: HugeSize| -> Vec<_> { std::iter::from_fn(|| arena.alloc(size)).collect() };
        for round in 0..2 {
            for &size in sizes {
                let frames = all_of(size);
                assert_eq!(frames.len() as u64, bytes / size.bytes(), "{size:?}, round {round}");
                assert!(frames.iter().all(|frame| frame.fits(size) && arena.contains(*frame)));
                assert_eq!(frames.iter().collect::<HashSet<_>>().len(), frames.len());
                // Backwards, and then every other one first.
                let (one, other): (Vec<_>, Vec<_>) =
                    frames.iter().partition(|f| f.0 / size.frames() % 2 == 0);
                for frame in one.into_iter().rev().chain(other) {
                    arena.free(frame, size);
                }
                assert_eq!(arena.in_use(size), 0);
            }
        }
        // Whole blocks stay whole while there are split ones.
        let small: Vec<_> = (0..7).map(|_| arena.alloc(sizes[0]).unwrap()).collect();
        assert_eq!(all_of(sizes[3]).len(), 2);
        assert_eq!(all_of(sizes[2]).len(), 3);
        assert_eq!(all_of(sizes[1]).len(), 5);
        assert_eq!(arena.alloc(sizes[0]), None);
        drop(small);
    }
}
