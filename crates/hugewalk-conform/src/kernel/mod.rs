//! The kernel's side of a program: real processes, real mappings.
//!
//! Each process of a program is a child process behind a socket (`process`); a warden starts them and puts the pool
//! back in the end (`warden`). Only one of them moves at a time. Whatever they are asked for has to be answered within a
//! time; if it is not, that is the end of the run.

mod access;
mod mount;
mod pool;
mod proc;
mod process;
mod userfault;
mod warden;
mod wire;

use std::array;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use self::pool::PoolFiles;
use self::process::{KEEPER, PLACES};
use self::warden::Warden;
use self::wire::{ANSWER, FILE_FD, LONGEST, LOOKED, MOUNT_FD, NONE, op};
use crate::observe::{FileState, Observation, Outcome, PageMap, PageState, Pool, ProcessState, Residency};
use crate::program::{
    Advice, Bytes, Call, FILES, FileKind, Map, MapFlags, PAGE, PROCESSES, Places, Rights, Step, To,
};

/// Why the kernel's side stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No huge pages of 2 MiB.
    #[error("this kernel has no huge pages of 2 MiB; it needs CONFIG_HUGETLBFS")]
    NoHugePages,
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

/// What a process answers.
struct Answer {
    value: i64,
    signal: u64,
    code: u64,
    address: u64,
    faults: u64,
    more: Vec<u64>,
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
    /// Processes that have a userfaultfd.
    handlers: [bool; PROCESSES],
    /// The kernel's numbers of the segments.
    segments: [Option<u64>; FILES],
    timeout: Duration,
    warden: Warden,
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
        let saved = pool.save()?;
        let mut pairs = Vec::new();
        for _ in 0..PLACES {
            pairs.push(socket_pair()?);
        }
        let (driver, process): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let (Ok(driver), Ok(process)) = (driver.try_into(), process.try_into()) else {
            return Err(KernelError::Died);
        };
        let warden = Warden::start(&saved, &driver, &process)?;
        Ok(Self {
            pool,
            sockets: driver,
            running: array::from_fn(|_| None),
            open: [false; FILES],
            handlers: [false; PROCESSES],
            segments: [None; FILES],
            timeout,
            warden,
            _only: only,
        })
    }

    /// Starts a program: process 0 is there.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn begin(&mut self) -> Result<(), KernelError> {
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
        self.handlers = [false; PROCESSES];
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
        if let Some(handler @ true) = self.handlers.get_mut(place) {
            *handler = false;
            self.ask(KEEPER, op::CLOSE, &[userfault::descriptor(place)])?;
        }
        Ok(Outcome::Done)
    }

    /// Carries a step out. What it came to, and the minor faults of an access.
    ///
    /// # Errors
    ///
    /// [`KernelError`], after which nothing more can be done but to drop this.
    pub fn step(&mut self, step: &Step) -> Result<(Outcome, Option<u64>), KernelError> {
        let file_fd = |file: usize| (FILE_FD + file as i32) as u64;
        let mount_fd = |mount: usize| (MOUNT_FD + mount as i32) as u64;
        let none = |pages: Option<u64>| pages.unwrap_or(NONE);
        let asked = match *step {
            Step::Pool { pages } => return Ok((Outcome::Number(self.pool.resize(pages)?), None)),
            Step::Overcommit { pages } => {
                self.pool.set_overcommit(pages)?;
                return Ok((Outcome::Done, None));
            }
            Step::In { process, ref call } => return self.call(process, call),
            Step::Mount { mount, size, min } => {
                self.ask(KEEPER, op::MOUNT, &[mount_fd(mount), none(size), none(min)])?
            }
            Step::Unmount { mount } => self.ask(KEEPER, op::CLOSE, &[mount_fd(mount)])?,
            Step::Open { file, kind: FileKind::Segment { length, reserve } } => {
                let huge = libc::SHM_HUGETLB | libc::MAP_HUGE_2MB | 0o600;
                let flags = if reserve { huge } else { huge | libc::SHM_NORESERVE };
                let made = self.ask(KEEPER, op::SEGMENT, &[length.0, flags as u64])?;
                self.segments[file] = u64::try_from(made.value).ok();
                made
            }
            Step::Open { file, kind } => {
                let made = match kind {
                    FileKind::Memory | FileKind::Segment { .. } => {
                        self.ask(KEEPER, op::MEMFD, &[file_fd(file)])?
                    }
                    FileKind::On { mount } => {
                        self.ask(KEEPER, op::CREATE, &[file_fd(file), mount_fd(mount)])?
                    }
                };
                self.open[file] = made.value == 0;
                made
            }
            Step::Close { file } if self.segments[file].is_some() => {
                let segment = self.segments[file].take().unwrap_or(NONE);
                self.ask(KEEPER, op::REMOVE, &[segment])?
            }
            Step::Close { file } => {
                self.open[file] = false;
                self.ask(KEEPER, op::CLOSE, &[file_fd(file)])?
            }
            Step::Truncate { file, size } => self.ask(KEEPER, op::TRUNCATE, &[file_fd(file), size.0])?,
            Step::Allocate { file, from, length, keep } => {
                let mode = if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                self.ask(KEEPER, op::ALLOCATE, &[file_fd(file), mode as u64, from.0, length.0])?
            }
            Step::Punch { file, from, length } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                self.ask(KEEPER, op::ALLOCATE, &[file_fd(file), mode as u64, from.0, length.0])?
            }
            Step::Write { file, at, value } => {
                self.ask(KEEPER, op::WRITE, &[file_fd(file), at.0, u64::from(value)])?
            }
            Step::Read { file, from, length } => {
                let read = self.ask(KEEPER, op::READ, &[file_fd(file), from.0, length])?;
                let bytes = read.more.iter().map(|&byte| byte as u8).collect();
                return Ok((if read.value < 0 { outcome(read.value) } else { Outcome::Bytes(bytes) }, None));
            }
        };
        Ok((outcome(asked.value), None))
    }

    fn call(&mut self, process: usize, call: &Call) -> Result<(Outcome, Option<u64>), KernelError> {
        let asked = match *call {
            Call::Fork { child } => return Ok((self.fork(process, child)?, None)),
            Call::Exit => return Ok((self.exit(process)?, None)),
            Call::Map(ref map) => return Ok((self.map(process, map)?, None)),
            Call::Attach { file, at, replace } => {
                let flags = if replace { libc::SHM_REMAP } else { 0 };
                let segment = self.segments[file].unwrap_or(NONE);
                self.ask(process, op::ATTACH, &[segment, at.address(), flags as u64])?
            }
            Call::Detach { at } => self.ask(process, op::DETACH, &[at.address()])?,
            Call::Unmap { at, length } => self.ask(process, op::UNMAP, &[at.address(), length.0])?,
            Call::Protect { at, length, rights } => {
                self.ask(process, op::PROTECT, &[at.address(), length.0, protection(rights)])?
            }
            Call::Remap { at, length, kept, to } => {
                let (flags, new) = match to {
                    To::InPlace => (0, 0),
                    To::Anywhere => (libc::MREMAP_MAYMOVE, 0),
                    To::Fixed(to) => (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to.address()),
                };
                let arguments = [at.address(), length.0, kept.0, flags as u64, new];
                let asked = self.ask(process, op::REMAP, &arguments)?;
                return Ok((if asked.value < 0 { outcome(asked.value) } else { Outcome::Done }, None));
            }
            Call::Advise { at, length, advice } => {
                let advice = match advice {
                    Advice::DontNeed => libc::MADV_DONTNEED,
                    Advice::Remove => libc::MADV_REMOVE,
                    Advice::PopulateRead => libc::MADV_POPULATE_READ,
                    Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
                    Advice::DontDump => libc::MADV_DONTDUMP,
                    Advice::DoDump => libc::MADV_DODUMP,
                    Advice::DontFork => libc::MADV_DONTFORK,
                    Advice::DoFork => libc::MADV_DOFORK,
                };
                self.ask(process, op::ADVISE, &[at.address(), length.0, advice as u64])?
            }
            Call::Load { at } => {
                let asked = self.ask(process, op::LOAD, &[at.address()])?;
                return Ok((
                    accessed(&asked, Outcome::Number(asked.value.cast_unsigned())),
                    Some(asked.faults),
                ));
            }
            Call::Store { at, value } => {
                let asked = self.ask(process, op::STORE, &[at.address(), u64::from(value)])?;
                return Ok((accessed(&asked, Outcome::Done), Some(asked.faults)));
            }
            Call::Sweep { at, length } => {
                let (from, to) = (at.address(), at.address().wrapping_add(length.0));
                let asked = self.ask(process, op::SWEEP, &[from, to, PAGE])?;
                return Ok((
                    accessed(&asked, Outcome::Number(asked.value.cast_unsigned())),
                    Some(asked.faults),
                ));
            }
            Call::Peek { of, at, length } => {
                let asked = self.ask(process, op::PEEK, &[self.number(of), at.address(), length])?;
                let bytes = asked.more.iter().map(|&byte| byte as u8).collect();
                return Ok((
                    if asked.value < 0 { outcome(asked.value) } else { Outcome::Bytes(bytes) },
                    None,
                ));
            }
            Call::Poke { of, at, length, value } => {
                let arguments = [self.number(of), at.address(), length, u64::from(value)];
                let asked = self.ask(process, op::POKE, &arguments)?;
                let written = Outcome::Number(asked.value.cast_unsigned());
                return Ok((if asked.value < 0 { outcome(asked.value) } else { written }, None));
            }
            Call::Mincore { at, length } => {
                let asked = self.ask(process, op::MINCORE, &[at.address(), length.0])?;
                if asked.value == 0 {
                    return Ok((
                        Outcome::Resident(asked.more.iter().map(|&word| residency(word)).collect()),
                        None,
                    ));
                }
                asked
            }
            Call::Nodes { at, length, moved } => {
                let asked = self.ask(process, op::NODES, &[at.address(), length.0, u64::from(moved)])?;
                let node = |&word: &u64| {
                    let status = word.cast_signed();
                    u64::try_from(status).map_err(|_| error_name(-status))
                };
                let nodes = Outcome::Nodes(asked.more.iter().map(node).collect());
                return Ok((if asked.value < 0 { outcome(asked.value) } else { nodes }, None));
            }
            Call::Userfault(ref handling) => return Ok((self.handle(process, handling)?, None)),
        };
        Ok((outcome(asked.value), None))
    }

    /// The number of a process. Of one that is not there, a number that none can have: one that has exited may be somebody
    /// else's by now.
    fn number(&self, process: usize) -> u64 {
        self.running[process].as_ref().map_or(i32::MAX, |running| running.pid) as u64
    }

    /// As [`step`](Self::step), for the end of a program: what is not there on this side is no error.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn close(&mut self, step: &Step) -> Result<(), KernelError> {
        match *step {
            Step::In { process, .. } if self.running[process].is_none() => Ok(()),
            _ => self.step(step).map(|_| ()),
        }
    }

    /// Is the kernel built to keep track of what was written?
    #[must_use]
    pub fn tracks_soft_dirty(&self) -> bool {
        proc::tracks_soft_dirty()
    }

    fn map(&mut self, process: usize, map: &Map) -> Result<Outcome, KernelError> {
        let mut flags = libc::MAP_HUGETLB;
        flags |= if map.flags.contains(MapFlags::SHARED) { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        for (flag, linux) in [
            (MapFlags::FIXED, libc::MAP_FIXED),
            (MapFlags::NO_REPLACE, libc::MAP_FIXED_NOREPLACE),
            (MapFlags::NO_RESERVE, libc::MAP_NORESERVE),
            (MapFlags::POPULATE, libc::MAP_POPULATE),
            (MapFlags::LOCKED, libc::MAP_LOCKED),
        ] {
            flags |= if map.flags.contains(flag) { linux } else { 0 };
        }
        let (fd, offset) = match map.file {
            Some((file, offset)) => (i64::from(FILE_FD) + file as i64, offset.0),
            None => {
                flags |= libc::MAP_ANONYMOUS | libc::MAP_HUGE_2MB;
                (-1, 0)
            }
        };
        let (at, length) = (map.at.address(), map.length.0);
        let arguments = [at, length, protection(map.rights), flags as u64, fd.cast_unsigned(), offset];
        let mapped = self.ask(process, op::MAP, &arguments)?;
        if mapped.value < 0 {
            return Ok(outcome(mapped.value));
        }
        if mapped.value.cast_unsigned() == map.at.as_hint() {
            return Ok(Outcome::Done);
        }
        let away = [mapped.value.cast_unsigned(), length.next_multiple_of(PAGE)];
        self.ask(process, op::UNMAP, &away)?;
        Ok(Outcome::Elsewhere)
    }

    /// Looks at everything after a step.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn observe(
        &mut self,
        places: &Places,
        outcome: Outcome,
        faults: Option<u64>,
    ) -> Result<Observation, KernelError> {
        let mut files = [None; FILES];
        for (file, state) in files.iter_mut().enumerate().filter(|(file, _)| self.open[*file]) {
            let stat = self.ask(KEEPER, op::STAT, &[(FILE_FD + file as i32) as u64])?;
            if let &[size, blocks] = stat.more.as_slice() {
                *state = Some(FileState { size: Bytes(size), pages: blocks * 512 / PAGE });
            }
        }
        let mut processes = array::from_fn(|_| None);
        for (process, state) in processes.iter_mut().enumerate().take(PROCESSES) {
            if self.running[process].is_some() {
                *state = Some(self.look(process, places)?);
            }
        }
        Ok(Observation { outcome, faults, pool: self.pool()?, files, processes })
    }

    fn look(&self, process: usize, places: &Places) -> Result<ProcessState, KernelError> {
        let pid = self.running[process].as_ref().map_or(0, |running| running.pid);
        let (mappings, huge_pages) = proc::mappings(pid).map_err(|_| KernelError::Died)?;
        let Places { pages, offsets } = places;
        let counts = [pages.len() as u64, offsets.len() as u64];
        let addresses = pages.iter().map(|page| page.address());
        let arguments: Vec<u64> =
            counts.into_iter().chain(addresses).chain(offsets.iter().copied()).collect();
        let looked = self.ask(process, op::LOOK, &arguments)?;
        let each = looked.more.chunks_exact(LOOKED + offsets.len());
        let pages = pages.iter().zip(each).map(|(&at, words)| PageState {
            at,
            map: page_map(words[0]),
            residency: residency(words[1]),
            bytes: words[LOOKED..].iter().map(|&byte| u8::try_from(byte).ok()).collect(),
        });
        Ok(ProcessState { huge_pages, mappings, pages: pages.collect() })
    }
}

fn send(socket: BorrowedFd<'_>, words: &[u64]) -> Result<(), KernelError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL).map_err(|_| KernelError::Died)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>, timeout: Duration) -> Result<Answer, KernelError> {
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

fn wait(fd: BorrowedFd<'_>, timeout: Duration) -> Result<(), KernelError> {
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
fn outcome(value: i64) -> Outcome {
    if value >= 0 { Outcome::Done } else { Outcome::Error(error_name(-value)) }
}

/// The symbol of an error number.
fn error_name(number: i64) -> &'static str {
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
fn accessed(answer: &Answer, done: Outcome) -> Outcome {
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

const fn residency(word: u64) -> Residency {
    match word {
        wire::ABSENT => Residency::Absent,
        wire::RESIDENT => Residency::Resident,
        wire::UNMAPPED => Residency::Unmapped,
        _ => Residency::Mixed,
    }
}

fn protection(rights: Rights) -> u64 {
    let bits = [
        (Rights::READ, libc::PROT_READ),
        (Rights::WRITE, libc::PROT_WRITE),
        (Rights::EXECUTE, libc::PROT_EXEC),
    ];
    let set = bits.into_iter().filter(|(right, _)| rights.contains(*right));
    set.fold(0, |all, (_, bit)| all | bit as u64)
}

/// Linux: Documentation/admin-guide/mm/pagemap.rst
fn page_map(entry: u64) -> PageMap {
    let bits = [
        (63, PageMap::PRESENT),
        (62, PageMap::SWAP),
        (61, PageMap::FILE),
        (57, PageMap::UFFD_WP),
        (56, PageMap::EXCLUSIVE),
        (55, PageMap::SOFT_DIRTY),
    ];
    let set = bits.into_iter().filter(|(bit, _)| entry >> bit & 1 != 0);
    set.fold(PageMap::empty(), |all, (_, bit)| all | bit)
}
