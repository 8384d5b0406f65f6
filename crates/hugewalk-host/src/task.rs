//! One task for each thread.

use core::ptr::{self, NonNull};
use std::cell::RefCell;

use hugewalk::error::OutOfMemory;
use hugewalk::platform::{Barriers, HandleRcu, Platform};
use hugewalk::rcu::{Rcu, RcuHead};
use hugewalk::sync::Arc;
use hugewalk::{Hugetlb, Task};
use thiserror::Error;

thread_local! {
    /// The readers that this thread has. A task registers one.
    static MINE: RefCell<Readers> = const { RefCell::new(Readers { domains: Vec::new(), unlisted: 0 }) };
}

struct Readers {
    /// The domains of these readers, by address.
    domains: Vec<usize>,
    /// How many more readers there are, of unknown domains, because the list had no memory for
    /// them.
    unlisted: usize,
}

/// The calling thread's task of this system.
///
/// This is the safe way to make a task: a thread has at most one task of a system at a time. A thread that works for
/// several systems has one for each. A task that was dropped makes room for the next. A task that was forgotten
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
    // SAFETY: every task registers a reader with the domain of its system, on the thread that makes
    // it, and keeps it until the task is dropped. This thread has no reader of this domain, so it
    // has no task of this system.
    Ok(unsafe { Task::new(hugetlb) }?)
}

/// Why a thread got no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The thread has a task of this system already. With two, the thread could sleep by one task
    /// while it is in a read section of the other.
    #[error("this thread has a task of this system already")]
    HasOne,
    /// The thread is about to end: its thread-local values are being dropped.
    #[error("the thread is about to end")]
    ThreadEnds,
    /// No memory for the task.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// An RCU that notes, for each thread, which domains it has readers of, so that [`task`] can refuse a second task. For
/// platforms whose threads are those of the standard library.
#[derive(Debug)]
pub struct OnePerThread<R>(R);

/// An RCU that knows which of its readers belong to the calling thread: [`OnePerThread`], also behind a handle to a platform.
///
/// # Safety
///
/// [`has_reader_here`](Self::has_reader_here) is `Some(false)` only if no reader that this thread registered is left.
pub unsafe trait KnowsThreads {
    /// Does the calling thread have a reader of this domain? `None` if the thread is about to end.
    fn has_reader_here(&self) -> Option<bool>;
}

// SAFETY: `register` notes each reader, and only `unregister` removes the note.
unsafe impl<R> KnowsThreads for OnePerThread<R> {
    fn has_reader_here(&self) -> Option<bool> {
        let any = |mine: &Readers| mine.unlisted > 0 || mine.domains.contains(&self.domain());
        MINE.try_with(|mine| any(&mine.borrow())).ok()
    }
}

// SAFETY: readers of the handle's domain are readers of the domain in it.
unsafe impl<R: KnowsThreads> KnowsThreads for HandleRcu<R> {
    fn has_reader_here(&self) -> Option<bool> {
        self.inner().has_reader_here()
    }
}

impl<R> OnePerThread<R> {
    /// A number that no other living domain has. It is used only once the domain has its final
    /// address, inside the reference-counted system.
    fn domain(&self) -> usize {
        ptr::from_ref(self).addr()
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
        // A thread that is about to end has no list any more. `task` makes no task there.
        let _ = MINE.try_with(|mine| {
            let mut mine = mine.borrow_mut();
            // Running out of room is not an error here, because the end of a system needs a reader.
            if mine.domains.try_reserve(1).is_ok() {
                mine.domains.push(self.domain());
            } else {
                mine.unlisted += 1;
            }
        });
        Ok(reader)
    }

    unsafe fn unregister(&self, host: &B, reader: R::Reader) {
        // Without the list, the thread is about to end, and gets no further task.
        let _ = MINE.try_with(|mine| {
            let mut mine = mine.borrow_mut();
            match mine.domains.iter().position(|&domain| domain == self.domain()) {
                Some(at) => _ = mine.domains.swap_remove(at),
                None => mine.unlisted -= 1,
            }
        });
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
