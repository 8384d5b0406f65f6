//! Who handles whose faults, and who reads and writes the memory of others.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use hugewalk::uffd::Features;

use super::ordinary::pages;
use super::planner::{Actor, Planner};
use super::sharing::Later;
use super::tasks::SpaceId;
use super::{Act, FileId, HandlerAct, Op, ToHandler};
use crate::trace::flags::UffdModes;
use crate::trace::{Call, Descriptor, Event, Handling, Outcome};

/// The userfaultfds of a recording, by the file that their descriptors are open on.
#[derive(Debug, Default)]
pub(super) struct Userfaults {
    known: HashMap<FileId, Userfault>,
    /// Those that came to be with a forked child: whoever reads of the fork gets a descriptor, which a recording does not
    /// show. In the order of the forks.
    unclaimed: VecDeque<FileId>,
}

#[derive(Clone, Copy, Debug)]
struct Userfault {
    /// Whose faults are handled.
    owner: SpaceId,
    features: Features,
    /// Whether a range of huge pages was ever registered with it.
    used: bool,
}

impl Planner {
    pub(super) fn userfault(&mut self, call: &Call, actor: &Actor<'_>) {
        match call {
            Call::Userfaultfd { cloexec } => {
                let Some(fd) = actor.outcome.value().and_then(|fd| i32::try_from(fd).ok()) else { return };
                let file = self.files.userfaultfd(actor.thread.table, fd, *cloexec);
                self.held.insert(file);
                let (owner, features) = (actor.thread.space, Features::empty());
                self.userfaults.known.insert(file, Userfault { owner, features, used: false });
            }
            Call::UffdApi { fd, features } if actor.succeeded() => {
                let known = self.handler(fd, actor).and_then(|file| self.userfaults.known.get_mut(&file));
                if let Some(userfault) = known {
                    userfault.features = Features::from_bits_truncate(features.bits());
                }
            }
            Call::Uffd { fd, start, length, handling } => match self.handler(fd, actor) {
                Some(file) => self.handle(file, *start, *length, *handling, actor),
                None => self.skip(format!("{} of an unknown userfaultfd", call.name())),
            },
            Call::ProcessVm { write, pid, length, remote } => {
                self.transfer(*write, *pid, *length, remote, actor);
            }
            _ => {}
        }
    }

    /// The userfaultfd behind a descriptor.
    fn handler(&mut self, fd: &Descriptor, actor: &Actor<'_>) -> Option<FileId> {
        let table = actor.thread.table;
        if let Some(file) = self.files.opened(table, fd.number) {
            return self.userfaults.known.contains_key(&file).then_some(file);
        }
        let file = self.userfaults.unclaimed.pop_front()?;
        self.files.bind(table, fd.number, file);
        self.held.insert(file);
        Some(file)
    }

    fn handle(&mut self, file: FileId, start: u64, length: u64, handling: Handling, actor: &Actor<'_>) {
        let Some(&Userfault { owner, features, .. }) = self.userfaults.known.get(&file) else { return };
        let range = pages(start, length);
        if !self.memory(owner).concerns(&range) {
            return;
        }
        if matches!(actor.outcome, Outcome::Failed(errno) if **errno == *"EFAULT") {
            // The source could not be read, or the answer not be written: the engine knows of neither.
            self.skip(format!("{} that failed with EFAULT", actor.call()));
            return;
        }
        let whole = start..start.saturating_add(length);
        let parts = match handling {
            Handling::Register(_) | Handling::Unregister => {
                let parts = self.memory(owner).parts(&range);
                if parts == [range.clone()] { vec![whole] } else { parts }
            }
            _ => vec![whole],
        };
        match handling {
            Handling::Register(modes) if actor.succeeded() => {
                self.note_registration(owner, &range, modes, actor);
                if let Some(userfault) = self.userfaults.known.get_mut(&file) {
                    userfault.used = true;
                }
            }
            Handling::Copy(_) | Handling::Continue(_) if actor.succeeded() => {
                for (part, piece) in self.memory(owner).pieces(&range) {
                    let pages = (part.end - part.start).div_ceil(1 << piece.shift);
                    if piece.private {
                        self.plan.need.private(piece.shift, pages);
                    }
                    self.touched(owner, pages);
                }
            }
            _ => {}
        }
        let space = self.space(owner);
        let what = ToHandler::Handle { parts, handling };
        let act = Act::Handler(HandlerAct { space, handler: file, features, what });
        self.push(actor, Some(actor.outcome.clone()), act);
    }

    fn note_registration(&mut self, id: SpaceId, range: &Range<u64>, modes: UffdModes, actor: &Actor<'_>) {
        if modes.contains(UffdModes::UFFDIO_REGISTER_MODE_WP) {
            self.note_in(id, range, Later::UserfaultWriteProtect, actor);
        }
        if modes.contains(UffdModes::UFFDIO_REGISTER_MODE_MINOR) {
            self.note_in(id, range, Later::UserfaultMinor, actor);
        }
    }

    /// The handlers that want to know of a fork handle the child's faults too: each, and the one that comes to be.
    pub(super) fn fork_handlers(&mut self, parent: SpaceId, child: SpaceId) -> Vec<(FileId, FileId)> {
        let wants = |userfault: &Userfault| {
            userfault.owner == parent && userfault.used && userfault.features.contains(Features::EVENT_FORK)
        };
        let known = self.userfaults.known.iter().filter(|(_, userfault)| wants(userfault));
        let mut parents: Vec<_> = known.map(|(file, userfault)| (*file, *userfault)).collect();
        parents.sort_unstable_by_key(|(file, _)| *file);
        let mut forked = Vec::new();
        for (file, userfault) in parents {
            let born = self.files.userfaultfd_of_child();
            self.userfaults.known.insert(born, Userfault { owner: child, ..userfault });
            self.userfaults.unclaimed.push_back(born);
            forked.push((file, born));
        }
        forked
    }

    /// Nobody has a descriptor of the file any more. True if it was a userfaultfd.
    pub(super) fn close_handler(&mut self, file: FileId, event: &Event, call: &'static str) -> bool {
        let Some(userfault) = self.userfaults.known.remove(&file) else { return false };
        let memory = self.memory(userfault.owner).space;
        if let Some(space) = memory.filter(|_| userfault.used) {
            let features = userfault.features;
            let act = Act::Handler(HandlerAct { space, handler: file, features, what: ToHandler::Close });
            self.push_op(Op::following(event, call, act));
        }
        true
    }

    fn transfer(&mut self, write: bool, pid: u32, length: u64, remote: &[Range<u64>], actor: &Actor<'_>) {
        let Some(id) = self.tasks.living(pid).map(|thread| thread.space) else { return };
        let mut left = length;
        let mut parts = Vec::new();
        let mut all_huge = true;
        for range in remote {
            // As much of it as there is room for on the other side.
            let part = range.start..range.end.min(range.start.saturating_add(left));
            left -= part.end - part.start;
            if part.is_empty() {
                continue;
            }
            let huge = self.memory(id).concerns(&pages(part.start, part.end - part.start));
            all_huge &= huge;
            if huge {
                self.need_all(id, &part);
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return;
        }
        let space = self.space(id);
        // Of what else is transferred the engine knows nothing.
        let recorded = all_huge.then(|| actor.outcome.clone());
        self.push(actor, recorded, Act::Transfer { space, write, parts });
    }
}
