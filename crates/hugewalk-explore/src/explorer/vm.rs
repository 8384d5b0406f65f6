//! One run: threads as coroutines, of which one moves at a time.
//!
//! # Protocol
//!
//! A thread calls [`access`] before each operation on something shared. If the object is contended, that is a scheduling
//! point: the strategy says whose turn it is. If it is still this thread's, `access` returns and nothing was switched;
//! else the coroutine is suspended until its turn comes. What the operation touches is accounted when the turn comes,
//! not when it was announced.
//!
//! A run goes through these modes: *quiet* while it is set up (accesses are carried out at once), *running*, *draining*
//! once its fate is decided (the strategy is not asked any more; the threads run to their ends so that nothing is left
//! behind), and *dead* if they cannot: then their stacks are abandoned, and what lies on them leaks. Runs that are set back
//! (`vm/rewind.rs`) leave nothing behind, and just stop when they are decided.

mod ambient;
mod crash;
mod ends;
mod registers;
mod rewind;
mod setup;
mod strategy;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;

pub use self::ambient::{
    Deadlock, Livelock, LockCycle, Note, access, begin_thread, has_found, in_thread, is_judged, is_moving,
    is_tracing, join_thread, journal, lock_released, lock_taken, lock_wanted, note, note_at, quietly,
    violation,
};
pub use self::crash::{Crash, catch_crashes};
pub use self::rewind::Machine;
pub use self::setup::Setup;
pub(crate) use self::strategy::{Choice, Strategy, View};

use self::ambient::{MOVING, TRACING, VM, with};
use self::rewind::Rewinding;
use corosensei::stack::{DefaultStack, Stack as _};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::arena;
use super::clock::{Clock, MAX_THREADS};
use super::lockorder::LockOrder;
use super::objects::Objects;
use super::op::{Class, Footprint, Op};
use super::schedule::Schedule;

/// Of which the system provides what is used.
const STACK_OF_THE_END: usize = 1 << 20;

/// A step that was taken at a scheduling point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) thread: u8,
    /// Number of steps taken when the thread announced this one.
    pub(crate) announced: u32,
    pub(crate) footprint: Footprint,
    /// What the thread had seen before.
    pub(crate) before: Clock,
    /// What it has seen since, this step's predecessors included.
    pub(crate) after: Clock,
}

/// What went wrong in a run.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) what: Box<dyn Any>,
    pub(crate) text: String,
    pub(crate) schedule: Schedule,
}

pub(crate) struct Thread {
    pub(crate) name: String,
    coroutine: Option<Coroutine<(), (), (), DefaultStack>>,
    yielder: *const Yielder<(), ()>,
    pub(crate) pending: Option<Pending>,
    clock: Clock,
    done: bool,
    /// Accesses before the first scheduling point, which are not yet in the schedule.
    early: u32,
    /// Accesses since the last scheduling point that was its own.
    tail: u32,
    /// Accesses that are in the schedule.
    total: u32,
    /// The thread that began it, if one did, and how many accesses that had made then.
    begun: Option<(u8, u32)>,
    /// While it is suspended: all of its stack that is in use lies above.
    low: usize,
    /// The end of its stack.
    base: usize,
}

#[derive(Clone, Copy)]
pub(crate) struct Pending {
    op: Op,
    pub(crate) footprint: Footprint,
    announced: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Quiet,
    Running,
    Draining,
    Dead,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Nobody has said.
    Open,
    /// This thread's, whose step is accounted for.
    Taken(usize),
    /// This thread's, whose step is not accounted for; the strategy may come back to this choice.
    Chosen(usize, usize),
    /// Nobody's any more.
    Over,
}

/// The machine that the threads of one exploration run on; one for each OS thread.
pub(crate) struct Vm {
    mode: Mode,
    /// The threads are on their way to their first scheduling points.
    starting: bool,
    current: usize,
    turn: Turn,
    /// Who is about to suspend itself.
    suspending: usize,
    pub(crate) threads: Vec<Thread>,
    pub(crate) objects: Objects,
    pub(crate) steps: Vec<Step>,
    /// What threads were about to do when the run's fate was decided.
    pub(crate) still_to_come: Vec<Step>,
    pub(crate) schedule: Schedule,
    pub(crate) found: Option<Found>,
    pub(crate) gave_up: bool,
    pub(crate) locks: LockOrder,
    pub(crate) accesses: u32,
    pub(crate) access_limit: u32,
    /// A thread was waited for that had not taken a step of its own: what it did has no turn but that which it was given then,
    /// and may have had a better one. True for good.
    pub(crate) joined_early: bool,
    /// Runs whose threads had to be abandoned.
    pub(crate) abandoned: u64,
    pub(crate) notes: Vec<Note>,
    /// Whether notes are taken.
    pub(crate) tracing: bool,
    /// Called once in a run: when its fate is decided, or its threads have ended.
    pub(crate) at_end: Option<fn()>,
    /// Called at each access of a thread whose run is not decided.
    #[cfg(any(test, feature = "internals"))]
    pub(crate) at_access: Option<fn()>,
    stacks: Vec<DefaultStack>,
    /// For what is done at the end of a run.
    last_stack: Option<DefaultStack>,
    strategy: *mut dyn Strategy,
    /// What was in the words that were written since the machine was wiped, in this order.
    journal: Vec<(*const AtomicU64, u64)>,
    /// Runs are set back instead of started anew.
    rewinding: Option<Box<Rewinding>>,
}

impl Vm {
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::Quiet,
            starting: false,
            current: 0,
            turn: Turn::Open,
            suspending: 0,
            threads: Vec::new(),
            objects: Objects::new(),
            steps: Vec::new(),
            still_to_come: Vec::new(),
            schedule: Schedule::default(),
            found: None,
            gave_up: false,
            locks: LockOrder::default(),
            accesses: 0,
            access_limit: 20_000,
            abandoned: 0,
            joined_early: false,
            notes: Vec::new(),
            tracing: false,
            at_end: None,
            #[cfg(any(test, feature = "internals"))]
            at_access: None,
            stacks: Vec::new(),
            last_stack: None,
            strategy: std::ptr::from_mut(&mut Nobody),
            journal: Vec::new(),
            rewinding: None,
        }
    }

    /// Sets a run up, runs its threads under the strategy, and ends it.
    pub(crate) fn execute(&mut self, strategy: &mut dyn Strategy, program: &dyn Fn(&mut Setup)) {
        self.end_rewinding();
        self.begin_run(strategy);
        let vm: *mut Self = self;
        let before = VM.replace(vm);
        assert!(before.is_null(), "an exploration inside of an exploration");
        let mut setup = Setup { threads: Vec::new(), finally: Vec::new() };
        program(&mut setup);
        // SAFETY: `vm` is `self`; coroutines reach it through `VM` while `start` and `run` resume them, and those hold no
        // reference across that.
        unsafe { Self::start(vm, setup.threads) };
        // SAFETY: as above.
        unsafe { Self::run(vm) };
        // SAFETY: no coroutine is running; the reference is not used across what follows.
        let this = unsafe { &mut *vm };
        this.end();
        this.clean_up();
        let (alive, judged) = (this.mode != Mode::Dead, !this.gave_up);
        if alive {
            this.mode = Mode::Quiet;
            for work in setup.finally {
                // SAFETY: no coroutine is running, and `this` is not used any more.
                unsafe { Self::finish(vm, work, judged) };
            }
        } else {
            // What they own may be in use on a stack that was abandoned.
            std::mem::forget(setup.finally);
        }
        VM.set(null_mut());
    }

    /// Does what is done at the end of a run: on a stack of its own, so that a crash there is a finding too.
    ///
    /// # Safety
    ///
    /// As for `start`.
    unsafe fn finish(vm: *mut Self, work: Box<dyn FnOnce(bool)>, judged: bool) {
        // SAFETY: by the contract.
        let kept = unsafe { (*vm).last_stack.take() };
        let stack = kept.unwrap_or_else(|| DefaultStack::new(STACK_OF_THE_END).expect("a stack"));
        let mut coroutine = Coroutine::with_stack(stack, move |_: &Yielder<(), ()>, ()| {
            let ended = catch_unwind(AssertUnwindSafe(|| work(judged)));
            if let Err(panic) = ended {
                violation(format!("a panic at the end: {}", panic_text(&*panic)), ());
            }
        });
        crash::within(coroutine.trap_handler(), vm, || coroutine.resume(()));
        // SAFETY: as above.
        unsafe { (*vm).last_stack = Some(coroutine.into_stack()) };
    }

    fn begin_run(&mut self, strategy: &mut dyn Strategy) {
        self.undo_to(0);
        self.objects.begin_run();
        self.locks.begin_run();
        self.steps.clear();
        self.still_to_come.clear();
        self.threads.clear();
        self.schedule.clear();
        (self.found, self.gave_up, self.accesses, self.mode) = (None, false, 0, Mode::Quiet);
        self.follow(strategy);
    }

    /// The strategy is asked from now on, until the run has ended.
    fn follow(&mut self, strategy: &mut dyn Strategy) {
        // SAFETY: the pointer is used until the run has ended only, and the strategy is lent for that long, so the longer
        // lifetime is never made use of.
        self.strategy = unsafe {
            std::mem::transmute::<*mut (dyn Strategy + '_), *mut (dyn Strategy + 'static)>(strategy)
        };
    }

    /// Makes the threads, and runs each to its first scheduling point.
    ///
    /// # Safety
    ///
    /// `vm` is valid and nobody else holds a reference to it.
    unsafe fn start(vm: *mut Self, threads: Vec<(String, Box<dyn FnOnce()>)>) {
        // SAFETY: by this function's contract; no coroutine has been started yet.
        let this = unsafe { &mut *vm };
        assert!(threads.len() <= MAX_THREADS, "more than {MAX_THREADS} threads");
        for (name, body) in threads {
            let name = arena::outside(|| name.as_str().to_owned());
            this.add_thread(name, body, Clock::default());
        }
        (this.mode, this.starting) = (Mode::Running, true);
        MOVING.set(true);
        TRACING.set(this.tracing);
        let count = this.threads.len();
        for thread in 0..count {
            // SAFETY: by this function's contract; `this` is not used across it.
            unsafe { Self::resume(vm, thread) };
        }
        // SAFETY: as above.
        unsafe { (*vm).starting = false };
    }

    /// Makes a thread, which has seen what `clock` says, and does not run it yet.
    fn add_thread(&mut self, name: String, body: Box<dyn FnOnce()>, mut clock: Clock) -> usize {
        let number = self.threads.len();
        let stack = self.stacks.pop().unwrap_or_else(|| DefaultStack::new(128 << 10).expect("a stack"));
        let base = stack.base().get();
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            with(|vm| vm.threads[number].yielder = yielder);
            let ended = catch_unwind(AssertUnwindSafe(body));
            if let Err(panic) = ended {
                violation(format!("a panic: {}", panic_text(&*panic)), ());
            }
        });
        clock.tick(number);
        self.threads.push(Thread {
            name,
            coroutine: Some(coroutine),
            yielder: std::ptr::null(),
            pending: None,
            clock,
            done: false,
            early: 0,
            tail: 0,
            total: 0,
            begun: None,
            low: base,
            base,
        });
        number
    }

    /// A thread begins another one, which runs up to its first scheduling point at once: what it does before touches nothing
    /// that others race for.
    ///
    /// # Safety
    ///
    /// `vm` is valid; the caller is a thread of it, and nobody holds a reference to it.
    unsafe fn begin_thread(vm: *mut Self, name: String, body: Box<dyn FnOnce()>) -> usize {
        // SAFETY: by the contract; the borrow ends before a coroutine runs.
        let this = unsafe { &mut *vm };
        let parent = this.current;
        let clock = this.threads[parent].clock;
        // What the parent does from here on the child has not seen.
        this.threads[parent].clock.tick(parent);
        let begun = Some((parent as u8, this.threads[parent].total));
        let child = arena::outside(|| this.add_thread(name, body, clock));
        this.threads[child].begun = begun;
        let starting = std::mem::replace(&mut this.starting, true);
        // SAFETY: as above. The parent's coroutine runs it, and is come back to where the child suspends itself.
        unsafe { Self::resume(vm, child) };
        // SAFETY: as above.
        let this = unsafe { &mut *vm };
        (this.starting, this.current) = (starting, parent);
        child
    }

    /// A thread has waited for the end of another one, and goes on.
    fn join_thread(&mut self, ended: u8, clock: &mut Clock) {
        let number = usize::from(ended);
        let ended = &mut self.threads[number];
        clock.join(&ended.clock);
        // What it did was needed for this.
        ended.tail = 0;
        let early = std::mem::take(&mut ended.early);
        ended.total += early;
        self.schedule.add(number, early);
        if early > 0 {
            self.joined_early = true;
            self.keep_beginning(number);
        }
    }

    /// What a thread did is needed, so it has to begin: what its parent did up to there stays in the schedule.
    fn keep_beginning(&mut self, child: usize) {
        if let Some((parent, at)) = self.threads[child].begun {
            let parent = &mut self.threads[usize::from(parent)];
            parent.tail = parent.tail.min(parent.total - at);
        }
    }

    /// Lets the threads move until none can, or the run is decided and what is left of it does not matter.
    ///
    /// # Safety
    ///
    /// As for `start`.
    unsafe fn run(vm: *mut Self) {
        MOVING.set(true);
        let mut turn = Turn::Open;
        loop {
            // SAFETY: by the contract; the borrow ends before a coroutine runs.
            let this = unsafe { &mut *vm };
            let thread = match turn {
                Turn::Open => {
                    turn = this.next_turn();
                    continue;
                }
                Turn::Over => break,
                Turn::Taken(thread) => thread,
                Turn::Chosen(thread, choice) => {
                    this.keep(choice);
                    this.commit(thread);
                    thread
                }
            };
            // Whoever suspends itself says whose turn it is.
            this.turn = Turn::Open;
            // SAFETY: as above.
            unsafe { Self::resume(vm, thread) };
            // SAFETY: as above.
            turn = unsafe { (*vm).turn };
        }
        MOVING.set(false);
        TRACING.set(false);
    }

    /// # Safety
    ///
    /// As for `start`.
    unsafe fn resume(vm: *mut Self, thread: usize) {
        // SAFETY: by the contract; the borrow ends before the coroutine runs.
        let this = unsafe { &mut *vm };
        this.current = thread;
        let mut coroutine = this.threads[thread].coroutine.take().expect("a thread that can run");
        let rewinds = this.rewinding.is_some();
        let resume = |coroutine: &mut Coroutine<_, _, _, _>| {
            crash::within(coroutine.trap_handler(), vm, || coroutine.resume(()))
        };
        let result =
            if rewinds { arena::within(thread, || resume(&mut coroutine)) } else { resume(&mut coroutine) };
        // SAFETY: as above; the coroutine is suspended or done.
        let this = unsafe { &mut *vm };
        let done = matches!(result, CoroutineResult::Return(()));
        this.threads[thread].done = done;
        if done && this.rewinding.is_none() {
            this.stacks.push(coroutine.into_stack());
        } else {
            this.threads[thread].coroutine = Some(coroutine);
        }
    }

    /// A thread is about to do something.
    fn arrive(&mut self, op: &Op) -> Option<*const Yielder<(), ()>> {
        if self.mode == Mode::Quiet {
            self.objects.introduce(op.object);
            return None;
        }
        let thread = self.current;
        self.suspending = thread;
        if self.mode == Mode::Dead || self.is_over() {
            // Only a thread that is on its way to being abandoned: it never comes back.
            self.turn = Turn::Over;
            return Some(self.threads[thread].yielder);
        }
        #[cfg(any(test, feature = "internals"))]
        if let Some(look) = self.at_access.filter(|_| self.mode == Mode::Running) {
            look();
        }
        self.accesses += 1;
        if self.accesses > self.access_limit {
            let (thousands, rest) = (self.access_limit / 1000, self.access_limit % 1000);
            let text = format!("livelock: still running after {thousands},{rest:03} accesses");
            self.report(&text, Box::new(Livelock));
            self.mode = Mode::Dead;
            self.turn = Turn::Over;
            return Some(self.threads[thread].yielder);
        }
        let blocked = op.wait.is_some_and(|wait| !wait.is_over());
        if self.mode == Mode::Draining && !blocked {
            return None;
        }
        let (footprint, contended) = self.objects.footprint(op, thread);
        let in_turn = match op.class {
            // Numbers are given in the order of the schedule.
            Class::Begin => self.starting,
            // What the other thread did last is needed from here on.
            Class::Join(ended) => {
                let ended = &self.threads[usize::from(ended)];
                ended.early + ended.tail > 0
            }
            _ => false,
        };
        if !contended && !blocked && !in_turn {
            if let Class::Join(ended) = op.class {
                let mut clock = self.threads[thread].clock;
                self.join_thread(ended, &mut clock);
                self.threads[thread].clock = clock;
            }
            if self.starting {
                self.threads[thread].early += 1;
            } else {
                self.schedule.add(thread, 1);
                self.threads[thread].tail += 1;
                self.threads[thread].total += 1;
            }
            self.objects.carry_out(&footprint, thread, &mut self.threads[thread].clock);
            return None;
        }
        if !contended && self.mode == Mode::Running && !in_turn && !matches!(op.class, Class::Join(_)) {
            self.objects.learn(&footprint);
        }
        self.threads[thread].pending =
            Some(Pending { op: *op, footprint, announced: self.steps.len() as u32 });
        if self.starting {
            return Some(self.threads[thread].yielder);
        }
        match self.next_turn() {
            Turn::Taken(turn) if turn == thread => None,
            turn => {
                self.turn = turn;
                Some(self.threads[thread].yielder)
            }
        }
    }

    /// Is the run decided, and does nothing that is left of it matter?
    fn is_over(&self) -> bool {
        // A panic is seen through, for the sake of what the system counts.
        self.mode == Mode::Draining && self.rewinding.is_some() && !std::thread::panicking()
    }

    /// Whose turn it is now. If it is settled, that thread's step is accounted for.
    fn next_turn(&mut self) -> Turn {
        if self.mode == Mode::Dead || self.is_over() {
            return Turn::Over;
        }
        let mut enabled = 0_u8;
        for (number, thread) in self.threads.iter().enumerate() {
            let can = thread
                .pending
                .as_ref()
                .is_some_and(|pending| pending.op.wait.is_none_or(|wait| wait.is_over()));
            enabled |= u8::from(can && !thread.done) << number;
        }
        if enabled == 0 {
            if self.threads.iter().any(|thread| !thread.done) {
                let who: Vec<_> =
                    self.threads.iter().filter(|thread| !thread.done).map(|thread| &*thread.name).collect();
                let wait = if who.len() == 1 { "waits" } else { "wait for each other, or" };
                let text = format!("deadlock: {} {wait} for what never comes", who.join(", "));
                self.report(&text, Box::new(Deadlock));
                self.mode = Mode::Dead;
            }
            return Turn::Over;
        }
        let turn = self.whose_turn(enabled);
        if self.is_over() {
            return Turn::Over;
        }
        if self.rewinding.is_some() && self.mode == Mode::Running && !std::thread::panicking() {
            // SAFETY: set by `follow`, whose caller lends the strategy for that long.
            let returns = unsafe { (*self.strategy).returns_here() };
            if let Some(choice) = returns {
                return Turn::Chosen(turn, choice);
            }
        }
        self.commit(turn);
        Turn::Taken(turn)
    }

    /// Accounts for the step that the thread is about to take.
    fn commit(&mut self, turn: usize) {
        let this = &mut self.threads[turn];
        let pending = this.pending.take().expect("enabled");
        let before = this.clock;
        let mut clock = before;
        if let Class::Join(ended) = pending.footprint.class {
            self.join_thread(ended, &mut clock);
        }
        let this = &mut self.threads[turn];
        if self.mode == Mode::Running {
            self.objects.carry_out(&pending.footprint, turn, &mut clock);
        }
        let after = clock;
        clock.tick(turn);
        this.clock = clock;
        let early = std::mem::take(&mut this.early);
        this.tail = 0;
        this.total += 1 + early;
        if this.begun.is_some() && before.of(turn) == 1 {
            self.keep_beginning(turn);
        }
        self.schedule.add(turn, 1 + early);
        if self.mode == Mode::Running {
            self.steps.push(Step {
                thread: turn as u8,
                announced: pending.announced,
                footprint: pending.footprint,
                before,
                after,
            });
        }
        self.current = turn;
    }

    fn whose_turn(&mut self, enabled: u8) -> usize {
        let current = self.schedule.last();
        if self.mode == Mode::Running {
            let view = View { enabled, current, threads: &self.threads, schedule: &self.schedule };
            // SAFETY: set by `follow`, whose caller lends the strategy for that long.
            match unsafe { (*self.strategy).choose(&view) } {
                Choice::Run(thread) => {
                    assert!(enabled & 1 << thread != 0, "the strategy chose a thread that cannot move");
                    return thread;
                }
                Choice::GiveUp => {
                    self.gave_up = true;
                    self.decided();
                }
            }
        }
        current.filter(|&thread| enabled & 1 << thread != 0).unwrap_or(enabled.trailing_zeros() as usize)
    }

    /// The fate of the run is decided: the rest is run in any order.
    fn decided(&mut self) {
        self.mode = Mode::Draining;
        for (number, thread) in self.threads.iter().enumerate() {
            if let Some(Pending { footprint, announced, .. }) = thread.pending {
                let (thread, before, after) = (number as u8, thread.clock, thread.clock);
                self.still_to_come.push(Step { thread, announced, footprint, before, after });
            }
        }
    }

    fn report(&mut self, text: &str, what: Box<dyn Any>) {
        if self.found.is_some() || self.gave_up {
            return;
        }
        self.end();
        let (is_cycle, is_deadlock) = (what.is::<LockCycle>(), what.is::<Deadlock>());
        // A copy: the run may be set back, with all that it has allocated. `what` was boxed outside of it.
        let text = text.to_owned();
        let mut schedule = self.schedule.clone();
        if self.mode == Mode::Running {
            // In a deadlock all have a part, as far as each has come. Else, what those did before their first contended
            // accesses who have not come to them has nothing to do with it; nor what the others did after their last ones, but
            // for the order in which they took locks.
            if self.threads.get(self.current).is_some_and(|thread| thread.clock.of(self.current) == 1) {
                self.keep_beginning(self.current);
            }
            for (number, thread) in self.threads.iter().enumerate() {
                if is_deadlock || number == self.current {
                    schedule.add(number, thread.early);
                } else if !is_cycle {
                    schedule.trim(number, thread.tail);
                }
            }
            self.decided();
        }
        self.found = Some(Found { what, text, schedule });
    }

    /// Lets who traces the run take a last look. `at_end` looks at what the threads share, not at the machine.
    fn end(&self) {
        if let Some(at_end) = self.at_end {
            at_end();
        }
    }

    fn clean_up(&mut self) {
        let mut left = false;
        for thread in &mut self.threads {
            if let Some(mut coroutine) = thread.coroutine.take() {
                left = true;
                // SAFETY: what lies on the stack is abandoned: `execute` keeps alive whatever it refers to, by leaking it.
                unsafe { coroutine.force_reset() };
                self.stacks.push(coroutine.into_stack());
            }
        }
        self.abandoned += u64::from(left);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.end_rewinding();
        self.undo_to(0);
    }
}

struct Nobody;
impl Strategy for Nobody {
    fn choose(&mut self, _: &View<'_>) -> Choice {
        Choice::GiveUp
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
