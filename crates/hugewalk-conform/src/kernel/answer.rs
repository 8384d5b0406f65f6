//! What processes answer.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::KernelError;
use super::wire::{ANSWER, LONGEST};
use crate::observe::Outcome;
use crate::program::Bytes;

/// What a process answers.
pub(super) struct Answer {
    pub(super) value: i64,
    pub(super) signal: u64,
    pub(super) code: u64,
    pub(super) address: u64,
    pub(super) faults: u64,
    pub(super) more: Vec<u64>,
}

pub(super) fn send(socket: BorrowedFd<'_>, words: &[u64]) -> Result<(), KernelError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL).map_err(|_| KernelError::Died)?;
    Ok(())
}

pub(super) fn receive(socket: BorrowedFd<'_>, timeout: Duration) -> Result<Answer, KernelError> {
    wait(socket, timeout)?;
    let mut bytes = [0u8; LONGEST * size_of::<u64>()];
    let (length, _) =
        rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()).map_err(|_| KernelError::Died)?;
    let words = bytes[..length].chunks_exact(size_of::<u64>());
    let words: Vec<u64> = words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect();
    let Some((&[value, signal, code, address, faults], more)) = words.split_first_chunk::<ANSWER>() else {
        return Err(KernelError::Died);
    };
    Ok(Answer { value: value.cast_signed(), signal, code, address, faults, more: more.to_vec() })
}

pub(super) fn wait(fd: BorrowedFd<'_>, timeout: Duration) -> Result<(), KernelError> {
    let limit = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    loop {
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)) {
            Ok(0) => return Err(KernelError::TimedOut(timeout)),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(KernelError::system("poll", error)),
        }
    }
}

/// What a call came to that gives nothing but an error.
pub(super) fn outcome(value: i64) -> Outcome {
    if value >= 0 { Outcome::Done } else { Outcome::Error(error_name(-value)) }
}

/// The symbol of an error number.
pub(crate) fn error_name(number: i64) -> &'static str {
    let known = NAMES.iter().find(|(known, _)| i64::from(*known) == number);
    known.map_or("an error of another kind", |(_, name)| name)
}

const NAMES: [(i32, &str); 20] = [
    (libc::E2BIG, "E2BIG"),
    (libc::EACCES, "EACCES"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::EBADF, "EBADF"),
    (libc::EBUSY, "EBUSY"),
    (libc::EEXIST, "EEXIST"),
    (libc::EFAULT, "EFAULT"),
    (libc::EFBIG, "EFBIG"),
    (libc::EHWPOISON, "EHWPOISON"),
    (libc::EINTR, "EINTR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EIO, "EIO"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOENT, "ENOENT"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::EOVERFLOW, "EOVERFLOW"),
    (libc::EPERM, "EPERM"),
    (libc::ESRCH, "ESRCH"),
];

/// What an access came to, if it met no signal `done`.
pub(super) fn accessed(answer: &Answer, done: Outcome) -> Outcome {
    let (signal, codes) = match answer.signal as i32 {
        0 => return done,
        libc::SIGBUS => ("SIGBUS", ["", "BUS_ADRALN", "BUS_ADRERR", "BUS_OBJERR", "BUS_MCEERR_AR"]),
        _ => ("SIGSEGV", ["", "SEGV_MAPERR", "SEGV_ACCERR", "SEGV_BNDERR", "SEGV_PKUERR"]),
    };
    Outcome::Signal {
        signal,
        code: codes.get(answer.code as usize).copied().unwrap_or(""),
        at: Bytes::of_address(answer.address),
        after: answer.value.cast_unsigned(),
    }
}
