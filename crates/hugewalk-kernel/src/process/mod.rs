//! Processes: what threads have in common, and how they come and go.
//!
//! | room | subject |
//! |---|---|
//! | [`thread`] | clone and fork, the start and the end of a thread |
//! | [`exec`], [`elf`] | another program in the same process |
//! | [`exit`], [`pidfd`] | the end of a process |
//! | [`group`] | process groups and sessions |
//! | [`credentials`] | users and groups |
//! | [`memlock`] | how much may be locked in memory |
//! | [`wait`] | waiting for children |
//! | [`signal`] | signals: sent, blocked, delivered, returned from |
//! | [`stop`] | processes that signals stop |
//! | [`ptrace`] | threads that another process traces |
//!
//! Lock order: the list of all processes, a process's state, its handlers, a thread's signals. All are spinning locks, and
//! nothing sleeps under them.

pub mod credentials;
pub mod elf;
pub mod exec;
pub mod exit;
pub mod group;
pub mod memlock;
pub mod pidfd;
pub mod ptrace;
pub mod signal;
pub mod stop;
pub mod thread;
pub mod wait;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general::{
    RLIMIT_CORE, RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_NOFILE, RLIMIT_RTPRIO, RLIMIT_STACK,
};
use spin::Mutex;

use self::credentials::Credentials;
use self::exit::Status;
use self::signal::{Handlers, Pending};
use crate::errno::{Errno, Result};
use crate::fs::{Descriptors, Place};
use crate::space::Space;
use crate::task::Thread;
use crate::task::timer::Alarm;
use crate::task::wait::WaitQueue;

static PROCESSES: Mutex<BTreeMap<u32, Arc<Process>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU32 = AtomicU32::new(INIT + 1);

/// The number of the process that inherits orphans. It has no program: it forgets its children as they end, and signals do
/// nothing to it. Programs look for this number to see that their parent is gone, so no program may have it.
pub const INIT: u32 = 1;

/// A number that no process and no thread has.
pub fn fresh_number() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The process with this number, also if it has ended and was not waited for.
pub fn find(pid: u32) -> Option<Arc<Process>> {
    PROCESSES.lock().get(&pid).cloned()
}

/// All processes.
pub fn all() -> Vec<Arc<Process>> {
    PROCESSES.lock().values().cloned().collect()
}

/// What can change of a process.
pub struct State {
    /// Its threads that have not ended.
    pub threads: Vec<Arc<Thread>>,
    /// Its children, also those that have ended.
    pub children: Vec<Arc<Process>>,
    /// How it ended.
    pub status: Option<Status>,
    /// It is ending: no thread of it goes on.
    pub ending: Option<Status>,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// It was made by `vfork`, and has neither ended nor begun another program.
    pub vforked: bool,
    /// It has begun another program.
    pub has_execed: bool,
    /// A signal has stopped it.
    pub stopped: Option<Stopped>,
    /// How often one did.
    pub stops: u32,
    /// It goes on after that, and its parent has not waited for that.
    pub continued: bool,
}

/// A signal has stopped a process.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// Which.
    pub signal: u32,
    /// The parent has waited for it.
    pub told: bool,
}

/// A process.
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The process that waits for it: the one that made it, or the first one if that has ended.
    pub parent: Mutex<Weak<Process>>,
    /// See [`State`].
    pub state: Mutex<State>,
    /// Its address space, until it ends.
    pub space: Mutex<Option<Arc<Space>>>,
    /// Its descriptors.
    pub files: Mutex<Arc<Descriptors>>,
    /// Its working directory.
    pub place: Mutex<Arc<Mutex<Place>>>,
    /// The mode bits that new files do not get.
    pub umask: AtomicU32,
    /// What it does about signals.
    pub handlers: Mutex<Arc<Mutex<Handlers>>>,
    /// Signals for any of its threads.
    pub pending: Mutex<Pending>,
    /// Threads that wait for children, or for the end of a `vfork`.
    pub waiters: WaitQueue,
    /// The signal that the parent gets when it ends.
    pub exit_signal: u32,
    /// `alarm` and `setitimer`: the next time, and the interval.
    pub interval: Mutex<Option<(Alarm, u64)>>,
    /// The program: its path and its arguments, for /proc.
    pub program: Mutex<(String, Vec<u8>)>,
    /// What is added to its badness when memory runs out. It is kept and shown, since nothing is killed for memory.
    pub oom_score_adj: AtomicI32,
    /// Limits that were set: `RLIMIT_*`, soft and hard.
    pub limits: Mutex<[[u64; 2]; 16]>,
    /// Nanoseconds since the start when it began.
    pub started: AtomicU64,
    /// Threads that wait for its end from elsewhere.
    pub gone: WaitQueue,
    /// Whose segments of shared memory it sees.
    pub ipc: Mutex<Option<Arc<crate::ipc::shm::Namespace>>>,
    /// Children of its children come to it when their parents end (`PR_SET_CHILD_SUBREAPER`).
    pub subreaper: core::sync::atomic::AtomicBool,
    /// Faults of its program that were resolved.
    pub faults: AtomicU64,
    /// How often it was made to end a `wait`; for the numbers in /proc.
    pub children_reaped: AtomicU64,
    /// The commands of `membarrier` that it has registered for.
    pub barriers: AtomicU32,
    /// Who it is.
    pub credentials: Mutex<Credentials>,
    /// The threads that it traces.
    pub tracees: Mutex<Vec<Arc<Thread>>>,
    /// The process that traces its first thread.
    pub tracer: Mutex<Weak<Process>>,
}

impl Process {
    /// The process with the first program, in a group of its own as a shell would start it. Its parent is [`INIT`], which is made
    /// too.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn first(files: Arc<Descriptors>, place: Place) -> Result<Arc<Self>> {
        let init = Self::new(INIT, INIT, Arc::new(Descriptors::new()), Place::root());
        *init.program.lock() = ("init".into(), b"init\0".to_vec());
        init.handlers().lock().ignore_children();
        let pid = fresh_number();
        let process = Self::new(pid, INIT, files, place);
        *process.parent.lock() = Arc::downgrade(&init);
        init.state.lock().children.push(process.clone());
        let mut processes = PROCESSES.lock();
        processes.insert(INIT, init);
        processes.insert(pid, process.clone());
        Ok(process)
    }

    /// A process that leads a group, with the limits and the user of the beginning.
    fn new(pid: u32, session: u32, files: Arc<Descriptors>, place: Place) -> Arc<Self> {
        let mut limits = [[u64::MAX; 2]; 16];
        // Linux: `INIT_RLIMITS` in include/asm-generic/resource.h.
        limits[RLIMIT_CORE as usize][0] = 0;
        limits[RLIMIT_MSGQUEUE as usize] = [819_200; 2];
        limits[RLIMIT_NICE as usize] = [0; 2];
        limits[RLIMIT_RTPRIO as usize] = [0; 2];
        limits[RLIMIT_STACK as usize] = [8 << 20, u64::MAX];
        limits[RLIMIT_NOFILE as usize] =
            [u64::from(crate::fs::descriptors::LIMIT), u64::from(crate::fs::descriptors::LIMIT)];
        limits[RLIMIT_MEMLOCK as usize] = [memlock::DEFAULT; 2];
        Arc::new(Self {
            pid,
            parent: Mutex::new(Weak::new()),
            state: Mutex::new(State::new(pid, session)),
            space: Mutex::new(None),
            files: Mutex::new(files),
            place: Mutex::new(Arc::new(Mutex::new(place))),
            umask: AtomicU32::new(0o022),
            handlers: Mutex::new(Arc::new(Mutex::new(Handlers::new()))),
            pending: Mutex::new(Pending::new()),
            waiters: WaitQueue::new(),
            exit_signal: 0,
            interval: Mutex::new(None),
            program: Mutex::new((String::new(), Vec::new())),
            oom_score_adj: AtomicI32::new(0),
            limits: Mutex::new(limits),
            started: AtomicU64::new(crate::cpu::clock::now()),
            gone: WaitQueue::new(),
            ipc: Mutex::new(Some(crate::ipc::shm::Namespace::new())),
            subreaper: core::sync::atomic::AtomicBool::new(false),
            faults: AtomicU64::new(0),
            children_reaped: AtomicU64::new(0),
            barriers: AtomicU32::new(0),
            credentials: Mutex::new(Credentials::default()),
            tracees: Mutex::new(Vec::new()),
            tracer: Mutex::new(Weak::new()),
        })
    }

    /// The address space.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the process has ended.
    pub fn space(&self) -> Result<Arc<Space>> {
        self.space.lock().clone().ok_or(Errno::ESRCH)
    }

    /// The descriptors.
    pub fn files(&self) -> Arc<Descriptors> {
        self.files.lock().clone()
    }

    /// A copy of the working directory.
    pub fn place(&self) -> Place {
        let place = self.place.lock().clone();
        let place = place.lock();
        place.clone()
    }

    /// Changes the working directory.
    pub fn set_place(&self, place: Place) {
        let shared = self.place.lock().clone();
        let old = core::mem::replace(&mut *shared.lock(), place);
        drop(old);
    }

    /// What it does about signals.
    pub fn handlers(&self) -> Arc<Mutex<Handlers>> {
        self.handlers.lock().clone()
    }

    /// The number of the parent, or 0.
    pub fn parent_pid(&self) -> u32 {
        self.parent.lock().upgrade().map_or(0, |parent| parent.pid)
    }

    /// Is this its parent?
    pub fn is_child_of(&self, other: &Arc<Self>) -> bool {
        self.parent.lock().upgrade().is_some_and(|parent| Arc::ptr_eq(&parent, other))
    }

    /// Its threads that have not ended.
    pub fn threads(&self) -> Vec<Arc<Thread>> {
        self.state.lock().threads.clone()
    }

    /// The time of its interval timer has come.
    pub fn interval_is_over(self: &Arc<Self>) {
        let old = {
            let mut interval = self.interval.lock();
            let old = interval.take();
            if let Some((_, every)) = &old
                && *every > 0
            {
                let next = crate::cpu::clock::now() + every;
                *interval = Some((crate::task::timer::signal_at(next, self), *every));
            }
            old
        };
        drop(old);
        signal::send_to_process(self, signal::Info::kernel(linux_raw_sys::general::SIGALRM));
    }
}

impl State {
    fn new(group: u32, session: u32) -> Self {
        Self {
            threads: Vec::new(),
            children: Vec::new(),
            status: None,
            ending: None,
            group,
            session,
            vforked: false,
            has_execed: false,
            stopped: None,
            stops: 0,
            continued: false,
        }
    }
}
