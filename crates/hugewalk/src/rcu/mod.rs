//! Read-copy-update: read sections that cost almost nothing, and grace periods that wait for them.
//!
//! A walker may still use a table that was taken out of the address space a moment before. So the
//! table is not freed but given to [`Rcu::call`], which runs its callback after a *grace period*:
//! once every read section that was open at the call has been left (P1 in [`walk`](crate::walk)).
//!
//! The engine comes with [`EpochRcu`]. An embedder with an RCU of its own implements [`Rcu`] on
//! that.

mod epoch;

use core::ptr::{self, NonNull};

pub use self::epoch::{EpochRcu, EpochReader};

use crate::error::OutOfMemory;
use crate::sync::Barriers;

/// The link of an object that waits for a grace period. It lies inside the object, so that freeing
/// needs no memory. Linux: `struct rcu_head`.
#[derive(Debug)]
pub struct RcuHead {
    /// For the RCU implementation: the next one in its list.
    pub next: *mut RcuHead,
    /// For the RCU implementation: when it was queued.
    pub epoch: u64,
    callback: Option<unsafe fn(NonNull<RcuHead>)>,
}

impl RcuHead {
    /// A head that calls `callback` with its own address, once, after the grace period.
    ///
    /// The callback may run in any call of [`Rcu::call`]. So it must not sleep, wait for a grace
    /// period or panic. It may call [`Rcu::call`] itself.
    #[must_use]
    pub const fn new(callback: unsafe fn(NonNull<RcuHead>)) -> Self {
        Self { next: ptr::null_mut(), epoch: 0, callback: Some(callback) }
    }

    /// Runs the callback. For implementations of [`Rcu`].
    ///
    /// # Safety
    ///
    /// `head` was given to [`Rcu::call`], its grace period has ended, and this is the only call for it.
    pub unsafe fn invoke(head: NonNull<Self>) {
        // SAFETY: by the contract of `Rcu::call` its caller keeps the head alive until the callback
        // has run.
        let callback = unsafe { (*head.as_ptr()).callback.take() };
        if let Some(callback) = callback {
            // SAFETY: by the contract of `Rcu::call` the callback may run now, and runs once.
            unsafe { callback(head) };
        }
    }
}

/// Read sections and grace periods.
///
/// # What the engine guarantees
///
/// An implementation may rely on the following. [`Task`](crate::Task) enforces it by types, so safe
/// code cannot break it.
///
/// - **Inside a section the engine neither sleeps nor causes a context switch.** Every function
///   that may sleep takes `&mut Task`, and a section borrows the task. A thread has one task (the
///   contract of [`Task::new`](crate::Task::new)), and dropping a value never sleeps. So the RCU
///   may take a context switch for the end of all sections of a thread, on two conditions: the
///   embedder's own code does not sleep in a section either, and preemption is off in sections or
///   is known not to end them.
/// - A reader is registered, used and unregistered on one thread. Its sections are left in the
///   order of their nesting, on that thread. A section may be left late, or never: a guard that is
///   forgotten leaves its section open, at the latest until the reader is unregistered. Until then
///   grace periods may wait; nothing may be freed early.
/// - [`synchronize`](Self::synchronize) and [`barrier`](Self::barrier) are never called in a
///   section. [`call`](Self::call) may be called anywhere, with table locks held and inside
///   sections.
/// - The one exception is the end of a system: dropping the last handle calls `barrier`, and the
///   dropping thread may be in a section of *another* system. If the embedder's systems share one
///   RCU, the embedder keeps a handle to each system until it is in no section.
///
/// # Safety
///
/// - What a section found before it was unlinked stays valid until the section is left:
///   [`call`](Self::call) runs no callback, and [`synchronize`](Self::synchronize) does not return,
///   before every section has been left that was open when they were called.
/// - Everything that a task did before `call` or `synchronize` is visible to every section entered
///   after the grace period.
/// - Sections nest.
pub unsafe trait Rcu<B: Barriers>: Send + Sync + Sized + 'static {
    /// The state of a reader, which a task keeps. Used by one thread at a time.
    type Reader: 'static;

    /// A fresh domain.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    fn new(host: &B) -> Result<Self, OutOfMemory>;

    /// Makes a reader. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], but only if there would be more readers at the same time than ever before:
    /// the memory of a reader that was unregistered is there for the next. The end of a system
    /// relies on that; if registering fails there, the system is leaked.
    fn register(&self, host: &B) -> Result<Self::Reader, OutOfMemory>;

    /// Unregisters a reader. It is in no section, unless a guard was forgotten: that section ends
    /// here. Does not sleep.
    ///
    /// # Safety
    ///
    /// `reader` came from [`register`](Self::register) of this domain.
    unsafe fn unregister(&self, host: &B, reader: Self::Reader);

    /// Enters a read section.
    ///
    /// # Safety
    ///
    /// `reader` came from [`register`](Self::register) of this domain.
    unsafe fn read_lock(&self, host: &B, reader: &Self::Reader);

    /// Leaves a read section.
    ///
    /// # Safety
    ///
    /// `reader` came from [`register`](Self::register) of this domain and is in a section.
    unsafe fn read_unlock(&self, host: &B, reader: &Self::Reader);

    /// Runs the callback of `head` after a grace period, on any thread. Allocates nothing, does not
    /// sleep, may be called inside a read section.
    ///
    /// May also run other callbacks whose grace period is over. So it must not be called with a
    /// lock held that a callback takes.
    ///
    /// # Safety
    ///
    /// `head` stays valid and untouched until its callback runs, and the callback may be called from any thread then.
    unsafe fn call(&self, host: &B, head: NonNull<RcuHead>);

    /// Waits for a grace period. Sleeps. Safe code calls [`Task::synchronize`](crate::Task::synchronize).
    ///
    /// # Safety
    ///
    /// The calling thread may sleep: it is in no section and holds no spinning lock.
    unsafe fn synchronize(&self, host: &B);

    /// Waits until every callback queued so far has run. Sleeps. Safe code calls
    /// [`Task::rcu_barrier`](crate::Task::rcu_barrier).
    ///
    /// # Safety
    ///
    /// As for [`synchronize`](Self::synchronize); and the caller is not a callback.
    unsafe fn barrier(&self, host: &B);

    /// Callbacks that wait for their grace period; for statistics.
    fn pending(&self) -> u64;
}
