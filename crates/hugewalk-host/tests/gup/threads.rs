//! Many threads.

use hugewalk::AddressSpace;
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::pool::PoolCounters;
use hugewalk_host::Cpu;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::setup::{BASE, BOTH, GET, MIB2, PIN, POOL, WRITE, World, at, file_of, map};

/// Sets the flag also when its thread panics, so that the others end.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Scenarios S9 and S30. One process looks at one page of a shared file without locks, while it unshares the table, and a
/// second process makes the table its own, puts a foreign page in that place, and shares the table anew.
#[test]
fn fast_gup_never_gives_a_page_of_the_process_that_the_table_went_to() {
    const SPARSE: u64 = 400;
    const OWN: u8 = 0xaa;
    const FOREIGN: u8 = 0xbb;
    let World { hugetlb, mut task, space } = World::new();
    let file = file_of(&mut task, 512);
    let sparse = MapFlags::SHARED | MapFlags::NORESERVE;
    file.write_at(&mut task, SPARSE * MIB2, &[OWN]).unwrap();
    let other = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, BASE, sparse).unwrap();
    map(&other, &mut task, &file, BASE, sparse).unwrap();
    let done = AtomicBool::new(false);
    let (looks, unshared) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Barrier::new(3);
    thread::scope(|scope| {
        // Looks without a lock.
        scope.spawn(|| {
            let ended = Done(&done);
            let task = hugewalk_host::task(&hugetlb).unwrap();
            start.wait();
            while !done.load(Ordering::Relaxed) {
                if let Some(page) = space.pin_page_fast(&task, at(SPARSE, 0), PIN) {
                    let mut byte = [0];
                    page.read(0, &mut byte).unwrap();
                    assert_eq!(byte, [OWN]);
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            }
            drop(ended);
        });
        // Unshares the table of the one who looks, and takes it up again.
        scope.spawn(|| {
            let ended = Done(&done);
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            start.wait();
            while !done.load(Ordering::Relaxed) {
                space.fault(&mut task, at(SPARSE, 0), Access::Read).unwrap();
                thread::yield_now();
                let users = space.tables(&mut task).unwrap().first().map_or(0, |table| table.users);
                space.madvise(&mut task, BASE, PUD_SIZE, Advice::DontNeed).unwrap();
                unshared.fetch_add(u64::from(users == 2), Ordering::Relaxed);
            }
            drop(ended);
        });
        let ended = Done(&done);
        start.wait();
        let mut rounds = 0;
        while !done.load(Ordering::Relaxed)
            && (rounds < 300 || unshared.load(Ordering::Relaxed) < 50)
            && rounds < 20_000
        {
            rounds += 1;
            other.fault(&mut task, at(SPARSE, 0), Access::Read).unwrap();
            thread::yield_now();
            other.munmap(&mut task, at(256, 0), 256 * MIB2).unwrap();
            let request = MapRequest {
                placement: Placement::FixedNoReplace(at(SPARSE, 0)),
                length: MIB2,
                protection: BOTH,
                flags: MapFlags::empty(),
                backing: Backing::Anonymous(X86_64::SIZE_2M),
            };
            other.mmap(&mut task, &request).unwrap();
            other.write_bytes(&mut task, at(SPARSE, 0), &[FOREIGN]).unwrap();
            map(&other, &mut task, &file, BASE, sparse).unwrap();
        }
        drop(ended);
    });
    assert!(looks.load(Ordering::Relaxed) > 0);
    assert!(unshared.load(Ordering::Relaxed) > 0, "the table was never shared");
    drop(file);
    space.exit(&mut task).unwrap();
    other.exit(&mut task).unwrap();
    assert_eq!(hugetlb.pool(X86_64::SIZE_2M).counters().free, POOL);
}

/// fork write-protects and shares; a pin without a lock must either be seen by it, or see it.
#[test]
fn what_is_stored_after_the_pin_is_seen_through_the_pin_however_often_others_fork() {
    for flags in [PIN, PIN | WRITE] {
        let mut world = World::new();
        world.map_private(1);
        let World { hugetlb, task, space } = &mut world;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let ended = Done(&done);
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                for _ in 0..2_000 {
                    let child = space.fork(&mut task).unwrap();
                    thread::yield_now();
                    child.exit(&mut task).unwrap();
                }
                drop(ended);
            });
            let mut cpu = Cpu::new(space).unwrap();
            let mut value = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let pinned = space.pin_pages_fast(task, BASE, 1, flags).unwrap();
                for _ in 0..10 {
                    value += 1;
                    cpu.store_u64(task, BASE, value).unwrap();
                    let mut bytes = [0; 8];
                    pinned.page(0).unwrap().read(0, &mut bytes).unwrap();
                    assert_eq!(u64::from_ne_bytes(bytes), value);
                }
            }
        });
        world.space.exit(&mut world.task).unwrap();
        assert_eq!(world.counters(), PoolCounters { total: POOL, free: POOL, reserved: 0, surplus: 0 });
    }
}

/// A page that is being moved is mapped nowhere for a while: who pins it waits, or has it in one of the two places.
#[test]
fn what_is_stored_after_the_pin_is_seen_through_the_pin_however_often_others_move_the_page() {
    let mut world = World::new();
    world.map_private(1);
    let World { hugetlb, task, space } = &mut world;
    let done = AtomicBool::new(false);
    let moves = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let ended = Done(&done);
            let mut task = hugewalk_host::task(hugetlb).unwrap();
            for _ in 0..1_000 {
                let page = space.follow_page(&task, BASE, GET).unwrap().map(|page| page.frame());
                let moved = page.map(|frame| hugetlb.migrate(&mut task, frame));
                moves.fetch_add(u64::from(matches!(moved, Some(Ok(_)))), Ordering::Relaxed);
                thread::yield_now();
            }
            drop(ended);
        });
        let mut cpu = Cpu::new(space).unwrap();
        let mut value = 0_u64;
        while !done.load(Ordering::Relaxed) {
            let pinned = space.pin_pages_fast(task, BASE, 1, PIN).unwrap();
            for _ in 0..3 {
                value += 1;
                cpu.store_u64(task, BASE, value).unwrap();
                let mut bytes = [0; 8];
                pinned.page(0).unwrap().read(0, &mut bytes).unwrap();
                assert_eq!(u64::from_ne_bytes(bytes), value);
            }
            drop(pinned);
            thread::yield_now();
        }
    });
    assert!(moves.load(Ordering::Relaxed) > 0);
    world.space.exit(&mut world.task).unwrap();
    assert_eq!(world.counters(), PoolCounters { total: POOL, free: POOL, reserved: 0, surplus: 0 });
}

#[test]
fn pins_from_many_threads_leave_the_counts_as_they_were() {
    let mut world = World::new();
    world.map_private(4);
    let World { hugetlb, space, .. } = &world;
    thread::scope(|scope| {
        for number in 0..4_u64 {
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                for round in 0..500 {
                    let flags = if (round + number) % 2 == 0 { PIN | WRITE } else { GET };
                    let page = (round + number) % 4;
                    let kept = space.pin_pages(&mut task, at(page, 0), 2 * MIB2, flags).unwrap();
                    let fast = space.pin_pages_fast(&mut task, at(page, 9), 1, flags).unwrap();
                    assert_eq!((kept.pages().len(), fast.pages().len()), (if page == 3 { 1 } else { 2 }, 1));
                    if number == 0 && round % 10 == 0 {
                        space.madvise(&mut task, BASE, 4 * MIB2, Advice::DontNeed).unwrap();
                    }
                }
            });
        }
    });
    world.space.exit(&mut world.task).unwrap();
    assert_eq!(world.counters(), PoolCounters { total: POOL, free: POOL, reserved: 0, surplus: 0 });
}
