//! Read-copy-update: read sections that cost next to nothing, and grace periods that wait for them.
//!
//! A table that is taken out of an address space may still be under the hands of a walker that found it a moment
//! before. So it is not freed but handed to [`Rcu::call`], which runs its callback after a *grace period*: once every
//! read section that was open at the call has been left (P1 of the rule in [`walk`](crate::walk)).
//!
//! The engine brings [`EpochRcu`]. An embedder that has an RCU of its own implements [`Rcu`] on it.

mod epoch;

use core::ptr::{self, NonNull};

pub use self::epoch::{EpochRcu, EpochReader};

use crate::error::OutOfMemory;
use crate::platform::Barriers;

/// The link of something that waits for a grace period. It lies inside the thing itself, so that freeing never needs
/// memory. Linux: `struct rcu_head`.
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
    /// The callback runs wherever somebody calls [`Rcu::call`], so it must not sleep, wait for a grace period or panic.
    /// It may call [`Rcu::call`] itself.
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
        // SAFETY: who called `Rcu::call` keeps the head alive until its callback has run.
        let callback = unsafe { (*head.as_ptr()).callback.take() };
        if let Some(callback) = callback {
            // SAFETY: by the contract of `Rcu::call` the callback may run now, and runs once.
            unsafe { callback(head) };
        }
    }
}

/// Read sections and grace periods.
///
/// # What the engine promises
///
/// An implementation may rest on this. [`Task`](crate::Task) makes it a matter of types; nothing that safe code does breaks it.
///
/// - **No sleep and no context switch by the engine's doing inside a section.** Whatever may sleep takes `&mut Task`, and a
///   section borrows the task. A thread has one task (the contract of [`Task::new`](crate::Task::new)), and dropping a value
///   never sleeps. So an RCU for which a context switch ends all sections of a thread will do, if the embedder's own code
///   between the section's start and end does not sleep either, and preemption is off or is known not to end a section.
/// - A reader is registered, used and taken back on one thread, and each reader's sections are left in the order in which
///   nesting demands, on that thread. A section may be left late, or never: a guard that is forgotten leaves its section open
///   until the reader is taken back, at the latest. Until then grace periods may wait; nothing may be freed early.
/// - [`synchronize`](Self::synchronize) and [`barrier`](Self::barrier) are called in no section. [`call`](Self::call) is
///   called anywhere, with table locks held and inside sections.
///
/// # Safety
///
/// - What a read section found before it was taken out of reach stays valid until the section is left:
///   [`call`](Self::call) runs no callback, and [`synchronize`](Self::synchronize) does not return, before every section
///   that was open when they were called has been left.
/// - Whatever a task did before `call` or `synchronize` is visible to every section entered after the grace period.
/// - Sections nest.
pub unsafe trait Rcu<B: Barriers>: Send + Sync + Sized + 'static {
    /// What a task keeps to be known as a reader. Used by one thread at a time.
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
    /// [`OutOfMemory`], but only if there would be more readers at the same time than there ever were: what a reader that was
    /// taken back needed is there for the next. The end of a system rests on that; if it fails, the system is leaked.
    fn register(&self, host: &B) -> Result<Self::Reader, OutOfMemory>;

    /// Takes a reader back that is in no section. Does not sleep.
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

    /// Runs the callback of `head` after a grace period, on whatever thread. Allocates nothing, does not sleep, may be
    /// called inside a read section. May run callbacks whose grace period is over, also those of others: not to be called
    /// with a lock held that a callback takes.
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
    /// As for [`synchronize`](Self::synchronize); and the caller is no callback.
    unsafe fn barrier(&self, host: &B);

    /// Callbacks that wait for their grace period; for statistics.
    fn pending(&self) -> u64;
}
