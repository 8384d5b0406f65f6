//! What registering does to tables that are shared.

use std::sync::atomic::{AtomicBool, Ordering};

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::uffd::{ContinueMode, CopyMode, Features, Message, Modes, ProtectMode, Userfault};
use hugewalk::{AddressSpace, Task};
use hugewalk_host::{Contents, Cpu, Host};

use crate::setup::{BASE, GIB, MIB2, Space, World, at, load, map_at, page_of, read_fault};

const PAGES: u64 = 1024;

/// How many address spaces use the table of each gigabyte.
fn users(space: &AddressSpace<Host>, task: &mut Task<Host>) -> Vec<u64> {
    space.tables(task).unwrap().iter().map(|table| table.users).collect()
}

/// A world of two gigabytes, and a process that shares their tables with it.
fn two_processes(features: Features) -> (World, Space) {
    let mut world = World::with_contents(Contents::Nothing, PAGES, MapFlags::SHARED, features);
    let other = AddressSpace::new(&world.hugetlb).unwrap();
    map_at(&other, &mut world.task, &world.file, BASE, MapFlags::SHARED);
    touch_both(&world.space, &mut world.task);
    touch_both(&other, &mut world.task);
    assert_eq!(users(&other, &mut world.task), [2, 2]);
    (world, other)
}

fn touch_both(space: &AddressSpace<Host>, task: &mut Task<Host>) {
    for address in [BASE, at(512, 0)] {
        space.fault(task, address, Access::Write).unwrap();
    }
}

#[test]
fn registering_for_protection_or_minor_faults_unshares_and_for_missing_pages_does_not() {
    for (modes, left) in [(Modes::WP, 1), (Modes::MINOR, 1), (Modes::MISSING, 2)] {
        let (mut world, other) = two_processes(Features::empty());
        world.register(modes);
        assert_eq!(users(&other, &mut world.task), [left, left], "{modes:?}");
        if modes == Modes::MISSING {
            // What the handler brings into a shared table is there for all who share it.
            world.uffd.copy(&mut world.task, at(7, 0), &page_of(0), CopyMode::empty()).unwrap();
            let mut cpu = Cpu::new(&other).unwrap();
            load(&mut cpu, &mut world.task, 7).unwrap();
            assert_eq!(other.mm().resident(), 0);
        } else {
            assert_eq!(users(&world.space, &mut world.task), []);
        }
        other.exit(&mut world.task).unwrap();
        drop(other);
        world.end();
    }
}

#[test]
fn two_that_are_registered_for_the_same_faults_share_only_if_these_are_those_on_missing_pages() {
    for (modes, shared_by) in [(Modes::WP, 1), (Modes::MINOR, 1), (Modes::MISSING, 2)] {
        let (mut world, other) = two_processes(Features::empty());
        let others = Userfault::new(&other, Features::empty()).unwrap();
        world.register(modes);
        others.register(&mut world.task, BASE, 2 * GIB, modes).unwrap();
        for address in [BASE, at(512, 0)] {
            if modes == Modes::MINOR {
                world.uffd.continue_range(&mut world.task, address, MIB2, ContinueMode::empty()).unwrap();
            } else {
                world.space.fault(&mut world.task, address, Access::Read).unwrap();
            }
        }
        assert_eq!(users(&world.space, &mut world.task), [shared_by; 2], "{modes:?}");
        assert_eq!(users(&other, &mut world.task), [shared_by; 2], "{modes:?}");
        other.exit(&mut world.task).unwrap();
        drop((other, others));
        world.end();
    }
}

#[test]
fn registering_a_part_unshares_the_gigabytes_it_cuts_and_no_other() {
    let (mut world, other) = two_processes(Features::empty());
    world.uffd.register(&mut world.task, at(3, 0), MIB2, Modes::WP).unwrap();
    assert_eq!(users(&other, &mut world.task), [1, 2]);
    other.exit(&mut world.task).unwrap();
    drop(other);
    world.end();
}

#[test]
fn what_is_not_registered_any_more_shares_again() {
    let (mut world, other) = two_processes(Features::empty());
    world.register(Modes::WP);
    world.uffd.write_protect(&mut world.task, BASE, 2 * GIB, ProtectMode::WP).unwrap();
    world.uffd.unregister(&mut world.task, BASE, 2 * GIB).unwrap();
    // Its tables were its own, without a trace of protections; dropped, they come from the other.
    world.space.munmap(&mut world.task, BASE, 2 * GIB).unwrap();
    map_at(&world.space, &mut world.task, &world.file, BASE, MapFlags::SHARED);
    touch_both(&world.space, &mut world.task);
    assert_eq!(users(&other, &mut world.task), [2, 2]);
    other.exit(&mut world.task).unwrap();
    drop(other);
    world.end();
}

/// Scenario S20: while one thread registers and unregisters, others of this and of another process fault, and so share
/// whenever they may. As long as the range is registered nobody may share its tables.
#[test]
fn nobody_shares_a_table_anew_before_the_registration_shows() {
    const ROUNDS: u32 = 400;
    let (mut world, other) = two_processes(Features::empty());
    let done = AtomicBool::new(false);
    let World { hugetlb, task, space, uffd, .. } = &mut world;
    std::thread::scope(|scope| {
        for faulting in [&*space, &other] {
            let (hugetlb, done) = (&*hugetlb, &done);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                while !done.load(Ordering::Relaxed) {
                    for page in [0, 3, 512, 700] {
                        faulting.fault(&mut task, at(page, 0), Access::Read).unwrap();
                    }
                }
            });
        }
        for round in 0..ROUNDS {
            let (start, length) = if round % 2 == 0 { (BASE, 2 * GIB) } else { (at(512, 0), GIB) };
            uffd.register(task, start, length, Modes::WP).unwrap();
            for _ in 0..3 {
                let tables = space.tables(task).unwrap();
                let mut registered = tables.iter().filter(|table| table.start >= start);
                assert!(registered.all(|table| table.users == 1), "shared while registered");
                std::thread::yield_now();
            }
            uffd.unregister(task, BASE, 2 * GIB).unwrap();
            // Its own tables go, so that it has something to share next time.
            space.madvise(task, BASE, 2 * GIB, Advice::DontNeed).unwrap();
            other.madvise(task, BASE, GIB, Advice::DontNeed).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    other.exit(&mut world.task).unwrap();
    drop(other);
    world.end();
}

/// The two sides of a live migration: a process whose pages are filled through another mapping, in the same table's range.
#[test]
fn minor_faults_of_a_gigabyte_whose_partner_shares_with_others_are_still_the_handlers() {
    let (mut world, other) = two_processes(Features::empty());
    let third = AddressSpace::new(&world.hugetlb).unwrap();
    map_at(&third, &mut world.task, &world.file, BASE, MapFlags::SHARED);
    touch_both(&third, &mut world.task);
    world.register(Modes::MINOR);
    assert_eq!(users(&other, &mut world.task), [2, 2]);
    world.beside(
        |cpu, task| {
            load(cpu, task, 0).unwrap();
            load(cpu, task, 512).unwrap();
        },
        |task, uffd| {
            for address in [BASE, at(512, 0)] {
                assert_eq!(read_fault(uffd, task).address, address);
                uffd.continue_range(task, address, MIB2, ContinueMode::empty()).unwrap();
            }
        },
    );
    for space in [&other, &third] {
        space.exit(&mut world.task).unwrap();
    }
    drop((other, third));
    world.end();
}

/// A child whose handler is told of it has its parent's modes, and what it may not share it does not share.
#[test]
fn a_registered_child_does_not_share_either() {
    let mut world = World::with_contents(Contents::Nothing, PAGES, MapFlags::SHARED, Features::EVENT_FORK);
    world.register(Modes::WP);
    touch_both(&world.space, &mut world.task);
    let space = world.space.clone();
    let (child, handle) = world.beside(
        |_, task| space.fork(task).unwrap(),
        |task, uffd| match uffd.read_event(task).unwrap() {
            Message::Fork(handle) => handle,
            other => panic!("{other:?}"),
        },
    );
    // Its protections would lie in the table: it has one of its own, with its parent's entries.
    assert_eq!(users(&child, &mut world.task), [1, 1]);
    let again = Userfault::new(&child, Features::empty()).unwrap();
    assert!(again.register(&mut world.task, BASE, GIB, Modes::WP).is_err());
    handle.close(&mut world.task).unwrap();
    let nobody: VirtAddr = at(1, 0);
    assert!(again.register(&mut world.task, nobody, MIB2, Modes::MISSING).is_ok());
    // Each entry counts.
    child.exit(&mut world.task).unwrap();
    space.exit(&mut world.task).unwrap();
    let counters = world.hugetlb.pool(X86_64::SIZE_2M).counters();
    assert_eq!(counters.total - counters.free, world.file.pages());
    drop((again, child, space));
    world.end();
}
