//! Truncation and hole punch against faults and held locks: scenarios S21, S24, S25.

mod pages;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::FaultError;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::pool::PoolCounters;
use pages::*;

/// S25: a fault takes the VMA lock and then `i_mmap`; truncation, which comes from the other side, only tries.
#[test]
fn truncation_lets_i_mmap_go_while_it_waits_for_a_vma_lock() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 4);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(&mut task, page(1), 1).unwrap();
    let mut reader = another(&hugetlb);
    let mmap = space.mmap_read(&mut reader);
    let locked = mmap.lock_vma(mmap.find(page(0)).unwrap(), &mut reader).unwrap();
    let truncation = {
        let file = file.clone();
        Worker::start(&hugetlb, move |task| file.truncate(task, 0))
    };
    assert!(truncation.is_waiting());
    // What the holder of the VMA lock may want next is free.
    drop(file.i_mmap_write(&mut task));
    assert!(matches!(entry(&task, &space, page(1)), Entry::Leaf(_)));
    drop(locked);
    truncation.result().unwrap();
    drop(mmap);
    assert_eq!(entry(&task, &space, page(1)), Entry::None);
    assert_eq!(cpu(&space).load(&mut task, page(1)), Err(FaultError::BeyondEof { index: 1 }));
    assert_eq!(counters(&hugetlb), PoolCounters { total: 8, free: 8, reserved: 0, surplus: 0 });
}

#[test]
fn a_busy_vma_that_maps_nothing_in_the_range_is_not_waited_for() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 4);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    file.allocate(&mut task, 3 * PMD_SIZE, PMD_SIZE, true).unwrap();
    let mut reader = another(&hugetlb);
    let mmap = space.mmap_read(&mut reader);
    let locked = mmap.lock_vma(mmap.find(page(0)).unwrap(), &mut reader).unwrap();
    file.punch_hole(&mut task, 2 * PMD_SIZE, 2 * PMD_SIZE).unwrap();
    file.truncate(&mut task, PMD_SIZE).unwrap();
    drop(locked);
    drop(mmap);
    assert_eq!(cpu(&space).load(&mut task, page(0)), Ok(1));
    assert_eq!(file.pages(), 1);
}

/// S21: the VMA whose lock is waited for dies; the lock is held by a reference, and finds its VMA out of the tree.
#[test]
fn a_vma_may_die_while_truncation_waits_for_its_lock() {
    let (hugetlb, mut task) = system(8);
    for round in 0..40_u64 {
        let file = file(&mut task, 4);
        let space = space(&hugetlb);
        map(&mut task, &space, &file, MapFlags::SHARED);
        cpu(&space).store(&mut task, page(1), 1).unwrap();
        let mut reader = another(&hugetlb);
        let mmap = space.mmap_read(&mut reader);
        let locked = mmap.lock_vma(mmap.find(page(0)).unwrap(), &mut reader).unwrap();
        let truncation = {
            let file = file.clone();
            Worker::start(&hugetlb, move |task| match round % 2 {
                0 => file.punch_hole(task, 0, 4 * PMD_SIZE),
                _ => file.truncate(task, 0),
            })
        };
        thread::sleep(Duration::from_millis(2));
        // The whole VMA goes; or it is cut in two, and its successors map the page still.
        let dies = round % 4 < 2;
        let unmapper = {
            let space = space.clone();
            Worker::start(&hugetlb, move |task| {
                let length = if dies { 4 * PMD_SIZE } else { PMD_SIZE };
                space.munmap(task, page(0), length).unwrap();
            })
        };
        thread::sleep(Duration::from_millis(1));
        drop(locked);
        drop(mmap);
        unmapper.result();
        truncation.result().unwrap();
        assert_eq!(entry(&task, &space, page(1)), Entry::None);
        assert_eq!(file.pages(), 0);
        space.exit(&mut task).unwrap();
        drop((space, file, reader));
        assert_unused(&hugetlb, &mut task);
    }
}

/// S24: a private mapping has no VMA lock of its own; the lock of its reservations stands in, and a fault may hold it.
#[test]
fn a_hole_is_punched_under_private_mappings_whose_reservation_lock_is_held() {
    let (hugetlb, mut task) = system(16);
    let file = file(&mut task, 4);
    file.allocate(&mut task, 0, 4 * PMD_SIZE, false).unwrap();
    let parent = space(&hugetlb);
    map(&mut task, &parent, &file, MapFlags::empty());
    // Cut in two: one lock for both parts.
    parent.mprotect(&mut task, page(2), 2 * PMD_SIZE, hugewalk::vma::Protection::READ).unwrap();
    cpu(&parent).store(&mut task, page(0), 1).unwrap();
    cpu(&parent).load(&mut task, page(1)).unwrap();
    cpu(&parent).load(&mut task, page(3)).unwrap();
    // The child's mapping has no lock at all.
    let child = parent.fork(&mut task).unwrap();
    cpu(&child).load(&mut task, page(2)).unwrap();

    let mut reader = another(&hugetlb);
    let mmap = parent.mmap_read(&mut reader);
    let locked = mmap.lock_vma(mmap.find(page(3)).unwrap(), &mut reader).unwrap();
    let punch = {
        let file = file.clone();
        Worker::start(&hugetlb, move |task| file.punch_hole(task, 0, 4 * PMD_SIZE))
    };
    assert!(punch.is_waiting());
    // What is not busy was worked on before that.
    assert_eq!(entry(&task, &child, page(2)), Entry::None);
    assert!(matches!(entry(&task, &parent, page(3)), Entry::Leaf(_)));
    drop(file.i_mmap_write(&mut task));
    drop(locked);
    drop(mmap);
    punch.result().unwrap();
    for n in 0..4 {
        assert_eq!(entry(&task, &parent, page(n)), Entry::None);
        assert_eq!(cpu(&parent).load(&mut task, page(n)), Ok(0));
    }
    child.exit(&mut task).unwrap();
    parent.exit(&mut task).unwrap();
    drop((child, parent, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn private_copies_go_with_the_pages_that_are_truncated() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 2);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::empty());
    cpu(&space).store(&mut task, page(0), 1).unwrap();
    cpu(&space).store(&mut task, page(1), 2).unwrap();
    file.truncate(&mut task, PMD_SIZE).unwrap();
    assert_eq!(cpu(&space).load(&mut task, page(0)), Ok(1));
    assert_eq!(cpu(&space).load(&mut task, page(1)), Err(FaultError::BeyondEof { index: 1 }));
}

/// RFC patch 1, `vma_offset_start()`: the first address of a VMA that maps a page at or after an offset.
#[test]
fn a_hole_takes_exactly_its_pages_from_mappings_that_begin_elsewhere_in_the_file() {
    let (hugetlb, mut task) = system(32);
    let file = file(&mut task, 8);
    file.allocate(&mut task, 0, 8 * PMD_SIZE, false).unwrap();
    // Offsets of the mappings, in pages, and their lengths: before, across either end of, inside and after the hole 3..5.
    let mappings = [(0, 3), (2, 2), (3, 1), (4, 4), (0, 8), (5, 3)];
    let space = space(&hugetlb);
    let at = |n: usize, index: u64| page(n as u64 * 16 + index);
    for (n, &(offset, length)) in mappings.iter().enumerate() {
        let request = MapRequest {
            placement: Placement::Fixed(at(n, offset)),
            length: length * PMD_SIZE,
            protection: RW,
            flags: MapFlags::SHARED,
            backing: Backing::File { file: &file, offset: offset * PMD_SIZE },
        };
        space.mmap(&mut task, &request).unwrap();
        for index in offset..offset + length {
            cpu(&space).store(&mut task, at(n, index), index as u8).unwrap();
        }
    }
    // The ends are inside of pages 2 and 5, which stay, and are cleared from there and up to there.
    file.punch_hole(&mut task, 3 * PMD_SIZE - 1, 2 * PMD_SIZE + 2).unwrap();
    assert_eq!(file.pages(), 6);
    for (n, &(offset, length)) in mappings.iter().enumerate() {
        for index in offset..offset + length {
            let punched = (3..5).contains(&index);
            assert_eq!(
                entry(&task, &space, at(n, index)) == Entry::None,
                punched,
                "page {index} of mapping {n}"
            );
        }
    }
    assert_eq!(cpu(&space).load(&mut task, at(4, 2)), Ok(2));
    assert_eq!(cpu(&space).load(&mut task, at(4, 5)), Ok(0));
    assert_eq!(cpu(&space).load(&mut task, at(4, 6)), Ok(6));
}

#[test]
fn gigabyte_pages_are_truncated_as_small_ones_are() {
    let config =
        hugewalk_host::HostConfig::new().huge_bytes(4 * PUD_SIZE).contents(hugewalk_host::Contents::Nothing);
    let hugetlb = hugewalk::Hugetlb::new(hugewalk_host::Host::new(&config).unwrap()).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_1G, 3);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = HugeFile::new(&hugetlb, X86_64::SIZE_1G, None).unwrap();
    file.truncate(&mut task, 3 * PUD_SIZE).unwrap();
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::SHARED);
    for n in 0..3 {
        cpu(&space).store(&mut task, page(512 * n), 1).unwrap();
    }
    file.truncate(&mut task, PUD_SIZE).unwrap();
    assert_eq!(entry(&task, &space, page(512)), Entry::None);
    let expected = PoolCounters { total: 3, free: 2, reserved: 0, surplus: 0 };
    assert_eq!(hugetlb.pool(X86_64::SIZE_1G).counters(), expected);
}

/// Faults that share tables, faults that fill them, and private ones, against truncation and hole punch of the same
/// pages. I8: truncation ends.
#[test]
fn faults_race_with_truncation_and_holes_and_nothing_is_left_behind() {
    let (hugetlb, mut task) = system(64);
    let stop = AtomicBool::new(false);
    // Mapping a file for writing makes it longer, so all have mapped it before it is made shorter.
    let mapped = Barrier::new(4);
    let file = file(&mut task, 512);
    let beyond = |error: &FaultError| matches!(error, FaultError::BeyondEof { .. });
    thread::scope(|scope| {
        for n in 0..3_u64 {
            let (hugetlb, file, stop, mapped) = (&hugetlb, &file, &stop, &mapped);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                let space = space(hugetlb);
                let flags = if n == 2 { MapFlags::empty() } else { MapFlags::SHARED };
                map_at(&mut task, &space, file, VirtAddr::new(START), PUD_SIZE, flags | MapFlags::NORESERVE);
                mapped.wait();
                let mut cpu = cpu(&space);
                while !stop.load(Ordering::Relaxed) {
                    for at in 0..6 {
                        if let Err(error) = cpu.store(&mut task, page(at), 1) {
                            assert!(beyond(&error), "{error}");
                        }
                    }
                }
                drop(cpu);
                space.exit(&mut task).unwrap();
            });
        }
        mapped.wait();
        let end = StopAtEnd(&stop);
        for _ in 0..150 {
            file.truncate(&mut task, 2 * PMD_SIZE).unwrap();
            assert!(file.pages() <= 2);
            file.truncate(&mut task, 512 * PMD_SIZE).unwrap();
            file.punch_hole(&mut task, PMD_SIZE, 4 * PMD_SIZE).unwrap();
        }
        drop(end);
    });
    file.truncate(&mut task, 0).unwrap();
    drop(file);
    assert_unused(&hugetlb, &mut task);
}
