//! Calls that open, copy and close descriptors, and what becomes of files that nobody can reach any more.

use super::planner::{Actor, Planner};
use super::{Act, Change, FileAct, FileId, Op};
use crate::trace::flags::{MemfdFlags, OpenFlags};
use crate::trace::{Call, Event};

impl Planner {
    pub(super) fn descriptors(&mut self, call: &Call, actor: &Actor<'_>) {
        let table = actor.thread.table;
        let Some(value) = actor.outcome.value() else { return };
        match call {
            Call::Open { directory, path, flags, opened } => {
                let path = match (opened, directory.as_ref().and_then(|open| open.path.as_deref())) {
                    (Some(opened), _) => opened.to_string(),
                    (None, Some(directory)) if !path.starts_with('/') => format!("{directory}/{path}"),
                    _ => path.to_string(),
                };
                let cloexec = flags.contains(OpenFlags::O_CLOEXEC);
                let file = self.files.open(table, descriptor(value), &path, cloexec);
                let known = self.held.contains(&file);
                if let (true, Some(shift)) = (flags.contains(OpenFlags::O_TRUNC) && known, self.huge(file)) {
                    self.change(actor, None, FileAct { file, shift, change: Change::Truncate { length: 0 } });
                }
            }
            Call::MemfdCreate { flags } => {
                let huge = flags
                    .contains(MemfdFlags::MFD_HUGETLB)
                    .then(|| flags.page_shift().unwrap_or(self.default_shift));
                self.files.memfd(table, descriptor(value), huge, flags.contains(MemfdFlags::MFD_CLOEXEC));
            }
            Call::Dup { fd } => self.files.dup(table, *fd, descriptor(value)),
            Call::Close { fd } => {
                if let Ok(fd) = u32::try_from(*fd) {
                    self.files.close(table, fd..=fd);
                }
            }
            Call::CloseRange { first, last, cloexec_only: false } => {
                self.files.close(table, *first..=*last);
            }
            Call::Unlink { directory, path } => {
                let directory = directory.as_ref().and_then(|open| open.path.as_deref());
                match directory.filter(|_| !path.starts_with('/')) {
                    Some(directory) => self.files.unlink(&format!("{directory}/{path}")),
                    None => self.files.unlink(path),
                };
            }
            Call::Mount { target, kind, options } if **kind == *"hugetlbfs" => {
                self.files.mount(target, options);
            }
            _ => {}
        }
        self.forget_unreachable(actor.event, call.name());
    }

    /// Lets go of huge files that nobody can come to map any more.
    pub(super) fn forget_unreachable(&mut self, event: &Event, call: &'static str) {
        if self.held.is_empty() {
            return;
        }
        let gone: Vec<FileId> =
            self.held.iter().copied().filter(|file| !self.files.is_reachable(*file)).collect();
        for file in gone {
            self.held.remove(&file);
            if self.close_handler(file, event, call) {
                continue;
            }
            let act = FileAct { file, shift: self.huge(file).unwrap_or(21), change: Change::Forget };
            self.push_op(Op {
                time: event.time,
                line: event.line,
                pid: event.tid,
                tid: event.tid,
                call,
                recorded: None,
                act: Act::File(act),
            });
        }
    }
}

fn descriptor(value: u64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
