//! `EpochRcu` under a model checker of memory orderings: every interleaving of a few threads, up to a bound of
//! preemptions, and every value that a load may return. Run by `ci/loom.sh`.
//!
//! The last tests take a part out of the protocol and expect the checker to notice: what cannot fail proves nothing.
//! Both barriers are full fences, but for two tests. A full fence also does what the Acquire of R1 is for; so one of the two, with a
//! reader that was registered before, shows that this Acquire and the Release of G1 are needed.

#![cfg(loom)]

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Release, SeqCst};
use std::sync::{Arc, OnceLock};

use hugewalk_rcu::{Barriers, EpochRcu, Rcu, RcuHead, Word};
use lock_api::{GuardNoSend, RawMutex};
use loom::sync::atomic::{AtomicPtr, AtomicU64, fence};
use loom::sync::{Mutex, MutexGuard};
use loom::thread;

/// Loom's atomic, as a word.
struct LoomWord(AtomicU64);

// SAFETY: loom's atomics are atomic; nothing here needs the layout of a `u64`.
unsafe impl Word for LoomWord {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, order)
    }
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, order)
    }
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_sub(value, order)
    }
    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_or(value, order)
    }
    fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_and(value, order)
    }
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, success, failure)
    }
}

/// Loom's mutex as a raw one. Loom knows then who waits, and need not try how often a spinning thread spins.
///
/// # Invariants
///
/// `guard` is looked at by who holds `mutex` only. It borrows from `mutex` and is gone before it.
struct LoomLock {
    // Made at first use: what loom keeps cannot be made in a constant.
    mutex: OnceLock<Box<Mutex<()>>>,
    guard: UnsafeCell<Option<MutexGuard<'static, ()>>>,
}

// SAFETY: by the type invariants, and since loom runs all its threads on one.
unsafe impl Send for LoomLock {}
// SAFETY: as for `Send`.
unsafe impl Sync for LoomLock {}

impl LoomLock {
    fn mutex(&self) -> &'static Mutex<()> {
        let mutex: *const Mutex<()> = &**self.mutex.get_or_init(|| Box::new(Mutex::new(())));
        // SAFETY: it does not move, and is only borrowed longer than it lives by `guard`, which ends earlier.
        unsafe { &*mutex }
    }
}

// SAFETY: loom's mutex excludes.
unsafe impl RawMutex for LoomLock {
    const INIT: Self = Self { mutex: OnceLock::new(), guard: UnsafeCell::new(None) };
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let guard = self.mutex().lock().unwrap();
        // SAFETY: by the type invariants; the mutex is held.
        unsafe { *self.guard.get() = Some(guard) };
    }
    fn try_lock(&self) -> bool {
        let Ok(guard) = self.mutex().try_lock() else {
            return false;
        };
        // SAFETY: by the type invariants; the mutex is held.
        unsafe { *self.guard.get() = Some(guard) };
        true
    }
    unsafe fn unlock(&self) {
        // SAFETY: by the type invariants; who unlocks holds it.
        let guard = unsafe { (*self.guard.get()).take() };
        drop(guard);
    }
}

/// A host whose barriers can be left out.
#[derive(Clone, Copy)]
struct Loom {
    light: bool,
    heavy: bool,
    /// Do the barriers order what is before one with what is behind a later one, and nothing else?
    meet: bool,
}

const WHOLE: Loom = Loom { light: true, heavy: true, meet: false };

loom::lazy_static! {
    /// Where barriers meet that are no fences: of two, the later one sees what came before the earlier one.
    static ref MEETING: AtomicU64 = AtomicU64::new(0);
}

impl Loom {
    fn barrier(self) {
        if self.meet {
            MEETING.fetch_add(1, AcqRel);
        } else {
            fence(SeqCst);
        }
    }
}

// SAFETY: full fences, in `WHOLE`, or what the protocol asks of a light and a heavy one if they meet. The weaker hosts are what the checker is to notice; loom keeps the memory.
unsafe impl Barriers for Loom {
    type Word = LoomWord;
    type SpinLock = LoomLock;
    fn light(&self) {
        if self.light {
            self.barrier();
        }
    }
    fn heavy(&self) {
        if self.heavy {
            self.barrier();
        }
    }
    unsafe fn pause(&self) {
        thread::yield_now();
    }
}

/// What is freed. Reading it before or after is a race that loom sees; the memory itself stays until the model ends.
#[repr(C)]
struct Object {
    head: RcuHead,
    freed: loom::cell::UnsafeCell<bool>,
}

unsafe fn nothing(_: NonNull<RcuHead>) {}

unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: the head is the first field of an `Object`, which stays until the model ends.
    let object = unsafe { &*head.as_ptr().cast::<Object>() };
    // SAFETY: loom checks that nobody reads it meanwhile.
    object.freed.with_mut(|freed| unsafe { *freed = true });
}

/// Each time so many calls were made, the last one looks after the grace period and runs callbacks.
const CALLS: usize = 64;

/// A domain, and places where sections find objects. Of two calls in a model, the second looks after the grace period:
/// the others that it takes were made before.
struct World {
    host: Loom,
    /// Not dropped while a model panics: its callbacks would panic again.
    rcu: ManuallyDrop<EpochRcu<Loom>>,
    places: [AtomicPtr<Object>; 2],
    objects: [*mut Object; 2],
    fillers: [UnsafeCell<RcuHead>; CALLS],
}

// SAFETY: loom runs all its threads on one, and checks what they do.
unsafe impl Send for World {}
// SAFETY: as for `Send`.
unsafe impl Sync for World {}

impl World {
    fn new(host: Loom) -> Arc<Self> {
        let objects = [(); 2].map(|()| {
            let freed = loom::cell::UnsafeCell::new(false);
            Box::into_raw(Box::new(Object { head: RcuHead::new(free), freed }))
        });
        let rcu = ManuallyDrop::new(EpochRcu::new(&host).unwrap());
        let fillers = std::array::from_fn(|_| UnsafeCell::new(RcuHead::new(nothing)));
        let world = Self { host, rcu, places: objects.map(AtomicPtr::new), objects, fillers };
        for filler in 0..CALLS - 2 {
            world.call_other(filler);
        }
        world.barrier();
        Arc::new(world)
    }

    fn synchronize(&self) {
        // SAFETY: no model calls it in a section or with a lock held.
        unsafe { self.rcu.synchronize(&self.host) };
    }

    fn barrier(&self) {
        // SAFETY: as for `synchronize`, and by no callback.
        unsafe { self.rcu.barrier(&self.host) };
    }

    /// A reader that enters `sections` sections, one after the other.
    fn read(&self, sections: usize, places: &[usize]) {
        let reader = self.rcu.register(&self.host).unwrap();
        for _ in 0..sections {
            // SAFETY: registered with this domain.
            unsafe { self.rcu.read_lock(&self.host, &reader) };
            self.look(places);
            // SAFETY: registered with this domain, and in the section entered above.
            unsafe { self.rcu.read_unlock(&self.host, &reader) };
        }
        // SAFETY: registered with this domain.
        unsafe { self.rcu.unregister(&self.host, reader) };
    }

    /// A reader that looks once more in its section after a section inside it has ended.
    fn read_around_a_section(&self, place: usize) {
        let reader = self.rcu.register(&self.host).unwrap();
        for _ in 0..2 {
            // SAFETY: registered with this domain.
            unsafe { self.rcu.read_lock(&self.host, &reader) };
        }
        // SAFETY: registered with this domain, and in two sections.
        unsafe { self.rcu.read_unlock(&self.host, &reader) };
        self.look(&[place]);
        // SAFETY: registered with this domain, and in the outer section still.
        unsafe { self.rcu.read_unlock(&self.host, &reader) };
        // SAFETY: registered with this domain.
        unsafe { self.rcu.unregister(&self.host, reader) };
    }

    /// Looks, in a section, whether what is there was freed.
    fn look(&self, places: &[usize]) {
        for &place in places {
            if let Some(object) = NonNull::new(self.places[place].load(Acquire)) {
                // SAFETY: stays until the model ends.
                let object = unsafe { object.as_ref() };
                // SAFETY: loom checks that nobody writes it meanwhile.
                let freed = object.freed.with(|freed| unsafe { *freed });
                assert!(!freed, "seen after it was freed");
            }
        }
    }

    /// A call with nothing in it.
    fn call_other(&self, filler: usize) {
        let head = NonNull::new(self.fillers[filler].get()).unwrap();
        // SAFETY: the head stays until the domain ends; it is queued once.
        unsafe { self.rcu.call(&self.host, head) };
    }

    fn unlink(&self, place: usize) {
        self.places[place].store(std::ptr::null_mut(), Release);
    }

    fn call(&self, place: usize) {
        let head = NonNull::new(self.objects[place]).unwrap().cast();
        // SAFETY: the object stays until the model ends; it is queued once.
        unsafe { self.rcu.call(&self.host, head) };
    }

    fn freed(&self, place: usize) -> bool {
        // SAFETY: stays until the model ends.
        let object = unsafe { &*self.objects[place] };
        // SAFETY: loom checks that nobody writes it meanwhile.
        object.freed.with(|freed| unsafe { *freed })
    }

    /// To be called when all threads have been joined.
    fn end(self: Arc<Self>) {
        let Ok(mut world) = Arc::try_unwrap(self) else { panic!("a thread still has the world") };
        // SAFETY: not used afterwards.
        unsafe { ManuallyDrop::drop(&mut world.rcu) };
        for object in world.objects {
            // SAFETY: made by `Box::into_raw`, and not used afterwards.
            drop(unsafe { Box::from_raw(object) });
        }
    }
}

/// Runs `threads` and `main` beside each other, in every interleaving with at most `preemptions` preemptions.
fn model<const N: usize>(host: Loom, preemptions: Option<usize>, threads: [fn(&World); N], main: fn(&World)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        let world = World::new(host);
        let threads = threads.map(|body| {
            let world = world.clone();
            thread::spawn(move || body(&world))
        });
        main(&world);
        for thread in threads {
            thread.join().unwrap();
        }
        world.end();
    });
}

fn unlink_and_wait(world: &World) {
    world.unlink(0);
    world.call(0);
    world.barrier();
    assert!(world.freed(0), "the barrier did not wait");
}

#[test]
fn a_section_never_sees_what_was_freed() {
    model(WHOLE, None, [|world| world.read(1, &[0])], unlink_and_wait);
}

#[test]
fn nor_does_the_section_after_it() {
    model(WHOLE, Some(5), [|world| world.read(2, &[0])], unlink_and_wait);
}

#[test]
fn nor_does_a_section_around_another() {
    model(WHOLE, Some(5), [|world| world.read_around_a_section(0)], unlink_and_wait);
}

/// Where the heavy barrier reaches every processor, the light one is for the compiler alone. The model comes near to that: its
/// barriers order nothing alone, as fences do with each other's loads and stores. But two light ones order something too, which such
/// a host does not promise: of any two, the later one sees what came before the earlier one.
#[test]
fn nor_where_barriers_order_only_what_lies_around_two_of_them() {
    model(Loom { meet: true, ..WHOLE }, Some(5), [|world| world.read(1, &[0])], unlink_and_wait);
}

/// The same with a reader that has not taken the lock since the unlinking: all that it knows of that, it knows by the epoch.
#[test]
fn nor_where_the_epoch_alone_tells_of_the_unlinking() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.check(|| {
        let world = World::new(Loom { meet: true, ..WHOLE });
        let reader = world.rcu.register(&world.host).unwrap();
        let same = world.clone();
        let thread = thread::spawn(move || {
            // SAFETY: registered with this domain.
            unsafe { same.rcu.read_lock(&same.host, &reader) };
            same.look(&[0]);
            // SAFETY: registered with this domain, and in the section entered above.
            unsafe { same.rcu.read_unlock(&same.host, &reader) };
            // SAFETY: registered with this domain.
            unsafe { same.rcu.unregister(&same.host, reader) };
        });
        world.unlink(0);
        world.synchronize();
        // SAFETY: stays until the model ends.
        let object = unsafe { &*world.objects[0] };
        // SAFETY: loom checks that nobody reads it meanwhile.
        object.freed.with_mut(|freed| unsafe { *freed = true });
        thread.join().unwrap();
        world.end();
    });
}

#[test]
fn nor_with_two_readers() {
    model(WHOLE, Some(3), [|world| world.read(1, &[0]), |world| world.read(1, &[0])], unlink_and_wait);
}

/// One reader comes where the other was: it is given the same slot, or a second one in the middle of a scan.
#[test]
fn nor_when_readers_come_and_go() {
    fn twice(world: &World) {
        world.read(1, &[0]);
        world.read(1, &[0]);
    }
    model(WHOLE, Some(5), [twice], |world| {
        world.read(1, &[]);
        unlink_and_wait(world);
    });
}

/// The case in which textbook epochs are off by one: the tag is taken while somebody else's grace period, whose barrier
/// was too early for it, is under way.
#[test]
fn nor_when_another_grace_period_is_under_way() {
    model(
        WHOLE,
        Some(3),
        [|world| world.read(1, &[0]), |world| world.call_other(CALLS - 1)],
        unlink_and_wait,
    );
}

#[test]
fn nor_when_two_threads_free() {
    fn unlink_and_call(world: &World) {
        world.unlink(1);
        world.call(1);
    }
    model(WHOLE, Some(3), [|world| world.read(1, &[0, 1]), unlink_and_call], unlink_and_wait);
}

/// Two wait, and one of them shares the barrier of the other or has to make its own. (A higher bound has loom schedule
/// these two by turns for ever.)
#[test]
fn nor_when_two_threads_wait() {
    model(WHOLE, Some(2), [|world| world.read(1, &[0]), |world| world.synchronize()], unlink_and_wait);
}

/// Nobody waits: `call` alone starts the grace period, and runs the callback when it is over.
#[test]
fn nor_when_calls_alone_free() {
    model(WHOLE, None, [|world| world.read(1, &[0])], |world| {
        world.unlink(0);
        world.call(0);
        world.call_other(CALLS - 1);
    });
}

/// What is written before `synchronize` is seen after it by whoever was in no section meanwhile, and what sections have
/// done is seen by whoever has waited for them.
#[test]
fn synchronize_waits_for_open_sections() {
    model(WHOLE, Some(3), [|world| world.read(1, &[0])], |world| {
        world.unlink(0);
        world.synchronize();
        // SAFETY: stays until the model ends.
        let object = unsafe { &*world.objects[0] };
        // SAFETY: loom checks that nobody reads it meanwhile.
        object.freed.with_mut(|freed| unsafe { *freed = true });
    });
}

#[test]
fn a_barrier_waits_for_what_another_thread_runs() {
    model(WHOLE, Some(3), [|world| world.synchronize()], unlink_and_wait);
}

#[test]
#[should_panic]
fn without_the_heavy_barrier_the_checker_finds_a_section_that_sees_it() {
    model(Loom { heavy: false, ..WHOLE }, Some(3), [|world| world.read(1, &[0])], unlink_and_wait);
}

#[test]
#[should_panic]
fn without_the_light_barrier_the_checker_finds_a_section_that_sees_it() {
    model(Loom { light: false, ..WHOLE }, Some(3), [|world| world.read(1, &[0])], unlink_and_wait);
}

#[test]
#[should_panic]
fn with_a_tag_too_low_by_one_the_checker_finds_a_section_that_sees_it() {
    model(WHOLE, Some(2), [|world| world.read(1, &[0])], |world| {
        world.unlink(0);
        world.call(0);
        // SAFETY: the object stays until the model ends. That heads are to be left alone is what is broken here.
        unsafe { (*world.objects[0]).head.epoch -= 1 };
        world.call_other(CALLS - 1);
    });
}

#[test]
#[should_panic]
fn without_a_grace_period_the_checker_finds_a_section_that_sees_it() {
    model(WHOLE, Some(3), [|world| world.read(1, &[0])], |world| {
        world.unlink(0);
        // SAFETY: that nothing was waited for is what is broken here.
        unsafe { RcuHead::invoke(NonNull::new(world.objects[0]).unwrap().cast()) };
    });
}
