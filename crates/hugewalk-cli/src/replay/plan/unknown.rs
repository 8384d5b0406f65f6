//! What a recording leaves open, to be said in so many words: files that may lie on hugetlbfs, segments that were made
//! before it began, calls without a result.

use std::collections::{BTreeMap, HashMap};

use super::FileId;
use super::mounts::likely_mount;
use super::ordinary::pages;
use super::planner::{Actor, Planner};
use crate::trace::Call;
use crate::trace::flags::MapFlags;

/// What is not known.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// Segments that were looked up and never made, and their keys.
    pub(super) segments: HashMap<u32, u64>,
    /// The lines on which unknown segments were attached.
    pub(super) attaches: Vec<(u32, u32)>,
    /// Directories in which files lie that may be of huge pages.
    mounts: BTreeMap<String, Suspect>,
    /// Directories that turned out to be of hugetlbfs by what the kernel lists.
    listed: BTreeMap<String, u32>,
    /// Mappings of descriptors of which nothing is known.
    strangers: Vec<(u32, String)>,
    /// Calls of which the recording does not show how they ended.
    endless: Vec<(&'static str, u32)>,
}

/// Why a directory may be a hugetlbfs.
#[derive(Clone, Debug)]
struct Suspect {
    line: u32,
    count: u64,
    /// All addresses and lengths are multiples of 1 GiB.
    gigabytes: bool,
}

const HUGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

impl Unknown {
    /// A sentence for each thing.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (directory, suspect) in outermost(&self.mounts) {
            let Suspect { line, count, gigabytes } = &suspect;
            let mapped = match count {
                1 => format!("Line {line} maps a file in {directory} at a multiple of 2 MiB"),
                _ => format!(
                    "Line {line} and {} more map files in {directory} at multiples of 2 MiB",
                    count - 1
                ),
            };
            let size = if *gigabytes { ":1G" } else { "" };
            all.push(format!(
                "{mapped}. If that is a hugetlbfs, say so with --hugetlbfs {directory}{size}: without it nothing of these \
                 mappings is replayed."
            ));
        }
        for (directory, line) in &self.listed {
            all.push(format!(
                "What line {line} maps is among the kernel's huge mappings, so {directory} is taken for a hugetlbfs. Say so \
                 with --hugetlbfs {directory}."
            ));
        }
        for (line, id) in &self.attaches {
            let key = self.segments.get(id).map(|key| format!(" (key {key:#x})")).unwrap_or_default();
            all.push(format!(
                "Line {line} attaches segment {id}{key}, which was made before the recording began: neither its size nor \
                 the size of its pages is recorded, so nothing of it is replayed. Record the program that makes it too \
                 (shmget with IPC_CREAT)."
            ));
        }
        for (line, descriptor) in &self.strangers {
            all.push(format!(
                "Line {line} maps {descriptor} at a multiple of 2 MiB, and the recording does not show what it is open on: if \
                 that is a file of huge pages, this mapping is missing here. Record with strace -y, and sendmsg and recvmsg \
                 too."
            ));
        }
        for (call, line) in &self.endless {
            all.push(format!(
                "The recording does not show how {call} on line {line} ended, so it is not replayed: what it changed is not \
                 known."
            ));
        }
        all
    }
}

/// Directories inside others are named with these: one mount holds them all.
fn outermost(mounts: &BTreeMap<String, Suspect>) -> Vec<(&str, Suspect)> {
    let mut all: Vec<(&str, Suspect)> = Vec::new();
    for (directory, suspect) in mounts {
        let holds = |outer: &str| directory.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
        match all.iter_mut().find(|(outer, _)| holds(outer)) {
            Some((_, whole)) => {
                whole.line = whole.line.min(suspect.line);
                whole.count += suspect.count;
                whole.gigabytes &= suspect.gigabytes;
            }
            None => all.push((directory, suspect.clone())),
        }
    }
    all
}

impl Planner {
    /// A call of which the recording does not show how it ended.
    pub(super) fn without_result(&mut self, call: &Call, actor: &Actor<'_>) {
        let space = actor.thread.space;
        let matters = match call {
            Call::Mmap { flags, fd, .. } => {
                let is_huge = |planner: &Self| {
                    let file = planner.files.opened(actor.thread.table, fd.number)?;
                    planner.huge(file)
                };
                flags.contains(MapFlags::MAP_HUGETLB)
                    || !flags.contains(MapFlags::MAP_ANONYMOUS) && is_huge(self).is_some()
            }
            Call::Munmap { address, length }
            | Call::Mprotect { address, length, .. }
            | Call::Madvise { address, length, .. }
            | Call::Mlock { address, length }
            | Call::Mremap { address, old_length: length, .. } => {
                self.memory(space).touches_huge(&pages(*address, *length))
            }
            Call::Fallocate { fd, .. } | Call::Ftruncate { fd, .. } => {
                self.files.opened(actor.thread.table, fd.number).and_then(|file| self.huge(file)).is_some()
            }
            Call::Clone { .. } => self.memory(space).holds_huge(),
            Call::Shmat { id, .. } => self.files.segment(*id).and_then(|(file, _)| self.huge(file)).is_some(),
            Call::MemfdCreate { .. } | Call::Shmget { .. } => true,
            _ => false,
        };
        if matters {
            self.unknown.endless.push((call.name(), actor.event.line));
        }
    }

    /// A file that the kernel lists among the huge mappings of the process lies on hugetlbfs.
    pub(super) fn is_listed(&mut self, file: FileId, length: u64, actor: &Actor<'_>) {
        let Some(start) = actor.outcome.value() else { return };
        let end = start.saturating_add(length);
        let lists = |ranges: &Vec<std::ops::Range<u64>>| {
            ranges.iter().any(|range| range.start <= start && end <= range.end)
        };
        if start % HUGE != 0 || length == 0 || !self.listed.get(&actor.thread.pid).is_some_and(lists) {
            return;
        }
        let Some(known) = self.files.file(file) else { return };
        if self.files.was_declared(file) {
            return;
        }
        if known.name.starts_with('/') {
            let directory = likely_mount(&known.name).to_owned();
            self.unknown.listed.entry(directory).or_insert(actor.event.line);
        }
        self.files.is_huge(file, self.default_shift);
    }

    /// An ordinary mapping of a file may be one of huge pages that nobody told of.
    pub(super) fn suspect(&mut self, file: FileId, call: &Call, actor: &Actor<'_>) {
        let (Call::Mmap { length, flags, .. }, Some(start)) = (call, actor.outcome.value()) else { return };
        let Some(path) = self.files.file(file).map(|file| file.name.as_str()) else { return };
        let is_stranger =
            path.starts_with("descriptor ") || path.starts_with("/proc/") && path.contains("/fd/");
        if is_stranger && start % HUGE == 0 && *length > 0 && length % HUGE == 0 {
            self.unknown.strangers.push((actor.event.line, path.to_owned()));
            return;
        }
        let named_so = path.contains("huge") && !path.starts_with("/sys/") && *length >= HUGE;
        let lies_so = start % HUGE == 0 && *length > 0 && length % HUGE == 0;
        let is_plain = ["/usr/", "/lib", "/proc/", "/sys/", "/dev/shm/", "/dev/zero"]
            .iter()
            .any(|elsewhere| path.starts_with(elsewhere));
        if flags.contains(MapFlags::MAP_ANONYMOUS)
            || !path.starts_with('/')
            || is_plain
            || !lies_so
            || !flags.is_shared() && !named_so
        {
            return;
        }
        let gigabytes = start % GIB == 0 && length % GIB == 0;
        let directory = likely_mount(path).to_owned();
        let line = actor.event.line;
        let suspect = self.unknown.mounts.entry(directory).or_insert(Suspect { line, count: 0, gigabytes });
        suspect.count += 1;
        suspect.gigabytes &= gigabytes;
    }
}
