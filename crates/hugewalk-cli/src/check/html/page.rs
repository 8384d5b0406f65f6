//! What the page is told: the report, arranged as the page shows it.

use std::collections::BTreeMap;

use hugewalk_lab::Fault;
use hugewalk_lab::lab::Settings;
use hugewalk_lab::story::Story;
use serde::Serialize;

use super::snippet::{Snippet, snippets};
use crate::check::campaign::Missing;
use crate::check::glossary;
use crate::check::outcome::{self, Coverage, Document, Explored, Kind, Race};

/// The whole of it.
#[derive(Serialize)]
pub(super) struct Page<'d> {
    schema: &'static str,
    version: &'static str,
    unexpected: usize,
    not_met: usize,
    executions: u64,
    seconds: f64,
    /// When it was written: `2026-11-29 07:20 UTC`.
    date: String,
    /// The command line that asks for the same.
    command: &'d str,
    parts: u32,
    /// Whether it shows one schedule, run again.
    replayed: bool,
    /// Parts of the campaign that are not done.
    missing: &'d [Missing],
    /// The columns.
    protocols: Vec<Protocol<'d>>,
    rows: Vec<Row<'d>>,
    /// Steps of our protocol that were left out in turn.
    steps: Vec<Step<'d>>,
    /// The lines of our source that steps refer to: `file:line` and what is there.
    snippets: BTreeMap<String, Snippet>,
    /// The runs that verdicts refer to, each in an element of its own.
    #[serde(skip)]
    pub(super) stories: Vec<&'d Story>,
}

#[derive(Serialize)]
struct Protocol<'d> {
    name: &'d str,
    what: String,
}

/// A scenario. Those of the same line of the table of scenarios stand together.
#[derive(Serialize)]
struct Row<'d> {
    id: &'static str,
    line: &'static str,
    /// The walker in it, or the mistake that is made.
    variant: &'static str,
    what: &'static str,
    /// In which kernels it was real, and where it shows here.
    history: Option<&'d str>,
    verdicts: Vec<Verdict<'d>>,
}

#[derive(Serialize)]
struct Step<'d> {
    step: &'static str,
    /// What it is.
    what: &'static str,
    /// What has a race without it.
    races: Vec<Verdict<'d>>,
    /// Where random schedules have not met the race that there is without it.
    not_met: Vec<Verdict<'d>>,
    /// Has every interleaving of the others been explored?
    exhausted: bool,
}

#[derive(Serialize)]
struct Verdict<'d> {
    scenario: &'static str,
    protocol: &'static str,
    left_out: Option<&'static str>,
    verdict: Kind,
    /// What sort of fault the race is: a name of the data, and in words.
    kind: Option<Fault>,
    fault: Option<&'static str>,
    expected: Option<Kind>,
    as_expected: Option<bool>,
    why: Option<&'static str>,
    explored: Option<Explored>,
    race: Option<&'d Race>,
    /// The command that runs the race again.
    replay: Option<String>,
    /// The run: its place among the page's.
    story: Option<usize>,
}

impl<'d> Page<'d> {
    pub(super) fn of(document: &'d Document, date: String) -> Self {
        let mut stories = Vec::new();
        let mut verdicts: Vec<Option<Verdict<'d>>> =
            document.verdicts.iter().map(|each| Some(verdict(each, document, &mut stories))).collect();
        let mut taken = |wanted: &dyn Fn(&Verdict<'d>) -> bool| -> Vec<Verdict<'d>> {
            verdicts.iter_mut().filter_map(|each| each.take_if(|each| wanted(each))).collect()
        };
        let rows = document.scenarios.iter().map(|line| Row {
            id: line.id,
            line: line.id.split(['/', ':']).next().unwrap_or(line.id),
            variant: line.id.split_once(['/', ':']).map_or("", |(_, variant)| variant),
            what: line.what,
            history: line.history.as_deref(),
            verdicts: taken(&|each| each.scenario == line.id && each.left_out.is_none()),
        });
        let rows = rows.collect();
        let mut names: Vec<&'static str> = Vec::new();
        for step in document.verdicts.iter().filter_map(|each| each.left_out) {
            if !names.contains(&step) {
                names.push(step);
            }
        }
        let steps = names.into_iter().map(|step| {
            let all = taken(&|each| each.left_out == Some(step));
            let (races, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|each| each.race.is_some());
            let is_whole = |each: &Verdict<'_>| {
                each.explored.is_some_and(|explored| explored.coverage == Coverage::Everything)
            };
            let exhausted = rest.iter().all(is_whole);
            let not_met = rest.into_iter().filter(|each| each.verdict == Kind::NotMet).collect();
            Step { step, what: glossary::step(step), races, not_met, exhausted }
        });
        Self {
            schema: document.schema,
            version: document.version,
            unexpected: document.unexpected,
            not_met: document.not_met,
            date,
            command: &document.command,
            parts: document.parts,
            replayed: document.replayed,
            missing: &document.missing,
            executions: document.executions,
            seconds: document.milliseconds as f64 / 1000.0,
            protocols: document.options.protocols.iter().map(|line| protocol(line, document)).collect(),
            steps: steps.collect(),
            rows,
            snippets: snippets(&stories),
            stories,
        }
    }
}

fn verdict<'d>(
    verdict: &'d outcome::Verdict,
    document: &Document,
    stories: &mut Vec<&'d Story>,
) -> Verdict<'d> {
    let outcome::Verdict { scenario, protocol, left_out, expected, as_expected, why, explored, .. } =
        *verdict;
    let replay = verdict.race.as_ref().map(|race| {
        let steps = document.options.without.iter().map(String::as_str).chain(left_out);
        let more = document.options.with.iter().map(|step| format!(" --with {step}"));
        let changes: String = steps.map(|step| format!(" --without {step}")).chain(more).collect();
        let line = document.options.line_of(protocol);
        let at_once = if document.options.freed_at_once { " --freed-at-once" } else { "" };
        format!("hugewalk check {scenario} --protocol {line}{changes}{at_once} --replay {}", race.schedule)
    });
    let story = verdict.story.as_ref().map(|story| {
        stories.push(story);
        stories.len() - 1
    });
    Verdict {
        scenario,
        protocol,
        left_out,
        verdict: verdict.verdict,
        kind: verdict.kind,
        fault: verdict.kind.map(Fault::name),
        expected,
        as_expected,
        why,
        explored,
        race: verdict.race.as_ref(),
        replay,
        story,
    }
}

/// A protocol in a sentence.
fn protocol<'d>(line: &'d str, document: &Document) -> Protocol<'d> {
    let name = line.split_once('=').map_or(line, |(name, _)| name);
    let (settings, own) = match Settings::named(line) {
        Some(settings) => (Some(settings), String::new()),
        None => (Settings::define(line).ok(), format!("{line}: ")),
    };
    let Some(settings) = settings else {
        return Protocol { name, what: String::new() };
    };
    let mut what = own + &glossary::protocol(&settings) + ".";
    for step in &document.options.without {
        what += &format!(" Without {step}.");
    }
    for step in &document.options.with {
        what += &format!(" With {step}.");
    }
    if document.options.freed_at_once {
        what += " On a machine that frees tables as soon as they are handed to RCU.";
    }
    Protocol { name, what }
}
