//! What is said beside the report, on standard error: progress and notes. `--quiet` leaves it out.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget};

static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on nothing is said but errors.
pub(crate) fn keep_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

pub(crate) fn are_wanted() -> bool {
    !QUIET.load(Ordering::Relaxed)
}

/// A note of one line.
pub(crate) fn note(text: &std::fmt::Arguments<'_>) {
    if are_wanted() {
        complain(text);
    }
}

/// What went wrong, in one line. Where nobody can read it, the exit status still tells.
pub fn complain(text: &dyn Display) {
    let _ = writeln!(anstream::stderr().lock(), "hugewalk: {text}");
}

/// A progress bar, drawn on standard error if that is a terminal.
pub(crate) fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if !are_wanted() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}
