//! Schedules by chance, for programs that have too many.

use super::clock::MAX_THREADS;
use super::vm::{Choice, Strategy, View};

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Clone, Copy)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.throw() % limit.max(1)
    }
}

/// Each time, any of the threads that can move.
pub(crate) struct Random(pub(crate) Dice);

impl Strategy for Random {
    fn choose(&mut self, view: &View<'_>) -> Choice {
        let mut which = self.0.below(u64::from(view.enabled.count_ones()));
        let mut left = view.enabled;
        while which > 0 {
            left &= left - 1;
            which -= 1;
        }
        Choice::Run(left.trailing_zeros() as usize)
    }
}

/// Partial-order sampling (Yuan, Yang, Gu, CAV 2018): the step that each thread would take has a random priority, and the
/// highest is taken. Those that do not commute with it get a new priority then: else a step that has lost once would lose
/// against all that come after.
pub(crate) struct PartialOrder {
    dice: Dice,
    priorities: [Option<u64>; MAX_THREADS],
}

impl PartialOrder {
    pub(crate) fn new(dice: Dice) -> Self {
        Self { dice, priorities: [None; MAX_THREADS] }
    }
}

impl Strategy for PartialOrder {
    fn choose(&mut self, view: &View<'_>) -> Choice {
        let mut chosen = None;
        let pending = |number: &usize| view.threads[*number].pending.is_some();
        for number in (0..view.threads.len()).filter(pending) {
            let priority = *self.priorities[number].get_or_insert_with(|| self.dice.throw());
            let higher = chosen.is_none_or(|(_, highest)| priority > highest);
            if view.enabled & 1 << number != 0 && higher {
                chosen = Some((number, priority));
            }
        }
        let (chosen, _) = chosen.expect("somebody can move");
        let taken = view.threads[chosen].pending.map(|pending| pending.footprint);
        self.priorities[chosen] = None;
        for (priority, thread) in self.priorities.iter_mut().zip(view.threads) {
            let pending = thread.pending.map(|pending| pending.footprint);
            if taken.zip(pending).is_some_and(|(taken, pending)| pending.depends_on(&taken)) {
                *priority = None;
            }
        }
        Choice::Run(chosen)
    }
}

/// Probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): threads have random priorities, the highest that
/// can moves, and at `changes` random places the one that moves falls behind all others. A race that takes *d* such
/// places is found with a chance of at least 1 in *n* times *k* to the power *d* - 1, for *n* threads and *k* steps.
pub(crate) struct Pct {
    priorities: [u64; MAX_THREADS],
    changes: Vec<u64>,
    step: u64,
}

impl Pct {
    pub(crate) fn new(dice: &mut Dice, changes: u32, steps: u64) -> Self {
        let mut priorities = [0; MAX_THREADS];
        for priority in &mut priorities {
            *priority = u64::from(changes) + 1 + dice.below(1 << 32);
        }
        Self { priorities, changes: (0..changes).map(|_| dice.below(steps)).collect(), step: 0 }
    }
}

impl Strategy for Pct {
    fn choose(&mut self, view: &View<'_>) -> Choice {
        let highest = |priorities: &[u64; MAX_THREADS]| {
            (0..MAX_THREADS)
                .filter(|thread| view.enabled & 1 << thread != 0)
                .max_by_key(|&thread| priorities[thread])
        };
        let mut chosen = highest(&self.priorities).expect("somebody can move");
        if let Some(at) = self.changes.iter().position(|&change| change == self.step) {
            self.priorities[chosen] = at as u64;
            chosen = highest(&self.priorities).expect("somebody can move");
        }
        self.step += 1;
        Choice::Run(chosen)
    }
}
