//! The symbols the compiler expects of every program, whoever wrote it.
//!
//! `core` and `alloc` come compiled for a target that has a C library and unwinds; here is nobody else to bring these.
//! The four memory functions are string instructions, because a loop in Rust may be compiled into a call of the very
//! function it implements.

use core::arch::asm;
use core::ffi::c_int;

/// Copies `count` bytes. C: `memcpy`.
///
/// # Safety
///
/// Both ranges are valid for `count` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsb",
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") count => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// Copies `count` bytes between ranges that may overlap. C: `memmove`.
///
/// # Safety
///
/// Both ranges are valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    let forward = (to as usize).wrapping_sub(from as usize) >= count;
    if forward {
        // SAFETY: `to` is not inside `from..from + count`, so no byte is overwritten before it is read; the instruction
        // goes upwards byte by byte, so that `from` may lie inside `to..to + count`.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller vouches for both ranges; going down from the last byte reads each byte before overwriting it.
    // The direction flag is clear again at the end, as the ABI wants it.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            inout("rcx") count => _,
            options(nostack),
        );
    }
    to
}

/// Sets `count` bytes to the low byte of `value`. C: `memset`.
///
/// # Safety
///
/// The range is valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: c_int, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep stosb",
            inout("rdi") to => _,
            inout("rcx") count => _,
            in("al") value as u8,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// Compares `count` bytes: below, equal to or above zero as the first difference says. C: `memcmp`.
///
/// # Safety
///
/// Both ranges are valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> c_int {
    for index in 0..count {
        // SAFETY: `index < count`, and the caller vouches for that many bytes of `left`.
        let l = unsafe { left.wrapping_add(index).read_volatile() };
        // SAFETY: the same of `right`. Volatile, so that the loop is not made a call of itself.
        let r = unsafe { right.wrapping_add(index).read_volatile() };
        if l != r {
            return c_int::from(l) - c_int::from(r);
        }
    }
    0
}

/// Compares `count` bytes: zero if equal. The compiler's own shorter `memcmp`.
///
/// # Safety
///
/// Both ranges are valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> c_int {
    // SAFETY: the caller vouches for both ranges.
    unsafe { memcmp(left, right, count) }
}

/// Named by the unwind tables of `core` and `alloc`; a panic here never unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Named by the landing pads of `alloc`, which are never landed on.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding in a program that aborts on panic")
}
