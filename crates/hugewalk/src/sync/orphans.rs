//! A queue of values whose last reference is gone, and which have something left to be done.
//!
//! The link lies in the value itself, so queueing needs no memory. It takes no lock either, and so never
//! waits: a value may be dropped anywhere.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use super::Word;
use super::arc::{Inner, Orphan};

/// The place in a queue that a value of type `T` has.
pub(crate) struct Link<T>(AtomicPtr<Inner<T>>);

impl<T> Link<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }
}

/// A value that can be queued.
pub(crate) trait Linked: Sized {
    fn link(&self) -> &Link<Self>;
}

/// Values that wait, each with its own link.
///
/// # Invariants
///
/// `newest` is the exposed address of the first of a list, through the links, of values that were taken out of their
/// [`Orphan`]s and belong to the queue; 0 if there is none.
pub(crate) struct Orphans<T: Linked, W: Word> {
    /// A word of the platform, and no pointer: so a checker can hold still before each access to it.
    newest: W,
    values: PhantomData<*mut Inner<T>>,
}

// SAFETY: a value goes to whoever takes it out, on any thread, as an `Orphan` may; nothing else of it is reached from here.
unsafe impl<T: Linked, W: Word> Send for Orphans<T, W> where Orphan<T>: Send {}
// SAFETY: likewise: `push` and `take` move values from thread to thread, and no reference to one is lent out.
unsafe impl<T: Linked, W: Word> Sync for Orphans<T, W> where Orphan<T>: Send {}

impl<T: Linked, W: Word> Orphans<T, W> {
    pub(crate) fn new() -> Self {
        Self { newest: W::new(0), values: PhantomData }
    }

    /// Is there none? Another thread may queue one at this moment.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: a hint. Taking the values out synchronises with the tasks that queued them.
        self.newest.load(Ordering::Relaxed) == 0
    }

    /// Puts one in. Allocates nothing, takes no lock.
    pub(crate) fn push(&self, orphan: Orphan<T>) {
        let own = orphan.into_raw();
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: it was ours until now, and belongs to the queue only once the exchange below succeeds.
            let link = unsafe { &(*own.as_ptr()).value }.link();
            // Relaxed: published by the Release below.
            link.0.store(at(newest), Ordering::Relaxed);
            // Release: pairs with the Acquire in `take`, which sees the link and all that was done to the value.
            // INVARIANT: given up above, and its link leads to the rest.
            match self.newest.compare_exchange(newest, address(own), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => newest = other,
            }
        }
    }

    /// Takes all of them out, the oldest first. Those that the caller does not ask for are put back.
    pub(crate) fn take(&self) -> Taken<'_, T, W> {
        // Acquire: pairs with the Release in `push`. All are taken at once, so none can come back meanwhile
        // (no ABA).
        let mut newest: *mut Inner<T> = at(self.newest.swap(0, Ordering::Acquire));
        let mut oldest: *mut Inner<T> = ptr::null_mut();
        while let Some(own) = NonNull::new(newest) {
            // SAFETY: by the type invariants it belonged to the queue, and it was taken out above.
            let link = unsafe { &(*own.as_ptr()).value }.link();
            newest = link.0.swap(oldest, Ordering::Relaxed);
            oldest = own.as_ptr();
        }
        // INVARIANT: what was the queue's, linked the other way round.
        Taken { queue: self, oldest }
    }
}

/// The value whose address the queue has as its newest.
fn at<T>(newest: u64) -> *mut Inner<T> {
    ptr::with_exposed_provenance_mut(newest as usize)
}

fn address<T>(own: NonNull<Inner<T>>) -> u64 {
    own.as_ptr().expose_provenance() as u64
}

impl<T: Linked, W: Word> Drop for Orphans<T, W> {
    fn drop(&mut self) {
        let mut taken = self.take();
        while let Some(orphan) = taken.next() {
            drop(orphan);
        }
    }
}

/// Values taken out of a queue.
///
/// # Invariants
///
/// `oldest` is the first of a list, through the links, of values that belong to this one.
pub(crate) struct Taken<'q, T: Linked, W: Word> {
    queue: &'q Orphans<T, W>,
    oldest: *mut Inner<T>,
}

impl<T: Linked, W: Word> Taken<'_, T, W> {
    pub(crate) fn next(&mut self) -> Option<Orphan<T>> {
        let own = NonNull::new(self.oldest)?;
        // SAFETY: by the type invariants it is ours.
        let link = unsafe { &(*own.as_ptr()).value }.link();
        // Relaxed: `take` has acquired the whole list.
        self.oldest = link.0.load(Ordering::Relaxed);
        // SAFETY: given up by `push`, and taken out of the list above.
        Some(unsafe { Orphan::from_raw(own) })
    }
}

impl<T: Linked, W: Word> Drop for Taken<'_, T, W> {
    fn drop(&mut self) {
        while let Some(orphan) = self.next() {
            self.queue.push(orphan);
        }
    }
}
