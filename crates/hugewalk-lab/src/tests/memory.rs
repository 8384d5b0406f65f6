//! Page tables that threads of small programs work on: their entries, their locks, their ends, and processors that look
//! through them.

use std::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use hugewalk::addr::{HugeFrame, TableFrame, VirtAddr};
use hugewalk::arch::{Entry, Leaf, LeafFlags, PUD_SIZE, RawEntry};
use hugewalk::platform::{TableRecord, Tables as _};
use hugewalk::rcu::{Rcu as _, RcuHead};
use hugewalk::sync::Word as _;
use lock_api::RawMutex as _;
use proptest::prelude::*;

use super::compare::{Compared, compare_many, runner};
use super::corpus::{Do, Program};
use crate::explore::quietly;
use crate::lab::{Context, Lab, LabRcu, SpinLock, Use, Word, translate};

/// What a thread does to tables, which go by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    Load(usize),
    Swap(usize),
    /// Its own lock, and under it an entry.
    Lock(usize),
    TryLock(usize),
    /// Frees it, with its lock.
    Free(usize),
    /// Hands it to RCU, which frees it after the grace period.
    Retire(usize),
    /// A processor looks an address up, in the first table.
    Translate,
    /// The entry that leads there is cleared.
    Detach,
    Allocate,
    SetMemory(bool),
}

pub(super) const TABLES: usize = 2;

/// The tables of one run.
pub(super) struct Tables {
    leaves: [TableFrame; TABLES],
    pud: TableFrame,
    root: TableFrame,
}

/// What begins the record of a table here; as in the engine's, the lock has a line of its own.
#[repr(C)]
struct Record {
    head: RcuHead,
    frame: TableFrame,
    lab: *const Lab,
    lock: OwnLine,
}

#[repr(C, align(64))]
struct OwnLine(SpinLock);

const _: () = assert!(size_of::<Record>() <= size_of::<TableRecord>());

unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: the head is the first field of a record that `table` has written, and records stay.
    let record = unsafe { head.cast::<Record>().as_ref() };
    // SAFETY: the platform outlives the threads, which run callbacks.
    let lab = unsafe { &*record.lab };
    // SAFETY: its grace period is over.
    unsafe { lab.free_table(record.frame) };
}

const PAGE: VirtAddr = VirtAddr::new(4 * PUD_SIZE);
/// The entry that threads change. Processors look at the first.
const BESIDE: usize = 1;

impl Tables {
    /// `lab` does not move any more.
    pub(super) fn new(lab: &Lab) -> Self {
        let table = || {
            let frame = lab.alloc_table().expect("few tables");
            let (head, lock) = (RcuHead::new(free), OwnLine(SpinLock::INIT));
            let record = Record { head, frame, lab: std::ptr::from_ref(lab), lock };
            // SAFETY: nobody else has the record, and this one fits.
            unsafe { record_of(lab, frame).cast().write(record) };
            frame
        };
        let tables = Self { leaves: [table(), table()], pud: table(), root: table() };
        let leaf = Entry::Leaf(Leaf { frame: HugeFrame(1 << 9), flags: LeafFlags::empty() });
        for (table, index, entry) in [
            (tables.root, 0, Entry::Table(tables.pud)),
            (tables.pud, 4, Entry::Table(tables.leaves[0])),
            (tables.leaves[0], 0, leaf),
        ] {
            entry_of(lab, table, index).store(RawEntry::from(entry).bits(), Release);
        }
        tables
    }

    fn lock_of(&self, lab: &Lab, table: usize) -> &SpinLock {
        // SAFETY: written in `new`, and records stay.
        let record = unsafe { record_of(lab, self.leaves[table]).cast::<Record>().as_ref() };
        &record.lock.0
    }

    /// Returns what the thread has learned from it.
    pub(super) fn touch(&self, lab: &Lab, rcu: &LabRcu, context: &Context, touch: Touch, own: u64) -> u64 {
        let beside = |table: usize| entry_of(lab, self.leaves[table], BESIDE);
        match touch {
            Touch::Load(table) => beside(table).load(Acquire),
            Touch::Swap(table) => beside(table).swap(own, AcqRel),
            Touch::Lock(table) | Touch::TryLock(table) => {
                let lock = self.lock_of(lab, table);
                if touch == Touch::Lock(table) {
                    lock.lock();
                } else if !lock.try_lock() {
                    return 1;
                }
                let value = beside(table).load(Acquire);
                beside(table).store(value * 3 + own, Release);
                // SAFETY: locked above.
                unsafe { lock.unlock() };
                0
            }
            Touch::Free(table) => {
                // SAFETY: that others may still use it is what is looked for; the lab's tables stay.
                unsafe { lab.free_table(self.leaves[table]) };
                0
            }
            Touch::Retire(table) => {
                // SAFETY: the head stays, and a program queues it once.
                unsafe { rcu.call(lab, record_of(lab, self.leaves[table]).cast()) };
                0
            }
            Touch::Translate => {
                context.begin_access();
                let found = translate(self.root, context, PAGE, Use::Load);
                context.end_access();
                u64::from(found.is_some())
            }
            Touch::Detach => entry_of(lab, self.pud, 4).swap(0, AcqRel) & 1,
            Touch::Allocate => u64::from(lab.alloc_table().is_some()),
            Touch::SetMemory(there_is) => {
                Lab::set_memory(there_is);
                0
            }
        }
    }

    /// What is to be seen of them at the end.
    pub(super) fn state(&self, lab: &Lab) -> [u64; TABLES] {
        self.leaves.map(|table| quietly(|| entry_of(lab, table, BESIDE).load(Acquire)))
    }
}

fn entry_of(lab: &Lab, table: TableFrame, index: usize) -> &Word {
    // SAFETY: the lab's tables stay.
    let entry = unsafe { lab.table_entry(table, index) };
    // SAFETY: their words are atomics.
    unsafe { entry.as_ref() }
}

fn record_of(lab: &Lab, table: TableFrame) -> NonNull<TableRecord> {
    // SAFETY: the lab's tables stay.
    unsafe { lab.table_record(table) }
}

fn touch() -> impl Strategy<Value = Touch> {
    let table = || 0..TABLES;
    prop_oneof![
        2 => table().prop_map(Touch::Load),
        2 => table().prop_map(Touch::Swap),
        2 => table().prop_map(Touch::Lock),
        1 => table().prop_map(Touch::TryLock),
        1 => table().prop_map(Touch::Free),
        2 => table().prop_map(Touch::Retire),
        1 => Just(Touch::Translate),
        1 => Just(Touch::Detach),
        1 => Just(Touch::Allocate),
        1 => prop::bool::ANY.prop_map(Touch::SetMemory),
    ]
}

/// What one thread does to tables, and what makes others wait for it or it for others.
fn step() -> impl Strategy<Value = Do> {
    let touch = || touch().prop_map(Do::Memory);
    let inner = move || prop::collection::vec(touch(), 0..2);
    prop_oneof![
        8 => touch(),
        2 => inner().prop_map(Do::Section),
        1 => inner().prop_map(Do::InterruptsOff),
        1 => inner().prop_map(Do::Writing),
        1 => Just(Do::Synchronize),
        1 => Just(Do::Broadcast),
        1 => Just(Do::Flush),
    ]
}

/// A table can be given away once: what comes after the first time is a look.
fn give_away_once(steps: &mut [Do], given: &mut [bool; TABLES]) {
    for step in steps {
        match step {
            Do::Memory(touch) => {
                if let Touch::Free(table) | Touch::Retire(table) = *touch
                    && std::mem::replace(&mut given[table], true)
                {
                    *touch = Touch::Load(table);
                }
            }
            Do::Section(steps) | Do::InterruptsOff(steps) | Do::Writing(steps) => {
                give_away_once(steps, given);
            }
            _ => {}
        }
    }
}

fn program() -> impl Strategy<Value = Program> {
    let threads = |count, steps: std::ops::RangeInclusive<usize>| {
        prop::collection::vec(prop::collection::vec(step(), steps), count)
    };
    prop_oneof![threads(2, 2..=4), threads(3, 1..=2)].prop_map(|mut program: Program| {
        let mut given = [false; TABLES];
        program.iter_mut().for_each(|steps| give_away_once(steps, &mut given));
        program
    })
}

#[test]
fn small_programs_on_tables_end_in_the_same_ways_however_they_are_explored() {
    let seen = compare_many(runner(300, 6), program());
    let Compared { programs, wrong, varied, large, .. } = seen;
    let enough = [programs > 3 * large, wrong * 5 > programs, varied * 5 > programs];
    assert_eq!(enough, [true; 3], "too large or too tame: {seen:?}");
    assert!(seen.reduced_runs * 20 < seen.naive_runs, "the reduction saves little: {seen:?}");
}
