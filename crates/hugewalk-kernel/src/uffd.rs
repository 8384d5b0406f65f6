//! userfaultfd: the descriptor and its ioctls, over the engine's [`Userfault`].
//!
//! Source of facts: include/uapi/linux/userfaultfd.h, fs/userfaultfd.c.

mod base;
mod calls;
mod event;
mod fill;

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use hugewalk::AddressSpace;
use hugewalk::uffd::{Features, Message, Userfault, UserfaultError};
use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK};
use linux_raw_sys::ioctl::{
    UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE,
    UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE,
};
use spin::{Mutex, Once};

use self::base::Next;
pub use self::base::{Handler, Reason, Registration};
pub use self::event::{Children, Moving, Unmapped};

use crate::errno::{Errno, Result};
use crate::fs::file::Events;
use crate::fs::{File, Opened};
use crate::memory::user;
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

/// `UFFD_FEATURE_MISSING_SHMEM`, `UFFD_FEATURE_MINOR_SHMEM` and `UFFD_FEATURE_MOVE`, which the engine knows nothing of.
const OF_BASE_PAGES: u64 = 1 << 5 | 1 << 10 | 1 << 16;

/// `UFFDIO_MOVE`. Linux 6.8.
const UFFDIO_MOVE: u32 = 0xc028_aa05;
/// `UFFDIO_POISON`. Linux 6.6.
const UFFDIO_POISON: u32 = 0xc020_aa08;

/// All that are open, so that the end of an address space can wake those that wait for their handlers.
static OPEN: Mutex<Vec<Weak<Uffd>>> = Mutex::new(Vec::new());

/// What a userfaultfd leads to.
pub struct Uffd {
    space: hugewalk::Arc<AddressSpace<Kernel>>,
    state: Mutex<State>,
    /// Its other half, for base pages; there is one as soon as they are registered.
    base: Once<Arc<Handler>>,
    /// Of a child's: the handler of the parent's base pages, if there was one.
    parent: Weak<Handler>,
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
        // The engine sees nothing above a range if only base pages are: but the stack always is, and Linux looks no further.
        if matches!(error, UserfaultError::NothingAbove { .. }) {
            return Self::EINVAL;
        }
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
    let uffd = Uffd::open(current().space().engine().clone(), State::New, Weak::new());
    install(uffd, flags).map(u64::from)
}

/// Makes a descriptor.
fn install(uffd: Arc<Uffd>, flags: u32) -> Result<u32> {
    let opened = Opened::anonymous(
        uffd,
        "anon_inode:[userfaultfd]",
        flags & O_NONBLOCK | linux_raw_sys::general::O_RDWR,
    );
    current().process().files().insert(opened, flags & O_CLOEXEC != 0, 0)
}

/// Ends the handlers of an address space that nothing runs in any more. Who reads of its faults goes on.
pub fn release(space: &Space) {
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
    fn open(space: hugewalk::Arc<AddressSpace<Kernel>>, state: State, parent: Weak<Handler>) -> Arc<Self> {
        let uffd = Arc::new(Self { space, state: Mutex::new(state), base: Once::new(), parent });
        let mut open = OPEN.lock();
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&uffd));
        uffd
    }

    /// What the engine has made for a child's faults on huge pages, from what has this handler of base pages.
    fn of_child(parent: &Arc<Handler>, child: &hugewalk::Arc<AddressSpace<Kernel>>) -> Option<Arc<Self>> {
        let open: Vec<Arc<Self>> = OPEN.lock().iter().filter_map(Weak::upgrade).collect();
        let is_it = |uffd: &Arc<Self>| {
            hugewalk::Arc::ptr_eq(&uffd.space, child) && Weak::as_ptr(&uffd.parent) == Arc::as_ptr(parent)
        };
        open.into_iter().find(is_it)
    }

    /// A new one, for a child's faults.
    fn for_child(parent: &Arc<Handler>, child: &hugewalk::Arc<AddressSpace<Kernel>>) -> Result<Arc<Self>> {
        let handle = Userfault::new(child, parent.features)?;
        Ok(Self::open(child.clone(), State::Open(Arc::new(handle)), Arc::downgrade(parent)))
    }

    /// Its half for base pages, made if there is none. The features are those of the other half.
    fn base_handler(&self, features: Features) -> Arc<Handler> {
        self.base.call_once(|| Handler::new(&self.space, features)).clone()
    }

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
                user::put(at, &[0xaa, Features::all().bits() | OF_BASE_PAGES, API_IOCTLS])?;
                Ok(0)
            }
            Err(error) => {
                // Linux clears what it was given if it refuses it.
                user::put(at, &[0_u64; 3])?;
                Err(error)
            }
        }
    }

    /// A message, if there is one.
    fn next(&self) -> Result<Option<[u8; MESSAGE]>> {
        match self.handle() {
            Ok(handle) => match handle.try_read_event() {
                Some(message) => self.encode(message).map(Some),
                None => self.base.get().map_or(Ok(None), |base| next_of_base(base)),
            },
            // Nothing will ever come.
            Err(Errno::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Uffd {
    fn drop(&mut self) {
        // Descriptors are closed with nothing held, so there is a task to unregister with. If not, faults ignore what is left.
        let state = core::mem::replace(self.state.get_mut(), State::Ended);
        if let State::Open(handle) = state
            && let Some(handle) = Arc::into_inner(handle)
            && let Some(mut task) = current().spare_task()
        {
            let _ = handle.close(&mut task);
        }
        if let Some(base) = self.base.get() {
            base.close();
        }
    }
}

/// A message about base pages, if there is one.
fn next_of_base(base: &Handler) -> Result<Option<[u8; MESSAGE]>> {
    let event = match base.next() {
        None => return Ok(None),
        Some(Next::Fault(message)) => return Ok(Some(message)),
        Some(Next::Event(event)) => event,
    };
    let descriptor = match &event.what {
        event::What::Fork(child) => match install(child.clone(), O_CLOEXEC | O_NONBLOCK) {
            Ok(descriptor) => Some(descriptor),
            Err(error) => {
                base.put_back(event);
                return Err(error);
            }
        },
        _ => None,
    };
    let message = event::encode(&event.what, descriptor);
    base.was_read();
    Ok(Some(message))
}

impl Uffd {
    /// What the engine says. For a fork, makes the descriptor of the child's faults.
    fn encode(&self, message: Message<Kernel>) -> Result<[u8; MESSAGE]> {
        let (event, words) = match message {
            Message::Pagefault(fault) => {
                let thread = fault.thread.map_or(0, thread_of);
                (0x12, [fault.flags.bits(), fault.address.as_u64(), u64::from(thread)])
            }
            Message::Fork(handle) => {
                let space = handle.address_space().clone();
                let parent = self.base.get().map_or(Weak::new(), Arc::downgrade);
                let child = Self::open(space, State::Open(Arc::new(handle)), parent);
                (0x13, [u64::from(install(child, O_CLOEXEC | O_NONBLOCK)?), 0, 0])
            }
            Message::Remap { from, to, length } => (0x14, [from.as_u64(), to.as_u64(), length]),
            Message::Remove { start, end } => (0x15, [start.as_u64(), end.as_u64(), 0]),
            Message::Unmap { start, end } => (0x16, [start.as_u64(), end.as_u64(), 0]),
        };
        Ok(self::message(event, words))
    }
}

/// `struct uffd_msg`.
fn message(event: u8, words: [u64; 3]) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    bytes[0] = event;
    for (index, word) in words.iter().enumerate() {
        bytes[8 + 8 * index..][..8].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
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
            UFFDIO_MOVE => self.move_range(at),
            UFFDIO_CONTINUE => self.continue_range(at),
            UFFDIO_WRITEPROTECT => self.write_protect(at),
            UFFDIO_POISON => self.poison(at),
            _ => Err(Errno::EINVAL),
        }
    }
}
