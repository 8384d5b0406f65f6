//! The warden: a process that starts the programs' processes, and puts the pool back whatever becomes of the driver.
//!
//! It is forked from the driver before anything is changed, belongs to a process group of its own, so that no key of the
//! terminal reaches it, and waits at the other end of a socket. When that is closed, since the driver is done, was
//! interrupted or has died, it ends what is left of the program and writes the sizes back. It touches no huge page itself. If it
//! is killed, the driver does so; if both are, the next run (`left.rs`).
//!
//! As in `process.rs`, nothing after the fork allocates, locks or panics.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::KernelError;
use super::answer::wait;
use super::left;
use super::pool::{OVERCOMMIT_PATH, SIZE_PATH, Saved};
use super::process::{KEEPER, PLACES, Process, STACK};
use super::wire::{LONGEST, op};

/// The driver's hold on the warden.
pub(super) struct Warden {
    pid: libc::pid_t,
    pub(super) control: Option<OwnedFd>,
    /// Readable once it is not there any more.
    ended: Option<OwnedFd>,
    saved: Saved,
}

/// How long the warden may take to end a program and put the pool back.
const PATIENCE: Duration = Duration::from_secs(10);

impl Warden {
    /// Forks the warden. `sockets` are the driver's and the process's ends for each place.
    pub(super) fn start(
        saved: Saved,
        driver: &[OwnedFd; PLACES],
        process: &[OwnedFd; PLACES],
    ) -> Result<Self, KernelError> {
        let (ours, theirs) = super::socket_pair()?;
        let stacks = stacks()?;
        let sockets = process.each_ref().map(AsRawFd::as_raw_fd);
        let not_its = driver.each_ref().map(AsRawFd::as_raw_fd);
        let control = theirs.as_raw_fd();
        let (size, overcommit) = saved.as_text();
        // SAFETY: the child does nothing but what a signal handler may do, and never returns.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(KernelError::system("fork", rustix::io::Errno::from_raw_os_error(last_error()))),
            0 => {
                for fd in not_its.into_iter().chain([ours.as_raw_fd()]) {
                    // SAFETY: the child's copies, which it does not use.
                    unsafe { libc::close(fd) };
                }
                let keeper = Process { sockets, stacks, place: KEEPER };
                watch(control, &keeper, &size, &overcommit)
            }
            pid => {
                let ended = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                Ok(Self { pid, control: Some(ours), ended, saved })
            }
        }
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // It puts the pool back then, and is waited for; but not for ever: it waits for the processes of the program, and if one
        // is stuck in the kernel, whoever ran this shall hear of it.
        self.control = None;
        if let Some(ended) = &self.ended
            && wait(ended.as_fd(), PATIENCE).is_err()
        {
            return;
        }
        let mut status = 0;
        // SAFETY: our child; the status is written to a number that is ours.
        let ended = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        if ended != self.pid || !libc::WIFEXITED(status) {
            // Somebody has killed it. The processes of the program end by themselves when the sockets are closed.
            let (size, overcommit) = self.saved.as_text();
            put_back(&size, &overcommit);
        }
    }
}

fn last_error() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A stack for each place. They stay for as long as the process lives.
fn stacks() -> Result<*mut u8, KernelError> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: asks for fresh memory.
    let stacks = unsafe { libc::mmap(ptr::null_mut(), PLACES * STACK, protection, flags, -1, 0) };
    if stacks == libc::MAP_FAILED {
        return Err(KernelError::system("mmap", rustix::io::Errno::from_raw_os_error(last_error())));
    }
    Ok(stacks.cast())
}

fn watch(control: i32, keeper: &Process, size: &[u8], overcommit: &[u8]) -> ! {
    // SAFETY: concerns this process alone.
    unsafe { libc::setpgid(0, 0) };
    // Who ends all processes of a service or a session by a signal means the driver; what is left to do here takes no time.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: no handler of ours is replaced.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // What becomes an orphan is waited for here.
    // SAFETY: as above.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    let mut group = 0;
    loop {
        let mut words = [0u64; LONGEST];
        // SAFETY: the buffer is ours and as long as is said.
        let got = unsafe { libc::recv(control, words.as_mut_ptr().cast(), size_of_val(&words), 0) };
        if got <= 0 {
            break;
        }
        let answer = if words[0] == op::BEGIN {
            group = keeper.fork(KEEPER, false) as i32;
            i64::from(group)
        } else {
            end(group);
            0
        };
        words[..super::wire::ANSWER].fill(0);
        words[0] = answer.cast_unsigned();
        let length = super::wire::ANSWER * size_of::<u64>();
        // SAFETY: the buffer is ours and longer than that.
        unsafe { libc::send(control, words.as_ptr().cast(), length, libc::MSG_NOSIGNAL) };
    }
    end(group);
    put_back(size, overcommit);
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(0) };
}

fn put_back(size: &[u8], overcommit: &[u8]) {
    write(SIZE_PATH, size);
    write(OVERCOMMIT_PATH, overcommit);
    // SAFETY: a string of C.
    unsafe { libc::unlink(left::PATH.as_ptr()) };
}

/// Ends the processes of a program, and waits until they are gone with all they had.
fn end(group: i32) {
    if group <= 0 {
        return;
    }
    // SAFETY: the group is one that this process has started: its leader is not waited for before.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    // SAFETY: waits for children, without asking how they ended.
    while unsafe { libc::waitpid(-1, ptr::null_mut(), 0) } > 0 {}
}

fn write(path: &CStr, text: &[u8]) {
    // SAFETY: a string of C.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    // SAFETY: writes no more than there is.
    unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
    // SAFETY: ours.
    unsafe { libc::close(fd) };
}
