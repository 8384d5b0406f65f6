//! A run as text: a column for each processor, time downwards, as commit messages of the kernel draw races; below it a
//! report in the manner of KASAN.

mod lane;
mod report;
mod state;

use std::fmt::Write as _;

use crate::fold::fold;
use crate::story::{Step, StepKind, Story};

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// Columns of the terminal, or of the message that it goes into.
    pub width: usize,
    /// Every step, also those on what nobody races for.
    pub all: bool,
    /// With escape sequences for bold and faint letters. Nothing is told by them alone.
    pub colour: bool,
    /// For a commit message: names of the kernel alone, without the lines of our source, and a sentence for a report.
    pub plain: bool,
}

impl Drawing {
    /// As a commit message has it.
    pub const DIAGRAM: Self = Self { width: 72, all: false, colour: false, plain: true };
}

impl Default for Drawing {
    fn default() -> Self {
        Self { width: 100, all: false, colour: false, plain: false }
    }
}

/// Letters that stand out, or stand back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Bold,
    Faint,
}

impl Drawing {
    fn styled(&self, style: Style, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = if style == Style::Bold { 1 } else { 2 };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Columns from one processor's to the next one's.
    fn offset(&self, cpus: usize) -> usize {
        match cpus {
            0 | 1 => 0,
            // The last one needs room for its steps, and for where they are in the source.
            more => {
                let last = if self.plain { 44 } else { 54 };
                (self.width.saturating_sub(last) / (more - 1)).clamp(4, 40)
            }
        }
    }
}

/// Draws a run.
#[must_use]
pub fn draw(story: &Story, drawing: &Drawing) -> String {
    let mut out = String::new();
    if let Some(start) = story.states.first() {
        let _ = writeln!(out, "{}\n", drawing.styled(Style::Faint, &state::at_first(start, drawing.width)));
    }
    let is_ours = |step: &Step| drawing.plain && step.object.ends_with(".generation");
    let shown = story.steps.iter().filter(|step| drawing.all || is_shown(story, step) && !is_ours(step));
    let shown: Vec<&Step> = shown.collect();
    let shown = if drawing.all { shown } else { without_repetitions(story, &shown) };
    out += &lane::lanes(story, &fold(story, &shown), drawing);
    let accesses = |steps: &[&Step]| steps.iter().map(|step| step.count).sum::<u32>();
    let left_out = accesses(&story.steps.iter().collect::<Vec<_>>()) - accesses(&shown);
    if left_out > 0 && !drawing.plain {
        let text = match left_out {
            1 => "(1 step on uncontended data hidden; --replay shows it)".to_owned(),
            _ => format!("({left_out} steps on uncontended data hidden; --replay shows them)"),
        };
        let _ = writeln!(out, "\n{}", drawing.styled(Style::Faint, &text));
    }
    if let Some(found) = story.report.as_ref().filter(|_| drawing.plain) {
        let _ =
            writeln!(out, "\n{}", paragraph(&format!("{}: {}", found.property, found.what), drawing.width));
    } else if let Some(found) = &story.report {
        let _ = write!(out, "\n{}", report::report(story, found, drawing));
    }
    out
}

/// A sentence on as many lines as it takes, broken between words.
#[must_use]
pub fn paragraph(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                *line += &format!(" {word}");
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// Does a reader need the step to understand what goes wrong?
fn is_shown(story: &Story, step: &Step) -> bool {
    if story.goes_wrong(step) {
        return true;
    }
    let about =
        |name: &str| story.states.iter().any(|state| state.tables.iter().any(|table| table.name == name));
    match step.kind {
        // Of the tables above, and of the lists of the engine, only who uses them knows.
        StepKind::Free | StepKind::CallRcu | StepKind::RcuLock | StepKind::RcuUnlock => {
            about(&step.object)
                || ["RCU", "interrupts off"].contains(&&*step.object)
                || step.object.starts_with("VMA")
        }
        StepKind::FreeLock => about(step.object.trim_start_matches("lock of ")),
        StepKind::Lock | StepKind::TryLock | StepKind::Unlock => match step.object.strip_prefix("lock of ") {
            Some(table) => about(table),
            None => {
                let is_large =
                    ["mmap", "VMA", "i_mmap", "fault"].iter().any(|start| step.object.starts_with(start));
                step.contended || step.kind == StepKind::Lock && is_large
            }
        },
        StepKind::Write => {
            step.contended || step.changes.iter().any(|change| change.starts_with(&step.object))
        }
        StepKind::Flush | StepKind::Broadcast => true,
        StepKind::Read | StepKind::Access | StepKind::Wait => step.contended,
    }
}

/// Who reads the same word twice in a row has read it once; and who takes all fault mutexes, one after the other, has taken
/// them.
fn without_repetitions<'s>(story: &Story, steps: &[&'s Step]) -> Vec<&'s Step> {
    let mut told: Vec<&Step> = Vec::new();
    for step in steps {
        let again = told.last().is_some_and(|last| {
            let reads = last.kind == StepKind::Read && step.kind == StepKind::Read;
            let locks = |step: &Step| step.kind == StepKind::Lock && !step.contended;
            (reads || locks(last) && locks(step) && last.stack == step.stack)
                && last.cpu == step.cpu
                && last.text == step.text
        });
        if again && story.goes_wrong(step) {
            told.pop();
        } else if again {
            continue;
        }
        told.push(step);
    }
    told
}
