//! In which order the operations of a plan are performed, and what is noted on the way.
//!
//! With several copies of the processes, each does all that it does up to the next end of a process before the next copy
//! does the same. Then all of them end that process. So all copies are alive at the same time, as they would be if they
//! ran side by side, and each works on memory that is warm.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use hugewalk::arch::X86_64;
use hugewalk::platform::Event;
use indicatif::{ProgressBar, ProgressStyle};

use super::attempt::{Attempt, wanted_memory};
use super::got::{Got, agree};
use super::handlers::{Performed, Ticket};
use super::machine::Machine;
use super::observe::{Snapshot, snapshot};
use super::plan::{Act, Op, Plan};
use crate::report::{Difference, Unshare};
use crate::trace::{Outcome, Signal};

/// Operations between two looks at the events of the engine, and two steps of the progress bar.
const BATCH: u64 = 1024;

/// Operations that take long enough for somebody to wonder.
const LONG: u64 = 500_000;

/// What came of a plan.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Results that are not the recorded ones: the first for each line.
    pub(super) differences: Vec<Difference>,
    /// What unshared tables.
    pub(super) unshares: Vec<Unshare>,
    /// Calls whose result was compared, of all copies.
    pub(super) calls: u64,
    /// Faults taken, of all copies.
    pub(super) faults: u64,
    /// What calls asked for that failed for want of memory, of the first copy.
    pub(super) attempts: Vec<Attempt>,
    /// The fewest pages that were ever left, by size (as a power of two).
    pub(super) spare: Vec<(u32, u64)>,
    /// The tables when as many processes as ever held huge mappings, if that was not at the end.
    pub(super) peak: Option<Snapshot>,
    /// What there was at the moments that were asked for.
    pub(super) looks: Vec<Look>,
}

/// What there was before an operation.
#[derive(Debug)]
pub(super) struct Look {
    /// The operation.
    pub(super) before: usize,
    pub(super) tables: crate::report::Tables,
    /// Pages that are not free, and pages reserved, of all sizes together in KiB.
    pub(super) used_kb: u64,
    pub(super) reserved_kb: u64,
}

impl Record {
    /// The fewest pages of a size that were ever left.
    pub(super) fn spare(&self, shift: u32) -> u64 {
        self.spare.iter().find(|(known, _)| *known == shift).map_or(0, |(_, spare)| *spare)
    }
}

/// Performs the plan, and looks at everything before these operations, which are in order.
pub(super) fn perform(plan: &Plan, machine: &mut Machine, copies: u32, looks: &[usize]) -> Record {
    let mut run = Run {
        machine,
        record: Record::default(),
        differing: BTreeSet::new(),
        places: HashMap::new(),
        waiting: Vec::new(),
        since_look: 0,
        bar: progress_bar(plan.ops.len() as u64 * u64::from(copies)),
    };
    for phase in phases(plan, copies, looks) {
        if looks.binary_search(&phase.start).is_ok() {
            let look = Look::at(phase.start, run.machine, copies);
            run.record.looks.push(look);
        }
        if phase.start == plan.peak {
            run.record.peak = Some(snapshot(run.machine, copies));
        }
        for copy in 0..copies {
            for op in &plan.ops[phase.clone()] {
                run.perform(op, copy);
            }
        }
        run.machine.settle();
    }
    if looks.last() == Some(&plan.ops.len()) {
        let look = Look::at(plan.ops.len(), run.machine, copies);
        run.record.looks.push(look);
    }
    run.bar.finish_and_clear();
    run.record
}

impl Look {
    fn at(before: usize, machine: &mut Machine, copies: u32) -> Self {
        let (mut used_kb, mut reserved_kb) = (0, 0);
        for size in X86_64::SIZES {
            let counters = machine.hugetlb().pool(size).counters();
            used_kb += counters.total.saturating_sub(counters.free) * (size.bytes() >> 10);
            reserved_kb += counters.reserved * (size.bytes() >> 10);
        }
        Self { before, tables: snapshot(machine, copies).tables, used_kb, reserved_kb }
    }
}

/// Runs of operations that one copy performs before the next one does.
fn phases(plan: &Plan, copies: u32, looks: &[usize]) -> Vec<Range<usize>> {
    let ends = |place: usize| copies == 1 || matches!(plan.ops[place].act, Act::End { .. });
    let mut phases = Vec::new();
    let mut start = 0;
    for place in 0..plan.ops.len() {
        let is_looked_at = || looks.binary_search(&place).is_ok();
        if place > start && (ends(place) || ends(place - 1) || place == plan.peak || is_looked_at()) {
            phases.push(start..place);
            start = place;
        }
    }
    if start < plan.ops.len() {
        phases.push(start..plan.ops.len());
    }
    phases
}

fn progress_bar(length: u64) -> ProgressBar {
    if length < LONG {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent}% {eta} left");
    // Standard error; hidden where that is no terminal.
    crate::notes::bar(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What to say of a fault that the kernel ended with a signal, and the engine resolved.
fn resolved(signal: Signal) -> String {
    match signal {
        Signal::Bus => {
            "resolved; an empty pool (--pool) or the limit of a control group ends a fault so, and control \
                        groups are not modelled"
                .to_owned()
        }
        Signal::Segv => "resolved".to_owned(),
    }
}

struct Run<'m, 'p> {
    machine: &'m mut Machine,
    record: Record,
    /// Lines whose difference is noted already.
    differing: BTreeSet<(bool, u32)>,
    /// Where the entry of a line and a process lies.
    places: HashMap<(u32, u32), usize>,
    /// What waits for the handler of its faults.
    waiting: Vec<Waiting<'p>>,
    since_look: u64,
    bar: ProgressBar,
}

/// An operation that waits.
struct Waiting<'p> {
    ticket: Ticket,
    copy: u32,
    op: &'p Op,
}

impl<'p> Run<'_, 'p> {
    fn perform(&mut self, op: &'p Op, copy: u32) {
        self.thread_goes_on(op, copy);
        let is_fault = matches!(op.act, Act::Fault { .. });
        if wanted_memory(op) {
            if self.machine.copies() > 1 {
                // How many pages one of many leaves to the others is not recorded.
                return;
            }
            let attempt = self.machine.attempt(op);
            self.record.attempts.extend(attempt);
            let has_enough = attempt.is_some_and(|attempt| attempt.asked <= attempt.available);
            if has_enough && matches!(op.act, Act::File(_)) {
                // The pool is too large here: what the recorded call did not get would stay with the file, and the fewest
                // pages that were left would be fewer for it.
                self.compare(op, copy, Some(&Got::Value(0)));
                return;
            }
        }
        let performed = self.machine.perform(copy, &op.act);
        self.watch_pools();
        self.since_look += 1;
        if is_fault {
            self.record.faults += 1;
        }
        if self.since_look >= BATCH || !is_fault {
            self.bar.inc(self.since_look);
            self.since_look = 0;
            let events = self.machine.take_events();
            self.unshared(op, &events);
        }
        match performed {
            Performed::Done(got) => self.compare(op, copy, got.as_ref()),
            Performed::Waits(ticket) => self.waiting.push(Waiting { ticket, copy, op }),
        }
        for (ticket, got) in self.machine.take_finished() {
            if let Some(place) = self.waiting.iter().position(|waiting| waiting.ticket == ticket) {
                let ended = self.waiting.swap_remove(place);
                // With the process its waiting has come to an end, of which there is nothing to say.
                if !matches!(op.act, Act::End { .. }) {
                    self.compare(ended.op, ended.copy, got.as_ref());
                }
            }
        }
    }

    fn watch_pools(&mut self) {
        for size in X86_64::SIZES {
            let left = self.machine.available(size.shift());
            match self.record.spare.iter_mut().find(|(shift, _)| *shift == size.shift()) {
                Some((_, spare)) => *spare = left.min(*spare),
                None => self.record.spare.push((size.shift(), left)),
            }
        }
    }

    /// A thread that does something has got over what it waited for; where it still waits, that is a difference.
    fn thread_goes_on(&mut self, op: &Op, copy: u32) {
        let is_its = |waiting: &Waiting<'_>| waiting.copy == copy && waiting.op.tid == op.tid;
        // An end is the end of waiting, too.
        if matches!(op.act, Act::End { .. }) {
            return;
        }
        while let Some(place) = self.waiting.iter().position(is_its) {
            let waits = self.waiting.swap_remove(place).op;
            self.differs(waits, "waits for the handler of the fault".to_owned());
        }
    }

    fn compare(&mut self, op: &Op, copy: u32, got: Option<&Got>) {
        // What is done to a file is done once, by the first copy; what its handler brought is there when the others bring it.
        let compared = copy == 0 || !matches!(op.act, Act::File(_) | Act::Handler(_));
        let recorded = op.recorded.as_ref().filter(|_| compared);
        let is_fault = matches!(op.act, Act::Fault { .. });
        self.record.calls += u64::from(recorded.is_some() && !is_fault);
        if compared && !agree(recorded, got) {
            let replayed = match (recorded, got) {
                (Some(Outcome::Signal(signal)), Some(Got::Value(_)) | None) => resolved(*signal),
                _ => got.map_or_else(|| "not performed".to_owned(), ToString::to_string),
            };
            self.differs(op, replayed);
        }
    }

    fn differs(&mut self, op: &Op, replayed: String) {
        let is_fault = matches!(op.act, Act::Fault { .. });
        if self.differing.insert((is_fault, op.line)) {
            let text = |outcome: &Outcome| outcome.to_string();
            let recorded = op.recorded.as_ref().map_or_else(|| "resolved".to_owned(), text);
            let call = op.call.to_owned();
            self.record.differences.push(Difference { line: op.line, pid: op.pid, call, recorded, replayed });
        }
    }

    /// Faults unshare nothing, so whatever was unshared since the last look was unshared by this operation.
    fn unshared(&mut self, op: &Op, events: &[Event]) {
        let mut now =
            Unshare { time: op.time, line: op.line, pid: op.pid, call: op.call, ..Unshare::default() };
        now.count(events);
        if now.tables == 0 {
            return;
        }
        // Copies of the process make one entry together.
        match self.places.entry((op.line, op.pid)) {
            Entry::Vacant(place) => {
                place.insert(self.record.unshares.len());
                self.record.unshares.push(now);
            }
            Entry::Occupied(place) => self.record.unshares[*place.get()].add(&now),
        }
    }
}
