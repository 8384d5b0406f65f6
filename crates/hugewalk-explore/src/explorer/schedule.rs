//! Schedules: who moves, for how long.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::clock::MAX_THREADS;

/// A thread moves, for so many accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) thread: u8,
    pub(crate) accesses: u32,
}

/// Who moves, and for how many accesses to shared things, until it is the next one's turn.
///
/// Written as a letter and a number for each turn: `A12B40A3` lets the first thread make 12 accesses, the second 40, the
/// first 3. What it leaves open is decided by letting each thread run on. All accesses count, whether they are contended
/// or not, so that a schedule means the same whatever an exploration has learned.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    segments: Vec<Segment>,
}

impl Clone for Schedule {
    fn clone(&self) -> Self {
        Self { segments: self.segments.clone() }
    }

    fn clone_from(&mut self, other: &Self) {
        self.segments.clone_from(&other.segments);
    }
}

/// A text that is not a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a schedule is turns of a thread's letter (A to H) and a number of accesses, as in A12B40A3; character {at} does not fit"
)]
pub struct NotASchedule {
    /// Where, counted from 1.
    pub at: usize,
}

impl Schedule {
    /// Turns that follow another one's.
    #[must_use]
    pub fn switches(&self) -> u32 {
        (self.segments.len() as u32).saturating_sub(1)
    }

    /// Accesses of all turns together.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.segments.iter().map(|segment| segment.accesses).sum()
    }

    pub(crate) fn last(&self) -> Option<usize> {
        self.segments.last().map(|segment| usize::from(segment.thread))
    }

    pub(crate) fn add(&mut self, thread: usize, accesses: u32) {
        match self.segments.last_mut() {
            Some(last) if usize::from(last.thread) == thread => last.accesses += accesses,
            _ if accesses == 0 => {}
            _ => self.segments.push(Segment { thread: thread as u8, accesses }),
        }
    }

    /// Takes accesses off the end of the last turn of a thread.
    pub(crate) fn trim(&mut self, thread: usize, accesses: u32) {
        let turn = self.segments.iter_mut().rfind(|segment| usize::from(segment.thread) == thread);
        if let Some(turn) = turn {
            turn.accesses -= accesses;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.segments.clear();
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments
            .iter()
            .try_for_each(|segment| write!(f, "{}{}", char::from(b'A' + segment.thread), segment.accesses))
    }
}

impl FromStr for Schedule {
    type Err = NotASchedule;

    fn from_str(text: &str) -> Result<Self, NotASchedule> {
        let mut schedule = Self::default();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let error = NotASchedule { at: text.chars().count() - rest.chars().count() + 1 };
            let thread = (letter.to_ascii_uppercase() as u32).wrapping_sub('A' as u32);
            if thread >= MAX_THREADS as u32 {
                return Err(error);
            }
            rest = &rest[1..];
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let accesses: u32 = rest[..digits].parse().map_err(|_| NotASchedule { at: error.at + 1 })?;
            schedule.add(thread as usize, accesses);
            rest = &rest[digits..];
        }
        Ok(schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_reads_back_as_it_was_written() {
        let text = "A12B40A3H1";
        let schedule: Schedule = text.parse().unwrap();
        assert_eq!((schedule.switches(), schedule.steps()), (3, 56));
        assert_eq!(schedule.to_string(), text);
        assert_eq!(text.to_lowercase().parse(), Ok(schedule));
    }

    #[test]
    fn what_is_no_schedule_is_refused_where_it_goes_wrong() {
        for (text, at) in [("A1I2", 3), ("A", 2), ("12", 1), ("A1i2", 3), ("A1é", 3), ("A99999999999", 2)] {
            assert_eq!(text.parse::<Schedule>(), Err(NotASchedule { at }), "{text}");
        }
    }
}
