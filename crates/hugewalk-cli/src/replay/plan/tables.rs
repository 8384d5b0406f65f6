//! The tables of descriptors, and on how many descriptors each file is open.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::files::FileId;
use super::tasks::TableId;

/// An entry of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) file: FileId,
    pub(super) cloexec: bool,
}

/// All tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    tables: HashMap<TableId, HashMap<i32, Open>>,
    counts: HashMap<FileId, u64>,
}

impl Tables {
    pub(super) fn get(&self, table: TableId, fd: i32) -> Option<Open> {
        self.tables.get(&table)?.get(&fd).copied()
    }

    /// On how many descriptors the file is open.
    pub(super) fn count(&self, file: FileId) -> u64 {
        self.counts.get(&file).copied().unwrap_or_default()
    }

    /// Opens a descriptor; returns the file on which it was open.
    pub(super) fn put(&mut self, table: TableId, fd: i32, open: Open) -> Option<FileId> {
        *self.counts.entry(open.file).or_default() += 1;
        let old = self.tables.entry(table).or_default().insert(fd, open)?;
        self.gone(old.file);
        Some(old.file)
    }

    /// Closes descriptors; returns the files on which they were open.
    pub(super) fn close(&mut self, table: TableId, fds: RangeInclusive<u32>) -> Vec<FileId> {
        let Some(descriptors) = self.tables.get_mut(&table) else { return Vec::new() };
        let closed: Vec<Open> = if fds.start() == fds.end() {
            let one = i32::try_from(*fds.start()).ok();
            one.and_then(|fd| descriptors.remove(&fd)).into_iter().collect()
        } else {
            let inside = |fd: &i32, _: &mut Open| u32::try_from(*fd).is_ok_and(|fd| fds.contains(&fd));
            descriptors.extract_if(inside).map(|(_, open)| open).collect()
        };
        closed.iter().for_each(|open| self.gone(open.file));
        closed.into_iter().map(|open| open.file).collect()
    }

    /// Those descriptors are closed by the next execve.
    pub(super) fn close_on_exec(&mut self, table: TableId, fds: &RangeInclusive<u32>) {
        for (fd, open) in self.tables.entry(table).or_default() {
            open.cloexec |= u32::try_from(*fd).is_ok_and(|fd| fds.contains(&fd));
        }
    }

    /// `to` becomes a copy of `from`; with `exec`, without what an execve closes.
    pub(super) fn copy(&mut self, from: TableId, to: TableId, exec: bool) {
        let mut descriptors = self.tables.get(&from).cloned().unwrap_or_default();
        descriptors.retain(|_, open| !(exec && open.cloexec));
        for open in descriptors.values() {
            *self.counts.entry(open.file).or_default() += 1;
        }
        self.tables.insert(to, descriptors);
    }

    /// Takes a table away; returns the files on which its descriptors were open.
    pub(super) fn remove(&mut self, table: TableId) -> Vec<FileId> {
        let files: Vec<FileId> = self
            .tables
            .remove(&table)
            .into_iter()
            .flat_map(HashMap::into_values)
            .map(|open| open.file)
            .collect();
        files.iter().for_each(|file| self.gone(*file));
        files
    }

    fn gone(&mut self, file: FileId) {
        if let Some(count) = self.counts.get_mut(&file) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&file);
            }
        }
    }
}
