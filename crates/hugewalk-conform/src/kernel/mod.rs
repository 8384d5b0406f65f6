//! The kernel's side of a program: real processes, real mappings.
//!
//! Each process of a program is a child process behind a socket (`process`); a warden starts them and puts the pool
//! back in the end (`warden`). Only one of them moves at a time. Whatever they are asked for has to be answered within a
//! time; if it is not, that is the end of the run.

mod access;
mod answer;
mod left;
mod look;
mod policy;
mod mount;
mod pool;
mod proc;
mod process;
mod step;
mod userfault;
mod warden;
mod wire;

use std::array;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub(crate) use self::answer::error_name;
use self::answer::{Answer, outcome, receive, send, wait};
use self::left::Kept;
pub use self::left::LeftBehind;
use self::pool::PoolFiles;
use self::process::{KEEPER, PLACES};
use self::warden::Warden;
use self::wire::op;
use crate::observe::{Outcome, Pool};
use crate::program::{FILES, HANDLERS, PROCESSES};

/// Why the kernel's side stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No huge pages of 2 MiB.
    #[error("this kernel has no huge pages of 2 MiB; boot one that was built with CONFIG_HUGETLBFS")]
    NoHugePages,
    /// The pool is out of reach.
    #[error(
        "the pool of huge pages cannot be changed where /sys is read-only; in a container, run this with --privileged"
    )]
    ReadOnly,
    /// Root is not allowed all that root is.
    #[error("root needs {0} for this, and does not have it here; in a container, run this with --privileged")]
    NotAllowed(&'static str),
    /// The pool cannot be changed.
    #[error("the pool of huge pages can only be changed by root; run this as root")]
    NotRoot,
    /// Somebody else has huge pages.
    #[error(
        "others use {used} huge pages and have {reserved} reserved; end them first, for every page is counted here"
    )]
    InUse {
        /// Pages in use.
        used: u64,
        /// Pages reserved.
        reserved: u64,
    },
    /// Another run is under way.
    #[error("another run is under way on this machine; wait for it, for every page is counted")]
    Running,
    /// The pool cannot be read or set.
    #[error("the pool of huge pages cannot be read or set: {0}")]
    Pool(io::Error),
    /// A call that is no part of a program failed.
    #[error("{what} failed: {source}")]
    System {
        /// The call.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// A process does not answer.
    #[error("no answer within {} s; the kernel may be stuck", .0.as_secs())]
    TimedOut(Duration),
    /// A process has died.
    #[error("a process of the program has died, which none of its steps explains")]
    Died,
}

impl KernelError {
    fn system(what: &'static str, source: Errno) -> Self {
        Self::System { what, source }
    }
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), KernelError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| KernelError::system("socketpair", error))
}

/// A process that runs.
struct Running {
    pid: i32,
    ended: OwnedFd,
}

/// Takes the right to use the kernel's pool, which one process of the machine has at a time, for as long as this lives.
///
/// # Errors
///
/// [`KernelError::Running`].
pub fn only_run() -> Result<UnixListener, KernelError> {
    let name = SocketAddr::from_abstract_name("hugewalk conform");
    name.and_then(|name| UnixListener::bind_addr(&name)).map_err(|_| KernelError::Running)
}

/// The running kernel, its pool taken over for as long as this lives.
pub struct Kernel {
    pool: PoolFiles,
    sockets: [OwnedFd; PLACES],
    running: [Option<Running>; PLACES],
    open: [bool; FILES],
    /// The handlers that processes have.
    handlers: [[bool; HANDLERS]; PROCESSES],
    /// The kernel's numbers of the segments.
    segments: [Option<u64>; FILES],
    timeout: Duration,
    /// As it was when the program began.
    failed_allocations: Option<u64>,
    warden: Warden,
    kept: Kept,
    left_behind: Option<LeftBehind>,
    /// Bound to a name: no second run at the same time.
    _only: UnixListener,
}

impl Kernel {
    /// Takes the kernel's pool over. Nothing is changed if that is refused.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn take(timeout: Duration) -> Result<Self, KernelError> {
        let only = only_run()?;
        let pool = PoolFiles::open()?;
        proc::lacking_capability().map_or(Ok(()), |lacking| Err(KernelError::NotAllowed(lacking)))?;
        let mut saved = pool.save()?;
        let mut left_behind = None;
        if let Some((before, last)) = left::found() {
            let found = saved.size;
            let put_back = found == last;
            if put_back {
                pool.restore(before)?;
                saved = before;
            }
            left_behind = Some(LeftBehind { before: before.size, found, put_back });
        }
        let mut pairs = Vec::new();
        for _ in 0..PLACES {
            pairs.push(socket_pair()?);
        }
        let (driver, process): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let (Ok(driver), Ok(process)) = (driver.try_into(), process.try_into()) else {
            return Err(KernelError::Died);
        };
        let warden = Warden::start(saved, &driver, &process)?;
        Ok(Self {
            pool,
            sockets: driver,
            running: array::from_fn(|_| None),
            open: [false; FILES],
            handlers: [[false; HANDLERS]; PROCESSES],
            segments: [None; FILES],
            timeout,
            failed_allocations: None,
            warden,
            // The warden is there to take it away again.
            kept: Kept::new(saved),
            left_behind,
            _only: only,
        })
    }

    /// What a run that was killed had left behind for this one.
    #[must_use]
    pub fn left_behind(&self) -> Option<LeftBehind> {
        self.left_behind
    }

    /// Starts a program: process 0 is there.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn begin(&mut self) -> Result<(), KernelError> {
        self.failed_allocations = pool::failed_allocations();
        let begun = self.ask_warden(op::BEGIN)?;
        self.runs(KEEPER, begun.value)?;
        self.fork(KEEPER, 0).map(|_| ())
    }

    /// Ends whatever is left of a program.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn end(&mut self) -> Result<(), KernelError> {
        self.ask_warden(op::END)?;
        self.running = array::from_fn(|_| None);
        self.open = [false; FILES];
        self.handlers = [[false; HANDLERS]; PROCESSES];
        self.segments = [None; FILES];
        Ok(())
    }

    /// The counters of the pool.
    ///
    /// # Errors
    ///
    /// [`KernelError::Pool`].
    pub fn pool(&self) -> Result<Pool, KernelError> {
        self.pool.counters()
    }

    /// Has the kernel looked for memory for a huge page since the program began, and found none in one piece? Where pages lie,
    /// and what else the machine does, no program can know: what follows says nothing of it.
    #[must_use]
    pub fn lacked_memory(&self) -> bool {
        pool::failed_allocations() > self.failed_allocations
    }

    fn ask_warden(&self, operation: u64) -> Result<Answer, KernelError> {
        let control = self.warden.control.as_ref().ok_or(KernelError::Died)?;
        send(control.as_fd(), &[operation])?;
        receive(control.as_fd(), self.timeout)
    }

    fn ask(&self, place: usize, operation: u64, arguments: &[u64]) -> Result<Answer, KernelError> {
        let socket = self.sockets[place].as_fd();
        let words: Vec<u64> = [operation].into_iter().chain(arguments.iter().copied()).collect();
        send(socket, &words)?;
        receive(socket, self.timeout)
    }

    fn runs(&mut self, place: usize, pid: i64) -> Result<(), KernelError> {
        let number = i32::try_from(pid).ok().filter(|&pid| pid > 0).ok_or(KernelError::Died)?;
        let pid = Pid::from_raw(number).ok_or(KernelError::Died)?;
        let ended = pidfd_open(pid, PidfdFlags::empty());
        let ended = ended.map_err(|error| KernelError::system("pidfd_open", error))?;
        self.running[place] = Some(Running { pid: number, ended });
        Ok(())
    }

    fn fork(&mut self, parent: usize, child: usize) -> Result<Outcome, KernelError> {
        let forked = self.ask(parent, op::FORK, &[child as u64])?;
        if forked.value < 0 {
            return Ok(outcome(forked.value));
        }
        self.runs(child, forked.value)?;
        Ok(Outcome::Done)
    }

    fn exit(&mut self, place: usize) -> Result<Outcome, KernelError> {
        send(self.sockets[place].as_fd(), &[op::EXIT])?;
        if let Some(running) = self.running[place].take() {
            // Readable once the process has given up all it had.
            wait(running.ended.as_fd(), self.timeout)?;
        }
        // The descriptors are everybody's, so it outlives its process.
        for handler in 0..HANDLERS {
            if self.handlers.get(place).is_some_and(|open| open[handler]) {
                self.handlers[place][handler] = false;
                self.ask(KEEPER, op::CLOSE, &[userfault::descriptor(place, handler)])?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Is the kernel built to keep track of what was written?
    #[must_use]
    pub fn tracks_soft_dirty(&self) -> bool {
        proc::tracks_soft_dirty()
    }

    /// Is the kernel built to tell a failure of memory from other reasons for `SIGBUS` (`CONFIG_MEMORY_FAILURE`)?
    #[must_use]
    pub fn tells_memory_failures(&self) -> bool {
        std::path::Path::new("/proc/sys/vm/memory_failure_recovery").exists()
    }
}
