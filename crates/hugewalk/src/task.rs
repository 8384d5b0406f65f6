//! The running task. Its type says whether it may sleep.
//!
//! Every function that may block takes `&mut Task`. An RCU read section and a held table lock keep
//! a shared borrow of the task. So sleeping, taking a sleeping lock or waiting for a grace period
//! inside an atomic section does not compile. The guards of sleeping locks do not borrow the task:
//! sleeping under the VMA lock is allowed.
//!
//! ```compile_fail,E0502
//! # fn f<P: hugewalk::platform::Platform>(task: &mut hugewalk::Task<P>) {
//! let section = task.rcu_read_lock();
//! task.synchronize(); // a grace period waits for this very section
//! drop(section);
//! # }
//! ```
//!
//! Two mistakes get around that. They end in a leak or in waiting for ever, never in a use of freed
//! memory:
//!
//! - **A guard is forgotten** ([`core::mem::forget`]). A read section stays open until its task is
//!   dropped: tables that are retired meanwhile pile up, and [`Task::synchronize`] does not return.
//!   A lock stays locked: every thread that waits for it hangs, and a dropped address space that
//!   needs it is never unmapped, so its system stays as well.
//! - **A lock is taken twice.** Guards of sleeping locks do not keep their holder from calling an
//!   operation that takes the same lock. The documentation of each guard says which calls are
//!   allowed.
//!
//! # A task of another system
//!
//! A thread may have tasks of several systems. An operation that is given a task of another system
//! returns [`WrongSystem`] and changes nothing. [`AddressSpace::pin_page_fast`](crate::AddressSpace::pin_page_fast), which has no
//! errors, returns `None`.
//!
//! Guards can be taken with a task of any system ([`AddressSpace::mmap_read`](crate::AddressSpace::mmap_read) and others like it,
//! the lock of a stable [`Slot`](crate::table::Slot)). There the task only shows that the thread
//! may sleep, or keeps it from sleeping. A proof is checked where it is used: a walk refuses a read
//! section of another system. So such a guard is as good as one that was taken with the right task,
//! with two caveats:
//!
//! - It borrows the other task. So a thread that locks a table with a task of another system can
//!   still call an operation of this system, which waits for that lock for ever.
//! - A thread can sleep in one system while it is in a read section of another. If the systems use
//!   one RCU of the host, the contract of [`Task::new`] rules that out.
//!
//! # Dropping
//!
//! Dropping a value never sleeps, so values may be dropped anywhere: see [`AddressSpace`](crate::AddressSpace).

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crate::error::{OutOfMemory, WrongSystem};
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::rcu::Rcu;
use crate::sleep::Line;
use crate::sync::{Arc, Parker};

/// One thread of execution that uses the engine. Linux: `current`.
///
/// It stays on the thread that made it (it is neither `Send` nor `Sync`), and so do its guards. A
/// thread has one at a time, of whatever system: see [`new`](Self::new).
///
/// Dropping it ends the read sections whose guards were forgotten, and does not sleep, unless it has the last handle of the
/// system: see [`Hugetlb`].
///
/// # Invariants
///
/// `reader` came from the RCU domain of `hugetlb`, and `line` from its lines. Both are given back once, when the task is
/// dropped.
pub struct Task<P: Platform> {
    hugetlb: Arc<Hugetlb<P>>,
    reader: ManuallyDrop<<P::Rcu as Rcu<P>>::Reader>,
    /// Where it marks the locks that it holds in read. None if the platform wants no marks, or there was no memory at the end.
    line: Option<NonNull<Line<P::Word>>>,
    /// Shared with the queues the task waits in.
    parker: Arc<P::Parker>,
    id: u64,
    _stays: TaskStaysOnItsThread,
}

impl<P: Platform> Task<P> {
    /// Makes a task of this system for the calling thread. Hosts offer a safe way: threads of
    /// `hugewalk-host` call its function `task`, which refuses a second task on the same thread.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    ///
    /// # Safety
    ///
    /// The calling thread of execution has no other task, of whatever system, and makes none before
    /// this one is dropped.
    ///
    /// With a second task, safe code could sleep while the thread is in a read section of the
    /// first, or has a table locked with it. If the RCU takes a context switch for the end of all read sections, it would free
    /// what the section still uses. Any other RCU would wait for ever for the section, which cannot
    /// end.
    pub unsafe fn new(hugetlb: &Arc<Hugetlb<P>>) -> Result<Self, OutOfMemory> {
        let parker = Arc::try_new(<P::Parker as Parker>::new())?;
        let reader = hugetlb.rcu().register(hugetlb.platform())?;
        // INVARIANT: registered with the domain of this system. If the line cannot be had, the drop unregisters the reader.
        let mut task = Self {
            hugetlb: hugetlb.clone(),
            reader: ManuallyDrop::new(reader),
            line: None,
            parker,
            id: hugetlb.fresh_id(),
            _stays: TaskStaysOnItsThread::MARK,
        };
        if P::reader_bias() {
            task.line = Some(hugetlb.lines().take()?);
        }
        Ok(task)
    }

    /// The task that unmaps what is left when `hugetlb` is the last handle. Allocates nothing, as
    /// the contract of [`Rcu::register`] provides.
    pub(crate) fn of_the_end(hugetlb: &Arc<Hugetlb<P>>) -> Result<Self, OutOfMemory> {
        let reader = hugetlb.rcu().register(hugetlb.platform())?;
        // INVARIANT: registered with the domain of this system. Another task would have a handle.
        Ok(Self {
            hugetlb: hugetlb.clone(),
            reader: ManuallyDrop::new(reader),
            line: hugetlb.lines().reuse(),
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

    /// A number that no other task, address space or file of the system has. Linux: the thread ID.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Does the task belong to this system?
    pub(crate) fn check(&self, hugetlb: &Hugetlb<P>) -> Result<(), WrongSystem> {
        if core::ptr::eq(&raw const *self.hugetlb, hugetlb) { Ok(()) } else { Err(WrongSystem) }
    }

    /// The first step of every operation that may sleep. Checks that the task belongs to this
    /// system, and then finishes what dropped values left to be done, as far as that needs no
    /// waiting.
    #[inline]
    pub(crate) fn enter(&mut self, hugetlb: &Hugetlb<P>) -> Result<(), WrongSystem> {
        self.check(hugetlb)?;
        if !hugetlb.dropped().is_empty() {
            self.finish_drops();
        }
        Ok(())
    }

    /// A place in its line for the mark of a lock of this system. None if the task is of another system, or all are taken.
    #[inline]
    pub(crate) fn place_for(&self, hugetlb: &Hugetlb<P>) -> Option<&P::Word> {
        if !core::ptr::eq(&raw const *self.hugetlb, hugetlb) {
            return None;
        }
        // SAFETY: by the type invariants it is a line of this system, which has its lines as long as it is.
        unsafe { self.line?.as_ref() }.place()
    }

    /// Where it sleeps: what the host keeps for the task. A host that kills the task has a clone of it.
    #[must_use]
    pub fn parker(&self) -> &Arc<P::Parker> {
        &self.parker
    }

    /// Enters an RCU read section, which lasts as long as the guard. Sections nest. Does not sleep,
    /// and the caller cannot sleep until the guard is dropped.
    #[inline]
    #[must_use = "the read section ends when the guard is dropped"]
    pub fn rcu_read_lock(&self) -> RcuReadGuard<'_, P> {
        // SAFETY: by the type invariants the reader belongs to this domain.
        unsafe {
            self.hugetlb.rcu().read_lock(self.hugetlb.platform(), &self.reader);
        };
        RcuReadGuard { task: self }
    }

    /// Waits for a grace period: when it returns, every read section that is open now has been
    /// left. Sleeps.
    pub fn synchronize(&mut self) {
        // SAFETY: sections and table locks borrow the task, and the thread has no other one.
        unsafe { self.hugetlb.rcu().synchronize(self.hugetlb.platform()) };
    }

    /// Waits until everything that was given to RCU so far has been freed. Unmaps dropped address
    /// spaces first, as [`finish_drops`](Self::finish_drops) does. Sleeps.
    pub fn rcu_barrier(&mut self) {
        if !self.hugetlb.dropped().is_empty() {
            self.finish_drops();
        }
        // SAFETY: sections and table locks borrow the task, and the thread has no other one. Callbacks have no task.
        unsafe { self.hugetlb.rcu().barrier(self.hugetlb.platform()) };
    }

    /// Lets other threads run, in a loop that waits for one of them. May sleep; the platform
    /// decides.
    pub fn pause(&mut self) {
        // SAFETY: sections and table locks borrow the task, and the thread has no other one.
        unsafe { self.hugetlb.platform().pause() };
    }
}

impl<P: Platform> Drop for Task<P> {
    fn drop(&mut self) {
        // SAFETY: dropped once, here, and not used afterwards.
        let reader = unsafe { ManuallyDrop::take(&mut self.reader) };
        // SAFETY: by the type invariants the reader belongs to this domain; guards borrow the task,
        // so none is left.
        unsafe { self.hugetlb.rcu().unregister(self.hugetlb.platform(), reader) };
        if let Some(line) = self.line.take() {
            // SAFETY: by the type invariants it came from there, and it is given back once, here.
            unsafe { self.hugetlb.lines().give_back(line) };
        }
    }
}

impl<P: Platform> fmt::Debug for Task<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

/// Keeps its container on one thread: neither `Send` nor `Sync`. Its name appears in the compiler's
/// message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskStaysOnItsThread(PhantomData<*mut ()>);

impl TaskStaysOnItsThread {
    pub(crate) const MARK: Self = Self(PhantomData);
}

/// An RCU read section. A proof that tables reached through it are *alive*; see [`walk`](crate::walk).
///
/// Not `Send`: the task that entered a section leaves it. Dropping the guard leaves the section, and
/// does not sleep.
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
        // SAFETY: by the task's invariants the reader belongs to this domain; the guard was made
        // when the section was entered.
        unsafe {
            self.task.hugetlb.rcu().read_unlock(self.task.hugetlb.platform(), &self.task.reader);
        };
    }
}
