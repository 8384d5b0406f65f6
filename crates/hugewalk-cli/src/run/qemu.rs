//! One boot in QEMU: three channels out of it, and a time after which it is ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::arch::Arch;
use super::args::Accel;
use super::wire::Heard;

/// A machine to boot.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) arch: Arch,
    pub(super) qemu: &'a Path,
    pub(super) accel: Accel,
    pub(super) cpus: u32,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) kernel: &'a Path,
    pub(super) archive: &'a Path,
}

/// Why a boot came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// There is no such command.
    #[error("{}: not found; install QEMU (Debian: apt-get install qemu-system-x86 qemu-system-arm), or name it by --qemu", .0.display())]
    NotFound(PathBuf),
    /// It cannot be started.
    #[error("{}: cannot be started: {source}", path.display())]
    NotStarted {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// KVM cannot be used.
    #[error("/dev/kvm: {0}; leave --accel kvm out")]
    NoKvm(io::Error),
    /// The host's processors are others.
    #[error("--accel kvm lends the host's own processors, which are not {0}; leave it out")]
    ForeignKvm(Arch),
    /// Channels or threads could not be made.
    #[error("the run cannot be set up: {0}")]
    Setup(#[from] io::Error),
}

/// What became of a boot.
#[derive(Debug)]
pub(super) struct Booted {
    pub(super) heard: Heard,
    pub(super) ending: Ending,
    /// What QEMU itself complained of.
    pub(super) complaint: String,
    pub(super) took: Duration,
}

/// How a boot ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// QEMU ended by itself.
    Itself,
    /// It took too long.
    TimeOut,
    /// No system call of the program's arrived in time, so that it has printed nothing either.
    Silent,
    /// This command was told to end.
    Interrupted(i32),
}

enum Event {
    Line(String),
    /// The channel is closed: QEMU has ended, or is about to.
    Closed,
    Interrupted(i32),
}

/// How long a processor under KVM may take to its first system call; the boot takes a tenth of a second.
const SILENCE: Duration = Duration::from_secs(10);

/// Boots, passes output through and listens, until QEMU has ended or is ended after `timeout`.
pub(super) fn boot(machine: &Machine<'_>, timeout: Duration) -> Result<Booted, QemuError> {
    if machine.accel == Accel::Kvm {
        if !machine.arch.is_host() {
            return Err(QemuError::ForeignKvm(machine.arch));
        }
        File::options().read(true).write(true).open("/dev/kvm").map_err(QemuError::NoKvm)?;
    }
    let begin = Instant::now();
    let (sender, events) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let interrupted = sender.clone();
    let watcher = thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _ = interrupted.send(Event::Interrupted(signal));
        }
    });

    let (out, out_end) = UnixStream::pair()?;
    let (err, err_end) = UnixStream::pair()?;
    let (report, report_end) = UnixStream::pair()?;
    let mut child = spawn(machine, [&out_end, &err_end, &report_end])?;
    // Only QEMU holds the other ends now: they close when it ends.
    drop((out_end, err_end, report_end));
    let copiers = [copy(out, io::stdout()), copy(err, io::stderr())];
    let listener = listen(report, sender);
    let complaint = child.stderr.take().map(collect);

    let mut heard = Heard::default();
    let asked = loop {
        let now = begin.elapsed();
        let silent = machine.accel == Accel::Kvm && !heard.user;
        let limit = if silent { timeout.min(SILENCE) } else { timeout };
        match events.recv_timeout(limit.saturating_sub(now)) {
            Ok(Event::Line(line)) => {
                if let Some(call) = heard.take(&line) {
                    let _ = writeln!(io::stderr(), "{call}");
                }
            }
            Ok(Event::Interrupted(signal)) => break Some(Ending::Interrupted(signal)),
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) if limit < timeout => break Some(Ending::Silent),
            Err(RecvTimeoutError::Timeout) => break Some(Ending::TimeOut),
        }
    };
    if asked.is_some() {
        child.kill()?;
    }
    child.wait()?;
    handle.close();
    for thread in copiers.into_iter().chain([listener, watcher]) {
        let _ = thread.join();
    }
    for event in events.try_iter() {
        if let Event::Line(line) = event {
            heard.take(&line);
        }
    }
    let complaint = complaint.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok(Booted { heard, ending: asked.unwrap_or(Ending::Itself), complaint, took: begin.elapsed() })
}

fn spawn(machine: &Machine<'_>, ends: [&UnixStream; 3]) -> Result<Child, QemuError> {
    for end in ends {
        fcntl_setfd(end, FdFlags::empty()).map_err(io::Error::from)?;
    }
    let mut command = Command::new(machine.qemu);
    command.args(arguments(machine, ends.map(AsRawFd::as_raw_fd)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => QemuError::NotFound(machine.qemu.to_owned()),
        _ => QemuError::NotStarted { path: machine.qemu.to_owned(), source },
    })
}

fn arguments(machine: &Machine<'_>, [out, err, report]: [i32; 3]) -> Vec<OsString> {
    let accel = match machine.accel {
        Accel::Tcg => "tcg,thread=multi",
        // One thread for all processors: only so does QEMU count.
        Accel::Icount => "tcg,thread=single",
        Accel::Kvm => "kvm",
    };
    let (cpus, memory) = (machine.cpus.to_string(), format!("{}M", machine.memory >> 20));
    let channel = |id: &str, fd: i32| format!("socket,id={id},fd={fd}");
    let [out, err, report] = [channel("out", out), channel("err", err), channel("report", report)];
    #[rustfmt::skip]
    let plain = [
        "-accel", accel, "-cpu", "max", "-smp", &cpus, "-m", &memory,
        "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
        "-chardev", &out, "-chardev", &err, "-chardev", &report,
    ];
    #[rustfmt::skip]
    let own: &[&str] = match machine.arch {
        Arch::X86_64 => &[
            "-machine", "q35", "-serial", "chardev:out", "-serial", "chardev:err",
            "-device", "isa-debugcon,iobase=0xe9,chardev=report", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
        ],
        Arch::Arm64 => &[
            "-machine", "virt,gic-version=3", "-serial", "chardev:report",
            "-device", "pci-serial-2x,chardev1=out,chardev2=err",
        ],
    };
    let mut all: Vec<OsString> = plain.iter().chain(own).map(OsString::from).collect();
    if machine.accel == Accel::Icount {
        all.extend(["-icount".into(), "shift=0,sleep=off".into()]);
    }
    all.extend(["-kernel".into(), machine.kernel.into()]);
    match machine.arch {
        Arch::X86_64 => all.extend(["-initrd".into(), machine.archive.into()]),
        // For an ELF file, this machine of QEMU's loads no archive.
        Arch::Arm64 => {
            let mut file = OsString::from("name=opt/hugewalk/archive,file=");
            file.push(machine.archive);
            all.extend(["-fw_cfg".into(), file]);
        }
    }
    all
}

/// Copies bytes as they come. When nobody reads them any more, the rest is thrown away: the guest must not wait.
fn copy(mut from: UnixStream, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut heard = true;
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            heard = heard && to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_ok();
        }
    })
}

fn listen(from: UnixStream, to: Sender<Event>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            if to.send(Event::Line(String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
        }
        let _ = to.send(Event::Closed);
    })
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
