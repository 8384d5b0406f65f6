//! What is remembered of a run that is to be told, and nothing of the runs that are merely explored.
//!
//! Of a run under [`replay`](crate::replay) the setup is recorded too: which lock is whose, and where the tables come from.

pub(crate) mod call;
mod condense;
mod kernel;
mod names;
mod order;
mod snapshot;
mod stack;
mod tell;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::arch::X86_64;

use self::names::Locks;
pub(super) use self::names::{Mode, entry as entry_in_words};
pub use self::stack::has_line_tables;
pub(crate) use self::tell::tell;

use super::ground::{Place, world};
use crate::explore::{Kind, MAX_THREADS, Object, in_thread, is_tracing, note};
use crate::story::{Event, Source, Stack, State, StepKind};

/// What a task waits for that sleeps.
pub(crate) const WOKEN: &str = "somebody to wake it";

/// In place of a processor: the setup.
const SETUP: usize = MAX_THREADS;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static RECORD: RefCell<Record> = RefCell::default();
}

/// A process, and where its parts lie.
struct Process {
    root: TableFrame,
    /// The address space.
    space: Range<usize>,
    context: usize,
}

/// A step as it is recorded.
struct Raw {
    cpu: usize,
    kind: StepKind,
    object: String,
    text: String,
    call: String,
    stack: usize,
    state: usize,
}

/// What is recorded of a run.
#[derive(Default)]
struct Record {
    processes: Vec<Process>,
    locks: Locks,
    steps: Vec<Raw>,
    states: Vec<State>,
    stacks: Vec<Stack>,
    /// For each processor, and the setup: address and name of what it holds.
    holds: [Vec<(usize, String)>; MAX_THREADS + 1],
    sections: [Option<Section>; MAX_THREADS],
    /// What each processor waits for, and where.
    wants: [Option<(String, Stack)>; MAX_THREADS],
    process_of: [Option<usize>; MAX_THREADS],
    /// Tables that some PUD entry has pointed to.
    leaf_tables: BTreeSet<TableFrame>,
    retired: BTreeSet<TableFrame>,
    allocated: BTreeMap<TableFrame, Event>,
    freed: BTreeMap<TableFrame, Event>,
    lock_freed: BTreeMap<TableFrame, Event>,
    /// By its place among those that are kept.
    vma_freed: BTreeMap<usize, Event>,
    /// The table that the violation is about, and whether it is about its lock.
    about: Option<(TableFrame, bool)>,
    /// The VMA that it is about.
    about_vma: Option<usize>,
    /// What ran when the run was decided.
    end: Option<Stack>,
}

/// Is this run recorded?
#[inline]
pub(super) fn is_on() -> bool {
    ON.get()
}

fn with(work: impl FnOnce(&mut Record)) {
    if is_on() {
        RECORD.with_borrow_mut(work);
    }
}

/// A run begins.
pub(super) fn begin_run() {
    ON.set(is_tracing());
    with(|record| *record = Record::default());
}

/// The run is decided, or has come to its end. What comes now is not told any more.
pub(crate) fn end_run() {
    with(|record| {
        record.look();
        record.end = Some(stack::capture());
    });
    ON.set(false);
}

/// A process comes into being; the first is P1.
pub(super) fn process(root: TableFrame, space: Range<usize>, context: usize) {
    with(|record| record.processes.push(Process { root, space, context }));
}

/// A violation is about a table, or its lock.
pub(super) fn is_about(table: TableFrame, lock: bool) {
    with(|record| record.about = Some((table, lock)));
}

/// A violation is about a VMA.
pub(super) fn is_about_vma(slot: usize) {
    with(|record| record.about_vma = Some(slot));
}

/// The processor works in the address space with this root.
pub(super) fn works_in(root: TableFrame) {
    with(|record| {
        if let Some(cpu) = in_thread() {
            let process = record.processes.iter().position(|process| process.root == root);
            record.process_of[cpu] = record.process_of[cpu].or(process);
        }
    });
}

/// A table is allocated.
pub(super) fn allocated(frame: TableFrame) {
    with(|record| drop(record.allocated.insert(frame, happening(format!("T{}", frame.0)))));
}

/// A table is freed.
pub(super) fn freed(frame: TableFrame) {
    with(|record| drop(record.freed.insert(frame, happening(format!("T{}", frame.0)))));
}

/// The lock of a table is freed; the table lives on, if only until its own access.
pub(super) fn lock_freed(frame: TableFrame) {
    with(|record| drop(record.lock_freed.insert(frame, happening(format!("lock of T{}", frame.0)))));
}

/// A VMA is freed.
pub(super) fn vma_freed(slot: usize, name: &str) {
    with(|record| drop(record.vma_freed.insert(slot, happening(name.to_owned()))));
}

/// A table is handed to RCU.
pub(super) fn retired(frame: TableFrame) {
    with(|record| _ = record.retired.insert(frame));
}

fn happening(object: String) -> Event {
    Event { object, cpu: in_thread(), stack: stack::capture() }
}

/// What a step does.
struct Done {
    kind: StepKind,
    object: String,
    text: String,
    call: String,
}

/// Records a step, if the run is told: first the state before it, then what `make` says of it. Without an `object` it is
/// always shown. `make` may change what the record says of locks; that belongs to the state after the step.
#[inline]
fn step(object: Option<Object>, make: impl FnOnce(&mut Record, usize, &Stack) -> Done) {
    note(object, || {
        RECORD.with_borrow_mut(|record| {
            record.look();
            let cpu = in_thread().expect("a step is a thread's");
            let stack = stack::capture();
            let Done { kind, object, text, call } = make(record, cpu, &stack);
            let (state, stack) = (record.states.len() - 1, record.number_of(stack));
            record.steps.push(Raw { cpu, kind, object, text: text.clone(), call, stack, state });
            text
        })
    });
}

/// An access to a word, which makes `after` of `before`.
#[inline]
pub(super) fn word(object: Object, place: Place, kind: Kind, values: impl FnOnce() -> (u64, u64)) {
    step(Some(object), |_, _, stack| {
        let (before, after) = values();
        let (name, is_entry) = names::word(place, stack);
        let show = |bits| if is_entry { names::entry(bits) } else { names::number(place, bits) };
        let (kind, text) = match kind {
            Kind::Read => (StepKind::Read, format!("{name} = {}", show(before))),
            Kind::Write => (StepKind::Write, format!("{name}: {} -> {}", show(before), show(after))),
        };
        let call = call::word(kind, &name, &show(before), &show(after));
        Done { kind, object: name, text, call }
    });
}

/// A processor that walks sets bits in an entry, or finds it changed.
#[inline]
pub(super) fn used(object: Object, place: Place, values: impl FnOnce() -> (u64, u64)) {
    step(Some(object), |_, cpu, stack| {
        let (before, after) = values();
        let (name, _) = names::word(place, stack);
        let cpu = snapshot::letter(cpu);
        let text = match names::used(before, after) {
            Some(bits) => format!("CPU {cpu} sets {bits} in {name}"),
            None => format!("CPU {cpu} finds {name} changed, and looks again"),
        };
        Done { kind: StepKind::Write, object: name, call: text.clone(), text }
    });
}

/// What a section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// A read section.
    Read,
    /// Interrupts are off.
    InterruptsOff,
}

impl Section {
    /// As drawings name what is held.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "RCU",
            Self::InterruptsOff => "interrupts off",
        }
    }
}

/// A section begins or ends.
#[inline]
pub(super) fn section(object: Object, section: Section, begins: bool) {
    step(Some(object), |record, cpu, _| {
        record.sections[cpu] = begins.then_some(section);
        let (kind, text) = match (section, begins) {
            (Section::Read, true) => (StepKind::RcuLock, "rcu_read_lock()"),
            (Section::Read, false) => (StepKind::RcuUnlock, "rcu_read_unlock()"),
            (Section::InterruptsOff, true) => (StepKind::RcuLock, "local_irq_save()"),
            (Section::InterruptsOff, false) => (StepKind::RcuUnlock, "local_irq_restore()"),
        };
        let object = section.name().to_owned();
        Done { kind, object, text: text.to_owned(), call: text.to_owned() }
    });
}

/// Something is done to an object: its name, what is done in words, and how it would be written in Linux. Without an `at` it
/// is always shown.
#[inline]
pub(super) fn event(at: Option<Object>, kind: StepKind, what: impl FnOnce() -> [String; 3]) {
    step(at, |_, _, _| {
        let [object, text, call] = what();
        Done { kind, object, text, call }
    });
}

/// Processors are waited for. What is told is given the name of the process whose address space has its context at this address.
pub(super) fn waits_for(at: Object, context: usize, what: fn(&str) -> [String; 3]) {
    step(Some(at), |record, _, _| {
        let of = record.processes.iter().position(|process| process.context == context);
        let [object, text, call] = what(&of.map_or_else(String::new, |number| format!("P{}", number + 1)));
        Done { kind: StepKind::Broadcast, object, text, call }
    });
}

/// A flush of what is cached of an address space.
#[inline]
pub(super) fn flush(object: Object, context: usize, range: &Range<VirtAddr>) {
    step(Some(object), |record, _, _| {
        let of = record.processes.iter().position(|process| process.context == context);
        let of = of.map_or_else(|| "TLB".to_owned(), |number| format!("TLB of P{}", number + 1));
        let text = format!("flushes {:x}-{:x} from the {of}", range.start.as_u64(), range.end.as_u64());
        let call = format!("flush_tlb_range({})", of.trim_start_matches("TLB of "));
        Done { kind: StepKind::Flush, object: of, text, call }
    });
}

/// A lock is about to be waited for.
pub(super) fn lock_wanted(address: usize, place: Place, mode: Mode) {
    with(|record| {
        if let Some(cpu) = in_thread() {
            let stack = stack::capture();
            let name = record.name_lock(address, place, mode, &stack, cpu);
            record.wants[cpu] = Some((name, stack));
        }
    });
}

/// A task is about to sleep until it is woken, or has been.
pub(super) fn sleeps(sleeps: bool) {
    with(|record| {
        if let Some(cpu) = in_thread() {
            record.wants[cpu] = sleeps.then(|| (WOKEN.to_owned(), stack::capture()));
        }
    });
}

/// A lock was taken, by one who waited for it or only `tried`.
pub(super) fn lock_taken(object: Object, address: usize, place: Place, mode: Mode, tried: bool) {
    if in_thread().is_none() {
        return with(|record| drop(record.take(SETUP, address, place, mode, &stack::capture())));
    }
    step(Some(object), |record, cpu, stack| {
        let name = record.take(cpu, address, place, mode, stack);
        let text = format!("takes {name}");
        let call = call::lock(StepKind::Lock, &name, tried);
        Done { kind: StepKind::Lock, object: name, text, call }
    });
}

/// A lock was tried, and is held by somebody.
pub(super) fn lock_refused(object: Object, address: usize, place: Place, mode: Mode) {
    step(Some(object), |record, cpu, stack| {
        let name = record.name_lock(address, place, mode, stack, cpu);
        let text = format!("tries {name}: taken");
        let call = call::lock(StepKind::TryLock, &name, true);
        Done { kind: StepKind::TryLock, object: name, text, call }
    });
}

/// A lock was let go.
pub(super) fn lock_released(object: Object, address: usize) {
    if in_thread().is_none() {
        return with(|record| drop(record.release(SETUP, address)));
    }
    step(Some(object), |record, cpu, _| {
        let name = record.release(cpu, address);
        let text = format!("releases {name}");
        let call = call::lock(StepKind::Unlock, &name, false);
        Done { kind: StepKind::Unlock, object: name, text, call }
    });
}

impl Record {
    /// The state now is the one after the last step.
    fn look(&mut self) {
        let now = self.state();
        if self.states.last() != Some(&now) {
            self.states.push(now);
        }
        let number = self.states.len() - 1;
        if let Some(last) = self.steps.last_mut() {
            last.state = number;
        }
    }

    fn number_of(&mut self, stack: Stack) -> usize {
        self.stacks.iter().position(|known| *known == stack).unwrap_or_else(|| {
            self.stacks.push(stack);
            self.stacks.len() - 1
        })
    }

    fn name_lock(
        &mut self,
        address: usize,
        place: Place,
        mode: Mode,
        stack: &[Source],
        cpu: usize,
    ) -> String {
        let process = self.holds[cpu].iter().find_map(|&(held, _)| self.locks.process_of_mmap(held));
        let own = self.processes.iter().position(|process| process.space.contains(&address));
        let name = self.locks.name(address, place, mode, stack, own.or(process));
        match place {
            Place::Record(frame, _) => name + &self.level_of(frame),
            _ => name,
        }
    }

    /// What a table above those of pages is, in brackets: nothing else says so.
    fn level_of(&self, frame: TableFrame) -> String {
        let process = |fits: &dyn Fn(&Process) -> bool| self.processes.iter().position(fits).map(|at| at + 1);
        if let Some(number) = process(&|process| process.root == frame) {
            return format!(" (P{number}'s PGD)");
        }
        let is_below = |process: &Process| {
            (0..X86_64::ENTRIES as u64).any(|index| world().peek(process.root, index) == Some(frame))
        };
        process(&is_below).map(|number| format!(" (P{number}'s PUD)")).unwrap_or_default()
    }

    fn take(&mut self, cpu: usize, address: usize, place: Place, mode: Mode, stack: &[Source]) -> String {
        let name = self.name_lock(address, place, mode, stack, cpu);
        self.holds[cpu].push((address, name.clone()));
        if cpu != SETUP {
            self.wants[cpu] = None;
            self.process_of[cpu] = self.process_of[cpu].or(self.locks.process_of_mmap(address));
        }
        name
    }

    fn release(&mut self, cpu: usize, address: usize) -> String {
        let held = &mut self.holds[cpu];
        match held.iter().rposition(|&(lock, _)| lock == address) {
            Some(at) => held.remove(at).1,
            None => "a lock".to_owned(),
        }
    }
}
