//! Access to the contents of huge pages, where the platform maps them at an address.
//!
//! Processors read and write the same bytes meanwhile. So every access is a relaxed atomic one, of
//! a whole word where possible.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();

/// The address `offset` bytes on.
pub(super) fn at_offset(start: NonNull<u8>, offset: usize) -> NonNull<u8> {
    start.map_addr(|address| address.saturating_add(offset))
}

/// Fills bytes with zeroes.
///
/// # Safety
///
/// The bytes are mapped and writable, and Rust code reaches them by atomics and raw memory only.
pub(super) unsafe fn zero(to: NonNull<u8>, length: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        each(
            to,
            length,
            |_, word| word.store(0, Ordering::Relaxed),
            |_, byte| byte.store(0, Ordering::Relaxed),
        );
    }
}

/// Copies one page to another.
///
/// # Safety
///
/// As for [`zero`], for both. Both are aligned to a word, and they do not overlap.
pub(super) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, length: usize) {
    let word = |at: usize, word: &AtomicU64| {
        // SAFETY: within the caller's first range, and as aligned as the place in the second.
        let from = unsafe { at_offset(from, at).cast::<AtomicU64>().as_ref() };
        word.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    };
    let byte = |at: usize, byte: &AtomicU8| {
        // SAFETY: within the caller's first range.
        let from = unsafe { at_offset(from, at).cast::<AtomicU8>().as_ref() };
        byte.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    };
    // SAFETY: passed on to the caller.
    unsafe { each(to, length, word, byte) };
}

/// Copies bytes out of a page.
///
/// # Safety
///
/// As for [`zero`], of as many bytes as `into` has.
pub(super) unsafe fn read(from: NonNull<u8>, into: &mut [u8]) {
    let into = core::cell::Cell::from_mut(into).as_slice_of_cells();
    let word = |at: usize, word: &AtomicU64| {
        let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        for (to, byte) in into.iter().skip(at).zip(bytes) {
            to.set(byte);
        }
    };
    let byte = |at: usize, byte: &AtomicU8| into[at].set(byte.load(Ordering::Relaxed));
    // SAFETY: passed on to the caller.
    unsafe { each(from, into.len(), word, byte) };
}

/// Copies bytes into a page.
///
/// # Safety
///
/// As for [`zero`], of as many bytes as `from` has.
pub(super) unsafe fn write(to: NonNull<u8>, from: &[u8]) {
    let word = |at: usize, word: &AtomicU64| {
        if let Some(bytes) = from.get(at..).and_then(<[u8]>::first_chunk) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    };
    let byte = |at: usize, byte: &AtomicU8| byte.store(from[at], Ordering::Relaxed);
    // SAFETY: passed on to the caller.
    unsafe { each(to, from.len(), word, byte) };
}

/// Calls `word` for each aligned word of the range, with its offset, and `byte` for the bytes before and after them.
///
/// # Safety
///
/// As for [`zero`].
unsafe fn each(
    start: NonNull<u8>,
    length: usize,
    word: impl Fn(usize, &AtomicU64),
    byte: impl Fn(usize, &AtomicU8),
) {
    let head = start.addr().get().wrapping_neg() % WORD;
    let head = head.min(length);
    let words_end = length - (length - head) % WORD;
    // SAFETY: within the range, by the caller.
    let byte_at = |at: usize| byte(at, unsafe { at_offset(start, at).cast().as_ref() });
    (0..head).for_each(byte_at);
    for at in (head..words_end).step_by(WORD) {
        // SAFETY: within the range, and aligned: `head` bytes lead to the first aligned place.
        word(at, unsafe { at_offset(start, at).cast().as_ref() });
    }
    (words_end..length).for_each(byte_at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[repr(align(8))]
    struct Bytes([u8; 64]);

    #[test]
    fn exactly_the_bytes_asked_for_are_touched() {
        for (start, length) in [(0, 0), (0, 64), (3, 1), (5, 30), (8, 17), (1, 63), (7, 2), (6, 1), (16, 8)] {
            let inside = |at: usize| (start..start + length).contains(&at);
            let source: Vec<u8> = (0..length as u8).map(|byte| byte + 1).collect();
            let mut page = Bytes([0xff; 64]);
            let at = NonNull::from(&mut page.0[start..]).cast();
            // SAFETY: `length` bytes from `start` on lie in the array, which is ours.
            unsafe { write(at, &source) };
            let expected: Vec<u8> =
                (0..64).map(|at| if inside(at) { (at - start) as u8 + 1 } else { 0xff }).collect();
            assert_eq!(page.0[..], expected, "{start}, {length}");

            let mut copy_of = Bytes([0; 64]);
            // SAFETY: both are whole and aligned.
            unsafe {
                copy(NonNull::from(&mut page.0).cast(), NonNull::from(&mut copy_of.0).cast(), 64);
            }
            assert_eq!(copy_of.0, page.0);

            let mut into = vec![0; length];
            let at = NonNull::from(&mut page.0[start..]).cast();
            // SAFETY: as for `write`.
            unsafe { read(at, &mut into) };
            assert_eq!(into, source, "{start}, {length}");

            let at = NonNull::from(&mut page.0[start..]).cast();
            // SAFETY: as for `write`.
            unsafe { zero(at, length) };
            let expected: Vec<u8> = (0..64).map(|at| if inside(at) { 0 } else { 0xff }).collect();
            assert_eq!(page.0[..], expected, "{start}, {length}");
        }
    }
}
