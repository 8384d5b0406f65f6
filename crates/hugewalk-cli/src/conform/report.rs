//! The report of a run, for people and for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use comfy_table::{Table, presets};
use hugewalk_conform::c_program;
use hugewalk_conform::compare::Difference;
use hugewalk_conform::coverage::Coverage;
use hugewalk_conform::kernel::LeftBehind;
use hugewalk_conform::program::{FORMS, Program};
use hugewalk_conform::run::{Ran, Report};
use serde::Serialize;

use super::{CHANCE, NotTold, Run};

/// Names the form of the report for programs.
const SCHEMA: &str = "hugewalk-conform-1";

pub(super) fn text(run: &Run, out: &mut Vec<u8>) -> io::Result<()> {
    if let Some(LeftBehind { before, found, put_back }) = run.left_behind {
        let now = if put_back {
            format!("it has been put back to {before}")
        } else {
            format!("it was {before} before, somebody has set it since, and it stays as it is")
        };
        writeln!(out, "A run that was killed did not put the pool back. It had {found} pages; {now}.\n")?;
    }
    if let Some((program, report)) = &run.shown {
        listing(program, report, out)?;
    }
    if let Some(found) = &run.found {
        writeln!(out, "The sides do not agree.")?;
        if let Some(seed) = found.seed {
            writeln!(out, "The program was found with --seed {seed} --programs 1, and then made shorter.")?;
        }
        if let Some((_, report)) = &run.shown {
            writeln!(out, "\nThe same in C, for the kernel alone:\n\n{}", c_program::of_report(report))?;
        }
    } else if run.agrees() || !run.outdated.is_empty() {
        let (all, short) = (run.programs, run.without_memory());
        if short == 0 {
            writeln!(out, "The sides agree.")?;
        } else {
            writeln!(
                out,
                "The sides agree, but for {short} of {all} programs, of which nothing can be told: the kernel found no memory for a \
                 huge page in one piece."
            )?;
        }
    }
    not_again(run, out)?;
    for known in &run.outdated {
        writeln!(
            out,
            "{} is listed among the differences that are meant ({}), and is not there: hugewalk conform --replay '{}'",
            known.name, known.kernels, known.example
        )?;
    }
    if let Some(seed) = run.seed {
        let (programs, steps) = (run.programs as f64 / run.seconds, run.coverage.steps as f64 / run.seconds);
        writeln!(
            out,
            "\n{} programs from seed {seed} on, {} steps, in {:.1} s: {programs:.0} programs and {steps:.0} steps a second",
            run.programs, run.coverage.steps, run.seconds
        )?;
        coverage(&run.coverage, out)?;
    }
    Ok(())
}

/// What differed once. If that happens often, it is no chance.
fn not_again(run: &Run, out: &mut Vec<u8>) -> io::Result<()> {
    let programs: Vec<_> = run.not_again().collect();
    if programs.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "{} differed once, and not when it was run again: something else on this machine had a part in it.{}",
        match programs.len() {
            1 => "1 program".to_owned(),
            more => format!("{more} programs"),
        },
        if programs.len() > CHANCE { " That is too often for chance: the sides may not agree." } else { "" }
    )?;
    for NotTold { seed, difference, .. } in programs {
        writeln!(out, "  --seed {seed} --programs 1: {difference}")?;
    }
    Ok(())
}

/// The steps that a program can have.
pub(super) fn forms(out: &mut Vec<u8>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["step", "is"]);
    for form in FORMS {
        table.add_row([form.form, form.what]);
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    let more = "A program is one line of steps with semicolons between. p0 to p3 are processes, f0 to f2 files, m0 and m1 mounts. Lengths and \
                places are sums of 2g (GiB), 3p (huge pages of 2 MiB) and bytes; what stands in brackets may be left out. docs/conform.md says more.";
    write!(out, "\n{}", hugewalk_lab::text::paragraph(more, crate::width::columns()))
}

fn listing(program: &Program, report: &Report, out: &mut Vec<u8>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["step", "", "kernel", "engine", ""]);
    for (number, (step, ran)) in report.steps.iter().enumerate() {
        let number = if number < program.steps.len() { (number + 1).to_string() } else { "end".to_owned() };
        let last = match ran {
            Ran::Done { kernel, engine } => {
                let mark = if kernel == engine { "" } else { "differs" };
                [kernel.to_string(), engine.to_string(), mark.to_owned()]
            }
            Ran::Idle => ["-".to_owned(), "-".to_owned(), "meets nothing".to_owned()],
            Ran::Guarded(guard) => ["-".to_owned(), "-".to_owned(), format!("kept back: {}", guard.name())],
        };
        table.add_row([number, step.to_string()].into_iter().chain(last));
    }
    writeln!(out, "{table}\n")?;
    if !report.differences.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["after that", "kernel", "engine"]);
        for Difference { what, kernel, engine } in &report.differences {
            table.add_row([what, kernel, engine]);
        }
        writeln!(out, "{table}\n")?;
        match report.known {
            Some(known) => writeln!(out, "{}: {}\n", known.name, known.reason)?,
            None => writeln!(out, "hugewalk conform --replay '{program}'\n")?,
        }
    }
    Ok(())
}

fn coverage(coverage: &Coverage, out: &mut Vec<u8>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["operation", "outcomes seen on both sides"]);
    let list = |counts: &BTreeMap<&'static str, u64>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    for (operation, outcomes) in &coverage.both {
        table.add_row([(*operation).to_owned(), list(outcomes)]);
        for (flag, outcomes) in coverage.flags.get(operation).into_iter().flatten() {
            table.add_row([format!("  {flag}"), list(outcomes)]);
        }
    }
    writeln!(out, "\n{table}\n")?;
    writeln!(out, "Tables shared: {}, given up: {}", coverage.shared, coverage.unshared)?;
    if !coverage.guarded.is_empty() {
        writeln!(out, "Kept back: {}", list(&coverage.guarded))?;
    }
    if !coverage.known.is_empty() {
        writeln!(out, "Met and meant: {}", list(&coverage.known))?;
    }
    let (pairs, by_flag) = (coverage.pairs(), coverage.pairs_by_flag());
    writeln!(out, "{pairs} pairs of operation and outcome, {by_flag} of flag and outcome")
}

/// The report for programs.
#[derive(Serialize)]
pub(super) struct Json<'r> {
    schema: &'static str,
    equal: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    programs: u64,
    seconds: f64,
    programs_per_second: f64,
    steps_per_second: f64,
    coverage: &'r Coverage,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
    steps: Vec<StepJson>,
    differences: &'r [Difference],
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<&'static str>,
    /// What differs, for the kernel alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    c_program: Option<String>,
    outdated: Vec<&'static str>,
    /// Programs of which nothing can be told.
    unsure: Vec<UnsureJson<'r>>,
    /// What was there from a run that was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_behind: Option<LeftBehind>,
}

#[derive(Serialize)]
struct UnsureJson<'r> {
    seed: u64,
    why: &'static str,
    difference: &'r str,
}

#[derive(Serialize)]
struct StepJson {
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_back: Option<&'static str>,
}

pub(super) fn json<'r>(run: &'r Run) -> Json<'r> {
    let step = |(step, ran): &(hugewalk_conform::program::Step, Ran)| {
        let (kernel, engine, kept_back) = match ran {
            Ran::Done { kernel, engine } => (Some(kernel.to_string()), Some(engine.to_string()), None),
            Ran::Idle => (None, None, None),
            Ran::Guarded(guard) => (None, None, Some(guard.name())),
        };
        StepJson { step: step.to_string(), kernel, engine, kept_back }
    };
    let unsure = |program: &'r NotTold| UnsureJson {
        seed: program.seed,
        why: program.why.name(),
        difference: &program.difference,
    };
    let shown = run.shown.as_ref();
    Json {
        schema: SCHEMA,
        equal: run.agrees(),
        seed: run.seed,
        programs: run.programs,
        seconds: run.seconds,
        programs_per_second: run.programs as f64 / run.seconds,
        steps_per_second: run.coverage.steps as f64 / run.seconds,
        coverage: &run.coverage,
        program: shown.map(|(program, _)| program.to_string()),
        steps: shown.map(|(_, report)| report.steps.iter().map(step).collect()).unwrap_or_default(),
        known: shown.and_then(|(_, report)| report.known).map(|known| known.name),
        c_program: run.found.as_ref().and(shown).map(|(_, report)| c_program::of_report(report)),
        left_behind: run.left_behind,
        unsure: run.unsure.iter().map(unsure).collect(),
        outdated: run.outdated.iter().map(|known| known.name).collect(),
        differences: shown.map(|(_, report)| &*report.differences).unwrap_or_default(),
    }
}
