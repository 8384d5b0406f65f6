//! Memory that runs out, at every single allocation of a set of programs: on the heap, of page tables, of huge pages.
//!
//! The call in which an allocation fails either succeeds all the same, or says so and has changed nothing: the
//! comparison with the model, which has not heard of the call, shows that. Then the call is made again, and the program
//! goes on. An allocation that cannot fail without ending the process would end this one.

mod common;
#[path = "out_of_memory/half_done.rs"]
mod half_done;
#[path = "out_of_memory/handlers.rs"]
mod handlers;
mod model;
#[path = "out_of_memory/programs.rs"]
mod programs;
#[path = "out_of_memory/walkers.rs"]
mod walkers;

use common::{heap, inject};
use hugewalk::addr::VirtAddr;
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use model::format::Format;
use model::program::program;
use model::{Call, Engine, Model, Outcome, Refused, Why};
use programs::PROGRAMS;
use proptest::prelude::*;
use proptest::test_runner::Config;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

/// May part of the call have been carried out when it fails? As its documentation says.
fn may_stop_half_way(model: &Model, call: &Call) -> bool {
    match *call {
        Call::Advise { advice, .. } => advice != Advice::DontNeed,
        // What lay at the new place may be gone, or the tail.
        Call::Remap { process, old_length, new_length, to: RemapTo::Fixed(to), .. } => {
            old_length != new_length || {
                let target = to.as_u64()..to.as_u64() + new_length;
                model.processes[process].as_ref().is_some_and(|found| !found.overlapping(&target).is_empty())
            }
        }
        Call::Allocate { .. } | Call::Write { .. } | Call::Resize { .. } => true,
        _ => false,
    }
}

/// What may not fail for want of memory: it frees some.
fn needs_no_memory(call: &Call) -> bool {
    matches!(call, Call::Exit { .. } | Call::Close { .. } | Call::CloseMount { .. } | Call::Truncate { .. })
}

/// The second try of a call that stopped half way.
fn again(engine: &mut Engine, call: &Call) -> Outcome {
    let outcome = engine.apply(call);
    match *call {
        // Of a move, the tail may have been cut off already.
        Call::Remap { process, old, new_length, to, .. }
            if outcome == Outcome::Refused(Refused("EFAULT", Why::BadAddress)) =>
        {
            engine.apply(&Call::Remap { process, old, old_length: new_length, new_length, to })
        }
        _ => outcome,
    }
}

/// Where each of several mappings begins that the call moves. None if it moves one, or is no move.
///
/// The first may have moved when the second fails, as the documentation of `mremap` says.
fn moves_several(model: &Model, call: &Call) -> Option<Vec<u64>> {
    let Call::Remap { process, old, old_length, to: RemapTo::Fixed(_), .. } = *call else { return None };
    let source = old..old.saturating_add(old_length);
    let starts = model.processes[process].as_ref()?.overlapping(&source);
    (starts.len() > 1).then(|| starts.iter().map(|&start| start.max(old)).collect())
}

/// Moves what is left of several mappings, `starts`, of which some have moved.
fn move_the_rest(engine: &mut Engine, starts: &[u64], call: &Call) -> Outcome {
    let Call::Remap { process, old, old_length, to: RemapTo::Fixed(to), .. } = *call else {
        unreachable!("it moves several mappings")
    };
    let moved = Outcome::Refused(Refused("EFAULT", Why::BadAddress));
    let mut outcome = moved.clone();
    for start in starts {
        let (length, to) = (old_length - (start - old), VirtAddr::new(to.as_u64() + start - old));
        outcome = engine.apply(&Call::Remap {
            process,
            old: *start,
            old_length: length,
            new_length: length,
            to: RemapTo::Fixed(to),
        });
        if outcome != moved {
            break;
        }
    }
    // The place of the whole.
    if matches!(outcome, Outcome::Number(_)) { Outcome::Number(to.as_u64()) } else { outcome }
}

fn step(engine: &mut Engine, model: &mut Model, call: &Call) {
    let (had_failed, before) = (inject::has_failed(), common::resident(&engine.processes));
    let mut outcome = engine.apply(call);
    if inject::has_failed() && !had_failed {
        assert!(!needs_no_memory(call), "{call:x?} needs memory");
        let refused = matches!(outcome, Outcome::Refused(Refused(_, Why::OutOfMemory | Why::PoolEmpty)));
        if refused && let Some(starts) = moves_several(model, call) {
            outcome = move_the_rest(engine, &starts, call);
        } else if may_stop_half_way(model, call) {
            // What is missing comes with the second try, and what is there is no trouble to it.
            if refused {
                outcome = again(engine, call);
            } else {
                outcome = engine.apply(call);
            }
        } else if refused {
            // A store to a page of the file that a private mapping has not copied yet: if the host has no page for the copy, the
            // file's is mapped for reading.
            let for_reading =
                matches!(call, Call::Store { .. }) && common::resident(&engine.processes) == before + 1;
            if !for_reading {
                engine.compare(model);
            }
            outcome = engine.apply(call);
        }
    }
    let expected = model.apply(call);
    assert_eq!(outcome, expected, "{call:x?}: engine, model");
    engine.compare(model);
}

/// Runs a program in which the allocation after `allowed` others fails. Did it come to that?
fn run(program: programs::Program, allowed: u64) -> bool {
    let before = heap::live();
    let (mut engine, mut model) = (Engine::new(Format::default()), Model::new(Format::default()));
    inject::arm(allowed);
    for call in program() {
        step(&mut engine, &mut model, &call);
    }
    inject::disarm();
    engine.finish(&model);
    drop(model);
    assert_eq!(heap::live(), before, "memory leaked");
    inject::has_failed()
}

#[test]
fn every_call_survives_the_failure_of_each_of_its_allocations() {
    for (name, program) in PROGRAMS {
        let mut allocations = 0;
        while run(program, allocations) {
            allocations += 1;
        }
        println!("{name}: {allocations} allocations, each of which has failed");
        assert!(allocations > 20, "{name} allocates {allocations} times");
    }
}

#[test]
fn a_system_and_a_task_can_be_asked_for_again() {
    let without = allocations_of_a_task();
    common::READER_BIAS.set(true);
    assert_eq!(allocations_of_a_task(), without + 1, "a task has a line for its marks, and no more");
    common::READER_BIAS.set(false);
}

/// How many allocations a system and a task take. Each of them has failed.
fn allocations_of_a_task() -> u64 {
    for allowed in 0.. {
        let before = heap::live();
        let bench = common::Bench::new();
        inject::arm(allowed);
        let made = inject::inside(|| {
            let hugetlb = common::Hugetlb::new(bench)?;
            common::try_task(&hugetlb).map(drop)
        });
        inject::disarm();
        assert_eq!(made.is_err(), inject::has_failed());
        assert_eq!(heap::live(), before, "memory leaked");
        if made.is_ok() {
            assert!(allowed > 2);
            return allowed;
        }
    }
    unreachable!("there is always one more")
}

proptest! {
    #![proptest_config(Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150),
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn random_programs_survive_a_failure_somewhere(program in program([Format::x86(), Format::others()].concat(), 40), allowed in 0u64..300) {
        let (mut engine, mut model) = (Engine::new(program.format), Model::new(program.format));
        inject::arm(allowed);
        for call in program.opening() {
            step(&mut engine, &mut model, &call);
        }
        for at in &program.steps {
            if let Some(mut call) = model.resolve(at) {
                if let Call::Map { map, .. } = &mut call {
                    // Populating is best effort: see `mmap_succeeds_when_populating_does_not`.
                    map.flags -= MapFlags::POPULATE | MapFlags::LOCKED;
                }
                step(&mut engine, &mut model, &call);
            }
        }
        inject::disarm();
        engine.finish(&model);
    }
}
