//! Memory failure: who is told, what the pool loses, and how it gets it back.

mod pages;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hugewalk::Task;
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, PMD_SIZE, X86_64};
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::file::FileError;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::pool::PoolCounters;
use hugewalk::rmap::{PageError, Recovery};
use hugewalk::vma::Protection;
use pages::*;

fn hwpoison(at: VirtAddr) -> FaultError {
    FaultError::Hwpoison { address: at, size: SMALL }
}

fn less(before: PoolCounters, total: u64, free: u64) -> PoolCounters {
    PoolCounters { total: before.total - total, free: before.free - free, ..before }
}

#[test]
fn a_free_page_leaves_the_pool_and_comes_back() {
    let (hugetlb, mut task) = system(4);
    let before = counters(&hugetlb);
    let free = free_frame(&hugetlb, &mut task);
    assert_eq!(hugetlb.memory_failure(&mut task, free), Ok(Recovery::Free));
    assert_eq!(counters(&hugetlb), less(before, 1, 1));
    assert_eq!(hugetlb.memory_failure(&mut task, free), Err(PageError::Hwpoison));
    assert_eq!(PageError::Hwpoison.errno(), Errno::EHWPOISON);
    // It is never handed out, nor given to the host.
    assert_eq!(hugetlb.resize_pool(SMALL, 0), 0);
    assert_eq!(hugetlb.platform().usage().huge(X86_64::SIZE_2M), 1);
    assert_eq!(hugetlb.resize_pool(SMALL, 3), 3);
    hugetlb.unpoison(free).unwrap();
    assert_eq!(counters(&hugetlb), before);
    assert_eq!(hugetlb.unpoison(free), Err(PageError::Sound));
    assert_unused(&hugetlb, &mut task);
}

/// The frame of a free page of the pool, any of them.
fn free_frame(hugetlb: &System, task: &mut Task<hugewalk_host::Host>) -> HugeFrame {
    let (file, space) = (file(task, 1), space(hugetlb));
    map(task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(task, page(0), 1).unwrap();
    let frame = frame(task, &space, page(0));
    space.exit(task).unwrap();
    drop(file);
    frame
}

#[test]
fn a_system_that_goes_gives_its_bad_pages_to_the_host_too() {
    let (hugetlb, mut task) = system(4);
    let free = free_frame(&hugetlb, &mut task);
    hugetlb.memory_failure(&mut task, free).unwrap();
    drop(task);
    // The host panics when a page is freed twice, and loses nothing it does not get: its count is the test of the drop.
    drop(hugetlb);
}

#[test]
fn every_mapping_of_a_file_page_gets_the_error_and_the_file_keeps_the_page() {
    let (hugetlb, mut task) = system(8);
    let (file, spaces) = sharers(&hugetlb, &mut task, 3);
    let private = space(&hugetlb);
    map(&mut task, &private, &file, MapFlags::NORESERVE);
    cpu(&private).load(&mut task, page(0)).unwrap();
    cpu(&spaces[0]).store(&mut task, page(1), 3).unwrap();
    let (bad, before) = (frame(&task, &private, page(0)), counters(&hugetlb));
    assert_eq!(bad, frame(&task, &spaces[0], page(0)));

    let mut stale: Vec<_> = spaces.iter().chain([&private]).map(cpu).collect();
    for cpu in &mut stale {
        cpu.load(&mut task, page(0)).unwrap();
    }
    assert_eq!(hugetlb.memory_failure(&mut task, bad), Ok(Recovery::File));
    assert_eq!(hugetlb.memory_failure(&mut task, bad), Err(PageError::Hwpoison));
    for cpu in &mut stale {
        // In an entry for the last user of the table, and for the private one; in the file for who was unshared.
        for _ in 0..2 {
            assert_eq!(cpu.load(&mut task, page(0)), Err(hwpoison(page(0))));
            assert_eq!(cpu.store(&mut task, page(0), 1), Err(hwpoison(page(0))));
        }
    }
    assert_eq!(FaultError::errno(&hwpoison(page(0))), Errno::EHWPOISON);
    // Its neighbour is well, and so is the table that they share.
    assert_eq!(stale[1].load(&mut task, page(1)), Ok(3));
    assert_eq!(users(&mut task, &spaces[0]), 3);
    // The file knows.
    let mut bytes = [0; 3];
    assert_eq!(file.read_at(PMD_SIZE - 1, &mut bytes), Err(FileError::Hwpoison { index: 0 }));
    assert_eq!(file.write_at(&mut task, 0, b"x"), Err(FileError::Hwpoison { index: 0 }));
    assert_eq!(counters(&hugetlb), before);
    assert_eq!(hugetlb.unpoison(bad), Err(PageError::Held { references: 1 }));
    assert_eq!(hugetlb.migrate(&mut task, bad), Err(PageError::Hwpoison));

    // A mapping that is made later, and shares no table, finds the page in the file.
    let late = space(&hugetlb);
    map(&mut task, &late, &file, MapFlags::NORESERVE);
    assert_eq!(cpu(&late).load(&mut task, page(0)), Err(hwpoison(page(0))));
    assert_eq!(cpu(&late).store(&mut task, page(0), 1), Err(hwpoison(page(0))));
    late.exit(&mut task).unwrap();
    drop(late);

    // Punched out, it leaves the pool, and a fresh page takes its place in the file and in the mappings.
    file.punch_hole(&mut task, 0, PMD_SIZE).unwrap();
    assert_eq!(counters(&hugetlb), less(before, 1, 0));
    for cpu in &mut stale {
        assert_eq!(cpu.load(&mut task, page(0)), Ok(0));
    }
    hugetlb.unpoison(bad).unwrap();
    drop(stale);
    spaces.iter().for_each(|space| space.exit(&mut task).unwrap());
    private.exit(&mut task).unwrap();
    drop((spaces, private, file));
    assert_unused(&hugetlb, &mut task);
    assert_eq!(counters(&hugetlb).total, 8);
}

#[test]
fn a_private_page_is_lost_with_its_last_reference_and_its_traces_outlive_it() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 2);
    let parent = space(&hugetlb);
    map(&mut task, &parent, &file, MapFlags::empty());
    cpu(&parent).store(&mut task, page(0), 1).unwrap();
    let child = parent.fork(&mut task).unwrap();
    let (bad, before) = (frame(&task, &parent, page(0)), counters(&hugetlb));
    assert_eq!(hugetlb.memory_failure(&mut task, bad), Ok(Recovery::Private));
    assert_eq!(counters(&hugetlb), less(before, 1, 0));
    assert_eq!((parent.mm().resident(), child.mm().resident()), (0, 0));
    for space in [&parent, &child] {
        assert_eq!(cpu(space).load(&mut task, page(0)), Err(hwpoison(page(0))));
    }
    // fork copies the trace, mprotect leaves it, mremap moves it.
    let grandchild = child.fork(&mut task).unwrap();
    child.mprotect(&mut task, page(0), 2 * PMD_SIZE, Protection::READ).unwrap();
    assert_eq!(entry(&task, &child, page(0)), Entry::Hwpoison(bad));
    assert_eq!(entry(&task, &grandchild, page(0)), Entry::Hwpoison(bad));
    grandchild.mremap(&mut task, page(0), 2 * PMD_SIZE, 2 * PMD_SIZE, RemapTo::Fixed(page(600))).unwrap();
    assert_eq!(entry(&task, &grandchild, page(600)), Entry::Hwpoison(bad));
    assert_eq!(cpu(&grandchild).load(&mut task, page(600)), Err(hwpoison(page(600))));
    // Found sound again, the page may be anybody's; the traces stay until they are unmapped.
    hugetlb.unpoison(bad).unwrap();
    assert_eq!(cpu(&parent).load(&mut task, page(0)), Err(hwpoison(page(0))));
    parent.madvise(&mut task, page(0), PMD_SIZE, Advice::DontNeed).unwrap();
    assert_eq!(cpu(&parent).load(&mut task, page(0)), Ok(0));
    for space in [&parent, &child, &grandchild] {
        space.exit(&mut task).unwrap();
    }
    drop((parent, child, grandchild, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_pinned_page_is_lost_when_it_is_let_go() {
    let (hugetlb, mut task) = system(4);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::empty());
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    let bad = frame(&task, &space, page(0));
    let pin = space.pin_pages(&mut task, page(0), 1, GupFlags::PIN).unwrap();
    let held = Err(PageError::Held { references: 1 });
    assert_eq!(hugetlb.memory_failure(&mut task, bad), held);
    assert_eq!(cpu(&space).load(&mut task, page(0)), Err(hwpoison(page(0))));
    assert_eq!(counters(&hugetlb).total, 4);
    assert_eq!(hugetlb.unpoison(bad), Err(PageError::Held { references: 1 }));
    // The pin keeps the file, whose mapping is gone; then the page, and with it the file, goes.
    space.exit(&mut task).unwrap();
    drop((space, file));
    assert_eq!(counters(&hugetlb).total, 4);
    drop(pin);
    assert_eq!(counters(&hugetlb), PoolCounters { total: 3, free: 3, reserved: 0, surplus: 0 });
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_page_that_is_in_no_file_any_more_and_pinned_can_fail_too() {
    let (hugetlb, mut task) = system(4);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    let bad = frame(&task, &space, page(0));
    let pin = space.pin_pages(&mut task, page(0), 1, GupFlags::PIN).unwrap();
    file.truncate(&mut task, 0).unwrap();
    assert_eq!(hugetlb.unmap_page(&mut task, bad), Err(PageError::Held { references: 1 }));
    assert_eq!(hugetlb.migrate(&mut task, bad), Err(PageError::Held { references: 1 }));
    assert_eq!(hugetlb.memory_failure(&mut task, bad), Err(PageError::Held { references: 1 }));
    assert_eq!(hugetlb.memory_failure(&mut task, bad), Err(PageError::Hwpoison));
    drop(pin);
    assert_eq!(counters(&hugetlb).total, 3);
}

#[test]
fn a_free_page_that_is_reserved_leaves_when_a_reservation_is_given_back() {
    let (hugetlb, mut task) = system(2);
    let free = free_frame(&hugetlb, &mut task);
    let file = file(&mut task, 2);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    let reserved = PoolCounters { total: 2, free: 2, reserved: 2, surplus: 0 };
    assert_eq!(counters(&hugetlb), reserved);
    assert_eq!(hugetlb.memory_failure(&mut task, free), Err(PageError::Reserved));
    assert_eq!(PageError::Reserved.errno(), Errno::EBUSY);
    assert_eq!(counters(&hugetlb), reserved);
    // One reservation finds its page; the other cannot.
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    assert_ne!(frame(&task, &space, page(0)), free);
    let error = cpu(&space).store(&mut task, page(1), 1).unwrap_err();
    assert!(matches!(error, FaultError::PoolEmpty(_)) && error.is_bus_error());
    assert_eq!(counters(&hugetlb), PoolCounters { total: 2, free: 1, reserved: 1, surplus: 0 });
    space.exit(&mut task).unwrap();
    drop((space, file));
    assert_eq!(counters(&hugetlb), PoolCounters { total: 1, free: 1, reserved: 0, surplus: 0 });
    hugetlb.unpoison(free).unwrap();
    assert_eq!(counters(&hugetlb), PoolCounters { total: 2, free: 2, reserved: 0, surplus: 0 });
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_free_page_that_is_reserved_leaves_with_a_reservation_that_nobody_used() {
    let (hugetlb, mut task) = system(2);
    let free = free_frame(&hugetlb, &mut task);
    let file = file(&mut task, 2);
    file.reserve(&mut task, 0, 2 * PMD_SIZE).unwrap();
    assert_eq!(hugetlb.memory_failure(&mut task, free), Err(PageError::Reserved));
    file.unreserve(&mut task, 0, PMD_SIZE).unwrap();
    assert_eq!(counters(&hugetlb), PoolCounters { total: 1, free: 1, reserved: 1, surplus: 0 });
    drop(file);
    assert_eq!(counters(&hugetlb), PoolCounters { total: 1, free: 1, reserved: 0, surplus: 0 });
    hugetlb.unpoison(free).unwrap();
    assert_eq!(counters(&hugetlb), PoolCounters { total: 2, free: 2, reserved: 0, surplus: 0 });
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_reserved_page_that_is_unpoisoned_keeps_the_reservations() {
    let (hugetlb, mut task) = system(1);
    let free = free_frame(&hugetlb, &mut task);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    assert_eq!(hugetlb.memory_failure(&mut task, free), Err(PageError::Reserved));
    assert!(cpu(&space).store(&mut task, page(0), 1).is_err());
    hugetlb.unpoison(free).unwrap();
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    assert_eq!(counters(&hugetlb), PoolCounters { total: 1, free: 0, reserved: 0, surplus: 0 });
}

#[test]
fn a_surplus_page_that_fails_is_the_hosts_loss() {
    let (hugetlb, mut task) = system(1);
    hugetlb.pool(SMALL).set_overcommit(2);
    let file = file(&mut task, 3);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    for n in 0..3 {
        cpu(&space).store(&mut task, page(n), 1).unwrap();
    }
    assert_eq!(counters(&hugetlb).surplus, 2);
    // The first that goes is a surplus page, whichever it was.
    let bad = frame(&task, &space, page(0));
    hugetlb.memory_failure(&mut task, bad).unwrap();
    space.exit(&mut task).unwrap();
    drop((space, file));
    assert_eq!(counters(&hugetlb), PoolCounters { total: 1, free: 1, reserved: 0, surplus: 0 });
    assert_eq!(hugetlb.platform().usage().huge(X86_64::SIZE_2M), 2);
    hugetlb.unpoison(bad).unwrap();
    assert_eq!(hugetlb.platform().usage().huge(X86_64::SIZE_2M), 1);
    assert_eq!(counters(&hugetlb).total, 1);
}

#[test]
fn a_reservation_that_a_lost_page_had_used_is_not_given_back_twice() {
    let (hugetlb, mut task) = system(4);
    let file = file(&mut task, 3);
    for flags in [MapFlags::SHARED, MapFlags::empty()] {
        let space = space(&hugetlb);
        map(&mut task, &space, &file, flags);
        cpu(&space).store(&mut task, page(1), 1).unwrap();
        let (bad, before) = (frame(&task, &space, page(1)), counters(&hugetlb));
        assert_eq!((before.free, before.reserved), (3, 2));
        hugetlb.memory_failure(&mut task, bad).unwrap();
        assert_eq!(counters(&hugetlb).reserved, 2);
        space.exit(&mut task).unwrap();
        file.truncate(&mut task, 0).unwrap();
        file.truncate(&mut task, 3 * PMD_SIZE).unwrap();
        assert_eq!(counters(&hugetlb), PoolCounters { total: 3, free: 3, reserved: 0, surplus: 0 });
        hugetlb.unpoison(bad).unwrap();
        assert_eq!(counters(&hugetlb), PoolCounters { total: 4, free: 4, reserved: 0, surplus: 0 });
    }
}

#[test]
fn pages_fail_under_processes_that_touch_fork_punch_and_move_them_and_all_come_back() {
    const PAGES: u64 = 24;
    let (hugetlb, mut task) = system(PAGES);
    let stop = AtomicBool::new(false);
    let file = file(&mut task, 512);
    thread::scope(|scope| {
        for n in 0..2_u64 {
            let (hugetlb, file, stop) = (&hugetlb, &file, &stop);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                let flags = if n == 0 { MapFlags::SHARED } else { MapFlags::empty() };
                while !stop.load(Ordering::Relaxed) {
                    let space = space(hugetlb);
                    map(&mut task, &space, file, flags | MapFlags::NORESERVE);
                    for at in 0..4 {
                        let _ = cpu(&space).store(&mut task, page(at), 1);
                    }
                    if let Ok(child) = space.fork(&mut task) {
                        let _ = cpu(&child).store(&mut task, page(1), 2);
                        let _ = file.punch_hole(&mut task, 0, PMD_SIZE);
                        child.exit(&mut task).unwrap();
                    }
                    if n == 0
                        && let Some(frame) = entry(&task, &space, page(2)).page()
                    {
                        let _ = hugetlb.migrate(&mut task, frame);
                    }
                    space.exit(&mut task).unwrap();
                }
            });
        }
        let end = StopAtEnd(&stop);
        let first = 1_u64 << 28;
        // In use, that is; besides, whatever is free.
        let mut hits = 0;
        while hits < 200 {
            for unit in 0..PAGES {
                let frame = HugeFrame(first + unit * 512);
                let recovery = hugetlb.memory_failure(&mut task, frame);
                hits += u64::from(matches!(recovery, Ok(Recovery::Private | Recovery::File)));
                let _ = hugetlb.unpoison(frame);
            }
            // A file keeps the pages that failed until they are punched out.
            file.punch_hole(&mut task, 0, 4 * PMD_SIZE).unwrap();
        }
        drop(end);
    });
    drop(file);
    for unit in 0..PAGES {
        let _ = hugetlb.unpoison(HugeFrame((1 << 28) + unit * 512));
    }
    assert_unused(&hugetlb, &mut task);
    assert_eq!(counters(&hugetlb).total, PAGES);
}
