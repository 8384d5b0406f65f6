//! What the kernel says of the recorded processes at one moment: all of them are stopped meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use super::RecordError;
use crate::proc::{Look, Root};
use crate::report::truth::{Meminfo, TrueMapping, TrueProcess, Truth};
use crate::trace::Time;

/// How long processes may take to stop: one that waits for a disk cannot.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often to look whether the pools still change.
const SETTLING: u32 = 20;

/// The moment, on the clock of the recording.
pub(super) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The processes that `tracer` traces.
pub(super) fn traced_by(root: &Root, tracer: u32) -> Result<Vec<u32>, RecordError> {
    let is_traced = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        line.and_then(|pid| pid.trim().parse().ok()) == Some(tracer)
    };
    Ok(root.pids()?.into_iter().filter(is_traced).collect())
}

/// Sends a signal to a process, which may have ended meanwhile.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Processes that are stopped, until this is dropped.
pub(super) struct Stopped(pub(super) Vec<u32>);

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            signal(*pid, Signal::CONT);
        }
    }
}

/// Stops all that `tracer` traces.
///
/// # Errors
///
/// If they do not stop.
pub(super) fn stop(root: &Root, tracer: u32) -> Result<Stopped, RecordError> {
    let mut stopped = Stopped(Vec::new());
    let begun = Instant::now();
    loop {
        for pid in traced_by(root, tracer)? {
            if !stopped.0.contains(&pid) {
                signal(pid, Signal::STOP);
                stopped.0.push(pid);
            }
        }
        // New ones may have come before the last was stopped. A thread also stops for a moment at each call that is
        // traced; the tracer sleeps only when it has let all go on that may.
        if traced_by(root, tracer)?.iter().all(|pid| stopped.0.contains(pid)) {
            let before = asleep(tracer);
            let still = stopped.0.iter().all(|&pid| all_threads_stand(pid));
            if still && before.is_some() && asleep(tracer) == before {
                stopped.0.sort_unstable();
                return Ok(stopped);
            }
        }
        if begun.elapsed() > PATIENCE {
            let moving = stopped.0.iter().find(|&&pid| !all_threads_stand(pid));
            return Err(RecordError::DoesNotStop { pid: moving.copied().unwrap_or(tracer) });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Stops all that `tracer` traces, writes down what the kernel says, and lets them go on.
///
/// # Errors
///
/// If they do not stop, or `/proc` cannot be read.
pub(super) fn take(root: &Root, tracer: u32) -> Result<Truth, RecordError> {
    let stopped = stop(root, tracer)?;
    let at = now();
    read(root, &stopped.0, at)
}

/// What the kernel says of these processes.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub(super) fn read(root: &Root, pids: &[u32], at: Time) -> Result<Truth, RecordError> {
    let mut processes = BTreeMap::new();
    for &pid in pids {
        let Look::Seen(process) = root.look(pid)? else { continue };
        let mappings = process.mappings.iter().map(|mapping| TrueMapping {
            range: format!("{:x}-{:x}", mapping.range.start, mapping.range.end),
            shared_hugetlb_kb: mapping.shared_kb,
            private_hugetlb_kb: mapping.private_kb,
        });
        let mappings: Vec<_> = mappings.collect();
        if !mappings.is_empty() || process.hugetlb_kb > 0 {
            processes.insert(pid, TrueProcess { hugetlb_pages_kb: process.hugetlb_kb, mappings });
        }
    }
    // Whoever looks at a process in /proc holds on to its memory: the pages of one that has just ended come back a little later.
    let mut machine = root.machine()?;
    for _ in 0..SETTLING {
        std::thread::sleep(Duration::from_millis(10));
        let before = std::mem::replace(&mut machine, root.machine()?);
        if before.pools == machine.pools {
            break;
        }
    }
    let pool = machine.pools.iter().find(|pool| pool.huge_page_kb == machine.default_page_kb);
    let of = |figure: fn(&crate::proc::Pool) -> u64| pool.map_or(0, figure);
    let meminfo = Meminfo {
        total: of(|pool| pool.total),
        free: of(|pool| pool.free),
        reserved: of(|pool| pool.reserved),
        surplus: of(|pool| pool.surplus),
    };
    Ok(Truth { at, huge_page_kb: machine.default_page_kb, meminfo, processes })
}

/// Writes it as `replay --truth` reads it.
pub(super) fn save(truth: &Truth, file: &Path) -> std::io::Result<()> {
    let mut text = serde_json::to_string_pretty(truth)?;
    text.push('\n');
    fs::write(file, text)
}

/// Does the tracer wait? Then how often it has begun to.
fn asleep(tracer: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{tracer}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let waits = field("State:").is_some_and(|state| state.starts_with('S'));
    let often = field("voluntary_ctxt_switches:")?.parse().ok()?;
    waits.then_some(often)
}

/// Is no thread of the process running, or about to? So it is where there is none any more.
fn all_threads_stand(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before it may have any characters, also blanks and brackets.
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        state.is_none_or(|state| "TtZX".contains(state))
    })
}
