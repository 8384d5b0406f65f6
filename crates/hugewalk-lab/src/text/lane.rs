//! The columns.

use std::fmt::Write as _;

use super::{Drawing, Style, goes_wrong, state};
use crate::story::{Cpu, Source, Step, StepKind, Story};

/// `A (P2: walk)`
pub(super) fn title(cpu: &Cpu) -> String {
    match &cpu.process {
        Some(process) => format!("CPU {} ({process}: {})", cpu.letter, cpu.name),
        None => format!("CPU {} ({})", cpu.letter, cpu.name),
    }
}

/// The steps, each in its processor's column, with a line wherever another processor goes on.
pub(super) fn lanes(story: &Story, steps: &[&Step], drawing: &Drawing) -> String {
    let mut out = String::new();
    let offset = drawing.offset(story.cpus.len());
    head(story, drawing, offset, &mut out);
    let mut printed: Vec<Vec<&str>> = story.cpus.iter().map(|_| Vec::new()).collect();
    let mut told = 0;
    for (number, step) in steps.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| steps[before]);
        if before.is_some_and(|before| before.cpu != step.cpu) {
            let now = before.map_or(0, |before| before.state);
            let line = state::changed(&story.states[told], &story.states[now], drawing.width);
            told = now;
            let _ = writeln!(out, "{}", drawing.styled(Style::Faint, &line));
        }
        let calls = calls(&story.stacks[step.stack], step);
        let above = &mut printed[step.cpu];
        let common = above.iter().zip(&calls).take_while(|(one, two)| one == two).count();
        for (depth, call) in calls.iter().enumerate().skip(common) {
            let _ = writeln!(out, "{:pad$}{call}()", "", pad = step.cpu * offset + 2 * depth);
        }
        let wrong = goes_wrong(story, step);
        let text = format!("{:pad$}{}", "", step.call, pad = step.cpu * offset + 2 * calls.len());
        *above = calls;
        line(&text, step, wrong, drawing, &mut out);
    }
    out
}

fn head(story: &Story, drawing: &Drawing, offset: usize, out: &mut String) {
    let titles: Vec<String> = story.cpus.iter().map(title).collect();
    let fits = titles.iter().all(|title| title.len() < offset || titles.len() == 1);
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
fn calls<'s>(stack: &'s [Source], step: &Step) -> Vec<&'s str> {
    let mut calls: Vec<&str> = stack.iter().rev().filter_map(|source| source.kernel).collect();
    calls.dedup();
    // A lock is one call here; what takes it is not worth a line.
    let is_lock =
        matches!(step.kind, StepKind::Lock | StepKind::TryLock | StepKind::Unlock | StepKind::RcuLock);
    while is_lock
        && calls
            .last()
            .is_some_and(|call| call.contains("lock") || step.call.starts_with(&format!("{call}(")))
    {
        calls.pop();
    }
    if calls.last().is_some_and(|call| step.call.starts_with(&format!("{call}("))) {
        calls.pop();
    }
    calls
}

/// A step, and at the right where our source has it.
fn line(text: &str, step: &Step, wrong: bool, drawing: &Drawing, out: &mut String) {
    let place = step.source.as_ref().map(|source| {
        let file = source.file.rsplit("/src/").next().unwrap_or(&source.file);
        format!("{file}:{}", source.line)
    });
    let place = place.unwrap_or_default();
    let shown = if wrong { drawing.styled(Style::Bold, text) } else { text.to_owned() };
    let gap = drawing.width.saturating_sub(text.chars().count() + place.len());
    if gap >= 2 {
        let _ = writeln!(out, "{shown}{:gap$}{}", "", drawing.styled(Style::Faint, &place));
    } else {
        let _ = writeln!(
            out,
            "{shown}\n{:pad$}{}",
            "",
            drawing.styled(Style::Faint, &place),
            pad = drawing.width - place.len()
        );
    }
    if wrong {
        let pad = text.len() - text.trim_start().len();
        let mark = "^".repeat(text.trim().len());
        let _ = writeln!(out, "{:pad$}{}", "", drawing.styled(Style::Bold, &mark));
    }
}
