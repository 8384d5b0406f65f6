//! What keeps a system alive, what values leave behind when they are dropped, and how the system
//! ends.
//!
//! # Protocol
//!
//! **Dropping a value never sleeps, takes no lock that sleeps, and does not fail.** A value may be
//! dropped in a read section, with table locks held, on any thread, without a task, and without
//! memory.
//!
//! Most values have nothing to do that could sleep. An address space with mappings has: unmapping
//! takes VMA locks and `i_mmap` in write, and the locks of tables that the dropping thread may
//! hold.
//!
//! So dropping the last reference puts the address space into the queue `dropped` of its system,
//! through a link in the value itself. The next operation with a `&mut Task` of the system unmaps
//! it ([`Task::finish_drops`]). That operation only *tries* the sleeping locks, because its caller
//! may hold guards, which do not borrow the task. What is busy is left for a later operation.
//!
//! There are two kinds of references to a system:
//!
//! - *Handles* are `Arc<Hugetlb>`. The embedder has some. So has each task, each address space that
//!   was not dropped, each pin that keeps its system, and each guard of `i_mmap` that the embedder
//!   holds. Whatever can use the system, or hold one of its sleeping locks, has a handle.
//! - [`Inside`] references belong to `Mm`s, files and mounts. They keep the memory of the system. A
//!   queued address space has one through its `Mm`; were it a handle, the queue would keep the
//!   system alive for ever.
//!
//! When the last handle goes there is no task, so there is no read section, and nobody holds a
//! lock. The dropping thread then unmaps what is in the queue. The system itself ends with the last
//! handle or the last `Inside`, whichever goes later.

use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{Ordering, fence};

use super::Hugetlb;
use crate::addr::HugeSize;
use crate::platform::Platform;
use crate::rcu::Rcu;
use crate::sync::{Arc, Orphan, Unowned};
use crate::task::Task;

/// A reference to a system by a part of it. It is not a handle.
///
/// # Invariants
///
/// Accounts for one of `inside` of the system, which is alive until that count is zero.
pub(crate) struct Inside<P: Platform>(Unowned<Hugetlb<P>>);

impl<P: Platform> Inside<P> {
    pub(crate) fn new(hugetlb: &Arc<Hugetlb<P>>) -> Self {
        // Relaxed: there is a handle, so the count is above zero, and the increment publishes
        // nothing.
        hugetlb.inside.fetch_add(1, Ordering::Relaxed);
        // INVARIANT: counted above.
        Self(Arc::unowned(hugetlb))
    }

    /// Another handle.
    ///
    /// # Safety
    ///
    /// A handle exists during the call.
    pub(crate) unsafe fn another_handle(&self) -> Arc<Hugetlb<P>> {
        // SAFETY: by the contract of this function.
        unsafe { self.0.another() }
    }

    /// A handle, if one still exists.
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
            // What cannot be locked now is behind a guard that was forgotten. It stays, and the
            // system with it.
            task.finish_drops();
            task.rcu_barrier();
        }
        match handle.into_orphan() {
            Some(orphan) => system = orphan,
            // Another handle was made meanwhile. Dropping that one comes here again.
            None => return,
        }
    }
    let system = system.abandon();
    // All handles together account for one.
    leave(system);
}

/// Drops one of `inside`.
fn leave<P: Platform>(system: Unowned<Hugetlb<P>>) {
    // SAFETY: the caller accounts for one of `inside`.
    let inside = unsafe { &system.get().inside };
    if inside.fetch_sub(1, Ordering::Release) == 1 {
        // Synchronises with the Release decrements above: all other uses come before the end.
        fence(Ordering::Acquire);
        // SAFETY: all handles together count as one, so they are gone, the orphan was abandoned,
        // and no reference is left.
        end(unsafe { system.end() });
    }
}

/// Ends a system. No task, address space or file is left. Callbacks that they gave to RCU may be.
///
/// This works through shared references only. Callbacks have pointers to the system that were made
/// from shared references. A `drop` of `Hugetlb` would hold it exclusively meanwhile, which would
/// invalidate those pointers by the rules of the language.
fn end<P: Platform>(system: Orphan<Hugetlb<P>>) {
    // SAFETY: no task is left, so there is no section, and no table lock is held, since holding one
    // needs a task.
    unsafe { system.rcu.barrier(&system.platform) };
    for size in HugeSize::ALL {
        system.pool(size).release_all(&system);
    }
    drop(system);
}
