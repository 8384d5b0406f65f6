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
