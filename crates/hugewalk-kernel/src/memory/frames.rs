//! Frames: the machine's memory in blocks of 2 MiB, each a huge page, 32 pages of 64 KiB, or 512 frames of 4 KiB.
//!
//! A block is free, a huge page, or cut into parts or frames: [`huge`] has the pages, this room the frames. A block that is cut for the engine's tables keeps their records in its
//! first frames: a frame's number leads to its record, and a block without tables has none. A block whose frames are all free
//! is whole again.
//!
//! In a build for weaker protocols nothing that a program or a processor can still reach is handed out again: freed tables and base pages
//! stay as they are, and what was a huge page is never anything else.
//!
//! Programs cannot have the last blocks: the kernel needs memory to free memory ([`Memory::spares`]).
//!
//! One spinning lock guards it all. Nothing is called under it.

pub mod huge;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hugewalk::platform::TableRecord;
use spin::Mutex;

use super::{HUGE, PAGE, direct};
use crate::boot::Range;
use crate::platform::protocol;

/// Blocks of physical memory at most: 64 GiB.
const BLOCKS: usize = 32 << 10;
/// Blocks that programs cannot have: 16 MiB, or a thirty-second part of a small machine.
const KEPT_BLOCKS: usize = 8;
/// Frames in a block.
const FRAMES: usize = (HUGE / PAGE) as usize;
/// Frames at the start of a block of tables that hold the records.
const RECORDS: usize = FRAMES * size_of::<TableRecord>() / PAGE as usize;

/// What a block of 2 MiB is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It is not memory, or not all of it is ours.
    Reserved,
    Free,
    /// A huge page, or a part of one.
    Huge,
    /// Huge pages of 64 KiB.
    Parts,
    Frames,
    Tables,
}

#[derive(Clone, Copy)]
struct Block {
    usage: Use,
    /// Frames in use, or parts. Of a huge page: how many blocks of it lie before, at most 1.
    used: u16,
    /// A bit for each frame in use, or for each part.
    map: [u64; FRAMES / 64],
}

impl Block {
    const fn of(usage: Use) -> Self {
        Self { usage, used: 0, map: [0; FRAMES / 64] }
    }
}

/// What frames are counted by, for the report and the search for leaks.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// Contents of programs and files.
    Base,
    /// Tables of the kernel's own: roots, and what lies above base pages.
    Table,
    /// Tables of the engine.
    Engine,
    /// The heap and kernel stacks, which keep what they took.
    Kernel,
}

static IN_USE: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];
static MOST: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];

/// Frames of this kind in use.
pub fn in_use(kind: Kind) -> usize {
    IN_USE[kind as usize].load(Ordering::Relaxed)
}

/// The most that ever were.
pub fn most(kind: Kind) -> usize {
    MOST[kind as usize].load(Ordering::Relaxed)
}

fn count(kind: Kind, frames: usize) {
    let now = IN_USE[kind as usize].fetch_add(frames, Ordering::Relaxed) + frames;
    MOST[kind as usize].fetch_max(now, Ordering::Relaxed);
}

struct Memory {
    blocks: [Block; BLOCKS],
    /// Blocks behind this one are not memory, or not mapped yet.
    end: usize,
    /// Blocks behind this one are not memory.
    all: usize,
    /// Where the last search for a frame of each kind of block ended.
    hints: [usize; 2],
    /// The same for parts.
    part_hint: usize,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory {
    blocks: [Block::of(Use::Reserved); BLOCKS],
    end: 0,
    all: 0,
    hints: [0; 2],
    part_hint: 0,
});

/// How often a base page is mapped or held by a file: [`page`](super::page) uses it. One for each frame, made at the start.
static COUNTS: AtomicU64 = AtomicU64::new(0);

/// Takes the memory of these ranges, except what lies below 2 MiB or in `taken`; the first `mapped` bytes are mapped. Called once, at the start.
pub fn set_up(ranges: impl Iterator<Item = Range>, taken: &[Range], mapped: u64) {
    let end = {
        let mut memory = MEMORY.lock();
        for range in ranges {
            let first = range.start.div_ceil(HUGE);
            let end = (range.end / HUGE).min(BLOCKS as u64);
            for block in first.max(1)..end {
                let bytes = block * HUGE..(block + 1) * HUGE;
                if taken.iter().any(|taken| taken.start < bytes.end && bytes.start < taken.end) {
                    continue;
                }
                memory.blocks[block as usize].usage = Use::Free;
                memory.all = memory.all.max(block as usize + 1);
            }
        }
        // What lies above what is mapped is used once `use_all` is called.
        memory.end = memory.all.min((mapped / HUGE) as usize);
        memory.all
    };
    let bytes = end as u64 * FRAMES as u64 * size_of::<AtomicU32>() as u64;
    let counts = run(bytes.div_ceil(PAGE) as usize, Kind::Kernel)
        .expect("a machine with less memory cannot run anything");
    // SAFETY: the frames were just allocated, and are as large.
    unsafe { direct::<u8>(counts).write_bytes(0, bytes as usize) };
    COUNTS.store(counts, Ordering::Relaxed);
}

/// The first address behind all memory.
pub fn end() -> u64 {
    MEMORY.lock().all as u64 * HUGE
}

/// All memory is mapped, and can be handed out.
pub fn use_all() {
    let mut memory = MEMORY.lock();
    memory.end = memory.all;
}

/// Bytes of memory, and how many of them are free.
pub fn totals() -> (u64, u64) {
    let memory = MEMORY.lock();
    let mut totals = (0, 0);
    for block in &memory.blocks[..memory.end] {
        totals.0 += if block.usage == Use::Reserved { 0 } else { HUGE };
        totals.1 += match block.usage {
            Use::Free => HUGE,
            Use::Frames => HUGE - u64::from(block.used) * PAGE,
            Use::Parts => HUGE - u64::from(block.used) * huge::PART,
            _ => 0,
        };
    }
    totals
}

/// The count of a base page.
pub(super) fn references(frame: u64) -> &'static AtomicU32 {
    let counts = direct::<AtomicU32>(COUNTS.load(Ordering::Relaxed));
    // SAFETY: the frame is one that was handed out, so its count lies in the array, which stays for ever.
    let count = unsafe { counts.add((frame / PAGE) as usize) };
    // SAFETY: as above; counts are atomics.
    unsafe { &*count }
}

impl Memory {
    /// May programs have so many free blocks more? A part of them is left to the kernel, which has to go on when programs have taken all:
    /// an end of a process, for example, allocates before it frees.
    fn spares(&self, blocks: usize) -> bool {
        let kept = KEPT_BLOCKS.min(self.end / 32);
        let free = self.blocks[..self.end].iter().filter(|block| block.usage == Use::Free);
        free.take(blocks + kept).count() == blocks + kept
    }

    fn frame(&mut self, usage: Use, kind: Kind) -> Option<u64> {
        let tables = usage == Use::Tables;
        let hint = self.hints[usize::from(tables)];
        let end = self.end;
        let around = || (hint..end).chain(0..hint.min(end));
        let cut = around().find(|at| {
            let block = &self.blocks[*at];
            block.usage == usage && usize::from(block.used) < FRAMES
        });
        if cut.is_none() && kind != Kind::Kernel && !self.spares(1) {
            return None;
        }
        // From the top, so that what lives long is away from what huge pages are cut from.
        let at = cut.or_else(|| (0..end).rev().find(|at| self.blocks[*at].usage == Use::Free))?;
        let block = &mut self.blocks[at];
        if cut.is_none() {
            *block = Block::of(usage);
            if tables {
                block.map[0] = (1 << RECORDS) - 1;
                block.used = RECORDS as u16;
            }
        }
        let (word, bits) = block.map.iter_mut().enumerate().find(|(_, bits)| **bits != u64::MAX)?;
        let bit = bits.trailing_ones() as usize;
        *bits |= 1 << bit;
        block.used += 1;
        self.hints[usize::from(tables)] = at;
        Some(at as u64 * HUGE + (word * 64 + bit) as u64 * PAGE)
    }

    fn free(&mut self, frame: u64, usage: Use) {
        let at = (frame / HUGE) as usize;
        let index = (frame % HUGE / PAGE) as usize;
        let block = &mut self.blocks[at];
        assert!(
            block.usage == usage && block.map[index / 64] & 1 << (index % 64) != 0,
            "frame {frame:#x} freed twice"
        );
        block.map[index / 64] &= !(1 << (index % 64));
        block.used -= 1;
        let least = if usage == Use::Tables { RECORDS } else { 0 };
        if usize::from(block.used) == least {
            block.usage = Use::Free;
        }
    }
}

/// Allocates a frame with any contents: its address.
pub fn allocate(kind: Kind) -> Option<u64> {
    let usage = if kind == Kind::Engine { Use::Tables } else { Use::Frames };
    let frame = MEMORY.lock().frame(usage, kind)?;
    count(kind, 1);
    Some(frame)
}

/// As [`allocate`], filled with zeroes.
pub fn allocate_zeroed(kind: Kind) -> Option<u64> {
    let frame = allocate(kind)?;
    // SAFETY: just allocated.
    unsafe { clear(frame) };
    Some(frame)
}

/// Fills a frame with zeroes.
///
/// # Safety
///
/// The caller owns the frame.
pub unsafe fn clear(frame: u64) {
    // SAFETY: passed on to the caller.
    unsafe { direct::<u8>(frame).write_bytes(0, PAGE as usize) };
}

/// Takes a frame back.
///
/// # Safety
///
/// It came from [`allocate`] with this kind, and nothing reaches it any more.
pub unsafe fn free(frame: u64, kind: Kind) {
    IN_USE[kind as usize].fetch_sub(1, Ordering::Relaxed);
    if protocol::WEAKER && kind != Kind::Kernel {
        return keep(frame, kind);
    }
    let usage = if kind == Kind::Engine { Use::Tables } else { Use::Frames };
    MEMORY.lock().free(frame, usage);
}

/// What the count of a frame says if a table of the engine's lay there.
const FREED: u32 = u32::MAX;
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Frames that were freed and are not handed out again.
pub fn kept() -> u64 {
    KEPT.load(Ordering::Relaxed)
}

/// Tables of the engine's that were given back with an entry in them. Whoever gives up the last use of a table has cleared all
/// entries; so one was stored since.
static NOT_EMPTY: AtomicU64 = AtomicU64::new(0);

/// Keeps a freed frame for ever.
fn keep(frame: u64, kind: Kind) {
    KEPT.fetch_add(1, Ordering::Relaxed);
    if kind == Kind::Engine {
        // The program's half of a root, and all of other tables; the kernel's half stays, for a processor that has it loaded.
        let entries = entries(frame).iter().take(FRAMES / 2);
        let left = entries.filter(|entry| entry.swap(0, Ordering::Relaxed) != 0).count();
        NOT_EMPTY.fetch_add(u64::from(left > 0), Ordering::Relaxed);
        references(frame).store(FREED, Ordering::Release);
    }
}

/// The entries of a table.
fn entries(frame: u64) -> &'static [AtomicU64; FRAMES] {
    // SAFETY: a frame of the direct map, which is a table for ever: in the build that asks, none is handed out twice.
    unsafe { &*direct::<[AtomicU64; FRAMES]>(frame) }
}

/// Was this frame a table of the engine's that was freed? Only where freed frames are kept.
pub fn is_freed_table(frame: u64) -> bool {
    references(frame).load(Ordering::Acquire) == FREED
}

/// How many freed tables of the engine's hold entries in the half that every table has from programs, or did when their memory was
/// given back.
pub fn changed_freed_tables() -> u64 {
    let memory = MEMORY.lock();
    let tables =
        memory.blocks[..memory.end].iter().enumerate().filter(|(_, block)| block.usage == Use::Tables);
    let frames =
        tables.flat_map(|(at, _)| (RECORDS..FRAMES).map(move |index| at as u64 * HUGE + index as u64 * PAGE));
    let stored =
        |frame: u64| entries(frame).iter().take(FRAMES / 2).any(|entry| entry.load(Ordering::Relaxed) != 0);
    let changed = frames.filter(|frame| is_freed_table(*frame) && stored(*frame)).count() as u64;
    changed + NOT_EMPTY.load(Ordering::Relaxed)
}

/// Allocates so many frames in a row, for ever: at most a block, or whole blocks.
pub fn run(frames: usize, kind: Kind) -> Option<u64> {
    let mut memory = MEMORY.lock();
    let blocks = frames.div_ceil(FRAMES);
    let end = memory.end;
    if frames < FRAMES {
        // In a block that is cut already, if it has the room.
        for at in 0..end {
            let block = &memory.blocks[at];
            if block.usage != Use::Frames || FRAMES - usize::from(block.used) < frames {
                continue;
            }
            let taken = |index: usize| block.map[index / 64] & 1 << (index % 64) != 0;
            let mut first = 0;
            while let Some(start) = (first..=FRAMES - frames).find(|at| !taken(*at)) {
                match (start..start + frames).find(|at| taken(*at)) {
                    Some(in_the_way) => first = in_the_way + 1,
                    None => return Some(memory.take(at, start, frames, kind)),
                }
            }
        }
    }
    let last = end.checked_sub(blocks)?;
    let start = (0..=last)
        .rev()
        .find(|at| memory.blocks[*at..at + blocks].iter().all(|block| block.usage == Use::Free))?;
    for at in start..start + blocks {
        memory.blocks[at] = Block::of(Use::Frames);
        let here = frames - (at - start) * FRAMES;
        memory.take(at, 0, here.min(FRAMES), kind);
    }
    Some(start as u64 * HUGE)
}

impl Memory {
    fn take(&mut self, at: usize, start: usize, frames: usize, kind: Kind) -> u64 {
        for index in start..start + frames {
            self.blocks[at].map[index / 64] |= 1 << (index % 64);
        }
        self.blocks[at].used += frames as u16;
        count(kind, frames);
        at as u64 * HUGE + start as u64 * PAGE
    }
}

/// Takes back frames that [`run`] allocated in a row.
///
/// # Safety
///
/// As for [`free`], for each of them.
pub unsafe fn free_run(start: u64, frames: usize, kind: Kind) {
    for index in 0..frames as u64 {
        // SAFETY: passed on to the caller.
        unsafe { free(start + index * PAGE, kind) };
    }
}

/// The record of the engine's table in this frame.
pub fn table_record(frame: u64) -> NonNull<TableRecord> {
    let records = direct::<TableRecord>(frame / HUGE * HUGE);
    let index = (frame % HUGE / PAGE) as usize;
    // SAFETY: the block is one of tables, so its first frames are records, one for each frame.
    let record = unsafe { records.add(index) };
    // SAFETY: in the direct map, which does not begin at 0.
    unsafe { NonNull::new_unchecked(record) }
}
