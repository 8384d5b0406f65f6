//! Calls that open, copy, send and close descriptors, and what becomes of files that nobody can reach any more.

use super::names::absolute;
use super::planner::{Actor, Planner};
use super::tasks::TableId;
use super::{Act, Change, FileAct, FileId, Op};
use crate::trace::flags::{MemfdFlags, OpenFlags};
use crate::trace::{Call, Descriptor, Event};

impl Planner {
    pub(super) fn descriptors(&mut self, call: &Call, actor: &Actor<'_>) {
        let table = actor.thread.table;
        let Some(value) = actor.outcome.value() else {
            if let Call::MemfdCreate { flags, .. } = call
                && flags.contains(MemfdFlags::MFD_HUGETLB)
            {
                let shift = flags.page_shift().unwrap_or(self.default_shift);
                self.failed(0, shift, "memfd".to_owned(), actor);
            }
            return;
        };
        match call {
            Call::Open { .. } => self.open(call, descriptor(value), actor),
            Call::MemfdCreate { name, flags } => {
                let huge = flags
                    .contains(MemfdFlags::MFD_HUGETLB)
                    .then(|| flags.page_shift().unwrap_or(self.default_shift));
                let cloexec = flags.contains(MemfdFlags::MFD_CLOEXEC);
                self.files.memfd(table, descriptor(value), name, huge, cloexec);
            }
            Call::Dup { fd, cloexec } => self.files.dup(table, fd, descriptor(value), *cloexec),
            Call::Close { fd } => {
                if let Ok(fd) = u32::try_from(*fd) {
                    self.files.close(table, fd..=fd);
                }
            }
            Call::CloseRange { first, last, cloexec_only } => {
                if *cloexec_only {
                    self.files.tables.close_on_exec(table, &(*first..=*last));
                } else {
                    self.files.close(table, *first..=*last);
                }
            }
            Call::Send { sent, .. } => {
                for message in sent {
                    let files = message.iter().map(|fd| self.files.of(table, fd)).collect();
                    // Where nobody is seen to receive it, it would be on its way for ever.
                    if self.receives {
                        self.files.send(files);
                    }
                }
            }
            Call::Receive { received, cloexec, .. } => {
                for message in received {
                    self.files.receive(table, message, *cloexec);
                }
            }
            Call::PidfdOpen { pid } => self.files.pidfd(table, descriptor(value), *pid),
            Call::PidfdGetfd { pidfd, fd } => {
                let process = self.files.process_of(table, pidfd.number);
                let file = process.and_then(|pid| self.opened_by(pid, *fd));
                match file {
                    Some(file) => self.files.bind(table, descriptor(value), file),
                    None => self.files.close(table, fd_range(descriptor(value))),
                }
            }
            _ => {}
        }
    }

    /// Calls on the names of files and on directories.
    pub(super) fn names(&mut self, call: &Call, actor: &Actor<'_>) {
        if !actor.succeeded() {
            return;
        }
        match call {
            Call::Unlink { directory, path } => {
                let path = self.absolute(directory.as_ref(), path, actor);
                self.files.unlink(&path);
            }
            Call::Rename { from_directory, from, to_directory, to, exchange } => {
                let from = self.absolute(from_directory.as_ref(), from, actor);
                let to = self.absolute(to_directory.as_ref(), to, actor);
                self.files.rename(&from, &to, *exchange);
            }
            Call::Link { from_directory, from, to_directory, to } => {
                let from = self.absolute(from_directory.as_ref(), from, actor);
                let to = self.absolute(to_directory.as_ref(), to, actor);
                match self.by_link(&from, actor) {
                    Some(file) => self.files.name(file, &to),
                    None => self.files.link(&from, &to),
                }
            }
            Call::Chdir { path } => {
                let path = self.absolute(None, path, actor);
                self.tasks.chdir(actor.thread.fs, path);
            }
            Call::Fchdir { fd } => {
                if let Some(path) = self.directory(fd, actor) {
                    self.tasks.chdir(actor.thread.fs, path);
                }
            }
            Call::Statfs { path, page } => {
                let path = self.absolute(None, path, actor);
                self.files.is_hugetlbfs(&path, page.trailing_zeros());
                self.siblings(&path, page.trailing_zeros());
            }
            Call::Fstatfs { fd, page } => {
                let file = self.files.of(actor.thread.table, fd);
                let name = self.files.file(file).map(|file| file.name.clone()).unwrap_or_default();
                self.files.is_huge(file, page.trailing_zeros());
                if name.starts_with('/') {
                    self.files.is_hugetlbfs(&name, page.trailing_zeros());
                    self.siblings(&name, page.trailing_zeros());
                }
            }
            Call::Mount { target, kind, options } if **kind == *"hugetlbfs" => {
                let target = self.absolute(None, target, actor);
                self.files.mount(&target, options);
            }
            _ => {}
        }
    }

    /// Files beside one that turned out to lie on hugetlbfs lie there too, unless it is a directory.
    fn siblings(&mut self, path: &str, shift: u32) {
        if self.directories.contains(path) {
            return;
        }
        if self.files.is_named(path)
            && let Some((directory, _)) = path.rsplit_once('/')
            && !directory.is_empty()
        {
            self.files.is_hugetlbfs(directory, shift);
        }
    }

    fn open(&mut self, call: &Call, fd: i32, actor: &Actor<'_>) {
        let Call::Open { directory, path, flags, opened } = call else { return };
        let table = actor.thread.table;
        let cloexec = flags.contains(OpenFlags::O_CLOEXEC);
        let asked = self.absolute(directory.as_ref(), path, actor);
        if flags.contains(OpenFlags::O_DIRECTORY) {
            self.directories.insert(asked.clone());
        }
        if let Some(file) = self.by_link(&asked, actor) {
            self.files.bind(table, fd, file);
            if cloexec && let Ok(fd) = u32::try_from(fd) {
                self.files.tables.close_on_exec(table, &(fd..=fd));
            }
            return;
        }
        if flags.contains(OpenFlags::O_TMPFILE) {
            self.files.open_nameless(table, fd, &asked, cloexec);
            return;
        }
        // A link that could not be followed: what strace shows tells what it leads to.
        if let Some(shown) = opened.as_ref().filter(|shown| shown.deleted || is_memfd(shown)) {
            self.files.close(table, fd_range(fd));
            self.files.of(table, &Descriptor { number: fd, ..shown.clone() });
            return;
        }
        // What strace shows of the result goes through links.
        let path = opened.as_ref().and_then(|opened| opened.path.as_deref()).unwrap_or(&asked);
        if flags.contains(OpenFlags::O_CREAT | OpenFlags::O_EXCL) {
            // It was not there before, whatever became of one that was.
            self.files.unlink(path);
        }
        let file = self.files.open(table, fd, path, cloexec);
        let known = self.held.contains(&file);
        if let (true, Some(shift)) = (flags.contains(OpenFlags::O_TRUNC) && known, self.huge(file)) {
            self.change(actor, None, FileAct { file, shift, change: Change::Truncate { length: 0 } });
        }
    }

    /// The file behind a path such as `/proc/PID/fd/N`.
    fn by_link(&mut self, path: &str, actor: &Actor<'_>) -> Option<FileId> {
        let (process, rest) = match path.strip_prefix("/dev/fd/") {
            Some(number) => ("self", format!("fd/{number}")),
            None => {
                let (process, rest) = path.strip_prefix("/proc/")?.split_once('/')?;
                (process, rest.to_owned())
            }
        };
        let rest = match rest.strip_prefix("task/") {
            Some(rest) => rest.split_once('/')?.1.to_owned(),
            None => rest,
        };
        let pid = match process {
            "self" | "thread-self" => actor.thread.pid,
            number => number.parse().ok()?,
        };
        if let Some(number) = rest.strip_prefix("fd/") {
            return self.opened_by(pid, number.parse().ok()?);
        }
        let start = rest.strip_prefix("map_files/")?.split('-').next()?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let space = self.tasks.of_process(pid)?.space;
        let mapping = self.memory(space).at(start)?.mapping;
        Some(self.plan.mappings[mapping.0 as usize].file)
    }

    fn opened_by(&self, pid: u32, fd: i32) -> Option<FileId> {
        self.files.opened(self.tasks.of_process(pid)?.table, fd)
    }

    /// The whole path of `path`, from the directory that a descriptor is open on, or else the working directory.
    pub(super) fn absolute(
        &mut self,
        directory: Option<&Descriptor>,
        path: &str,
        actor: &Actor<'_>,
    ) -> String {
        if path.starts_with('/') {
            return absolute(None, path);
        }
        const AT_FDCWD: i32 = -100;
        let directory = match directory {
            Some(fd) if fd.number != AT_FDCWD || fd.path.is_some() => self.directory(fd, actor),
            _ => self.tasks.cwd(actor.thread.fs).map(str::to_owned),
        };
        absolute(directory.as_deref(), path)
    }

    fn directory(&self, fd: &Descriptor, actor: &Actor<'_>) -> Option<String> {
        let known = |table: TableId| {
            let file = self.files.file(self.files.opened(table, fd.number)?)?;
            file.name.starts_with('/').then(|| file.name.clone())
        };
        fd.path.as_deref().map(str::to_owned).or_else(|| known(actor.thread.table))
    }

    /// Whether somebody could still come to map the file. A segment that was removed can be attached as long as anybody is.
    pub(super) fn is_reachable(&self, file: FileId) -> bool {
        self.files.is_reachable(file) || self.files.is_dying_segment(file) && self.holders.holds_any(file)
    }

    /// Lets go of huge files that nobody can come to map any more.
    pub(super) fn forget_unreachable(&mut self, event: &Event, call: &'static str) {
        for file in self.files.take_lost() {
            if !self.held.contains(&file) || self.is_reachable(file) {
                continue;
            }
            self.held.remove(&file);
            if self.close_handler(file, event, call) {
                continue;
            }
            let act = FileAct { file, shift: self.huge(file).unwrap_or(21), change: Change::Forget };
            self.push_op(Op::following(event, call, Act::File(act)));
        }
    }
}

fn descriptor(value: u64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn is_memfd(fd: &Descriptor) -> bool {
    fd.path.as_ref().is_some_and(|path| path.starts_with("/memfd:"))
}

fn fd_range(fd: i32) -> std::ops::RangeInclusive<u32> {
    let fd = u32::try_from(fd).unwrap_or(u32::MAX);
    fd..=fd
}
