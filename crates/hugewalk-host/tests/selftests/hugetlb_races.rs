//! `hugetlb_fault_after_madv` and `hugetlb_madv_vs_map`: one thread drops the only page there is, another touches it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hugewalk::fault::{Access, FaultError};
use hugewalk::mm::{Advice, Backing, MapError, MapRequest, Placement};
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
                let mut task = Task::new(hugetlb).unwrap();
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

/// The same, with the page touched between any two steps of dropping it.
#[test]
fn at_whatever_step_of_dropping_the_only_page_it_is_touched_there_is_one() {
    for flags in [PRIVATE, SHARED] {
        for number in 0.. {
            let config = HostConfig::new().huge_bytes(MIB2).max_tables(20).contents(Contents::Nothing);
            let hugetlb = Hugetlb::new(Stepped(Host::new(&config).unwrap())).unwrap();
            hugetlb.resize_pool(SMALL, 1);
            let mut task = Task::new(&hugetlb).unwrap();
            let space = AddressSpace::new(&hugetlb).unwrap();
            let request = MapRequest {
                placement: Placement::Fixed(BASE),
                length: MIB2,
                protection: RW,
                flags,
                backing: Backing::Anonymous(SMALL),
            };
            space.mmap(&mut task, &request).unwrap();
            space.fault(&mut task, BASE, Access::Write).unwrap();
            let mut touched = None;
            let turn = || touched = Some(space.fault(&mut Task::new(&hugetlb).unwrap(), BASE, Access::Write));
            let (dropped, interrupted) = interrupt(number, Steps::WordsAndLocks, turn, || {
                space.madvise(&mut task, BASE, MIB2, Advice::DontNeed)
            });
            assert_eq!(dropped, Ok(()));
            assert!(touched.is_none_or(|touched| touched.is_ok()), "{touched:?} at step {number}");
            space.exit(&mut task);
            if !interrupted {
                assert!(number > 10, "{number}");
                break;
            }
        }
    }
}

/// As long as a page is there, or promised, nobody else is promised it. A private page that was dropped has used its promise
/// up (as it has in Linux 6.1; from 6.10 on the promise comes back, which is when the selftest began to pass). So whoever
/// comes first has the page, and the other is told; never both.
#[test]
fn the_only_page_is_had_by_one_of_two_mappings_and_by_no_two() {
    let mut machine = Machine::new(1);
    let space = machine.process();
    machine.anonymous(&space, BASE, MIB2, PRIVATE);
    let request = || MapRequest {
        placement: Placement::Fixed(at(100)),
        length: MIB2,
        protection: RW,
        flags: PRIVATE,
        backing: Backing::Anonymous(SMALL),
    };
    // Promised, and there.
    for store in [false, true] {
        if store {
            cpu(&space).store(&mut machine.task, BASE, 1).unwrap();
        }
        let refused = space.mmap(&mut machine.task, &request()).unwrap_err();
        assert!(matches!(refused, MapError::NoPage(_)), "{refused:?}");
    }
    let (hugetlb, over) = (&machine.hugetlb, AtomicBool::new(false));
    let (mapped, robbed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        scope.spawn(|| {
            let mut task = Task::new(hugetlb).unwrap();
            while !over.load(Ordering::Relaxed) {
                space.madvise(&mut task, BASE, MIB2, Advice::DontNeed).unwrap();
            }
        });
        scope.spawn(|| {
            let mut task = Task::new(hugetlb).unwrap();
            let mut cpu = cpu(&space);
            while !over.load(Ordering::Relaxed) {
                match space.mmap(&mut task, &request()) {
                    Ok(start) => {
                        // Promised is promised.
                        assert_eq!(cpu.store(&mut task, start, 9), Ok(()));
                        assert_eq!(cpu.load(&mut task, start), Ok(9));
                        space.munmap(&mut task, start, MIB2).unwrap();
                        mapped.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(MapError::NoPage(_)) => thread::yield_now(),
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
        let mut cpu = cpu(&space);
        for _ in 0..ROUNDS {
            match cpu.store(&mut machine.task, BASE, 1) {
                Ok(()) => {}
                Err(FaultError::PoolEmpty(_)) => {
                    robbed.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        drop(stop);
    });
    // Who was not served was not served because of the other.
    assert!(robbed.load(Ordering::Relaxed) == 0 || mapped.load(Ordering::Relaxed) > 0);
    drop(space);
    machine.end();
}
