//! A run as a drawing: a column for each thread, a line for each step.

use std::fmt::Write as _;

use crate::explorer::{Note, Replayed};
use crate::thread::letter;

/// Columns are no narrower than this.
const NARROWEST: usize = 12;
/// What is longer goes below the drawing's width.
const WIDEST: usize = 34;

/// Draws what the threads did to what they race for.
pub(crate) fn draw(run: &Replayed) -> String {
    let mut objects = Vec::new();
    let lines: Vec<(usize, String, String)> =
        run.notes.iter().filter(|note| note.contended).map(|note| line(note, &mut objects)).collect();
    let head = |thread: usize| {
        let name = run.threads[thread].as_str();
        let letter = letter(thread).to_string();
        if name == letter { letter } else { format!("{letter} {name}") }
    };
    let width = |thread: usize| {
        let own =
            lines.iter().filter(|(whose, ..)| *whose == thread).map(|(_, text, _)| text.chars().count());
        own.chain([head(thread).chars().count(), NARROWEST]).max().unwrap_or(0).min(WIDEST)
    };
    let shown: Vec<(usize, usize)> = (0..run.threads.len())
        .filter(|&thread| lines.iter().any(|(whose, ..)| *whose == thread))
        .map(|thread| (thread, width(thread)))
        .collect();
    let mut out = String::new();
    for (thread, width) in &shown {
        let _ = write!(out, "  {:width$}", head(*thread));
    }
    let mut drawn = vec![out.trim_end().to_owned()];
    for (whose, text, place) in &lines {
        let mut out = String::new();
        for (thread, width) in &shown {
            let _ = write!(out, "  {:width$}", if thread == whose { text } else { "" });
        }
        let out = format!("{out}  {place}");
        drawn.push(out.trim_end().to_owned());
    }
    if let Some(wrong) = &run.counterexample {
        drawn.push(format!("  -> {}", wrong.text.lines().next().unwrap_or_default()));
    }
    let mut out = drawn.join("\n");
    out.push('\n');
    out
}

/// Whose it is, what was done, and where in the program.
fn line(note: &Note, objects: &mut Vec<usize>) -> (usize, String, String) {
    let text = match note.object {
        Some(object) if note.text.contains('#') => {
            let at = objects.iter().position(|&other| other == object).unwrap_or_else(|| {
                objects.push(object);
                objects.len() - 1
            });
            note.text.replacen('#', &format!("#{}", at + 1), 1)
        }
        _ => note.text.clone(),
    };
    let place = note.place.map(|place| format!("{}:{}", place.file(), place.line()));
    (note.thread, text, place.unwrap_or_default())
}
