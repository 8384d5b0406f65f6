//! Which file a descriptor is open on, and whether that file lies on hugetlbfs.
//!
//! A recording does not say on which file system a file is. It is taken for a huge-page file if it is a memory file or
//! segment made so, if its path lies under a known mount, or if it is ever mapped with `MAP_HUGETLB` with success: the
//! kernel refuses that for any other file. For the last the recording is read twice: see [`Files::survey`].

use std::collections::{HashMap, HashSet};

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
}

/// A directory on which hugetlbfs is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory, without a slash at the end.
    pub directory: String,
    /// The size of its pages, as a power of two.
    pub page_shift: u32,
}

/// An entry of a descriptor table.
#[derive(Clone, Copy, Debug)]
struct Open {
    file: FileId,
    cloexec: bool,
}

/// All files that the recording has opened.
#[derive(Debug)]
pub struct Files {
    files: Vec<File>,
    mounts: Vec<Mount>,
    default_shift: u32,
    mapped_huge: HashSet<FileId>,
    names: HashMap<String, FileId>,
    segments: HashMap<u32, Segment>,
    tables: HashMap<TableId, HashMap<i32, Open>>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    file: FileId,
    size: u64,
    removed: bool,
}

impl Files {
    /// No files yet. `mounts` are the hugetlbfs mounts that the user knows of; `mapped_huge` is what an earlier run found.
    #[must_use]
    pub fn new(mounts: Vec<Mount>, default_shift: u32, mapped_huge: HashSet<FileId>) -> Self {
        Self {
            files: Vec::new(),
            mounts,
            default_shift,
            mapped_huge,
            names: HashMap::new(),
            segments: HashMap::new(),
            tables: HashMap::new(),
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self, id: FileId) -> Option<&File> {
        self.files.get(id.0 as usize)
    }

    /// A hugetlbfs was mounted.
    pub fn mount(&mut self, directory: &str, options: &str) {
        let page_shift = options.split(',').find_map(|option| option.strip_prefix("pagesize=")).map_or(
            self.default_shift,
            |size| {
                if size.starts_with("1G") || size == "1048576K" { 30 } else { 21 }
            },
        );
        self.mounts.push(Mount { directory: directory.trim_end_matches('/').to_owned(), page_shift });
    }

    /// `path` was opened as `fd`.
    pub fn open(&mut self, table: TableId, fd: i32, path: &str, cloexec: bool) -> FileId {
        let file = self.named(path);
        self.tables.entry(table).or_default().insert(fd, Open { file, cloexec });
        file
    }

    /// A memory file was made as `fd`.
    pub fn memfd(&mut self, table: TableId, fd: i32, huge: Option<u32>, cloexec: bool) -> FileId {
        let file = self.add("memfd".to_owned(), huge);
        self.tables.entry(table).or_default().insert(fd, Open { file, cloexec });
        file
    }

    /// A userfaultfd was made as `fd`.
    pub fn userfaultfd(&mut self, table: TableId, fd: i32, cloexec: bool) -> FileId {
        let file = self.userfaultfd_of_child();
        self.tables.entry(table).or_default().insert(fd, Open { file, cloexec });
        file
    }

    /// A userfaultfd came to be, for which nobody has a descriptor yet.
    pub fn userfaultfd_of_child(&mut self) -> FileId {
        self.add("userfaultfd".to_owned(), None)
    }

    /// The file that the recording has shown a descriptor to be open on.
    #[must_use]
    pub fn opened(&self, table: TableId, fd: i32) -> Option<FileId> {
        self.tables.get(&table)?.get(&fd).map(|open| open.file)
    }

    /// The descriptor turns out to be open on this file.
    pub fn bind(&mut self, table: TableId, fd: i32, file: FileId) {
        self.tables.entry(table).or_default().insert(fd, Open { file, cloexec: false });
    }

    /// The file of this path, which is a new one if the path was not seen before or has been unlinked.
    pub fn named(&mut self, path: &str) -> FileId {
        if let Some(file) = self.names.get(path) {
            return *file;
        }
        let huge = self.mounted_at(path);
        let file = self.add(path.to_owned(), huge);
        self.names.insert(path.to_owned(), file);
        file
    }

    /// The name is gone; the file lives on while it is open or mapped.
    pub fn unlink(&mut self, path: &str) -> Option<FileId> {
        self.names.remove(path)
    }

    /// A file that has no name and no descriptor: an anonymous mapping.
    pub fn anonymous(&mut self, huge: Option<u32>) -> FileId {
        self.add("anonymous".to_owned(), huge)
    }

    /// The file behind a descriptor. If the recording does not show where it was opened, the path that `strace -y` prints
    /// beside it tells, or else it is a file that nobody has seen yet.
    pub fn of(&mut self, table: TableId, fd: &Descriptor) -> FileId {
        if let Some(open) = self.tables.get(&table).and_then(|open| open.get(&fd.number)) {
            return open.file;
        }
        let file = match &fd.path {
            Some(path) => self.named(path),
            None => self.add(format!("descriptor {}", fd.number), None),
        };
        self.tables.entry(table).or_default().insert(fd.number, Open { file, cloexec: false });
        file
    }

    /// A descriptor was copied.
    pub fn dup(&mut self, table: TableId, fd: i32, copy: i32) {
        let descriptors = self.tables.entry(table).or_default();
        match descriptors.get(&fd).copied() {
            Some(open) => descriptors.insert(copy, Open { cloexec: false, ..open }),
            None => descriptors.remove(&copy),
        };
    }

    /// Descriptors were closed.
    pub fn close(&mut self, table: TableId, fds: std::ops::RangeInclusive<u32>) {
        if let Some(descriptors) = self.tables.get_mut(&table) {
            descriptors.retain(|fd, _| u32::try_from(*fd).is_ok_and(|fd| !fds.contains(&fd)));
        }
    }

    /// A child starts with a copy of its parent's descriptors; with `exec`, of those that outlive an execve.
    pub fn copy_table(&mut self, from: TableId, to: TableId, exec: bool) {
        let mut descriptors = self.tables.get(&from).cloned().unwrap_or_default();
        descriptors.retain(|_, open| !(exec && open.cloexec));
        self.tables.insert(to, descriptors);
    }

    /// Nobody uses the table any more.
    pub fn drop_table(&mut self, table: TableId) {
        self.tables.remove(&table);
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
        Some(segment.file)
    }

    /// Whether the file has a name, a descriptor or a segment number: whether somebody could still come to map it.
    #[must_use]
    pub fn is_reachable(&self, file: FileId) -> bool {
        let open = || self.tables.values().flat_map(HashMap::values).any(|open| open.file == file);
        let attachable = || self.segments.values().any(|segment| segment.file == file && !segment.removed);
        self.names.values().any(|named| *named == file) || attachable() || open()
    }

    /// The file was mapped with `MAP_HUGETLB`, and the kernel did not object.
    pub fn was_mapped_huge(&mut self, file: FileId) {
        self.mapped_huge.insert(file);
    }

    /// What [`Files::new`] of a second run over the same recording needs to know.
    #[must_use]
    pub fn survey(self) -> HashSet<FileId> {
        self.mapped_huge
    }

    fn add(&mut self, name: String, huge: Option<u32>) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        let huge = huge.or_else(|| self.mapped_huge.contains(&id).then_some(self.default_shift));
        self.files.push(File { name, huge });
        id
    }

    fn mounted_at(&self, path: &str) -> Option<u32> {
        let under = |directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        // The last mount on a directory is the one that is seen.
        if let Some(mount) = self.mounts.iter().rev().find(|mount| under(&mount.directory)) {
            return Some(mount.page_shift);
        }
        let customary = under("/dev/hugepages")
            || under("/run/hugepages")
            || path.strip_prefix("/mnt/huge").is_some_and(|rest| rest.contains('/'));
        customary.then_some(self.default_shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: TableId = TableId(1);

    fn files(mapped_huge: &[FileId]) -> Files {
        let mount = Mount { directory: "/srv/h".to_owned(), page_shift: 30 };
        Files::new(vec![mount], 21, mapped_huge.iter().copied().collect())
    }

    fn fd(number: i32) -> Descriptor {
        Descriptor { number, path: None }
    }

    #[test]
    fn files_under_a_mount_of_hugetlbfs_are_huge() {
        let mut files = files(&[]);
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
        let mut first = files(&[]);
        let file = first.open(TABLE, 3, "/x/a", false);
        assert_eq!(first.file(file).and_then(|file| file.huge), None);
        first.was_mapped_huge(file);
        let mut second = Files::new(Vec::new(), 21, first.survey());
        let file = second.open(TABLE, 3, "/x/a", false);
        assert_eq!(second.file(file).and_then(|file| file.huge), Some(21));
    }

    #[test]
    fn descriptors_follow_dup_fork_execve_and_close() {
        let mut files = files(&[]);
        let a = files.open(TABLE, 3, "/a", true);
        files.dup(TABLE, 3, 4);
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
        let mut files = files(&[]);
        let first = files.open(TABLE, 3, "/a", false);
        assert_eq!(files.open(TABLE, 4, "/a", false), first);
        files.unlink("/a");
        assert_ne!(files.open(TABLE, 5, "/a", false), first);
        assert_eq!(files.of(TABLE, &fd(3)), first);
    }

    #[test]
    fn a_segment_lives_until_it_is_removed_and_its_number_given_again() {
        let mut files = files(&[]);
        let first = files.shmget(7, 100, Some(21));
        assert_eq!(files.shmget(7, 100, None), first);
        files.remove_segment(7);
        assert_eq!(files.segment(7), Some((first, 100)));
        assert_ne!(files.shmget(7, 200, None), first);
    }
}
