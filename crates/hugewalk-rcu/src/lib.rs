//! Read-copy-update: read sections that cost almost nothing, and grace periods that wait for them.
//!
//! A reader may still use what a writer has just unlinked. So the writer does not free it but gives it to [`Rcu::call`], which
//! runs a callback after a *grace period*: once every read section that was open at the call has been left.
//!
//! # What it costs
//!
//! | | |
//! |---|---|
//! | enter a section | load the epoch, store it in a line of the reader's own, pass the light barrier |
//! | leave it | store 0 in that line |
//! | enter or leave an inner one | count it |
//! | [`call`](Rcu::call) | take the lock of the domain, append to a list; one in eight runs callbacks that may run |
//! | a grace period | one heavy barrier, which all callbacks queued before it share, and a look at each reader |
//!
//! Memory is allocated when a reader [registers](Rcu::register) and there were never so many at one time, and nowhere else. The
//! link of a callback lies in the object that waits ([`RcuHead`]). How much waits is bounded by [`call`](Rcu::call) itself, as
//! long as readers leave their sections.
//!
//! # Beside its peers
//!
//! Processor time, in nanoseconds, in one run of `cargo bench --manifest-path crates/hugewalk-bench/Cargo.toml` on a virtual
//! machine with two processors, which was busy with other work. Sections come one after the other and do not wait for each other, so
//! this is how many there can be, not how long one takes.
//!
//! | | a section: 1 thread | 2 threads | replace a node of the heap, and have the old one freed |
//! |---|---|---|---|
//! | the load in the section alone | 0.36 | 0.35 | |
//! | this crate, `membarrier(2)` | 0.77 | 0.82 | 47 |
//! | this crate, full fences | 2.77 | 2.77 | 38 |
//! | the same by hand, as in liburcu (membarrier) | 1.32 | 1.48 | |
//! | `crossbeam-epoch`, pin of a handle | 3.34 | 8.16 | 65 |
//! | `seize` | 6.83 | 7.67 | 60 |
//!
//! The peers find out by themselves which thread they run on and are safe to use; here that is the host's task.
//!
//! # What it needs
//!
//! A host implements [`Barriers`]: the atomics, a spinning lock, a pause, and an asymmetric pair of barriers. In a kernel the heavy
//! one is an interrupt to all processors, and the light one a compiler fence. In user space they are `membarrier(2)` and a
//! compiler fence; or both are full fences, which is always right:
//!
//! ```
//! use core::sync::atomic::{AtomicU64, Ordering, fence};
//! use hugewalk_rcu::{Barriers, EpochRcu, Rcu};
//!
//! struct Threads;
//!
//! // SAFETY: full fences are sequentially consistent.
//! unsafe impl Barriers for Threads {
//!     type Word = AtomicU64;
//!     type SpinLock = parking_lot::RawMutex;
//!     fn light(&self) {
//!         fence(Ordering::SeqCst);
//!     }
//!     fn heavy(&self) {
//!         fence(Ordering::SeqCst);
//!     }
//!     unsafe fn pause(&self) {
//!         std::thread::yield_now();
//!     }
//! }
//!
//! let domain = EpochRcu::new(&Threads)?;
//! let reader = domain.register(&Threads)?;
//! // SAFETY: the reader is one of this domain, and is not in a section.
//! unsafe { domain.read_lock(&Threads, &reader) };
//! // What is found here stays until the section is left.
//! // SAFETY: the reader is in the section entered above.
//! unsafe { domain.read_unlock(&Threads, &reader) };
//! // SAFETY: the reader is one of this domain, and not used afterwards.
//! unsafe { domain.unregister(&Threads, reader) };
//! # Ok::<(), hugewalk_rcu::OutOfMemory>(())
//! ```
//!
//! The functions are `unsafe`, since what makes them safe is a matter of the host: which thread a reader belongs to, and where it
//! may sleep. A host puts guards of its own around them; the crate `hugewalk` does so by its tasks.
//!
//! # What it does not do
//!
//! There is no thread of its own: callbacks run in [`call`](Rcu::call), [`synchronize`](Rcu::synchronize) and
//! [`barrier`](Rcu::barrier). A reader that stays in its section holds up all callbacks queued since. Sections may not sleep,
//! if the host takes a context switch for their end.
//!
//! # Examples
//!
//! `examples/list.rs` is a list that readers walk while a writer takes elements out.

#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;

mod barriers;
mod epoch;
mod word;

use core::ptr::{self, NonNull};

use thiserror::Error;

pub use self::barriers::Barriers;
pub use self::epoch::{EpochRcu, EpochReader};
pub use self::word::Word;

/// There was no memory for a record. Nothing was changed.
///
/// Linux: `-ENOMEM`, `VM_FAULT_OOM`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Error)]
#[error("out of memory for tables or records")]
pub struct OutOfMemory;

impl From<alloc::collections::TryReserveError> for OutOfMemory {
    fn from(_: alloc::collections::TryReserveError) -> Self {
        Self
    }
}

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
/// # What the user guarantees
///
/// An implementation may rely on the following.
///
/// - **Inside a section a thread neither sleeps nor causes a context switch.** So the RCU
///   may take a context switch for the end of all sections of a thread, if preemption is off in sections or
///   is known not to end them.
/// - A reader is registered, used and unregistered on one thread. Its sections are left in the
///   order of their nesting, on that thread. A section may be left late, or never: a guard that is
///   forgotten leaves its section open, at the latest until the reader is unregistered. Until then
///   grace periods may wait; nothing may be freed early.
/// - [`synchronize`](Self::synchronize) and [`barrier`](Self::barrier) are never called in a
///   section. [`call`](Self::call) may be called anywhere, with table locks held and inside
///   sections.
/// - The one exception is the end of a system that has a domain of its own: it may call `barrier` while the thread is in a
///   section of *another* domain.
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

    /// Waits for a grace period. Sleeps.
    ///
    /// # Safety
    ///
    /// The calling thread may sleep: it is in no section and holds no spinning lock.
    unsafe fn synchronize(&self, host: &B);

    /// Waits until every callback queued so far has run. Sleeps.
    ///
    /// # Safety
    ///
    /// As for [`synchronize`](Self::synchronize); and the caller is not a callback.
    unsafe fn barrier(&self, host: &B);

    /// Callbacks that wait for their grace period; for statistics.
    fn pending(&self) -> u64;
}
