//! One given schedule.

use super::schedule::{Schedule, Segment};
use super::vm::{Choice, Strategy, View};

/// Follows a schedule; where it ends, lets each thread run on.
pub(crate) struct Replay {
    segments: Vec<Segment>,
    turn: usize,
    taken: u32,
    misfit: Option<usize>,
}

impl Replay {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        Self { segments: schedule.segments().to_vec(), turn: 0, taken: 0, misfit: None }
    }

    /// The turn whose thread could not move, counted from 1.
    pub(crate) fn misfit(&self) -> Option<usize> {
        self.misfit
    }
}

impl Strategy for Replay {
    fn choose(&mut self, view: &View<'_>) -> Choice {
        while self.segments.get(self.turn).is_some_and(|segment| self.taken >= segment.accesses) {
            (self.turn, self.taken) = (self.turn + 1, 0);
        }
        let Some(segment) = self.segments.get(self.turn) else {
            let goes_on = view.current.filter(|&thread| view.enabled & 1 << thread != 0);
            return Choice::Run(goes_on.unwrap_or(view.enabled.trailing_zeros() as usize));
        };
        self.taken += 1;
        if view.enabled & 1 << segment.thread == 0 {
            self.misfit = Some(self.turn + 1);
            return Choice::GiveUp;
        }
        Choice::Run(usize::from(segment.thread))
    }
}
