//! A run, told: who did what in which order, what it changed, and what the tables looked like after each step.
//!
//! These structures are also the form in which a story is written as JSON; `docs/check-schema.md` describes them.

use std::sync::Arc;

use serde::Serialize;

use crate::fault::Fault;

/// A run under one schedule, up to where it went wrong, or to its end.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    /// The processors, in the order of their letters.
    pub cpus: Vec<Cpu>,
    /// What they did, in the order in which it happened.
    pub steps: Vec<Step>,
    /// The states there were; the first is the one before all steps. Steps refer to them by number.
    pub states: Vec<State>,
    /// The stacks there were, innermost function first. Steps refer to them by number.
    pub stacks: Vec<Stack>,
    /// What went wrong, if anything did.
    pub report: Option<Report>,
}

impl Story {
    /// Is this the step that the report is about?
    pub(crate) fn goes_wrong(&self, step: &Step) -> bool {
        let wrong =
            self.report.as_ref().and_then(|report| report.step).and_then(|wrong| self.steps.get(wrong));
        wrong.is_some_and(|wrong| std::ptr::eq(wrong, step))
    }
}

/// A processor of the scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// `A`, `B`, ...; schedules name it by that.
    pub letter: char,
    /// What it is there for: `walk`, `munmap`.
    pub name: String,
    /// The process whose address space it works in, if that is one: `P1`.
    pub process: Option<String>,
}

/// A line of the engine, or of the scenario that called it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Source {
    /// The function, without its module.
    pub function: String,
    /// The file, from the root of the repository on.
    pub file: String,
    /// The line in it.
    pub line: u32,
    /// The function of Linux that does this, if there is one.
    pub kernel: Option<&'static str>,
}

/// Who called whom, innermost function first; without what is about words and locks as such.
pub type Stack = Arc<[Source]>;

/// What sort of step it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// An entry or a number was read.
    Read,
    /// An entry or a number was written.
    Write,
    /// A lock was taken.
    Lock,
    /// A lock was tried, and somebody else held it.
    TryLock,
    /// A lock was let go.
    Unlock,
    /// A read section began.
    RcuLock,
    /// A read section ended.
    RcuUnlock,
    /// A table was handed to RCU.
    CallRcu,
    /// A TLB was flushed.
    Flush,
    /// All processors were waited for.
    Broadcast,
    /// A table was freed, or a VMA.
    Free,
    /// The lock of a table was freed, before the table.
    FreeLock,
    /// A processor began an access to memory, or ended it.
    Access,
    /// A task slept, or was woken.
    Wait,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Whose it was: an index into the processors.
    pub cpu: usize,
    /// What sort of step.
    pub kind: StepKind,
    /// What it was done to: `P2.pud[4]`, `T3[0]`, `T3.users`, `i_mmap`.
    pub object: String,
    /// What was done, in words: `P2.pud[4]: T3 -> none`.
    pub text: String,
    /// The same as it would be written in Linux: `pud_clear(P2.pud[4])`.
    pub call: String,
    /// How many accesses it stands for: entries of one table that were read one after the other and are all the same are
    /// one step, `T3[1..511] = none`.
    pub count: u32,
    /// The function of Linux that does this.
    pub kernel: Option<&'static str>,
    /// Where our code does it.
    pub source: Option<Source>,
    /// Who called it: an index into the stacks.
    pub stack: usize,
    /// Whether others race for it, or the reader must know anyway. The other steps may be left out of a drawing.
    pub contended: bool,
    /// What it changed, compared with the state before, in words.
    pub changes: Vec<String>,
    /// The state after it: an index into the states.
    pub state: usize,
}

/// The tables and locks at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// The processes, with their PUD entries.
    pub processes: Vec<Process>,
    /// The tables that hold entries of pages, whether a process still points to them or not.
    pub tables: Vec<Table>,
    /// Who holds what; processors that hold nothing are left out.
    pub holds: Vec<Holds>,
    /// What TLBs and paging-structure caches keep.
    pub tlb: Vec<Cached>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// `P1`, `P2`, ...
    pub name: String,
    /// Its PUD entries that are not empty.
    pub pud: Vec<Entry>,
}

/// An entry that is not empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its place in the table.
    pub index: usize,
    /// What it holds: the name of a table (`T3`), or `page 4`, `migration of page 4`, and so on.
    pub entry: String,
}

/// What has become of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// In use, or about to be.
    Alive,
    /// Handed to RCU.
    Retired,
    /// Freed.
    Freed,
}

/// A table of entries of pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// `T3`
    pub name: String,
    /// Whether it is in use.
    pub life: Life,
    /// Whether its lock has been freed.
    pub lock_freed: bool,
    /// How many use it besides one: `pt_share_count` in Linux.
    pub users: u64,
    /// How often it was detached.
    pub generation: u64,
    /// The letter of the processor that holds its lock.
    pub lock: Option<char>,
    /// Its entries that are not empty.
    pub entries: Vec<Entry>,
}

/// What a processor holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// An index into the processors.
    pub cpu: usize,
    /// The locks in the order in which they were taken: `RCU`, `VMA lock of P1, read`, `i_mmap, write`, `lock of T3`.
    pub locks: Vec<String>,
}

/// A translation that a processor keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cached {
    /// The process.
    pub process: String,
    /// What is translated: `100000000-140000000`.
    pub range: String,
    /// To what: `T3`, `page 4`.
    pub to: String,
}

/// What went wrong, in the manner of KASAN.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What sort of fault it is.
    pub kind: Fault,
    /// In a line: `use-after-free in huge_pte_offset`.
    pub title: String,
    /// The property that is violated: `I1`, or `deadlock`, `lock order`, `panic`, `livelock`.
    pub property: String,
    /// What happened, in a sentence.
    pub what: String,
    /// By which processor: an index. None if all of them together did it, as in a deadlock.
    pub cpu: Option<usize>,
    /// The step that goes wrong: an index into the steps. Who is told of an entry that was not its own has read it a while
    /// before it is told. None if it is not the fault of a step, as in a deadlock.
    pub step: Option<usize>,
    /// Where.
    pub stack: Stack,
    /// Where the table that it is about was allocated.
    pub allocated: Option<Event>,
    /// Where it, or its lock, was freed; or the VMA that it is about.
    pub freed: Option<Event>,
    /// What each processor waits for in vain, or was about to wait for when it went wrong: an index and a text.
    pub waits: Vec<(usize, String)>,
    /// Where they wait, in the same order.
    pub waits_in: Vec<Stack>,
    /// If locks are taken in both orders: how what is waited for leads back to what is held.
    pub order: Vec<Taken>,
    /// The schedule that led here: `--replay` takes it.
    pub schedule: String,
    /// Turns that follow another one's.
    pub switches: u32,
    /// Accesses of all turns together.
    pub steps: u32,
}

impl Report {
    /// Is it about a sleep where none may be, whether or not it would have come to that?
    pub(crate) fn is_sleep(&self) -> bool {
        self.property == "I10"
    }
}

/// A lock that was taken while another one was held.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// By which processor: an index.
    pub cpu: usize,
    /// The lock that was held.
    pub held: String,
    /// The lock that was taken.
    pub taken: String,
    /// Where.
    pub stack: Stack,
}

/// Something that happened to a table, or a VMA.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// The table: `T3`, or `lock of T3`; or `VMA of P1`.
    pub object: String,
    /// By which processor: an index. None for the setup, and for what RCU does of itself.
    pub cpu: Option<usize>,
    /// Where.
    pub stack: Stack,
}
