//! A run as text: a column for each processor, time downwards, as commit messages of the kernel draw races.

use std::fmt::Write as _;

use crate::story::Story;

/// Draws a run. Steps on what nobody races for are left out, but for the last.
#[must_use]
pub fn draw(story: &Story, width: usize) -> String {
    let mut out = String::new();
    let columns = story.cpus.len().max(1);
    let indent = (width / columns / 2).clamp(4, 24);
    for (number, cpu) in story.cpus.iter().enumerate() {
        let _ = writeln!(out, "{:pad$}CPU {}: {}", "", cpu.letter, cpu.name, pad = number * indent);
    }
    let (mut skipped, mut current) = (0, usize::MAX);
    for (at, step) in story.steps.iter().enumerate() {
        if !step.contended && at + 1 < story.steps.len() {
            skipped += 1;
            continue;
        }
        if step.cpu != current {
            out.push('\n');
            current = step.cpu;
        }
        let _ = writeln!(out, "{:pad$}{}", "", step.text, pad = step.cpu * indent);
    }
    if let Some(report) = &story.report {
        let bar = "=".repeat(width.min(66));
        let _ = writeln!(
            out,
            "\n{bar}\nBUG: {}: {}\n\nschedule {}: {} switches, {} steps",
            report.title, report.what, report.schedule, report.switches, report.steps
        );
        let _ = writeln!(out, "{skipped} steps on what nobody races for are not shown\n{bar}");
    }
    out
}
