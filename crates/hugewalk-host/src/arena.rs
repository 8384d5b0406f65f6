//! Which huge frames are free: blocks of 1 GiB, each whole or split into 2 MiB frames.
//!
//! There is one bit for each 2 MiB. So a block whose frames are all free again is whole without a
//! search, and freeing needs no memory. Small frames are taken from split blocks first, which keeps
//! whole blocks for 1 GiB pages.

use hugewalk::addr::{HugeFrame, HugeSize, PAGE_SIZE};
use lock_api::Mutex;

use crate::SpinLock;

/// Frame numbers of 2 MiB frames are multiples of this.
const SMALL: u64 = HugeSize::Size2M.bytes() / PAGE_SIZE;
/// Small frames of a block.
const UNITS: usize = (HugeSize::Size1G.bytes() / HugeSize::Size2M.bytes()) as usize;
/// The frame of the arena's first byte: physical address 1 TiB, beyond any table.
const FIRST: u64 = (1 << 40) / PAGE_SIZE;

/// Where a frame lies in the arena, in bytes.
#[inline]
pub(crate) fn offset(frame: HugeFrame) -> u64 {
    frame.0.wrapping_sub(FIRST).wrapping_mul(PAGE_SIZE)
}

/// Where a frame lies in the arena, in small frames.
#[inline]
pub(crate) fn unit(frame: HugeFrame) -> usize {
    (frame.0.wrapping_sub(FIRST) / SMALL) as usize
}

/// The physical address after an arena of `bytes`, if there is one: an entry has 52 bits for it.
pub(crate) fn end(bytes: u64) -> Option<u64> {
    bytes.checked_add(FIRST * PAGE_SIZE).filter(|&end| end <= 1 << 52)
}

fn frame(unit: usize) -> HugeFrame {
    HugeFrame(FIRST + unit as u64 * SMALL)
}

/// The free frames of all sizes.
#[derive(Debug)]
pub(crate) struct HugeArena {
    /// Small frames it is made of.
    units: usize,
    frames: Mutex<SpinLock, Frames>,
}

#[derive(Debug)]
struct Frames {
    blocks: Vec<Block>,
    /// Blocks with a free small frame and a used one.
    split: Bitmap,
    /// Blocks that are free as a whole.
    whole: Bitmap,
    in_use: [u64; 2],
}

/// # Invariants
///
/// `free` is the number of clear bits.
#[derive(Clone, Debug)]
struct Block {
    used: [u64; UNITS / 64],
    free: usize,
}

#[derive(Debug)]
struct Bitmap(Vec<u64>);

impl HugeArena {
    /// An arena of `bytes`, rounded down to 2 MiB. A rest at the end that does not fill a block
    /// gives small frames only.
    pub(crate) fn new(bytes: u64) -> Result<Self, std::collections::TryReserveError> {
        let units = (bytes >> HugeSize::Size2M.shift()) as usize;
        let count = units.div_ceil(UNITS);
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count)?;
        blocks.resize(count, Block::FREE);
        let mut frames =
            Frames { blocks, split: Bitmap::new(count)?, whole: Bitmap::new(count)?, in_use: [0; 2] };
        for unit in units..count * UNITS {
            frames.blocks[unit / UNITS].take(unit % UNITS);
        }
        for block in 0..count {
            frames.file(block);
        }
        Ok(Self { units, frames: Mutex::new(frames) })
    }

    /// Does the arena have this frame, free or not?
    pub(crate) fn contains(&self, frame: HugeFrame) -> bool {
        frame.0 >= FIRST && (frame.0 - FIRST).is_multiple_of(SMALL) && unit(frame) < self.units
    }

    /// A free frame of this size.
    pub(crate) fn alloc(&self, size: HugeSize) -> Option<HugeFrame> {
        let mut frames = self.frames.lock();
        let unit = match size {
            HugeSize::Size2M => {
                let block = frames.split.first().or_else(|| frames.whole.first())?;
                let unit = frames.blocks[block].first_free()?;
                frames.blocks[block].take(unit);
                frames.file(block);
                block * UNITS + unit
            }
            HugeSize::Size1G => {
                let block = frames.whole.first()?;
                frames.blocks[block] = Block::USED;
                frames.file(block);
                block * UNITS
            }
        };
        frames.in_use[place(size)] += 1;
        Some(frame(unit))
    }

    /// Takes back a frame that came from [`alloc`](Self::alloc) with this size.
    ///
    /// # Panics
    ///
    /// If it is free already.
    pub(crate) fn free(&self, frame: HugeFrame, size: HugeSize) {
        let (block, unit) = (unit(frame) / UNITS, unit(frame) % UNITS);
        let mut frames = self.frames.lock();
        let given_back = match size {
            HugeSize::Size2M => frames.blocks[block].give_back(unit),
            HugeSize::Size1G => frames.blocks[block].give_all_back(),
        };
        assert!(given_back, "{frame:?} of {size:?} is freed twice");
        frames.file(block);
        frames.in_use[place(size)] -= 1;
    }

    /// Frames of this size that are in use.
    pub(crate) fn in_use(&self, size: HugeSize) -> u64 {
        self.frames.lock().in_use[place(size)]
    }
}

fn place(size: HugeSize) -> usize {
    match size {
        HugeSize::Size2M => 0,
        HugeSize::Size1G => 1,
    }
}

impl Frames {
    /// Puts a block where its count of free frames says it belongs.
    fn file(&mut self, block: usize) {
        let free = self.blocks[block].free;
        self.whole.set(block, free == UNITS);
        self.split.set(block, free > 0 && free < UNITS);
    }
}

impl Block {
    const FREE: Self = Self { used: [0; UNITS / 64], free: UNITS };
    const USED: Self = Self { used: [u64::MAX; UNITS / 64], free: 0 };

    fn first_free(&self) -> Option<usize> {
        let word = self.used.iter().position(|&word| word != u64::MAX)?;
        Some(word * 64 + self.used[word].trailing_ones() as usize)
    }

    fn take(&mut self, unit: usize) {
        self.used[unit / 64] |= 1 << (unit % 64);
        self.free -= 1;
    }

    /// Was it in use?
    fn give_back(&mut self, unit: usize) -> bool {
        let bit = 1 << (unit % 64);
        if self.used[unit / 64] & bit == 0 {
            return false;
        }
        self.used[unit / 64] &= !bit;
        self.free += 1;
        true
    }

    /// Was all of it in use?
    fn give_all_back(&mut self) -> bool {
        let used = self.free == 0;
        *self = Self::FREE;
        used
    }
}

impl Bitmap {
    fn new(bits: usize) -> Result<Self, std::collections::TryReserveError> {
        let mut words = Vec::new();
        words.try_reserve_exact(bits.div_ceil(64))?;
        words.resize(bits.div_ceil(64), 0);
        Ok(Self(words))
    }

    fn set(&mut self, bit: usize, value: bool) {
        let mask = 1 << (bit % 64);
        if value {
            self.0[bit / 64] |= mask;
        } else {
            self.0[bit / 64] &= !mask;
        }
    }

    fn first(&self) -> Option<usize> {
        let word = self.0.iter().position(|&word| word != 0)?;
        Some(word * 64 + self.0[word].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HugeSize::{Size1G, Size2M};
    use std::collections::HashSet;

    const GIB: u64 = Size1G.bytes();

    #[test]
    fn small_frames_leave_whole_blocks_alone_while_they_can() {
        let arena = HugeArena::new(3 * GIB).unwrap();
        let small = arena.alloc(Size2M).unwrap();
        let large = arena.alloc(Size1G).unwrap();
        let second = arena.alloc(Size2M).unwrap();
        assert_eq!(second.0, small.0 + SMALL);
        assert!(Size1G.is_aligned(large.0 * PAGE_SIZE));
        assert!(arena.alloc(Size1G).is_some());
        assert_eq!(arena.alloc(Size1G), None);
        assert_eq!((arena.in_use(Size2M), arena.in_use(Size1G)), (2, 2));
    }

    #[test]
    fn a_block_whose_frames_all_came_back_is_whole_again() {
        let arena = HugeArena::new(GIB).unwrap();
        let frames: Vec<_> = std::iter::from_fn(|| arena.alloc(Size2M)).collect();
        assert_eq!(frames.iter().collect::<HashSet<_>>().len(), UNITS);
        assert_eq!(arena.alloc(Size1G), None);
        for &frame in frames.iter().rev() {
            assert_eq!(arena.alloc(Size1G), None);
            arena.free(frame, Size2M);
        }
        let large = arena.alloc(Size1G).unwrap();
        assert_eq!(arena.alloc(Size2M), None);
        arena.free(large, Size1G);
        assert_eq!(arena.alloc(Size2M), Some(large));
    }

    #[test]
    fn what_does_not_fill_a_block_gives_small_frames_only() {
        let arena = HugeArena::new(5 * Size2M.bytes()).unwrap();
        assert_eq!(arena.alloc(Size1G), None);
        let frames: Vec<_> = std::iter::from_fn(|| arena.alloc(Size2M)).collect();
        assert_eq!(frames.len(), 5);
        for frame in frames {
            arena.free(frame, Size2M);
        }
        assert_eq!(arena.alloc(Size1G), None);
        assert_eq!(arena.in_use(Size2M), 0);
    }

    #[test]
    fn an_arena_of_nothing_has_nothing() {
        assert_eq!(HugeArena::new(0).unwrap().alloc(Size2M), None);
    }

    #[test]
    #[should_panic = "freed twice"]
    fn a_frame_is_not_freed_twice() {
        let arena = HugeArena::new(GIB).unwrap();
        let frame = arena.alloc(Size2M).unwrap();
        arena.free(frame, Size2M);
        arena.free(frame, Size2M);
    }
}
