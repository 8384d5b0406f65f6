//! Segments of shared memory, and calls that change the size of files or what is in them.

use hugewalk::addr::VirtAddr;
use hugewalk::mm::{self, Placement};

use super::ordinary::pages;
use super::planner::{Actor, Planner};
use super::ranges::Mapping;
use super::{Act, Change, FileAct};
use crate::trace::flags::{FallocateFlags, Prot, ShmFlags, ShmatFlags};
use crate::trace::{Call, Outcome};

impl Planner {
    pub(super) fn segments(&mut self, call: &Call, actor: &Actor<'_>) {
        match call {
            Call::Shmget { key, size, flags } => self.shmget(*key, *size, *flags, actor),
            Call::Shmat { id, flags, .. } => self.shmat(*id, *flags, actor),
            Call::Shmdt { address } => self.shmdt(*address, actor),
            Call::ShmctlRemove { id } if actor.succeeded() => {
                self.files.remove_segment(*id);
            }
            _ => {}
        }
    }

    fn shmget(&mut self, key: u64, size: u64, flags: ShmFlags, actor: &Actor<'_>) {
        let huge =
            flags.contains(ShmFlags::SHM_HUGETLB).then(|| flags.page_shift().unwrap_or(self.default_shift));
        let Some(id) = actor.outcome.value().and_then(|id| u32::try_from(id).ok()) else {
            if let Some(shift) = huge {
                self.segment_failed(size, shift, flags, actor);
            }
            return;
        };
        if huge.is_none() {
            self.got_normal_pages(size, actor);
        }
        let known = self.files.segment(id).map(|(file, _)| file);
        // One that is looked up only was made before, with a size and pages that are not recorded here.
        if known.is_none() && key != 0 && !flags.contains(ShmFlags::IPC_CREAT) && huge.is_none() {
            self.unknown.segments.insert(id, key);
            return;
        }
        let file = self.files.shmget(id, size, huge);
        let Some(shift) = self.huge(file).filter(|_| known != Some(file)) else {
            return;
        };
        let length = size.checked_next_multiple_of(1 << shift).unwrap_or(size);
        let reserved = !flags.contains(ShmFlags::SHM_NORESERVE);
        self.held.insert(file);
        self.sized.insert(file);
        self.plan.need.file(file, shift, length);
        // What it returns is a number that the engine does not give.
        let change = Change::Segment { length, reserved };
        self.change(actor, Some(Outcome::Returned(0)), FileAct { file, shift, change });
    }

    /// A segment of huge pages that was not made; it may be that of somebody else that was not found.
    fn segment_failed(&mut self, size: u64, shift: u32, flags: ShmFlags, actor: &Actor<'_>) {
        if matches!(actor.outcome, Outcome::Failed(errno) if matches!(&**errno, "ENOENT" | "EEXIST")) {
            // It looked whether there is one.
            return;
        }
        self.failed(size, shift, "shm".to_owned(), actor);
        let asked_for_memory = matches!(actor.outcome, Outcome::Failed(errno) if **errno == *"ENOMEM");
        if !asked_for_memory || !super::need::SHIFTS.contains(&shift) {
            return;
        }
        // One that nobody knows, to see whether there are pages for it.
        let file = self.files.anonymous(Some(shift));
        let length = size.checked_next_multiple_of(1 << shift).unwrap_or(size);
        let reserved = !flags.contains(ShmFlags::SHM_NORESERVE);
        let change = Change::Segment { length, reserved };
        self.change(actor, Some(actor.outcome.clone()), FileAct { file, shift, change });
        self.change(actor, None, FileAct { file, shift, change: Change::Forget });
    }

    fn shmat(&mut self, id: u32, flags: ShmatFlags, actor: &Actor<'_>) {
        let segment = self.files.segment(id);
        let Some(start) = actor.outcome.value() else {
            if let Some((shift, size)) = segment.and_then(|(file, size)| Some((self.huge(file)?, size))) {
                self.failed(size, shift, "shm".to_owned(), actor);
            }
            return;
        };
        let Some((file, size)) = segment else {
            self.unknown.attaches.push((actor.event.line, id));
            return;
        };
        let Some(shift) = self.huge(file) else {
            self.memory(actor.thread.space).map_ordinary(pages(start, size));
            return;
        };
        let mut prot = Prot::PROT_READ;
        prot.set(Prot::PROT_WRITE, !flags.contains(ShmatFlags::SHM_RDONLY));
        prot.set(Prot::PROT_EXEC, flags.contains(ShmatFlags::SHM_EXEC));
        let mapping = Mapping {
            file,
            anonymous: false,
            offset: 0,
            length: size,
            shift,
            prot,
            // Its pages were reserved when it was made, or not at all (`SHM_NORESERVE`).
            flags: mm::MapFlags::SHARED | mm::MapFlags::NORESERVE,
        };
        let at = VirtAddr::new(start);
        let place = if flags.contains(ShmatFlags::SHM_REMAP) {
            Placement::Fixed(at)
        } else {
            Placement::FixedNoReplace(at)
        };
        self.map(place, &mapping, actor);
    }

    fn shmdt(&mut self, address: u64, actor: &Actor<'_>) {
        let Some((_, range)) = self.memory(actor.thread.space).mapping_at(address) else {
            // How long an ordinary segment is matters to nobody once it is gone.
            return;
        };
        self.munmap(range.start, range.end - range.start, actor);
    }

    pub(super) fn file_sizes(&mut self, call: &Call, actor: &Actor<'_>) {
        let file = match call {
            Call::Fallocate { fd, .. } | Call::Ftruncate { fd, .. } => self.files.of(actor.thread.table, fd),
            Call::Truncate { path, .. } => {
                let path = self.absolute(None, path, actor);
                self.files.named(&path)
            }
            _ => return,
        };
        if let (Call::Ftruncate { length, .. } | Call::Truncate { length, .. }, true) =
            (call, actor.succeeded())
        {
            self.files.sized(file, *length);
        }
        let Some(shift) = self.huge(file) else { return };
        let change = match call {
            Call::Ftruncate { length, .. } | Call::Truncate { length, .. } => {
                if actor.succeeded() {
                    self.sized.insert(file);
                }
                Change::Truncate { length: *length }
            }
            Call::Fallocate { mode, offset, length, .. } => {
                let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep_size;
                if *mode == punch {
                    Change::PunchHole { offset: *offset, length: *length }
                } else if (*mode - keep_size).is_empty() {
                    if actor.succeeded() {
                        self.plan.need.file(file, shift, offset.saturating_add(*length));
                    }
                    if actor.succeeded() && !mode.contains(keep_size) {
                        self.sized.insert(file);
                    }
                    Change::Allocate { offset: *offset, length: *length, keep_size: mode.contains(keep_size) }
                } else {
                    self.skip(format!("fallocate with mode {:#x}", mode.bits()));
                    return;
                }
            }
            _ => return,
        };
        let has_no_page =
            matches!(actor.outcome, Outcome::Failed(errno) if matches!(&**errno, "ENOSPC" | "ENOMEM"));
        if let (Call::Fallocate { length, .. }, true) = (call, has_no_page) {
            let backing = self.files.file(file).map(|file| file.name.clone()).unwrap_or_default();
            self.failed(*length, shift, backing, actor);
        }
        if actor.succeeded() && self.is_reachable(file) {
            self.held.insert(file);
        }
        self.change(actor, Some(actor.outcome.clone()), FileAct { file, shift, change });
    }

    pub(super) fn change(&mut self, actor: &Actor<'_>, recorded: Option<Outcome>, act: FileAct) {
        self.push(actor, recorded, Act::File(act));
    }
}
