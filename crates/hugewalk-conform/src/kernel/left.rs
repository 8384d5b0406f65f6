//! What the pool was before a run, in a file, for the case that all of the run is killed at once, the warden too.
//!
//! The file is there for as long as the pool is taken over, and says as well what size the run has given it last. A run that
//! finds one, from the same boot, puts the pool back first: whoever made it is not there any more, for there is one run at a
//! time. But not if the pool has another size by then: somebody has set it since, and shall keep it.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::pool::Saved;

/// Where it lies: this is gone after a reboot, as the pool's size is, on most systems.
pub(super) const PATH: &CStr = c"/run/hugewalk-conform";
/// What it is written to first, so that it is there as a whole or not at all.
const NEW_PATH: &str = "/run/hugewalk-conform.new";
/// Digits of a number, so that the last one can be written over.
const DIGITS: usize = 20;

/// What a run that was killed has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LeftBehind {
    /// The pool's size before that run.
    pub before: u64,
    /// The size it had when this run began.
    pub found: u64,
    /// It was put back. Not if it is none that the run had given it.
    pub put_back: bool,
}

/// The file of this run. Without a place for it there is only the warden.
pub(super) struct Kept(Option<(File, u64)>);

impl Kept {
    /// Has the size of the pool outlive the run.
    pub(super) fn new(saved: Saved) -> Self {
        Self(write(saved).ok())
    }

    /// The pool has this size now.
    pub(super) fn note(&self, size: u64) {
        if let Some((file, at)) = &self.0 {
            // Without it the next run leaves the pool alone, and says so.
            let _ = file.write_all_at(format!("{size:DIGITS$}").as_bytes(), *at);
        }
    }
}

fn write(Saved { size, overcommit }: Saved) -> io::Result<(File, u64)> {
    let mut file = File::create(NEW_PATH)?;
    let before = format!("{} {size} {overcommit} ", boot()?);
    writeln!(file, "{before}{size:DIGITS$}")?;
    fs::rename(NEW_PATH, path())?;
    Ok((file, before.len() as u64))
}

/// What the pool was before a run that was killed, and the size that it gave it last.
pub(super) fn found() -> Option<(Saved, u64)> {
    let text = fs::read_to_string(path()).ok()?;
    parse(&text, &boot().ok()?)
}

fn parse(text: &str, boot: &str) -> Option<(Saved, u64)> {
    let mut words = text.strip_suffix('\n')?.split_ascii_whitespace();
    words.next().filter(|of| *of == boot)?;
    let mut number = || words.next()?.parse().ok();
    let (saved, last) = (Saved { size: number()?, overcommit: number()? }, number()?);
    words.next().is_none().then_some((saved, last))
}

fn path() -> &'static Path {
    Path::new(PATH.to_str().unwrap_or_default())
}

/// A name of the time since the machine was started.
fn boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_whole_since_the_machine_was_started_counts() {
        let found = |text| parse(text, "a-1").map(|(saved, last)| (saved.size, saved.overcommit, last));
        assert_eq!(found("a-1 20 3      7\n"), Some((20, 3, 7)));
        for text in ["a-1 20 3 7", "b-2 20 3 7\n", "a-1 20 3\n", "a-1 20 3 4 5\n", "a-1 20 3 x\n", ""] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
