//! What processes have in huge pages at the moment at which their recording begins, from `/proc`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::statfs;

use super::RecordError;
use crate::proc::{Look, Mapping, Root};

/// `f_type` of hugetlbfs.
const HUGETLBFS: u64 = 0x9584_58f6;
/// Base pages that an entry of the page map stands for.
const BASE_SHIFT: u32 = 12;

/// Which file: its device as `/proc/PID/maps` writes it, and its inode.
pub(super) type FileKey = (String, u64);

/// A process that ran before.
pub(super) struct Running {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// The file that it runs, or its name where that cannot be read.
    pub(super) program: String,
    /// All its threads but the one that has its number.
    pub(super) threads: Vec<u32>,
    /// `HugetlbPages` of its status.
    pub(super) hugetlb_kb: u64,
    pub(super) mappings: Vec<Touched>,
    /// Its descriptors of files of huge pages.
    pub(super) descriptors: Vec<(u32, FileKey)>,
    /// Whether it has a userfaultfd.
    pub(super) has_userfaultfd: bool,
}

/// A mapping and the addresses of the pages in it that its tables map.
pub(super) struct Touched {
    pub(super) mapping: Mapping,
    pub(super) present: Vec<u64>,
}

impl Touched {
    pub(super) fn key(&self) -> FileKey {
        (self.mapping.device.clone(), self.mapping.inode)
    }
}

/// A file of huge pages.
pub(super) struct HugeInode {
    pub(super) bytes: u64,
    /// Pages that it has, whether or not anything maps them.
    pub(super) pages: u64,
    pub(super) page_kb: u64,
    /// What `/proc` calls it.
    pub(super) name: String,
}

/// All of them.
pub(super) struct State {
    /// By their number.
    pub(super) processes: Vec<Running>,
    pub(super) files: BTreeMap<FileKey, HugeInode>,
}

/// Reads it. The processes stand still meanwhile.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub(super) fn read(root: &Root, pids: &[u32]) -> Result<State, RecordError> {
    let mut state = State { processes: Vec::new(), files: BTreeMap::new() };
    for &pid in pids {
        let Look::Seen(process) = root.look(pid)? else { continue };
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).ok();
        let mut mappings = Vec::new();
        for mapping in process.mappings {
            let present = present(&mapping, pagemap.as_ref());
            let touched = Touched { mapping, present };
            let range = &touched.mapping.range;
            let link = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
            note_file(&mut state.files, touched.key(), &link, &touched.mapping);
            mappings.push(touched);
        }
        let mut running = Running {
            pid,
            parent: root.parent_of(pid).unwrap_or(0),
            program: program(pid, &process.command),
            threads: threads(pid),
            hugetlb_kb: process.hugetlb_kb,
            mappings,
            descriptors: Vec::new(),
            has_userfaultfd: false,
        };
        descriptors(&mut running, &mut state.files);
        state.processes.push(running);
    }
    Ok(state)
}

/// What a process runs, without letters that a line of strace escapes.
fn program(pid: u32, command: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = link.to_str().map(|name| name.strip_suffix(" (deleted)").unwrap_or(name));
    let is_plain = |letter: char| (' '..='~').contains(&letter) && !"\"\\".contains(letter);
    let path = name.filter(|name| name.starts_with('/') && name.chars().all(is_plain));
    let short = || command.chars().map(|letter| if is_plain(letter) { letter } else { '?' }).collect();
    path.map_or_else(short, str::to_owned)
}

fn threads(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut threads: Vec<u32> =
        tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).filter(|tid| *tid != pid).collect();
    threads.sort_unstable();
    threads
}

fn present(mapping: &Mapping, pagemap: Option<&File>) -> Vec<u64> {
    let page = usize::try_from(mapping.page_kb << 10).unwrap_or(usize::MAX);
    let is_present = |address: &u64| {
        let mut entry = [0; 8];
        let read = pagemap.map(|map| map.read_exact_at(&mut entry, (address >> BASE_SHIFT) * 8));
        matches!(read, Some(Ok(()))) && u64::from_ne_bytes(entry) >> 63 == 1
    };
    mapping.range.clone().step_by(page).filter(is_present).collect()
}

/// Remembers a file and how large it is. Where its link cannot be followed, it is as large as what is mapped of it.
fn note_file(files: &mut BTreeMap<FileKey, HugeInode>, key: FileKey, link: &str, mapping: &Mapping) {
    let mapped = mapping.offset + mapping.bytes();
    let (bytes, pages) = match fs::metadata(link) {
        Ok(file) => (file.len(), file.blocks() * 512 / (mapping.page_kb << 10)),
        Err(_) => (mapped, 0),
    };
    let file = files.entry(key).or_insert_with(|| HugeInode {
        bytes,
        pages,
        page_kb: mapping.page_kb,
        name: mapping.name.clone(),
    });
    file.bytes = file.bytes.max(mapped);
}

fn descriptors(process: &mut Running, files: &mut BTreeMap<FileKey, HugeInode>) {
    let directory = format!("/proc/{}/fd", process.pid);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        process.has_userfaultfd |= name.contains("[userfaultfd]");
        let is_huge = statfs(entry.path()).is_ok_and(|system| system.f_type.cast_unsigned() == HUGETLBFS);
        let (true, Ok(file)) = (is_huge, fs::metadata(entry.path())) else { continue };
        if !file.is_file() {
            continue;
        }
        let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
        let key = (format!("{major:02x}:{minor:02x}"), file.ino());
        let page_kb = file.blksize() >> 10;
        files.entry(key.clone()).or_insert_with(|| HugeInode {
            bytes: file.len(),
            pages: file.blocks() * 512 / file.blksize().max(1),
            page_kb,
            name,
        });
        process.descriptors.push((number, key));
    }
    process.descriptors.sort_unstable();
}
