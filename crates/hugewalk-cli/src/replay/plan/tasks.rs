//! Who is who: threads, the processes they belong to, and which of them live in one address space.

use std::collections::{BTreeMap, HashMap};

use crate::trace::flags::CloneFlags;

/// An address space, from the execve or fork that made it until its last thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceId(pub u32);

/// A table of descriptors, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

/// What a working directory belongs to, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FsId(pub u32);

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// The process it belongs to.
    pub pid: u32,
    /// Its address space.
    pub space: SpaceId,
    /// Its descriptors.
    pub table: TableId,
    /// Its working directory.
    pub fs: FsId,
}

/// What went away with a thread, or an execve.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Its address space, if no other thread lives in it.
    pub space: Option<SpaceId>,
    /// Its descriptors, if no other thread uses them.
    pub table: Option<TableId>,
}

/// All threads that are alive.
#[derive(Debug, Default)]
pub struct Tasks {
    threads: HashMap<u32, Thread>,
    space_users: HashMap<SpaceId, u32>,
    table_users: HashMap<TableId, u32>,
    made: u32,
    directories: HashMap<FsId, String>,
    leaders: HashMap<u32, u32>,
}

impl Tasks {
    /// No thread yet. Of some that nobody made it is known to which process they belong.
    #[must_use]
    pub fn new(leaders: HashMap<u32, u32>) -> Self {
        Self { leaders, ..Self::default() }
    }

    /// The thread `tid`. One that nobody made was there before the recording began, and is a process of its own, unless
    /// it is known to be a thread of another.
    pub fn thread(&mut self, tid: u32) -> Thread {
        if let Some(thread) = self.threads.get(&tid) {
            return *thread;
        }
        let pid = self.leaders.get(&tid).copied().unwrap_or(tid);
        let sibling = self.threads.values().find(|thread| thread.pid == pid).copied();
        let thread = sibling.unwrap_or_else(|| Thread {
            pid,
            space: self.new_space(),
            table: self.new_table(),
            fs: self.new_fs(),
        });
        self.add(tid, thread);
        thread
    }

    /// The thread `tid`, if it is alive.
    #[must_use]
    pub fn living(&self, tid: u32) -> Option<Thread> {
        self.threads.get(&tid).copied()
    }

    /// Whether the first thing that `tid` does is the first that is seen of its process.
    #[must_use]
    pub fn is_new_process(&self, tid: u32) -> bool {
        let pid = self.leaders.get(&tid).copied().unwrap_or(tid);
        self.living(tid).is_none() && self.of_process(pid).is_none()
    }

    /// Any thread of a process, if it is alive: its first one need not be.
    #[must_use]
    pub fn of_process(&self, pid: u32) -> Option<Thread> {
        self.living(pid).or_else(|| self.threads.values().find(|thread| thread.pid == pid).copied())
    }

    /// The working directory, if it is known.
    #[must_use]
    pub fn cwd(&self, fs: FsId) -> Option<&str> {
        self.directories.get(&fs).map(String::as_str)
    }

    /// The working directory is another one now.
    pub fn chdir(&mut self, fs: FsId, path: String) {
        self.directories.insert(fs, path);
    }

    /// The processes that are alive, and the address space of each.
    #[must_use]
    pub fn processes(&self) -> BTreeMap<u32, SpaceId> {
        self.threads.values().map(|thread| (thread.pid, thread.space)).collect()
    }

    /// `parent` makes `child`; what they do not share is new.
    pub fn clone(&mut self, parent: u32, child: u32, flags: CloneFlags) -> Thread {
        let parent = self.thread(parent);
        let thread = Thread {
            pid: if flags.contains(CloneFlags::CLONE_THREAD) { parent.pid } else { child },
            space: if flags.contains(CloneFlags::CLONE_VM) { parent.space } else { self.new_space() },
            table: if flags.contains(CloneFlags::CLONE_FILES) { parent.table } else { self.new_table() },
            fs: if flags.contains(CloneFlags::CLONE_FS) { parent.fs } else { self.copy_fs(parent.fs) },
        };
        self.add(child, thread);
        thread
    }

    /// The process of `tid` begins anew: its other threads end, and it gets an address space and descriptors of its own.
    pub fn execve(&mut self, tid: u32) -> (Thread, Vec<Left>) {
        let old = self.thread(tid);
        let fs = self.copy_fs(old.fs);
        let thread = Thread { pid: old.pid, space: self.new_space(), table: self.new_table(), fs };
        let left = self.end_all(|other, thread| other == tid || thread.pid == old.pid);
        self.add(tid, thread);
        (thread, left)
    }

    /// `tid` ends; with `group`, so does its whole process.
    pub fn end(&mut self, tid: u32, group: bool) -> Vec<Left> {
        let Some(ending) = self.threads.get(&tid).copied() else {
            return Vec::new();
        };
        self.end_all(|other, thread| other == tid || group && thread.pid == ending.pid)
    }

    fn end_all(&mut self, ends: impl Fn(u32, &Thread) -> bool) -> Vec<Left> {
        let mut ending: Vec<u32> =
            self.threads.iter().filter(|(tid, thread)| ends(**tid, thread)).map(|(tid, _)| *tid).collect();
        ending.sort_unstable();
        let threads: Vec<Thread> = ending.iter().filter_map(|tid| self.threads.remove(tid)).collect();
        threads
            .into_iter()
            .map(|thread| Left {
                space: count_down(&mut self.space_users, thread.space),
                table: count_down(&mut self.table_users, thread.table),
            })
            .collect()
    }

    fn add(&mut self, tid: u32, thread: Thread) {
        *self.space_users.entry(thread.space).or_default() += 1;
        *self.table_users.entry(thread.table).or_default() += 1;
        self.threads.insert(tid, thread);
    }

    fn new_space(&mut self) -> SpaceId {
        self.made += 1;
        SpaceId(self.made)
    }

    fn new_fs(&mut self) -> FsId {
        self.made += 1;
        FsId(self.made)
    }

    fn copy_fs(&mut self, from: FsId) -> FsId {
        let fs = self.new_fs();
        if let Some(directory) = self.directories.get(&from).cloned() {
            self.directories.insert(fs, directory);
        }
        fs
    }

    fn new_table(&mut self) -> TableId {
        self.made += 1;
        TableId(self.made)
    }
}

fn count_down<K: Copy + Eq + std::hash::Hash>(users: &mut HashMap<K, u32>, key: K) -> Option<K> {
    let count = users.get_mut(&key)?;
    *count -= 1;
    if *count > 0 {
        return None;
    }
    users.remove(&key);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREAD: CloneFlags = CloneFlags::CLONE_VM
        .union(CloneFlags::CLONE_FILES)
        .union(CloneFlags::CLONE_THREAD)
        .union(CloneFlags::CLONE_FS);

    fn spaces(left: &[Left]) -> Vec<SpaceId> {
        left.iter().filter_map(|left| left.space).collect()
    }

    #[test]
    fn an_address_space_ends_with_its_last_thread() {
        let mut tasks = Tasks::default();
        let main = tasks.thread(1);
        assert_eq!(tasks.clone(1, 2, THREAD), main);
        assert_eq!(spaces(&tasks.end(1, false)), []);
        assert_eq!(spaces(&tasks.end(2, false)), [main.space]);
        assert_eq!(tasks.living(2), None);
    }

    #[test]
    fn a_forked_child_has_its_own_space_and_a_vforked_one_borrows_its_parents() {
        let mut tasks = Tasks::default();
        let main = tasks.thread(1);
        let forked = tasks.clone(1, 2, CloneFlags::empty());
        assert!(forked.space != main.space && forked.table != main.table && forked.pid == 2);
        let vforked = tasks.clone(1, 3, CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK);
        assert!(vforked.space == main.space && vforked.table != main.table && vforked.pid == 3);
        let (fresh, left) = tasks.execve(3);
        assert!(fresh.space != main.space);
        assert_eq!((spaces(&left), left[0].table), (vec![], Some(vforked.table)));
    }

    #[test]
    fn execve_and_the_exit_of_a_group_end_all_threads_of_the_process() {
        let mut tasks = Tasks::default();
        let main = tasks.thread(1);
        tasks.clone(1, 2, THREAD);
        tasks.clone(1, 3, CloneFlags::CLONE_VM);
        let (fresh, left) = tasks.execve(1);
        assert_eq!(spaces(&left), [], "process 3 still lives there");
        assert_eq!(tasks.living(2), None);
        assert_eq!(spaces(&tasks.end(3, false)), [main.space]);
        tasks.clone(1, 4, THREAD);
        assert_eq!(spaces(&tasks.end(4, true)), [fresh.space]);
    }
}
