//! The stack of a thread that has not run yet: what `switch_stacks` in `entry.s` finds there.

use core::ptr;

use super::Frame;

unsafe extern "C" {
    fn begin_user_thread();
    fn begin_kernel_thread();
    /// Saves what a call must preserve, and goes on where `new` stopped.
    pub fn switch_stacks(old: *mut u64, new: u64);
}

/// Where a way in of `entry.s` is.
fn address(entry: unsafe extern "C" fn()) -> u64 {
    entry as *const () as u64
}

/// # Safety
///
/// The stack below `top` is nobody's yet.
unsafe fn push(top: u64, words: [u64; 7]) -> u64 {
    let saved = top - size_of_val(&words) as u64;
    // SAFETY: passed on to the caller.
    unsafe { ptr::with_exposed_provenance_mut::<[u64; 7]>(saved as usize).write(words) };
    saved
}

/// A thread that begins with a program's registers: what to switch to.
///
/// # Safety
///
/// The stack below `top` is nobody's yet.
pub unsafe fn user(top: u64, frame: Frame) -> u64 {
    let frame_at = top - size_of::<Frame>() as u64;
    // SAFETY: passed on to the caller.
    unsafe { ptr::with_exposed_provenance_mut::<Frame>(frame_at as usize).write(frame) };
    // SAFETY: passed on to the caller; below the frame.
    unsafe { push(frame_at, [0, 0, 0, 0, 0, 0, address(begin_user_thread)]) }
}

/// A thread of the kernel's, which begins with a function: what to switch to.
///
/// # Safety
///
/// The stack below `top` is nobody's yet.
pub unsafe fn kernel(top: u64, main: extern "C" fn(u64), argument: u64) -> u64 {
    // SAFETY: passed on to the caller.
    unsafe { push(top, [0, 0, main as usize as u64, argument, 0, 0, address(begin_kernel_thread)]) }
}
