//! What a check has to say, as data. The JSON form is these structures as they are; `docs/check-schema.md` describes them,
//! and [`SCHEMA`] changes whenever a field is taken away or changes its meaning.

use hugewalk_lab::Fault;
use hugewalk_lab::Verdict as Found;
use hugewalk_lab::explore::Schedule;
use hugewalk_lab::lab::Settings;
use hugewalk_lab::story::Story;
use hugewalk_lab::{explore, scenario};
use serde::{Deserialize, Serialize};

use super::args::EXECUTIONS;
use super::campaign::Missing;
use super::error::CheckError;
use super::glossary;
use super::select::{fits, meant};

/// The name of the schema of [`Document`].
pub const SCHEMA: &str = "hugewalk-check/2";

/// The name of the schema of [`Names`].
pub const LIST_SCHEMA: &str = "hugewalk-check-list/1";

/// A whole report.
#[derive(Debug, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The version of the command.
    pub version: &'static str,
    /// What was asked for.
    pub options: Options,
    /// The command line that asks for the same.
    pub command: String,
    /// The scenarios, in the order of the matrix.
    pub scenarios: Vec<ScenarioLine>,
    /// A verdict for each scenario under each protocol: scenario by scenario.
    pub verdicts: Vec<Verdict>,
    /// How many verdicts are not the expected ones.
    pub unexpected: usize,
    /// How many races are known, and were not met by chance.
    pub not_met: usize,
    /// How many verdicts are incomplete.
    pub incomplete: usize,
    /// Runs of all cases together.
    pub executions: u64,
    /// Whether it is one schedule, run again.
    #[serde(skip)]
    pub replayed: bool,
    /// What all this took, in milliseconds. Of what was done in parts, or taken up again, all of it, as if one after the other.
    pub milliseconds: u64,
    /// The threads that worked; the most there were in any part.
    pub jobs: u32,
    /// In how many parts it was done.
    pub parts: u32,
    /// The parts that are not done, or not there; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl Document {
    /// The run of its verdict, if there is one verdict and it has a run.
    pub(super) fn only_story(&self) -> Option<(&Verdict, &Story)> {
        let mut found = self.verdicts.iter().filter(|verdict| verdict.verdict != Kind::DoesNotApply);
        match (found.next(), found.next()) {
            (Some(only), None) => only.story.as_ref().map(|story| (only, story)),
            _ => None,
        }
    }
}

/// What was asked for. Two checks with equal options explore the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Scenarios by name.
    pub scenarios: Vec<String>,
    /// Protocols by name; one of the caller's own as it was defined, `mine=rfc-ptl,+revalidate`.
    pub protocols: Vec<String>,
    /// Steps that were left out.
    pub without: Vec<String>,
    /// Steps that were added.
    #[serde(default)]
    pub with: Vec<String>,
    /// Whether tables were freed as soon as they were handed to RCU.
    pub freed_at_once: bool,
    /// The effort.
    pub effort: Effort,
}

impl Options {
    /// The protocols by the names that verdicts have.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.protocols.iter().map(|line| line.split_once('=').map_or(&**line, |(name, _)| name))
    }

    /// What `--protocol` is given for the protocol of this name.
    pub(super) fn line_of<'a>(&'a self, name: &'a str) -> &'a str {
        self.names().zip(&self.protocols).find(|&(known, _)| known == name).map_or(name, |(_, line)| line)
    }

    /// The command line that asks for it. What is the default is left out.
    pub(super) fn command(&self) -> String {
        let mut command = self.of_cases();
        let mut add = |name: &str, value: &str| command += &format!(" {name} {value}");
        match self.effort {
            Effort::Exhaustive { preemptions, unbounded, executions } => {
                if !unbounded {
                    add("--preemptions", &preemptions.to_string());
                }
                if executions != EXECUTIONS {
                    add("--executions", &executions.to_string());
                }
            }
            Effort::Random { runs, seed } => {
                add("--random", &runs.to_string());
                add("--seed", &seed.to_string());
            }
            Effort::Pct { runs, changes, seed } => {
                add("--pct", &runs.to_string());
                add("--changes", &changes.to_string());
                add("--seed", &seed.to_string());
            }
        }
        command
    }

    /// The command line that runs one schedule of it.
    pub(super) fn of_schedule(&self, schedule: &Schedule) -> String {
        format!("{} --replay {schedule}", self.of_cases())
    }

    fn of_cases(&self) -> String {
        let mut command = "hugewalk check".to_owned();
        if self.scenarios.len() < scenario::all().count() {
            self.scenarios.iter().for_each(|id| command += &format!(" {id}"));
        }
        if !self.protocols.iter().map(String::as_str).eq(Settings::ALL.iter().map(|settings| settings.name)) {
            self.protocols.iter().for_each(|name| command += &format!(" --protocol {name}"));
        }
        self.without.iter().for_each(|step| command += &format!(" --without {step}"));
        self.with.iter().for_each(|step| command += &format!(" --with {step}"));
        if self.freed_at_once {
            command += " --freed-at-once";
        }
        command
    }
}

/// How hard was looked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Effort {
    /// All schedules, within bounds.
    Exhaustive {
        /// Most preemptions of the bounded stages.
        preemptions: u32,
        /// Whether all schedules were explored when these found nothing.
        unbounded: bool,
        /// Most executions of each stage.
        executions: u64,
    },
    /// Schedules by plain chance.
    Random {
        /// Schedules of each case.
        runs: u64,
        /// What the dice start from.
        seed: u64,
    },
    /// Schedules by probabilistic concurrency testing.
    Pct {
        /// Schedules of each case.
        runs: u64,
        /// Changes of priority in each.
        changes: u32,
        /// What the dice start from.
        seed: u64,
    },
}

impl Effort {
    /// Are schedules thrown dice for?
    pub(super) fn is_by_chance(&self) -> bool {
        !matches!(self, Self::Exhaustive { .. })
    }

    /// Were not all schedules explored that it asks for?
    pub(super) fn is_left_short_by(&self, coverage: Coverage) -> bool {
        let Self::Exhaustive { preemptions, unbounded, .. } = *self else { return false };
        match coverage {
            Coverage::Everything | Coverage::UpToTheRace => false,
            Coverage::Preemptions(most) => unbounded || most < preemptions,
            Coverage::Some => true,
        }
    }
}

/// A scenario.
#[derive(Debug, Serialize)]
pub struct ScenarioLine {
    /// Its name.
    pub id: &'static str,
    /// What happens in it.
    pub what: &'static str,
    /// If it became a CVE: in which kernels it was real, and where it shows here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
}

impl From<&scenario::Scenario> for ScenarioLine {
    fn from(scenario: &scenario::Scenario) -> Self {
        Self { id: scenario.id, what: scenario.what, history: scenario::history(scenario.id) }
    }
}

/// Everything that has a name: `hugewalk check --list`.
#[derive(Debug, Serialize)]
pub struct Names {
    /// [`LIST_SCHEMA`].
    pub schema: &'static str,
    /// The version of the command.
    pub version: &'static str,
    /// The scenarios, in the order of the matrix.
    pub scenarios: Vec<ScenarioLine>,
    /// The protocols.
    pub protocols: Vec<NameLine>,
    /// The steps that `--without` takes.
    pub steps: Vec<NameLine>,
}

/// A protocol, or a step.
#[derive(Debug, Serialize)]
pub struct NameLine {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub what: String,
    /// The protocols that have the step; null of a protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<&'static str>>,
}

impl Names {
    /// What is named: scenarios, of a line all; protocols; steps. All there are, if nothing is.
    pub(super) fn named(names: &[String]) -> Result<Self, CheckError> {
        let mut all = Self::all();
        let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
        let of_line = |name: &str, id: &str| {
            fits(name, id)
                || scenario::named(id)
                    .is_some_and(|scenario| is(name.trim_end_matches("/*"), scenario.line()))
        };
        for name in names {
            let known = all.scenarios.iter().any(|line| of_line(name, line.id))
                || all.protocols.iter().chain(&all.steps).any(|line| fits(name, line.name));
            if !known {
                return Err(CheckError::UnknownScenario { name: name.clone(), hint: meant(name) });
            }
        }
        if !names.is_empty() {
            all.scenarios.retain(|line| names.iter().any(|name| of_line(name, line.id)));
            for lines in [&mut all.protocols, &mut all.steps] {
                lines.retain(|line| names.iter().any(|name| fits(name, line.name)));
            }
        }
        Ok(all)
    }

    /// All there are.
    fn all() -> Self {
        let protocol = |settings: Settings| NameLine {
            name: settings.name,
            what: glossary::protocol(&settings),
            protocols: None,
        };
        let step = |name| {
            let having = Settings::ALL.iter().filter(|settings| settings.has(name));
            let protocols = Some(having.map(|settings| settings.name).collect());
            NameLine { name, what: glossary::step(name).to_owned(), protocols }
        };
        Self {
            schema: LIST_SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            scenarios: scenario::all().map(ScenarioLine::from).collect(),
            protocols: Settings::ALL.into_iter().map(protocol).collect(),
            steps: Settings::steps().map(step).collect(),
        }
    }
}

/// What came of a case, or should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A schedule was found that goes wrong.
    Race,
    /// None was found, in all schedules that were asked for.
    Safe,
    /// None was found, and the limit on executions came before all schedules that were asked for had been explored.
    Incomplete,
    /// Random schedules met no race. That does not exclude one.
    NotMet,
    /// The scenario says nothing about the protocol.
    DoesNotApply,
}

/// A scenario under a protocol, and what came of it.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// The scenario.
    pub scenario: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// The step that was left out in this case; null if there was none besides those of the options.
    pub left_out: Option<&'static str>,
    /// What came of it.
    pub verdict: Kind,
    /// What sort of fault the race is; null if there is none.
    pub kind: Option<Fault>,
    /// What should; null if nobody has said, as for a protocol with a step left out.
    pub expected: Option<Kind>,
    /// Whether it did; null if nobody has said, or a race was only looked for by chance and not met.
    pub as_expected: Option<bool>,
    /// Why there was nothing to find out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// What was explored; null if nothing was.
    pub explored: Option<Explored>,
    /// The shortest schedule found that goes wrong.
    pub race: Option<Race>,
    /// What happens under that schedule.
    pub story: Option<Story>,
}

impl Verdict {
    /// Is a race known here that random schedules did not meet?
    pub(super) fn is_known_and_not_met(&self) -> bool {
        self.verdict == Kind::NotMet && self.expected == Some(Kind::Race)
    }
}

/// What was explored of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explored {
    /// How much of it.
    pub coverage: Coverage,
    /// Runs, those with nothing new left out.
    pub executions: u64,
    /// Runs that reduction gave up.
    pub asleep: u64,
    /// Objects that threads raced on.
    pub contended: usize,
    /// Time taken, in milliseconds.
    pub milliseconds: u64,
}

/// How much of a case was explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coverage {
    /// Every interleaving.
    Everything,
    /// Every interleaving with at most so many preemptions.
    Preemptions(u32),
    /// Some.
    Some,
    /// Up to the race that was found.
    UpToTheRace,
}

/// A schedule that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Race {
    /// What sort of fault it is.
    pub kind: Fault,
    /// What goes wrong.
    pub text: String,
    /// The schedule: `--replay` takes it.
    pub schedule: String,
    /// Turns that follow another one's.
    pub switches: u32,
    /// Accesses of all turns together.
    pub steps: u32,
    /// Whether there is none with fewer switches, nor one with as many and fewer steps.
    pub shortest: bool,
}

/// What came of a unit of work: a case, or a block of random runs of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) explored: Explored,
    pub(super) race: Option<Race>,
}

impl From<Found> for Outcome {
    fn from(found: Found) -> Self {
        let report = found.report;
        let coverage = match (&report.counterexample, report.coverage) {
            (Some(_), _) => Coverage::UpToTheRace,
            (None, explore::Coverage::Everything) => Coverage::Everything,
            (None, explore::Coverage::Preemptions(most)) => Coverage::Preemptions(most),
            (None, explore::Coverage::Some) => Coverage::Some,
        };
        let race = report.counterexample.map(|found| Race {
            kind: Fault::of(&found),
            text: found.text,
            schedule: found.schedule.to_string(),
            switches: found.schedule.switches(),
            steps: found.schedule.steps(),
            shortest: found.shortest,
        });
        let explored = Explored {
            coverage,
            executions: report.executions,
            asleep: report.asleep,
            contended: report.contended,
            milliseconds: u64::try_from(report.time.as_millis()).unwrap_or(u64::MAX),
        };
        Self { explored, race }
    }
}

impl Outcome {
    /// What two blocks of the same case come to.
    pub(super) fn joined(self, other: Self) -> Self {
        let (one, two) = (self.explored, other.explored);
        let race = [self.race, other.race].into_iter().flatten().min_by(|one, two| {
            (one.switches, one.steps, &one.schedule).cmp(&(two.switches, two.steps, &two.schedule))
        });
        let coverage = if race.is_some() { Coverage::UpToTheRace } else { Coverage::Some };
        let explored = Explored {
            coverage,
            executions: one.executions + two.executions,
            asleep: one.asleep + two.asleep,
            contended: one.contended.max(two.contended),
            milliseconds: one.milliseconds + two.milliseconds,
        };
        Self { explored, race }
    }
}
