//! From the steps of a recording to operations: who acts, and on which address space.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use hugewalk::fault::Access;

use super::files::{FileId, Files, Survey};
use super::holders::Holders;
use super::memory::{Memory, Piece};
use super::mounts::Mount;
use super::tasks::{Left, SpaceId, Tasks, Thread};
use super::unknown::Unknown;
use super::userfault::Userfaults;
use super::{Act, Op, Plan, Space};
use crate::programs::Program;
use crate::report::Killed;
use crate::trace::flags::{CloneFlags, Prot};
use crate::trace::{Action, Call, Event, Fault, Faulted, Outcome, Signal, Step, Time, Trace};

/// What is known besides the recording.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// Mounts of hugetlbfs that the user knows of.
    pub mounts: &'a [Mount],
    /// The size of pages where the recording does not say, as a power of two.
    pub default_shift: u32,
    /// Ranges of huge pages that the kernel lists, by process.
    pub listed: HashMap<u32, Vec<Range<u64>>>,
}

/// Plans a recording up to a moment.
#[must_use]
pub fn plan(trace: &Trace, until: Time, known: &Known<'_>) -> Plan {
    // The first reading finds files that turn out to consist of huge pages when they are mapped, long after the
    // descriptors were opened.
    let survey = {
        let mut first = Planner::new(trace, known, Survey::default());
        first.read(trace, Time::MAX);
        first.files.survey()
    };
    let mut planner = Planner::new(trace, known, survey);
    planner.read(trace, until);
    planner.finish(trace)
}

pub(super) struct Planner {
    pub(super) files: Files,
    pub(super) default_shift: u32,
    pub(super) plan: Plan,
    /// Huge files that somebody could still come to map.
    pub(super) held: BTreeSet<FileId>,
    /// Files whose size the recording shows.
    pub(super) sized: HashSet<FileId>,
    pub(super) userfaults: Userfaults,
    pub(super) tasks: Tasks,
    /// Ranges of huge pages that the kernel lists, by process.
    pub(super) listed: HashMap<u32, Vec<Range<u64>>>,
    /// Whether anybody is seen to receive descriptors.
    pub(super) receives: bool,
    /// Paths that were opened as directories.
    pub(super) directories: HashSet<String>,
    /// What is not known.
    pub(super) unknown: Unknown,
    /// The fault that a thread took last, if it has done nothing else since: its place among the operations.
    faulted: HashMap<u32, usize>,
    memories: HashMap<SpaceId, Memory>,
    /// Which program each address space is of, as far as the recording shows it.
    programs: HashMap<SpaceId, Program>,
    /// Which address spaces hold which mapping.
    pub(super) holders: Holders,
    /// The last call of each address space that asked for huge pages and got none, by its place in the list.
    pub(super) missed: HashMap<SpaceId, usize>,
    /// How much is held now.
    held_now: Fullness,
    /// The same before each operation.
    held_before: Vec<Fullness>,
}

/// How much is held at one moment: by so many address spaces, and about so many pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Fullness {
    spaces: u64,
    pages: u64,
}

/// Who acts, and how the call ended.
pub(super) struct Actor<'e> {
    pub(super) event: &'e Event,
    pub(super) thread: Thread,
    pub(super) outcome: &'e Outcome,
}

impl Actor<'_> {
    pub(super) fn succeeded(&self) -> bool {
        self.outcome.value().is_some()
    }

    /// Did the kernel refuse because the caller had not the privilege?
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(errno) if &**errno == "EPERM")
    }

    /// The name of the call.
    pub(super) fn call(&self) -> &'static str {
        match &self.event.action {
            Action::Call(call, _) => call.name(),
            Action::Faulted(_) => "fault",
            Action::Ended { .. } => "exit",
        }
    }
}

impl Planner {
    fn new(trace: &Trace, known: &Known<'_>, survey: Survey) -> Self {
        let receives =
            |event: &Event| matches!(event.action, Action::Call(Call::Receive { .. }, Outcome::Returned(_)));
        Self {
            files: Files::new(known.mounts.to_vec(), known.default_shift, survey),
            default_shift: known.default_shift,
            listed: known.listed.clone(),
            receives: trace.events.iter().any(receives),
            directories: HashSet::new(),
            unknown: Unknown::default(),
            faulted: HashMap::new(),
            plan: Plan::default(),
            held: BTreeSet::new(),
            sized: HashSet::new(),
            userfaults: Userfaults::default(),
            tasks: Tasks::new(trace.leaders.clone()),
            memories: HashMap::new(),
            programs: HashMap::new(),
            holders: Holders::default(),
            missed: HashMap::new(),
            held_now: Fullness::default(),
            held_before: Vec::new(),
        }
    }

    fn read(&mut self, trace: &Trace, until: Time) {
        for step in trace.steps().take_while(|step| step.time() <= until) {
            self.plan.until = step.time();
            match step {
                Step::Event(event) => self.event(event),
                Step::Fault(fault) => self.fault(fault),
            }
        }
    }

    fn finish(mut self, trace: &Trace) -> Plan {
        self.held_before.push(self.held_now);
        let most = self.held_before.iter().max().copied().unwrap_or_default();
        self.plan.peak = self.held_before.iter().rposition(|held| *held == most).unwrap_or_default();
        self.plan.notes.append(&mut self.files.notes);
        self.plan.notes.extend(self.unknown.sentences());
        self.plan.fullest = self.holders.at(self.plan.peak);
        if let Some(first) = trace.events.first() {
            self.plan.first_pid = first.tid;
            self.plan.began_late = !matches!(first.action, Action::Call(Call::Execve { .. }, _));
        }
        for (name, count) in &trace.skipped {
            *self.plan.skipped.entry(name.clone()).or_default() += count;
        }
        for (pid, id) in self.tasks.processes() {
            if let Some(memory) = self.memories.get(&id).filter(|memory| memory.holds_huge()) {
                self.plan.living.extend(memory.space.map(|space| (pid, space)));
            }
        }
        self.plan
    }

    fn event(&mut self, event: &Event) {
        match &event.action {
            Action::Ended { group, by } => {
                if let Some(by) = by {
                    self.killed(event, by);
                }
                let left = self.tasks.end(event.tid, *group);
                self.leave(event, "exit", &left);
            }
            Action::Faulted(faulted) => self.fault_ended(event, faulted),
            Action::Call(call, outcome) => {
                self.faulted.remove(&event.tid);
                // Whom nobody made was there before the recording began.
                self.plan.processes += u64::from(self.tasks.is_new_process(event.tid));
                let thread = self.tasks.thread(event.tid);
                self.call(call, &Actor { event, thread, outcome });
                self.forget_unreachable(event, call.name());
            }
        }
    }

    /// A signal killed it; of an access comes one that no line of its own tells of.
    fn killed(&mut self, event: &Event, by: &str) {
        if let Some(signal) = Signal::by_name(by) {
            self.fault_ended(event, &Faulted { signal, address: None, forbidden: false });
        }
        let pid = self.tasks.living(event.tid).map_or(event.tid, |thread| thread.pid);
        // Each thread of a process has a line.
        if self.plan.killed.iter().rev().take_while(|other| other.signal == by).all(|other| other.pid != pid)
        {
            self.plan.killed.push(Killed { line: event.line, pid, signal: by.to_owned() });
        }
    }

    fn call(&mut self, call: &Call, actor: &Actor<'_>) {
        if *actor.outcome == Outcome::Unknown {
            self.without_result(call, actor);
            return;
        }
        match call {
            Call::Execve { program } => self.execve(program, actor),
            Call::Clone { flags } => self.clone(*flags, actor),
            Call::Open { .. }
            | Call::Close { .. }
            | Call::CloseRange { .. }
            | Call::Dup { .. }
            | Call::MemfdCreate { .. }
            | Call::Send { .. }
            | Call::Receive { .. }
            | Call::PidfdOpen { .. }
            | Call::PidfdGetfd { .. } => self.descriptors(call, actor),
            Call::Unlink { .. }
            | Call::Rename { .. }
            | Call::Link { .. }
            | Call::Chdir { .. }
            | Call::Fchdir { .. }
            | Call::Statfs { .. }
            | Call::Fstatfs { .. }
            | Call::Mount { .. } => self.names(call, actor),
            Call::Shmget { .. } | Call::Shmat { .. } | Call::Shmdt { .. } | Call::ShmctlRemove { .. } => {
                self.segments(call, actor);
            }
            Call::Fallocate { .. } | Call::Ftruncate { .. } | Call::Truncate { .. } => {
                self.file_sizes(call, actor);
            }
            Call::Userfaultfd { .. } | Call::UffdApi { .. } | Call::Uffd { .. } | Call::ProcessVm { .. } => {
                self.userfault(call, actor);
            }
            // Taken care of where the recording is put together.
            Call::Exit { .. } => {}
            _ => self.ranges(call, actor),
        }
    }

    fn execve(&mut self, program: &str, actor: &Actor<'_>) {
        if !actor.succeeded() {
            return;
        }
        let (thread, left) = self.tasks.execve(actor.event.tid);
        self.programs.insert(thread.space, Program::of(program));
        self.files.copy_table(actor.thread.table, thread.table, true);
        self.leave(actor.event, "execve", &left);
    }

    fn clone(&mut self, flags: CloneFlags, actor: &Actor<'_>) {
        let Some(child) = actor.outcome.value().and_then(|child| u32::try_from(child).ok()) else {
            return;
        };
        let thread = self.tasks.clone(actor.event.tid, child, flags);
        self.plan.processes += u64::from(thread.pid == child);
        if thread.table != actor.thread.table {
            self.files.copy_table(actor.thread.table, thread.table, false);
        }
        if thread.space != actor.thread.space {
            self.fork(actor, thread.space);
        }
    }

    fn fork(&mut self, actor: &Actor<'_>, child: SpaceId) {
        let mut memory = self.memory(actor.thread.space).clone();
        memory.begin_anew();
        memory.touched = 0;
        memory.locks_future = false;
        let from = memory.space.take();
        if let Some(program) = self.programs.get(&actor.thread.space).copied() {
            self.programs.insert(child, program);
        }
        let left_out: Vec<_> = memory.dont_fork.iter().cloned().collect();
        let huge = memory.holds_huge();
        self.memories.insert(child, memory);
        if let Some(parent) = from.filter(|_| huge) {
            let space = self.space(child);
            let handlers = self.fork_handlers(actor.thread.space, child);
            self.push(actor, Some(Outcome::Returned(0)), Act::Fork { parent, child: space, handlers });
            for at in left_out {
                self.memory(child).unmap(at);
            }
        }
        self.recount(child);
    }

    /// The program that runs in an address space.
    pub(super) fn program(&self, space: SpaceId) -> Program {
        self.programs.get(&space).copied().unwrap_or_default()
    }

    /// Address spaces and descriptors that nobody uses any more.
    fn leave(&mut self, event: &Event, call: &'static str, left: &[Left]) {
        for left in left {
            if let Some(mut memory) = left.space.and_then(|id| self.memories.remove(&id)) {
                if let Some(space) = memory.space {
                    self.push_op(Op::following(event, call, Act::End { space }));
                }
                memory.give_up();
                self.count(&mut memory);
            }
            if let Some(table) = left.table {
                self.files.drop_table(table);
            }
        }
        self.forget_unreachable(event, call);
    }

    fn fault(&mut self, fault: &Fault) {
        self.faulted.remove(&fault.tid);
        let thread = self.tasks.living(fault.tid).or_else(|| self.tasks.of_process(fault.pid));
        let found = thread.map(|thread| thread.space).and_then(|id| {
            let memory = self.memories.get(&id)?;
            let piece = memory.at(fault.address)?.clone();
            Some((id, memory.space?, piece))
        });
        let Some((id, space, piece)) = found else {
            self.plan.other_faults += 1;
            return;
        };
        self.plan.huge_faults += 1;
        if piece.private {
            self.plan.need.private(piece.shift, 1);
        }
        self.push_op(Op {
            time: fault.time,
            line: fault.line,
            pid: fault.pid,
            tid: fault.tid,
            call: "fault",
            recorded: None,
            act: Act::Fault { space, address: fault.address, access: access(&piece) },
        });
        self.faulted.insert(fault.tid, self.plan.ops.len() - 1);
        self.touched(id, 1);
    }

    /// An access ended with a signal: that of the last fault, or one that no fault is recorded of.
    fn fault_ended(&mut self, event: &Event, faulted: &Faulted) {
        const PAGE: u64 = 4096;
        let recorded = Some(Outcome::Signal(faulted.signal));
        if let Some(op) = self.faulted.remove(&event.tid).and_then(|place| self.plan.ops.get_mut(place))
            && let Act::Fault { address, access, .. } = &mut op.act
            && faulted.address.is_none_or(|at| at / PAGE == *address / PAGE)
        {
            op.recorded = recorded;
            if faulted.forbidden && *access == Access::Read {
                *access = Access::Write;
            }
            return;
        }
        // It may be the first that is seen of the thread, but not of its process.
        let thread = (!self.tasks.is_new_process(event.tid)).then(|| self.tasks.thread(event.tid));
        let found = thread.zip(faulted.address).and_then(|(thread, address)| {
            let memory = self.memories.get(&thread.space)?;
            Some((memory.space?, address, memory.at(address)?.clone(), thread.pid))
        });
        let Some((space, address, piece, pid)) = found else { return };
        let access = if faulted.forbidden && !piece.prot.contains(Prot::PROT_WRITE) {
            Access::Write
        } else {
            access(&piece)
        };
        let Event { time, line, tid, .. } = *event;
        let act = Act::Fault { space, address, access };
        self.push_op(Op { time, line, pid, tid, call: "fault", recorded, act });
    }

    /// The size of the file's pages as a power of two, if they are of a size that the engine has.
    pub(super) fn huge(&self, file: FileId) -> Option<u32> {
        self.files.file(file).and_then(|file| file.huge).filter(|shift| super::need::SHIFTS.contains(shift))
    }

    pub(super) fn memory(&mut self, id: SpaceId) -> &mut Memory {
        self.memories.entry(id).or_default()
    }

    /// The number of an address space that is going to hold huge pages.
    pub(super) fn space(&mut self, id: SpaceId) -> Space {
        let next = self.plan.spaces;
        let space = *self.memory(id).space.get_or_insert(Space(next));
        self.plan.spaces = next.max(space.0 + 1);
        space
    }

    pub(super) fn push(&mut self, actor: &Actor<'_>, recorded: Option<Outcome>, act: Act) {
        let Event { time, line, tid, .. } = *actor.event;
        self.push_op(Op { time, line, pid: actor.thread.pid, tid, call: actor.call(), recorded, act });
    }

    pub(super) fn push_op(&mut self, op: Op) {
        self.held_before.push(self.held_now);
        self.plan.ops.push(op);
    }

    pub(super) fn skip(&mut self, name: String) {
        *self.plan.skipped.entry(name).or_default() += 1;
    }

    /// An address space has come to reach so many pages more.
    pub(super) fn touched(&mut self, id: SpaceId, pages: u64) {
        self.memory(id).touched += pages;
        self.held_now.pages += pages;
    }

    /// The pages of a range are gone.
    pub(super) fn dropped(&mut self, id: SpaceId, range: &Range<u64>) {
        let memory = self.memory(id);
        let pieces = memory.pieces(range).into_iter();
        let most: u64 = pieces.map(|(part, piece)| (part.end - part.start) >> piece.shift).sum();
        let pages = most.min(memory.touched);
        memory.touched -= pages;
        self.held_now.pages -= pages;
    }

    /// Counts who holds which mapping, after the mappings of an address space have changed.
    pub(super) fn recount(&mut self, id: SpaceId) {
        let mut memory = std::mem::take(self.memory(id));
        self.count(&mut memory);
        self.memories.insert(id, memory);
    }

    fn count(&mut self, memory: &mut Memory) {
        let holds = memory.holds_huge();
        self.held_now.spaces += u64::from(holds);
        self.held_now.spaces -= u64::from(std::mem::replace(&mut memory.counted, holds));
        if !holds {
            self.held_now.pages -= std::mem::take(&mut memory.touched);
        }
        let op = self.plan.ops.len();
        for (mapping, comes) in memory.take_changes() {
            let Some(made) = self.plan.mappings.get_mut(mapping.0 as usize) else { continue };
            if comes {
                let holders = self.holders.add(op, memory.space, mapping, made);
                made.processes = made.processes.max(holders);
            } else if self.holders.remove(op, memory.space, mapping, made) {
                self.files.lost(made.file);
            }
        }
    }
}

/// The access that a recorded fault is taken for. A recording does not say: a store where stores are allowed, for that
/// is what programs do with huge pages first.
pub(super) fn access(piece: &Piece) -> Access {
    if piece.prot.contains(Prot::PROT_WRITE) {
        Access::Write
    } else if piece.prot.contains(Prot::PROT_READ) || !piece.prot.contains(Prot::PROT_EXEC) {
        Access::Read
    } else {
        Access::Execute
    }
}
