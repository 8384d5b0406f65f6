//! `hugewalk conform --guest`: the kernel of `hugewalk run` as a third side.
//!
//! A static program carries the programs out as real processes in that kernel, many in one boot, with an engine of its own beside it, and
//! compares the two exactly. The same programs then run on the engine and on the running kernel, if that can be asked.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::Serialize;

use super::args::ConformArgs;
use crate::notes;
use crate::run::kernel_folder;

/// Programs in one boot.
const BATCH: u64 = 250;
/// Memory of the guest: as many huge pages as a program can ask for, and what the engine beside it takes.
const MEMORY: &str = "5G";

/// Why the guest cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The runner is built from its source.
    #[error("--guest builds a static program from a checkout of hugewalk, and this is none")]
    NoCheckout,
    /// It does not build.
    #[error("the guest's program cannot be built: {0}")]
    NotBuilt(String),
    /// A boot came to nothing.
    #[error("the guest did not end its programs: {0}")]
    NotEnded(String),
    /// A command cannot be started.
    #[error("{command}: {source}")]
    Command {
        /// Which.
        command: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// What the guest came to.
#[derive(Debug, Default, Serialize)]
pub(super) struct Guest {
    /// Programs that ran.
    pub(super) programs: u64,
    /// Steps that were carried out on both sides.
    pub(super) steps: u64,
    /// Programs in which the guest refused a write(2), as Linux does.
    pub(super) known: u64,
    pub(super) seconds: f64,
    /// What differs: a program each, with what was seen.
    pub(super) differs: Vec<String>,
}

impl Guest {
    /// Takes in what the runner says. False if it is a line that it does not say.
    fn take(&mut self, line: &str) -> bool {
        if line.starts_with(' ') {
            if let Some(last) = self.differs.last_mut() {
                *last = format!("{last}\n {line}");
            }
            return !self.differs.is_empty();
        }
        let mut words = line.split(' ');
        let (what, seed) = (words.next(), words.next());
        let Some(steps) = words.next().and_then(|steps| steps.parse::<u64>().ok()) else { return false };
        match (what, seed) {
            (Some("equal"), Some(_)) => {}
            (Some("known"), Some(_)) => self.known += 1,
            (Some("differs"), Some(seed)) => {
                self.differs.push(format!("hugewalk conform --guest --seed {seed} --programs 1"));
            }
            _ => return false,
        }
        self.programs += 1;
        self.steps += steps;
        true
    }

    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for program in &self.differs {
            writeln!(out, "{program}\n")?;
        }
        let verdict = match self.differs.len() {
            0 => "guest and engine agree".to_owned(),
            number => format!("guest and engine differ in {number} programs"),
        };
        let known = match self.known {
            0 => String::new(),
            number => format!("; {number} ended where the guest refused a write(2), as Linux does"),
        };
        writeln!(
            out,
            "In the guest: {} programs of {} steps in {:.0} s; {verdict}{known}.",
            self.programs, self.steps, self.seconds
        )
    }
}

/// Runs the programs in the guest.
pub(super) fn run(args: &ConformArgs, seed: u64) -> Result<Guest, GuestError> {
    let runner = build()?;
    let start = Instant::now();
    let mut guest = Guest::default();
    if let Some(program) = &args.replay {
        boot(&runner, &["--replay".to_owned(), program.clone()], 1, args.timeout, &mut guest)?;
    } else {
        let mut done = 0;
        let bar = notes::bar(args.programs);
        while done < args.programs && args.seconds.is_none_or(|limit| start.elapsed().as_secs_f64() < limit) {
            let count = BATCH.min(args.programs - done);
            let arguments = [seed.wrapping_add(done).to_string(), count.to_string()];
            boot(&runner, &arguments, count, args.timeout, &mut guest)?;
            done += count;
            bar.inc(count);
        }
        bar.finish_and_clear();
    }
    guest.seconds = start.elapsed().as_secs_f64();
    Ok(guest)
}

/// The static program, built as the checkout has it.
fn build() -> Result<PathBuf, GuestError> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let root = kernel_folder().map(|folder| folder.join("../..")).ok_or(GuestError::NoCheckout)?;
    let target = root.join("target/guest");
    let output = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--package", "hugewalk-conform", "--example", "guest"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .current_dir(&root)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| GuestError::Command { command: "cargo", source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().find(|line| line.starts_with("error")).unwrap_or("see what cargo says");
        return Err(GuestError::NotBuilt(first.to_owned()));
    }
    Ok(target.join(TARGET).join("release/examples/guest"))
}

/// One boot.
fn boot(
    runner: &PathBuf,
    arguments: &[String],
    programs: u64,
    each: u64,
    guest: &mut Guest,
) -> Result<(), GuestError> {
    let started = |source| GuestError::Command { command: "hugewalk run", source };
    let own = env::current_exe().map_err(started)?;
    let timeout = (60 + programs * 10.max(each / 10)).to_string();
    let output = Command::new(own)
        .args([
            "run",
            "--cpus",
            "2",
            "--pool",
            "0",
            "--memory",
            MEMORY,
            "--report",
            "none",
            "--timeout",
            &timeout,
        ])
        .arg(runner)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(started)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let before = guest.programs;
    for line in said.lines() {
        if !guest.take(line) {
            return Err(GuestError::NotEnded(line.to_owned()));
        }
    }
    let whole = matches!(output.status.code(), Some(0 | 1)) && guest.programs - before == programs;
    if whole {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let why = complaint.lines().find(|line| !line.is_empty()).unwrap_or("it said nothing");
    Err(GuestError::NotEnded(format!("{} of {programs} were run; {why}", guest.programs - before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runner_says_is_counted_and_nothing_else_is_taken() {
        let mut guest = Guest::default();
        for line in [
            "equal 7 12",
            "known 8 3 write",
            "differs 9 5",
            " outcome: EINVAL in the guest, done on the engine",
        ] {
            assert!(guest.take(line), "{line}");
        }
        assert_eq!((guest.programs, guest.steps, guest.known, guest.differs.len()), (3, 20, 1, 1));
        assert!(guest.differs[0].ends_with("on the engine"));
        for line in ["", "stopped no memory", "equal", "equal 7", "equal 7 x"] {
            assert!(!Guest::default().take(line), "{line}");
        }
        let mut text = Vec::new();
        guest.text(&mut text).expect("written");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("3 programs of 20 steps") && text.contains("differ in 1 programs"), "{text}");
    }
}
