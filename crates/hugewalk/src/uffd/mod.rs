//! userfaultfd: faults of one process that another thread resolves.
//!
//! A [`Userfault`] is what Linux calls a userfaultfd: a handler's handle on the faults of an address space,
//! in the ranges that it has [registered](Userfault::register).
//!
//! A fault there sends a message, and sleeps until the handler has resolved it ([`copy`](Userfault::copy),
//! [`continue_range`](Userfault::continue_range), [`write_protect`](Userfault::write_protect)) or
//! [woken](Userfault::wake) it.
//!
//! | mode | the handler gets a fault if |
//! |---|---|
//! | [`Modes::MISSING`] | the entry is empty, and the file has no page there |
//! | [`Modes::MINOR`] | the entry is empty, and the file has a page |
//! | [`Modes::WP`] | it is a store, and the entry is write-protected by the handler; with [`Features::WP_ASYNC`] the store goes on, and a [scan](crate::pagewalk::Scan) finds the page written |
//!
//! [`poison`](Userfault::poison) makes an access fail as if the memory had failed: what a virtual machine that was moved does
//! with pages that were broken where it came from.
//!
//! # Protocol
//!
//! - A VMA carries the context it is registered with, and the modes among its flags. Both appear and go
//!   when the VMA is replaced, with the VMA lock and `i_mmap` held in write. If a mode forbids sharing, the
//!   tables are unshared under the same locks. So no mapping shares the table again before the flags show.
//! - A fault releases the VMA lock and the fault mutex, posts its message, and queues in the context. Then
//!   it looks at its entry once more, walking under RCU, where it cannot sleep and so cannot use up its
//!   wake-up. The mmap lock, still held in read, keeps the VMA registered until then. It sleeps with
//!   nothing held.
//! - The handler changes the entry first and wakes afterwards. So a fault either finds the entry changed or
//!   is woken.
//! - An operation that changes the address space (fork, mremap, munmap, madvise) announces its event before
//!   it starts, while it can still fail. From then on the handler's operations fail with
//!   [`UserfaultError::Changing`]. Once the change is made, and with no lock held, the operation publishes
//!   the event, and sleeps until the handler has read it. Dropping pages is announced and read before it is
//!   done.
//! - A handle that is dropped leaves a context that is *gone*: faults that wait are woken, and go on as if
//!   nothing was registered. The next of them, which may sleep, unregisters the range; [`Userfault::close`]
//!   does so at once.
//!
//! Lock order: the lock of the context's queues is a spinning one, below the table lock. The only locks
//! taken under it are the spinning locks of wait queues.
//!
//! Linux: fs/userfaultfd.c, mm/userfaultfd.c.

mod context;
mod error;
mod event;
mod fault;
mod fill;
mod message;
mod place;
mod protect;
mod register;

use core::fmt;
use core::ops::Range;

pub use self::error::{Stopped, UserfaultError};
pub use self::fill::{Fill, hugetlb_mfill_atomic};
pub use self::message::{
    ContinueMode, CopyMode, Features, Message, Modes, Operations, Pagefault, PagefaultFlags, PoisonMode,
    ProtectMode,
};

pub(crate) use self::context::Context;
pub(crate) use self::event::{Announcement, Announcements, ForkedContexts};
pub(crate) use self::fault::Asked;
pub(crate) use self::protect::protect_entries;

use crate::addr::VirtAddr;
use crate::error::WrongSystem;
use crate::platform::Platform;
use crate::sleep::Signals;
use crate::space::{AddressSpace, MmapReadGuard};
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::Vma;

/// A handler's handle on the faults of an address space. Linux: an open userfaultfd.
///
/// It keeps the address space alive, so a process that has a handler is ended by [`AddressSpace::exit`]:
/// until this handle is dropped, dropping the other handles on the address space does nothing.
///
/// When the handle is dropped, faults that wait are woken, and go on without it; see also
/// [`close`](Self::close). The drop takes spinning locks only, and may be done where the drop of an
/// [`AddressSpace`] may. So may that of an unread [`Message`].
pub struct Userfault<P: Platform> {
    context: Arc<Context<P>>,
    space: Arc<AddressSpace<P>>,
}

impl<P: Platform> Userfault<P> {
    /// A handle on the faults of `space`, which has no ranges yet.
    ///
    /// Linux: `userfaultfd(2)` and `UFFDIO_API`. The host decides which callers may ask for privileged
    /// features (`EVENT_FORK`).
    ///
    /// # Errors
    ///
    /// [`UserfaultError::UnknownFlags`], [`UserfaultError::OutOfMemory`].
    pub fn new(space: &Arc<AddressSpace<P>>, features: Features) -> Result<Self, UserfaultError> {
        if !Features::all().contains(features) {
            return Err(UserfaultError::UnknownFlags);
        }
        let implied = features.contains(Features::WP_ASYNC).then_some(Features::WP_UNPOPULATED);
        let features = features | implied.unwrap_or_default();
        Ok(Self { context: Context::new(space.mm(), features)?, space: space.clone() })
    }

    /// The handle on the faults of a child that no other thread knows yet.
    fn of_child(context: Arc<Context<P>>, space: &Arc<AddressSpace<P>>) -> Self {
        Self { context, space: space.clone() }
    }

    /// The features that were asked for, and those that they imply.
    #[must_use]
    pub fn features(&self) -> Features {
        self.context.features()
    }

    /// The address space whose faults it handles.
    #[must_use]
    pub fn address_space(&self) -> &Arc<AddressSpace<P>> {
        &self.space
    }

    /// Waits for a message. Sleeps. Any number of threads may read; each message goes to one of them.
    ///
    /// Linux: `read(2)` of a userfaultfd.
    ///
    /// # Errors
    ///
    /// [`UserfaultError::Exited`] if there is no message, and none will come because the address space has
    /// exited (Linux would sleep until a signal comes); [`UserfaultError::Interrupted`] if a signal comes first;
    /// [`UserfaultError::OutOfMemory`] if there is no memory to wait.
    pub fn read_event(&self, task: &mut Task<P>) -> Result<Message<P>, UserfaultError> {
        let mm = self.space.mm();
        task.enter(mm.hugetlb())?;
        mm.handlers().wait_unless(self.context.id(), Signals::Any, task, |_| match self.context.read() {
            Some(message) => Some(Ok(message)),
            None => mm.has_exited().then_some(Err(UserfaultError::Exited)),
        })?
    }

    /// A message, if there is one. Does not sleep.
    ///
    /// Linux: `read(2)` of a userfaultfd opened with `O_NONBLOCK`, where `None` is `EAGAIN`.
    #[must_use]
    pub fn try_read_event(&self) -> Option<Message<P>> {
        self.context.read()
    }

    /// Is there a message to be read? Another reader may be faster. Does not sleep. Linux: `poll(2)`,
    /// `POLLIN`.
    #[must_use]
    pub fn poll(&self) -> bool {
        self.context.is_readable()
    }

    /// Wakes the faults that wait in a range, resolved or not. A fault that is not resolved comes back with
    /// another message. Does not sleep. Linux: `UFFDIO_WAKE`.
    ///
    /// # Errors
    ///
    /// [`UserfaultError::BadRange`].
    pub fn wake(&self, start: VirtAddr, length: u64) -> Result<(), UserfaultError> {
        self.context.wake(&self.checked_range(start, length)?);
        Ok(())
    }

    /// Closes the handle: unregisters all its ranges, and wakes all faults and operations that wait.
    /// Sleeps.
    ///
    /// Takes the mmap lock in write, and for each registered VMA its lock and `i_mmap`, both in write. If
    /// there is no memory to change a mapping, it stays registered, and faults ignore that.
    ///
    /// Linux: `userfaultfd_release()` in fs/userfaultfd.c.
    ///
    /// # Errors
    ///
    /// [`WrongSystem`] if the task belongs to another system, and the handle, which is what it was.
    pub fn close(self, task: &mut Task<P>) -> Result<(), (Self, WrongSystem)> {
        match task.enter(self.space.mm().hugetlb()) {
            Ok(()) => {
                self.leave(task);
                Ok(())
            }
            Err(error) => Err((self, error)),
        }
    }

    /// [`close`](Self::close), with a task of this system.
    fn leave(self, task: &mut Task<P>) {
        self.context.die();
        self.space.unregister_all(&self.context, task);
    }

    /// Linux: `validate_range()` in fs/userfaultfd.c.
    fn checked_range(&self, start: VirtAddr, length: u64) -> Result<Range<VirtAddr>, UserfaultError> {
        let aligned = self.space.mm().geometry().is_aligned(start.as_u64() | length);
        let end = start.checked_add(length).filter(|&end| end <= self.space.mm().task_size());
        match end {
            Some(end) if aligned && length > 0 => Ok(start..end),
            _ => Err(UserfaultError::BadRange { start, length }),
        }
    }

    /// The check that all operations that change entries make first.
    fn check_alive(&self) -> Result<(), UserfaultError> {
        if self.space.mm().has_exited() {
            return Err(UserfaultError::Exited);
        }
        if self.context.is_changing() {
            return Err(UserfaultError::Changing);
        }
        Ok(())
    }

    /// The one registered VMA that holds the range.
    ///
    /// Linux: `find_dst_vma()` in mm/userfaultfd.c, which does not check either which userfaultfd the VMA
    /// is registered with.
    fn find_registered<'m>(
        mmap: &'m MmapReadGuard<'_, P>,
        range: &Range<VirtAddr>,
    ) -> Result<&'m Arc<Vma<P>>, UserfaultError> {
        mmap.find(range.start)
            .filter(|vma| range.end <= vma.end() && vma.userfault().is_some())
            .ok_or(UserfaultError::NotRegistered { address: range.start })
    }
}

/// Are both ends of a range where pages of the VMA begin?
fn check_aligned<P: Platform>(vma: &Vma<P>, range: &Range<VirtAddr>) -> Result<(), UserfaultError> {
    let size = vma.size();
    match [range.start, range.end].into_iter().find(|end| !size.is_aligned(end.as_u64())) {
        Some(end) => Err(UserfaultError::Unaligned { value: end.as_u64(), size }),
        None => Ok(()),
    }
}

impl<P: Platform> Drop for Userfault<P> {
    fn drop(&mut self) {
        // Unregistering sleeps, and a drop must not: the caller may hold locks.
        self.context.die();
    }
}

impl<P: Platform> fmt::Debug for Userfault<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Userfault");
        out.field("mm", &self.space.mm().id()).field("features", &self.features()).finish_non_exhaustive()
    }
}
