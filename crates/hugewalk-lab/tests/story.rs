//! A story tells what happened, and its states are those of the tables.

use hugewalk_lab::explore::Options;
use hugewalk_lab::lab::Settings;
use hugewalk_lab::story::{Life, StepKind, Story};
use hugewalk_lab::{check, replay, scenario};

fn story(id: &str, settings: Settings) -> Story {
    let scenario = scenario::named(id).expect("a scenario");
    let found = check(scenario, settings, &Options::default()).report.counterexample.expect("a race");
    replay(scenario, settings, &found.schedule).expect("it fits")
}

#[test]
fn a_use_after_free_tells_who_allocated_the_table_and_who_freed_it() {
    let story = story("S1", Settings::LEGACY);
    let report = story.report.as_ref().expect("a race");
    assert_eq!(report.property, "I1");
    let (allocated, freed) =
        (report.allocated.as_ref().expect("it was"), report.freed.as_ref().expect("it was"));
    assert_eq!((report.cpu, allocated.cpu, freed.cpu), (Some(0), None, Some(2)));
    for stack in [&report.stack, &allocated.stack, &freed.stack] {
        assert!(stack.iter().any(|source| source.file.starts_with("crates/hugewalk/src/")), "{stack:?}");
    }
    assert!(allocated.stack.iter().any(|source| source.function == "huge_pte_alloc"), "{allocated:?}");
    assert!(freed.stack.iter().any(|source| source.function == "munmap"), "{freed:?}");
    let end = story.states.last().expect("a state");
    let table = end.tables.iter().find(|table| table.name == freed.object).expect("it is remembered");
    assert_eq!(table.life, Life::Freed);
}

#[test]
fn a_use_of_a_vma_that_is_gone_tells_who_freed_it() {
    let story = story("S21:no-reference", Settings::HUGEWALK);
    let report = story.report.as_ref().expect("a race");
    let freed = report.freed.as_ref().expect("it was");
    assert_eq!((report.property.as_str(), report.cpu, freed.cpu), ("I1", Some(1), Some(0)));
    assert_eq!(report.title, "VMA-use-after-free in wait");
    assert_eq!(freed.object, "VMA of P1");
    assert!(freed.stack.iter().any(|source| source.function == "munmap"), "{freed:?}");
    let wrong = &story.steps[report.step.expect("a step")];
    assert_eq!((wrong.cpu, wrong.object.as_str()), (1, "VMA of P1"));
}

/// Whoever finds nothing wrong with it must have seen it.
#[test]
fn memory_does_run_out_in_a_move() {
    let moved_to = |schedule: &str| -> Vec<usize> {
        let scenario = scenario::named("S29/mremap").expect("a scenario");
        let story = replay(scenario, Settings::HUGEWALK, &schedule.parse().expect("a schedule"));
        let story = story.expect("it fits");
        assert!(story.report.is_none(), "{:?}", story.report);
        let end = story.states.last().expect("a state");
        end.processes[0].pud.iter().map(|entry| entry.index).collect()
    };
    // C says that there is no memory, and has said that there is again when it goes on.
    assert_eq!(moved_to("A1"), [8]);
    assert_eq!(moved_to("C1A10"), [4]);
}

#[test]
fn the_states_follow_the_parent_entry_and_the_count() {
    let story = story("S8", Settings::RFC_PTL);
    let pud = |state: usize, process: &str| {
        let state = &story.states[state];
        let process = state.processes.iter().find(|other| other.name == process).expect("a process");
        process.pud.first().map(|entry| entry.entry.clone())
    };
    let table = pud(0, "P1").expect("a table");
    assert_eq!(pud(0, "P2"), Some(table.clone()), "both use it");
    let users = |state: usize| {
        story.states[state].tables.iter().find(|other| other.name == table).expect("a table").users
    };
    assert_eq!(users(0), 1);
    let cleared = story
        .steps
        .iter()
        .position(|step| step.kind == StepKind::Write && step.object.starts_with("P2.pud"))
        .expect("an unshare");
    let step = &story.steps[cleared];
    let before = story.steps[cleared - 1].state;
    assert_eq!((pud(before, "P2"), pud(step.state, "P2")), (Some(table.clone()), None));
    assert_eq!(step.changes, [format!("{}: {table} -> none", step.object)]);
    assert_eq!((step.cpu, step.kernel), (1, Some("huge_pmd_unshare")));
    let last = story.steps.last().expect("a step").state;
    assert_eq!((users(last), pud(last, "P1")), (0, Some(table.clone())));
}

/// Between the death of a table's lock and that of the table is a scheduling point, and somebody may come there.
#[test]
fn a_lock_that_dies_with_its_table_is_told_as_freed_before_it() {
    let story = story("S2", Settings::HUGEWALK.without("rcu-free").expect("a step"));
    let report = story.report.as_ref().expect("a race");
    let freed = report.freed.as_ref().expect("the lock was freed");
    assert_eq!((report.property.as_str(), freed.cpu), ("I1", Some(2)));
    let at = |kind| story.steps.iter().position(|step| step.kind == kind && step.object == freed.object);
    let step = &story.steps[at(StepKind::FreeLock).expect("the step is there")];
    assert_eq!((step.cpu, &step.changes[..]), (2, &[format!("the {} is freed", freed.object)][..]));
    let end = story.states.last().expect("a state");
    let table = end.tables.iter().find(|table| freed.object.ends_with(&table.name)).expect("a table");
    assert!(table.lock_freed && table.life != Life::Freed, "{table:?}");
}

#[test]
fn what_is_held_is_named_and_let_go_again() {
    let scenario = scenario::named("S7").expect("a scenario");
    let one_after_the_other = "A1".parse().expect("a schedule");
    let story = replay(scenario, Settings::RFC, &one_after_the_other).expect("it fits");
    assert!(story.report.is_none());
    let ever = |lock: &str| {
        story.states.iter().any(|state| state.holds.iter().any(|holds| holds.locks.iter().any(|l| l == lock)))
    };
    for lock in ["RCU", "mmap lock of P2, read", "VMA lock of P2, write", "i_mmap, write", "fault mutex"] {
        assert!(ever(lock), "{lock}");
    }
    assert!(!ever("a lock"));
    let end = story.states.last().expect("a state");
    assert_eq!(end.holds, []);
    assert!(end.tables.iter().all(|table| table.lock.is_none()));
}

#[test]
fn no_path_of_this_machine_is_told() {
    for (id, settings) in
        [("S9", Settings::VMA_LOCK), ("S11", Settings::HUGEWALK.without("flush").expect("a step"))]
    {
        let story = story(id, settings);
        for source in story.stacks.iter().flat_map(|stack| stack.iter()) {
            assert!(source.file.starts_with("crates/hugewalk"), "{source:?}");
        }
        let told = story.steps.iter().filter(|step| step.source.is_some()).count();
        assert_eq!(told, story.steps.len(), "{id}: every step has its place");
    }
}
