//! From a scenario and a protocol to a verdict.

use std::fmt;

use crate::explore::{Chance, Coverage, DoesNotFit, Explorer, Options, Report, Schedule, Setup};
use crate::lab::{self, MACHINE, Settings};
use crate::scenario::{Bench, Scenario};
use crate::story::Story;

/// What was found of a scenario under a protocol.
#[derive(Debug)]
pub struct Verdict {
    /// The scenario.
    pub scenario: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// What the explorer did, and its counterexample if there is one.
    pub report: Report,
}

impl Verdict {
    /// Was nothing found, within what was explored?
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.report.counterexample.is_none()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} under {}: ", self.scenario, self.protocol)?;
        let report = &self.report;
        match (&report.counterexample, report.coverage) {
            (Some(found), _) => {
                let (switches, steps) = (found.schedule.switches(), found.schedule.steps());
                let shortest = if found.shortest { "" } else { ", not shown to be the shortest" };
                write!(
                    f,
                    "race, {switches} switches, {steps} steps{shortest}: {} [{}]",
                    found.text, found.schedule
                )?;
            }
            (None, Coverage::Everything) => write!(f, "safe in every interleaving")?,
            (None, Coverage::Preemptions(most)) => write!(f, "safe with up to {most} preemptions")?,
            (None, Coverage::Some) => write!(f, "safe as far as was looked")?,
        }
        let seconds = report.time.as_secs_f64();
        write!(
            f,
            " ({} executions, {} contended objects, {seconds:.2} s)",
            report.executions, report.contended
        )
    }
}

fn program(scenario: &Scenario, settings: Settings) -> impl Fn(&mut Setup) {
    let Scenario { judged, build, .. } = *scenario;
    move |setup| {
        let mut bench = Bench::new(setup, settings, judged);
        build(&mut bench);
        bench.finish();
    }
}

/// Explores a scenario under a protocol.
#[must_use]
pub fn check(scenario: &Scenario, settings: Settings, options: &Options) -> Verdict {
    let program = program(scenario, settings);
    let report = Explorer::new(&program).rewinding(MACHINE).check(options);
    Verdict { scenario: scenario.id, protocol: settings.name, report }
}

/// Runs random schedules of a scenario under a protocol, for what has too many.
#[must_use]
pub fn sample(scenario: &Scenario, settings: Settings, chance: Chance, runs: u64, seed: u64) -> Verdict {
    let report = Explorer::new(&program(scenario, settings)).sample(chance, runs, seed);
    Verdict { scenario: scenario.id, protocol: settings.name, report }
}

/// Runs a scenario under one schedule, and tells what happened; [`crate::text::draw`] draws it.
///
/// # Errors
///
/// [`DoesNotFit`] if the schedule is not one of this scenario's.
pub fn replay(scenario: &Scenario, settings: Settings, schedule: &Schedule) -> Result<Story, DoesNotFit> {
    let run = Explorer::new(&program(scenario, settings)).replay(schedule, lab::end_run)?;
    Ok(lab::tell(&run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    /// What is found, and in how many runs, does not depend on how a run comes to where it parts from the one before.
    #[test]
    fn runs_that_are_set_back_are_those_that_are_started_anew() {
        let options = Options {
            executions: 1_000,
            shortening: 1_000,
            time: std::time::Duration::from_secs(600),
            ..Options::default()
        };
        let mut compared = 0;
        for scenario in scenario::all() {
            for settings in [Settings::RFC, Settings::VMA_LOCK, Settings::HUGEWALK] {
                let program = program(scenario, settings);
                let anew = Explorer::new(&program).anew(MACHINE).check(&options);
                let back = Explorer::new(&program).rewinding(MACHINE).check(&options);
                let what = format!("{} under {}", scenario.id, settings.name);
                assert_eq!(back.executions, anew.executions, "{what}");
                assert_eq!((back.asleep, back.contended), (anew.asleep, anew.contended), "{what}");
                assert_eq!(back.coverage, anew.coverage, "{what}");
                let told = |report: &Report| {
                    report.counterexample.as_ref().map(|found| {
                        let of = found.what.downcast_ref::<lab::Property>().copied();
                        (found.text.clone(), found.schedule.to_string(), found.shortest, of)
                    })
                };
                assert_eq!(told(&back), told(&anew), "{what}");
                compared += anew.executions;
            }
        }
        assert!(compared > 20_000, "{compared} runs compared only");
    }

    /// Reduction runs one of each set of interleavings that differ only in the order of steps that commute. Which sets
    /// there are does not depend on where the scheduling points lie.
    #[test]
    fn there_is_nothing_to_be_found_beside_the_contended_objects() {
        for (id, settings) in [
            ("S8", Settings::HUGEWALK),
            ("S8", Settings::VMA_LOCK),
            ("S14", Settings::HUGEWALK),
            ("S22", Settings::HUGEWALK),
            ("S30", Settings::HUGEWALK),
        ] {
            let program = program(scenario::named(id).expect("a scenario"), settings);
            let contended = Explorer::new(&program).count_reduced();
            let everywhere = Explorer::new(&program).at_every_access().count_reduced();
            assert_eq!(contended, everywhere, "{id} under {}", settings.name);
            assert!(contended > 1, "{id} has one interleaving only");
        }
    }
}
