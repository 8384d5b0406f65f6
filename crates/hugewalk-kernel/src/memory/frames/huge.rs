//! Huge pages: whole blocks in a row, or parts of a block.
//!
//! A block that is cut for pages of 64 KiB holds 32 of them, and nothing else. When the last is given back, it is whole again.
//!
//! The engine may look at the record of a page that was freed, and of whatever is there then. So records stay what they are for
//! ever. Each block has one, that of a page which begins with it. The records of the other parts are made when a block is cut
//! for the first time, and are never given back: a frame for each such block.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use hugewalk::platform::PageRecord;

use super::{BLOCKS, Block, KEPT, Kind, MEMORY, Memory, Use, clear, count};
use crate::memory::{HUGE, PAGE, direct};
use crate::platform::protocol;

/// Bytes of the pages that are smaller than a block.
pub const PART: u64 = 64 << 10;
/// How many of them a block has.
const PARTS: usize = (HUGE / PART) as usize;
const _: () = assert!(PARTS * size_of::<PageRecord>() <= PAGE as usize && PARTS <= 64);

struct PageRecords(UnsafeCell<[PageRecord; BLOCKS]>);

// SAFETY: the engine alone looks into records, by its own rules.
unsafe impl Sync for PageRecords {}

/// One for each block.
static PAGE_RECORDS: PageRecords = PageRecords(UnsafeCell::new([const { PageRecord::new() }; BLOCKS]));

/// The frame with the records of the parts of a block, or 0: set once, before the first part is handed out.
static PART_RECORDS: [AtomicU64; BLOCKS] = [const { AtomicU64::new(0) }; BLOCKS];

/// Allocates a huge page of so many bytes, aligned to them: [`PART`], or blocks in a row. Any contents.
pub fn allocate(bytes: u64) -> Option<u64> {
    let mut memory = MEMORY.lock();
    if bytes == PART {
        return memory.part();
    }
    let blocks = (bytes / HUGE) as usize;
    let end = memory.end;
    let free = |at: usize| {
        memory.blocks.get(at..at + blocks).is_some_and(|run| run.iter().all(|block| block.usage == Use::Free))
    };
    let start = (0..end).step_by(blocks).find(|at| free(*at)).filter(|_| memory.spares(blocks))?;
    for (index, block) in memory.blocks[start..start + blocks].iter_mut().enumerate() {
        *block = Block { used: index.min(1) as u16, ..Block::of(Use::Huge) };
    }
    Some(start as u64 * HUGE)
}

/// Takes a huge page back.
///
/// # Safety
///
/// It came from [`allocate`] with this size, and nothing reaches it any more.
pub unsafe fn free(address: u64, bytes: u64) {
    let mut memory = MEMORY.lock();
    // Where a late access may come, it finds the contents of huge pages and nothing else: the blocks stay huge.
    if protocol::WEAKER {
        KEPT.fetch_add(bytes / PAGE, Ordering::Relaxed);
    } else if bytes == PART {
        memory.free_part(address);
    } else {
        let start = (address / HUGE) as usize;
        let blocks = (bytes / HUGE) as usize;
        memory.blocks[start..start + blocks].iter_mut().for_each(|block| block.usage = Use::Free);
    }
}

impl Memory {
    /// Allocates a part, of a block that is cut already if there is one.
    fn part(&mut self) -> Option<u64> {
        let (hint, end) = (self.part_hint, self.end);
        let mut around = (hint..end).chain(0..hint);
        let cut = around.find(|at| {
            let block = &self.blocks[*at];
            block.usage == Use::Parts && usize::from(block.used) < PARTS
        });
        let at = match cut {
            Some(at) => at,
            None => self.cut()?,
        };
        let block = &mut self.blocks[at];
        let part = block.map[0].trailing_ones();
        block.map[0] |= 1 << part;
        block.used += 1;
        self.part_hint = at;
        Some(at as u64 * HUGE + u64::from(part) * PART)
    }

    /// Cuts a free block into parts.
    fn cut(&mut self) -> Option<usize> {
        let at = (0..self.end).find(|at| self.blocks[*at].usage == Use::Free).filter(|_| self.spares(1))?;
        self.blocks[at] = Block::of(Use::Parts);
        if PART_RECORDS[at].load(Ordering::Relaxed) == 0 {
            let Some(frame) = self.frame(Use::Frames, Kind::Kernel) else {
                self.blocks[at].usage = Use::Free;
                return None;
            };
            count(Kind::Kernel, 1);
            // SAFETY: just allocated. A record of zeroes is one of no page.
            unsafe { clear(frame) };
            // Release: whoever finds the frame finds zeroes, or what was stored after them.
            PART_RECORDS[at].store(frame, Ordering::Release);
        }
        Some(at)
    }

    fn free_part(&mut self, address: u64) {
        let block = &mut self.blocks[(address / HUGE) as usize];
        let bit = 1 << (address % HUGE / PART);
        assert!(block.usage == Use::Parts && block.map[0] & bit != 0, "page {address:#x} freed twice");
        block.map[0] &= !bit;
        block.used -= 1;
        if block.used == 0 {
            block.usage = Use::Free;
        }
    }
}

/// Is there a huge page of the engine's at this address, and does it begin there?
pub fn begins(address: u64) -> Option<bool> {
    let memory = MEMORY.lock();
    let block = memory.blocks.get((address / HUGE) as usize)?;
    match block.usage {
        Use::Huge => Some(block.used == 0 && address.is_multiple_of(HUGE)),
        Use::Parts => {
            let is_used = block.map[0] & 1 << (address % HUGE / PART) != 0;
            is_used.then_some(address.is_multiple_of(PART))
        }
        _ => None,
    }
}

/// May a huge page start at this address? If so, it has a record.
pub fn is_memory(address: u64) -> bool {
    let at = (address / HUGE) as usize;
    let memory = MEMORY.lock();
    memory.blocks.get(at).is_some_and(|block| block.usage != Use::Reserved)
        && (address.is_multiple_of(HUGE)
            || address.is_multiple_of(PART) && PART_RECORDS[at].load(Ordering::Relaxed) != 0)
}

/// The record of the huge page at this address.
pub fn page_record(address: u64) -> NonNull<PageRecord> {
    let (at, part) = ((address / HUGE) as usize, (address % HUGE / PART) as usize);
    assert!(at < BLOCKS, "no memory at {address:#x}");
    let (records, index) = if part == 0 {
        (PAGE_RECORDS.0.get().cast::<PageRecord>(), at)
    } else {
        // Acquire: pairs with the Release in `cut`.
        let frame = PART_RECORDS[at].load(Ordering::Acquire);
        assert!(frame != 0, "no page of 64 KiB was ever at {address:#x}");
        (direct(frame), part)
    };
    // SAFETY: inside the array of all blocks, or the frame of the parts of one.
    let record = unsafe { records.add(index) };
    // SAFETY: part of a static, or in the direct map, which does not begin at 0.
    unsafe { NonNull::new_unchecked(record) }
}
