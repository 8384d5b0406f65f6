//! The machine's memory: the direct map, frames, the heap, kernel stacks, and copies to and from programs.
//!
//! All physical memory is mapped at [`DIRECT`]. So a physical address leads to its bytes by an addition.

pub mod frames;
pub mod heap;
pub mod page;
pub mod stack;
pub mod user;

use core::slice;

/// Bytes of a base page.
pub const PAGE: u64 = 4096;
/// Bytes of a huge page.
pub const HUGE: u64 = 2 << 20;
/// Where physical memory is mapped.
const DIRECT: u64 = 0xffff_8000_0000_0000;
/// The first address that programs cannot have.
pub const USER_END: u64 = (1 << 47) - PAGE;

/// Where physical memory of this address is mapped.
pub fn direct<T>(address: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut((DIRECT + address) as usize)
}

/// The physical address of memory in the direct map.
pub fn physical<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64 - DIRECT
}

/// Bytes of physical memory.
///
/// # Safety
///
/// The range is memory, in the direct map, and is not written as long as the slice exists.
pub unsafe fn direct_slice(address: u64, length: usize) -> &'static [u8] {
    // SAFETY: passed on to the caller.
    unsafe { slice::from_raw_parts(direct(address), length) }
}
