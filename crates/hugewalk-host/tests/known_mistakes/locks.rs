//! Locks in the wrong order, of the wrong kind, or of what is gone: S21, S23, S24, S25, S27. On real threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hugewalk::Task;
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE};
use hugewalk::fault::{Access, FaultError};
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::rmap::PageError;
use hugewalk::vma::Protection;
use hugewalk_host::Host;

use crate::pages::{
    RW, StopAtEnd, Worker, another, assert_unused, cpu, entry, file, frame, map, map_at, page, sharers,
    space, system, users,
};
use crate::world::Watchdog;

const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);

/// S21. The range of the mapping that truncation waits for is unmapped, and another file mapped in its place: the entries
/// there are none of its business.
#[test]
fn whoever_waits_for_the_lock_of_a_vma_sees_that_it_died() {
    for punches in [true, false] {
        let (hugetlb, mut task) = system(8);
        let [file, other] = [file(&mut task, 2), file(&mut task, 2)];
        let space = space(&hugetlb);
        map(&mut task, &space, &file, MapFlags::SHARED);
        cpu(&space).store(&mut task, page(0), 1).unwrap();
        let mut reader = another(&hugetlb);
        // The VMA lock alone would keep the mapping; the mmap lock keeps it for now as well.
        let mmap = space.mmap_read(&mut reader);
        let vma = mmap.find(page(0)).unwrap().clone();
        let locked = mmap.lock_vma(&vma, &mut reader).unwrap();
        let replacement = {
            let (space, other) = (space.clone(), other.clone());
            Worker::start(&hugetlb, move |task| {
                // In place of the mapping: first in line for its lock.
                map(task, &space, &other, MapFlags::SHARED);
                cpu(&space).store(task, page(0), 2).unwrap();
            })
        };
        thread::sleep(Duration::from_millis(10));
        let waiter = {
            let file = file.clone();
            Worker::start(&hugetlb, move |task| {
                if punches { file.punch_hole(task, 0, PMD_SIZE) } else { file.truncate(task, 0) }.unwrap();
            })
        };
        assert!(waiter.is_waiting() && replacement.is_waiting());
        drop(locked);
        drop(mmap);
        replacement.result();
        waiter.result();
        assert_eq!(cpu(&space).load(&mut task, page(0)), Ok(2));
        assert_eq!((file.pages(), other.pages()), (0, 1));
        drop((space, file, other, vma, reader));
        assert_unused(&hugetlb, &mut task);
    }
}

/// S21, from the page's side. Whoever unmaps a page finds the VMA lock busy, for the mapping is on its way out; by the time it
/// has the lock, the process has mapped another file there, and shares its table, which is none of its business.
#[test]
fn whoever_waits_for_the_lock_of_a_vma_leaves_what_took_its_place_alone() {
    for _ in 0..5 {
        let (hugetlb, mut task) = system(8);
        let (old, spaces) = sharers(&hugetlb, &mut task, 2);
        let [busy, dying] = &spaces[..] else { panic!("there are two") };
        let (new, partner) = (file(&mut task, 512), space(&hugetlb));
        map(&mut task, &partner, &new, SHARED);
        cpu(&partner).store(&mut task, page(0), 2).unwrap();
        let named = frame(&task, dying, page(0));
        // One of the two is busy all the time, so that the other's lock is worth waiting for.
        let mut reader = another(&hugetlb);
        let mmap = busy.mmap_read(&mut reader);
        let locked = mmap.lock_vma(mmap.find(page(0)).unwrap(), &mut reader).unwrap();
        // In this order they wait for `i_mmap`: the one who looks for the page, and the one who unmaps, with its VMA lock.
        let i_mmap = old.i_mmap_write(&mut task);
        let unmapping = {
            let hugetlb = hugetlb.clone();
            Worker::start(&hugetlb.clone(), move |task| hugetlb.unmap_page(task, named))
        };
        assert!(unmapping.is_waiting());
        let replacement = {
            let (dying, new) = (dying.clone(), new.clone());
            Worker::start(&hugetlb, move |task| {
                map(task, &dying, &new, SHARED);
                cpu(&dying).load(task, page(0)).unwrap()
            })
        };
        assert!(replacement.is_waiting());
        drop(i_mmap);
        // Held again once the mapping has left the tree, until the other file is mapped, and its table shared.
        let i_mmap = loop {
            let i_mmap = old.i_mmap_write(&mut task);
            if i_mmap.vmas(0..1).count() == 1 {
                break i_mmap;
            }
            drop(i_mmap);
            thread::yield_now();
        };
        assert_eq!(replacement.result(), 2);
        drop(i_mmap);
        thread::sleep(Duration::from_millis(5));
        drop(locked);
        drop(mmap);
        assert_eq!(unmapping.result(), Ok(()));
        assert_eq!(entry(&task, busy, page(0)), Entry::None);
        assert_eq!(users(&mut task, &partner), 2, "the table of the new mapping was taken away");
        drop((spaces, partner, old, new, reader));
        assert_unused(&hugetlb, &mut task);
    }
}

/// S23. The mapping that moves has a table of its own, and at its new place there is one that it could share: the table for the
/// new place is made without looking for that, for `i_mmap` may be held by then.
#[test]
fn a_move_to_where_tables_are_shared_comes_to_an_end() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 512);
    let (mover, partner) = (space(&hugetlb), space(&hugetlb));
    let target = VirtAddr::new(20 * PUD_SIZE);
    map(&mut task, &mover, &file, SHARED);
    cpu(&mover).store(&mut task, page(1), 1).unwrap();
    // With other rights when it was touched, the other has a table of its own.
    map_at(&mut task, &partner, &file, target, PUD_SIZE, SHARED);
    partner.mprotect(&mut task, target, PUD_SIZE, Protection::READ).unwrap();
    cpu(&partner).load(&mut task, target).unwrap();
    partner.mprotect(&mut task, target, PUD_SIZE, RW).unwrap();
    assert_eq!((users(&mut task, &mover), users(&mut task, &partner)), (1, 1));
    let watchdog = Watchdog::new("a move");
    let moved = mover.mremap(&mut task, page(0), PUD_SIZE, PUD_SIZE, RemapTo::Fixed(target));
    drop(watchdog);
    assert_eq!(moved, Ok(target));
    // Its own table has moved along.
    assert_eq!(users(&mut task, &mover), 1);
    assert_eq!(cpu(&mover).load(&mut task, VirtAddr::new(target.as_u64() + PMD_SIZE)), Ok(1));
    drop((mover, partner, file));
    assert_unused(&hugetlb, &mut task);
}

/// S24. A fault on a private mapping holds the lock of its reservations. A hole that is punched under it has to wait, and the
/// copy that the fault is about to map must not outlive the page.
#[test]
fn a_hole_waits_for_a_fault_on_a_private_mapping() {
    const ROUNDS: u64 = 300;
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::empty());
    let (over, stores) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        scope.spawn(|| {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            let mut cpu = cpu(&space);
            while !over.load(Ordering::Relaxed) {
                cpu.store(&mut task, page(0), 1).unwrap();
                stores.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..ROUNDS {
            file.write_at(&mut task, 0, &[2]).unwrap();
            file.punch_hole(&mut task, 0, PMD_SIZE).unwrap();
        }
        drop(stop);
    });
    assert!(stores.load(Ordering::Relaxed) > 0);
    // And once in a controlled way: the lock is held, and a page is mapped.
    file.write_at(&mut task, 0, &[2]).unwrap();
    let mut reader = another(&hugetlb);
    space.fault(&mut task, page(0), Access::Write).unwrap();
    let mmap = space.mmap_read(&mut reader);
    let locked = mmap.lock_vma(mmap.find(page(0)).unwrap(), &mut reader).unwrap();
    let punch = {
        let file = file.clone();
        Worker::start(&hugetlb, move |task| file.punch_hole(task, 0, PMD_SIZE))
    };
    assert!(punch.is_waiting(), "the mapping's lock is held");
    assert!(matches!(entry(&task, &space, page(0)), Entry::Leaf(_)));
    drop(locked);
    drop(mmap);
    punch.result().unwrap();
    assert_eq!(entry(&task, &space, page(0)), Entry::None);
    drop((space, file, reader));
    assert_unused(&hugetlb, &mut task);
}

/// S25. Faults that share a table, which takes `i_mmap` under the VMA lock, against truncation, which comes from the other side,
/// and finds pages in the other gigabyte of the same mapping.
#[test]
fn truncation_and_faults_that_share_come_to_an_end() {
    const ROUNDS: u64 = 300;
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1024);
    let spaces = [space(&hugetlb), space(&hugetlb), space(&hugetlb)];
    let _watchdog = Watchdog::new("truncation against faults that share");
    let (over, done) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 3]);
    thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        for (space, done) in spaces.iter().zip(&done) {
            map(&mut task, space, &file, SHARED);
            let (hugetlb, over) = (&hugetlb, &over);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                while !over.load(Ordering::Relaxed) {
                    for number in [0, 512] {
                        match space.fault(&mut task, page(number), Access::Write) {
                            Ok(_) | Err(FaultError::BeyondEof { .. }) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    // So that it shares, or looks for somebody to share with, again.
                    space.madvise(&mut task, page(512), PUD_SIZE, Advice::DontNeed).unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut round = 0;
        while round < ROUNDS || done.iter().any(|done| done.load(Ordering::Relaxed) < ROUNDS) {
            file.truncate(&mut task, 0).unwrap();
            file.truncate(&mut task, 2 * PUD_SIZE).unwrap();
            // Truncation does not wait for a mapping that has nothing of it.
            for space in &spaces {
                space.fault(&mut task, page(0), Access::Write).unwrap();
            }
            round += 1;
        }
        drop(stop);
    });
    drop((spaces, file));
    assert_unused(&hugetlb, &mut task);
}

/// S27. What Linux needs the page lock for, the fault mutex of the page's place does here; it comes before `i_mmap`, whoever
/// takes the two: from the page's side, or from the file's.
#[test]
fn pages_are_unmapped_moved_and_punched_out_at_once() {
    const LASTS: Duration = Duration::from_millis(400);
    let (hugetlb, mut task) = system(16);
    let (file, spaces) = sharers(&hugetlb, &mut task, 2);
    let named = AtomicU64::new(frame(&task, &spaces[0], page(0)).0);
    let here = || HugeFrame(named.load(Ordering::Relaxed));
    let refused = |error| match error {
        PageError::NotInUse | PageError::OnItsWay | PageError::Held { .. } => {}
        other => panic!("{other:?}"),
    };
    let unmap = |task: &mut Task<Host>| {
        hugetlb.unmap_page(task, here()).unwrap_or_else(refused);
    };
    let migrate = |task: &mut Task<Host>| match hugetlb.migrate(task, here()) {
        Ok(moved) => named.store(moved.0, Ordering::Relaxed),
        Err(error) => refused(error),
    };
    let touch = |task: &mut Task<Host>| {
        spaces[1].fault(task, page(0), Access::Write).unwrap();
    };
    let works: [&(dyn Fn(&mut Task<Host>) + Sync); 3] = [&unmap, &migrate, &touch];
    let (over, done) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 3]);
    let _watchdog = Watchdog::new("unmapping, moving and punching out a page");
    let begin = Instant::now();
    thread::scope(|scope| {
        let stop = StopAtEnd(&over);
        for (work, done) in works.into_iter().zip(&done) {
            let (hugetlb, over) = (&hugetlb, &over);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                while !over.load(Ordering::Relaxed) {
                    work(&mut task);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while begin.elapsed() < LASTS || done.iter().any(|done| done.load(Ordering::Relaxed) < 20) {
            file.punch_hole(&mut task, 0, PMD_SIZE).unwrap();
            spaces[0].fault(&mut task, page(0), Access::Write).unwrap();
            if let Entry::Leaf(leaf) = entry(&task, &spaces[0], page(0)) {
                named.store(leaf.frame.0, Ordering::Relaxed);
            }
        }
        drop(stop);
    });
    drop((spaces, file));
    assert_unused(&hugetlb, &mut task);
}
