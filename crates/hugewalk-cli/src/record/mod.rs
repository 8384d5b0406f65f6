//! `hugewalk record`: runs strace and perf as they have to be run, and leaves one directory that `hugewalk replay` takes as it
//! is.
//!
//! The directory is made under another name and gets its own when it is whole.

pub mod args;
mod faulted;
mod figures;
mod prelude;
mod running;
mod state;
mod tools;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::vec::IntoIter;

use rustix::process::Signal;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

use crate::args::Format;
use crate::html::file::refused_in;
use crate::proc::{self, Mounted, ProcError, Root};
use crate::recording::{CALLS, FAULTS, MountBefore, PoolBefore, Recorded, SCHEMA, TRUTH};
use crate::trace::Time;
use args::RecordArgs;
use tools::{Faults, Perf};

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory is there already.
    #[error("{}: exists already; remove it, or name another with -o", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The directory cannot be made.
    #[error("{}: cannot be made: {source}; name another with -o", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The tools have no place for what they write meanwhile.
    #[error("{}: nothing can be written there meanwhile: {source}; name another directory with TMPDIR", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A tool is missing.
    #[error("{tool} is not there or does not run; install it (Debian: {})", if *tool == "perf" { "apt install linux-perf; or leave page faults out with --no-faults" } else { "apt install strace" })]
    NoTool {
        /// Which.
        tool: &'static str,
    },
    /// perf does not work.
    #[error("perf cannot record page faults: {said}; run as root, or leave them out with --no-faults")]
    Perf {
        /// What it says.
        said: String,
    },
    /// Something cannot be started.
    #[error("the recording cannot be started: {0}")]
    Start(#[source] io::Error),
    /// There is no such program.
    #[error("{program}: there is no such program in PATH; check the name")]
    NoProgram {
        /// What was asked for.
        program: String,
    },
    /// strace cannot join processes.
    #[error("strace cannot join the processes: {said}; run as root, and end other debuggers")]
    Attach {
        /// What it says.
        said: String,
    },
    /// There is no such process.
    #[error("there is no process {0}; hugewalk inspect lists those with huge pages")]
    NoProcess(u32),
    /// A process cannot be stopped.
    #[error(
        "process {pid} did not stop within 30 s, so its figures cannot be read; try again when it does not wait for a disk"
    )]
    DoesNotStop {
        /// Which.
        pid: u32,
    },
    /// What was recorded cannot be written.
    #[error("the recording cannot be written: {0}; is the disk full?")]
    Write(#[source] io::Error),
    /// `/proc` does not say.
    #[error(transparent)]
    Proc(#[from] ProcError),
}

/// What was recorded.
#[derive(Debug, Serialize)]
struct Summary {
    directory: String,
    seconds: f64,
    ended: String,
    calls: u64,
    /// Null without perf.
    faults: Option<u64>,
    truths: Vec<String>,
    notes: Vec<String>,
}

/// Records as the command line says.
///
/// # Errors
///
/// [`RecordError`]. Then no directory is left.
pub fn run(args: &RecordArgs, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let directory = args.output.clone().unwrap_or_else(|| default_name(args));
    if directory.symlink_metadata().is_ok() {
        return Err(RecordError::Exists { path: directory });
    }
    if let Some(program) = args.program.first() {
        find_program(program)?;
    }
    tools::find("strace")?;
    if !args.no_faults {
        tools::find("perf")?;
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unmade =
        |source| RecordError::Directory { path: directory.clone(), source: refused_in(parent, source) };
    // In the same file system, for the rename at the end; removed if it does not come to that.
    let making = tempfile::Builder::new().prefix(".hugewalk-record").tempdir_in(parent).map_err(unmade)?;
    let scratch = |source| {
        let path = std::env::temp_dir();
        RecordError::Scratch { source: refused_in(&path, source), path }
    };
    let tools = tempfile::tempdir().map_err(scratch)?;
    let root = Root::new(Path::new("/"))?;
    let recorded = before(args, &root)?;
    let mut session = Session { args, root, recorded, directory: making.path(), truths: 0 };
    let mut summary = if args.pid.is_empty() {
        session.record(tools.path())?
    } else {
        session.record_running(tools.path())?
    };
    session.recorded.save(making.path()).map_err(RecordError::Write)?;
    fs::set_permissions(making.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(RecordError::Write)?;
    fs::rename(making.path(), &directory).map_err(unmade)?;
    // Renamed: there is nothing to remove.
    let _ = making.keep();
    summary.directory = directory.display().to_string();
    print(&summary, args.format, out).map_err(RecordError::Write)
}

fn default_name(args: &RecordArgs) -> PathBuf {
    let program = args.program.first().and_then(|program| Path::new(program).file_name());
    let name = program.map(|name| name.to_string_lossy().into_owned());
    let pid = args.pid.first().map(u32::to_string);
    PathBuf::from(format!("{}.recording", name.or(pid).unwrap_or_default()))
}

/// strace would start, and say it too late.
fn find_program(program: &OsStr) -> Result<(), RecordError> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &Path| {
        fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = if program.as_encoded_bytes().contains(&b'/') {
        runs(Path::new(program))
    } else {
        std::env::split_paths(&path).any(|directory| runs(&directory.join(program)))
    };
    if found {
        Ok(())
    } else {
        Err(RecordError::NoProgram { program: program.to_string_lossy().into_owned() })
    }
}

/// What the machine is before the program begins.
fn before(args: &RecordArgs, root: &Root) -> Result<Recorded, RecordError> {
    let machine = root.machine()?;
    let mut notes = Vec::new();
    let pool = |pool: &proc::Pool| PoolBefore {
        huge_page_kb: pool.huge_page_kb,
        pages: pool.total.saturating_sub(pool.surplus),
        in_use: pool.total.saturating_sub(pool.unreserved),
    };
    let pools: Vec<_> = machine.pools.iter().map(pool).collect();
    let in_use: u64 = pools.iter().map(|pool| pool.in_use).sum();
    if in_use > 0 && args.pid.is_empty() {
        notes.push(format!(
            "{in_use} huge pages were in use or reserved before the program began: the pool's counters are others' too."
        ));
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = |mount: Mounted| MountBefore {
        directory: mount.directory,
        huge_page_kb: mount.page_kb.unwrap_or(machine.default_page_kb),
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Recorded {
        schema: SCHEMA.to_owned(),
        command: args.program.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        pids: args.pid.clone(),
        kernel: kernel.trim().to_owned(),
        default_page_kb: machine.default_page_kb,
        pools,
        hugetlbfs: proc::hugetlbfs(&mounts).into_iter().map(mount).collect(),
        faults: !args.no_faults,
        truths: Vec::new(),
        notes,
    })
}

/// A recording that is being made.
struct Session<'a> {
    args: &'a RecordArgs,
    root: Root,
    recorded: Recorded,
    directory: &'a Path,
    /// How often the kernel was asked.
    truths: u32,
}

/// Signals that this command takes note of.
struct Told {
    figures: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    /// A terminal sends them to a program that it runs, too.
    terminal: Arc<AtomicBool>,
}

impl Told {
    fn listen() -> io::Result<Self> {
        let told = Self { figures: Arc::default(), end: Arc::default(), terminal: Arc::default() };
        signal_hook::flag::register(SIGUSR1, Arc::clone(&told.figures))?;
        signal_hook::flag::register(SIGTERM, Arc::clone(&told.end))?;
        for signal in [SIGINT, SIGQUIT] {
            signal_hook::flag::register(signal, Arc::clone(&told.terminal))?;
        }
        Ok(told)
    }
}

impl Session<'_> {
    fn record(&mut self, scratch: &Path) -> Result<Summary, RecordError> {
        let told = Told::listen().map_err(RecordError::Start)?;
        let calls = self.directory.join(CALLS);
        let mut child = Started::new(tools::start_program(&self.args.program, &calls)?);
        let perf = match self.args.no_faults {
            true => None,
            false => Some(Perf::start(&[child.child().id()], scratch, proc::is_root())?),
        };
        self.note_what_perf_does_not_see();
        let begun = Instant::now();
        tools::go(child.child());
        let status = self.watch(child.child(), &told, begun)?;
        let seconds = begun.elapsed().as_secs_f64();
        let truth = figures::read(&self.root, &[], figures::now())?;
        self.keep(&truth, TRUTH)?;
        let faults = self.directory.join(FAULTS);
        let faults = perf.map(|perf| perf.finish(&faults, Time::default(), "")).transpose()?;
        self.note_losses(faults.as_ref());
        let text = fs::read(&calls).map_err(RecordError::Write)?;
        let calls = text.iter().filter(|&&byte| byte == b'\n').count();
        Ok(self.summary(seconds, format!("The program {}", tools::ended(status)), calls, faults.as_ref()))
    }

    fn summary(&self, seconds: f64, ended: String, calls: usize, faults: Option<&Faults>) -> Summary {
        Summary {
            directory: String::new(),
            seconds,
            ended,
            calls: u64::try_from(calls).unwrap_or(u64::MAX),
            faults: faults.map(|faults| faults.count),
            truths: self.recorded.truths.clone(),
            notes: self.recorded.notes.clone(),
        }
    }

    /// Waits for the program's end, and takes figures when it is time to.
    fn watch(
        &mut self,
        child: &mut Child,
        told: &Told,
        begun: Instant,
    ) -> Result<std::process::ExitStatus, RecordError> {
        let mut due = self.due();
        let mut ends = 0;
        loop {
            if let Some(status) = child.try_wait().map_err(RecordError::Start)? {
                let late = due.count();
                if late > 0 {
                    self.recorded.notes.push(format!(
                        "The program ended before {late} of the moments of --truth-at: there are no figures of them."
                    ));
                }
                return Ok(status);
            }
            let is_due = due.next_if(|due| begun.elapsed() >= *due).is_some();
            if told.figures.swap(false, Ordering::Relaxed) || is_due {
                self.figures(child.id())?;
            }
            if told.end.swap(false, Ordering::Relaxed) {
                // strace lets no signal end it: what it traces is told to end, and the second time has to.
                let signal = if ends == 0 { Signal::TERM } else { Signal::KILL };
                ends += 1;
                for pid in figures::traced_by(&self.root, child.id())? {
                    figures::signal(pid, signal);
                }
            }
            std::thread::sleep(tools::MOMENT);
        }
    }

    /// The moments of `--truth-at`, in order.
    fn due(&self) -> Peekable<IntoIter<Duration>> {
        let mut due: Vec<Duration> =
            self.args.truth_at.iter().map(|&seconds| Duration::from_secs_f64(seconds)).collect();
        due.sort_unstable();
        due.into_iter().peekable()
    }

    fn figures(&mut self, tracer: u32) -> Result<(), RecordError> {
        let Some(truth) = self.take(tracer)? else { return Ok(()) };
        self.truths += 1;
        let name = format!("truth-{}.json", self.truths);
        self.keep(&truth, &name)?;
        crate::notes::note(&format_args!("what the kernel says at {} is in {name}", truth.at));
        Ok(())
    }

    /// What the kernel says now; none, with a note, if a process does not stop for it. That is no reason to lose the recording.
    fn take(&mut self, tracer: u32) -> Result<Option<crate::report::truth::Truth>, RecordError> {
        match figures::take(&self.root, tracer) {
            Ok(truth) => Ok(Some(truth)),
            Err(RecordError::DoesNotStop { pid }) => {
                let moment = figures::now();
                let note = format!(
                    "There are no figures of {moment}: process {pid} did not stop, as one that waits for a disk."
                );
                crate::notes::note(&format_args!("{note}"));
                self.recorded.notes.push(note);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn keep(&mut self, truth: &crate::report::truth::Truth, name: &str) -> Result<(), RecordError> {
        figures::save(truth, &self.directory.join(name)).map_err(RecordError::Write)?;
        self.recorded.truths.push(name.to_owned());
        Ok(())
    }

    fn note_what_perf_does_not_see(&mut self) {
        let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
        let level = paranoid.trim().parse::<i32>().unwrap_or(0);
        if self.args.no_faults {
            self.recorded.notes.push(
                "Page faults were not recorded (--no-faults): only pages that calls populate are known to be present."
                    .to_owned(),
            );
        } else if level > 1 && !proc::is_root() {
            self.recorded.notes.push(format!(
                "perf may not see faults inside system calls (kernel.perf_event_paranoid is {level}): pages that only the \
                 kernel touched, as read(2) does, are missing. Record as root."
            ));
        }
    }

    fn note_losses(&mut self, faults: Option<&Faults>) {
        if let Some(lost) = faults.map(|faults| faults.lost).filter(|lost| *lost > 0) {
            self.recorded.notes.push(format!(
                "perf lost {lost} page faults for want of room: pages are missing. Record on a machine that is less busy."
            ));
        }
    }
}

/// strace, which does not outlive this command's failure.
struct Started(Option<Child>);

impl Started {
    fn new(child: Child) -> Self {
        Self(Some(child))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("kept until this is consumed")
    }

    /// It may outlive this.
    fn keep(mut self) -> Child {
        self.0.take().expect("kept until this is consumed")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        if matches!(child.try_wait(), Ok(None)) {
            // It may be a shell that still waits.
            tools::go(child);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn print(summary: &Summary, format: Format, out: &mut Vec<u8>) -> io::Result<()> {
    use io::Write;
    if matches!(format, Format::Json) {
        serde_json::to_writer_pretty(&mut *out, summary)?;
        return writeln!(out);
    }
    let faults = summary.faults.map_or("no page faults".to_owned(), |faults| format!("{faults} page faults"));
    writeln!(
        out,
        "{}: {} lines of strace, {faults}, in {:.1} s",
        summary.directory, summary.calls, summary.seconds
    )?;
    writeln!(out, "{}.", summary.ended)?;
    for note in &summary.notes {
        writeln!(out, "Note: {note}")?;
    }
    writeln!(out, "Next: hugewalk replay {}", summary.directory)?;
    for truth in summary.truths.iter().filter(|truth| *truth != TRUTH) {
        writeln!(out, "      hugewalk replay {0} --truth {0}/{truth}", summary.directory)?;
    }
    Ok(())
}
