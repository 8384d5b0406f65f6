//! `hugewalk check`: runs the engine under every interleaving of a scenario, by each locking protocol there has been, and
//! says which of them race.

pub mod args;
mod campaign;
pub mod error;
mod glossary;
pub mod html;
pub mod interrupt;
mod keeper;
pub mod outcome;
mod plan;
mod select;
mod text;
mod width;
mod work;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hugewalk_lab::explore::Schedule;
use hugewalk_lab::replay;
use hugewalk_lab::story::Story;
use indicatif::{ProgressBar, ProgressStyle};

pub use self::error::CheckError;

use self::args::{CheckAction, CheckArgs, MergeArgs};
use self::campaign::Campaign;
use self::keeper::Keeper;
use self::outcome::{Document, Effort, Kind, Names, Options, Outcome, SCHEMA, ScenarioLine, Verdict};
use self::plan::{Shard, Unit, units};
use self::select::{Case, Selection, select};
use self::work::News;
use crate::args::Format;

/// Checks as the command line says, and prints the report. Exit code 1 if a verdict is not the expected one.
///
/// # Errors
///
/// [`CheckError`] if there is something wrong with what was asked for.
pub fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<ExitCode, CheckError> {
    work::keep_quiet_about_panics_of_scenarios();
    if let Some(CheckAction::Merge(merge)) = &args.action {
        return joined(merge, out);
    }
    if args.list {
        let names = Names::all();
        match args.format {
            Format::Json => json(&names, out)?,
            Format::Text => text::list(&names, out)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let selection = select(args)?;
    if let Some(schedule) = &args.replay {
        return one_schedule(&selection, schedule, args.format, out);
    }
    // Better now than after minutes of work.
    args.html.as_deref().map_or(Ok(()), page_can_be_written)?;
    if let (Some(page), Some(checkpoint)) = (&args.html, &args.checkpoint) {
        are_two(page, "--html", checkpoint, "--checkpoint")?;
    }
    let shard = args.shard.as_deref().map_or(Ok(Shard::WHOLE), Shard::parse)?;
    let options = Options {
        scenarios: selection.scenarios.iter().map(|scenario| scenario.id.to_owned()).collect(),
        protocols: selection.protocols.iter().map(|settings| settings.name.to_owned()).collect(),
        without: selection.without.clone(),
        freed_at_once: args.freed_at_once,
        effort: Effort::from(&args.effort),
    };
    let jobs = jobs(args.effort.jobs);
    let units = units(&selection.cases, &options.effort);
    let mine: Vec<usize> = shard.of_units(units.len()).collect();
    let mut campaign = Campaign::new(options, shard, mine.len());
    let mut keeper = Keeper::open(args.checkpoint.as_deref(), &mut campaign, units.len(), jobs)?;
    let units = Arc::from(units);
    explore(&selection.cases, &units, &mine, jobs, &mut campaign, &mut keeper)?;
    campaign.spent = keeper.spent();
    let document = document(&selection, &units, &campaign, 1);
    report(&document, shard, args.format, args.html.as_deref(), out)
}

fn page_can_be_written(file: &Path) -> Result<(), CheckError> {
    html::file::try_at(file).map_err(|error| CheckError::Unwritable { file: file.to_owned(), error })
}

/// Two files of one command are not one.
fn are_two(file: &Path, one: &'static str, another: &Path, other: &'static str) -> Result<(), CheckError> {
    let at = |file: &Path| {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).canonicalize();
        let name = file.file_name().map(ToOwned::to_owned);
        file.canonicalize().ok().or_else(|| Some(directory.ok()?.join(name?)))
    };
    let is_file = file.metadata().map_or(true, |there| there.is_file());
    if is_file && at(file).is_some_and(|place| at(another) == Some(place)) {
        return Err(CheckError::SameFile { file: file.to_owned(), one, other });
    }
    Ok(())
}

fn jobs(wanted: Option<u32>) -> u32 {
    let processors = || std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    wanted.unwrap_or_else(processors)
}

/// Does what is not done yet.
fn explore(
    cases: &Arc<[Case]>,
    units: &Arc<[Unit]>,
    mine: &[usize],
    jobs: u32,
    campaign: &mut Campaign,
    keeper: &mut Keeper,
) -> Result<(), CheckError> {
    let left: Vec<usize> =
        mine.iter().copied().filter(|number| !campaign.done.contains_key(number)).collect();
    let effort = campaign.options.effort;
    // Shown on a terminal only. Cases that are explored take a moment or a minute: of them nobody knows how long.
    let wait = if effort.is_by_chance() { ", {eta} left" } else { "" };
    let style =
        ProgressStyle::with_template(&format!("{{bar:30}} {{pos}}/{{len}} {{msg}} {{elapsed}}{wait}"));
    let bar = ProgressBar::new(mine.len() as u64).with_style(style.expect("a template"));
    bar.set_position((mine.len() - left.len()) as u64);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    let done = work::perform(units, left, cases, effort, jobs, |news| match news {
        News::Done(number, outcome) => {
            let case = &cases[units[number].case];
            bar.set_message(format!("{} under {}", case.scenario.id, case.settings.name));
            bar.inc(1);
            campaign.done.insert(number, outcome);
            keeper.advance(campaign)
        }
        News::Stop(signal) => Err(keeper.stop(campaign, signal)),
    });
    bar.finish_and_clear();
    done
}

/// Puts together what came of the units.
fn document(selection: &Selection, units: &[Unit], campaign: &Campaign, parts: u32) -> Document {
    let mut outcomes: Vec<Option<Outcome>> = selection.cases.iter().map(|_| None).collect();
    for (&number, outcome) in &campaign.done {
        let place = &mut outcomes[units[number].case];
        *place = Some(match place.take() {
            Some(before) => before.joined(outcome.clone()),
            None => outcome.clone(),
        });
    }
    let by_chance = campaign.options.effort.is_by_chance();
    let verdicts: Vec<Verdict> = selection
        .cases
        .iter()
        .zip(outcomes)
        // What belongs to another part of the campaign is not there.
        .filter(|(case, outcome)| outcome.is_some() || case.does_not_apply().is_some())
        .map(|(case, outcome)| verdict(case, outcome, by_chance))
        .collect();
    Document {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        options: campaign.options.clone(),
        scenarios: selection.scenarios.iter().map(|&scenario| ScenarioLine::from(scenario)).collect(),
        command: campaign.options.command(),
        not_met: verdicts.iter().filter(|verdict| verdict.is_known_and_not_met()).count(),
        unexpected: verdicts.iter().filter(|verdict| verdict.as_expected == Some(false)).count(),
        executions: campaign.done.values().map(|outcome| outcome.explored.executions).sum(),
        verdicts,
        milliseconds: campaign.spent.milliseconds,
        jobs: campaign.spent.jobs,
        parts,
    }
}

fn verdict(case: &Case, outcome: Option<Outcome>, by_chance: bool) -> Verdict {
    use hugewalk_lab::scenario::Expected;
    let expected = case.expected.map(|expected| match expected {
        Expected::Race => Kind::Race,
        Expected::Safe => Kind::Safe,
        Expected::DoesNotApply(_) => Kind::DoesNotApply,
    });
    let race = outcome.as_ref().and_then(|outcome| outcome.race.clone());
    let story = race.as_ref().and_then(|race| told(case, &race.schedule));
    let verdict = match (&outcome, &race) {
        (None, _) => Kind::DoesNotApply,
        (Some(_), Some(_)) => Kind::Race,
        // Random schedules that meet nothing show nothing: safe is what every interleaving has been explored of.
        (Some(_), None) if by_chance && expected != Some(Kind::Safe) => Kind::NotMet,
        (Some(_), None) => Kind::Safe,
    };
    Verdict {
        scenario: case.scenario.id,
        protocol: case.settings.name,
        left_out: case.left_out,
        verdict,
        expected,
        kind: race.as_ref().map(|race| race.kind),
        as_expected: expected.filter(|_| verdict != Kind::NotMet).map(|expected| expected == verdict),
        why: case.does_not_apply(),
        explored: outcome.map(|outcome| outcome.explored),
        race,
        story,
    }
}

fn told(case: &Case, schedule: &str) -> Option<Story> {
    replay(case.scenario, case.settings, &schedule.parse().ok()?).ok()
}

fn report(
    document: &Document,
    shard: Shard,
    format: Format,
    page: Option<&Path>,
    out: &mut dyn Write,
) -> Result<ExitCode, CheckError> {
    if let Some(file) = page {
        let unwritable = |error| CheckError::Unwritable { file: file.to_owned(), error };
        html::page(document).and_then(|text| html::file::write(file, &text)).map_err(unwritable)?;
    }
    match format {
        Format::Json => json(document, out)?,
        Format::Text => text::report(document, shard, out)?,
    }
    Ok(if document.unexpected == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn json(value: &impl serde::Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// `hugewalk check merge`
fn joined(args: &MergeArgs, out: &mut dyn Write) -> Result<ExitCode, CheckError> {
    args.html.as_deref().map_or(Ok(()), page_can_be_written)?;
    for (page, part) in args.html.iter().flat_map(|page| args.files.iter().map(move |part| (page, part))) {
        are_two(page, "--html", part, "a checkpoint to join")?;
    }
    let (campaign, parts) = campaign::merge(&args.files)?;
    let selection = Selection::of(&campaign.options)?;
    let units = units(&selection.cases, &campaign.options.effort);
    let document = document(&selection, &units, &campaign, parts);
    report(&document, Shard::WHOLE, args.format, args.html.as_deref(), out)
}

/// `hugewalk check SCENARIO --protocol NAME --replay SCHEDULE`
fn one_schedule(
    selection: &Selection,
    schedule: &str,
    format: Format,
    out: &mut dyn Write,
) -> Result<ExitCode, CheckError> {
    let [case] = &selection.cases[..] else {
        return Err(CheckError::ReplayOfMany);
    };
    if schedule.is_empty() {
        return Err(CheckError::EmptySchedule);
    }
    let parsed: Schedule =
        schedule.parse().map_err(|error| CheckError::NotASchedule { text: schedule.to_owned(), error })?;
    let story = replay(case.scenario, case.settings, &parsed).map_err(|error| CheckError::DoesNotFit {
        text: schedule.to_owned(),
        scenario: case.scenario.id,
        protocol: case.settings.name,
        error,
    })?;
    match format {
        Format::Json => json(&story, out)?,
        Format::Text => text::schedule(case.scenario, case.settings.name, &story, out)?,
    }
    Ok(ExitCode::SUCCESS)
}
