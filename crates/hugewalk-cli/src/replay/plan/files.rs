//! Which file a descriptor is open on, and whether that file lies on hugetlbfs.
//!
//! A recording does not say on which file system a file is. It is taken for a huge-page file if it is a memory file or
//! segment made so, if its path lies under a known mount, or if it is ever mapped with `MAP_HUGETLB` with success: the
//! kernel refuses that for any other file. `statfs` tells it too, and so does what the kernel lists of a process. For
//! these the recording is read twice: see [`Files::survey`].

mod shown;

use std::collections::{HashMap, HashSet, VecDeque};

use super::mounts::{Mount, Mounts};
use super::names::Names;
use super::tables::{Open, Tables};
use super::tasks::TableId;
use crate::trace::Descriptor;

/// A file, or a segment of shared memory. Numbers are given in the order of opening, so that two runs over one recording
/// agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path, or what else it is called by.
    pub name: String,
    /// The size of its pages as a power of two, if it consists of huge pages.
    pub huge: Option<u32>,
    /// What `strace -y` prints beside its descriptors; empty if nothing.
    shown: String,
    /// How large it is, if the recording shows that.
    size: Option<u64>,
    /// To how many tables it has been given by guesses.
    guessed: u32,
}

/// What one reading of a recording finds out for the next.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Files that turned out to consist of huge pages, and of which.
    pub huge: HashMap<FileId, u32>,
    /// Mounts that turned out to be of hugetlbfs.
    pub mounts: Vec<Mount>,
}

/// All files that the recording has opened.
#[derive(Debug)]
pub struct Files {
    files: Vec<File>,
    mounts: Mounts,
    survey: Survey,
    names: Names,
    memfds: HashMap<String, Vec<FileId>>,
    segments: HashMap<u32, Segment>,
    pub(super) tables: Tables,
    /// Messages that carry descriptors and have not been received.
    flying: VecDeque<Vec<FileId>>,
    /// Processes that a descriptor stands for.
    pidfds: HashMap<FileId, u32>,
    /// Files that have lost a name, a descriptor or a segment number.
    lost: Vec<FileId>,
    /// Files that an earlier run found to consist of huge pages.
    guessed: HashSet<FileId>,
    /// What was guessed, a sentence each.
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    file: FileId,
    size: u64,
    removed: bool,
}

impl Files {
    /// No files yet. `mounts` are the hugetlbfs mounts that the user knows of; `survey` is what an earlier run found.
    #[must_use]
    pub fn new(mut mounts: Vec<Mount>, default_shift: u32, survey: Survey) -> Self {
        // What the user says counts for more.
        mounts.splice(0..0, survey.mounts.iter().cloned());
        Self {
            files: Vec::new(),
            mounts: Mounts::new(mounts, default_shift),
            survey,
            names: Names::default(),
            memfds: HashMap::new(),
            segments: HashMap::new(),
            tables: Tables::default(),
            flying: VecDeque::new(),
            pidfds: HashMap::new(),
            lost: Vec::new(),
            guessed: HashSet::new(),
            notes: Vec::new(),
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self, id: FileId) -> Option<&File> {
        self.files.get(id.0 as usize)
    }

    /// A hugetlbfs was mounted.
    pub fn mount(&mut self, directory: &str, options: &str) {
        self.mounts.mount(directory, options);
    }

    /// The file system at this path, or of this file, turned out to be hugetlbfs with pages of this size.
    pub fn is_hugetlbfs(&mut self, path: &str, shift: u32) {
        let mount = Mount { directory: path.trim_end_matches('/').to_owned(), page_shift: shift };
        if !self.survey.mounts.contains(&mount) {
            self.survey.mounts.push(mount);
        }
    }

    /// `path` was opened as `fd`.
    pub fn open(&mut self, table: TableId, fd: i32, path: &str, cloexec: bool) -> FileId {
        let file = self.named(path);
        self.put(table, fd, Open { file, cloexec });
        file
    }

    /// A file without a name was made in a directory (`O_TMPFILE`) as `fd`.
    pub fn open_nameless(&mut self, table: TableId, fd: i32, directory: &str, cloexec: bool) -> FileId {
        let huge = self.mounts.at(&format!("{directory}/a"));
        let file = self.add(format!("a file without a name in {directory}"), huge);
        self.put(table, fd, Open { file, cloexec });
        file
    }

    /// A memory file was made as `fd`.
    pub fn memfd(&mut self, table: TableId, fd: i32, name: &str, huge: Option<u32>, cloexec: bool) -> FileId {
        let file = self.add("memfd".to_owned(), huge);
        self.files[file.0 as usize].shown = format!("/memfd:{name}");
        self.memfds.entry(name.to_owned()).or_default().push(file);
        self.put(table, fd, Open { file, cloexec });
        file
    }

    /// A userfaultfd was made as `fd`.
    pub fn userfaultfd(&mut self, table: TableId, fd: i32, cloexec: bool) -> FileId {
        let file = self.userfaultfd_of_child();
        self.put(table, fd, Open { file, cloexec });
        file
    }

    /// A userfaultfd came to be, for which nobody has a descriptor yet.
    pub fn userfaultfd_of_child(&mut self) -> FileId {
        self.add("userfaultfd".to_owned(), None)
    }

    /// A descriptor that stands for a process was made as `fd`.
    pub fn pidfd(&mut self, table: TableId, fd: i32, pid: u32) {
        let file = self.add(format!("process {pid}"), None);
        self.pidfds.insert(file, pid);
        self.put(table, fd, Open { file, cloexec: true });
    }

    /// The process that a descriptor stands for.
    #[must_use]
    pub fn process_of(&self, table: TableId, fd: i32) -> Option<u32> {
        self.pidfds.get(&self.opened(table, fd)?).copied()
    }

    /// The file that the recording has shown a descriptor to be open on.
    #[must_use]
    pub fn opened(&self, table: TableId, fd: i32) -> Option<FileId> {
        self.tables.get(table, fd).map(|open| open.file)
    }

    /// The descriptor turns out to be open on this file.
    pub fn bind(&mut self, table: TableId, fd: i32, file: FileId) {
        self.put(table, fd, Open { file, cloexec: false });
    }

    /// The file of this path, which is a new one if the path was not seen before or has been unlinked.
    pub fn named(&mut self, path: &str) -> FileId {
        if let Some(file) = self.names.get(path) {
            return file;
        }
        let huge = self.mounts.at(path);
        let file = self.add(path.to_owned(), huge);
        path.clone_into(&mut self.files[file.0 as usize].shown);
        self.names.insert(path, file);
        file
    }

    /// Whether it was known from its opening on to consist of huge pages, and not by a second look.
    #[must_use]
    pub fn was_declared(&self, file: FileId) -> bool {
        let known = &self.files[file.0 as usize];
        known.huge.is_some() && !self.guessed.contains(&file)
    }

    /// Whether a file of this path has been seen.
    #[must_use]
    pub fn is_named(&self, path: &str) -> bool {
        self.names.get(path).is_some()
    }

    /// The name is gone; the file lives on while it is open or mapped.
    pub fn unlink(&mut self, path: &str) -> Option<FileId> {
        let file = self.names.remove(path)?;
        self.lost.push(file);
        Some(file)
    }

    /// The file has another name besides.
    pub fn link(&mut self, from: &str, to: &str) {
        let file = self.named(from);
        self.name(file, to);
    }

    /// The file has this name besides.
    pub fn name(&mut self, file: FileId, path: &str) {
        self.unlink(path);
        self.names.insert(path, file);
    }

    /// The name of a file, or of a directory and so of all in it, is another one now.
    pub fn rename(&mut self, from: &str, to: &str, exchange: bool) {
        if !exchange {
            let gone = self.names.remove(to);
            self.lost.extend(gone);
        }
        for (file, old, new) in self.names.rename(from, to, exchange) {
            let file = &mut self.files[file.0 as usize];
            if file.shown == old {
                file.shown.clone_from(&new);
            }
            if file.name == old {
                file.name = new;
            }
        }
    }

    /// A file that has no name and no descriptor: an anonymous mapping.
    pub fn anonymous(&mut self, huge: Option<u32>) -> FileId {
        self.add("anonymous".to_owned(), huge)
    }

    /// A descriptor was copied.
    pub fn dup(&mut self, table: TableId, fd: &Descriptor, copy: i32, cloexec: bool) {
        if self.opened(table, fd.number).is_none() && fd.path.is_none() {
            self.close_one(table, copy);
            return;
        }
        let file = self.of(table, fd);
        // dup2 of a descriptor onto itself changes nothing.
        if fd.number != copy {
            self.put(table, copy, Open { file, cloexec });
        }
    }

    /// Descriptors were closed.
    pub fn close(&mut self, table: TableId, fds: std::ops::RangeInclusive<u32>) {
        self.lost.extend(self.tables.close(table, fds));
    }

    fn close_one(&mut self, table: TableId, fd: i32) {
        if let Ok(fd) = u32::try_from(fd) {
            self.close(table, fd..=fd);
        }
    }

    /// A child starts with a copy of its parent's descriptors; with `exec`, of those that outlive an execve.
    pub fn copy_table(&mut self, from: TableId, to: TableId, exec: bool) {
        self.tables.copy(from, to, exec);
    }

    /// Nobody uses the table any more.
    pub fn drop_table(&mut self, table: TableId) {
        self.lost.extend(self.tables.remove(table));
    }

    /// `shmget` returned `id`: a new segment, or one that is known.
    pub fn shmget(&mut self, id: u32, size: u64, huge: Option<u32>) -> FileId {
        if let Some(segment) = self.segments.get(&id).filter(|segment| !segment.removed) {
            return segment.file;
        }
        let file = self.add(format!("shm {id}"), huge);
        self.segments.insert(id, Segment { file, size, removed: false });
        file
    }

    /// The segment `id` and its size, if it is known.
    #[must_use]
    pub fn segment(&self, id: u32) -> Option<(FileId, u64)> {
        self.segments.get(&id).map(|segment| (segment.file, segment.size))
    }

    /// The segment goes away when the last who is attached lets go; its number may then be given again.
    pub fn remove_segment(&mut self, id: u32) -> Option<FileId> {
        let segment = self.segments.get_mut(&id)?;
        segment.removed = true;
        self.lost.push(segment.file);
        Some(segment.file)
    }

    /// Whether it is a segment that goes away with its last mapping, but can be attached until then.
    #[must_use]
    pub fn is_dying_segment(&self, file: FileId) -> bool {
        self.segments.values().any(|segment| segment.file == file && segment.removed)
    }

    /// Whether the file has a name, a descriptor or a segment number: whether somebody could still come to map it.
    #[must_use]
    pub fn is_reachable(&self, file: FileId) -> bool {
        let attachable = || self.segments.values().any(|segment| segment.file == file && !segment.removed);
        let flying = || self.flying.iter().flatten().any(|sent| *sent == file);
        self.names.count(file) > 0 || self.tables.count(file) > 0 || attachable() || flying()
    }

    /// Something else than a name or a descriptor of the file went away.
    pub fn lost(&mut self, file: FileId) {
        self.lost.push(file);
    }

    /// Files that may have become unreachable since this was asked last.
    pub fn take_lost(&mut self) -> Vec<FileId> {
        let mut lost = std::mem::take(&mut self.lost);
        lost.sort_unstable();
        lost.dedup();
        lost
    }

    /// The file turned out to consist of huge pages of this size, long after it was opened: it was mapped with
    /// `MAP_HUGETLB`, and the kernel did not object.
    pub fn is_huge(&mut self, file: FileId, shift: u32) {
        self.survey.huge.entry(file).or_insert(shift);
    }

    /// What [`Files::new`] of a second run over the same recording needs to know.
    #[must_use]
    pub fn survey(self) -> Survey {
        self.survey
    }

    fn put(&mut self, table: TableId, fd: i32, open: Open) {
        let replaced = self.tables.put(table, fd, open);
        self.lost.extend(replaced);
    }

    fn add(&mut self, name: String, huge: Option<u32>) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        let guess = self.survey.huge.get(&id).copied().filter(|_| huge.is_none());
        if guess.is_some() {
            self.guessed.insert(id);
        }
        let huge = huge.or(guess);
        self.files.push(File { name, huge, shown: String::new(), size: None, guessed: 0 });
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: TableId = TableId(1);

    fn files() -> Files {
        let mount = Mount { directory: "/srv/h".to_owned(), page_shift: 30 };
        Files::new(vec![mount], 21, Survey::default())
    }

    fn fd(number: i32) -> Descriptor {
        Descriptor { number, path: None, deleted: false }
    }

    #[test]
    fn files_under_a_mount_of_hugetlbfs_are_huge() {
        let mut files = files();
        files.mount("/srv/two/", "rw,pagesize=2M");
        let huge = |files: &mut Files, path: &str| {
            let id = files.named(path);
            files.file(id).and_then(|file| file.huge)
        };
        let expected = [
            ("/dev/hugepages/a", Some(21)),
            ("/mnt/huge_1/a", Some(21)),
            ("/srv/h/a", Some(30)),
            ("/srv/two/a", Some(21)),
            ("/srv/hh/a", None),
            ("/mnt/huge", None),
            ("/etc/passwd", None),
        ];
        for (path, shift) in expected {
            assert_eq!(huge(&mut files, path), shift, "{path}");
        }
    }

    #[test]
    fn a_file_once_mapped_huge_is_huge_from_its_opening_on_in_the_second_run() {
        let mut first = files();
        let file = first.open(TABLE, 3, "/x/a", false);
        assert_eq!(first.file(file).and_then(|file| file.huge), None);
        first.is_huge(file, 21);
        let mut second = Files::new(Vec::new(), 21, first.survey());
        let file = second.open(TABLE, 3, "/x/a", false);
        assert_eq!(second.file(file).and_then(|file| file.huge), Some(21));
    }

    #[test]
    fn descriptors_follow_dup_fork_execve_and_close() {
        let mut files = files();
        let a = files.open(TABLE, 3, "/a", true);
        files.dup(TABLE, &fd(3), 4, false);
        let (child, program) = (TableId(2), TableId(3));
        files.copy_table(TABLE, child, false);
        assert_eq!(files.of(child, &fd(3)), a);
        files.copy_table(child, program, true);
        assert_ne!(files.of(program, &fd(3)), a, "it was close-on-exec");
        assert_eq!(files.of(program, &fd(4)), a, "the copy was not");
        files.close(child, 3..=u32::MAX);
        assert_ne!(files.of(child, &fd(4)), a);
        assert_eq!(files.of(TABLE, &fd(4)), a);
    }

    #[test]
    fn a_path_means_a_new_file_after_it_was_unlinked() {
        let mut files = files();
        let first = files.open(TABLE, 3, "/a", false);
        assert_eq!(files.open(TABLE, 4, "/a", false), first);
        files.unlink("/a");
        assert_ne!(files.open(TABLE, 5, "/a", false), first);
        assert_eq!(files.of(TABLE, &fd(3)), first);
    }

    #[test]
    fn a_segment_lives_until_it_is_removed_and_its_number_given_again() {
        let mut files = files();
        let first = files.shmget(7, 100, Some(21));
        assert_eq!(files.shmget(7, 100, None), first);
        files.remove_segment(7);
        assert_eq!(files.segment(7), Some((first, 100)));
        assert_ne!(files.shmget(7, 200, None), first);
    }

    #[test]
    fn a_file_is_one_under_all_its_names() {
        let mut files = files();
        let first = files.open(TABLE, 3, "/d/a", false);
        files.rename("/d", "/e", false);
        assert_eq!(files.named("/e/a"), first);
        files.link("/e/a", "/b");
        files.unlink("/e/a");
        assert_eq!(files.named("/b"), first);
        let second = files.named("/c");
        files.rename("/b", "/c", true);
        assert_eq!((files.named("/c"), files.named("/b")), (first, second));
        files.rename("/b", "/c", false);
        assert_eq!(files.named("/c"), second);
        assert!(files.is_reachable(first), "it is open");
        files.close(TABLE, 3..=3);
        assert!(!files.is_reachable(first));
        assert_eq!(files.take_lost(), [first]);
    }
}
