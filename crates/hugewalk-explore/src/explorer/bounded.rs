//! Every schedule within a bound, depth first.

use super::schedule::Schedule;
use super::vm::{Choice, Strategy, View};

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
}

const NOBODY: u8 = u8::MAX;

impl Bounded {
    pub(crate) fn new(bound: Bound) -> Self {
        Self { bound, nodes: Vec::new(), depth: 0, preemptions: 0, branched: false, cut: false }
    }

    pub(crate) fn set_step_limit(&mut self, steps: u32) {
        if let Bound::Switches(_, limit) = &mut self.bound {
            *limit = (*limit).min(steps);
        }
    }

    /// To the next schedule; false if that was the last.
    pub(crate) fn advance(&mut self) -> bool {
        (self.depth, self.preemptions) = (0, 0);
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
                return same
                    .filter(|&thread| view.enabled & 1 << thread != 0)
                    .map_or(Choice::GiveUp, Choice::Run);
            }
        }
        if view.enabled.is_power_of_two() {
            return Choice::Run(view.enabled.trailing_zeros() as usize);
        }
        if let Some(node) = self.nodes.get(self.depth) {
            self.depth += 1;
            self.preemptions = node.preemptions + u32::from(Self::preempts(node, node.chosen));
            return Choice::Run(usize::from(node.chosen));
        }
        let current = view.current.map_or(NOBODY, |thread| thread as u8);
        let goes_on = current != NOBODY && view.enabled & 1 << current != 0;
        let chosen = if goes_on { current } else { view.enabled.trailing_zeros() as u8 };
        let mut left = view.enabled & !(1 << chosen);
        if let Bound::Preemptions(most) = self.bound
            && goes_on
            && self.preemptions >= most
        {
            self.cut = true;
            left = 0;
        }
        let preemptions = self.preemptions;
        self.nodes.push(Node { chosen, left, current, enabled: view.enabled, preemptions });
        self.depth += 1;
        self.branched = left != 0;
        Choice::Run(usize::from(chosen))
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
