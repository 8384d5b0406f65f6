//! Recording processes that run already: strace joins them, what they have is read while all of them stand still, and that is
//! put before what is recorded, as if it had been recorded too.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::process::Signal;

use super::prelude::{self, Prelude};
use super::tools::{self, Perf};
use super::{RecordError, Session, Started, Summary, Told, figures, state};
use crate::proc::{self, Root};
use crate::recording::{CALLS, FAULTS, TRUTH, TRUTH_BEFORE};
use crate::trace::Time;

/// How often to join again because processes came meanwhile.
const TRIES: u32 = 10;

impl Session<'_> {
    pub(super) fn record_running(&mut self, scratch: &Path) -> Result<Summary, RecordError> {
        let told = Told::listen().map_err(RecordError::Start)?;
        let calls = self.directory.join(CALLS);
        let (child, pids) = self.join(&calls, &scratch.join("strace.log"))?;
        let mut child = Started::new(child);
        let perf = match self.args.no_faults {
            true => None,
            false => Some(Perf::start(&pids, scratch, proc::is_root())?),
        };
        self.note_what_perf_does_not_see();
        let (at, before) = self.look(child.child().id())?;
        let begun = Instant::now();
        let ended = self.watch_running(child.child(), &told, begun)?;
        let seconds = begun.elapsed().as_secs_f64();
        let faults = self.directory.join(FAULTS);
        let faults = perf.map(|perf| perf.finish(&faults, at, &before.faults)).transpose()?;
        self.note_losses(faults.as_ref());
        let text = fs::read(&calls).map_err(RecordError::Write)?;
        let recorded = since(&String::from_utf8_lossy(&text), at);
        fs::write(&calls, before.calls + &recorded).map_err(RecordError::Write)?;
        let ended = if ended { "The processes have ended" } else { "The processes go on" };
        Ok(self.summary(seconds, ended.to_owned(), recorded.lines().count(), faults.as_ref()))
    }

    /// Joins the processes and all that descend from them: again, as long as new ones came meanwhile.
    fn join(&self, calls: &Path, log: &Path) -> Result<(Child, Vec<u32>), RecordError> {
        for _ in 0..TRIES {
            let pids = family(&self.root, &self.args.pid)?;
            let mut child = Started::new(tools::attach(&pids, calls, log)?);
            tools::attached(child.child(), &pids, log)?;
            if family(&self.root, &self.args.pid)?.iter().all(|pid| pids.contains(pid)) {
                return Ok((child.keep(), pids));
            }
            leave(child.child())?;
        }
        Err(RecordError::Attach { said: "new processes come faster than it joins them".to_owned() })
    }

    /// Stops all, reads what they have, and lets them go on.
    fn look(&mut self, tracer: u32) -> Result<(Time, Prelude), RecordError> {
        let stopped = figures::stop(&self.root, tracer)?;
        let at = figures::now();
        let state = state::read(&self.root, &stopped.0)?;
        let truth = figures::read(&self.root, &stopped.0, at)?;
        drop(stopped);
        let mut prelude = prelude::write(&state, at);
        self.keep(&truth, TRUTH_BEFORE)?;
        self.recorded.hugetlbfs.append(&mut prelude.mounts);
        self.recorded.notes.append(&mut prelude.notes);
        Ok((at, prelude))
    }

    /// Waits until the processes have ended or the recording is to end, and takes figures when it is time to. Have they
    /// ended?
    fn watch_running(&mut self, child: &mut Child, told: &Told, begun: Instant) -> Result<bool, RecordError> {
        let mut due = self.due();
        loop {
            if child.try_wait().map_err(RecordError::Start)?.is_some() {
                self.keep(&figures::read(&self.root, &[], figures::now())?, TRUTH)?;
                return Ok(true);
            }
            let is_due = due.next_if(|due| begun.elapsed() >= *due).is_some();
            if told.figures.swap(false, Ordering::Relaxed) || is_due {
                self.figures(child.id())?;
            }
            if told.end.load(Ordering::Relaxed) || told.terminal.load(Ordering::Relaxed) {
                if let Some(truth) = self.take(child.id())? {
                    self.keep(&truth, TRUTH)?;
                }
                leave(child)?;
                return Ok(false);
            }
            std::thread::sleep(tools::MOMENT);
        }
    }
}

/// Lets strace leave its processes.
fn leave(child: &mut Child) -> Result<(), RecordError> {
    figures::signal(child.id(), Signal::INT);
    child.wait().map(|_| ()).map_err(RecordError::Start)
}

/// The processes asked for and all that descend from them, by number.
fn family(root: &Root, asked: &[u32]) -> Result<Vec<u32>, RecordError> {
    let mut family = BTreeSet::new();
    for &pid in asked {
        family.insert(root.process_of(pid).ok_or(RecordError::NoProcess(pid))?);
    }
    let others: Vec<(u32, u32)> =
        root.pids()?.into_iter().filter_map(|pid| Some((pid, root.parent_of(pid)?))).collect();
    loop {
        let before = family.len();
        for (pid, parent) in &others {
            if family.contains(parent) {
                family.insert(*pid);
            }
        }
        if family.len() == before {
            return Ok(family.into_iter().collect());
        }
    }
}

/// The lines since `at`. The end of a call whose beginning lies before it goes with that.
fn since(text: &str, at: Time) -> String {
    let mut cut: HashSet<&str> = HashSet::new();
    let mut kept = String::new();
    for line in text.lines() {
        let tid = line.split_whitespace().next().unwrap_or_default();
        let late = tools::moment(line, 1).is_some_and(|moment| moment >= at);
        if !late {
            if line.ends_with("<unfinished ...>") {
                cut.insert(tid);
            } else {
                cut.remove(tid);
            }
        } else if !(line.contains(" resumed>") && cut.remove(tid)) {
            let _ = writeln!(kept, "{line}");
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_began_before_is_left_out_whole() {
        let text = "\
10 1.000001 close(3) = 0
10 1.000002 wait4(-1,  <unfinished ...>
11 2.000001 close(4 <unfinished ...>
10 2.000002 <... wait4 resumed>NULL, 0, NULL) = 11
11 2.000003 <... close resumed>) = 0
";
        let expected = "11 2.000001 close(4 <unfinished ...>\n11 2.000003 <... close resumed>) = 0\n";
        assert_eq!(since(text, Time(2_000_000_000)), expected);
    }
}
