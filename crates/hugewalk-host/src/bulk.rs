//! Copying and zeroing memory that other threads, other processes or a virtual machine may use at
//! the same time.
//!
//! In Rust a data race is undefined behaviour even if it does not matter which value wins. So this
//! memory is accessed by atomics and by this module only. On x86-64 the module uses string
//! instructions: the compiler cannot look into them, they stand for a row of relaxed atomic byte
//! accesses, and they are as fast as `memset` and `memcpy`. Elsewhere it uses a row of relaxed
//! atomics.

use core::ptr::NonNull;

/// Fills `length` bytes with zeroes.
///
/// # Safety
///
/// The bytes are mapped and writable, and Rust code accesses them by atomics and raw memory only.
pub(crate) unsafe fn zero(to: NonNull<u8>, length: usize) {
    // SAFETY: passed on to the caller.
    unsafe { row::zero(to.as_ptr(), length) }
}

/// Copies `length` bytes that do not overlap.
///
/// # Safety
///
/// Both ranges are mapped, and the second is writable. Each either belongs to the caller, or Rust
/// code accesses it by atomics and raw memory only.
pub(crate) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, length: usize) {
    // SAFETY: passed on to the caller.
    unsafe { row::copy(from.as_ptr(), to.as_ptr(), length) }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod row {
    use core::arch::asm;

    pub(super) unsafe fn zero(to: *mut u8, length: usize) {
        // SAFETY: writes `length` bytes from `to` on, as the caller allows; the ABI keeps the direction flag clear.
        unsafe {
            asm!(
                "rep stosb",
                inout("rcx") length => _,
                inout("rdi") to => _,
                in("al") 0u8,
                options(nostack, preserves_flags),
            );
        }
    }

    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
        // SAFETY: reads and writes `length` bytes, as the caller allows; the ABI keeps the direction flag clear.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") length => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(any(not(target_arch = "x86_64"), miri))]
mod row {
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    const WORD: usize = size_of::<u64>();

    pub(super) unsafe fn zero(to: *mut u8, length: usize) {
        let mut done = 0;
        while done < length {
            let at = to.wrapping_add(done);
            if at.addr() % WORD == 0 && length - done >= WORD {
                // SAFETY: an aligned word inside the caller's range.
                unsafe { AtomicU64::from_ptr(at.cast()) }.store(0, Ordering::Relaxed);
                done += WORD;
            } else {
                // SAFETY: a byte inside the caller's range.
                unsafe { AtomicU8::from_ptr(at) }.store(0, Ordering::Relaxed);
                done += 1;
            }
        }
    }

    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
        let mut done = 0;
        while done < length {
            let (source, target) = (from.wrapping_add(done).cast_mut(), to.wrapping_add(done));
            if source.addr() % WORD == 0 && target.addr() % WORD == 0 && length - done >= WORD {
                // SAFETY: an aligned word inside the caller's first range, only read.
                let word = unsafe { AtomicU64::from_ptr(source.cast()) }.load(Ordering::Relaxed);
                // SAFETY: an aligned word inside the caller's second range.
                unsafe { AtomicU64::from_ptr(target.cast()) }.store(word, Ordering::Relaxed);
                done += WORD;
            } else {
                // SAFETY: a byte inside the caller's first range, only read.
                let byte = unsafe { AtomicU8::from_ptr(source) }.load(Ordering::Relaxed);
                // SAFETY: a byte inside the caller's second range.
                unsafe { AtomicU8::from_ptr(target) }.store(byte, Ordering::Relaxed);
                done += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_bytes_asked_for_are_copied_and_zeroed() {
        for (start, length) in [(0, 0), (0, 64), (3, 1), (5, 30), (8, 17), (1, 63)] {
            let mut from: Vec<u8> = (1..=64).collect();
            let mut to = vec![0xff; 64];
            let source = NonNull::from(&mut from[start..]).cast();
            let target = NonNull::from(&mut to[start..]).cast();
            // SAFETY: both vectors hold `length` bytes from `start` on, and are ours.
            unsafe { copy(source, target, length) };
            let copied: Vec<u8> = (0..64)
                .map(|i| if (start..start + length).contains(&i) { i as u8 + 1 } else { 0xff })
                .collect();
            assert_eq!(to, copied);
            let target = NonNull::from(&mut to[start..]).cast();
            // SAFETY: as above.
            unsafe { zero(target, length) };
            let zeroed: Vec<u8> = copied.iter().map(|&byte| if byte == 0xff { 0xff } else { 0 }).collect();
            assert_eq!(to, zeroed);
        }
    }
}
