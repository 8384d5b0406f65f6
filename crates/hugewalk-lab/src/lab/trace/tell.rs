//! From what was recorded to a story.

use std::collections::BTreeMap;

use super::condense::condense;
use super::snapshot::letter;
use super::{RECORD, Raw, Record, order, stack};
use crate::explore::{Counterexample, Deadlock, Livelock, LockCycle, Replayed};
use crate::fault::Fault;
use crate::lab::property::Property;
use crate::story::{Cpu, Life, Report, Source, Stack, State, Step, StepKind, Story};

/// The story of the run that was recorded last on this OS thread.
pub(crate) fn tell(run: &Replayed) -> Story {
    let record = RECORD.take();
    let cpu = |(number, name): (usize, &String)| Cpu {
        letter: letter(number),
        name: name.clone(),
        process: record.process_of[number].map(|process| format!("P{}", process + 1)),
    };
    let cpus: Vec<Cpu> = run.threads.iter().enumerate().map(cpu).collect();
    let mut before = 0;
    let contended = run.notes.iter().map(|note| note.contended);
    let steps: Vec<Step> = record
        .steps
        .iter()
        .zip(contended)
        .map(|(raw, contended)| {
            let step = step(&record, raw, before, contended);
            before = raw.state;
            step
        })
        .collect();
    let steps = condense(steps);
    let report = run.counterexample.as_ref().map(|found| report(&record, &steps, found));
    let Record { states, stacks, .. } = record;
    Story { cpus, steps, states, stacks, report }
}

fn step(record: &Record, raw: &Raw, before: usize, contended: bool) -> Step {
    let Raw { cpu, kind, ref object, ref text, ref call, stack, state } = *raw;
    let is_lock = matches!(kind, StepKind::Lock | StepKind::TryLock | StepKind::Unlock);
    let frames = &record.stacks[stack];
    let changes =
        if before == state { Vec::new() } else { changes(&record.states[before], &record.states[state]) };
    Step {
        cpu,
        kind,
        object: object.clone(),
        text: text.clone(),
        call: call.clone(),
        count: 1,
        kernel: frames.iter().find_map(|source| source.kernel),
        source: stack::source(frames, is_lock).cloned(),
        stack,
        contended,
        changes,
        state,
    }
}

/// What is different between two states, in words.
fn changes(before: &State, after: &State) -> Vec<String> {
    let mut changes = Vec::new();
    let entries = |state: &State| -> BTreeMap<String, String> {
        let puds = state.processes.iter().flat_map(|process| {
            process.pud.iter().map(move |e| (format!("{}.pud[{}]", process.name, e.index), e.entry.clone()))
        });
        let leaves = state.tables.iter().flat_map(|table| {
            table.entries.iter().map(move |e| (format!("{}[{}]", table.name, e.index), e.entry.clone()))
        });
        puds.chain(leaves).collect()
    };
    let (old, new) = (entries(before), entries(after));
    let none = "none".to_owned();
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let (was, is) = (old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none));
        if was != is {
            changes.push(format!("{name}: {was} -> {is}"));
        }
    }
    for table in &after.tables {
        let name = &table.name;
        let Some(was) = before.tables.iter().find(|was| was.name == *name) else {
            changes.push(format!("{name} is published"));
            continue;
        };
        if was.users != table.users {
            changes.push(format!("{name}.users: {} -> {}", was.users, table.users));
        }
        if was.generation != table.generation {
            changes.push(format!("{name}.generation: {} -> {}", was.generation, table.generation));
        }
        if was.life != table.life {
            let what = match table.life {
                Life::Alive => "is alive again",
                Life::Retired => "is handed to RCU",
                Life::Freed => "is freed",
            };
            changes.push(format!("{name} {what}"));
        }
        if was.lock_freed != table.lock_freed && table.life != Life::Freed {
            changes.push(format!("the lock of {name} is freed"));
        }
    }
    let held = |state: &State, cpu: usize| -> Vec<String> {
        let holds = state.holds.iter().find(|holds| holds.cpu == cpu);
        holds.map(|holds| holds.locks.clone()).unwrap_or_default()
    };
    for cpu in before
        .holds
        .iter()
        .chain(&after.holds)
        .map(|holds| holds.cpu)
        .collect::<std::collections::BTreeSet<_>>()
    {
        let (was, is) = (held(before, cpu), held(after, cpu));
        changes.extend(
            is.iter().filter(|lock| !was.contains(lock)).map(|lock| format!("{} holds {lock}", letter(cpu))),
        );
        changes.extend(
            was.iter()
                .filter(|lock| !is.contains(lock))
                .map(|lock| format!("{} let go of {lock}", letter(cpu))),
        );
    }
    for cached in &after.tlb {
        if !before.tlb.contains(cached) {
            changes.push(format!("TLB of {}: {} -> {}", cached.process, cached.range, cached.to));
        }
    }
    for cached in &before.tlb {
        if !after.tlb.contains(cached) {
            changes.push(format!("TLB of {}: {} is flushed", cached.process, cached.range));
        }
    }
    changes
}

fn report(record: &Record, steps: &[Step], found: &Counterexample) -> Report {
    let kind = Fault::of(found);
    let together = found.what.is::<Deadlock>();
    let property = found.what.downcast_ref::<Property>();
    let nobody = together || property == Some(&Property::I9);
    let cpu = record.steps.last().map(|last| last.cpu).filter(|_| !nobody);
    let cycle = found.what.is::<LockCycle>();
    // What goes wrong is that somebody waits, which is no step.
    let endless = found.what.is::<Livelock>();
    let is_step = !cycle && !endless && property != Some(&Property::I10);
    let wrong = wrong_step(steps, cpu.filter(|_| is_step), property);
    let has_engine = |stack: &&Stack| stack.iter().any(|source| source.file.starts_with("crates/hugewalk/"));
    let of_step = wrong.map(|step| &record.stacks[steps[step].stack]);
    let at_end = record.end.as_ref().filter(has_engine).filter(|_| property != Some(&Property::I3));
    let stack = at_end.or(of_step).cloned().unwrap_or_default();
    let (property, sort) = match (property, record.about) {
        (Some(property), about) => {
            let sort = property.sort(about.is_some_and(|(_, lock)| lock));
            (format!("{property:?}"), if record.about_vma.is_some() { "VMA-use-after-free" } else { sort })
        }
        _ if together => ("deadlock".to_owned(), "deadlock"),
        _ if kind == Fault::Deadlock => ("lock order".to_owned(), "deadlock"),
        _ if cycle => ("lock order".to_owned(), "circular locking"),
        _ if endless => ("livelock".to_owned(), "livelock"),
        _ if kind == Fault::Crash => ("crash".to_owned(), "crash"),
        _ => ("panic".to_owned(), "panic"),
    };
    let place = stack::source(&stack, true).filter(|_| !together && !endless).map(place).unwrap_or_default();
    let about = record.about.map(|(table, _)| table);
    let of = |events: &BTreeMap<_, _>| about.and_then(|table| events.get(&table).cloned());
    let lock = record.about.is_some_and(|(_, lock)| lock);
    let freed = match record.about_vma {
        Some(slot) => record.vma_freed.get(&slot).cloned(),
        None if lock => of(&record.lock_freed).or_else(|| of(&record.freed)),
        None => of(&record.freed),
    };
    let text = found.text.split_once(": ").filter(|(start, _)| *start == property);
    let waits = waits(record, cpu, together);
    Report {
        kind,
        title: format!("{sort}{place}"),
        what: text.map_or(&*found.text, |(_, text)| text).to_owned(),
        property,
        cpu,
        step: wrong,
        stack,
        allocated: of(&record.allocated),
        freed,
        waits: waits.iter().map(|(cpu, (what, _))| (*cpu, what.clone())).collect(),
        waits_in: waits.iter().map(|(_, (_, stack))| stack.clone()).collect(),
        order: if cycle { order::back(record, cpu) } else { Vec::new() },
        schedule: found.schedule.to_string(),
        switches: found.schedule.switches(),
        steps: found.schedule.steps(),
    }
}

/// Who waits for a lock that somebody holds, or for whatever `wrong` must not wait for. Who is merely about to take a lock does
/// not wait; in a deadlock everybody does.
fn waits(record: &Record, wrong: Option<usize>, deadlock: bool) -> Vec<(usize, &(String, Stack))> {
    let is_held = |wanted: &str| {
        let reads = |name: &str| name.ends_with(", read");
        let is_in_the_way =
            |held: &str| order::lock(held) == order::lock(wanted) && !(reads(held) && reads(wanted));
        deadlock || record.holds.iter().flatten().any(|(_, held)| is_in_the_way(held))
    };
    let wants = (0..).zip(&record.wants).filter_map(|(cpu, wants)| Some((cpu, wants.as_ref()?)));
    wants.filter(|(cpu, (what, _))| Some(*cpu) == wrong || what == super::WOKEN || is_held(what)).collect()
}

/// The step that goes wrong: the last one, or what was read last by who is told of an entry.
fn wrong_step(steps: &[Step], cpu: Option<usize>, property: Option<&Property>) -> Option<usize> {
    let is_read = |step: &Step| {
        let leaf = step.object.starts_with('T') && step.object.ends_with(']');
        step.kind == StepKind::Read && leaf && Some(step.cpu) == cpu
    };
    let last = steps.len().checked_sub(1).filter(|_| cpu.is_some());
    match property {
        Some(Property::I3) => steps.iter().rposition(is_read).or(last),
        _ => last,
    }
}

fn place(source: &Source) -> String {
    format!(" in {}", source.function)
}
