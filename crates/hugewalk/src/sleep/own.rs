//! The reader-biased lock for data of the host's.

use core::ops::{Deref, DerefMut};

use super::biased::BiasedRwSem;
use crate::error::Interrupted;
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::sync::Arc;
use crate::task::Task;

/// A sleeping reader/writer lock whose readers write no line that another reader writes: the kind that the mmap lock and VMA
/// locks are, for data of the host's.
///
/// Each task of the system has a line in which it marks what it holds in read. A writer takes this *bias* away by a heavy barrier and looks
/// at all lines. While writers are frequent, the lock is a plain one: the bias comes back after a number of reads without a writer.
///
/// It has a handle of the system. A thread that holds the lock and takes it again may wait for itself for ever, also in read.
///
/// Linux: `percpu_rw_semaphore`.
#[derive(Debug)]
pub struct BiasedRwLock<P: Platform, T> {
    lock: BiasedRwSem<P, T>,
    /// Dropped after the lock.
    _system: Arc<Hugetlb<P>>,
}

impl<P: Platform, T> BiasedRwLock<P, T> {
    /// A lock for tasks of this system.
    #[must_use]
    pub fn new(hugetlb: &Arc<Hugetlb<P>>, value: T) -> Self {
        let _system = hugetlb.clone();
        // SAFETY: the handle keeps the system as long as the lock.
        let lock = unsafe { BiasedRwSem::new(&_system, value) };
        Self { lock, _system }
    }

    /// Takes the lock in read. Sleeps. A task of another system takes the plain lock.
    #[must_use]
    #[track_caller]
    pub fn read(&self, task: &mut Task<P>) -> impl Deref<Target = T> + use<'_, P, T> {
        self.lock.read(task)
    }

    /// Takes the lock in read if that needs no waiting.
    #[track_caller]
    pub fn try_read(&self, task: &Task<P>) -> Option<impl Deref<Target = T> + use<'_, P, T>> {
        self.lock.try_read(task)
    }

    /// Takes the lock in write. Sleeps.
    #[must_use]
    #[track_caller]
    pub fn write(&self, task: &mut Task<P>) -> impl DerefMut<Target = T> + use<'_, P, T> {
        self.lock.write(task)
    }

    /// Takes the lock in write, unless the task is killed first. Sleeps.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]: the task does not have the lock.
    #[track_caller]
    pub fn write_killable(
        &self,
        task: &mut Task<P>,
    ) -> Result<impl DerefMut<Target = T> + use<'_, P, T>, Interrupted> {
        self.lock.write_killable(task)
    }

    /// Takes the lock in write if that needs no waiting.
    #[track_caller]
    pub fn try_write(&self) -> Option<impl DerefMut<Target = T> + use<'_, P, T>> {
        self.lock.try_write()
    }

    /// Do readers mark their own lines at this moment? It may have changed by the time it is returned.
    #[must_use]
    pub fn is_biased(&self) -> bool {
        self.lock.is_biased()
    }
}
