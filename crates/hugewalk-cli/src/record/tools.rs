//! The two tools that record: strace the calls, perf the page faults.
//!
//! The program waits, as a shell that has stopped itself, until perf counts its faults. perf runs in a process group of its
//! own, so that Ctrl-C at the terminal reaches the program and not perf: it counts until the last process has ended.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;

use super::RecordError;
use super::figures::signal;
use crate::trace::Time;
use crate::trace::calls::RECORDED;

/// How often to look whether something has happened.
pub(super) const MOMENT: Duration = Duration::from_millis(5);
/// How long a tool may take to begin.
const BEGINNING: Duration = Duration::from_secs(60);
/// What perf is to allow for what it has not written yet: 4 MiB for each processor. Only root may have so much.
const BUFFER: &str = "1024";

/// `strace` with what it is to record.
fn strace(calls: &Path) -> Command {
    let mut command = Command::new("strace");
    // A question mark passes over a name that this version of strace does not know.
    let names = RECORDED.iter().map(|name| format!("?{name}")).collect::<Vec<_>>().join(",");
    command.args(["-f", "-y", "-ttt", "-o"]).arg(calls).arg("-e").arg(format!("trace={names}"));
    command
}

/// Looks whether a tool is there.
///
/// # Errors
///
/// [`RecordError::NoTool`] if it is not.
pub(super) fn find(tool: &'static str) -> Result<(), RecordError> {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match found {
        Ok(status) if status.success() => Ok(()),
        _ => Err(RecordError::NoTool { tool }),
    }
}

/// Starts the program under strace. It stands still until [`go`].
///
/// # Errors
///
/// If it cannot be started.
pub(super) fn start_program(program: &[OsString], calls: &Path) -> Result<Child, RecordError> {
    let strace = strace(calls);
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh", "strace"]).args(strace.get_args()).arg("--");
    let mut child = shell.args(program).spawn().map_err(RecordError::Start)?;
    let begun = Instant::now();
    let stands = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    };
    while !stands(child.id()) {
        if child.try_wait().map_err(RecordError::Start)?.is_some() || begun.elapsed() > BEGINNING {
            let _ = child.kill();
            return Err(RecordError::Start(io::Error::other("the shell that starts it did not wait")));
        }
        thread::sleep(MOMENT);
    }
    Ok(child)
}

/// Lets a program that [`start_program`] started begin.
pub(super) fn go(program: &Child) {
    signal(program.id(), Signal::CONT);
}

/// Attaches strace to processes that run already.
///
/// # Errors
///
/// If strace cannot be started.
pub(super) fn attach(pids: &[u32], calls: &Path, log: &Path) -> Result<Child, RecordError> {
    let output = File::create(log).map_err(RecordError::Start)?;
    let mut command = strace(calls);
    for pid in pids {
        command.arg("-p").arg(pid.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).process_group(0);
    command.spawn().map_err(RecordError::Start)
}

/// Waits until `child` traces every thread of these processes.
///
/// # Errors
///
/// If it may not, or does not come to it.
pub(super) fn attached(child: &mut Child, pids: &[u32], log: &Path) -> Result<(), RecordError> {
    let (begun, strace) = (Instant::now(), child.id());
    let is_traced = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        line.is_none_or(|tracer| tracer.trim().parse() == Ok(strace))
    };
    let all = |pid: &u32| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default()).all(is_traced)
    };
    while !pids.iter().all(all) {
        let ended = child.try_wait().map_err(RecordError::Start)?.is_some();
        if ended || begun.elapsed() > BEGINNING {
            let text = fs::read_to_string(log).unwrap_or_default();
            let said = text.lines().next().map_or("it does not trace all threads", |line| line).to_owned();
            return Err(RecordError::Attach { said });
        }
        thread::sleep(MOMENT);
    }
    Ok(())
}

/// perf at work.
pub(super) struct Perf {
    child: Child,
    data: PathBuf,
    log: PathBuf,
}

/// What became of perf's recording.
pub(super) struct Faults {
    /// How many there are.
    pub(super) count: u64,
    /// How many perf had no room for.
    pub(super) lost: u64,
}

impl Perf {
    /// Counts the page faults of these processes and of all that they start. It counts when this returns.
    ///
    /// # Errors
    ///
    /// If perf may not, or does not begin.
    pub(super) fn start(pids: &[u32], directory: &Path, is_root: bool) -> Result<Self, RecordError> {
        let (data, log) = (directory.join("perf.data"), directory.join("perf.log"));
        let fifos = [directory.join("control"), directory.join("answer")];
        let mut open = Vec::new();
        for fifo in &fifos {
            mknodat(CWD, fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .map_err(|error| RecordError::Start(error.into()))?;
            // Both ends at once: neither waits for the other.
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(fifo);
            open.push(file.map_err(RecordError::Start)?);
        }
        let mut command = Command::new("perf");
        command.args([
            "record",
            "-q",
            "-k",
            "CLOCK_REALTIME",
            "-e",
            "page-faults",
            "-c",
            "1",
            "-d",
            "-D",
            "-1",
        ]);
        command.arg("--control").arg(format!("fifo:{},{}", fifos[0].display(), fifos[1].display()));
        if is_root {
            command.args(["-m", BUFFER]);
        }
        let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        command.arg("-o").arg(&data).args(["-p", &pids]);
        let output = File::create(&log).map_err(RecordError::Start)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).process_group(0);
        let mut perf = Self { child: command.spawn().map_err(RecordError::Start)?, data, log };
        open[0].write_all(b"enable\n").map_err(RecordError::Start)?;
        let (begun, mut answer) = (Instant::now(), [0; 16]);
        loop {
            match open[1].read(&mut answer) {
                Ok(length) if length > 0 => return Ok(perf),
                _ => {}
            }
            if perf.child.try_wait().map_err(RecordError::Start)?.is_some() || begun.elapsed() > BEGINNING {
                let _ = perf.child.kill();
                let _ = perf.child.wait();
                return Err(RecordError::Perf { said: perf.said() });
            }
            thread::sleep(MOMENT);
        }
    }

    /// What perf printed, in one line.
    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let said = lines.take(2).collect::<Vec<_>>().join(" ");
        if said.is_empty() { "it ended without a word".to_owned() } else { said }
    }

    /// Ends the recording, and writes the faults where [`crate::recording::FAULTS`] is to be: those since `from`, behind `before`.
    ///
    /// # Errors
    ///
    /// If perf cannot read what it has written, or there is no room for it.
    pub(super) fn finish(mut self, faults: &Path, from: Time, before: &str) -> Result<Faults, RecordError> {
        signal(self.child.id(), Signal::INT);
        self.child.wait().map_err(RecordError::Start)?;
        let mut command = Command::new("perf");
        command.arg("script").arg("-i").arg(&self.data).args(["--ns", "-F", "pid,tid,time,event,addr"]);
        command.arg("--show-lost-events").stdin(Stdio::null()).stdout(Stdio::piped());
        let log = File::create(&self.log).map_err(RecordError::Write)?;
        let mut script = command.stderr(log).spawn().map_err(RecordError::Start)?;
        let file = File::create(faults).map_err(RecordError::Write)?;
        let mut packed = GzEncoder::new(io::BufWriter::new(file), Compression::fast());
        packed.write_all(before.as_bytes()).map_err(RecordError::Write)?;
        let mut found = Faults { count: 0, lost: 0 };
        for line in BufReader::new(script.stdout.take().expect("piped")).lines() {
            let line = line.map_err(RecordError::Write)?;
            if let Some((_, lost)) = line.split_once("PERF_RECORD_LOST") {
                found.lost += lost.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(1);
            } else if line.contains("page-faults") && moment(&line, 1).is_none_or(|at| at >= from) {
                found.count += 1;
                writeln!(packed, "{line}").map_err(RecordError::Write)?;
            }
        }
        let mut file = packed.finish().map_err(RecordError::Write)?;
        file.flush().map_err(RecordError::Write)?;
        let status = script.wait().map_err(RecordError::Start)?;
        // It has nothing to say where nothing faulted.
        if status.success() || found.count == 0 && self.said().contains("zero-sized") {
            Ok(found)
        } else {
            Err(RecordError::Perf { said: self.said() })
        }
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        // Finished, or given up: no perf stays behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The time in the word of that number of a line.
pub(super) fn moment(line: &str, word: usize) -> Option<Time> {
    Time::parse(line.split_whitespace().nth(word)?.trim_end_matches(':'))
}

/// How a program ended, in words.
pub(super) fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => {
            format!("was ended by {}", signal_hook::low_level::signal_name(signal).unwrap_or("a signal"))
        }
        (None, None) => "ended".to_owned(),
    }
}
