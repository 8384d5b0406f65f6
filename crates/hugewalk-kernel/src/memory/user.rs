//! Copies to and from the running program's memory.
//!
//! The copy itself may fault: then it stops (`user_copy` in the architecture's `entry.s`), the fault is resolved here, as one of the program,
//! and the copy goes on. So a fault in ring 0 needs no stack, no lock and no state of its own.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use hugewalk::Task;
use hugewalk::error::BadSource;
use hugewalk::fault::Access;
use hugewalk::source::{Room, Source};

use super::{PAGE, USER_END};
use crate::errno::{Errno, Result};
use crate::platform::Kernel;
use crate::space::fault::Refused;
use crate::task::current;

unsafe extern "C" {
    fn user_copy(to: *mut u8, from: *const u8, count: usize) -> usize;
    fn user_exchange(at: *mut u32, old: u32, new: u32) -> usize;
}

/// Values that a program may hand over: any bytes are one, and there are no gaps.
///
/// # Safety
///
/// Both are true of the type.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty)*) => {
        // SAFETY: integers, and arrays of them.
        $(unsafe impl Plain for $type {})*
    };
}
plain!(u8 u16 u32 u64 i32 i64);
// SAFETY: arrays of plain values have no gaps between them.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

fn check(address: u64, length: usize) -> Result<()> {
    let end = address.checked_add(length as u64);
    if end.is_some_and(|end| end <= USER_END) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies until all is done, or a fault is refused. Returns how much is done: all that comes before the page that was refused.
/// `step` copies from one place to another, and returns how much is left.
fn copy(
    user: u64,
    length: usize,
    access: Access,
    mut step: impl FnMut(usize, usize) -> usize,
) -> (usize, Option<Refused>) {
    let (mut done, mut end, mut beyond) = (0, length, None);
    loop {
        done = end - step(done, end);
        if done == end {
            return (done, beyond);
        }
        // The access that faulted is of one to eight bytes, and may lie in two pages.
        let first = user + done as u64;
        let last = user + (done + 7).min(end - 1) as u64;
        let space = current().space();
        if let Err(refused) = space.fault(first, access) {
            return (done, Some(refused));
        }
        if first / PAGE != last / PAGE
            && let Err(refused) = space.fault(last, access)
        {
            // The bytes before the second page can be copied.
            end = (last / PAGE * PAGE - user) as usize;
            beyond = Some(refused);
        }
    }
}

/// Copies bytes in from the program. As many as can be had; all of them, or the error with the count.
///
/// # Errors
///
/// `EFAULT` if the first byte cannot be had.
pub fn read_some(address: u64, into: &mut [u8]) -> Result<usize> {
    if into.is_empty() {
        return Ok(0);
    }
    check(address, into.len())?;
    let length = into.len();
    let (done, refused) = copy(address, length, Access::Read, |done, end| {
        let from = core::ptr::with_exposed_provenance((address as usize) + done);
        let rest = &mut into[done..end];
        // SAFETY: the destination is all of `rest`; the source is a program's, where a fault is expected.
        unsafe { user_copy(rest.as_mut_ptr(), from, rest.len()) }
    });
    match refused {
        Some(refused) if done == 0 => Err(refused.errno()),
        _ => Ok(done),
    }
}

/// Copies bytes out to the program, as many as it takes.
///
/// # Errors
///
/// `EFAULT` if it takes none.
pub fn write_some(address: u64, from: &[u8]) -> Result<usize> {
    if from.is_empty() {
        return Ok(0);
    }
    check(address, from.len())?;
    let length = from.len();
    let (done, refused) = copy(address, length, Access::Write, |done, end| {
        let to = core::ptr::with_exposed_provenance_mut((address as usize) + done);
        let rest = &from[done..end];
        // SAFETY: the source is all of `rest`; the destination is a program's, where a fault is expected.
        unsafe { user_copy(to, rest.as_ptr(), rest.len()) }
    });
    match refused {
        Some(refused) if done == 0 => Err(refused.errno()),
        _ => Ok(done),
    }
}

/// Copies all bytes in.
///
/// # Errors
///
/// `EFAULT`.
pub fn read(address: u64, into: &mut [u8]) -> Result<()> {
    let length = into.len();
    if read_some(address, into)? == length { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies all bytes out.
///
/// # Errors
///
/// `EFAULT`.
pub fn write(address: u64, from: &[u8]) -> Result<()> {
    if write_some(address, from)? == from.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads a value.
///
/// # Errors
///
/// `EFAULT`.
pub fn get<T: Plain>(address: u64) -> Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of the value, which are initialised.
    let bytes = unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    read(address, bytes)?;
    // SAFETY: any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

/// Writes a value.
///
/// # Errors
///
/// `EFAULT`.
pub fn put<T: Plain>(address: u64, value: &T) -> Result<()> {
    // SAFETY: a plain value has no gaps, so all its bytes are initialised.
    let bytes =
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) };
    write(address, bytes)
}

/// Reads a string up to its NUL, of `limit` bytes at most.
///
/// # Errors
///
/// `EFAULT`, `ENAMETOOLONG`.
pub fn string(address: u64, limit: usize) -> Result<String> {
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        let at = address + bytes.len() as u64;
        // Up to the end of the page: what lies behind the string need not be mapped.
        let count = (PAGE - at % PAGE).min(256) as usize;
        let mut piece = [0; 256];
        let got = read_some(at, &mut piece[..count])?;
        if got == 0 {
            return Err(Errno::EFAULT);
        }
        if let Some(end) = piece[..got].iter().position(|byte| *byte == 0) {
            bytes.extend_from_slice(&piece[..end]);
            return String::from_utf8(bytes).map_err(|_| Errno::EINVAL);
        }
        bytes.extend_from_slice(&piece[..got]);
    }
    Err(Errno::ENAMETOOLONG)
}

/// Reads a word as it is, without resolving a fault: for callers with a spinning lock. `None` if it faults.
pub fn peek(address: u64) -> Option<u32> {
    check(address, 4).ok()?;
    let mut value = 0_u32;
    let from = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the destination is `value`; the source is a program's, where a fault is expected.
    let left = unsafe { user_copy((&raw mut value).cast(), from, 4) };
    (left == 0).then_some(value)
}

/// Exchanges a word for another if it is the expected one. False if it is not.
///
/// # Errors
///
/// `EFAULT`.
pub fn exchange(address: u64, old: u32, new: u32) -> Result<bool> {
    check(address, 4)?;
    loop {
        let at = core::ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: the word is a program's, where a fault is expected.
        match unsafe { user_exchange(at, old, new) } {
            0 => return Ok(true),
            1 => return Ok(false),
            _ => current().space().fault(address, Access::Write).map_err(Refused::errno)?,
        }
    }
}

/// The running program's memory from an address on, for the engine to copy from.
pub struct Memory(pub u64);

/// Bytes that go from a program to the engine together.
const PIECE: usize = 1024;

impl Memory {
    /// Copies pieces until there is no room, or `read` has less than a piece.
    fn pieces(
        &self,
        offset: u64,
        room: &mut Room<'_, Kernel>,
        mut read: impl FnMut(u64, &mut [u8]) -> usize,
    ) {
        let mut piece = [0; PIECE];
        let mut at = self.0.saturating_add(offset);
        loop {
            let piece = &mut piece[..room.left().min(PIECE)];
            let count = read(at, piece);
            room.write(&piece[..count]);
            if room.left() == 0 || count < piece.len() {
                return;
            }
            at = at.saturating_add(count as u64);
        }
    }
}

impl Source<Kernel> for Memory {
    fn copy_nofault(&mut self, offset: u64, room: &mut Room<'_, Kernel>) {
        self.pieces(offset, room, |at, piece| {
            if check(at, piece.len()).is_err() {
                return 0;
            }
            let from = core::ptr::with_exposed_provenance(at as usize);
            // SAFETY: the destination is all of `piece`; the source is a program's, where a fault is expected.
            let left = unsafe { user_copy(piece.as_mut_ptr(), from, piece.len()) };
            piece.len() - left
        });
    }

    fn copy(
        &mut self,
        offset: u64,
        room: &mut Room<'_, Kernel>,
        task: &mut Task<Kernel>,
    ) -> core::result::Result<(), BadSource> {
        current().lend_task(task, || {
            self.pieces(offset, room, |at, piece| read_some(at, piece).unwrap_or(0));
        });
        Ok(())
    }
}
