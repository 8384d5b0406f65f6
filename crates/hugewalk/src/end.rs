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
//! - [`Inside`](crate::hugetlb::Inside) references belong to `Mm`s, files and mounts. They keep the memory of the system. A
//!   queued address space has one through its `Mm`; were it a handle, the queue would keep the
//!   system alive for ever.
//!
//! When the last handle goes there is no task, so there is no read section, and nobody holds a
//! lock. The dropping thread then unmaps what is in the queue. The system itself ends with the last
//! handle or the last `Inside`, whichever goes later.

use crate::error::OutOfMemory;
use crate::hugetlb::{Hugetlb, leave};
use crate::platform::Platform;
use crate::sync::{Arc, Orphan};
use crate::task::Task;

impl<P: Platform> Hugetlb<P> {
    /// A system on this platform, with empty pools.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(platform: P) -> Result<Arc<Self>, OutOfMemory> {
        Self::with_last(platform, last_handle)
    }
}

/// The last handle is gone.
fn last_handle<P: Platform>(mut system: Orphan<Hugetlb<P>>) {
    if !system.dropped().is_empty() {
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
