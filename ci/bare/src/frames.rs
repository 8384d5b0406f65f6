//! Huge frames with contents: memory of the program's own, aligned so that every frame could be a leaf of 2 MiB.
//!
//! Under `pvh` all memory is mapped at its physical address, so what [`base`] returns is the physical address too.

use core::cell::UnsafeCell;
use core::ptr::NonNull;

/// Bytes in one huge frame.
pub const FRAME_SIZE: usize = 2 << 20;

/// How many huge frames there are.
pub const FRAMES: usize = 16;

#[repr(C, align(0x20_0000))]
struct Memory(UnsafeCell<[u8; FRAMES * FRAME_SIZE]>);

// SAFETY: nothing here reads or writes the bytes; whoever is given the frames decides who may.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; FRAMES * FRAME_SIZE]));

/// The first byte of the first frame. The others follow without a gap; all are zero at start.
pub fn base() -> NonNull<u8> {
    NonNull::from(&MEMORY).cast()
}
