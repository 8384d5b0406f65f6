//! What processes had before, written as if it had been recorded: the calls that would have mapped and opened it, and the
//! faults that would have filled the pages. So `hugewalk replay` needs to know nothing of the difference.
//!
//! # What cannot be told
//!
//! Which process faulted a page of a shared table in (`faulted` deals them out as the kernel's counters say). What a fork left to
//! both in private memory is taken for a page of each. Pages of a file that no recorded process maps stand at places that nothing
//! tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::faulted::{self, Faulted};
use super::state::{FileKey, HugeInode, Running, State, Touched};
use crate::recording::MountBefore;
use crate::trace::Time;

/// A descriptor for as long as a file without one is mapped: higher than any that a process has by itself.
const PASSING: u32 = 1 << 20;
/// How long before the recording the first of these calls is put.
const BEFORE: u64 = 2_000_000_000;

/// The lines to put before a recording.
#[derive(Debug, Default)]
pub(super) struct Prelude {
    /// In strace's form.
    pub(super) calls: String,
    /// In the form of `perf script`.
    pub(super) faults: String,
    /// Where the files are that have no name in the file system.
    pub(super) mounts: Vec<MountBefore>,
    /// What cannot be told.
    pub(super) notes: Vec<String>,
}

/// Lines with a time each.
struct Lines {
    text: String,
    /// In microseconds.
    next: u64,
    /// Files that have been opened once, and have their size.
    opened: BTreeSet<FileKey>,
}

impl Lines {
    fn call(&mut self, tid: u32, call: &str) {
        let (seconds, micros) = (self.next / 1_000_000, self.next % 1_000_000);
        let _ = writeln!(self.text, "{tid} {seconds}.{micros:06} {call}");
        self.next += 1;
    }

    fn run(&mut self, pid: u32, program: &str) {
        self.call(pid, &format!("execve(\"{program}\", [\"{program}\"], 0x0 /* 0 vars */) = 0"));
    }

    fn open(&mut self, pid: u32, state: &State, key: &FileKey, descriptor: u32) {
        let Some(file) = state.files.get(key) else { return };
        let path = path(file, key);
        self.call(pid, &format!("openat(AT_FDCWD, \"{path}\", O_RDWR|O_CREAT, 0600) = {descriptor}"));
        if self.opened.insert(key.clone()) {
            self.call(pid, &format!("ftruncate({descriptor}, {}) = 0", file.bytes));
        }
    }

    fn map(&mut self, pid: u32, state: &State, touched: &Touched) {
        let (mapping, key) = (&touched.mapping, touched.key());
        let Some(file) = state.files.get(&key) else { return };
        let (start, length) = (mapping.range.start, mapping.bytes());
        let reserves = if mapping.has("nr") { "|MAP_NORESERVE" } else { "" };
        if !mapping.shared {
            let shift = file.page_kb.trailing_zeros() + 10;
            let flags =
                format!("MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED|MAP_HUGETLB|{shift}<<MAP_HUGE_SHIFT{reserves}");
            return self.call(
                pid,
                &format!("mmap({start:#x}, {length}, PROT_READ|PROT_WRITE, {flags}, -1, 0) = {start:#x}"),
            );
        }
        self.open(pid, state, &key, PASSING);
        self.call(
            pid,
            &format!(
                "mmap({start:#x}, {length}, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_FIXED{reserves}, {PASSING}, {:#x}) = {start:#x}",
                mapping.offset
            ),
        );
        self.call(pid, &format!("close({PASSING}) = 0"));
    }
}

/// Writes what stands before a recording that began at `at`.
pub(super) fn write(state: &State, at: Time) -> Prelude {
    let begin = at.0.saturating_sub(BEFORE);
    let mut prelude = Prelude::default();
    let mut lines = Lines { text: String::new(), next: begin / 1000, opened: BTreeSet::new() };
    born(&state.processes, &mut lines);
    for process in &state.processes {
        for (descriptor, key) in &process.descriptors {
            lines.open(process.pid, state, key, *descriptor);
        }
        for touched in &process.mappings {
            lines.map(process.pid, state, touched);
        }
    }
    let faulted = faulted::deal(state);
    for ended in &faulted.ended {
        let like = state.processes.iter().find(|process| process.pid == ended.like);
        lines.run(ended.pid, like.map_or("", |like| &like.program));
        for touched in like.iter().flat_map(|process| &process.mappings) {
            if ended.starts.contains(&touched.mapping.range.start) {
                lines.map(ended.pid, state, touched);
            }
        }
    }
    // The faults come between the calls that map and those that take rights away.
    let faults_at = (lines.next + 1) * 1000;
    prelude.faults = faults(&faulted.list, faults_at);
    lines.next = at.0 / 1000 - BEFORE / 4000;
    for ended in &faulted.ended {
        lines.call(ended.pid, "+++ exited with 0 +++");
    }
    for process in &state.processes {
        for touched in process.mappings.iter().filter(|touched| touched.mapping.rights != "rw-") {
            let range = &touched.mapping.range;
            let rights = rights(&touched.mapping.rights);
            let length = range.end - range.start;
            lines.call(process.pid, &format!("mprotect({:#x}, {length}, {rights}) = 0", range.start));
        }
    }
    prelude.calls = lines.text;
    let sizes: BTreeSet<u64> = state.files.values().map(|file| file.page_kb).collect();
    let mount = |&page_kb: &u64| MountBefore { directory: directory(page_kb), huge_page_kb: page_kb };
    prelude.mounts = sizes.iter().map(mount).collect();
    notes(state, &faulted, &mut prelude.notes);
    prelude
}

/// Each process and thread begins: under its parent, where that is recorded too.
fn born(processes: &[Running], lines: &mut Lines) {
    let all: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    let program_of =
        |pid| processes.iter().find(|process| process.pid == pid).map(|process| &process.program);
    let mut waiting: Vec<&Running> = processes.iter().collect();
    let mut alive = BTreeSet::new();
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|process| {
            if alive.contains(&process.parent) {
                let child = process.pid;
                lines.call(process.parent, &format!("clone(child_stack=NULL, flags=SIGCHLD) = {child}"));
                if program_of(process.parent) != Some(&process.program) {
                    lines.run(child, &process.program);
                }
            } else if all.contains(&process.parent) {
                return true;
            } else {
                lines.run(process.pid, &process.program);
            }
            alive.insert(process.pid);
            false
        });
        if waiting.len() == before {
            // No process is its own ancestor.
            break;
        }
    }
    for process in processes {
        for thread in &process.threads {
            lines.call(
                process.pid,
                &format!(
                    "clone(child_stack=0x1000, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD) = {thread}"
                ),
            );
        }
    }
}

fn directory(page_kb: u64) -> String {
    format!("/mapped-before/{page_kb}kB")
}

/// Under which name a file is opened: its own, or one made of what `/proc` calls it where it has none.
fn path(file: &HugeInode, (device, inode): &FileKey) -> String {
    let deleted = file.name.strip_suffix(" (deleted)");
    let is_plain = !file.name.contains(['"', '\\']);
    if file.name.starts_with('/') && is_plain && deleted.is_none() {
        return file.name.clone();
    }
    let is_word = |letter: &char| letter.is_ascii_alphanumeric() || "_-".contains(*letter);
    let word: String = deleted.unwrap_or_default().chars().filter(is_word).collect();
    format!("{}/{word}-{device}-{inode}", directory(file.page_kb))
}

fn rights(text: &str) -> String {
    let names = [('r', "PROT_READ"), ('w', "PROT_WRITE"), ('x', "PROT_EXEC")];
    let some: Vec<&str> =
        names.iter().filter(|(letter, _)| text.contains(*letter)).map(|(_, name)| *name).collect();
    if some.is_empty() { "PROT_NONE".to_owned() } else { some.join("|") }
}

/// The faults that fill what is filled, as `perf script` prints them.
fn faults(list: &[(u32, u64)], from: u64) -> String {
    let mut text = String::new();
    for (time, (pid, address)) in (from..).step_by(100).zip(list) {
        let (seconds, nanos) = (time / 1_000_000_000, time % 1_000_000_000);
        let _ = writeln!(text, "{pid}/{pid} {seconds}.{nanos:09}: page-faults: {address:x}");
    }
    text
}

fn notes(state: &State, faulted: &Faulted, notes: &mut Vec<String>) {
    notes.push(format!(
        "The recording began when {} processes ran already. What they had mapped was read from /proc and stands before the \
         first call, under /mapped-before where it has no name: what became of it earlier is not known.",
        state.processes.len()
    ));
    if !faulted.ended.is_empty() {
        let pages: u64 = faulted.ended.iter().map(|ended| ended.pages).sum();
        let numbers = faulted.ended.iter().map(|ended| ended.pid.to_string()).collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "{pages} pages in shared tables were faulted in by processes that had ended before: their place is taken by {numbers}, \
             which maps the same and ends before the recording begins."
        ));
    }
    for (pid, pages) in &faulted.not_found {
        notes.push(format!(
            "The kernel counts {pages} pages for process {pid} that it maps no more: another process gave them up in a table \
             that both used. HugetlbPages of {pid} is so much more than the replay says."
        ));
    }
    let names = |pids: Vec<u32>| pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let with = |holds: &dyn Fn(&Running) -> bool| {
        names(state.processes.iter().filter(|process| holds(process)).map(|process| process.pid).collect())
    };
    let userfault = with(&|process| process.has_userfaultfd);
    if !userfault.is_empty() {
        notes.push(format!(
            "{userfault} had a userfaultfd before: what is registered with it is not known, so faults that wait for it are not \
             followed. Record the program from its start."
        ));
    }
    let left_by_fork: u64 = (state.processes.iter().flat_map(|process| &process.mappings))
        .filter(|touched| !touched.mapping.shared)
        .map(|touched| touched.mapping.shared_kb)
        .sum();
    if left_by_fork > 0 {
        notes.push(format!(
            "A fork had left private pages to several processes: they are taken for a page of each, so HugePages_Free may be \
             up to {} pages more than the replay says.",
            left_by_fork / 2048
        ));
    }
    let mut mapped: BTreeMap<FileKey, BTreeSet<u64>> = BTreeMap::new();
    for touched in state.processes.iter().flat_map(|process| &process.mappings) {
        let mapping = &touched.mapping;
        let places = touched.present.iter().map(|address| address - mapping.range.start + mapping.offset);
        mapped.entry(touched.key()).or_default().extend(places);
    }
    let unmapped = |(key, file): (&FileKey, &HugeInode)| {
        let known = mapped.get(key).map_or(0, BTreeSet::len);
        file.pages.saturating_sub(u64::try_from(known).unwrap_or(u64::MAX))
    };
    let unmapped: u64 = state.files.iter().map(unmapped).sum();
    if unmapped > 0 {
        notes.push(format!(
            "{unmapped} pages of files are mapped by none of these processes, and which they are is not known: HugePages_Free is \
             0 to {unmapped} less than the replay says, and a fault on one of them is not a fresh one."
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gigabyte::GIB;
    use crate::proc::Mapping;

    fn mapping(start: u64, end: u64, shared: bool) -> Mapping {
        Mapping {
            range: start..end,
            rights: "rw-".to_owned(),
            shared,
            offset: 0,
            device: "00:11".to_owned(),
            inode: 7,
            name: "/anon_hugepage (deleted)".to_owned(),
            page_kb: 2048,
            private_kb: 0,
            shared_kb: 0,
            flags: "rd wr ht".to_owned(),
            filled: Vec::new(),
        }
    }

    fn running(pid: u32, parent: u32, hugetlb_kb: u64, mappings: Vec<Touched>) -> Running {
        Running {
            pid,
            parent,
            program: if pid == 12 { "/usr/bin/java" } else { "/usr/bin/postgres" }.to_owned(),
            threads: Vec::new(),
            hugetlb_kb,
            mappings,
            descriptors: Vec::new(),
            has_userfaultfd: false,
        }
    }

    #[test]
    fn pages_of_a_shared_table_go_to_the_processes_whose_counters_have_them() {
        let pages = vec![GIB, GIB + (2 << 20), GIB + (4 << 20)];
        let touched = || Touched { mapping: mapping(GIB, 2 * GIB, true), present: pages.clone() };
        let file =
            HugeInode { bytes: GIB, pages: 5, page_kb: 2048, name: "/anon_hugepage (deleted)".to_owned() };
        let state = State {
            processes: vec![
                running(11, 10, 4096, vec![touched()]),
                running(10, 1, 2048, vec![touched()]),
                running(12, 10, 0, vec![touched()]),
            ],
            files: [(("00:11".to_owned(), 7), file)].into(),
        };
        let prelude = write(&state, Time(10_000_000_000));
        let count = |pid: &str| prelude.faults.lines().filter(|line| line.starts_with(pid)).count();
        // The last had none: it only reached one.
        assert_eq!((count("11/"), count("10/"), count("12/")), (2, 1, 1), "{}", prelude.faults);
        let begins = "10 8.000000 execve(\"/usr/bin/postgres\", ";
        assert!(prelude.calls.starts_with(begins), "{}", prelude.calls);
        // A child that runs something else says so.
        let programs =
            prelude.calls.lines().filter_map(|line| line.split_once(" execve(\"")?.1.split('"').next());
        assert_eq!(programs.collect::<Vec<_>>(), ["/usr/bin/postgres", "/usr/bin/java"], "{}", prelude.calls);
        assert!(
            prelude.calls.contains("10 8.000001 clone(child_stack=NULL, flags=SIGCHLD) = 1"),
            "{}",
            prelude.calls
        );
        assert!(prelude.notes.iter().any(|note| note.starts_with("2 pages of files")), "{:?}", prelude.notes);
    }

    #[test]
    fn rights_are_taken_away_after_the_pages_are_there() {
        let mut read_only = mapping(GIB, GIB + (2 << 20), false);
        read_only.rights = "r--".to_owned();
        let touched = Touched { mapping: read_only, present: vec![GIB] };
        let file = HugeInode { bytes: 2 << 20, pages: 0, page_kb: 2048, name: String::new() };
        let state = State {
            processes: vec![running(10, 1, 2048, vec![touched])],
            files: [(("00:11".to_owned(), 7), file)].into(),
        };
        let prelude = write(&state, Time(10_000_000_000));
        let last = prelude.calls.lines().last().expect("a line");
        assert_eq!(last, "10 9.500000 mprotect(0x40000000, 2097152, PROT_READ) = 0");
        assert!(prelude.faults.starts_with("10/10 8.0000"), "{}", prelude.faults);
    }
}
