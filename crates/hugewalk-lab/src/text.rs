//! A run as text: a column for each processor, time downwards, as commit messages of the kernel draw races.

use std::fmt::Write as _;

use crate::explore::Replayed;

/// Draws a run. Steps on what nobody races for are left out, but for the last.
#[must_use]
pub fn draw(run: &Replayed, width: usize) -> String {
    let mut out = String::new();
    let columns = run.threads.len().max(1);
    let indent = (width / columns / 2).clamp(4, 24);
    for (number, name) in run.threads.iter().enumerate() {
        let letter = char::from(b'A' + number as u8);
        let _ = writeln!(out, "{:pad$}CPU {letter}: {name}", "", pad = number * indent);
    }
    let (mut skipped, mut current) = (0, usize::MAX);
    for (at, note) in run.notes.iter().enumerate() {
        if !note.contended && at + 1 < run.notes.len() {
            skipped += 1;
            continue;
        }
        if note.thread != current {
            out.push('\n');
            current = note.thread;
        }
        let _ = writeln!(out, "{:pad$}{}", "", note.text, pad = note.thread * indent);
    }
    if let Some(found) = &run.counterexample {
        let bar = "=".repeat(width.min(66));
        let (switches, steps) = (found.schedule.switches(), found.schedule.steps());
        let _ = writeln!(
            out,
            "\n{bar}\nBUG: {}\n\nschedule {}: {switches} switches, {steps} steps",
            found.text, found.schedule
        );
        let _ = writeln!(out, "{skipped} steps on what nobody races for are not shown\n{bar}");
    }
    out
}
