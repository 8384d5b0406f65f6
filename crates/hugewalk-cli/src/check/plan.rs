//! The work of a check: units that can be done in any order, anywhere.

use hugewalk_lab::explore::{self, Chance};
use hugewalk_lab::{check, sample};

use super::args::EffortArgs;
use super::error::CheckError;
use super::outcome::{Effort, Outcome};
use super::select::Case;

/// Random runs of a block: what is done in one piece.
const BLOCK: u64 = 20_000;

/// A case, or a block of random runs of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    /// An index into the cases.
    pub(super) case: usize,
    block: u64,
    runs: u64,
}

/// All units of a check, in an order that depends on the options alone.
pub(super) fn units(cases: &[Case], effort: &Effort) -> Vec<Unit> {
    let runs = match *effort {
        Effort::Exhaustive { .. } => 0,
        Effort::Random { runs, .. } | Effort::Pct { runs, .. } => runs,
    };
    let blocks = runs.div_ceil(BLOCK).max(1);
    let of_case = |case| {
        (0..blocks).map(move |block| Unit {
            case,
            block,
            runs: BLOCK.min(runs.saturating_sub(block * BLOCK)),
        })
    };
    (0..cases.len()).filter(|&case| cases[case].does_not_apply().is_none()).flat_map(of_case).collect()
}

impl Unit {
    /// Does the work.
    pub(super) fn perform(&self, case: &Case, effort: &Effort) -> Outcome {
        let by_chance = |chance, seed: u64| {
            // Far from the seeds of other blocks, and of other campaigns with seeds nearby.
            let seed =
                (seed ^ self.block.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd134_2543_de82_ef95);
            sample(case.scenario, case.settings, chance, self.runs, seed)
        };
        match *effort {
            Effort::Exhaustive { preemptions, unbounded, executions } => {
                let options = explore::Options { preemptions, unbounded, executions, ..Default::default() };
                check(case.scenario, case.settings, &options).into()
            }
            Effort::Random { seed, .. } => by_chance(Chance::Plain, seed).into(),
            Effort::Pct { changes, seed, .. } => by_chance(Chance::Pct { changes }, seed).into(),
        }
    }
}

impl From<&EffortArgs> for Effort {
    fn from(args: &EffortArgs) -> Self {
        let EffortArgs { changes, seed, executions, .. } = *args;
        match (args.random, args.pct) {
            (Some(runs), _) => Self::Random { runs, seed },
            (None, Some(runs)) => Self::Pct { runs, changes, seed },
            (None, None) => Self::Exhaustive {
                preemptions: args.preemptions.unwrap_or(2),
                unbounded: args.preemptions.is_none(),
                executions,
            },
        }
    }
}

/// Which part of the units: every `of`th, from the `number`th on, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Shard {
    pub(super) number: u32,
    pub(super) of: u32,
}

impl Shard {
    /// All there is.
    pub(super) const WHOLE: Self = Self { number: 1, of: 1 };

    pub(super) fn parse(text: &str) -> Result<Self, CheckError> {
        let parts =
            text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err(CheckError::Shard { text: text.to_owned() }),
        }
    }

    /// The units of this part: their numbers among all.
    pub(super) fn of_units(self, units: usize) -> impl Iterator<Item = usize> {
        (self.number as usize - 1..units).step_by(self.of as usize)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_together_are_the_whole_and_do_not_overlap() {
        let mut all: Vec<usize> = (1..=4).flat_map(|number| Shard { number, of: 4 }.of_units(10)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(Shard { number: 3, of: 4 }.of_units(2).count(), 0, "more parts than units");
    }

    #[test]
    fn a_part_is_named_by_its_number_and_how_many_there_are() {
        assert_eq!(Shard::parse("3/16").ok(), Some(Shard { number: 3, of: 16 }));
        for wrong in ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2"] {
            assert!(Shard::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_runs_of_a_case_are_in_some_block() {
        let case = Case {
            scenario: hugewalk_lab::scenario::named("S1").expect("a scenario"),
            settings: hugewalk_lab::lab::Settings::HUGEWALK,
            left_out: None,
            expected: None,
        };
        for runs in [1, BLOCK, BLOCK + 1, 5 * BLOCK - 1] {
            let units = units(&[case, case], &Effort::Random { runs, seed: 1 });
            let total: u64 = units.iter().map(|unit| unit.runs).sum();
            assert_eq!((total, units.iter().any(|unit| unit.runs == 0)), (2 * runs, false));
        }
    }
}
