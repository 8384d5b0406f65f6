//! The heap: a list of free blocks in a fixed piece of memory.
//!
//! First fit; neighbours are joined when one is given back. Slow and simple: the proof wants a heap that is not
//! somebody else's, and one that can be asked what is still in use.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use crate::Mutex;

/// Bytes of memory the heap hands out.
pub(crate) const SIZE: usize = 16 << 20;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; SIZE]>);

// SAFETY: the bytes are touched only through `Free`, which is behind a lock, and by whom it hands them to.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; SIZE]));

#[global_allocator]
static HEAP: Heap = Heap(Mutex::new(Free { first: ptr::null_mut(), started: false, in_use: 0 }));

/// The first byte of that memory, which starts at a page.
pub(crate) fn start() -> NonNull<u8> {
    NonNull::from(&MEMORY).cast()
}

/// Bytes handed out and not given back.
pub(crate) fn in_use() -> usize {
    HEAP.0.lock().in_use
}

struct Heap(Mutex<Free>);

// SAFETY: `Free` hands out memory that nobody else holds, of the size and alignment asked for.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().take(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back what `alloc` handed out with this layout.
        unsafe { self.0.lock().give(start, layout) }
    }
}

/// The head of a free block; it stands in the block's own first bytes.
#[repr(C, align(16))]
struct Block {
    /// Bytes of the block, this head included: a multiple of [`UNIT`].
    size: usize,
    next: *mut Block,
}

/// Everything is handed out in multiples of this, so that what is left over has room for a [`Block`].
const UNIT: usize = size_of::<Block>();

/// The free blocks.
///
/// # Invariants
///
/// From `first` on, `next` leads through blocks that lie in [`MEMORY`], by rising address, none touching the next one,
/// and ends in null. Nobody else uses their bytes.
struct Free {
    first: *mut Block,
    started: bool,
    in_use: usize,
}

// SAFETY: the pointers lead into `MEMORY`, which is as good on any processor.
unsafe impl Send for Free {}

impl Free {
    fn take(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if !self.started {
            self.started = true;
            // SAFETY: nothing was handed out yet, so all of `MEMORY` is ours, once.
            unsafe { self.insert(MEMORY.0.get().cast(), SIZE) };
        }
        let size = rounded(layout);
        let mut link: *mut *mut Block = &mut self.first;
        loop {
            // SAFETY: `link` is `first` or the `next` of a block of the list.
            let block = unsafe { *link };
            if block.is_null() {
                return None;
            }
            // SAFETY: a block of the list, by the invariant.
            let Block { size: room, next } = unsafe { block.read() };
            // A multiple of `UNIT`, as block addresses and alignments above it are: nothing, or room for a block.
            let lead = block.cast::<u8>().align_offset(layout.align().max(UNIT));
            if let Some(rest) = room.checked_sub(lead).and_then(|room| room.checked_sub(size)) {
                let start = block.cast::<u8>().wrapping_add(lead);
                let mut after = next;
                if rest > 0 {
                    after = start.wrapping_add(size).cast();
                    // SAFETY: `rest` bytes of the block lie behind what is taken, a multiple of `UNIT`.
                    unsafe { after.write(Block { size: rest, next }) };
                }
                if lead > 0 {
                    // SAFETY: `lead` bytes of the block lie before what is taken, a multiple of `UNIT`.
                    unsafe { block.write(Block { size: lead, next: after }) };
                } else {
                    // SAFETY: as above, `link` is a link of the list.
                    unsafe { *link = after };
                }
                self.in_use += size;
                return NonNull::new(start);
            }
            // SAFETY: a block of the list, by the invariant.
            link = unsafe { &raw mut (*block).next };
        }
    }

    /// # Safety
    ///
    /// `start` was handed out by `take(layout)` and is not used any more.
    unsafe fn give(&mut self, start: *mut u8, layout: Layout) {
        let size = rounded(layout);
        self.in_use -= size;
        // SAFETY: what was handed out is in no block of the list, and the caller does not use it any more.
        unsafe { self.insert(start.cast(), size) };
    }

    /// # Safety
    ///
    /// The `size` bytes at `block` are a piece of [`MEMORY`] that nobody uses and that is in no block of the list; both
    /// are multiples of [`UNIT`].
    unsafe fn insert(&mut self, block: *mut Block, size: usize) {
        let mut before: *mut Block = ptr::null_mut();
        let mut after = self.first;
        while !after.is_null() && after < block {
            before = after;
            // SAFETY: a block of the list, by the invariant.
            after = unsafe { (*after).next };
        }
        // SAFETY: the bytes are ours by the contract; there is room for a head.
        unsafe { block.write(Block { size, next: after }) };
        if before.is_null() {
            self.first = block;
        } else {
            // SAFETY: a block of the list, by the invariant.
            unsafe { (*before).next = block };
        }
        // SAFETY: a block of the list now, with its neighbours in order.
        unsafe { join(block) };
        if !before.is_null() {
            // SAFETY: a block of the list, by the invariant.
            unsafe { join(before) };
        }
    }
}

/// Makes `block` and the one after it one block if they touch.
///
/// # Safety
///
/// `block` is a block of the list, and the list is ours.
unsafe fn join(block: *mut Block) {
    // SAFETY: a block of the list by the contract.
    let Block { size, next } = unsafe { block.read() };
    if block.cast::<u8>().wrapping_add(size) == next.cast() {
        // SAFETY: not null, as no block ends at address zero; so a block of the list.
        let Block { size: more, next } = unsafe { next.read() };
        // SAFETY: a block of the list by the contract.
        unsafe { block.write(Block { size: size + more, next }) };
    }
}

/// The bytes taken for `layout`.
fn rounded(layout: Layout) -> usize {
    // Cannot overflow: a layout's size is at most `isize::MAX`.
    layout.size().max(1).next_multiple_of(UNIT)
}
