//! Threads that borrow.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use super::{Packet, Result, Thread, begin};

/// Something that can be waited for.
trait Ends {
    fn wait(&self);
}

impl<T> Ends for Packet<T> {
    fn wait(&self) {
        Self::wait(self);
    }
}

/// Where threads are begun that may borrow what lives longer than the scope.
pub struct Scope<'scope, 'env: 'scope> {
    /// They outlive this: all are taken out before `scope` returns.
    begun: StdMutex<Vec<Arc<dyn Ends>>>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl std::fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

/// A thread of a [`scope`] that can be waited for.
pub struct ScopedJoinHandle<'scope, T> {
    packet: Arc<Packet<T>>,
    scope: PhantomData<&'scope ()>,
}

impl<T> std::fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ScopedJoinHandle").field(&self.packet.thread).finish()
    }
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits until the thread has ended.
    ///
    /// # Errors
    ///
    /// What it panicked with: then the run is decided.
    #[track_caller]
    pub fn join(self) -> Result<T> {
        self.packet.wait();
        self.packet.take()
    }

    /// The thread.
    #[must_use]
    pub fn thread(&self) -> &Thread {
        &self.packet.thread
    }
}

/// Begins threads that may borrow, and waits for all of them.
#[track_caller]
pub fn scope<'env, F, T>(work: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let scope = Scope { begun: StdMutex::default(), scope: PhantomData, env: PhantomData };
    let result = catch_unwind(AssertUnwindSafe(|| work(&scope)));
    loop {
        // A thread may begin others.
        let next = scope.begun.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(next) = next else { break };
        next.wait();
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl<'scope> Scope<'scope, '_> {
    /// Begins a thread.
    ///
    /// # Panics
    ///
    /// As [`spawn`](super::spawn).
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, body: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let packet = begin(None, body);
        let ends: Arc<dyn Ends + 'scope> = packet.clone();
        // SAFETY: `scope` takes it out and drops it before anything ends that lives as long as the scope.
        let ends = unsafe { std::mem::transmute::<Arc<dyn Ends + 'scope>, Arc<dyn Ends>>(ends) };
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(ends);
        ScopedJoinHandle { packet, scope: PhantomData }
    }
}
