//! One task for each thread.

use core::ptr::NonNull;
use std::cell::Cell;

use hugewalk::error::OutOfMemory;
use hugewalk::platform::{Barriers, HandleRcu, Platform};
use hugewalk::rcu::{Rcu, RcuHead};
use hugewalk::sync::Arc;
use hugewalk::{Hugetlb, Task};
use thiserror::Error;

thread_local! {
    /// How many readers this thread has, of whatever domains. A task registers one. It is there until the thread has ended.
    static MINE: Cell<usize> = const { Cell::new(0) };
}

/// The calling thread's task, for this system.
///
/// This is the safe way to make a task: a thread has at most one task at a time, of whatever system. With one of each of two
/// systems it could sleep by the one while it has a table of the other locked. A thread that works for several systems has
/// one task after the other. A task that was dropped makes room for the next. A task that was forgotten
/// ([`mem::forget`](core::mem::forget)) occupies the thread's place until the thread ends.
///
/// ```
/// use hugewalk::Hugetlb;
/// use hugewalk_host::{Host, HostConfig, TaskError, task};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(1 << 30))?)?;
/// let first = task(&hugetlb)?;
/// assert_eq!(task(&hugetlb).err(), Some(TaskError::HasOne));
/// drop(first);
/// let _second = task(&hugetlb)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`TaskError`].
pub fn task<P: Platform<Rcu: KnowsThreads>>(hugetlb: &Arc<Hugetlb<P>>) -> Result<Task<P>, TaskError> {
    if hugetlb.rcu().has_reader_here().ok_or(TaskError::ThreadEnds)? {
        return Err(TaskError::HasOne);
    }
    // SAFETY: every task registers a reader with the domain of its system, on the thread that makes it and has it until
    // it is dropped. This thread has no reader, so it has no task.
    Ok(unsafe { Task::new(hugetlb) }?)
}

/// Why a thread got no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The thread has a task already, of this system or another. What sleeps with one task must not be inside a read section of
    /// another, nor have a table locked with it.
    #[error("this thread has a task already")]
    HasOne,
    /// The thread is about to end: its thread-local values are being dropped.
    #[error("the thread is about to end")]
    ThreadEnds,
    /// No memory for the task.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// An RCU that counts the readers of each thread, those of all domains together, so that [`task`] can refuse a second task.
/// For platforms whose threads are those of the standard library.
#[derive(Debug)]
pub struct OnePerThread<R>(R);

/// An RCU that knows whether the calling thread has readers: [`OnePerThread`], also behind a handle to a platform.
///
/// # Safety
///
/// [`has_reader_here`](Self::has_reader_here) is `Some(false)` only if no reader that this thread registered is left, be it of
/// this domain or of another that safe code can make a task of.
pub unsafe trait KnowsThreads {
    /// Does the calling thread have a reader, of whatever domain? `None` if that cannot be told, for the thread is about to end.
    fn has_reader_here(&self) -> Option<bool>;
}

// SAFETY: `register` counts each reader, of every domain, and only `unregister` takes one off.
unsafe impl<R> KnowsThreads for OnePerThread<R> {
    fn has_reader_here(&self) -> Option<bool> {
        Some(MINE.get() > 0)
    }
}

// SAFETY: readers of the handle's domain are readers of the domain in it.
unsafe impl<R: KnowsThreads> KnowsThreads for HandleRcu<R> {
    fn has_reader_here(&self) -> Option<bool> {
        self.inner().has_reader_here()
    }
}

// SAFETY: everything is passed on to `R`, which keeps the contract.
unsafe impl<B: Barriers, R: Rcu<B>> Rcu<B> for OnePerThread<R> {
    type Reader = R::Reader;

    fn new(host: &B) -> Result<Self, OutOfMemory> {
        R::new(host).map(Self)
    }

    fn register(&self, host: &B) -> Result<R::Reader, OutOfMemory> {
        let reader = self.0.register(host)?;
        // Refuses nothing: the end of a system needs a reader, wherever its last handle is dropped.
        MINE.set(MINE.get() + 1);
        Ok(reader)
    }

    unsafe fn unregister(&self, host: &B, reader: R::Reader) {
        // On the thread that registered it, as the contract says.
        MINE.set(MINE.get() - 1);
        // SAFETY: passed on to the caller.
        unsafe { self.0.unregister(host, reader) };
    }

    #[inline]
    unsafe fn read_lock(&self, host: &B, reader: &R::Reader) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.read_lock(host, reader) };
    }

    #[inline]
    unsafe fn read_unlock(&self, host: &B, reader: &R::Reader) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.read_unlock(host, reader) };
    }

    unsafe fn call(&self, host: &B, head: NonNull<RcuHead>) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.call(host, head) };
    }

    unsafe fn synchronize(&self, host: &B) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.synchronize(host) };
    }

    unsafe fn barrier(&self, host: &B) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.barrier(host) };
    }

    fn pending(&self) -> u64 {
        self.0.pending()
    }
}
