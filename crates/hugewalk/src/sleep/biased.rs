//! A sleeping reader/writer lock whose readers share nothing: BRAVO, with the marks in the tasks.
//!
//! # Protocol
//!
//! The lock is a plain one with a *bias* on top. While it is biased, a reader leaves the plain lock alone: it marks the lock in
//! a [line](super::lines) of its own task. A writer takes the plain lock in write, takes the bias away, and waits until
//! no line has the mark. Comments in the code use the names in the second column.
//!
//! | when | name | step |
//! |---|---|---|
//! | a reader enters | R1 | stores the mark of the lock in its line (Release) |
//! | | R2 | light barrier |
//! | | R3 | sees the lock biased still (Acquire); else it leaves, and takes the plain lock in read |
//! | a reader leaves | L1 | stores 0 in its line (Release) |
//! | | L2 | light barrier |
//! | | L3 | if the lock is not biased any more: wakes the writer that waits, under the lock of its place |
//! | a writer enters | W1 | takes the plain lock in write |
//! | | W2 | if the lock is biased: takes the bias away, and passes the heavy barrier |
//! | | W3 | notes its parker in the lock, under the lock of that place |
//! | | W4 | looks at all lines (Acquire), and sleeps until none has the mark |
//! | a reader that found no bias | B1 | holds the plain lock in read; after so many of them without a writer it gives the bias back (Release) |
//!
//! # Why this is enough
//!
//! 1. *No reader and writer at once.* R2 and the barrier of W2 are a pair. Either R3 sees that the bias is gone, or W4 sees the
//!    mark. A later R3 that sees a bias sees that of a B1. Its reader had the plain lock, so every writer before has left,
//!    and R3 synchronises with that.
//! 2. *What a reader did comes before the writer.* W4 sees what L1 stored, or what was stored there later, by a task that saw
//!    the place empty: each of these stores is a Release after an Acquire.
//! 3. *No lost wake-up.* L2 and the barrier of W2 are a pair. Either W4 sees what L1 stored, or L3 sees that there is no bias.
//!    In the second case L3 takes the lock of the writer's place. If W3 comes later, W4 sees L1 by that lock. If it came
//!    before, L3 finds the parker.
//! 4. *No starvation.* After W2 no reader gets in by a mark. One that tries leaves at once, and waits for the plain lock behind
//!    the writer.
//!
//! A heavy barrier interrupts every processor. So it is paid for by many reads: the bias comes back after [`FIRST`] reads
//! without a writer, and after each revocation twice as many as before, up to [`MOST`]. While writers are frequent, the lock is a plain
//! one. A lock begins without a bias, so that one that lives for a few reads costs no barrier.
//!
//! A task that has no place left in its line, or belongs to another system, takes the plain lock.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::lines;
use super::raw::RawSleepRwLock;
use super::wait::Signals;
use crate::error::Interrupted;
use crate::hugetlb::Hugetlb;
use crate::platform::{Barriers, Platform};
use crate::protocol::{Step, keeps};
use crate::sync::{Arc, Parker as _, SpinLock, Word as _};
use crate::task::Task;

/// How many reads by the plain lock, without a writer, give a fresh lock its bias.
const FIRST: u64 = 16;
/// How many there are at most, after many revocations.
const MOST: u64 = 1024;

/// The lowest bits of `bias`. The others are the number of the lock; 0 if it never had a bias.
const STATE: u64 = 3;
/// No reader has a mark.
const PLAIN: u64 = 0;
/// Readers mark their lines.
const BIASED: u64 = 1;
/// The bias is gone, and the heavy barrier has not been passed: it may have unwound.
const REVOKING: u64 = 2;
/// The barrier has been passed. Marks may be left: a writer that only tried has given up.
const DRAINING: u64 = 3;

/// A sleeping reader/writer lock around `T` whose readers share nothing. Linux: `percpu_rw_semaphore`.
///
/// # Invariants
///
/// - `system` is alive as long as the lock is used.
/// - `bias` is changed by a task that holds `plain`: in write, or from no bias to `BIASED` in read. Its number never changes
///   once it is set, and no other lock of the system has it.
/// - A mark in a line of the system is `bias` of a lock as it is with `BIASED`, and the guard that made it clears it.
/// - `value` is changed by holders in write only.
pub(crate) struct BiasedRwSem<P: Platform, T> {
    bias: P::Word,
    /// So many reads by the plain lock are left until the bias comes back. Readers may miss one another's.
    left: P::Word,
    /// What `left` begins with after a writer. Changed by writers.
    wanted: P::Word,
    /// The writer that waits for marks to go.
    waits: SpinLock<P, Option<Arc<P::Parker>>>,
    plain: P::SleepRwLock,
    system: NonNull<Hugetlb<P>>,
    value: UnsafeCell<T>,
}

// SAFETY: `system` is a shared reference, and the lock hands `T` out as reader/writer locks do.
unsafe impl<P: Platform, T: Send> Send for BiasedRwSem<P, T> {}
// SAFETY: as for `Send`.
unsafe impl<P: Platform, T: Send + Sync> Sync for BiasedRwSem<P, T> {}

impl<P: Platform, T> BiasedRwSem<P, T> {
    /// A lock without a bias.
    ///
    /// # Safety
    ///
    /// The system is alive as long as the lock is used.
    pub(crate) unsafe fn new(system: &Hugetlb<P>, value: T) -> Self {
        // INVARIANT: by the contract of this function.
        Self {
            bias: <P as Barriers>::Word::new(PLAIN),
            left: <P as Barriers>::Word::new(FIRST),
            wanted: <P as Barriers>::Word::new(FIRST),
            waits: SpinLock::<P, _>::new(None),
            plain: <P::SleepRwLock as RawSleepRwLock<P::Parker>>::INIT,
            system: NonNull::from(system),
            value: UnsafeCell::new(value),
        }
    }

    #[inline]
    fn system(&self) -> &Hugetlb<P> {
        // SAFETY: by the type invariants.
        unsafe { self.system.as_ref() }
    }

    /// Takes the lock in read. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn read(&self, task: &mut Task<P>) -> BiasedReadSem<'_, P, T> {
        if let Some(held) = self.enter(task) {
            return held;
        }
        self.plain.lock_shared(task.parker());
        // INVARIANT: taken just now.
        let held = BiasedReadSem { lock: self, place: None, _stays: PhantomData };
        self.note_read();
        held
    }

    /// Takes the lock in read if that needs no waiting.
    #[inline]
    #[track_caller]
    pub(crate) fn try_read(&self, task: &Task<P>) -> Option<BiasedReadSem<'_, P, T>> {
        if let Some(held) = self.enter(task) {
            return Some(held);
        }
        if !self.plain.try_lock_shared() {
            return None;
        }
        // INVARIANT: taken just now.
        let held = BiasedReadSem { lock: self, place: None, _stays: PhantomData };
        self.note_read();
        Some(held)
    }

    /// Takes the lock in write. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn write(&self, task: &mut Task<P>) -> BiasedWriteSem<'_, P, T> {
        // W1.
        self.plain.lock_exclusive(task.parker());
        let held = PlainWrite { lock: self };
        // A wait that no signal ends does not fail.
        let _ = self.drain(Signals::Ignored, task);
        held.into_write()
    }

    /// Takes the lock in write, unless the task is killed first. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn write_killable(&self, task: &mut Task<P>) -> Result<BiasedWriteSem<'_, P, T>, Interrupted> {
        // W1.
        self.plain.lock_exclusive_killable(task.parker())?;
        let held = PlainWrite { lock: self };
        self.drain(Signals::Fatal, task)?;
        Ok(held.into_write())
    }

    /// W2 to W4: takes the bias away, if there is one, and waits for the readers. If a signal ends the wait, marks may be left,
    /// and `bias` says so. The caller has the plain lock in write.
    #[inline]
    fn drain(&self, signals: Signals, task: &mut Task<P>) -> Result<(), Interrupted> {
        if self.may_have_readers() {
            if keeps::<P>(Step::RevokeThenScan) || self.has_readers() {
                self.revoke();
                self.wait_for_readers(signals, task)?;
            }
            self.set_plain();
        }
        Ok(())
    }

    /// Takes the lock in write if that needs no waiting.
    #[inline]
    #[track_caller]
    pub(crate) fn try_write(&self) -> Option<BiasedWriteSem<'_, P, T>> {
        if !self.plain.try_lock_exclusive() {
            return None;
        }
        let held = PlainWrite { lock: self };
        if self.may_have_readers() {
            self.revoke();
            if self.has_readers() {
                return None;
            }
            self.set_plain();
        }
        Some(held.into_write())
    }

    /// As [`write`](Self::write), for a weaker protocol that sleeps where nothing may sleep.
    #[inline]
    #[track_caller]
    pub(crate) fn write_against_the_order(&self) -> BiasedWriteSem<'_, P, T> {
        self.plain.lock_exclusive(self.system().last_parker());
        let held = PlainWrite { lock: self };
        if self.may_have_readers() {
            self.revoke();
            while self.has_readers() {
                core::hint::spin_loop();
            }
            self.set_plain();
        }
        held.into_write()
    }

    pub(crate) fn inner_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Is it biased at this moment?
    pub(crate) fn is_biased(&self) -> bool {
        // Relaxed: a statistic.
        self.bias.load(Ordering::Relaxed) & STATE == BIASED
    }

    /// Marks the lock in the task's line, if it is biased: R1 to R3.
    #[inline]
    fn enter(&self, task: &Task<P>) -> Option<BiasedReadSem<'_, P, T>> {
        if !P::reader_bias() {
            return None;
        }
        // Relaxed: a guess, which R3 confirms.
        let bias = self.bias.load(Ordering::Relaxed);
        if bias & STATE != BIASED {
            return None;
        }
        let place = task.place_for(self.system())?;
        // R1.
        lines::set(place, bias);
        if keeps::<P>(Step::MarkThenLook) {
            let unwinding = Unmarks { lock: self, place };
            // R2: pairs with the heavy barrier in `revoke`.
            self.system().platform().light();
            core::mem::forget(unwinding);
        }
        // INVARIANT: marked, and not handed out before R3 has looked.
        let held = BiasedReadSem { lock: self, place: Some(NonNull::from(place)), _stays: PhantomData };
        // R3, Acquire: synchronises with the Release of B1 in `give_bias`, and by it with every writer before.
        let is_in = !keeps::<P>(Step::MarkThenLook) || self.bias.load(Ordering::Acquire) == bias;
        is_in.then_some(held)
    }

    /// Clears a mark: L1 to L3.
    #[inline]
    fn leave(&self, place: &P::Word) {
        if !keeps::<P>(Step::LeaveThenLook) {
            let biased = self.is_biased();
            lines::clear(place);
            if !biased {
                self.wake_writer();
            }
            return;
        }
        // L1.
        lines::clear(place);
        let unwinding = Unmarks { lock: self, place };
        // L2: pairs with the heavy barrier in `revoke`.
        self.system().platform().light();
        core::mem::forget(unwinding);
        // L3. Relaxed: the barrier orders it, and the lock of the writer's place the rest.
        if self.bias.load(Ordering::Relaxed) & STATE != BIASED {
            self.wake_writer();
        }
    }

    #[cold]
    fn wake_writer(&self) {
        if let Some(parker) = &*self.waits.lock() {
            parker.unpark();
        }
    }

    /// B1: a reader has the plain lock, which keeps writers out.
    #[inline]
    fn note_read(&self) {
        if !P::reader_bias() {
            return;
        }
        let bias = self.bias.load(Ordering::Relaxed);
        if bias & STATE == BIASED {
            return;
        }
        // Relaxed, and no read-modify-write: it says roughly how many there were.
        let left = self.left.load(Ordering::Relaxed);
        if left > 1 {
            self.left.store(left - 1, Ordering::Relaxed);
        } else {
            self.give_bias(bias);
        }
    }

    #[cold]
    fn give_bias(&self, bias: u64) {
        let number = if bias & !STATE == 0 { self.system().fresh_id() * (STATE + 1) } else { bias & !STATE };
        // Release: pairs with R3, which so comes after the writers that this reader came after. It fails if another reader
        // gave the bias meanwhile.
        let _ = self.bias.compare_exchange(bias, number | BIASED, Ordering::Release, Ordering::Relaxed);
    }

    /// May there be marks? The caller has the plain lock in write.
    #[inline]
    fn may_have_readers(&self) -> bool {
        if !P::reader_bias() {
            return false;
        }
        // Relaxed: changed under the plain lock only, which the caller holds in write.
        self.left.store(self.wanted.load(Ordering::Relaxed), Ordering::Relaxed);
        self.bias.load(Ordering::Relaxed) & STATE != PLAIN
    }

    /// W2. The caller has the plain lock in write.
    #[cold]
    fn revoke(&self) {
        let bias = self.bias.load(Ordering::Relaxed);
        let number = bias & !STATE;
        if bias & STATE == DRAINING {
            return;
        }
        self.bias.store(number | REVOKING, Ordering::Relaxed);
        // Pairs with R2 and L2: the bias is gone before the lines are looked at.
        self.system().platform().heavy();
        self.bias.store(number | DRAINING, Ordering::Relaxed);
        self.system().count_revocation();
        let wanted = (self.wanted.load(Ordering::Relaxed) * 2).min(MOST);
        self.wanted.store(wanted, Ordering::Relaxed);
        self.left.store(wanted, Ordering::Relaxed);
    }

    /// W4.
    fn has_readers(&self) -> bool {
        self.system().lines().any(self.bias.load(Ordering::Relaxed) & !STATE | BIASED)
    }

    /// W3 and W4. The caller has the plain lock in write, so there is one at a time.
    fn wait_for_readers(&self, signals: Signals, task: &mut Task<P>) -> Result<(), Interrupted> {
        if !self.has_readers() {
            return Ok(());
        }
        *self.waits.lock() = Some(task.parker().clone());
        let waiting = Waiting(self);
        while self.has_readers() {
            signals.check(&**task.parker())?;
            task.parker().park();
        }
        drop(waiting);
        Ok(())
    }

    /// No marks are left, and the caller has the plain lock in write.
    fn set_plain(&self) {
        let number = self.bias.load(Ordering::Relaxed) & !STATE;
        // Relaxed: readers that miss it see no bias either.
        self.bias.store(number | PLAIN, Ordering::Relaxed);
    }
}

/// The light barrier of a reader has not returned. If it unwinds, the mark goes, and the writer is woken in any case: its
/// place has a lock, which orders as well.
struct Unmarks<'l, P: Platform, T> {
    lock: &'l BiasedRwSem<P, T>,
    place: &'l P::Word,
}

impl<P: Platform, T> Drop for Unmarks<'_, P, T> {
    #[cold]
    fn drop(&mut self) {
        lines::clear(self.place);
        self.lock.wake_writer();
    }
}

/// The parker of a writer is in its place.
struct Waiting<'l, P: Platform, T>(&'l BiasedRwSem<P, T>);

impl<P: Platform, T> Drop for Waiting<'_, P, T> {
    fn drop(&mut self) {
        let parker = self.0.waits.lock().take();
        // The last reference to it may be this one, and is dropped with the lock released.
        drop(parker);
    }
}

/// The plain lock is held in write, and marks may be left.
struct PlainWrite<'l, P: Platform, T> {
    lock: &'l BiasedRwSem<P, T>,
}

impl<'l, P: Platform, T> PlainWrite<'l, P, T> {
    /// No marks are left.
    #[inline]
    fn into_write(self) -> BiasedWriteSem<'l, P, T> {
        BiasedWriteSem { held: self, _stays: PhantomData }
    }
}

impl<P: Platform, T> Drop for PlainWrite<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: held in write by this value.
        unsafe { RawSleepRwLock::<P::Parker>::unlock_exclusive(&self.lock.plain) };
    }
}

/// The lock held in read.
///
/// # Invariants
///
/// `place` has the mark of the lock, and lies in a line of the system; or there is none, and the plain lock is held in read.
pub(crate) struct BiasedReadSem<'l, P: Platform, T> {
    lock: &'l BiasedRwSem<P, T>,
    place: Option<NonNull<P::Word>>,
    /// Not `Send`: the plain lock may ask to be released where it was taken.
    _stays: PhantomData<*mut ()>,
}

// SAFETY: a shared guard gives out `&T` and nothing else.
unsafe impl<P: Platform, T: Sync> Sync for BiasedReadSem<'_, P, T> {}

impl<P: Platform, T> Deref for BiasedReadSem<'_, P, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: held in read, so nothing changes it.
        unsafe { &*self.lock.value.get() }
    }
}

impl<P: Platform, T> Drop for BiasedReadSem<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        match self.place {
            // SAFETY: by the type invariants it lies in a line of the system, which is alive as long as the lock is used.
            Some(place) => self.lock.leave(unsafe { place.as_ref() }),
            // SAFETY: by the type invariants the plain lock is held in read.
            None => unsafe { RawSleepRwLock::<P::Parker>::unlock_shared(&self.lock.plain) },
        }
    }
}

/// The lock held in write.
///
/// # Invariants
///
/// The plain lock is held in write, and no line has the mark of the lock.
pub(crate) struct BiasedWriteSem<'l, P: Platform, T> {
    held: PlainWrite<'l, P, T>,
    /// Not `Send`, as for [`BiasedReadSem`].
    _stays: PhantomData<*mut ()>,
}

// SAFETY: a shared guard gives out `&T` and nothing else.
unsafe impl<P: Platform, T: Sync> Sync for BiasedWriteSem<'_, P, T> {}

impl<P: Platform, T> Deref for BiasedWriteSem<'_, P, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: held in write, and borrowed.
        unsafe { &*self.held.lock.value.get() }
    }
}

impl<P: Platform, T> DerefMut for BiasedWriteSem<'_, P, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: held in write, and borrowed mutably.
        unsafe { &mut *self.held.lock.value.get() }
    }
}

impl<P: Platform, T> fmt::Debug for BiasedRwSem<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BiasedRwSem").field("biased", &self.is_biased()).finish_non_exhaustive()
    }
}
