//! MADV_HWPOISON and MADV_SOFT_OFFLINE: pages of a range that fail, and pages that are taken out of use before they do.

mod pages;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::PMD_SIZE;
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::gup::{GupError, GupFlags};
use hugewalk::mm::{Advice, MapError, MapFlags};
use hugewalk::pool::PoolCounters;
use hugewalk::rmap::{PageError, Recovery};
use hugewalk::uffd::{CopyMode, Features, Modes, Userfault};

use pages::{SMALL, START, StopAtEnd, assert_unused, counters, cpu, file, frame, map, page, space, system};

const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);
const PRIVATE: MapFlags = MapFlags::NORESERVE;

fn hwpoison(number: u64) -> FaultError {
    FaultError::Hwpoison { address: page(number), size: SMALL }
}

#[test]
fn a_page_of_a_file_that_is_made_to_fail_fails_for_everybody() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 2);
    let spaces = [space(&hugetlb), space(&hugetlb)];
    let mut cpus = [cpu(&spaces[0]), cpu(&spaces[1])];
    for (space, cpu) in spaces.iter().zip(&mut cpus) {
        map(&mut task, space, &file, SHARED);
        cpu.store(&mut task, page(0), 1).unwrap();
        cpu.store(&mut task, page(1), 2).unwrap();
    }
    let bad = frame(&task, &spaces[0], page(0));
    assert_eq!(spaces[0].madvise(&mut task, page(0), 4096, Advice::Hwpoison), Ok(()));
    for cpu in &mut cpus {
        assert_eq!(cpu.load(&mut task, page(0)), Err(hwpoison(0)));
        assert_eq!(cpu.load(&mut task, page(1)), Ok(2));
    }
    // Who asks again does not get the page any more.
    let again = spaces[1].madvise(&mut task, page(0), PMD_SIZE, Advice::Hwpoison).unwrap_err();
    assert_eq!(again, MapError::Gup(GupError::Hwpoison { address: page(0), size: SMALL }));
    assert_eq!(again.errno(), Errno::EFAULT);
    // The file has it until it is punched out; then the pool loses it, and gets it back when it is found sound.
    assert_eq!(counters(&hugetlb), PoolCounters { total: 8, free: 6, ..PoolCounters::default() });
    file.punch_hole(&mut task, 0, PMD_SIZE).unwrap();
    assert_eq!(counters(&hugetlb), PoolCounters { total: 7, free: 6, ..PoolCounters::default() });
    hugetlb.unpoison(bad).unwrap();
    assert_eq!(counters(&hugetlb), PoolCounters { total: 8, free: 7, ..PoolCounters::default() });
    assert_eq!(cpus[0].load(&mut task, page(0)), Ok(0));
    drop((cpus, spaces, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn private_pages_that_are_made_to_fail_are_lost_and_pages_that_are_not_there_are_made_first() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 3);
    let parent = space(&hugetlb);
    map(&mut task, &parent, &file, PRIVATE);
    cpu(&parent).store(&mut task, page(0), 1).unwrap();
    let child = parent.fork(&mut task).unwrap();
    // The second page is not there yet.
    let bad = frame(&task, &child, page(0));
    assert_eq!(child.madvise(&mut task, page(0), 2 * PMD_SIZE, Advice::Hwpoison), Ok(()));
    assert_eq!(cpu(&parent).load(&mut task, page(0)), Err(hwpoison(0)));
    assert_eq!(cpu(&child).load(&mut task, page(1)), Err(hwpoison(1)));
    assert_eq!(cpu(&parent).load(&mut task, page(1)), Ok(0));
    assert_eq!(counters(&hugetlb), PoolCounters { total: 6, free: 5, ..PoolCounters::default() });
    assert_eq!(hugetlb.unpoison(bad), Ok(()));
    drop((parent, child, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn nobody_notices_that_a_page_is_taken_out_of_use() {
    for kind in [SHARED, PRIVATE] {
        let (hugetlb, mut task) = system(8);
        let file = file(&mut task, 2);
        let space = space(&hugetlb);
        map(&mut task, &space, &file, kind);
        let mut cpu = cpu(&space);
        cpu.store(&mut task, page(0), 7).unwrap();
        cpu.store(&mut task, page(1), 8).unwrap();
        let old = [0, 1].map(|number| frame(&task, &space, page(number)));
        assert_eq!(space.madvise(&mut task, page(0), 2 * PMD_SIZE, Advice::SoftOffline), Ok(()));
        assert_eq!(counters(&hugetlb), PoolCounters { total: 6, free: 4, ..PoolCounters::default() });
        assert_eq!((cpu.load(&mut task, page(0)), cpu.load(&mut task, page(1))), (Ok(7), Ok(8)));
        for (number, old) in (0..).zip(old) {
            assert_ne!(frame(&task, &space, page(number)), old);
            // What is out of use is so already.
            assert_eq!(hugetlb.soft_offline(&mut task, old), Ok(()));
            hugetlb.unpoison(old).unwrap();
        }
        assert_eq!(counters(&hugetlb).total, 8);
        drop((cpu, space, file));
        assert_unused(&hugetlb, &mut task);
    }
}

#[test]
fn a_free_page_is_taken_out_of_use_at_once_and_one_that_is_reserved_when_it_can_be_spared() {
    let (hugetlb, mut task) = system(1);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, PRIVATE);
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    let only = frame(&task, &space, page(0));
    space.munmap(&mut task, page(0), PMD_SIZE).unwrap();
    map(&mut task, &space, &file, MapFlags::SHARED);
    assert_eq!(hugetlb.soft_offline(&mut task, only), Err(PageError::Reserved));
    drop((space, file));
    assert_eq!(counters(&hugetlb), PoolCounters::default());
    hugetlb.unpoison(only).unwrap();
    assert_eq!(hugetlb.soft_offline(&mut task, only), Ok(()));
    assert_eq!(counters(&hugetlb), PoolCounters::default());
    hugetlb.unpoison(only).unwrap();
    assert_eq!(counters(&hugetlb), PoolCounters { total: 1, free: 1, ..PoolCounters::default() });
}

#[test]
fn a_pinned_page_is_busy_for_the_one_and_lost_later_for_the_other() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, SHARED);
    let pins = space.pin_pages(&mut task, page(0), 1, GupFlags::PIN).unwrap();
    let before = (counters(&hugetlb), frame(&task, &space, page(0)));
    let busy = space.madvise(&mut task, page(0), PMD_SIZE, Advice::SoftOffline).unwrap_err();
    assert_eq!((busy, busy.errno()), (MapError::Page(PageError::Held { references: 1 }), Errno::EBUSY));
    assert_eq!((counters(&hugetlb), frame(&task, &space, page(0))), before);
    let later = space.madvise(&mut task, page(0), PMD_SIZE, Advice::Hwpoison).unwrap_err();
    assert_eq!(later.errno(), Errno::EBUSY);
    assert_eq!(cpu(&space).load(&mut task, page(0)), Err(hwpoison(0)));
    drop((space, file));
    assert_eq!(counters(&hugetlb), before.0);
    drop(pins);
    assert_eq!(counters(&hugetlb).total, 7);
    hugetlb.unpoison(before.1).unwrap();
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn the_pages_before_a_hole_get_their_error() {
    for advice in [Advice::Hwpoison, Advice::SoftOffline] {
        let (hugetlb, mut task) = system(8);
        let file = file(&mut task, 2);
        let space = space(&hugetlb);
        map(&mut task, &space, &file, SHARED);
        let hole = space.madvise(&mut task, page(0), 3 * PMD_SIZE, advice).unwrap_err();
        assert_eq!(hole, MapError::Gup(GupError::NotMapped { address: page(2) }));
        assert_eq!(hole.errno(), Errno::EFAULT);
        let total = counters(&hugetlb).total;
        assert_eq!(total, if advice == Advice::Hwpoison { 8 } else { 6 });
        assert_eq!(space.madvise(&mut task, page(0), 0, advice), Ok(()));
        let unaligned = space.madvise(&mut task, VirtAddr::new(START + 1), PMD_SIZE, advice).unwrap_err();
        assert_eq!(unaligned.errno(), Errno::EINVAL);
        assert_eq!(counters(&hugetlb).total, total);
    }
}

#[test]
fn without_a_page_to_move_to_a_page_stays_in_use() {
    let (hugetlb, mut task) = system(1);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, SHARED);
    let mut cpu = cpu(&space);
    cpu.store(&mut task, page(0), 3).unwrap();
    let refused = space.madvise(&mut task, page(0), PMD_SIZE, Advice::SoftOffline).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOMEM);
    assert_eq!(cpu.load(&mut task, page(0)), Ok(3));
    assert_eq!(counters(&hugetlb), PoolCounters { total: 1, ..PoolCounters::default() });
}

/// Pages are taken out of use again and again, and found sound, under threads that store to them.
#[test]
fn stores_are_not_lost_while_pages_are_taken_out_of_use_under_them() {
    const PAGES: u64 = 3;
    const ROUNDS: u64 = 200;
    for kind in [SHARED, PRIVATE] {
        let (hugetlb, mut task) = system(8);
        let file = file(&mut task, PAGES);
        let space = space(&hugetlb);
        map(&mut task, &space, &file, kind);
        let over = AtomicBool::new(false);
        let taken = thread::scope(|scope| {
            let stop = StopAtEnd(&over);
            for number in 0..PAGES {
                let (hugetlb, space, over) = (&hugetlb, &space, &over);
                scope.spawn(move || {
                    let mut task = hugewalk_host::task(hugetlb).unwrap();
                    let mut cpu = cpu(space);
                    let mut count = 0;
                    while !over.load(Ordering::Relaxed) {
                        count += 1;
                        cpu.store_u64(&mut task, page(number), count).unwrap();
                        assert_eq!(cpu.load_u64(&mut task, page(number)), Ok(count));
                    }
                });
            }
            let mut taken = 0;
            for round in 0..ROUNDS {
                let at = page(round % PAGES);
                let frame = space.follow_page(&task, at, GupFlags::empty()).unwrap().map(|page| page.frame());
                match space.madvise(&mut task, at, PMD_SIZE, Advice::SoftOffline) {
                    Ok(()) => taken += 1,
                    // Somebody had hold of it for a moment.
                    Err(MapError::Page(PageError::Held { .. } | PageError::OnItsWay)) => {}
                    Err(other) => panic!("{other:?}"),
                }
                if let Some(frame) = frame
                    && counters(&hugetlb).total < 8
                {
                    hugetlb.unpoison(frame).unwrap();
                }
            }
            drop(stop);
            taken
        });
        assert!(taken > ROUNDS / 2, "{taken}");
        drop((space, file));
        assert_unused(&hugetlb, &mut task);
    }
}

/// A page that a handler has brought belongs to its mapping as any other does.
#[test]
fn a_private_page_that_a_handler_brought_moves_and_fails_like_others() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, PRIVATE);
    let uffd = Userfault::new(&space, Features::empty()).unwrap();
    uffd.register(&mut task, page(0), PMD_SIZE, Modes::MISSING).unwrap();
    uffd.copy(&mut task, page(0), &vec![5; PMD_SIZE as usize], CopyMode::empty()).unwrap();
    let first = frame(&task, &space, page(0));
    let second = hugetlb.migrate(&mut task, first).unwrap();
    assert_eq!(cpu(&space).load(&mut task, page(0)), Ok(5));
    assert_eq!(hugetlb.memory_failure(&mut task, second), Ok(Recovery::Private));
    assert_eq!(cpu(&space).load(&mut task, page(0)), Err(hwpoison(0)));
    hugetlb.unpoison(second).unwrap();
    uffd.close(&mut task).unwrap();
    drop((space, file));
    assert_unused(&hugetlb, &mut task);
}
