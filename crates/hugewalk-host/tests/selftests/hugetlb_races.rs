//! `hugetlb_fault_after_madv` and `hugetlb_madv_vs_map`: one thread drops the only page there is, another touches it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hugewalk::addr::VirtAddr;
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig};

use crate::pages::{RW, SMALL, StopAtEnd};
use crate::setup::{BASE, MIB2, Machine, PRIVATE, SHARED, at, cpu};
use crate::stepped::{Stepped, Steps, interrupt};

const ROUNDS: u64 = 3000;

/// A page that is dropped is in the pool again before a fault can look for one: else the fault would find the pool empty, and
/// the thread that did nothing but touch its memory would get SIGBUS.
#[test]
fn who_touches_a_page_that_another_thread_drops_finds_one_even_if_it_is_the_only_one() {
    for flags in [PRIVATE, SHARED] {
        let mut machine = Machine::new(1);
        let space = machine.process();
        machine.anonymous(&space, BASE, MIB2, flags);
        let (hugetlb, over) = (&machine.hugetlb, AtomicBool::new(false));
        let dropped = AtomicU64::new(0);
        thread::scope(|scope| {
            let stop = StopAtEnd(&over);
            scope.spawn(|| {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                while !over.load(Ordering::Relaxed) {
                    space.madvise(&mut task, BASE, MIB2, Advice::DontNeed).unwrap();
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut cpu = cpu(&space);
            while dropped.load(Ordering::Relaxed) < ROUNDS {
                assert_eq!(cpu.store(&mut machine.task, BASE, 1), Ok(()));
            }
            drop(stop);
        });
        drop(space);
        machine.end();
    }
}

/// A private page of the only one there is, and whoever wants to map one more.
fn one_more() -> MapRequest<'static, Host> {
    MapRequest {
        placement: Placement::Fixed(at(100)),
        length: MIB2,
        protection: RW,
        flags: PRIVATE,
        backing: Backing::Anonymous(SMALL),
    }
}

/// The page is reserved, or mapped, or dropped and reserved again. So mapping another one is always refused, and the thread that drops
/// the page can always have it again. (Linux restores the reservation of a dropped page from 6.10 on.)
#[test]
fn the_only_page_is_nobody_elses_while_it_is_dropped_and_touched() {
    let mut machine = Machine::new(1);
    let space = machine.process();
    machine.anonymous(&space, BASE, MIB2, PRIVATE);
    let (hugetlb, over) = (&machine.hugetlb, AtomicBool::new(false));
    let (dropped, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        scope.spawn(|| {
            let mut task = hugewalk_host::task(hugetlb).unwrap();
            while !over.load(Ordering::Relaxed) {
                space.madvise(&mut task, BASE, MIB2, Advice::DontNeed).unwrap();
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut task = hugewalk_host::task(hugetlb).unwrap();
            while !over.load(Ordering::Relaxed) {
                let mapped = space.mmap(&mut task, &one_more()).unwrap_err();
                assert!(matches!(mapped, MapError::NoPage(_)), "{mapped:?}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut cpu = cpu(&space);
        while [&dropped, &refused].iter().any(|done| done.load(Ordering::Relaxed) < ROUNDS) {
            assert_eq!(cpu.store(&mut machine.task, BASE, 1), Ok(()));
        }
        drop(stop);
    });
    drop(space);
    machine.end();
}

/// Drops the only page, with another thread having its turn between any two steps.
fn at_each_step_of_dropping<R: Send>(
    flags: MapFlags,
    turn: impl Fn(&AddressSpace<Stepped>, &mut Task<Stepped>) -> R + Sync,
    look: impl Fn(R, u64),
) {
    for number in 0.. {
        let config = HostConfig::new().huge_bytes(MIB2).max_tables(20).contents(Contents::Nothing);
        let hugetlb = Hugetlb::new(Stepped(Host::new(&config).unwrap())).unwrap();
        hugetlb.resize_pool(SMALL, 1);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        map_one(&space, &mut task, BASE, flags).unwrap();
        space.fault(&mut task, BASE, Access::Write).unwrap();
        let mut result = None;
        let their_turn = || result = Some(turn(&space, &mut hugewalk_host::task(&hugetlb).unwrap()));
        let (dropped, interrupted) = interrupt(number, Steps::WordsAndLocks, their_turn, || {
            space.madvise(&mut task, BASE, MIB2, Advice::DontNeed)
        });
        assert_eq!(dropped, Ok(()));
        if let Some(result) = result {
            look(result, number);
        }
        space.exit(&mut task).unwrap();
        if !interrupted {
            assert!(number >= 10, "only {number} steps: nothing to look between");
            break;
        }
    }
}

fn map_one(
    space: &AddressSpace<Stepped>,
    task: &mut Task<Stepped>,
    start: VirtAddr,
    flags: MapFlags,
) -> Result<VirtAddr, MapError> {
    let request = MapRequest {
        placement: Placement::Fixed(start),
        length: MIB2,
        protection: RW,
        flags,
        backing: Backing::Anonymous(SMALL),
    };
    space.mmap(task, &request)
}

#[test]
fn at_whatever_step_of_dropping_the_only_page_it_is_touched_there_is_one() {
    for flags in [PRIVATE, SHARED] {
        at_each_step_of_dropping(
            flags,
            |space, task| space.fault(task, BASE, Access::Write),
            |touched, number| assert!(touched.is_ok(), "{touched:?} at step {number}"),
        );
    }
}

#[test]
fn at_whatever_step_of_dropping_the_only_page_another_wants_it_it_is_refused() {
    for flags in [PRIVATE, SHARED] {
        at_each_step_of_dropping(
            flags,
            |space, task| map_one(space, task, at(100), PRIVATE),
            |mapped, number| {
                assert!(matches!(mapped, Err(MapError::NoPage(_))), "{mapped:?} at step {number}");
            },
        );
    }
}
