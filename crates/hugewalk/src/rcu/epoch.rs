//! Our own RCU. A read section writes nothing that others write, a grace period costs one heavy barrier, and `call`
//! keeps the memory bounded by itself.
//!
//! # Protocol
//!
//! The *current epoch* of a domain is a number that only grows. A reader has a slot: 0 while it is in no section, else
//! the epoch that was current when it entered the outermost one. A callback carries a *tag*: the epoch that was current
//! when it was queued. The names on the left are those that comments in the code use.
//!
//! | who | what | |
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
//! Tag *t* is past its grace period as soon as a G3, of a grace period with *g* ≥ *t*, has found each slot either 0 or
//! above *t*.
//!
//! # Why that is enough
//!
//! Let `X` be taken out of reach and then queued with tag *t*, and let *S* be a section that found `X` nevertheless,
//! with *v* in its slot.
//!
//! 1. *v* ≤ *t*. A current epoch above *t* is stored by a G1 that takes the lock after C1 released it, so the unlinking
//!    comes before it. An R1 that reads it synchronises with it, and *S* would have seen `X` unlinked. (R1 is an Acquire
//!    because R3 may order nothing by itself: where G2 reaches every processor, it is a compiler fence.)
//! 2. Likewise the unlinking comes before G2, if *g* ≥ *t*: C1 would have read *g* + 1, had it come after G1.
//! 3. R3 comes before G2 in the order of the barriers. If G2 came first, *S*, which reads after R3, would have seen
//!    what comes before G2 by (2): `X` unlinked.
//! 4. So every G3 sees what R2 of *S* wrote, or what was written to the slot after that. Also when the slot was made a
//!    moment ago: G3 learns of the slots under the lock after G2, and who makes one adds it under the lock before R3;
//!    in the other order of the two, G2 would come before R3.
//! 5. If G3 reads what R2 wrote, *v* ≤ *t* holds the callback back. If it reads something newer, *S* has been left, and
//!    the load synchronises with the store: of R4, or of R2 of a later section (that is why R2 is a Release), be it by
//!    another reader who was given the slot under the lock. So everything *S* did comes before the callback.
//!
//! Textbook epochs wait for readers *before* they count up, so a callback may be tagged while a count that began
//! before its unlinking is still under way, and two or three counts must follow, each with a heavy barrier. Here the
//! epoch is counted up first, and waits for nobody; slots hold whole numbers that never wrap, so it does not matter how
//! many epochs apart the readers are. One barrier is enough for everything that was tagged before it, and waiting for
//! slow readers (G3 again) needs none. FreeBSD's `smr(9)` counts in the same way.
//!
//! # What `call` does besides
//!
//! If nobody ever waits for a grace period, callbacks must be run all the same. So each [`RUN_EVERY`]th call runs up to
//! [`BATCH`] of those that may run, and each [`GRACE_EVERY`]th looks after the grace period: it starts one if none is
//! being waited for, and else only scans the slots again. So a few times [`GRACE_EVERY`] callbacks wait, and more only
//! while a reader stays in its section and until the backlog that it leaves has been run.
//!
//! A callback may call, and that call may run callbacks. It cannot be told from one on another thread, so what bounds
//! both is that few batches run at the same time, each half as large as the one before ([`Queue::take`]).

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
use crate::error::OutOfMemory;
use crate::platform::Barriers;
use crate::rcu::{Rcu, RcuHead};
use crate::sync::Word;

/// Every so many calls, one runs callbacks.
const RUN_EVERY: u64 = 8;

/// As many callbacks are run at once: more than are queued meanwhile, so that a backlog shrinks faster than it grew, and
/// few enough that the caller, who may be in a read section, is not held up for long.
const BATCH: u64 = 4 * RUN_EVERY;

/// Every so many calls, one looks after the grace period. A heavy barrier costs some microseconds.
const GRACE_EVERY: u64 = 64;

/// An RCU domain: the engine's own [`Rcu`].
///
/// A reader notes the current epoch in a slot of its own. A grace period counts the epoch up, passes one heavy barrier, and
/// waits until no slot has an older one. The protocol, and the argument why it is enough, stand at the top of the source
/// of this type (the link *Source* beside its name).
///
/// # Invariants
///
/// `current` is stored under the lock of `state` only, and only grows. It starts at 1: 0 in a slot means no section.
pub struct EpochRcu<B: Barriers> {
    current: OwnCacheLine<B::Word>,
    state: Mutex<B::SpinLock, State<B>>,
}

/// Read in each section: must not share a cache line with what others write.
#[repr(align(128))]
struct OwnCacheLine<T>(T);

/// # Invariants
///
/// - G1 and G2 have been carried out for `fenced`, and for nothing higher unless `fencing`.
/// - Tags up to `elapsed` are past their grace period. It does not exceed `fenced`.
struct State<B: Barriers> {
    queue: Queue,
    slots: Slots<B::Word>,
    /// Somebody is between G1 and G2.
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
    /// Sections that the reader is in, one within the other.
    nesting: Cell<usize>,
}

// SAFETY: "Why that is enough", above. What callers did before a call is visible to the sections after the grace period
// by the same argument: a section that does not see it has R3 before G2, and the grace period waits for it. Sections
// nest: `nesting` is above 0 from the outermost entry to the exit that belongs to it, and the slot is written by these.
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
        // INVARIANT: in no other reader's hands, as `reuse` and `add` say.
        Ok(EpochReader { slot, nesting: Cell::new(0) })
    }

    unsafe fn unregister(&self, _host: &B, reader: EpochReader<B>) {
        // SAFETY: by the invariants of the reader its slot belongs to this domain, which is alive.
        let slot = unsafe { reader.slot.as_ref() };
        // A guard that was forgotten leaves its section open; it ends with its reader at the latest (as R4).
        slot.epoch.store(0, Ordering::Release);
        // SAFETY: it came from `register`, which took it from here, and goes with its reader.
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
        // SAFETY: the caller promises that the head is valid, ours, and may be run on any thread.
        unsafe { state.queue.push(head, tag) };
        let queued = state.queue.queued();
        if !queued.is_multiple_of(RUN_EVERY) {
            return;
        }
        if queued.is_multiple_of(GRACE_EVERY) {
            // Those that are fenced already need to be scanned for only. Everything since shares the next barrier.
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
        // SAFETY: the caller's promise is passed on.
        unsafe { self.wait(host, tag) };
        // Memory is often what one waits for. But only what nobody else has taken is run: for the rest, see `barrier`.
        while let Some(batch) = self.take_of_first(queued) {
            self.run(batch);
        }
    }

    unsafe fn barrier(&self, host: &B) {
        let (tag, queued) = self.now();
        if self.state.lock().queue.ran(queued) {
            return;
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { self.wait(host, tag) };
        while !self.state.lock().queue.ran(queued) {
            match self.take_of_first(queued) {
                Some(batch) => self.run(batch),
                // Others are running them.
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
            // SAFETY: as promised by the caller; no lock is held here.
            unsafe { host.pause() };
        }
    }

    /// Does what can be done for the grace period of `tag` without waiting. Is it over?
    fn advance(&self, host: &B, tag: u64) -> bool {
        let mut state = self.state.lock();
        // One barrier at a time: who comes while one is under way, which is of no use to it, shares the next one with
        // the others that come meanwhile.
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

/// A section whose light barrier has not returned. If that unwinds there is no guard that would leave the section.
struct Entered<'d, B: Barriers> {
    domain: &'d EpochRcu<B>,
    host: &'d B,
    reader: &'d EpochReader<B>,
}

impl<B: Barriers> Drop for Entered<'_, B> {
    #[cold]
    fn drop(&mut self) {
        // SAFETY: the reader is of this domain, and in the section that it has just entered.
        unsafe { self.domain.read_unlock(self.host, self.reader) };
    }
}

/// A heavy barrier that has not returned. If it unwinds, another one may begin; `fenced` stays what it was.
struct Fencing<'d, B: Barriers>(&'d Mutex<B::SpinLock, State<B>>);

impl<B: Barriers> Drop for Fencing<'_, B> {
    #[cold]
    fn drop(&mut self) {
        self.0.lock().fencing = false;
    }
}

/// A batch that is being run. If a callback unwinds, the rest of its batch is not run: what they would have freed is leaked.
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
