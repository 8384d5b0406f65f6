//! The symbols the compiler expects of every program, whoever wrote it.
//!
//! `core` and `alloc` come compiled for a target that has a C library and unwinds; here is nobody else to bring these. The
//! memory functions are written in assembly, because a loop in Rust may be compiled into a call of the very function it
//! implements. They move 16 bytes at a time: string instructions are ten times slower under emulation.

use core::arch::asm;
use core::ffi::c_int;

/// Copies `count` bytes. C: `memcpy`.
///
/// # Safety
///
/// Both ranges are valid for `count` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges. Goes upwards, and each turn reads before it writes.
    unsafe {
        asm!(
            "2:",
            "cmp rcx, 16",
            "jb 3f",
            "movups xmm0, [rsi]",
            "movups [rdi], xmm0",
            "add rsi, 16",
            "add rdi, 16",
            "sub rcx, 16",
            "jmp 2b",
            "3:",
            "test rcx, rcx",
            "jz 4f",
            "mov al, [rsi]",
            "mov [rdi], al",
            "inc rsi",
            "inc rdi",
            "dec rcx",
            "jmp 3b",
            "4:",
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") count => _,
            out("al") _,
            out("xmm0") _,
            options(nostack),
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
    let distance = (to as usize).wrapping_sub(from as usize);
    if distance >= count {
        // SAFETY: `to` is not inside `from..from + count`, so upwards no byte is overwritten before it is read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller vouches for both ranges; downwards each byte is read before it is overwritten.
    unsafe {
        asm!(
            "2:",
            "test rcx, rcx",
            "jz 3f",
            "mov al, [rsi + rcx - 1]",
            "mov [rdi + rcx - 1], al",
            "dec rcx",
            "jmp 2b",
            "3:",
            in("rdi") to,
            in("rsi") from,
            inout("rcx") count => _,
            out("al") _,
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
    let bytes = u64::from(value as u8) * 0x0101_0101_0101_0101;
    // SAFETY: the caller vouches for the range.
    unsafe {
        asm!(
            "movq xmm0, rax",
            "punpcklqdq xmm0, xmm0",
            "2:",
            "cmp rcx, 16",
            "jb 3f",
            "movups [rdi], xmm0",
            "add rdi, 16",
            "sub rcx, 16",
            "jmp 2b",
            "3:",
            "test rcx, rcx",
            "jz 4f",
            "mov [rdi], al",
            "inc rdi",
            "dec rcx",
            "jmp 3b",
            "4:",
            inout("rdi") to => _,
            inout("rcx") count => _,
            in("rax") bytes,
            out("xmm0") _,
            options(nostack),
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

/// The length of a string, for `CStr`. C: `strlen`.
///
/// # Safety
///
/// A zero byte follows.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(start: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: ends at the zero byte of the contract. Volatile, as in `memcmp`.
    while unsafe { start.wrapping_add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Named by the unwind tables of `core` and `alloc`; a panic here never unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Named by the landing pads of `alloc`, which are never landed on.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding in a program that aborts on panic")
}
