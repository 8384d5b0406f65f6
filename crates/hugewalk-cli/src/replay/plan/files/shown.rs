//! Which file a descriptor is open on, where the recording does not show how it was opened: what came with a message, what
//! `strace -y` prints beside the descriptor, and else a guess, which is said.

use super::{FileId, Files};
use crate::replay::plan::tables::Open;
use crate::replay::plan::tasks::TableId;
use crate::trace::Descriptor;

impl Files {
    /// The file behind a descriptor. If the recording does not show where it was opened, the path that `strace -y` prints
    /// beside it tells, or else it is a file that nobody has seen yet.
    pub fn of(&mut self, table: TableId, fd: &Descriptor) -> FileId {
        self.of_size(table, fd, None)
    }

    /// The same for a file that has to be so large, if its descriptor came by a way that is not recorded.
    pub fn of_size(&mut self, table: TableId, fd: &Descriptor, size: Option<u64>) -> FileId {
        if let Some(open) = self.tables.get(table, fd.number)
            && fd.path.as_ref().is_none_or(|path| self.is_shown_as(open.file, path))
        {
            return open.file;
        }
        let file = match &fd.path {
            Some(path) => self.shown(path, fd.deleted, size),
            None => self.add(format!("descriptor {}", fd.number), None),
        };
        self.put(table, fd.number, Open { file, cloexec: false });
        file
    }

    /// Whether what strace shows beside a descriptor can be this file.
    fn is_shown_as(&self, file: FileId, path: &str) -> bool {
        let shown = &self.files[file.0 as usize].shown;
        shown.is_empty() || shown == path || self.names.get(path) == Some(file)
    }

    /// The file that strace shows so.
    fn shown(&mut self, path: &str, deleted: bool, size: Option<u64>) -> FileId {
        if let Some(name) = path.strip_prefix("/memfd:") {
            return self.memfd_shown(name, size);
        }
        if !deleted {
            return self.named(path);
        }
        // The last that had the name, or one that was gone before the recording began.
        let gone = (0..).zip(&self.files).filter(|(_, file)| file.shown == path).map(|(id, _)| FileId(id));
        gone.last().unwrap_or_else(|| {
            let huge = self.mounts.at(path);
            let file = self.add(path.to_owned(), huge);
            path.clone_into(&mut self.files[file.0 as usize].shown);
            file
        })
    }

    /// A memory file by its name, which need not be the only one of it: one of the right size, and of these the one that
    /// has been given away least and made first.
    fn memfd_shown(&mut self, name: &str, size: Option<u64>) -> FileId {
        let of_name = self.memfds.get(name).map(Vec::as_slice).unwrap_or_default();
        let known = |file: &FileId| &self.files[file.0 as usize];
        let reachable: Vec<FileId> =
            of_name.iter().copied().filter(|file| self.is_reachable(*file)).collect();
        let exact: Vec<FileId> =
            reachable.iter().copied().filter(|file| size.is_some() && known(file).size == size).collect();
        let candidates = if exact.is_empty() { &reachable } else { &exact };
        let found = candidates.iter().copied().min_by_key(|file| (known(file).guessed, *file));
        let found = found.or_else(|| of_name.last().copied());
        if candidates.len() > 1 {
            self.notes.push(format!(
                "There are {} memory files named {name}, and the recording does not show which of them a process got: \
                 they were given out in the order in which they were made. Record sendmsg and recvmsg too.",
                candidates.len()
            ));
        }
        let file = found.unwrap_or_else(|| {
            let file = self.add("memfd".to_owned(), None);
            self.files[file.0 as usize].shown = format!("/memfd:{name}");
            self.memfds.entry(name.to_owned()).or_default().push(file);
            file
        });
        self.files[file.0 as usize].guessed += 1;
        file
    }

    /// The file has been given this size.
    pub fn sized(&mut self, file: FileId, size: u64) {
        self.files[file.0 as usize].size = Some(size);
    }

    /// Files are on their way to another process.
    pub fn send(&mut self, files: Vec<FileId>) {
        self.flying.push_back(files);
    }

    /// Descriptors came with a message: of the first that carries as many files, and those that strace shows.
    pub fn receive(&mut self, table: TableId, fds: &[Descriptor], cloexec: bool) {
        let fits = |sent: &Vec<FileId>| {
            sent.len() == fds.len()
                && sent
                    .iter()
                    .zip(fds)
                    .all(|(file, fd)| fd.path.as_ref().is_none_or(|path| self.is_shown_as(*file, path)))
        };
        let place = self.flying.iter().position(fits);
        match place.and_then(|place| self.flying.remove(place)) {
            Some(sent) => {
                for (file, fd) in sent.into_iter().zip(fds) {
                    self.put(table, fd.number, Open { file, cloexec });
                }
            }
            None => {
                for fd in fds {
                    self.close_one(table, fd.number);
                    self.of(table, fd);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::plan::files::Survey;
    use crate::replay::plan::mounts::Mount;

    const TABLE: TableId = TableId(1);

    fn files() -> Files {
        let mount = Mount { directory: "/srv/h".to_owned(), page_shift: 30 };
        Files::new(vec![mount], 21, Survey::default())
    }

    fn fd(number: i32) -> Descriptor {
        Descriptor { number, path: None, deleted: false }
    }

    fn shown(number: i32, path: &str) -> Descriptor {
        Descriptor { number, path: Some(path.into()), deleted: true }
    }

    #[test]
    fn a_memory_file_that_came_by_a_message_is_the_one_that_was_sent() {
        let other = TableId(2);
        let mut files = files();
        let one = files.memfd(TABLE, 3, "ram", Some(21), false);
        let two = files.memfd(TABLE, 4, "ram", Some(21), false);
        files.sized(one, 1);
        files.sized(two, 2);
        files.send(vec![two]);
        files.receive(other, &[shown(9, "/memfd:ram")], false);
        assert_eq!(files.of(other, &fd(9)), two);
        // Where the message is not recorded its name and size tell.
        assert_eq!(files.of_size(other, &shown(10, "/memfd:ram"), Some(2)), two);
        assert_eq!(files.of_size(other, &shown(11, "/memfd:ram"), Some(1)), one);
        assert!(files.notes.is_empty());
        assert_eq!(files.of_size(other, &shown(12, "/memfd:ram"), Some(3)), one);
        assert_eq!(files.notes.len(), 1, "that was a guess");
        // What strace shows beside a descriptor counts for more than what is remembered of it.
        assert_eq!(files.of_size(other, &shown(9, "/memfd:other"), None), FileId(2));
    }
}
