//! Moving pages that are in use: what survives, who waits, who makes it impossible.

mod pages;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, LeafFlags, PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::error::Errno;
use hugewalk::gup::{GupError, GupFlags};
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement, RemapTo, Residency};
use hugewalk::pagewalk::PageMap;
use hugewalk::rmap::PageError;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Cpu, Host, HostConfig};
use pages::*;

const USED: LeafFlags = LeafFlags::ACCESSED.union(LeafFlags::DIRTY).union(LeafFlags::SOFT_DIRTY);

/// Moves the first page of the tests' range.
fn move_page(hugetlb: &System, task: &mut Task<Host>, space: &Space) -> HugeFrame {
    let frame = frame(task, space, page(0));
    hugetlb.migrate(task, frame).unwrap()
}

#[test]
fn contents_flags_and_counts_survive_the_move_of_a_file_page() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 4);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    let mut cpu = cpu(&space);
    cpu.store(&mut task, page(1), 7).unwrap();
    let (before, pool) = (leaf(&task, &space, page(1)), counters(&hugetlb));
    assert!(before.flags.contains(USED | LeafFlags::WRITE));

    let moved = hugetlb.migrate(&mut task, before.frame).unwrap();
    assert_ne!(moved, before.frame);
    let after = leaf(&task, &space, page(1));
    assert_eq!((after.frame, after.flags), (moved, before.flags));
    assert_eq!(counters(&hugetlb), pool);
    assert_eq!(space.mm().resident(), 1);
    // Through the translation, which was flushed, and through the file.
    assert_eq!(cpu.load(&mut task, page(1)), Ok(7));
    cpu.store(&mut task, page(1), 8).unwrap();
    let mut byte = [0];
    file.read_at(PMD_SIZE, &mut byte).unwrap();
    assert_eq!(byte, [8]);
    // Its name is the new one now, and the old one is nobody's.
    assert_eq!(hugetlb.migrate(&mut task, before.frame), Err(PageError::NotInUse));
    hugetlb.migrate(&mut task, moved).unwrap();
    assert_eq!(cpu.load(&mut task, page(1)), Ok(8));

    drop(cpu);
    space.exit(&mut task).unwrap();
    drop((space, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_clean_page_arrives_clean_and_one_without_access_without() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).load(&mut task, page(0)).unwrap();
    let before = leaf(&task, &space, page(0));
    hugetlb.referenced(&mut task, before.frame).unwrap();
    space.mprotect(&mut task, page(0), PMD_SIZE, Protection::empty()).unwrap();
    hugetlb.migrate(&mut task, before.frame).unwrap();
    let after = leaf(&task, &space, page(0));
    let gone = LeafFlags::ACCESSED | LeafFlags::DIRTY | LeafFlags::ACCESS | LeafFlags::WRITE;
    assert!(!after.flags.intersects(gone), "{after:?}");
    // It could be written before, so it counts as soft-dirty: then and still.
    assert!((before.flags & after.flags).contains(LeafFlags::SOFT_DIRTY), "{before:?} {after:?}");
    space.mprotect(&mut task, page(0), PMD_SIZE, RW).unwrap();
    cpu(&space).store(&mut task, page(0), 1).unwrap();
}

#[test]
fn a_private_page_moves_with_its_contents_in_parent_and_child() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 2);
    let parent = space(&hugetlb);
    map(&mut task, &parent, &file, MapFlags::empty());
    cpu(&parent).store(&mut task, page(0), 1).unwrap();
    let alone = move_page(&hugetlb, &mut task, &parent);
    // Alone with it still: a store needs no copy.
    cpu(&parent).store(&mut task, page(0), 2).unwrap();
    assert_eq!(frame(&task, &parent, page(0)), alone);

    let child = parent.fork(&mut task).unwrap();
    let moved = hugetlb.migrate(&mut task, alone).unwrap();
    assert_eq!([&parent, &child].map(|space| frame(&task, space, page(0))), [moved; 2]);
    // Not alone: the store copies, and the child keeps what it had.
    cpu(&parent).store(&mut task, page(0), 3).unwrap();
    assert_ne!(frame(&task, &parent, page(0)), moved);
    assert_eq!(cpu(&child).load(&mut task, page(0)), Ok(2));
    assert_eq!(cpu(&parent).load(&mut task, page(0)), Ok(3));

    child.exit(&mut task).unwrap();
    parent.exit(&mut task).unwrap();
    drop((parent, child, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_page_in_a_table_that_three_share_moves_for_all_of_them() {
    let (hugetlb, mut task) = system(8);
    let (file, spaces) = sharers(&hugetlb, &mut task, 3);
    let mut cpus: Vec<_> = spaces.iter().map(cpu).collect();
    for cpu in &mut cpus {
        assert_eq!(cpu.load(&mut task, page(0)), Ok(1));
    }
    let moved = move_page(&hugetlb, &mut task, &spaces[0]);
    // All but one were unshared; they share again as they touch it.
    cpus[1].store(&mut task, page(0), 9).unwrap();
    for (cpu, space) in cpus.iter_mut().zip(&spaces) {
        assert_eq!(cpu.load(&mut task, page(0)), Ok(9));
        assert_eq!(frame(&task, space, page(0)), moved);
    }
    assert_eq!(users(&mut task, &spaces[0]), 3);
    drop(cpus);
    spaces.iter().for_each(|space| space.exit(&mut task).unwrap());
    drop((spaces, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_page_in_a_table_whose_vma_locks_are_busy_again_and_again_moves_in_place() {
    let (hugetlb, mut task) = system(8);
    let (_file, spaces) = sharers(&hugetlb, &mut task, 4);
    // Held by threads that let go only for a moment; and whoever was unshared comes back in it.
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let end = StopAtEnd(&stop);
    let holders: Vec<_> = (1..)
        .zip(&spaces)
        .map(|(n, space)| {
            let (space, stop) = (space.clone(), stop.clone());
            Worker::start(&hugetlb, move |task| {
                let mut cpu = cpu(&space);
                let mine = page(0).checked_add(64 * n).unwrap();
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    cpu.load(task, page(1)).unwrap();
                    // A translation that was not flushed leads to the old page, and the next one away from what it stored there.
                    if matches!(entry(task, &space, page(0)), Entry::Leaf(_)) {
                        assert_eq!(cpu.load_u64(task, mine), Ok(count));
                        count += 1;
                        cpu.store_u64(task, mine, count).unwrap();
                    }
                    let mmap = space.mmap_read(task);
                    let locked = mmap.lock_vma(mmap.find(page(0)).unwrap(), task);
                    thread::sleep(std::time::Duration::from_millis(1));
                    drop(locked);
                }
                // None that was used last is worth more than what is in the page.
                drop(cpu);
                assert_eq!(Cpu::new(&space).unwrap().load_u64(task, mine), Ok(count));
            })
        })
        .collect();
    let mut moved = frame(&task, &spaces[0], page(0));
    for _ in 0..50 {
        moved = hugetlb.migrate(&mut task, moved).unwrap();
    }
    drop(end);
    holders.into_iter().for_each(Worker::result);
    for space in &spaces {
        assert_eq!(frame(&task, space, page(0)), moved);
    }
}

#[test]
fn a_pinned_page_stays_where_it_is_and_as_it_is() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 2);
    for flags in [MapFlags::SHARED, MapFlags::empty()] {
        let space = space(&hugetlb);
        map(&mut task, &space, &file, flags);
        cpu(&space).store(&mut task, page(0), 4).unwrap();
        let before = leaf(&task, &space, page(0));
        let (pool, references) = (counters(&hugetlb), hugetlb.pool(SMALL).counters().total);
        for gup in [GupFlags::PIN | GupFlags::WRITE, GupFlags::empty()] {
            let pin = space.pin_pages(&mut task, page(0), 1, gup).unwrap();
            let error = hugetlb.migrate(&mut task, before.frame).unwrap_err();
            assert_eq!(error, PageError::Held { references: 1 });
            assert_eq!(error.errno(), Errno::EBUSY);
            assert_eq!(leaf(&task, &space, page(0)), before);
            drop(pin);
        }
        assert_eq!((counters(&hugetlb), counters(&hugetlb).total), (pool, references));
        hugetlb.migrate(&mut task, before.frame).unwrap();
        assert_eq!(cpu(&space).load(&mut task, page(0)), Ok(4));
        space.exit(&mut task).unwrap();
    }
}

#[test]
fn moving_takes_no_reserved_page_and_changes_nothing_without_one() {
    let (hugetlb, mut task) = system(3);
    let file = file(&mut task, 3);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    let (before, pool) = (leaf(&task, &space, page(0)), counters(&hugetlb));
    let error = hugetlb.migrate(&mut task, before.frame).unwrap_err();
    assert!(matches!(error, PageError::PoolEmpty(_)));
    assert_eq!(error.errno(), Errno::ENOMEM);
    assert_eq!((leaf(&task, &space, page(0)), counters(&hugetlb)), (before, pool));
    // A surplus page will do, and goes back to the host in exchange.
    hugetlb.pool(SMALL).set_overcommit(1);
    hugetlb.platform().fail_huge_after(Some(0));
    assert!(hugetlb.migrate(&mut task, before.frame).is_err());
    hugetlb.platform().fail_huge_after(None);
    hugetlb.migrate(&mut task, before.frame).unwrap();
    assert_eq!(counters(&hugetlb), pool);
    // The reserved page is still there.
    for n in 0..3 {
        cpu(&space).store(&mut task, page(n), 1).unwrap();
    }
}

#[test]
fn a_mount_is_charged_for_a_page_once_wherever_it_lies() {
    let (hugetlb, mut task) = system(8);
    let mount = hugewalk::reserve::SubPool::new(&hugetlb, SMALL, Some(2), Some(1)).unwrap();
    let file = hugewalk::file::HugeFile::new(&hugetlb, SMALL, Some(&mount)).unwrap();
    file.truncate(&mut task, 2 * PMD_SIZE).unwrap();
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    let (usage, pool) = (mount.usage(), counters(&hugetlb));
    move_page(&hugetlb, &mut task, &space);
    assert_eq!((mount.usage(), counters(&hugetlb)), (usage, pool));
    space.exit(&mut task).unwrap();
    file.truncate(&mut task, 0).unwrap();
    assert_eq!(mount.usage(), (0, 1));
    drop((file, space, mount));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_page_in_a_file_that_nobody_maps_moves_too() {
    let (hugetlb, mut task) = system(4);
    let file = file(&mut task, 1);
    file.write_at(&mut task, 5, b"here").unwrap();
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).load(&mut task, page(0)).unwrap();
    let old = frame(&task, &space, page(0));
    space.exit(&mut task).unwrap();
    hugetlb.migrate(&mut task, old).unwrap();
    let mut bytes = [0; 4];
    file.read_at(5, &mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
}

#[test]
fn a_gigabyte_page_moves_and_any_frame_in_it_is_its_name() {
    let config = HostConfig::new().huge_bytes(3 * PUD_SIZE).contents(Contents::Nothing);
    let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_1G, 2);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    let request = MapRequest {
        placement: Placement::Fixed(VirtAddr::new(START)),
        length: PUD_SIZE,
        protection: RW,
        flags: MapFlags::empty(),
        backing: Backing::Anonymous(X86_64::SIZE_1G),
    };
    space.mmap(&mut task, &request).unwrap();
    cpu(&space).store(&mut task, page(3), 1).unwrap();
    let old = frame(&task, &space, page(0));
    let moved = hugetlb.migrate(&mut task, HugeFrame(old.0 + 7 * 512)).unwrap();
    assert_eq!(frame(&task, &space, page(3)), moved);
    assert_eq!(hugetlb.pool(X86_64::SIZE_1G).counters().free, 1);
}

#[test]
fn what_is_no_page_in_use_is_refused() {
    let (hugetlb, mut task) = system(4);
    for frame in [HugeFrame(0), HugeFrame(u64::MAX), HugeFrame(1 << 28 | 1), HugeFrame(u64::MAX / 4096)] {
        let error = hugetlb.migrate(&mut task, frame).unwrap_err();
        assert!(matches!(error, PageError::NoHugePage { .. }) || error == PageError::NotInUse, "{error}");
    }
    assert_eq!(PageError::NoHugePage { frame: HugeFrame(0) }.errno(), Errno::ENXIO);
    // A frame in the arena that no pool has.
    let far = HugeFrame((1 << 28) + 100 * 512);
    assert_eq!(hugetlb.migrate(&mut task, far), Err(PageError::NoHugePage { frame: far }));
}

/// Moves a page, catches it under way with its migration entries in place, and calls `meanwhile` then, with `i_mmap` held
/// in write, so that the mover cannot go on. Returns where the page is now.
fn catch_under_way(
    hugetlb: &System,
    task: &mut Task<Host>,
    file: &File,
    space: &Space,
    meanwhile: impl FnOnce(&mut Task<Host>),
) -> HugeFrame {
    let is_moving = |task: &Task<Host>| matches!(entry(task, space, page(0)), Entry::Migration(_));
    loop {
        let old = frame(task, space, page(0));
        // A reference makes the mover look again and again whether it is gone, for a while.
        let reference = space.pin_pages(task, page(0), 1, GupFlags::empty()).unwrap();
        let system = hugetlb.clone();
        let mover = Worker::start(hugetlb, move |task| system.migrate(task, old));
        let mut caught = None;
        while caught.is_none() && !mover.is_done() {
            if is_moving(task) {
                caught = Some(file.i_mmap_write(task)).filter(|_| is_moving(task));
            }
        }
        drop(reference);
        let Some(i_mmap) = caught else { continue };
        meanwhile(task);
        assert!(is_moving(task));
        drop(i_mmap);
        // Put back, if it had lost patience before the reference was dropped.
        let _ = mover.result();
        return frame(task, space, page(0));
    }
}

/// S5: who meets a migration entry leaves the read section and the table, and sleeps with nothing held.
#[test]
fn faults_that_wait_for_a_moving_page_hold_nothing_and_wake_when_it_has_arrived() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(&mut task, page(0), 6).unwrap();
    let mut waiters = Vec::new();
    let moved = catch_under_way(&hugetlb, &mut task, &file, &space, |task| {
        waiters = (0..3)
            .map(|_| {
                let space = space.clone();
                Worker::start(&hugetlb, move |task| cpu(&space).load(task, page(0)))
            })
            .collect();
        assert!(waiters.iter().all(Worker::is_waiting));
        // Not one of the locks that come before: a writer of the mmap lock gets it, and grace periods end.
        space.mprotect(task, VirtAddr::new(START + 64 * PUD_SIZE), PMD_SIZE, RW).unwrap_err();
        task.synchronize();
    });
    for waiter in waiters {
        assert_eq!(waiter.result(), Ok(6));
    }
    assert_eq!(frame(&task, &space, page(0)), moved);
}

/// Who may sleep waits for it and pins it where it arrives; who must not is told so.
#[test]
fn a_page_that_moves_is_pinned_where_it_arrives_and_not_before() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(&mut task, page(0), 6).unwrap();
    let mut waiters = Vec::new();
    let moved = catch_under_way(&hugetlb, &mut task, &file, &space, |task| {
        for flags in [GupFlags::empty(), GupFlags::PIN, GupFlags::PIN | GupFlags::WRITE] {
            assert!(space.follow_page(task, page(0), flags).unwrap().is_none());
            assert!(space.pin_page_fast(task, page(0), flags).is_none());
            let refused = space.pin_pages_nowait(task, page(0), 1, flags).unwrap_err();
            assert_eq!(refused, GupError::WouldSleep);
            let slow = space.clone();
            waiters.push(Worker::start(&hugetlb, move |task| {
                slow.pin_pages(task, page(0), 1, flags).unwrap().page(0).unwrap().frame()
            }));
            let fast = space.clone();
            waiters.push(Worker::start(&hugetlb, move |task| {
                fast.pin_pages_fast(task, page(0), 1, flags).unwrap().page(0).unwrap().frame()
            }));
        }
        assert!(waiters.iter().all(Worker::is_waiting));
    });
    for waiter in waiters {
        assert_eq!(waiter.result(), moved);
    }
}

#[test]
fn a_page_that_moves_is_reported_as_there_and_as_moving() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(&mut task, page(0), 6).unwrap();
    catch_under_way(&hugetlb, &mut task, &file, &space, |task| {
        let map = space.pagemap(task, page(0)..page(1)).unwrap();
        assert_eq!(map, [(page(0), PageMap::SWAP | PageMap::SOFT_DIRTY)]);
        assert_eq!(space.mincore(task, page(0)..page(1)).unwrap(), [(page(0), true)]);
        let mut found = Vec::new();
        space.residency(task, |_, residency| found.push(residency)).unwrap();
        assert_eq!(found, [Residency { shared: 0, private: 1 }]);
    });
}

#[test]
fn migration_entries_are_copied_moved_protected_and_dropped_while_pages_move() {
    let (hugetlb, mut task) = system(64);
    let stop = AtomicBool::new(false);
    let file = file(&mut task, 4);
    let space = space(&hugetlb);
    let gone = space.clone();
    map(&mut task, &space, &file, MapFlags::empty());
    for n in 0..4 {
        cpu(&space).store(&mut task, page(n), 10 + n as u8).unwrap();
    }
    let ready = Barrier::new(3);
    thread::scope(|scope| {
        // Two movers, for different pages and for the same.
        for first in 0..2 {
            let (hugetlb, space, stop, ready) = (&hugetlb, &space, &stop, &ready);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                ready.wait();
                let mut n = first;
                while !stop.load(Ordering::Relaxed) {
                    for at in [page(n), VirtAddr::new(START + 8 * PUD_SIZE + n * PMD_SIZE)] {
                        if let Some(frame) = entry(&task, space, at).page() {
                            let _ = hugetlb.migrate(&mut task, frame);
                        }
                    }
                    n = (n + 1) % 4;
                }
            });
        }
        let end = StopAtEnd(&stop);
        ready.wait();
        for round in 0..150_u64 {
            let child = space.fork(&mut task).unwrap();
            let mut child_cpu = cpu(&child);
            for n in 0..4 {
                assert_eq!(child_cpu.load(&mut task, page(n)), Ok(10 + n as u8), "round {round}");
            }
            child_cpu.store(&mut task, page(round % 4), 99).unwrap();
            assert_eq!(cpu(&space).load(&mut task, page(round % 4)), Ok(10 + (round % 4) as u8));
            child.madvise(&mut task, page(1), PMD_SIZE, Advice::DontNeed).unwrap();
            drop(child_cpu);
            // There and back again.
            let there = VirtAddr::new(START + 8 * PUD_SIZE);
            space.mremap(&mut task, page(0), 4 * PMD_SIZE, 4 * PMD_SIZE, RemapTo::Fixed(there)).unwrap();
            space.mprotect(&mut task, there, 4 * PMD_SIZE, Protection::READ).unwrap();
            space.mprotect(&mut task, there, 4 * PMD_SIZE, RW).unwrap();
            space.mremap(&mut task, there, 4 * PMD_SIZE, 4 * PMD_SIZE, RemapTo::Fixed(page(0))).unwrap();
            child.exit(&mut task).unwrap();
        }
        drop(end);
    });
    for n in 0..4 {
        assert_eq!(cpu(&space).load(&mut task, page(n)), Ok(10 + n as u8));
        let frame = frame(&task, &space, page(n));
        hugetlb.migrate(&mut task, frame).unwrap();
    }
    space.exit(&mut task).unwrap();
    drop((gone, space, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn stores_are_not_lost_while_the_page_moves_under_them() {
    let (hugetlb, mut task) = system(16);
    let (file, spaces) = sharers(&hugetlb, &mut task, 2);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (n, space) in spaces.iter().enumerate() {
            let (hugetlb, stop) = (&hugetlb, &stop);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                let mut cpu = cpu(space);
                let at = page(0).checked_add(64 * (n as u64 + 1)).unwrap();
                let mut count = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(cpu.load_u64(&mut task, at), Ok(count));
                    count += 1;
                    cpu.store_u64(&mut task, at, count).unwrap();
                }
                count
            });
        }
        let end = StopAtEnd(&stop);
        let mut moves = 0;
        while moves < 200 {
            if let Some(frame) = entry(&task, &spaces[0], page(0)).page() {
                moves += u32::from(hugetlb.migrate(&mut task, frame).is_ok());
            } else {
                let _ = cpu(&spaces[0]).load(&mut task, page(0));
            }
        }
        drop(end);
    });
    spaces.iter().for_each(|space| space.exit(&mut task).unwrap());
    drop((spaces, file));
    assert_unused(&hugetlb, &mut task);
}

/// A child's mapping is in the file's tree before anything is copied into it. So a mover may look at the child's empty table,
/// wait for fork to let the parent's go, and find there what fork has just copied: its round has missed the copy.
#[test]
fn fork_leaves_no_entry_behind_that_it_copied_behind_the_movers_back() {
    const LAST: u64 = 511;
    let config = HostConfig::new().huge_bytes(4 * PUD_SIZE).contents(Contents::Nothing);
    let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
    hugetlb.resize_pool(SMALL, LAST + 3);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file(&mut task, LAST + 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::empty());
    // All of a table, so that fork is at it for a while; the last entry is the one that moves.
    for n in 0..=LAST {
        space.fault(&mut task, page(n), hugewalk::fault::Access::Write).unwrap();
    }
    let stop = AtomicBool::new(false);
    let under_way = Mutex::new(());
    thread::scope(|scope| {
        let (system, parent, stop, under_way) = (&hugetlb, &space, &stop, &under_way);
        scope.spawn(move || {
            let _end = StopAtEnd(stop);
            let mut task = hugewalk_host::task(system).unwrap();
            for _ in 0..400 {
                // Every reference is a mapping's: nobody makes the page stay.
                let moving = under_way.lock().unwrap();
                let frame = frame(&task, parent, page(LAST));
                system.migrate(&mut task, frame).unwrap();
                drop(moving);
                thread::yield_now();
            }
        });
        while !stop.load(Ordering::Relaxed) {
            let child = space.fork(&mut task).unwrap();
            let nothing_moves = under_way.lock().unwrap();
            assert_eq!(leaf(&task, &child, page(LAST)).frame, frame(&task, &space, page(LAST)));
            drop(nothing_moves);
            child.exit(&mut task).unwrap();
        }
    });
    space.exit(&mut task).unwrap();
    drop((space, file));
    assert_unused(&hugetlb, &mut task);
}
