//! Every schedule, but for those that differ only in the order of steps that commute.
//!
//! # Protocol
//!
//! Dynamic partial-order reduction with source sets and sleep sets (Abdulla, Aronsson, Jonsson, Sagonas, POPL 2014; the
//! idea is Flanagan's and Godefroid's, POPL 2005). After a run, for each step, and each thread's step that is still to come
//! at its end, the steps are looked up that it could have come before: those on the same object, not ordered before it by
//! what its thread had seen, and possible at the same time. What came after such a step *i* but does not depend on it,
//! and then the later step, could have been done instead of *i*: one of the threads that can begin that is explored there
//! too, unless one of them is already. A thread *sleeps* at a state if what it would do there was explored from an earlier
//! sibling and commutes with all that was done since; a run in which everybody who can move sleeps is given up.
//!
//! # Why that is sound
//!
//! Both are sound for programs whose runs all end, given that steps which are called independent commute and neither make
//! each other possible nor impossible. Two steps are called independent if they touch no object in common, or touch those
//! in common by operations that commute. A condition that is waited for belongs to an object, and whoever can change it
//! does so by an operation on that object that does not commute with the wait. What a step does besides, until its thread's
//! next scheduling point, touches nothing that others race for (see `objects.rs`).
//!
//! Where steps wait, it does more than the papers ask: a lock is looked up against the step that took it last, beyond the
//! one that let it go (unless the later step waited there already, and did not have to: who leaves a read section need not
//! be the one that is waited for); a step that had to wait also against all that was done meanwhile; and where none of the threads
//! that could begin can move, all that can are explored.

use super::clock::MAX_THREADS;
use super::op::Footprint;
use super::vm::{Choice, Step, Strategy, View, Vm};

#[derive(Clone, Copy)]
struct Node {
    enabled: u8,
    chosen: u8,
    /// Threads to be chosen here, this time or another.
    wanted: u8,
    /// Threads that have been chosen here before.
    done: u8,
    asleep: u8,
    pending: [Option<Footprint>; MAX_THREADS],
}

/// Depth-first search with reduction.
pub(crate) struct Dpor {
    nodes: Vec<Node>,
    depth: usize,
    /// The run that is under way, or the last, ended because everybody slept.
    pub(crate) slept: bool,
    /// The choice that was made just now is a new one, and there may be others.
    branched: bool,
}

impl Dpor {
    pub(crate) fn new() -> Self {
        Self { nodes: Vec::new(), depth: 0, slept: false, branched: false }
    }

    /// Learns from the run that has ended, and moves on to the next; false if that was the last.
    pub(crate) fn advance(&mut self, vm: &Vm) -> bool {
        let steps = &vm.steps[..self.nodes.len().min(vm.steps.len())];
        for (at, step) in steps.iter().enumerate() {
            self.look_back(steps, at, step);
        }
        for step in &vm.still_to_come {
            self.look_back(steps, steps.len(), step);
        }
        (self.depth, self.slept) = (0, false);
        while let Some(node) = self.nodes.last_mut() {
            node.done |= 1 << node.chosen;
            let left = node.wanted & !node.done & !node.asleep;
            if left != 0 {
                node.chosen = left.trailing_zeros() as u8;
                return true;
            }
            self.nodes.pop();
        }
        false
    }

    /// Wants a thread before each step that this one, the `at`th, could have come before.
    fn look_back(&mut self, steps: &[Step], at: usize, step: &Step) {
        let Step { thread, announced, ref footprint, .. } = *step;
        for (number, earlier) in steps[..at].iter().enumerate().rev() {
            let own = usize::from(earlier.thread);
            let seen = step.before.of(own) >= earlier.before.of(own);
            if earlier.thread == thread || seen || !earlier.footprint.depends_on(footprint) {
                continue;
            }
            let node = &mut self.nodes[number];
            let could = number >= announced as usize && node.enabled & 1 << thread != 0;
            if !could && earlier.footprint.excludes(footprint) {
                continue;
            }
            let can_begin = beginners(steps, number, at, step) & node.enabled;
            if can_begin == 0 {
                node.wanted |= node.enabled;
            } else if can_begin & node.wanted == 0 {
                let awake = can_begin & !node.asleep;
                let among = if awake == 0 { can_begin } else { awake };
                node.wanted |=
                    if among & 1 << thread == 0 { among & among.wrapping_neg() } else { 1 << thread };
            }
            if number < announced as usize {
                break;
            }
        }
    }
}

/// Is `step` after `earlier`, because it depends on it or on what came of it?
fn follows(step: &Step, earlier: &Step) -> bool {
    let own = usize::from(earlier.thread);
    step.after.of(own) >= earlier.before.of(own)
}

/// The threads that can begin what came after step `from`, as far as it does not depend on it, with `last` at its end.
fn beginners(steps: &[Step], from: usize, to: usize, last: &Step) -> u8 {
    let independent = || steps[from + 1..to].iter().filter(|step| !follows(step, &steps[from]));
    let (mut seen, mut beginners) = (0_u8, 0);
    for (at, step) in independent().enumerate() {
        if seen & 1 << step.thread == 0 {
            seen |= 1 << step.thread;
            let waits = independent().take(at).any(|earlier| follows(step, earlier));
            beginners |= u8::from(!waits) << step.thread;
        }
    }
    if seen & 1 << last.thread == 0 {
        let before = |earlier: &Step| {
            let own = usize::from(earlier.thread);
            last.before.of(own) >= earlier.before.of(own) || earlier.footprint.depends_on(&last.footprint)
        };
        beginners |= u8::from(!independent().any(before)) << last.thread;
    }
    beginners
}

impl Strategy for Dpor {
    fn choose(&mut self, view: &View<'_>) -> Choice {
        self.branched = false;
        if let Some(node) = self.nodes.get(self.depth) {
            self.depth += 1;
            return Choice::Run(usize::from(node.chosen));
        }
        let mut pending = [None; MAX_THREADS];
        for (place, thread) in pending.iter_mut().zip(view.threads) {
            *place = thread.pending.as_ref().map(|pending| pending.footprint);
        }
        let asleep = self.nodes.last().map_or(0, |parent| {
            let taken = parent.pending[usize::from(parent.chosen)].expect("it was chosen");
            let mut asleep = (parent.asleep | parent.done) & !(1 << parent.chosen);
            for thread in 0..MAX_THREADS {
                let stirred = parent.pending[thread].is_none_or(|pending| pending.depends_on(&taken));
                asleep &= !(u8::from(stirred) << thread);
            }
            asleep
        });
        let awake = view.enabled & !asleep;
        if awake == 0 {
            self.slept = true;
            return Choice::GiveUp;
        }
        let goes_on = view.current.filter(|&thread| awake & 1 << thread != 0);
        let chosen = goes_on.unwrap_or(awake.trailing_zeros() as usize);
        let wanted = 1 << chosen;
        self.nodes.push(Node {
            enabled: view.enabled,
            chosen: chosen as u8,
            wanted,
            done: 0,
            asleep,
            pending,
        });
        self.depth += 1;
        self.branched = !view.enabled.is_power_of_two();
        Choice::Run(chosen)
    }

    fn repeats(&self) -> Option<usize> {
        self.nodes.len().checked_sub(1)
    }

    fn returns_here(&self) -> Option<usize> {
        self.branched.then(|| self.depth - 1)
    }

    fn return_to(&mut self, choice: usize) {
        self.depth = choice;
    }
}
