//! `hugewalk check`: runs the engine under every interleaving of a scenario, by each locking protocol there has been, and
//! says which of them race.

pub mod args;
mod campaign;
pub mod error;
pub(crate) mod glossary;
pub mod html;
pub mod interrupt;
mod keeper;
mod markdown;
pub mod outcome;
mod plan;
mod select;
mod status;
mod svg;
mod text;
mod work;

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hugewalk_lab::explore::{Schedule, catch_crashes};
use hugewalk_lab::story::Story;
use hugewalk_lab::text::{Drawing, draw};
use hugewalk_lab::{replay, show};
use indicatif::{HumanDuration, ProgressState, ProgressStyle};

pub use self::error::CheckError;

use self::args::{CheckAction, CheckArgs, CheckFormat, MergeArgs, StatusArgs};
use self::campaign::{Campaign, Merged, Missing};
use self::keeper::Keeper;
use self::outcome::{Document, Effort, Kind, Names, Options, Outcome, Race, SCHEMA, ScenarioLine, Verdict};
use self::plan::{Shard, Unit, units};
use self::select::{Case, Selection, select};
use self::status::Status;
use self::work::News;
use crate::args::Format;
use crate::notes;
use crate::report::text::counted;

/// The exit code if parts of a campaign are not done, and nothing is wrong as far as they are.
const UNFINISHED: u8 = 3;

/// Checks as the command line says, and prints the report. Exit code 1 if a verdict is not the expected one, and else 3 if parts of
/// a campaign are missing.
///
/// # Errors
///
/// [`CheckError`] if there is something wrong with what was asked for.
pub fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<ExitCode, CheckError> {
    work::keep_quiet_about_panics_of_scenarios();
    catch_crashes();
    match &args.action {
        Some(CheckAction::Merge(merge)) => return joined(merge, out),
        Some(CheckAction::Status(status)) => return progress(status, out),
        None => {}
    }
    if args.list {
        let names = Names::named(&args.scenarios)?;
        match args.format {
            CheckFormat::Json => json(&names, out)?,
            _ => text::list(&names, out)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.diagram && args.format != CheckFormat::Text {
        return Err(CheckError::DiagramFormat);
    }
    work::say_if_there_are_no_line_tables();
    let selection = select(args)?;
    if args.show || args.replay.is_some() {
        return one_schedule(&selection, args, out);
    }
    // Better now than after minutes of work.
    args.html.as_deref().map_or(Ok(()), page_can_be_written)?;
    if let (Some(page), Some(checkpoint)) = (&args.html, &args.checkpoint) {
        are_two(page, "--html", checkpoint, "--checkpoint")?;
    }
    let shard = args.shard.as_deref().map_or(Ok(Shard::WHOLE), Shard::parse)?;
    let options = Options {
        scenarios: selection.scenarios.iter().map(|scenario| scenario.id.to_owned()).collect(),
        protocols: selection.defined.clone(),
        without: selection.without.clone(),
        with: selection.with.clone(),
        freed_at_once: args.freed_at_once,
        effort: Effort::from(&args.effort),
    };
    let jobs = jobs(args.effort.jobs);
    let units = units(&selection.cases, &options.effort);
    let mine: Vec<usize> = shard.of_units(units.len()).collect();
    let mut campaign = Campaign::new(options, shard, mine.len());
    let mut keeper = Keeper::open(args.checkpoint.as_deref(), &mut campaign, units.len(), jobs)?;
    if mine.is_empty() && args.format == CheckFormat::Text && args.html.is_none() {
        text::nothing_to_do(shard, units.len(), campaign.options.effort.is_by_chance(), out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let units = Arc::from(units);
    let explored = explore(&selection.cases, &units, &mine, jobs, args.fail_fast, &mut campaign, &mut keeper);
    // What is kept nowhere is at least told.
    if matches!(&explored, Err(CheckError::Interrupted { file: None, .. }))
        && args.format == CheckFormat::Text
    {
        campaign.spent = keeper.spent();
        let document = document(&selection, &units, &campaign, 1, Vec::new(), false);
        if !document.verdicts.is_empty() {
            text::report(&document, shard, io::stdout().is_terminal(), out)?;
        }
    }
    explored?;
    campaign.spent = keeper.spent();
    let tells_all = args.format == CheckFormat::Json || args.html.is_some();
    let document = document(&selection, &units, &campaign, 1, Vec::new(), tells_all);
    if args.diagram {
        let Some((_, story)) = document.only_story() else { return Err(CheckError::NoDiagram) };
        out.write_all(draw(story, &Drawing::DIAGRAM).as_bytes())?;
        return Ok(exit_code(&document));
    }
    report(&document, shard, args.format, args.html.as_deref(), out)
}

fn page_can_be_written(file: &Path) -> Result<(), CheckError> {
    if crate::html::file::is_standard(file) {
        return Ok(());
    }
    crate::html::file::try_at(file).map_err(|error| CheckError::Unwritable { file: file.to_owned(), error })
}

/// Two files of one command are not one.
fn are_two(file: &Path, one: &'static str, another: &Path, other: &'static str) -> Result<(), CheckError> {
    if crate::html::file::are_same(file, another) {
        return Err(CheckError::SameFile { file: file.to_owned(), one, other });
    }
    Ok(())
}

fn jobs(wanted: Option<u32>) -> u32 {
    let processors = || std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    wanted.unwrap_or_else(processors)
}

/// Does what is not done yet; with `fail_fast`, up to the first verdict that is not as expected.
fn explore(
    cases: &Arc<[Case]>,
    units: &Arc<[Unit]>,
    mine: &[usize],
    jobs: u32,
    fail_fast: bool,
    campaign: &mut Campaign,
    keeper: &mut Keeper,
) -> Result<(), CheckError> {
    let left: Vec<usize> =
        mine.iter().copied().filter(|number| !campaign.done.contains_key(number)).collect();
    let effort = campaign.options.effort;
    // Shown on a terminal only. Cases that are explored take a moment or a minute: of them nobody knows how long.
    let wait = if effort.is_by_chance() { "{left}" } else { "" };
    let style =
        ProgressStyle::with_template(&format!("{{bar:30}} {{pos}}/{{len}} {{msg}} {{elapsed}}{wait}"));
    let before = (campaign.done.len() as u64, Duration::from_millis(keeper.spent_before().milliseconds));
    let left_in_words = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let (done, all) = (state.pos(), state.len().unwrap_or(0));
        if let Some(left) = time_left(before, done, state.elapsed(), all) {
            let _ = write!(out, ", {} left", HumanDuration(left));
        }
    };
    let style = style.expect("a template").with_key("left", left_in_words);
    let bar = notes::bar(mine.len() as u64).with_style(style);
    let mut races = campaign.done.values().filter(|outcome| outcome.race.is_some()).count() as u64;
    bar.set_position((mine.len() - left.len()) as u64);
    bar.enable_steady_tick(Duration::from_millis(500));
    let done = work::perform(units, left, cases, effort, jobs, |news| match news {
        News::Done(number, outcome) => {
            let case = &cases[units[number].case];
            races += u64::from(outcome.race.is_some());
            let found = counted(races, "race", "races");
            bar.set_message(format!("{found}; {} under {}", case.scenario.id, case.settings.name));
            bar.inc(1);
            let stop = fail_fast && is_unexpected(case, &outcome, &effort);
            campaign.done.insert(number, outcome);
            keeper.advance(campaign)?;
            Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        }
        News::Stop(signal) => Err(keeper.stop(campaign, signal)),
    });
    bar.finish_and_clear();
    done
}

/// How long the rest takes, if units take as long as those that are done: `before` is how many others have done, in what time.
fn time_left(before: (u64, Duration), done: u64, elapsed: Duration, all: u64) -> Option<Duration> {
    let time = before.1 + elapsed;
    let of_each = time.as_secs_f64() / (done > 0).then_some(done)? as f64;
    // Little is known after a moment.
    let knows = done > before.0 || before.0 > 0;
    knows.then(|| Duration::from_secs_f64(of_each * all.saturating_sub(done) as f64))
}

/// Puts together what came of the units. With `tells_all` the run of each race is told; else only that of a race which is all there
/// is to report: to tell hundreds of runs takes time and memory, and a table shows none of them.
fn document(
    selection: &Selection,
    units: &[Unit],
    campaign: &Campaign,
    parts: u32,
    missing: Vec<Missing>,
    tells_all: bool,
) -> Document {
    let mut outcomes: Vec<Option<Outcome>> = selection.cases.iter().map(|_| None).collect();
    for (&number, outcome) in &campaign.done {
        let place = &mut outcomes[units[number].case];
        *place = Some(match place.take() {
            Some(before) => before.joined(outcome.clone()),
            None => outcome.clone(),
        });
    }
    let tells = tells_all || outcomes.iter().flatten().count() == 1;
    let verdicts: Vec<Verdict> = selection
        .cases
        .iter()
        .zip(outcomes)
        // What belongs to another part of the campaign is not there.
        .filter(|(case, outcome)| outcome.is_some() || case.does_not_apply().is_some())
        .map(|(case, outcome)| verdict(case, outcome, &campaign.options.effort, tells))
        .collect();
    Document {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        options: campaign.options.clone(),
        scenarios: selection.scenarios.iter().map(|&scenario| ScenarioLine::from(scenario)).collect(),
        command: campaign.options.command(),
        not_met: verdicts.iter().filter(|verdict| verdict.is_known_and_not_met()).count(),
        incomplete: verdicts.iter().filter(|verdict| verdict.verdict == Kind::Incomplete).count(),
        unexpected: verdicts.iter().filter(|verdict| verdict.as_expected == Some(false)).count(),
        executions: campaign.done.values().map(|outcome| outcome.explored.executions).sum(),
        replayed: false,
        verdicts,
        milliseconds: campaign.spent.milliseconds,
        jobs: campaign.spent.jobs,
        parts,
        missing,
    }
}

/// What was found of a case, and what was expected.
fn judged(case: &Case, outcome: Option<&Outcome>, effort: &Effort) -> (Kind, Option<Kind>) {
    use hugewalk_lab::scenario::Expected;
    let expected = case.expected.map(|expected| match expected {
        Expected::Race => Kind::Race,
        Expected::Safe => Kind::Safe,
        Expected::DoesNotApply(_) => Kind::DoesNotApply,
    });
    let verdict = match outcome {
        None => Kind::DoesNotApply,
        Some(outcome) if outcome.race.is_some() => Kind::Race,
        // Random schedules that meet nothing show nothing: safe is what every interleaving has been explored of.
        Some(_) if effort.is_by_chance() && expected != Some(Kind::Safe) => Kind::NotMet,
        Some(outcome) if effort.is_left_short_by(outcome.explored.coverage) => Kind::Incomplete,
        Some(_) => Kind::Safe,
    };
    (verdict, expected)
}

/// Does what was found differ from what was expected? If schedules by chance met nothing, nobody knows.
fn is_unexpected(case: &Case, outcome: &Outcome, effort: &Effort) -> bool {
    let (verdict, expected) = judged(case, Some(outcome), effort);
    verdict != Kind::NotMet && expected.is_some_and(|expected| expected != verdict)
}

fn verdict(case: &Case, outcome: Option<Outcome>, effort: &Effort, tells: bool) -> Verdict {
    let (verdict, expected) = judged(case, outcome.as_ref(), effort);
    let race = outcome.as_ref().and_then(|outcome| outcome.race.clone());
    let story = race.as_ref().filter(|_| tells).and_then(|race| told(case, &race.schedule));
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
    format: CheckFormat,
    page: Option<&Path>,
    out: &mut dyn Write,
) -> Result<ExitCode, CheckError> {
    if let Some(file) = page {
        let unwritable = |error| CheckError::Unwritable { file: file.to_owned(), error };
        let page = html::page(document).map_err(unwritable)?;
        if crate::html::file::is_standard(file) {
            out.write_all(page.as_bytes())?;
            return Ok(exit_code(document));
        }
        crate::html::file::write(file, &page).map_err(unwritable)?;
    }
    match format {
        CheckFormat::Json => json(document, out)?,
        CheckFormat::Text => text::report(document, shard, io::stdout().is_terminal(), out)?,
        CheckFormat::Md => markdown::report(document, out)?,
        CheckFormat::Svg => svg::report(document, out)?,
    }
    Ok(exit_code(document))
}

fn exit_code(document: &Document) -> ExitCode {
    match (document.unexpected, document.missing.is_empty()) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::from(UNFINISHED),
        (1.., _) => ExitCode::from(1),
    }
}

fn json(value: &impl serde::Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// `hugewalk check merge`
fn joined(args: &MergeArgs, out: &mut dyn Write) -> Result<ExitCode, CheckError> {
    work::say_if_there_are_no_line_tables();
    args.html.as_deref().map_or(Ok(()), page_can_be_written)?;
    for (page, part) in args.html.iter().flat_map(|page| args.files.iter().map(move |part| (page, part))) {
        are_two(page, "--html", part, "a checkpoint to join")?;
    }
    let Merged { campaign, parts, missing, .. } = campaign::merge(&args.files)?;
    let selection = Selection::of(&campaign.options)?;
    let units = units(&selection.cases, &campaign.options.effort);
    let tells_all = args.format == CheckFormat::Json || args.html.is_some();
    let document = document(&selection, &units, &campaign, parts, missing, tells_all);
    report(&document, Shard::WHOLE, args.format, args.html.as_deref(), out)
}

/// `hugewalk check status`
fn progress(args: &StatusArgs, out: &mut dyn Write) -> Result<ExitCode, CheckError> {
    let merged = campaign::merge(&args.files)?;
    let status = Status::of(&merged);
    match args.format {
        Format::Json => json(&status, out)?,
        Format::Text => status.print(out)?,
    }
    Ok(if merged.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(UNFINISHED) })
}

/// `hugewalk check SCENARIO --protocol NAME --replay SCHEDULE`, or `--show`
fn one_schedule(
    selection: &Selection,
    args: &CheckArgs,
    out: &mut dyn Write,
) -> Result<ExitCode, CheckError> {
    // A mistake is most often one of a single protocol, which need not be named.
    let applies: Vec<&Case> = selection.cases.iter().filter(|case| case.does_not_apply().is_none()).collect();
    let [case] = applies[..] else {
        return Err(if args.show { CheckError::ShowOfMany } else { CheckError::ReplayOfMany });
    };
    args.html.as_deref().map_or(Ok(()), page_can_be_written)?;
    let (parsed, story) = match &args.replay {
        Some(schedule) => replayed_by(case, schedule)?,
        None => show(case.scenario, case.settings),
    };
    let (scenario, protocol) = (case.scenario, case.settings.name);
    if args.html.as_deref().is_some_and(crate::html::file::is_standard) {
        let document = replayed(selection, case, args.freed_at_once, &parsed, story);
        out.write_all(html::page(&document)?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    match args.format {
        CheckFormat::Json => json(&story, out)?,
        CheckFormat::Md => markdown::run(scenario.id, protocol, scenario.what, &story, out)?,
        CheckFormat::Svg => svg::run(scenario.id, protocol, &story, out)?,
        CheckFormat::Text if args.diagram => out.write_all(draw(&story, &Drawing::DIAGRAM).as_bytes())?,
        CheckFormat::Text => {
            text::schedule(scenario, protocol, &story, args.show.then_some(&parsed), out)?;
        }
    }
    if let Some(file) = &args.html {
        let unwritable = |error| CheckError::Unwritable { file: file.clone(), error };
        let document = replayed(selection, case, args.freed_at_once, &parsed, story);
        html::page(&document).and_then(|text| crate::html::file::write(file, &text)).map_err(unwritable)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What happens under this schedule.
fn replayed_by(case: &Case, schedule: &str) -> Result<(Schedule, Story), CheckError> {
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
    Ok((parsed, story))
}

/// What the page shows of a single run.
fn replayed(
    selection: &Selection,
    case: &Case,
    freed_at_once: bool,
    schedule: &Schedule,
    story: Story,
) -> Document {
    let race = story.report.as_ref().map(|report| Race {
        kind: report.kind,
        text: format!("{}: {}", report.property, report.what),
        schedule: schedule.to_string(),
        switches: report.switches,
        steps: report.steps,
        shortest: false,
    });
    let options = Options {
        scenarios: vec![case.scenario.id.to_owned()],
        protocols: selection
            .defined
            .iter()
            .zip(&selection.protocols)
            .filter(|(_, settings)| settings.name == case.settings.name)
            .map(|(line, _)| line.clone())
            .collect(),
        without: selection.without.clone(),
        with: selection.with.clone(),
        freed_at_once,
        effort: Effort::Random { runs: 1, seed: 0 },
    };
    Document {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        command: options.of_schedule(schedule),
        scenarios: vec![ScenarioLine::from(case.scenario)],
        verdicts: vec![Verdict {
            scenario: case.scenario.id,
            protocol: case.settings.name,
            left_out: None,
            verdict: if race.is_some() { Kind::Race } else { Kind::NotMet },
            kind: race.as_ref().map(|race| race.kind),
            expected: None,
            as_expected: None,
            why: None,
            explored: None,
            race,
            story: Some(story),
        }],
        options,
        unexpected: 0,
        not_met: 0,
        incomplete: 0,
        executions: 1,
        replayed: true,
        milliseconds: 0,
        jobs: 1,
        parts: 1,
        missing: Vec::new(),
    }
}
