//! `hugewalk run`: an unmodified static Linux program in a kernel that embeds the engine.
//!
//! The program and its files go into an archive (`pack`), the kernel boots with it in QEMU (`qemu`), and says on a channel
//! of its own what became of the program (`wire`). `docs/kernel.md` has both tables.

pub mod arch;
mod archive;
pub mod args;
pub mod elf;
mod image;
mod pack;
mod protocol;
mod qemu;
mod report;
mod wire;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub use self::image::ImageError;
pub(crate) use self::image::folder as kernel_folder;
pub use self::pack::PackError;
pub use self::protocol::ProtocolError;
pub use self::qemu::QemuError;
pub use self::wire::Ended;

use self::args::{Accel, ReportFormat, RunArgs};
use self::protocol::Protocol;
use self::qemu::{Booted, Ending, Machine};

/// Why there is no exit status of the program's to pass on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The memory does not hold the pool.
    #[error(
        "--memory {memory}M does not hold a pool of {pool} pages of 2 MiB and 64M beside it; give at least {least}M"
    )]
    Memory {
        /// MiB that were asked for.
        memory: u64,
        /// Pages.
        pool: u64,
        /// MiB that are needed.
        least: u64,
    },
    /// The kernel cannot follow the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The guest cannot be filled.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// There is no kernel.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It cannot be booted.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// QEMU ended before the kernel said anything.
    #[error("QEMU ended before the kernel had started{0}")]
    NotBooted(String),
    /// The kernel does not do what was asked for.
    #[error("{0}")]
    Refused(String),
    /// The kernel is of another version.
    #[error("the kernel speaks version {0} of the report, this command version {ours}; build both from one checkout", ours = wire::VERSION)]
    Version(u32),
    /// The kernel said something that is not in the table.
    #[error("the kernel said `{0}`, which this command does not know; build both from one checkout")]
    Foreign(String),
    /// A fault in the kernel.
    #[error("the kernel failed: {what}{}", frames.iter().map(|frame| format!("\n  at {frame}")).collect::<String>())]
    Panic {
        /// What and where.
        what: String,
        /// Its backtrace, innermost first.
        frames: Vec<String>,
    },
    /// The kernel ended and did not say how.
    #[error(
        "the kernel ended without a word: a fault while it handled a fault, or a reset; boot it with `-d int,cpu_reset` to see why"
    )]
    Dumb,
    /// Something was not given back.
    #[error("the kernel leaks: {0}")]
    Leak(String),
    /// The program takes too long.
    #[error("{}: still running after {seconds} s; give it longer by --timeout, or see what it does by --trace", program.display())]
    TimeOut {
        /// Which.
        program: PathBuf,
        /// How long it had.
        seconds: f64,
    },
    /// This command was told to end; the signal's number.
    #[error("told to end by {}", report::signal_name(u8::try_from(*.0).unwrap_or(0)))]
    Interrupted(i32),
    /// The archive or the report cannot be written.
    #[error("cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl RunError {
    /// The status to exit with: 124 for a time-out, as `timeout` has it; 2 for a wrong command line; 125 for everything else.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Memory { .. } | Self::Protocol(_) => 2,
            Self::TimeOut { .. } => 124,
            Self::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            _ => 125,
        }
    }
}

const MIB: u64 = 1 << 20;

/// Beside the pool: the kernel, the archive, base pages and tables.
const BESIDE: u64 = 64 * MIB;

/// Runs the program and prints the report. The exit status is the program's, or 128 and the number of the signal that ended
/// it.
///
/// # Errors
///
/// [`RunError`], if there is none.
pub fn run(args: &RunArgs) -> Result<ExitCode, RunError> {
    let memory = memory(args)?;
    let protocol = Protocol::of(args)?;
    let archive = pack::pack(args, &protocol)?;
    let kernel = image::find(args.kernel.as_deref(), args.arch, &protocol)?;
    let mut file = tempfile::NamedTempFile::with_prefix("hugewalk-")?;
    file.write_all(&archive)?;
    file.flush()?;

    let machine = |accel| Machine {
        arch: args.arch,
        qemu: args.qemu.as_deref().unwrap_or(Path::new(args.arch.qemu())),
        accel,
        cpus: args.cpus,
        memory: memory + (archive.len() as u64).next_multiple_of(MIB),
        kernel: &kernel,
        archive: file.path(),
    };
    let timeout = Duration::from_secs_f64(args.timeout);
    let mut booted = qemu::boot(&machine(args.accel), timeout)?;
    if let Ending::Silent = booted.ending {
        crate::notes::note(&format_args!(
            "KVM does not carry this kernel here (no system call of the program's arrived); using tcg"
        ));
        booted = qemu::boot(&machine(Accel::Tcg), timeout)?;
    }
    let ended = outcome(args, &mut booted)?;

    let (heard, seconds) = (&booted.heard, booted.took.as_secs_f64());
    let report = match args.report {
        ReportFormat::Text => report::text(heard, ended, seconds, &protocol),
        ReportFormat::Json => report::json(heard, ended, seconds, &protocol).map_err(io::Error::from)? + "\n",
        ReportFormat::None => String::new(),
    };
    io::stderr().write_all(report.as_bytes())?;
    if !heard.leaks.is_empty() {
        return Err(RunError::Leak(heard.leaks.join("; ")));
    }
    Ok(match ended {
        Ended::Exit(status) => ExitCode::from(status),
        Ended::Signal(signal) => ExitCode::from(128_u8.saturating_add(signal)),
    })
}

fn memory(args: &RunArgs) -> Result<u64, RunError> {
    let pool = args.pool * 2 * MIB;
    let least = pool + BESIDE;
    match args.memory {
        Some(memory) if memory < least => {
            Err(RunError::Memory { memory: memory / MIB, pool: args.pool, least: least / MIB })
        }
        Some(memory) => Ok(memory),
        None => Ok((least + args.overcommit * 2 * MIB + BESIDE).max(1 << 30)),
    }
}

/// How the program ended, if the kernel lived to tell.
fn outcome(args: &RunArgs, booted: &mut Booted) -> Result<Ended, RunError> {
    let heard = &mut booted.heard;
    if let Some(text) = heard.refused.take() {
        return Err(RunError::Refused(text));
    }
    if let Some(what) = heard.panic.take() {
        return Err(RunError::Panic { what, frames: std::mem::take(&mut heard.frames) });
    }
    match booted.ending {
        Ending::TimeOut | Ending::Silent => {
            let program = PathBuf::from(&args.command[0]);
            return Err(RunError::TimeOut { program, seconds: args.timeout });
        }
        Ending::Interrupted(signal) => return Err(RunError::Interrupted(signal)),
        Ending::Itself => {}
    }
    match heard.version {
        Some(wire::VERSION) => {}
        Some(other) => return Err(RunError::Version(other)),
        None => {
            let said = booted.complaint.lines().find(|line| !line.is_empty());
            return Err(RunError::NotBooted(said.map_or_else(String::new, |line| format!(": {line}"))));
        }
    }
    if let Some(line) = heard.foreign.take() {
        return Err(RunError::Foreign(line));
    }
    match heard.ended {
        Some(ended) if heard.whole => Ok(ended),
        _ => Err(RunError::Dumb),
    }
}
