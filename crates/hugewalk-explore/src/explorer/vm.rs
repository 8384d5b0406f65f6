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
mod threads;
mod turn;

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
pub(crate) use self::threads::Thread;

use self::ambient::VM;
use self::rewind::Rewinding;
use self::threads::Pending;
use self::turn::Turn;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, Yielder};

use super::clock::Clock;
use super::lockorder::LockOrder;
use super::objects::Objects;
use super::op::Footprint;
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Quiet,
    Running,
    Draining,
    Dead,
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
