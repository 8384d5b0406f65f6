//! Threads and processes that were there before the recording began, and those that it does not follow.
//!
//! Nobody made the threads that strace joined (`-p`), so that a recording does not show which of them live in one process.
//! What strace says when it joins them shows it, and so do faults (which name both), `tgkill`, and a thread that unmaps
//! or advises about what another one mapped.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::call::{Call, Outcome};
use super::faults::Fault;
use super::flags::{CloneFlags, MapFlags};
use super::strace::{Action, Event};

/// How the note begins that says that programs ran already.
pub(super) const BEGAN_LATE: &str = "The recording began when";

/// What is known of threads that were there before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Threads {
    /// Processes that strace joined, and how many threads each had.
    pub(super) attached: Vec<(u32, u32)>,
    /// Threads, each behind the process to which it belongs.
    pub(super) told: Vec<(u32, u32)>,
    /// Whether the number of the only one is made up.
    pub(super) nameless: bool,
    /// All that have a line.
    pub(super) seen: HashSet<u32>,
}

/// Which process each thread belongs to, where that is not the one that made it.
pub(super) type Leaders = HashMap<u32, u32>;

/// Finds out which threads live together, and says what remains unknown.
pub(super) fn leaders(
    threads: &Threads,
    events: &[Event],
    faults: &[Fault],
    notes: &mut Vec<String>,
) -> Leaders {
    let children: HashSet<u32> = events.iter().filter_map(made).map(|(child, _)| child).collect();
    let mut strays: BTreeSet<u32> = BTreeSet::new();
    let mut begun: HashMap<u32, &Event> = HashMap::new();
    for event in events {
        if !children.contains(&event.tid) {
            begun.entry(event.tid).or_insert(event);
            strays.insert(event.tid);
        }
    }
    let mut leaders = Leaders::new();
    let is_stray = |tid: &u32| strays.contains(tid);
    if strays.len() > 1 {
        by_joining(&threads.attached, &strays, &mut leaders);
        let of_faults = faults.iter().map(|fault| (fault.pid, fault.tid));
        for (pid, tid) in threads.told.iter().copied().chain(of_faults) {
            if pid != tid && is_stray(&tid) {
                leaders.insert(tid, pid);
            }
        }
        by_ranges(events, &strays, &mut leaders, notes);
    }
    let begins_late = |tid: &u32| {
        begun.get(tid).is_some_and(|event| !matches!(event.action, Action::Call(Call::Execve { .. }, _)))
    };
    let mut late: Vec<u32> =
        strays.iter().filter(|tid| begins_late(tid)).map(|tid| *leaders.get(tid).unwrap_or(tid)).collect();
    late.sort_unstable();
    late.dedup();
    if late.len() > 1 {
        notes.push(format!(
            "Nothing shows whether {} are threads of one process; they are taken for processes. --faults names both, and \
             so does a recording from the start.",
            list(&late)
        ));
    }
    if !late.is_empty() {
        notes.push(format!(
            "{BEGAN_LATE} {} already ran: what {} mapped and opened before is not known. Record the program \
             from its start (strace -f ... PROGRAM).",
            if threads.nameless && late.len() == 1 { "the program".to_owned() } else { list(&late) },
            if late.len() == 1 { "it had" } else { "they had" },
        ));
    }
    unfollowed(threads, events, notes);
    leaders
}

fn made(event: &Event) -> Option<(u32, CloneFlags)> {
    match &event.action {
        Action::Call(Call::Clone { flags }, Outcome::Returned(child)) => {
            Some((u32::try_from(*child).ok()?, *flags))
        }
        _ => None,
    }
}

/// Strace says how many threads it joined: where they all have lines, each belongs to the last process before it.
fn by_joining(attached: &[(u32, u32)], strays: &BTreeSet<u32>, leaders: &mut Leaders) {
    for tid in strays {
        let joined = attached.iter().filter(|(pid, threads)| pid < tid && *threads > 1).max();
        if let Some((pid, threads)) = joined {
            let taken = leaders.values().filter(|leader| *leader == pid).count();
            if taken + 1 < *threads as usize && !attached.iter().any(|(other, _)| other == tid) {
                leaders.insert(*tid, *pid);
            }
        }
    }
}

/// A thread that does something to a huge mapping that another one made lives in the same process.
fn by_ranges(events: &[Event], strays: &BTreeSet<u32>, leaders: &mut Leaders, notes: &mut Vec<String>) {
    // By their start: how far each reaches, and who mapped it.
    let mut mapped: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
    for event in events.iter().filter(|event| strays.contains(&event.tid)) {
        let Action::Call(call, Outcome::Returned(value)) = &event.action else { continue };
        let (start, end) = match call {
            Call::Mmap { length, flags, .. } if flags.contains(MapFlags::MAP_HUGETLB) => {
                mapped.insert(*value, (value.saturating_add(*length), event.tid));
                continue;
            }
            Call::Munmap { address, length }
            | Call::Mprotect { address, length, .. }
            | Call::Madvise { address, length, .. } => (*address, address.saturating_add(*length)),
            _ => continue,
        };
        let before = mapped.range(..end).next_back().filter(|(_, (reach, _))| *reach > start);
        let Some((&at, &(reach, maker))) = before else { continue };
        if matches!(call, Call::Munmap { .. }) && start <= at && reach <= end {
            mapped.remove(&at);
        }
        let process = |tid: u32| *leaders.get(&tid).unwrap_or(&tid);
        let (one, other) = (process(maker), process(event.tid));
        if one != other {
            let (first, second) = (one.min(other), one.max(other));
            notes.push(format!(
                "Threads {maker} and {} are taken for threads of one process: line {} changes what the other one mapped.",
                event.tid, event.line
            ));
            for leader in leaders.values_mut().filter(|leader| **leader == second) {
                *leader = first;
            }
            leaders.insert(second, first);
        }
    }
}

/// Children of which nothing is recorded.
fn unfollowed(threads: &Threads, events: &[Event], notes: &mut Vec<String>) {
    let mut children = events.iter().filter_map(|event| Some((event.line, made(event)?.0))).peekable();
    let Some(&(line, child)) = children.peek() else { return };
    let mut count = 0;
    for (_, child) in children {
        if threads.seen.contains(&child) {
            return;
        }
        count += 1;
    }
    let others = match count {
        1 => String::new(),
        more => format!(" and later {} more", more - 1),
    };
    notes.push(format!(
        "Line {line} makes {child}{others}, of which nothing is recorded: what they map, fault in and unmap is not known. \
         Record with \
         strace -f, or join all files of -ff."
    ));
}

fn list(numbers: &[u32]) -> String {
    const LISTED: usize = 5;
    let shown: Vec<String> = numbers.iter().take(LISTED).map(ToString::to_string).collect();
    match numbers.len().checked_sub(LISTED) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => match shown.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
            None => String::new(),
        },
    }
}
