//! A process of the kernel as the handler of its own faults.
//!
//! [`open`] and [`carry_out`] run in the process, under the rules of `process.rs`: they neither allocate nor panic.

use std::ptr;

use super::answer::outcome;
use super::wire::{UFFD_FD, op};
use super::{Kernel, KernelError};
use crate::observe::Outcome;
use crate::program::{Bytes, HANDLERS, Handling, OnRange};

/// The number of an operation: those of include/uapi/linux/userfaultfd.h.
mod number {
    pub(super) const REGISTER: u64 = 0;
    pub(super) const UNREGISTER: u64 = 1;
    pub(super) const WAKE: u64 = 2;
    pub(super) const COPY: u64 = 3;
    pub(super) const ZEROPAGE: u64 = 4;
    pub(super) const WRITEPROTECT: u64 = 6;
    pub(super) const CONTINUE: u64 = 7;
    pub(super) const POISON: u64 = 8;
    pub(super) const API: u64 = 0x3f;
}

/// `UFFD_API`
const API: u64 = 0xaa;
/// `UFFD_FEATURE_` `SIGBUS`, `MISSING_HUGETLBFS`, `MINOR_HUGETLBFS`, `WP_HUGETLBFS_SHMEM`. Linux 5.19.
const FEATURES: u64 = 1 << 7 | 1 << 4 | 1 << 9 | 1 << 12;
/// `UFFD_FEATURE_WP_ASYNC`. Linux 6.7.
const WP_ASYNC: u64 = 1 << 15;
/// `_UFFDIO_` `WAKE`, `COPY`, `WRITEPROTECT`, `CONTINUE`, `POISON`: what the engine knows of what a range may allow.
const KNOWN: u64 = 1 << 2 | 1 << 3 | 1 << 6 | 1 << 7 | 1 << 8;

/// The descriptor of a process's handler.
pub(super) fn descriptor(process: usize, handler: usize) -> u64 {
    (UFFD_FD + (process * HANDLERS + handler) as i32) as u64
}

/// The number of an `ioctl` whose argument is so many words. Whether the kernel says that it writes to it follows no rule.
const fn request(operation: u64, words: u64) -> u64 {
    let direction = match operation {
        number::UNREGISTER | number::WAKE => 2,
        _ => 3,
    };
    direction << 30 | (words * 8) << 16 | 0xaa << 8 | operation
}

/// Opens a userfaultfd that gives signals in place of messages. The descriptor, or -1 and `errno`.
pub(super) fn open(features: u64) -> i32 {
    // SAFETY: takes a number.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) } as i32;
    let mut words = [API, features, 0];
    if fd < 0 || call(fd, number::API, &mut words) == 0 {
        return fd;
    }
    // SAFETY: ours, opened above. It does not touch `errno` where it goes well, as it does here.
    unsafe { libc::close(fd) };
    -1
}

fn call<const WORDS: usize>(fd: i32, operation: u64, words: &mut [u64; WORDS]) -> i32 {
    // SAFETY: the argument is as large as the number says. What it names lies in the program's window; a copy's source is
    // memory that was mapped for it.
    unsafe { libc::ioctl(fd, request(operation, WORDS as u64) as _, words.as_mut_ptr()) }
}

/// Carries an operation out on the range of two words and with the mode behind them. The result, with `errno` if that is -1;
/// and what the kernel wrote behind the mode: bytes that were filled, or what a range allows.
pub(super) fn carry_out(fd: i32, operation: u64, range: [u64; 3], value: u8) -> (i32, u64) {
    let [at, length, mode] = range;
    match operation {
        number::UNREGISTER | number::WAKE => (call(fd, operation, &mut [at, length]), 0),
        number::WRITEPROTECT => (call(fd, operation, &mut [at, length, mode]), 0),
        number::COPY => copy(fd, range, value),
        _ => {
            let mut words = [at, length, mode, 0];
            (call(fd, operation, &mut words), words[3])
        }
    }
}

/// Copies from memory that is there for as long as this takes.
fn copy(fd: i32, [at, length, mode]: [u64; 3], value: u8) -> (i32, u64) {
    let size = length.max(1) as usize;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: wherever the kernel has room.
    let source = unsafe { libc::mmap(ptr::null_mut(), size, rights, flags, -1, 0) };
    if source == libc::MAP_FAILED {
        return (-1, 0);
    }
    // SAFETY: mapped above, so large.
    unsafe { ptr::write_bytes(source.cast::<u8>(), value, size) };
    let mut words = [at, source as u64, length, mode, 0];
    let result = call(fd, number::COPY, &mut words);
    // SAFETY: mapped above, and nobody points there any more. It does not touch `errno` where it goes well, as it does here.
    unsafe { libc::munmap(source, size) };
    (result, words[4])
}

impl Kernel {
    pub(super) fn handle(
        &mut self,
        process: usize,
        handler: usize,
        handling: &Handling,
    ) -> Result<Outcome, KernelError> {
        let fd = descriptor(process, handler);
        let (operation, at, length, mode, value) = match *handling {
            Handling::Open { asynchronous } => {
                let features = if asynchronous { FEATURES | WP_ASYNC } else { FEATURES };
                let opened = self.ask(process, op::UFFD_OPEN, &[fd, features])?;
                self.handlers[process][handler] = opened.value == 0;
                return Ok(outcome(opened.value));
            }
            Handling::Close => {
                self.handlers[process][handler] = false;
                return Ok(outcome(self.ask(process, op::CLOSE, &[fd])?.value));
            }
            Handling::Register { at, length, modes } => {
                (number::REGISTER, at, length, u64::from(modes.bits()), 0)
            }
            Handling::Copy { at, length, value, protected } => {
                (number::COPY, at, length, u64::from(protected) << 1, value)
            }
            Handling::On { at, length, what } => {
                let (operation, mode) = match what {
                    OnRange::Unregister => (number::UNREGISTER, 0),
                    OnRange::Continue => (number::CONTINUE, 0),
                    OnRange::ContinueProtected => (number::CONTINUE, 2),
                    OnRange::Poison => (number::POISON, 0),
                    OnRange::Protect => (number::WRITEPROTECT, 1),
                    OnRange::Unprotect => (number::WRITEPROTECT, 0),
                    OnRange::Zero => (number::ZEROPAGE, 0),
                    OnRange::Wake => (number::WAKE, 0),
                };
                (operation, at, length, mode, 0)
            }
        };
        let arguments = [fd, operation, at.address(), length.0, mode, u64::from(value)];
        let asked = self.ask(process, op::UFFD, &arguments)?;
        let written = asked.more.first().copied().unwrap_or(0);
        let fills = matches!(operation, number::COPY | number::CONTINUE | number::ZEROPAGE | number::POISON);
        Ok(match (outcome(asked.value), written) {
            (Outcome::Error(error), 1..) if fills && written.cast_signed() > 0 => {
                Outcome::Stopped { error, after: Bytes(written) }
            }
            (Outcome::Done, _) if fills => Outcome::Number(written),
            (Outcome::Done, _) if operation == number::REGISTER => Outcome::Number(written & KNOWN),
            (outcome, _) => outcome,
        })
    }
}
