//! userfaultfd: the descriptor and its ioctls, over the engine's [`Userfault`].
//!
//! Source of facts: include/uapi/linux/userfaultfd.h, fs/userfaultfd.c.

mod base;

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use hugewalk::AddressSpace;
use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Message, Modes, ProtectMode, Stopped, Userfault, UserfaultError,
};
use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK};
use linux_raw_sys::ioctl::{
    UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE,
    UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE,
};
use spin::{Mutex, Once};

pub use self::base::Handler;

use crate::errno::{Errno, Result};
use crate::fs::file::Events;
use crate::fs::{File, Opened};
use crate::memory::{PAGE, user};
use crate::platform::Kernel;
use crate::process;
use crate::space::Space;
use crate::task::current;
use crate::task::wait::WaitQueue;

/// Bytes of a message.
const MESSAGE: usize = 32;
/// `UFFD_USER_MODE_ONLY`.
const USER_MODE_ONLY: u32 = 1;
/// `UFFDIO_API`, `UFFDIO_REGISTER` and `UFFDIO_UNREGISTER`, as bits of `ioctls`.
const API_IOCTLS: u64 = 1 << 63 | 1 | 1 << 1;

/// `UFFD_FEATURE_MISSING_SHMEM`, which the engine knows nothing of.
const MISSING_SHMEM: u64 = 1 << 5;
/// And `UFFD_FEATURE_MINOR_SHMEM`: a handler that asks for everything Linux has gets the rest. It is not among the features that are
/// offered.
const OF_BASE_PAGES: u64 = MISSING_SHMEM | 1 << 10;

/// `UFFDIO_COPY_MODE_DONTWAKE`, and the same of zeroes.
const DONT_WAKE: u64 = 1;

/// All that are open, so that the end of an address space can wake those that wait for their handlers.
static OPEN: Mutex<Vec<Weak<Uffd>>> = Mutex::new(Vec::new());

/// What a userfaultfd leads to.
pub struct Uffd {
    space: hugewalk::Arc<AddressSpace<Kernel>>,
    state: Mutex<State>,
    /// Its other half, for base pages; there is one as soon as they are registered.
    base: Once<Arc<Handler>>,
}

#[derive(Clone)]
enum State {
    /// Before `UFFDIO_API`.
    New,
    /// The engine's handle.
    Open(Arc<Userfault<Kernel>>),
    /// The address space has ended.
    Ended,
}

impl From<UserfaultError> for Errno {
    fn from(error: UserfaultError) -> Self {
        error.errno().into()
    }
}

/// `userfaultfd(2)`: a descriptor for the faults of the running process.
///
/// # Errors
///
/// `EINVAL` for flags that are not known; those of a new descriptor.
pub fn create(flags: u32) -> Result<u64> {
    if flags & !(O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY) != 0 {
        return Err(Errno::EINVAL);
    }
    open(current().space().engine().clone(), None, flags).map(u64::from)
}

fn open(
    space: hugewalk::Arc<AddressSpace<Kernel>>,
    handle: Option<Userfault<Kernel>>,
    flags: u32,
) -> Result<u32> {
    let state = handle.map_or(State::New, |handle| State::Open(Arc::new(handle)));
    let uffd = Arc::new(Uffd { space, state: Mutex::new(state), base: Once::new() });
    {
        let mut open = OPEN.lock();
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&uffd));
    }
    let opened = Opened::anonymous(
        uffd,
        "anon_inode:[userfaultfd]",
        flags & O_NONBLOCK | linux_raw_sys::general::O_RDWR,
    );
    current().process().files().insert(opened, flags & O_CLOEXEC != 0, 0)
}

/// Wakes all that waits for handlers of an address space, which ends.
pub fn release(space: &Arc<Space>) {
    let open: Vec<Arc<Uffd>> = OPEN.lock().iter().filter_map(Weak::upgrade).collect();
    for uffd in open.iter().filter(|uffd| hugewalk::Arc::ptr_eq(&uffd.space, space.engine())) {
        let handle = core::mem::replace(&mut *uffd.state.lock(), State::Ended);
        drop(handle);
        if let Some(base) = uffd.base.get() {
            base.close();
        }
        uffd.space.mm().context().handlers().wake_all();
    }
}

impl Uffd {
    fn handle(&self) -> Result<Arc<Userfault<Kernel>>> {
        match self.state.lock().clone() {
            State::New => Err(Errno::EINVAL),
            State::Open(handle) => Ok(handle),
            State::Ended => Err(Errno::ESRCH),
        }
    }

    fn api(&self, at: u64) -> Result<u64> {
        let [api, wanted, _]: [u64; 3] = user::get(at)?;
        let features = Features::from_bits(wanted & !OF_BASE_PAGES).filter(|_| api == 0xaa);
        let fresh = matches!(*self.state.lock(), State::New);
        let made = match features {
            Some(features) if fresh => Userfault::new(&self.space, features).map_err(Errno::from),
            _ => Err(Errno::EINVAL),
        };
        match made {
            Ok(handle) => {
                *self.state.lock() = State::Open(Arc::new(handle));
                user::put(at, &[0xaa, Features::all().bits() | MISSING_SHMEM, API_IOCTLS])?;
                Ok(0)
            }
            Err(error) => {
                // Linux clears what it was given if it refuses it.
                user::put(at, &[0_u64; 3])?;
                Err(error)
            }
        }
    }

    fn register(&self, at: u64) -> Result<u64> {
        let [start, length, modes]: [u64; 3] = user::get(at)?;
        let modes = Modes::from_bits(modes).filter(|modes| !modes.is_empty()).ok_or(Errno::EINVAL)?;
        let handle = self.handle()?;
        if let Some(space) = self.base_space(start, length) {
            // Base pages alone, and nothing but missing ones.
            if modes != Modes::MISSING {
                return Err(Errno::EINVAL);
            }
            let base = self.base.call_once(|| Handler::new(&self.space, handle.features()));
            space.set_handler(start, length, Some(base))?;
            user::put(at + 24, &base::OPERATIONS)?;
            return Ok(0);
        }
        let operations = {
            let mut task = current().task()?;
            handle.register(&mut task, VirtAddr::new(start), length, modes)?
        };
        user::put(at + 24, &operations.bits())?;
        Ok(0)
    }

    /// The address space, if there are base pages in the range, and if it is the caller's.
    fn base_space(&self, start: u64, length: u64) -> Option<Arc<Space>> {
        let space = current().process().space().ok()?;
        (hugewalk::Arc::ptr_eq(&self.space, space.engine()) && space.has_base(start, length)).then_some(space)
    }

    /// Fills base pages, with the bytes at an address of the caller's or with zeroes.
    fn fill_base(&self, space: &Space, to: u64, from: Option<u64>, length: u64) -> (u64, Result<()>) {
        let Some(base) = self.base.get() else { return (0, Err(Errno::ENOENT)) };
        let mut bytes = [0; PAGE as usize];
        for at in (0..length).step_by(PAGE as usize) {
            let filled = match from {
                Some(from) => user::read(from + at, &mut bytes)
                    .and_then(|()| space.fill_missing(to + at, base, Some(&bytes))),
                None => space.fill_missing(to + at, base, None),
            };
            if filled.is_err() {
                return (at, filled);
            }
        }
        (length, Ok(()))
    }

    /// Wakes the faults on base pages in a range, unless told not to.
    fn wake_base(&self, start: u64, length: u64, sleep_on: bool) {
        if let Some(base) = self.base.get().filter(|_| !sleep_on) {
            base.wake(start, length);
        }
    }

    fn unregister(&self, at: u64) -> Result<u64> {
        let [start, length]: [u64; 2] = user::get(at)?;
        let handle = self.handle()?;
        if let Some(space) = self.base_space(start, length) {
            space.set_handler(start, length, None)?;
            self.wake_base(start, length, false);
            return Ok(0);
        }
        let mut task = current().task()?;
        handle.unregister(&mut task, VirtAddr::new(start), length)?;
        Ok(0)
    }

    fn wake(&self, at: u64) -> Result<u64> {
        let [start, length]: [u64; 2] = user::get(at)?;
        self.handle()?.wake(VirtAddr::new(start), length)?;
        self.wake_base(start, length, false);
        Ok(0)
    }

    fn copy(&self, at: u64) -> Result<u64> {
        let [to, from, length, mode]: [u64; 4] = user::get(at)?;
        let handle = self.handle()?;
        let mode = CopyMode::from_bits(mode).ok_or(Errno::EINVAL)?;
        if length == 0 || to.checked_add(length).is_none() || from.checked_add(length).is_none() {
            return Err(Errno::EINVAL);
        }
        if let Some(space) = self.base_space(to, length) {
            if !(to | length).is_multiple_of(PAGE) || mode.bits() & !DONT_WAKE != 0 {
                return Err(Errno::EINVAL);
            }
            let (done, outcome) = self.fill_base(&space, to, Some(from), length);
            self.wake_base(to, done, mode.bits() & DONT_WAKE != 0);
            return answer(at + 32, done, outcome);
        }
        // A huge page at a time: its bytes are read before the engine takes any lock.
        let size = HugeSize::Size2M.bytes();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length.min(size) as usize).map_err(|_| Errno::ENOMEM)?;
        let mut done = 0;
        let outcome = loop {
            if done == length {
                break Ok(());
            }
            bytes.resize((length - done).min(size) as usize, 0);
            if let Err(error) = user::read(from + done, &mut bytes) {
                break Err(error);
            }
            let mut task = current().task()?;
            match handle.copy(&mut task, VirtAddr::new(to + done), &bytes, mode) {
                Ok(()) => done += bytes.len() as u64,
                Err(stopped) => {
                    done += stopped.done;
                    break Err(stopped.error.into());
                }
            }
        };
        answer(at + 32, done, outcome)
    }

    fn zero(&self, at: u64) -> Result<u64> {
        let [start, length, mode]: [u64; 3] = user::get(at)?;
        let handle = self.handle()?;
        if let Some(space) = self.base_space(start, length) {
            if length == 0 || !(start | length).is_multiple_of(PAGE) || mode & !DONT_WAKE != 0 {
                return Err(Errno::EINVAL);
            }
            let (done, outcome) = self.fill_base(&space, start, None, length);
            self.wake_base(start, done, mode & DONT_WAKE != 0);
            return answer(at + 24, done, outcome);
        }
        let outcome = {
            let mut task = current().task()?;
            handle.zero(&mut task, VirtAddr::new(start), length)
        };
        stopped(at + 24, length, outcome)
    }

    fn continue_range(&self, at: u64) -> Result<u64> {
        let [start, length, mode]: [u64; 3] = user::get(at)?;
        let handle = self.handle()?;
        let mode = ContinueMode::from_bits(mode).ok_or(Errno::EINVAL)?;
        let outcome = {
            let mut task = current().task()?;
            handle.continue_range(&mut task, VirtAddr::new(start), length, mode)
        };
        stopped(at + 24, length, outcome)
    }

    fn write_protect(&self, at: u64) -> Result<u64> {
        let [start, length, mode]: [u64; 3] = user::get(at)?;
        let handle = self.handle()?;
        let mode = ProtectMode::from_bits(mode).ok_or(Errno::EINVAL)?;
        let mut task = current().task()?;
        handle.write_protect(&mut task, VirtAddr::new(start), length, mode)?;
        drop(task);
        // What was protected is flushed by the engine; what was unprotected, or marked, may be copied beside base pages.
        if let Ok(space) = current().process().space() {
            space.root().follow(start, start.saturating_add(length));
        }
        Ok(0)
    }

    /// A message, if there is one.
    fn next(&self) -> Result<Option<[u8; MESSAGE]>> {
        match self.handle() {
            Ok(handle) => match handle.try_read_event() {
                Some(message) => encode(message).map(Some),
                None => Ok(self.base.get().and_then(|base| base.next())),
            },
            // Nothing will ever come.
            Err(Errno::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Uffd {
    fn drop(&mut self) {
        if let Some(base) = self.base.get() {
            base.close();
        }
    }
}

fn stopped(at: u64, length: u64, outcome: core::result::Result<(), Stopped>) -> Result<u64> {
    match outcome {
        Ok(()) => answer(at, length, Ok(())),
        Err(stopped) => answer(at, stopped.done, Err(stopped.error.into())),
    }
}

/// Says how much was done, or the error if nothing was. What is done in part is `EAGAIN`.
fn answer(at: u64, done: u64, outcome: Result<()>) -> Result<u64> {
    match outcome {
        Ok(()) => user::put(at, &done).map(|()| 0),
        Err(error) if done == 0 => {
            user::put(at, &error.as_result())?;
            Err(error)
        }
        Err(_) => {
            user::put(at, &done)?;
            Err(Errno::EAGAIN)
        }
    }
}

/// `struct uffd_msg`. For a fork, makes the descriptor of the child's faults.
fn encode(message: Message<Kernel>) -> Result<[u8; MESSAGE]> {
    let mut bytes = [0; MESSAGE];
    let (event, words) = match message {
        Message::Pagefault(fault) => {
            let thread = fault.thread.map_or(0, thread_of);
            (0x12, [fault.flags.bits(), fault.address.as_u64(), u64::from(thread)])
        }
        Message::Fork(handle) => {
            let space = handle.address_space().clone();
            (0x13, [u64::from(open(space, Some(handle), O_CLOEXEC | O_NONBLOCK)?), 0, 0])
        }
        Message::Remap { from, to, length } => (0x14, [from.as_u64(), to.as_u64(), length]),
        Message::Remove { start, end } => (0x15, [start.as_u64(), end.as_u64(), 0]),
        Message::Unmap { start, end } => (0x16, [start.as_u64(), end.as_u64(), 0]),
    };
    bytes[0] = event;
    for (index, word) in words.iter().enumerate() {
        bytes[8 + 8 * index..][..8].copy_from_slice(&word.to_ne_bytes());
    }
    Ok(bytes)
}

/// The number of the thread that has this task of the engine.
fn thread_of(task: u64) -> u32 {
    let all = process::all();
    let thread = all.iter().flat_map(|process| process.threads()).find(|thread| thread.task_id() == task);
    thread.map_or(0, |thread| thread.tid)
}

impl File for Uffd {
    fn read(&self, _: u64, into: &mut [u8], flags: u32) -> Result<usize> {
        if into.len() < MESSAGE {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        for chunk in into.chunks_exact_mut(MESSAGE) {
            let message = match self.next()? {
                Some(message) => message,
                None if done > 0 => break,
                None if flags & O_NONBLOCK != 0 => return Err(Errno::EAGAIN),
                None => self.space.mm().context().handlers().wait(None, || self.next().transpose())??,
            };
            chunk.copy_from_slice(&message);
            done += MESSAGE;
        }
        Ok(done)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn events(&self) -> Events {
        match &*self.state.lock() {
            // It cannot be used yet.
            State::New => Events::ERR,
            State::Open(handle) if handle.poll() || self.base.get().is_some_and(|base| base.poll()) => {
                Events::IN | Events::RDNORM
            }
            State::Open(_) | State::Ended => Events::empty(),
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(self.space.mm().context().handlers())
    }

    fn ioctl(&self, request: u32, at: u64) -> Result<u64> {
        match request {
            UFFDIO_API => self.api(at),
            UFFDIO_REGISTER => self.register(at),
            UFFDIO_UNREGISTER => self.unregister(at),
            UFFDIO_WAKE => self.wake(at),
            UFFDIO_COPY => self.copy(at),
            UFFDIO_ZEROPAGE => self.zero(at),
            UFFDIO_CONTINUE => self.continue_range(at),
            UFFDIO_WRITEPROTECT => self.write_protect(at),
            _ => Err(Errno::EINVAL),
        }
    }
}
