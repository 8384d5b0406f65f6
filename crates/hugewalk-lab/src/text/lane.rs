//! The columns.

use std::fmt::Write as _;

use super::{Drawing, Style, paragraph, state};
use crate::fold::{Again, Row};
use crate::lab::trace::WOKEN;
use crate::lab::trace::call::lock;
use crate::story::{Cpu, Report, Source, StepKind, Story};

/// `CPU A (P2: walk)`
pub(super) fn title(cpu: &Cpu) -> String {
    match &cpu.process {
        Some(process) => format!("CPU {} ({process}: {})", cpu.letter, cpu.name),
        None => format!("CPU {} ({})", cpu.letter, cpu.name),
    }
}

/// The steps, each in its processor's column, with a line wherever another processor goes on; and what is waited for at the end.
pub(super) fn lanes(story: &Story, rows: &[Row<'_>], drawing: &Drawing) -> String {
    let mut out = String::new();
    let offset = drawing.offset(story.cpus.len());
    head(story, drawing, offset, &mut out);
    let mut printed: Vec<Vec<&str>> = story.cpus.iter().map(|_| Vec::new()).collect();
    let mut told = 0;
    for (number, Row { step, again, .. }) in rows.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| rows[before].step);
        if before.is_some_and(|before| before.cpu != step.cpu) {
            let now = before.map_or(0, |before| before.state);
            let line = state::changed(&story.states[told], &story.states[now], drawing.width);
            told = now;
            let _ = writeln!(out, "{}", drawing.styled(Style::Faint, &line));
        }
        let is_lock =
            matches!(step.kind, StepKind::Lock | StepKind::TryLock | StepKind::Unlock | StepKind::RcuLock);
        let calls = calls(&story.stacks[step.stack], &step.call, is_lock);
        let pad = deeper(&mut printed[step.cpu], calls, step.cpu * offset, &mut out);
        let wrong = story.goes_wrong(step);
        let text = format!("{:pad$}{}", "", step.call);
        line(&text, step.source.as_ref(), wrong, drawing, &mut out);
        if let Some(Again { steps, times }) = again {
            let what = if *steps == 1 { "the same".to_owned() } else { format!("the last {steps} steps") };
            let text = format!("... {what} {times} times more");
            let _ = writeln!(out, "{:pad$}{}", "", drawing.styled(Style::Faint, &text));
        }
    }
    for ((cpu, what), stack) in story.report.iter().flat_map(|found| found.waits.iter().zip(&found.waits_in))
    {
        let call = if what == WOKEN { "schedule()".to_owned() } else { lock(StepKind::Lock, what, false) };
        let pad = deeper(&mut printed[*cpu], calls(stack, &call, true), cpu * offset, &mut out);
        let what = if story.report.as_ref().is_some_and(Report::is_sleep) { "may sleep" } else { "waits" };
        line(&format!("{:pad$}{call}  // {what}", ""), stack.first(), false, drawing, &mut out);
    }
    out
}

/// The functions that were entered since the last line of the column. Returns where it goes on.
fn deeper<'s>(above: &mut Vec<&'s str>, calls: Vec<&'s str>, column: usize, out: &mut String) -> usize {
    let common = above.iter().zip(&calls).take_while(|(one, two)| one == two).count();
    for (depth, call) in calls.iter().enumerate().skip(common) {
        let _ = writeln!(out, "{:pad$}{call}()", "", pad = column + 2 * depth);
    }
    *above = calls;
    column + 2 * above.len()
}

fn head(story: &Story, drawing: &Drawing, offset: usize, out: &mut String) {
    let titles: Vec<String> = story.cpus.iter().map(title).collect();
    let fits = titles.iter().enumerate().all(|(number, title)| {
        let is_last = number + 1 == titles.len();
        if is_last { number * offset + title.len() <= drawing.width } else { title.len() < offset }
    });
    if fits {
        let mut names = String::new();
        let mut rules = String::new();
        for title in &titles {
            let _ = write!(names, "{title:offset$}");
            let _ = write!(rules, "{:offset$}", "-".repeat(title.len()));
        }
        let _ = writeln!(out, "{}\n{}", drawing.styled(Style::Bold, names.trim_end()), rules.trim_end());
        return;
    }
    for (number, title) in titles.iter().enumerate() {
        let _ = writeln!(out, "{:pad$}{}", "", drawing.styled(Style::Bold, title), pad = number * offset);
    }
    out.push('\n');
}

/// The functions of Linux that the step is in, outermost first, without the one that the step itself is.
fn calls<'s>(stack: &'s [Source], step: &str, is_lock: bool) -> Vec<&'s str> {
    let mut calls: Vec<&str> = stack.iter().rev().filter_map(|source| source.kernel).collect();
    calls.dedup();
    // A lock is one call here; what takes it is not worth a line.
    while is_lock
        && calls.last().is_some_and(|call| call.contains("lock") || step.starts_with(&format!("{call}(")))
    {
        calls.pop();
    }
    if calls.last().is_some_and(|call| step.starts_with(&format!("{call}("))) {
        calls.pop();
    }
    calls
}

/// A step, and at the right where our source has it.
fn line(text: &str, source: Option<&Source>, wrong: bool, drawing: &Drawing, out: &mut String) {
    let place = source.filter(|_| !drawing.plain).map(|source| {
        let file = source.file.rsplit("/src/").next().unwrap_or(&source.file);
        format!("{file}:{}", source.line)
    });
    let place = place.unwrap_or_default();
    let place_width = place.len();
    // What is wider than the drawing goes on below.
    let pad = text.len() - text.trim_start().len();
    let room = drawing.width.saturating_sub(pad + 4).max(20);
    let pieces =
        if text.len() > drawing.width { paragraph(text.trim(), room) } else { text.trim().to_owned() };
    let count = pieces.lines().count();
    for (number, piece) in pieces.lines().enumerate() {
        let pad = pad + if number > 0 { 4 } else { 0 };
        let shown = if wrong { drawing.styled(Style::Bold, piece) } else { piece.to_owned() };
        let gap = drawing.width.saturating_sub(pad + piece.len() + place.len());
        let place = drawing.styled(Style::Faint, &place);
        if number + 1 < count || place.is_empty() {
            let _ = writeln!(out, "{:pad$}{shown}", "");
        } else if gap >= 2 {
            let _ = writeln!(out, "{:pad$}{shown}{:gap$}{place}", "", "");
        } else {
            let right = drawing.width - place_width;
            let _ = writeln!(out, "{:pad$}{shown}\n{:right$}{place}", "", "");
        }
    }
    if wrong {
        let mark = "^".repeat(pieces.lines().next().map_or(0, str::len));
        let _ = writeln!(out, "{:pad$}{}", "", drawing.styled(Style::Bold, &mark));
    }
}
