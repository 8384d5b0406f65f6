//! The running task: whether it may sleep is a matter of types.
//!
//! Whatever may block takes `&mut Task`. An RCU read section and a held table lock keep a shared borrow of the task. So
//! sleeping, taking a sleeping lock or waiting for a grace period inside an atomic section does not compile. The guards
//! of sleeping locks keep no borrow: one may sleep under the VMA lock.
//!
//! Two things go around that, and end in a leak or a wait, never in memory that is used after it was freed:
//!
//! - **A guard that is forgotten** ([`core::mem::forget`]). A read section stays open until its task is dropped: tables that were
//!   retired meanwhile pile up, and [`Task::synchronize`] does not return. A lock stays locked: whoever wants it waits for
//!   ever, and a dropped address space that needs it is never taken down, nor is its system.
//! - **A lock taken twice.** Guards of sleeping locks do not stop their holder from calling an operation that wants the same
//!   lock; each says which may be called.
//!
//! # A task of another system
//!
//! A thread may have a task of each of several systems. An operation that is given a task of a system other than its own
//! returns [`WrongSystem`] and has changed nothing. [`AddressSpace::pin_page_fast`], which has no errors, returns `None`.
//!
//! Guards are taken with a task of any system ([`AddressSpace::mmap_read`] and its like, the lock of a stable
//! [`Slot`](crate::table::Slot)). There the task only shows that the thread may sleep, or keeps it from sleeping, and a
//! proof is checked where it is used: a walk refuses a read section of another system. So a guard is as good as one that was
//! taken with the right task. Two things have to be known:
//!
//! - The borrow is that of the other task. A thread that locks a table with a task of another system can still
//!   call an operation of this system, which waits for that lock for ever.
//! - A thread can sleep in one system while it is in a read section of another. Where systems use one RCU of the host's, the
//!   contract of [`Task::new`] rules that out.
//!
//! Dropping a value never sleeps, so a drop may stand anywhere: see [`AddressSpace`].
//!
//! ```compile_fail,E0502
//! # fn f<P: hugewalk::platform::Platform>(task: &mut hugewalk::Task<P>) {
//! let section = task.rcu_read_lock();
//! task.synchronize(); // a grace period waits for this very section
//! drop(section);
//! # }
//! ```

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use crate::error::{OutOfMemory, WrongSystem};
use crate::hugetlb::Hugetlb;
use crate::mm::AddressSpace;
use crate::platform::Platform;
use crate::rcu::Rcu;
use crate::sync::{Arc, Parker};

/// One thread of execution that uses the engine. Linux: `current`.
///
/// Stays on the thread that made it (neither `Send` nor `Sync`), which is what keeps its guards there too. A thread has one
/// at a time: see [`new`](Self::new).
///
/// Dropping it ends the read sections whose guards were forgotten, and does not sleep, unless it has the last handle of the
/// system: see [`Hugetlb`].
///
/// # Invariants
///
/// `reader` came from the RCU domain of `hugetlb` and is taken back once, when the task is dropped.
pub struct Task<P: Platform> {
    hugetlb: Arc<Hugetlb<P>>,
    reader: ManuallyDrop<<P::Rcu as Rcu<P>>::Reader>,
    /// Shared with the queues the task waits in.
    parker: Arc<P::Parker>,
    id: u64,
    _stays: TaskStaysOnItsThread,
}

impl<P: Platform> Task<P> {
    /// A task of this system, for the calling thread. Hosts offer a safe way to get one: the threads of `hugewalk-host` call
    /// its function `task`, which refuses a second task on the same thread.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    ///
    /// # Safety
    ///
    /// The calling thread of execution has no other task of this system, and makes none before this one is dropped. Where
    /// several systems use one RCU of the host's, it has none of the others either.
    ///
    /// With a second task, safe code could sleep while the thread is in a read section of the first. An RCU that takes a
    /// context switch for the end of all read sections would free what the section still uses; any other would wait for the
    /// section, which cannot end, for ever.
    pub unsafe fn new(hugetlb: &Arc<Hugetlb<P>>) -> Result<Self, OutOfMemory> {
        let parker = Arc::try_new(<P::Parker as Parker>::new())?;
        let reader = hugetlb.rcu().register(hugetlb.platform())?;
        // INVARIANT: registered with the domain of this very system.
        Ok(Self {
            hugetlb: hugetlb.clone(),
            reader: ManuallyDrop::new(reader),
            parker,
            id: hugetlb.fresh_id(),
            _stays: TaskStaysOnItsThread::MARK,
        })
    }

    /// The task that takes down what is left when the last handle but `hugetlb` is gone. Allocates nothing, as far as the
    /// contract of [`Rcu::register`] holds.
    pub(crate) fn of_the_end(hugetlb: &Arc<Hugetlb<P>>) -> Result<Self, OutOfMemory> {
        let reader = hugetlb.rcu().register(hugetlb.platform())?;
        // INVARIANT: registered with the domain of this very system. Another task would have a handle.
        Ok(Self {
            hugetlb: hugetlb.clone(),
            reader: ManuallyDrop::new(reader),
            parker: hugetlb.last_parker().clone(),
            id: hugetlb.fresh_id(),
            _stays: TaskStaysOnItsThread::MARK,
        })
    }

    /// The system the task belongs to.
    #[must_use]
    pub fn hugetlb(&self) -> &Arc<Hugetlb<P>> {
        &self.hugetlb
    }

    /// A number no other task, address space or file of the system has. Linux: the thread ID.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Is it a task of this system?
    pub(crate) fn check(&self, hugetlb: &Hugetlb<P>) -> Result<(), WrongSystem> {
        if core::ptr::eq(&raw const *self.hugetlb, hugetlb) { Ok(()) } else { Err(WrongSystem) }
    }

    /// What operations begin with that may sleep: is it a task of this system? Then what dropped values have left to be done is
    /// done, as far as that needs no waiting.
    #[inline]
    pub(crate) fn enter(&mut self, hugetlb: &Hugetlb<P>) -> Result<(), WrongSystem> {
        self.check(hugetlb)?;
        if !hugetlb.dropped().is_empty() {
            self.finish_drops();
        }
        Ok(())
    }

    /// Takes down the address spaces that were dropped: whatever operation of the system comes next does that by itself, so
    /// this is for those who want their pages and tables back now. Sleeps.
    ///
    /// Tries the sleeping locks that it needs, and does not wait for them: an address space whose VMA locks or files are
    /// busy is left for later. [`AddressSpace::exit`](crate::AddressSpace::exit) waits.
    #[cold]
    pub fn finish_drops(&mut self) {
        let hugetlb = self.hugetlb.clone();
        let mut taken = hugetlb.dropped().take();
        while let Some(space) = taken.next() {
            AddressSpace::take_down(space, &hugetlb, self);
        }
    }

    pub(crate) fn parker(&self) -> &Arc<P::Parker> {
        &self.parker
    }

    /// Enters an RCU read section, which lasts as long as the guard. Sections nest. Does not sleep, and nothing may
    /// sleep until the guard is gone.
    #[inline]
    #[must_use = "the read section ends when the guard is dropped"]
    pub fn rcu_read_lock(&self) -> RcuReadGuard<'_, P> {
        // SAFETY: by the type invariants the reader belongs to this domain.
        unsafe {
            self.hugetlb.rcu().read_lock(self.hugetlb.platform(), &self.reader);
        };
        RcuReadGuard { task: self }
    }

    /// Waits for a grace period: every read section that is open now has been left when it returns. Sleeps.
    pub fn synchronize(&mut self) {
        // SAFETY: sections and table locks borrow the task, and the thread has no other one.
        unsafe { self.hugetlb.rcu().synchronize(self.hugetlb.platform()) };
    }

    /// Waits until everything that was handed to RCU so far has been freed. Takes down what was dropped first, as
    /// [`finish_drops`](Self::finish_drops) does. Sleeps.
    pub fn rcu_barrier(&mut self) {
        if !self.hugetlb.dropped().is_empty() {
            self.finish_drops();
        }
        // SAFETY: sections and table locks borrow the task, and the thread has no other one. Callbacks have no task.
        unsafe { self.hugetlb.rcu().barrier(self.hugetlb.platform()) };
    }

    /// Lets other threads run, in a loop that waits for one of them. Sleeps as the platform sees fit.
    pub fn pause(&mut self) {
        // SAFETY: sections and table locks borrow the task, and the thread has no other one.
        unsafe { self.hugetlb.platform().pause() };
    }
}

impl<P: Platform> Drop for Task<P> {
    fn drop(&mut self) {
        // SAFETY: dropped once, here, and not used afterwards.
        let reader = unsafe { ManuallyDrop::take(&mut self.reader) };
        // SAFETY: by the type invariants it belongs to this domain; guards borrow the task, so none is left.
        unsafe { self.hugetlb.rcu().unregister(self.hugetlb.platform(), reader) };
    }
}

impl<P: Platform> fmt::Debug for Task<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

/// Keeps what contains it on one thread: neither `Send` nor `Sync`. The compiler names it when it refuses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskStaysOnItsThread(PhantomData<*mut ()>);

impl TaskStaysOnItsThread {
    pub(crate) const MARK: Self = Self(PhantomData);
}

/// An RCU read section. A proof that tables reached through it are *alive*; see [`walk`](crate::walk).
///
/// Not `Send`: a section is left by the task that entered it. Dropping the guard leaves the section, and does not sleep.
#[derive(Debug)]
pub struct RcuReadGuard<'t, P: Platform> {
    task: &'t Task<P>,
}

impl<'t, P: Platform> RcuReadGuard<'t, P> {
    /// The task whose section this is.
    #[must_use]
    pub fn task(&self) -> &'t Task<P> {
        self.task
    }
}

impl<P: Platform> Drop for RcuReadGuard<'_, P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: by the task's invariants the reader belongs to this domain; the section was entered with the guard.
        unsafe {
            self.task.hugetlb.rcu().read_unlock(self.task.hugetlb.platform(), &self.task.reader);
        };
    }
}
