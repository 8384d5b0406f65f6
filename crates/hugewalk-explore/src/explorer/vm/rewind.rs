//! Runs that are set back to where they part from the one before, instead of started anew.
//!
//! # Protocol
//!
//! All that a run changes lies in a few pieces of memory: the arena, the stacks of its threads, and what the machine that
//! it runs on has (`Machine`); besides, the words that are written through [`journal`](super::ambient::journal), and what
//! the explorer itself knows of the run. Where the strategy makes a choice that it may come back to, all of that is copied
//! while every thread is suspended: a checkpoint. To come back, it is copied back, to the same addresses; so pointers
//! into it, on stacks and elsewhere, are right again, and the run goes on as the first time, up to the choice.
//!
//! That is sound as long as nothing else refers to what was allocated in the run, and the run changes nothing else: the
//! promise of [`Allocator`](crate::Allocator), and the reason for `arena::outside` around all that the explorer keeps, what
//! is reported of a run that goes wrong included. A run leaves nothing behind, wherever it ends: what it has allocated goes as
//! a whole, also what lies on stacks that are given up.
//!
//! # Ends that have been seen
//!
//! What is done and checked when all threads have ended depends on the same memory alone. If it is what it was at the
//! end of another run, byte for byte, where nothing was found, it is not done again (`vm/ends.rs`).

use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use corosensei::Coroutine;
use corosensei::stack::DefaultStack;

use super::ambient::{MOVING, VM};
use super::ends::Ends;
use super::threads::Pending;
use super::turn::Turn;
use super::{Clock, Mode, Setup, Strategy, Vm};
use crate::explorer::arena::{self, AREAS, OF_SETUP};
use crate::explorer::lockorder::LockOrder;
use crate::explorer::objects;
use crate::explorer::schedule::Schedule;

/// Memory that the threads of a program use and that is not theirs.
#[derive(Clone, Copy)]
pub struct Machine {
    /// Makes it such that nothing in it was allocated.
    pub wipe: fn(),
    /// Its pieces. What lies outside of them does not change in a run, or is journalled.
    pub pieces: fn(&mut dyn FnMut(*mut u8, usize)),
}

type Routine = Option<Coroutine<(), (), (), DefaultStack>>;

struct Standing {
    /// A copy: the stack is owned by the original.
    coroutine: MaybeUninit<Routine>,
    pending: Option<Pending>,
    clock: Clock,
    done: bool,
    early: u32,
    tail: u32,
    total: u32,
    low: usize,
}

/// All there is to know of a run at one of its choices.
#[derive(Default)]
struct Checkpoint {
    choice: usize,
    marks: [usize; AREAS],
    pieces: Vec<(*mut u8, usize)>,
    bytes: Vec<MaybeUninit<u8>>,
    threads: Vec<Standing>,
    objects: objects::Saved,
    locks: LockOrder,
    schedule: Schedule,
    steps: usize,
    journal: usize,
    accesses: u32,
}

/// A program that has been set up, and is set back for each run.
pub(super) struct Rewinding {
    machine: Machine,
    /// What was in the machine before.
    before: Checkpoint,
    finally: ManuallyDrop<Vec<Box<dyn FnOnce(bool)>>>,
    /// Along the run that is under way, or the last one; the first is before the first choice.
    checkpoints: Vec<Checkpoint>,
    /// For use again.
    spare: Vec<Checkpoint>,
    /// Ends at which nothing was found.
    ends: Ends,
}

/// Accesses that take as long as a checkpoint.
const WORTH_IT: u32 = 8;
/// Checkpoints along one run.
const MOST_CHECKPOINTS: usize = 256;

impl Checkpoint {
    fn copy_in(&mut self, piece: *mut u8, len: usize) {
        self.pieces.push((piece, len));
        let at = self.bytes.len();
        self.bytes.reserve(len);
        let room = self.bytes.spare_capacity_mut().as_mut_ptr();
        // SAFETY: the piece is memory of the run, and no thread is moving; there is room for it.
        unsafe { piece.copy_to_nonoverlapping(room.cast(), len) };
        // SAFETY: reserved above; whatever the bytes are, they may be uninitialised.
        unsafe { self.bytes.set_len(at + len) };
    }

    fn copy_back(&self) {
        let mut at = 0;
        for &(piece, len) in &self.pieces {
            // SAFETY: the bytes are those that lay there before, and no thread is moving.
            unsafe { piece.copy_from_nonoverlapping(self.bytes[at..][..len].as_ptr().cast(), len) };
            at += len;
        }
    }
}

impl Vm {
    /// As `execute`, but set back to where it parts from the run before, if there was one.
    pub(crate) fn execute_rewinding(
        &mut self,
        strategy: &mut dyn Strategy,
        program: &dyn Fn(&mut Setup),
        machine: Machine,
    ) {
        let vm: *mut Self = self;
        if self.rewinding.is_none() {
            // SAFETY: nobody else holds a reference.
            unsafe { Self::begin_rewinding(vm, strategy, program, machine) };
            if self.found.is_some() || self.mode == Mode::Dead || self.objects.learned {
                // Before the first choice: every run is like that, and this one is as good as any.
                return self.end_rewinding();
            }
        }
        let repeats = strategy.repeats();
        self.follow(strategy);
        let choice = self.set_back(repeats);
        strategy.return_to(choice);
        (self.found, self.gave_up, self.mode) = (None, false, Mode::Running);
        self.objects.learned = false;
        self.still_to_come.clear();
        let before = VM.replace(vm);
        assert!(before.is_null(), "an exploration inside of an exploration");
        // SAFETY: `vm` is `self`, whose reference is not used meanwhile.
        unsafe { Self::run(vm) };
        // SAFETY: no coroutine is running; the reference is not used across what follows.
        let this = unsafe { &mut *vm };
        if this.mode == Mode::Running && !this.end_is_good() {
            this.mode = Mode::Quiet;
            let rewinding = this.rewinding.as_ref().expect("it rewinds");
            let end = rewinding.ends.last();
            let (works, count) = (rewinding.finally.as_ptr(), rewinding.finally.len());
            for number in 0..count {
                let work = works.wrapping_add(number);
                // SAFETY: in bounds. Each run takes the box anew: what it points to is set back together with the arena.
                let work = unsafe { work.read() };
                // SAFETY: as above.
                arena::within(OF_SETUP, || unsafe { Self::finish(vm, work, true) });
            }
            // SAFETY: as above.
            let this = unsafe { &mut *vm };
            if this.found.is_none() {
                // Nothing was found at the end that was looked up, as it was then.
                this.rewinding.as_mut().expect("it rewinds").ends.remember(end);
            }
        }
        VM.set(null_mut());
        // SAFETY: as above.
        let this = unsafe { &mut *vm };
        if this.objects.learned {
            this.end_rewinding();
        }
    }

    /// # Safety
    ///
    /// As for `start`.
    unsafe fn begin_rewinding(
        vm: *mut Self,
        strategy: &mut dyn Strategy,
        program: &dyn Fn(&mut Setup),
        machine: Machine,
    ) {
        // SAFETY: by the contract; the borrow ends before a coroutine runs.
        let this = unsafe { &mut *vm };
        this.begin_run(strategy);
        (machine.wipe)();
        let mut before = Checkpoint::default();
        (machine.pieces)(&mut |piece, len| before.copy_in(piece, len));
        arena::reset();
        let outer = VM.replace(vm);
        assert!(outer.is_null(), "an exploration inside of an exploration");
        let mut setup = arena::within(OF_SETUP, || {
            let mut setup = Setup { threads: Vec::new(), finally: Vec::new() };
            program(&mut setup);
            setup
        });
        // The list itself stays; the boxes in it are the arena's.
        let mut finally = Vec::with_capacity(setup.finally.len());
        finally.append(&mut setup.finally);
        // SAFETY: as above.
        let this = unsafe { &mut *vm };
        this.rewinding = Some(Box::new(Rewinding {
            machine,
            before,
            finally: ManuallyDrop::new(finally),
            checkpoints: Vec::new(),
            spare: Vec::new(),
            ends: Ends::default(),
        }));
        // SAFETY: by the contract.
        unsafe { Self::start(vm, setup.threads) };
        MOVING.set(false);
        VM.set(outer);
        // SAFETY: as above.
        unsafe { (*vm).keep(0) };
    }

    /// Ends a series of runs that are set back. Nothing of them is left.
    pub(crate) fn end_rewinding(&mut self) {
        let Some(rewinding) = self.rewinding.take() else { return };
        self.undo_to(0);
        rewinding.before.copy_back();
        for thread in &mut self.threads {
            if let Some(mut coroutine) = thread.coroutine.take() {
                // SAFETY: what lies on the stack belongs to the run, which is forgotten as a whole.
                unsafe { coroutine.force_reset() };
                self.stacks.push(coroutine.into_stack());
            }
        }
        self.threads.clear();
        arena::reset();
    }

    /// Undoes the journal down to this length.
    pub(super) fn undo_to(&mut self, len: usize) {
        for (word, before) in self.journal.drain(len..).rev() {
            // SAFETY: journalled words are there for ever.
            let word: &AtomicU64 = unsafe { &*word };
            word.store(before, Ordering::Relaxed);
        }
    }

    /// Makes a checkpoint before the choice of this number, unless it is not worth it.
    pub(super) fn keep(&mut self, choice: usize) {
        let mut rewinding = self.rewinding.take().expect("it rewinds");
        let last = rewinding.checkpoints.last().map(|last| last.accesses + WORTH_IT);
        if last.is_none_or(|least| self.accesses >= least) && rewinding.checkpoints.len() < MOST_CHECKPOINTS {
            let mut checkpoint = rewinding.spare.pop().unwrap_or_default();
            self.save(&mut checkpoint, rewinding.machine);
            checkpoint.choice = choice;
            rewinding.checkpoints.push(checkpoint);
        }
        self.rewinding = Some(rewinding);
    }

    fn save(&self, to: &mut Checkpoint, machine: Machine) {
        to.pieces.clear();
        to.bytes.clear();
        to.marks = arena::marks();
        for (area, used) in arena::areas() {
            if used > 0 {
                to.copy_in(area, used);
            }
        }
        (machine.pieces)(&mut |piece, len| to.copy_in(piece, len));
        to.threads.clear();
        for thread in &self.threads {
            if !thread.done {
                to.copy_in(std::ptr::with_exposed_provenance_mut(thread.low), thread.base - thread.low);
            }
            let mut copy = MaybeUninit::uninit();
            // SAFETY: both are valid for one coroutine, as bytes: the copy is never used as one, nor dropped.
            unsafe { (&raw const thread.coroutine).copy_to_nonoverlapping(copy.as_mut_ptr(), 1) };
            to.threads.push(Standing {
                coroutine: copy,
                pending: thread.pending,
                clock: thread.clock,
                done: thread.done,
                early: thread.early,
                tail: thread.tail,
                total: thread.total,
                low: thread.low,
            });
        }
        self.objects.save(&mut to.objects);
        to.locks.clone_from(&self.locks);
        to.schedule.clone_from(&self.schedule);
        (to.steps, to.journal, to.accesses) = (self.steps.len(), self.journal.len(), self.accesses);
    }

    /// To the last checkpoint that comes before the first choice that differs; to the first one of all, before any step, if
    /// nothing is repeated. Returns the number of the next choice.
    fn set_back(&mut self, repeats: Option<usize>) -> usize {
        let mut rewinding = self.rewinding.take().expect("it rewinds");
        while rewinding.checkpoints.len() > 1
            && rewinding
                .checkpoints
                .last()
                .is_some_and(|last| repeats.is_none_or(|repeats| last.choice > repeats))
        {
            rewinding.spare.extend(rewinding.checkpoints.pop());
        }
        let checkpoint = rewinding.checkpoints.last().expect("the first one stays");
        self.undo_to(checkpoint.journal);
        checkpoint.copy_back();
        arena::set_back(&checkpoint.marks);
        while self.threads.len() > checkpoint.threads.len() {
            // It had not begun then.
            if let Some(mut coroutine) = self.threads.pop().and_then(|thread| thread.coroutine) {
                // SAFETY: what lies on the stack belongs to what is forgotten.
                unsafe { coroutine.force_reset() };
                self.stacks.push(coroutine.into_stack());
            }
        }
        for (thread, standing) in self.threads.iter_mut().zip(&checkpoint.threads) {
            let to = &raw mut thread.coroutine;
            // SAFETY: the bytes are those of this very coroutine, whose stack is as it was then.
            unsafe { to.copy_from_nonoverlapping(standing.coroutine.as_ptr(), 1) };
            thread.pending = standing.pending;
            thread.clock = standing.clock;
            (thread.done, thread.early, thread.tail) = (standing.done, standing.early, standing.tail);
            (thread.total, thread.low) = (standing.total, standing.low);
        }
        self.objects.restore(&checkpoint.objects);
        self.locks.clone_from(&checkpoint.locks);
        self.schedule.clone_from(&checkpoint.schedule);
        self.steps.truncate(checkpoint.steps);
        (self.accesses, self.turn) = (checkpoint.accesses, Turn::Open);
        let choice = checkpoint.choice;
        self.rewinding = Some(rewinding);
        choice
    }

    /// Has a run ended in this very state before, now that the threads have ended?
    fn end_is_good(&mut self) -> bool {
        let mut rewinding = self.rewinding.take().expect("it rewinds");
        let first = rewinding.checkpoints[0].journal;
        let machine = rewinding.machine;
        let pieces = |list: &mut Vec<_>| {
            list.extend(arena::areas());
            (machine.pieces)(&mut |piece, len| list.push((piece, len)));
        };
        let words = self.journal[first..].iter().map(|&(word, _)| word);
        // SAFETY: no thread is moving, and journalled words are there for ever.
        let good = unsafe { rewinding.ends.look_up(pieces, words) };
        self.rewinding = Some(rewinding);
        good
    }
}
