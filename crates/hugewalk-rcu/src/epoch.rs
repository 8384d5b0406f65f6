//! RCU by epochs. A read section writes nothing that other threads write, a grace period
//! costs one heavy barrier, and `call` bounds the memory that waits by itself.
//!
//! # Protocol
//!
//! The *current epoch* of a domain is a number that only grows. A reader has a slot. It is 0 while
//! the reader is in no section, and otherwise the epoch that was current when the reader entered
//! the outermost one. A callback carries a *tag*: the epoch that was current when it was queued.
//! Comments in the code use the names in the second column.
//!
//! | when | name | step |
//! |---|---|---|
//! | a reader enters | R1 | loads the current epoch (Acquire) |
//! | | R2 | stores it in its slot (Release) |
//! | | R3 | light barrier |
//! | a reader leaves | R4 | stores 0 in its slot (Release) |
//! | `call`, `synchronize` | C1 | under the lock: the tag is the current epoch |
//! | a grace period for tags up to *g* | G1 | under the lock: *g* is the current epoch, which becomes *g* + 1 (Release) |
//! | | G2 | heavy barrier |
//! | | G3 | loads each slot (Acquire), as often as it takes |
//!
//! Tag *t* is past its grace period as soon as a G3, of a grace period with *g* ≥ *t*, has found
//! each slot to be either 0 or above *t*.
//!
//! # Why this is enough
//!
//! Let `X` be unlinked and then queued with tag *t*, and let *S* be a section that found `X` all
//! the same, with *v* in its slot.
//!
//! 1. *v* ≤ *t*. A current epoch above *t* is stored by a G1 that takes the lock after C1 released
//!    it, so the unlinking comes before that G1. An R1 that reads such an epoch synchronises with
//!    the G1, and *S* would have seen `X` unlinked. (R1 is an Acquire because R3 may order nothing
//!    by itself: where G2 reaches every processor, R3 is a compiler fence.)
//! 2. The unlinking also comes before G2, if *g* ≥ *t*: had C1 come after G1, it would have read
//!    *g* + 1.
//! 3. R3 comes before G2 in the order of the barriers. If G2 came first, *S*, which reads after R3,
//!    would have seen everything before G2, and so by (2) `X` unlinked.
//! 4. So every G3 sees the value that R2 of *S* wrote, or a later value of the slot. This also
//!    holds for a slot that was just made. G3 learns of the slots under the lock after G2, and a
//!    slot is added under the lock before R3. If the slot was added after G3 had learned of the
//!    slots, G2 would come before R3.
//! 5. If G3 reads the value that R2 wrote, *v* ≤ *t* holds the callback back. If it reads a later
//!    one, *S* has been left, and the load synchronises with that store: with R4, or with R2 of a
//!    later section (this is why R2 is a Release), perhaps of another reader that was given the
//!    slot under the lock. So everything that *S* did comes before the callback.
//!
//! Textbook epochs wait for readers *before* they increment the epoch. So a callback may be tagged
//! while an increment that began before its unlinking is under way. Two or three increments must
//! follow, each with a heavy barrier.
//!
//! Here the epoch is incremented first, without waiting. Slots hold whole numbers that never wrap,
//! so it does not matter how many epochs apart the readers are. One barrier is enough for
//! everything that was tagged before it, and waiting for slow readers (G3 again) needs none.
//! FreeBSD's `smr(9)` counts in the same way.
//!
//! # What `call` also does
//!
//! Callbacks must run even if no thread ever waits for a grace period. So each [`RUN_EVERY`]th call
//! runs up to [`BATCH`] callbacks that may run, and each [`GRACE_EVERY`]th call advances the grace
//! period: it starts one if none is under way, and otherwise only scans the slots again.
//!
//! So a few times [`GRACE_EVERY`] callbacks wait. More wait only while a reader stays in its
//! section, and until the backlog that it leaves has been run.
//!
//! A callback may use `call`, and that call may run callbacks. It cannot be told apart from a call
//! on another thread. Both are bounded in the same way: only a few batches run at the same time,
//! each half as large as the one before ([`Queue::take`]).

mod queue;
mod slots;
#[cfg(test)]
mod tests;

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use lock_api::Mutex;

use self::queue::{Batch, Queue};
use self::slots::{NewSlot, Scan, Slot, Slots};
use crate::{Barriers, OutOfMemory, Rcu, RcuHead, Word};

/// One in so many calls runs callbacks.
const RUN_EVERY: u64 = 8;

/// So many callbacks run at once. That is more than are queued meanwhile, so that a backlog shrinks
/// faster than it grew. And it is few enough not to hold up the caller, which may be in a read
/// section, for long.
const BATCH: u64 = 4 * RUN_EVERY;

/// One in so many calls advances the grace period. A heavy barrier costs some microseconds.
const GRACE_EVERY: u64 = 64;

/// An RCU domain.
///
/// A reader notes the current epoch in a slot of its own. A grace period increments the epoch,
/// passes one heavy barrier, and waits until no slot has an older epoch. The source of this type
/// begins with the protocol and the argument why it is enough (the link *Source* beside its name).
///
/// # Invariants
///
/// `current` is stored under the lock of `state` only, and only grows. It starts at 1: 0 in a slot means no section.
pub struct EpochRcu<B: Barriers> {
    current: OwnCacheLine<B::Word>,
    state: Mutex<B::SpinLock, State<B>>,
}

/// Read in each section, so it must not share a cache line with data that other threads write.
#[repr(align(128))]
struct OwnCacheLine<T>(T);

/// # Invariants
///
/// - G1 and G2 have been carried out for `fenced`, and for nothing higher unless `fencing`.
/// - Tags up to `elapsed` are past their grace period. It does not exceed `fenced`.
struct State<B: Barriers> {
    queue: Queue,
    slots: Slots<B::Word>,
    /// A thread is between G1 and G2.
    fencing: bool,
    fenced: u64,
    elapsed: u64,
}

/// A reader of an [`EpochRcu`].
///
/// # Invariants
///
/// `slot` belongs to the domain that made the reader, and to no other reader.
pub struct EpochReader<B: Barriers> {
    slot: NonNull<Slot<B::Word>>,
    /// How many nested sections the reader is in.
    nesting: Cell<usize>,
}

// SAFETY: "Why this is enough", above. What callers did before a call is visible to the sections
// after the grace period by the same argument: a section that does not see it has R3 before G2, and
// the grace period waits for it. Sections nest: `nesting` is above 0 from the outermost entry to
// the exit that belongs to it, and only these two write the slot.
unsafe impl<B: Barriers> Rcu<B> for EpochRcu<B> {
    type Reader = EpochReader<B>;

    fn new(_host: &B) -> Result<Self, OutOfMemory> {
        let state = State { queue: Queue::new(), slots: Slots::new(), fencing: false, fenced: 0, elapsed: 0 };
        Ok(Self { current: OwnCacheLine(B::Word::new(1)), state: Mutex::new(state) })
    }

    fn register(&self, _host: &B) -> Result<EpochReader<B>, OutOfMemory> {
        let reused = self.state.lock().slots.reuse();
        let slot = match reused {
            Some(slot) => slot,
            None => {
                let slot = NewSlot::new()?;
                self.state.lock().slots.add(slot)
            }
        };
        // INVARIANT: no other reader has the slot, by `reuse` and `add`.
        Ok(EpochReader { slot, nesting: Cell::new(0) })
    }

    unsafe fn unregister(&self, _host: &B, reader: EpochReader<B>) {
        // SAFETY: by the invariants of the reader its slot belongs to this domain, which is alive.
        let slot = unsafe { reader.slot.as_ref() };
        // A guard that was forgotten leaves its section open. It ends here at the latest, as by R4.
        slot.epoch.store(0, Ordering::Release);
        // SAFETY: the slot came from `register`, which took it from here, and the reader gives it
        // up.
        unsafe { self.state.lock().slots.release(reader.slot) };
    }

    #[inline]
    unsafe fn read_lock(&self, host: &B, reader: &EpochReader<B>) {
        let nesting = reader.nesting.get();
        reader.nesting.set(nesting + 1);
        if nesting == 0 {
            // SAFETY: by the invariants of the reader its slot belongs to this domain, which is alive.
            let slot = unsafe { reader.slot.as_ref() };
            // Acquire (R1): synchronises with the Release of G1 in `advance`. Release (R2): read by G3 in `Scan`.
            slot.epoch.store(self.current.0.load(Ordering::Acquire), Ordering::Release);
            let entered = Entered { domain: self, host, reader };
            // R3: pairs with G2 in `advance`.
            host.light();
            core::mem::forget(entered);
        }
    }

    #[inline]
    unsafe fn read_unlock(&self, _host: &B, reader: &EpochReader<B>) {
        let nesting = reader.nesting.get() - 1;
        reader.nesting.set(nesting);
        if nesting == 0 {
            // SAFETY: by the invariants of the reader its slot belongs to this domain, which is alive.
            let slot = unsafe { reader.slot.as_ref() };
            // Release (R4): read by G3 in `Scan`.
            slot.epoch.store(0, Ordering::Release);
        }
    }

    unsafe fn call(&self, host: &B, head: NonNull<RcuHead>) {
        let mut state = self.state.lock();
        let tag = self.tag(&state);
        // SAFETY: by the contract of this function the head is valid and ours, and may be run on
        // any thread.
        unsafe { state.queue.push(head, tag) };
        let queued = state.queue.queued();
        if !queued.is_multiple_of(RUN_EVERY) {
            return;
        }
        if queued.is_multiple_of(GRACE_EVERY) {
            // Tags up to `fenced` need only another scan. All later ones share the next barrier.
            let waiting = state.elapsed < state.fenced;
            let wanted = if waiting { state.fenced } else { tag };
            drop(state);
            self.advance(host, wanted);
            state = self.state.lock();
        }
        let batch = state.take();
        drop(state);
        if let Some(batch) = batch {
            self.run(batch);
        }
    }

    unsafe fn synchronize(&self, host: &B) {
        let (tag, queued) = self.now();
        // SAFETY: passed on to the caller.
        unsafe { self.wait(host, tag) };
        // Callers often wait for memory, so this also runs callbacks. It runs only those that no
        // other thread has taken; `barrier` waits for the rest.
        while let Some(batch) = self.take_of_first(queued) {
            self.run(batch);
        }
    }

    unsafe fn barrier(&self, host: &B) {
        let (tag, queued) = self.now();
        if self.state.lock().queue.ran(queued) {
            return;
        }
        // SAFETY: passed on to the caller.
        unsafe { self.wait(host, tag) };
        while !self.state.lock().queue.ran(queued) {
            match self.take_of_first(queued) {
                Some(batch) => self.run(batch),
                // Other threads are running them.
                //
                // SAFETY: the caller is in no section and holds no spinning lock; none is held here.
                None => unsafe { host.pause() },
            }
        }
    }

    fn pending(&self) -> u64 {
        self.state.lock().queue.pending()
    }
}

impl<B: Barriers> EpochRcu<B> {
    /// C1. The state proves that the lock is held.
    fn tag(&self, _state: &State<B>) -> u64 {
        // Relaxed: stored under the lock only, which the caller holds.
        self.current.0.load(Ordering::Relaxed)
    }

    /// The tag of what has been unlinked so far (C1), and how many callbacks have been queued.
    fn now(&self) -> (u64, u64) {
        let state = self.state.lock();
        (self.tag(&state), state.queue.queued())
    }

    /// Waits until `tag` is past its grace period.
    ///
    /// # Safety
    ///
    /// As for [`Rcu::synchronize`].
    unsafe fn wait(&self, host: &B, tag: u64) {
        while !self.advance(host, tag) {
            // SAFETY: by the contract of this function; no lock is held here.
            unsafe { host.pause() };
        }
    }

    /// Advances the grace period of `tag` as far as possible without waiting. Is it over?
    fn advance(&self, host: &B, tag: u64) -> bool {
        let mut state = self.state.lock();
        // One barrier at a time. A thread that comes while one is under way, which does not help
        // it, shares the next one with all others that come meanwhile.
        if state.fenced < tag && !state.fencing {
            state.fencing = true;
            let fenced = self.tag(&state);
            // Release (G1): synchronises with R1 in `read_lock`.
            self.current.0.store(fenced + 1, Ordering::Release);
            drop(state);
            let fencing = Fencing(&self.state);
            // G2: pairs with R3 in `read_lock`.
            host.heavy();
            core::mem::forget(fencing);
            state = self.state.lock();
            state.fencing = false;
            // INVARIANT: as just done.
            state.fenced = fenced;
        }
        let fenced = state.fenced;
        if state.elapsed < fenced {
            let scan = state.slots.scan();
            drop(state);
            let elapsed = self.elapsed(&scan, fenced);
            state = self.state.lock();
            // INVARIANT: G3, after the G2 of `fenced`, has found each slot to be 0 or above `elapsed`.
            state.elapsed = state.elapsed.max(elapsed);
        }
        state.elapsed >= tag
    }

    /// The last epoch up to `fenced` that no reader is in any more (G3).
    fn elapsed(&self, scan: &Scan<B::Word>, fenced: u64) -> u64 {
        // SAFETY: the slots are those of this domain, which is alive.
        let oldest = unsafe { scan.oldest() };
        oldest.map_or(fenced, |oldest| fenced.min(oldest - 1))
    }

    /// A batch that may run now, unless the first `queued` callbacks have all been taken.
    fn take_of_first(&self, queued: u64) -> Option<Batch> {
        let mut state = self.state.lock();
        if state.queue.taken() < queued { state.take() } else { None }
    }

    fn run(&self, batch: Batch) {
        let mut running = Running { domain: self, batch };
        running.batch.run();
    }
}

/// A section whose light barrier has not returned. If the barrier unwinds, there is no guard that
/// would leave the section.
struct Entered<'d, B: Barriers> {
    domain: &'d EpochRcu<B>,
    host: &'d B,
    reader: &'d EpochReader<B>,
}

impl<B: Barriers> Drop for Entered<'_, B> {
    #[cold]
    fn drop(&mut self) {
        // SAFETY: the reader belongs to this domain, and is in the section that it has just
        // entered.
        unsafe { self.domain.read_unlock(self.host, self.reader) };
    }
}

/// A heavy barrier that has not returned. If it unwinds, another one may begin, and `fenced` keeps
/// its value.
struct Fencing<'d, B: Barriers>(&'d Mutex<B::SpinLock, State<B>>);

impl<B: Barriers> Drop for Fencing<'_, B> {
    #[cold]
    fn drop(&mut self) {
        self.0.lock().fencing = false;
    }
}

/// A batch that is being run. If a callback unwinds, the rest of its batch is not run, and what
/// those callbacks would have freed is leaked.
struct Running<'d, B: Barriers> {
    domain: &'d EpochRcu<B>,
    batch: Batch,
}

impl<B: Barriers> Drop for Running<'_, B> {
    fn drop(&mut self) {
        self.domain.state.lock().queue.finish(&self.batch);
    }
}

impl<B: Barriers> State<B> {
    fn take(&mut self) -> Option<Batch> {
        self.queue.take(self.elapsed, BATCH)
    }
}

impl<B: Barriers> Drop for EpochRcu<B> {
    fn drop(&mut self) {
        // No readers are left, so every grace period is over.
        loop {
            let batch = self.state.lock().queue.take(u64::MAX, u64::MAX);
            let Some(batch) = batch else { break };
            self.run(batch);
        }
    }
}
