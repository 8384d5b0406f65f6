//! From a scenario and a protocol to a verdict.

use std::fmt;

use crate::explore::{Chance, Coverage, DoesNotFit, Explorer, Options, Report, Schedule, Setup};
use crate::fault::Fault;
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
                    "{}, {switches} switches, {steps} steps{shortest}: {} [{}]",
                    Fault::of(found),
                    found.text,
                    found.schedule
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
    let program = program(scenario, settings);
    let report = Explorer::new(&program).rewinding(MACHINE).sample(chance, runs, seed);
    Verdict { scenario: scenario.id, protocol: settings.name, report }
}

/// Runs a scenario under one schedule, and tells what happened; [`crate::text::draw`] draws it.
///
/// # Errors
///
/// [`DoesNotFit`] if the schedule is not one of this scenario's.
pub fn replay(scenario: &Scenario, settings: Settings, schedule: &Schedule) -> Result<Story, DoesNotFit> {
    let program = program(scenario, settings);
    let run = Explorer::new(&program).rewinding(MACHINE).replay(schedule, lab::end_run)?;
    Ok(lab::tell(&run))
}

/// Tells one run of a scenario in which the others go on while the first processor is in the middle of what it does: most often
/// the run that would be a race without the protocol. And the turns that were taken in it.
#[must_use]
pub fn show(scenario: &Scenario, settings: Settings) -> (Schedule, Story) {
    let program = program(scenario, settings);
    let run = |turns: &str| {
        let schedule = turns.parse().expect("a schedule");
        let run = Explorer::new(&program).rewinding(MACHINE).replay(&schedule, lab::end_run)?;
        Ok::<_, DoesNotFit>((run.schedule.clone(), lab::tell(&run)))
    };
    let mut best: Option<(usize, Schedule, Story)> = None;
    for accesses in 1..=LONGEST_FIRST_TURN {
        let first = format!("A{accesses}B1");
        let (schedule, story) = match run(&first) {
            Ok(told) => told,
            // B waits for something at this moment.
            Err(DoesNotFit::CannotMove { at: 2, .. }) => continue,
            Err(_) => break,
        };
        let second = turns(&schedule).get(1).map_or(1, |&(_, accesses)| accesses);
        let (schedule, story) = run(&format!("A{accesses}B{second}C1")).unwrap_or((schedule, story));
        let score = depth(&story);
        if best.as_ref().is_none_or(|(before, ..)| score >= *before) {
            best = Some((score, schedule, story));
        }
    }
    match best {
        Some((_, schedule, story)) => (schedule, story),
        None => run("").expect("an empty schedule fits"),
    }
}

/// A processor that has made more accesses than this has passed what a scenario is about.
const LONGEST_FIRST_TURN: u32 = 60;

/// How far the first processor is from the ends of what it does when the others go on: in steps that matter to others.
fn depth(story: &Story) -> usize {
    let away = story.steps.iter().position(|step| step.cpu != 0).unwrap_or(0);
    let (before, after) = story.steps.split_at(away);
    let counts =
        [before, after].map(|steps| steps.iter().filter(|step| step.cpu == 0 && step.contended).count());
    counts[0].min(counts[1])
}

/// The turns of a schedule.
fn turns(schedule: &Schedule) -> Vec<(char, u32)> {
    let text = schedule.to_string();
    let starts = text.match_indices(|c: char| c.is_ascii_uppercase()).map(|(at, _)| at);
    let ends = starts.clone().skip(1).chain([text.len()]);
    let turn = |(start, end): (usize, usize)| {
        Some((text[start..].chars().next()?, text[start + 1..end].parse().ok()?))
    };
    starts.zip(ends).filter_map(turn).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;

    use hugewalk::arch::{PUD_SIZE, X86_64};
    use hugewalk::file::HugeFile;

    use super::*;
    use crate::scenario;

    /// What is found, and in how many runs, does not depend on how a run comes to where it parts from the one before.
    #[test]
    fn runs_that_are_set_back_are_those_that_are_started_anew() {
        let options = Options { executions: 1_000, shortening: 1_000, ..Options::default() };
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

    /// Nor does what is found by chance.
    #[test]
    fn random_runs_that_are_set_back_are_those_that_are_started_anew() {
        let mut found = 0;
        for scenario in scenario::all() {
            for settings in [Settings::LEGACY, Settings::HUGEWALK] {
                let program = program(scenario, settings);
                for chance in [Chance::Plain, Chance::Pct { changes: 2 }] {
                    let anew = Explorer::new(&program).anew(MACHINE).sample(chance, 40, 3);
                    let back = Explorer::new(&program).rewinding(MACHINE).sample(chance, 40, 3);
                    let what = format!("{} under {}, {chance:?}", scenario.id, settings.name);
                    let told = |report: &Report| {
                        report.counterexample.as_ref().map(|found| {
                            let of = found.what.downcast_ref::<lab::Property>().copied();
                            (found.text.clone(), found.schedule.to_string(), of)
                        })
                    };
                    assert_eq!(told(&back), told(&anew), "{what}");
                    assert_eq!(
                        (back.executions, back.contended),
                        (anew.executions, anew.contended),
                        "{what}"
                    );
                    found += u32::from(anew.counterexample.is_some());
                }
            }
        }
        assert!(found > 20, "{found} things found only");
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

    /// Is the frame one of letting a reference go? What is called from there is what the last one brings with it.
    fn lets_go(frame: &backtrace::Frame) -> bool {
        thread_local! {
            static KNOWN: RefCell<HashMap<usize, bool>> = RefCell::default();
        }
        let look_up = || {
            let mut found = false;
            backtrace::resolve_frame(frame, |symbol| {
                let in_arc = symbol.filename().is_some_and(|file| file.ends_with("sync/arc.rs"));
                found |= in_arc && symbol.name().is_some_and(|name| name.to_string().contains("drop"));
            });
            found
        };
        KNOWN.with_borrow_mut(|known| *known.entry(frame.ip().addr()).or_insert_with(look_up))
    }

    thread_local! {
        static LET_GO: Cell<u32> = const { Cell::new(0) };
    }

    fn look() {
        let mut inside = false;
        backtrace::trace(|frame| {
            inside = lets_go(frame);
            !inside
        });
        LET_GO.set(LET_GO.get() + u32::from(inside));
    }

    /// Why reference counts need not be scheduling points (`lab/mod.rs`): no thread touches anything shared because it is the
    /// last to let go of something.
    #[test]
    fn nobody_who_drops_a_last_reference_touches_what_is_shared() {
        // A fork that is refused memory lets the child go that it had begun: nobody else has that, nor waits for its mappings,
        // which are private and have no locks.
        //
        // And the rows of S52 drop the last reference to a process, in an order that each says.
        for scenario in
            scenario::all().filter(|scenario| scenario.id != "S29/fork" && scenario.line() != "S52")
        {
            for settings in [Settings::LEGACY, Settings::VMA_LOCK, Settings::HUGEWALK] {
                LET_GO.set(0);
                Explorer::new(&program(scenario, settings)).look(6, look);
                assert_eq!(LET_GO.get(), 0, "{} under {}", scenario.id, settings.name);
            }
        }
        // It would be noticed.
        let drops = |setup: &mut Setup| {
            let mut bench = Bench::new(setup, Settings::HUGEWALK, &[]);
            let file = HugeFile::new(bench.hugetlb(), X86_64::SIZE_2M, None).expect("memory");
            file.truncate(bench.task(), PUD_SIZE).expect("aligned");
            let space = bench.process(&file, &[0]);
            bench.cpu("exit and close", move |task| {
                space.exit(task).expect("its own task");
                drop(file);
            });
            bench.finish();
        };
        Explorer::new(&drops).look(1, look);
        assert!(LET_GO.get() > 0, "the last reference to a file was let go, and nobody saw it");
    }
}
