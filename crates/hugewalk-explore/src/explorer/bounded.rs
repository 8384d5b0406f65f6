//! Every schedule within a bound, depth first.
//!
//! # Why a search for something shorter may leave schedules out
//!
//! A thread that could go on and is switched away from *sleeps* until somebody does what does not commute with its next step.
//! Schedules in which a sleeping thread takes that step are left out. Each of them, made so that the thread takes the step before
//! it is switched away from, is the same but for the order of steps that commute; it has as many accesses, no more switches (the
//! step joins a turn that is there already), and comes earlier in this search, where its thread goes on. So of all shortest schedules the
//! one that comes first is never left out.
//!
//! That holds for what a run comes to by its steps. A cycle of locks is found when its last edge is taken, by whichever step that
//! is: a search for a shorter one of those leaves nothing out.

use super::clock::MAX_THREADS;
use super::op::Footprint;
use super::schedule::Schedule;
use super::vm::{Choice, Strategy, View};

/// What each thread that sleeps would do next.
type Asleep = [Option<Footprint>; MAX_THREADS];

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Turns taken from a thread that could have gone on.
    Preemptions(u32),
    /// Turns in all; and at the last of them, accesses.
    Switches(u32, u32),
    Nothing,
}

impl Bound {
    /// Does a whole run that goes wrong keep to it? In a deadlock there may be threads that came to where they wait without
    /// a choice.
    pub(crate) fn allows(self, schedule: &Schedule) -> bool {
        if let Self::Switches(most, _) = self { schedule.switches() <= most } else { true }
    }
}

/// A place where there was a choice.
#[derive(Clone, Copy)]
struct Node {
    chosen: u8,
    /// Threads that have not been chosen here yet.
    left: u8,
    current: u8,
    enabled: u8,
    /// Preemptions before this choice.
    preemptions: u32,
    asleep: Asleep,
}

/// Depth-first search.
pub(crate) struct Bounded {
    bound: Bound,
    nodes: Vec<Node>,
    depth: usize,
    preemptions: u32,
    /// The choice that was made just now is a new one, and there are others.
    branched: bool,
    /// The bound has cut something off.
    pub(crate) cut: bool,
    /// Whether threads sleep.
    sleeps: bool,
    asleep: Asleep,
}

const NOBODY: u8 = u8::MAX;

impl Bounded {
    pub(crate) fn new(bound: Bound) -> Self {
        Self {
            bound,
            nodes: Vec::new(),
            depth: 0,
            preemptions: 0,
            branched: false,
            cut: false,
            sleeps: false,
            asleep: [None; MAX_THREADS],
        }
    }

    /// Leaves out what differs from other schedules in the order of steps that commute.
    pub(crate) fn with_sleep(mut self) -> Self {
        self.sleeps = true;
        self
    }

    pub(crate) fn set_step_limit(&mut self, steps: u32) {
        if let Bound::Switches(_, limit) = &mut self.bound {
            *limit = (*limit).min(steps);
        }
    }

    /// To the next schedule; false if that was the last.
    pub(crate) fn advance(&mut self) -> bool {
        (self.depth, self.preemptions, self.asleep) = (0, 0, [None; MAX_THREADS]);
        while let Some(node) = self.nodes.last_mut() {
            if node.left != 0 {
                node.chosen = node.left.trailing_zeros() as u8;
                node.left &= node.left - 1;
                return true;
            }
            self.nodes.pop();
        }
        false
    }

    fn preempts(node: &Node, chosen: u8) -> bool {
        node.current != NOBODY && node.current != chosen && node.enabled & 1 << node.current != 0
    }

    fn is_asleep(&self, thread: usize) -> bool {
        self.asleep[thread].is_some()
    }

    /// The thread takes its step, unless it sleeps. Those wake up whom that matters to.
    fn go(&mut self, thread: usize, view: &View<'_>) -> Choice {
        if !self.sleeps {
            return Choice::Run(thread);
        }
        if self.is_asleep(thread) {
            return Choice::GiveUp;
        }
        if let Some(taken) = next_step(view, thread) {
            for place in &mut self.asleep {
                *place = place.take_if(|next| !next.depends_on(&taken));
            }
        }
        Choice::Run(thread)
    }
}

fn next_step(view: &View<'_>, thread: usize) -> Option<Footprint> {
    view.threads[thread].pending.as_ref().map(|pending| pending.footprint)
}

impl Strategy for Bounded {
    fn choose(&mut self, view: &View<'_>) -> Choice {
        self.branched = false;
        if let Bound::Switches(most, steps) = self.bound
            && view.schedule.switches() >= most
        {
            let same = view.current.filter(|&thread| view.enabled & 1 << thread != 0 || most == 0);
            if view.schedule.switches() > most || view.steps() >= steps {
                self.cut = true;
                return Choice::GiveUp;
            }
            if view.current.is_some() {
                self.cut |= view.enabled.count_ones() > 1 || same.is_none();
                return match same.filter(|&thread| view.enabled & 1 << thread != 0) {
                    Some(thread) => self.go(thread, view),
                    None => Choice::GiveUp,
                };
            }
        }
        if view.enabled.is_power_of_two() {
            return self.go(view.enabled.trailing_zeros() as usize, view);
        }
        if let Some(node) = self.nodes.get(self.depth) {
            self.depth += 1;
            let preempts = Self::preempts(node, node.chosen);
            self.preemptions = node.preemptions + u32::from(preempts);
            self.asleep = node.asleep;
            if self.sleeps && preempts {
                // That it goes on instead has been explored.
                self.asleep[usize::from(node.current)] = next_step(view, usize::from(node.current));
            }
            return self.go(usize::from(node.chosen), view);
        }
        let current = view.current.map_or(NOBODY, |thread| thread as u8);
        let goes_on = current != NOBODY && view.enabled & 1 << current != 0;
        let sleeping =
            (0..MAX_THREADS).fold(0, |all, thread| all | u8::from(self.is_asleep(thread)) << thread);
        let awake = view.enabled & !sleeping;
        if awake == 0 {
            return Choice::GiveUp;
        }
        // The thread that moved last is awake.
        let chosen = if goes_on { current } else { awake.trailing_zeros() as u8 };
        let mut left = awake & !(1 << chosen);
        if let Bound::Preemptions(most) = self.bound
            && goes_on
            && self.preemptions >= most
        {
            self.cut = true;
            left = 0;
        }
        let preemptions = self.preemptions;
        let asleep = self.asleep;
        self.nodes.push(Node { chosen, left, current, enabled: view.enabled, preemptions, asleep });
        self.depth += 1;
        self.branched = left != 0;
        self.go(usize::from(chosen), view)
    }

    fn repeats(&self) -> Option<usize> {
        self.nodes.len().checked_sub(1)
    }

    fn returns_here(&self) -> Option<usize> {
        self.branched.then(|| self.depth - 1)
    }

    fn return_to(&mut self, choice: usize) {
        self.depth = choice;
        self.preemptions = self.nodes.get(choice).map_or(0, |node| node.preemptions);
    }
}
