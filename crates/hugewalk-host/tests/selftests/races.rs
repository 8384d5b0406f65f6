//! `alloc-instantiate-race`, `hugefallocate`'s stress: threads that want the same pages at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hugewalk::fault::FaultError;
use hugewalk::mm::{Backing, MapRequest, Placement};

use crate::pages::{RW, SMALL, StopAtEnd};
use crate::setup::{BASE, MIB2, Machine, NORESERVE, PRIVATE, SHARED, after, at, cpu};

/// Two touch the last page of the pool at the same moment: both through a mapping that has it reserved. One makes the page, the
/// other has to find it, and not the pool empty.
#[test]
fn two_that_touch_the_last_page_at_once_both_get_it() {
    const ROUNDS: usize = 200;
    for flags in [SHARED, PRIVATE] {
        let mut machine = Machine::new(1);
        let barrier = Barrier::new(2);
        let rounds: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let (file, one) = (machine.file(1), machine.process());
                machine.map(&one, &file, BASE, MIB2, flags);
                // For a shared page the second is another process, for a private one another thread.
                let two = if flags == SHARED { machine.process() } else { one.clone() };
                if flags == SHARED {
                    machine.map(&two, &file, BASE, MIB2, flags);
                }
                let hugetlb = &machine.hugetlb;
                let touch = |space| {
                    let mut task = hugewalk_host::task(hugetlb).unwrap();
                    let mut cpu = cpu(space);
                    barrier.wait();
                    cpu.store(&mut task, BASE, 1)
                };
                let results = thread::scope(|scope| {
                    [&one, &two]
                        .map(|space| scope.spawn(|| touch(space)))
                        .map(|thread| thread.join().unwrap())
                });
                drop((one, two, file));
                assert_eq!(machine.free(), 1);
                results
            })
            .collect();
        assert_eq!(rounds, vec![[Ok(()); 2]; ROUNDS]);
        machine.end();
    }
}

#[test]
fn threads_of_a_process_map_write_and_unmap_at_once() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 60;
    const EACH: u64 = 3;
    let machine = Machine::new(THREADS * EACH);
    let (space, hugetlb) = (machine.process(), &machine.hugetlb);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let space = &space;
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                let mut cpu = cpu(space);
                for round in 0..ROUNDS {
                    let request = MapRequest {
                        placement: Placement::Anywhere,
                        length: EACH * MIB2,
                        protection: RW,
                        flags: if round % 2 == 0 { SHARED } else { PRIVATE },
                        backing: Backing::Anonymous(SMALL),
                    };
                    let start = space.mmap(&mut task, &request).unwrap();
                    for page in 0..EACH {
                        let place = after(start, page * MIB2);
                        assert_eq!(cpu.load(&mut task, place), Ok(0), "not what another thread left");
                        cpu.store(&mut task, place, (thread * EACH + page) as u8 + 1).unwrap();
                    }
                    for page in 0..EACH {
                        let seen = cpu.load(&mut task, after(start, page * MIB2));
                        assert_eq!(seen, Ok((thread * EACH + page) as u8 + 1));
                    }
                    space.munmap(&mut task, start, EACH * MIB2).unwrap();
                }
            });
        }
    });
    drop(space);
    machine.end();
}

/// fallocate, holes and truncation under threads that touch the pages.
#[test]
fn preallocation_races_with_faults_holes_and_truncation_and_no_page_is_lost() {
    const PAGES: u64 = 6;
    const ROUNDS: u64 = 150;
    let mut machine = Machine::new(3 * PAGES);
    let (file, space) = (machine.file(PAGES), machine.process());
    machine.map(&space, &file, BASE, PAGES * MIB2, SHARED | NORESERVE);
    machine.map(&space, &file, at(100), PAGES * MIB2, PRIVATE | NORESERVE);
    let (hugetlb, over) = (&machine.hugetlb, AtomicBool::new(false));
    thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        for area in [BASE, at(100)] {
            let (space, over) = (&space, &over);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                let mut cpu = cpu(space);
                let mut page = 0;
                while !over.load(Ordering::Relaxed) {
                    page = (page + 1) % PAGES;
                    match cpu.store(&mut task, after(area, page * MIB2), 1) {
                        Ok(()) | Err(FaultError::BeyondEof { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
        let task = &mut machine.task;
        for round in 0..ROUNDS {
            file.allocate(task, (round % PAGES) * MIB2, MIB2, true).unwrap();
            file.punch_hole(task, (round * 5 % PAGES) * MIB2 + MIB2 / 2, 2 * MIB2).unwrap();
            if round % 10 == 0 {
                file.truncate(task, (round / 10 % PAGES) * MIB2).unwrap();
                file.allocate(task, 0, PAGES * MIB2, false).unwrap();
            }
        }
        drop(stop);
    });
    assert_eq!(machine.counters().reserved, 0);
    drop((space, file));
    machine.end();
}
