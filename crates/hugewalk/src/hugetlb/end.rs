//! Who keeps a system, what values leave behind when they are dropped, and the end of it all.
//!
//! # Protocol
//!
//! **Dropping a value never sleeps, takes no lock that sleeps, and does not fail.** A value may be dropped in a read section,
//! with table locks held, on any thread, without a task, and when there is no memory.
//!
//! Most values have nothing to do that could sleep. An address space with mappings has: it takes VMA locks and `i_mmap` in
//! write, and the locks of tables that the dropping thread may hold. So the last reference to it puts it into the queue
//! `dropped` of its system, through a link in the value itself. The next operation with a `&mut Task` of the system takes it
//! down ([`Task::finish_drops`]). It only *tries* the sleeping locks, because its caller may hold guards, which keep no borrow
//! of the task; what is busy is left for the operation after that.
//!
//! There are two kinds of references to a system:
//!
//! - *Handles* are `Arc<Hugetlb>`: those of the embedder, and one in each task, in each address space that was not dropped,
//!   in each pin that keeps its system, and in each guard of `i_mmap` that the embedder has. Whoever can do something with
//!   the system, or can hold one of its sleeping locks, has a handle.
//! - [`Inside`] is what address spaces' `Mm`s, files and mounts have. It keeps the memory, and the queue may hold it: were it a
//!   handle, a queued address space would keep the system for ever.
//!
//! When the last handle goes there is no task, so no read section, and nobody holds a lock. Then whoever drops it takes down
//! what is in the queue. The system itself ends with the last handle or the last `Inside`, whichever goes later.

use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{Ordering, fence};

use super::Hugetlb;
use crate::addr::HugeSize;
use crate::platform::Platform;
use crate::rcu::Rcu;
use crate::sync::{Arc, Orphan, Unowned};
use crate::task::Task;

/// A reference to a system by what belongs to it. It is no handle.
///
/// # Invariants
///
/// Accounts for one of `inside` of the system, which is alive until that is zero.
pub(crate) struct Inside<P: Platform>(Unowned<Hugetlb<P>>);

impl<P: Platform> Inside<P> {
    pub(crate) fn new(hugetlb: &Arc<Hugetlb<P>>) -> Self {
        // Relaxed: there is a handle, so the number is above zero, and nothing is published by it.
        hugetlb.inside.fetch_add(1, Ordering::Relaxed);
        // INVARIANT: counted above.
        Self(Arc::unowned(hugetlb))
    }

    /// Another handle.
    ///
    /// # Safety
    ///
    /// Somebody has a handle during the call.
    pub(crate) unsafe fn another_handle(&self) -> Arc<Hugetlb<P>> {
        // SAFETY: by the contract of this function.
        unsafe { self.0.another() }
    }

    /// A handle, if anybody has one.
    pub(crate) fn handle(&self) -> Option<Arc<Hugetlb<P>>> {
        // SAFETY: by the type invariants the memory is there.
        unsafe { self.0.upgrade() }
    }
}

impl<P: Platform> fmt::Debug for Inside<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<P: Platform> Deref for Inside<P> {
    type Target = Hugetlb<P>;
    #[inline]
    fn deref(&self) -> &Hugetlb<P> {
        // SAFETY: by the type invariants it is alive as long as this value.
        unsafe { self.0.get() }
    }
}

impl<P: Platform> Drop for Inside<P> {
    fn drop(&mut self) {
        leave(self.0);
    }
}

/// The last handle is gone.
pub(super) fn last_handle<P: Platform>(mut system: Orphan<Hugetlb<P>>) {
    if !system.dropped.is_empty() {
        let handle = system.adopt();
        if let Ok(mut task) = Task::of_the_end(&handle) {
            // What cannot be had now is behind a guard that was forgotten. It stays, and the system with it.
            task.finish_drops();
            task.rcu_barrier();
        }
        match handle.into_orphan() {
            Some(orphan) => system = orphan,
            // Somebody else has a handle now. It comes back here in the end.
            None => return,
        }
    }
    let system = system.abandon();
    // All handles together account for one.
    leave(system);
}

/// Gives one of `inside` up.
fn leave<P: Platform>(system: Unowned<Hugetlb<P>>) {
    // SAFETY: the caller accounts for one of `inside`.
    let inside = unsafe { &system.get().inside };
    if inside.fetch_sub(1, Ordering::Release) == 1 {
        // Synchronises with the Release above in all others: their last uses come before the end.
        fence(Ordering::Acquire);
        // SAFETY: the handles were among those who left, so the orphan was given up, and nobody else is left.
        end(unsafe { system.end() });
    }
}

/// The end of a system: no task, address space or file is left. What they handed to RCU may be.
///
/// Everything is done by way of shared references: callbacks have pointers to the system that were made of such. A `drop` of
/// `Hugetlb` would hold it exclusively meanwhile, which makes those pointers worthless by the rules of the language.
fn end<P: Platform>(system: Orphan<Hugetlb<P>>) {
    // SAFETY: no task is left, so there is no section; and who has a lock of the engine's tables has a task.
    unsafe { system.rcu.barrier(&system.platform) };
    for size in HugeSize::ALL {
        system.pool(size).release_all(&system);
    }
    drop(system);
}
