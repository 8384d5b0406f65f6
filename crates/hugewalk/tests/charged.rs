//! Pages are charged to the group that has taken them, and given back to it, whoever frees them.

mod common;
mod model;

use common::{
    CHARGES_LEFT, File, GIB, Group, Hugetlb, LIMIT_REACHED, M2, PAYER, RESERVABLE_LEFT, Task, at, cpu, map,
    small, system,
};
use hugewalk::addr::HugeSize;
use hugewalk::error::Errno;
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::FileError;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapError, MapFlags, Placement};
use hugewalk::sync::Arc;
use model::format::Format;
use model::program::{Program, program};
use model::{Call, Engine, Model, Outcome, Refused, Why};
use proptest::prelude::*;
use proptest::test_runner::Config;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

type Space = common::AddressSpace;

const ONE: Group = Group(1);
const OTHER: Group = Group(2);
const START: u64 = 4 * GIB;

/// The pages of a size that are in use.
fn in_use(hugetlb: &Hugetlb, size: HugeSize) -> u64 {
    let counters = hugetlb.pool(size).counters();
    counters.total - counters.free
}

/// Everything in use was paid for, and nothing else.
fn check(hugetlb: &Hugetlb, sizes: &[HugeSize]) {
    for &size in sizes {
        assert_eq!(hugetlb.platform().all_charged(size), in_use(hugetlb, size), "{size:?}: charged, in use");
    }
}

fn charged(hugetlb: &Hugetlb) -> [u64; 2] {
    [ONE, OTHER].map(|group| hugetlb.platform().charged(small(), group))
}

/// Does something that this group pays for.
fn paid_by<R>(group: Group, work: impl FnOnce() -> R) -> R {
    PAYER.set(Some(group));
    let result = work();
    PAYER.set(None);
    result
}

/// A file, and two processes that map all of it.
fn sharers() -> (Arc<Hugetlb>, Task, Arc<File>, [Arc<Space>; 2]) {
    let (hugetlb, mut task) = system(8);
    let file = File::new(&hugetlb, small(), None).unwrap();
    file.truncate(&mut task, GIB).unwrap();
    let spaces = [(); 2].map(|()| {
        let space = Space::new(&hugetlb).unwrap();
        map(&space, &mut task, &file, 0, START, GIB, MapFlags::SHARED | MapFlags::NORESERVE).unwrap();
        space
    });
    (hugetlb, task, file, spaces)
}

#[test]
fn a_page_of_a_file_is_given_back_to_who_has_touched_it_first() {
    let (hugetlb, mut task, file, [one, other]) = sharers();
    paid_by(ONE, || one.fault(&mut task, at(START), Access::Write)).unwrap();
    paid_by(OTHER, || {
        // It is there, and costs nothing.
        other.fault(&mut task, at(START), Access::Write).unwrap();
        other.fault(&mut task, at(START + M2), Access::Write).unwrap();
    });
    assert_eq!(charged(&hugetlb), [1, 1]);
    // The page outlives the process that has paid, and moves.
    one.exit(&mut task).unwrap();
    let frame = cpu::peek(&other, &task, at(START)).unwrap().0.frame;
    paid_by(OTHER, || hugetlb.migrate(&mut task, frame)).unwrap();
    assert_eq!(charged(&hugetlb), [1, 1]);
    paid_by(OTHER, || file.truncate(&mut task, 0)).unwrap();
    assert_eq!(charged(&hugetlb), [0, 0]);
    check(&hugetlb, &[small()]);
}

#[test]
fn a_file_that_goes_gives_back_what_all_have_paid() {
    let (hugetlb, mut task, file, [one, other]) = sharers();
    paid_by(ONE, || file.allocate(&mut task, 0, 2 * M2, true)).unwrap();
    paid_by(OTHER, || file.allocate(&mut task, 0, 3 * M2, true)).unwrap();
    assert_eq!(charged(&hugetlb), [2, 1]);
    drop((one, other, file));
    task.finish_drops();
    assert_eq!(charged(&hugetlb), [0, 0]);
}

#[test]
fn whoever_copies_a_page_pays_for_the_copy() {
    let (hugetlb, mut task) = system(8);
    let parent = Space::new(&hugetlb).unwrap();
    let file = File::new(&hugetlb, small(), None).unwrap();
    file.truncate(&mut task, GIB).unwrap();
    map(&parent, &mut task, &file, 0, START, M2, MapFlags::empty()).unwrap();
    paid_by(ONE, || cpu::store(&parent, &mut task, at(START), 1)).unwrap();
    let child = paid_by(OTHER, || parent.fork(&mut task)).unwrap();
    assert_eq!(charged(&hugetlb), [1, 0]);
    paid_by(OTHER, || cpu::store(&child, &mut task, at(START), 2)).unwrap();
    assert_eq!(charged(&hugetlb), [1, 1]);
    // A page that is pinned stays, and stays paid for.
    let pin = parent.pin_page_fast(&task, at(START), GupFlags::PIN).unwrap().into_owned();
    parent.exit(&mut task).unwrap();
    assert_eq!(charged(&hugetlb), [1, 1]);
    drop(pin);
    assert_eq!(charged(&hugetlb), [0, 1]);
    child.exit(&mut task).unwrap();
    assert_eq!(charged(&hugetlb), [0, 0]);
}

#[test]
fn who_may_have_no_more_is_told_and_nothing_has_changed() {
    let (hugetlb, mut task, file, [one, _other]) = sharers();
    CHARGES_LEFT.set(Some(2));
    paid_by(ONE, || {
        one.fault(&mut task, at(START), Access::Write).unwrap();
        let populated = one.madvise(&mut task, at(START), 4 * M2, Advice::PopulateWrite);
        // One at a time, as the run of all is refused.
        assert!(
            matches!(populated, Err(MapError::Fault(FaultError::LimitReached(limit))) if limit.asked == 1)
        );
        assert_eq!(charged(&hugetlb), [2, 0]);
        let refused = one.fault(&mut task, at(START + 2 * M2), Access::Write).unwrap_err();
        assert!(matches!(refused, FaultError::LimitReached(_)) && refused.is_bus_error(), "{refused:?}");
        let refused = file.allocate(&mut task, 2 * M2, M2, true).unwrap_err();
        assert!(matches!(refused, FileError::LimitReached(_)) && refused.errno() == Errno::ENOSPC);
    });
    CHARGES_LEFT.set(None);
    assert_eq!((charged(&hugetlb), in_use(&hugetlb, small()), file.pages()), ([2, 0], 2, 2));
    // The pool is smaller than what may be paid for.
    paid_by(OTHER, || {
        let populated = one.madvise(&mut task, at(START), 16 * M2, Advice::PopulateWrite);
        assert!(matches!(populated, Err(MapError::Fault(FaultError::PoolEmpty(_)))), "{populated:?}");
    });
    assert_eq!(charged(&hugetlb), [2, 6]);
    check(&hugetlb, &[small()]);
}

#[test]
fn an_owner_beyond_its_limit_takes_its_page_from_the_child() {
    let (hugetlb, mut task) = system(8);
    let parent = Space::new(&hugetlb).unwrap();
    let file = File::new(&hugetlb, small(), None).unwrap();
    file.truncate(&mut task, GIB).unwrap();
    map(&parent, &mut task, &file, 0, START, M2, MapFlags::empty()).unwrap();
    CHARGES_LEFT.set(Some(1));
    paid_by(ONE, || cpu::store(&parent, &mut task, at(START), 1)).unwrap();
    let child = parent.fork(&mut task).unwrap();
    paid_by(ONE, || cpu::store(&parent, &mut task, at(START), 2)).unwrap();
    CHARGES_LEFT.set(None);
    assert!(matches!(cpu::load(&child, &mut task, at(START)), Err(FaultError::TakenAway { .. })));
    assert_eq!(charged(&hugetlb), [1, 0]);
}

/// Can a mapping be refused and something have changed? It unmaps what it was to replace.
fn replaces(model: &Model, call: &Call) -> bool {
    let Call::Map { process, map } = call else { return false };
    let Placement::Fixed(start) = map.placement else { return false };
    let range = start.as_u64()..start.as_u64() + map.length.next_multiple_of(GIB);
    model.processes[*process].as_ref().is_some_and(|found| !found.overlapping(&range).is_empty())
}

/// Runs a program of which each call is paid for by its process. The charge after `allowed` others is refused, and after
/// `reservable` others as reserved.
fn run(program: &Program, allowed: Option<u64>, reservable: Option<u64>) {
    let (mut engine, mut model) = (Engine::new(program.format), Model::new(program.format));
    let sizes = program.format.sizes();
    CHARGES_LEFT.set(allowed);
    RESERVABLE_LEFT.set(reservable);
    LIMIT_REACHED.set(false);
    let opening = program.opening().into_iter().map(Ok);
    for step in opening.chain(program.steps.iter().map(Err)) {
        let call = match step {
            Ok(call) => Some(call),
            Err(step) => model.resolve(step),
        };
        let Some(call) = call else { continue };
        let before = common::resident(&engine.processes);
        let mut outcome = engine.apply(&call);
        check(&engine.hugetlb, &sizes);
        if LIMIT_REACHED.take() {
            CHARGES_LEFT.set(None);
            RESERVABLE_LEFT.set(None);
            let mapping = outcome == Outcome::Refused(Refused("ENOMEM", Why::LimitReached));
            // What is done page by page stops half way, and populating a mapping may go without: there the program ends. So it does
            // where the owner of a reservation has taken its page from others instead.
            let one_page = matches!(call, Call::Load { .. } | Call::Store { .. });
            let touched = one_page && outcome == Outcome::Refused(Refused("EFAULT", Why::LimitReached));
            if !touched && (!mapping || replaces(&model, &call)) {
                return;
            }
            // A store to a page of the file that a private mapping has not copied yet: without a page for the copy, the file's is
            // mapped for reading, as where the pool is empty.
            let for_reading =
                matches!(call, Call::Store { .. }) && common::resident(&engine.processes) == before + 1;
            if !for_reading {
                engine.compare(&model);
            }
            outcome = engine.apply(&call);
        }
        assert_eq!(outcome, model.apply(&call), "{call:x?}: engine, model");
        engine.compare(&model);
    }
    engine.finish(&model);
    CHARGES_LEFT.set(None);
    RESERVABLE_LEFT.set(None);
}

fn config(cases: u32) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn what_is_in_use_was_paid_for_after_every_call(
        program in program([Format::x86(), Format::others()].concat(), 60),
    ) {
        run(&program, None, None);
    }

    #[test]
    fn a_charge_that_is_refused_leaves_everything_as_it_was(
        program in program(Format::x86(), 60),
        allowed in 0u64..20,
    ) {
        run(&program, Some(allowed), None);
    }

    #[test]
    fn a_reservation_that_is_refused_leaves_everything_as_it_was(
        program in program(Format::x86(), 60),
        reservable in prop_oneof![0u64..20, 20u64..1500],
    ) {
        run(&program, None, Some(reservable));
    }
}
