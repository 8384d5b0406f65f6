//! `counters`, `quota`, `chunk-overcommit`, `noresv-*`, `truncate_reserve_wraparound`, `fallocate_*`: the four counters of the
//! pool (total, free, reserved, surplus) after each step.

use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::file::HugeFile;
use hugewalk::mm::Advice;
use hugewalk::reserve::SubPool;

use crate::pages::SMALL;
use crate::setup::{BASE, MIB2, Machine, NORESERVE, PRIVATE, SHARED, at, cpu, write_fault};

/// `counters`: for both kinds of mapping, with and without surplus pages.
#[test]
fn mapping_touching_and_unmapping_move_the_counters_as_they_should() {
    for (flags, pool, overcommit) in [(SHARED, 4, 0), (PRIVATE, 4, 0), (SHARED, 1, 3), (PRIVATE, 1, 3)] {
        let mut machine = Machine::new(pool);
        machine.hugetlb.pool(SMALL).set_overcommit(overcommit);
        let surplus = 3_u64.saturating_sub(pool);
        let total = pool + surplus;
        let (file, space) = (machine.file(3), machine.process());
        machine.map(&space, &file, BASE, 3 * MIB2, flags);
        assert_eq!(machine.four(), (total, total, 3, surplus));
        let mut cpu = cpu(&space);
        cpu.store(&mut machine.task, BASE, 1).unwrap();
        assert_eq!(machine.four(), (total, total - 1, 2, surplus));
        cpu.store(&mut machine.task, at(2), 1).unwrap();
        assert_eq!(machine.four(), (total, total - 2, 1, surplus));
        let child = space.fork(&mut machine.task).unwrap();
        assert_eq!(machine.four(), (total, total - 2, 1, surplus), "a child has no reservations");
        child.exit(&mut machine.task).unwrap();
        space.munmap(&mut machine.task, BASE, 3 * MIB2).unwrap();
        if flags == SHARED {
            // They are the file's.
            assert_eq!(machine.four(), (total, total - 2, 1, surplus));
            file.truncate(&mut machine.task, 0).unwrap();
        }
        assert_eq!(machine.four(), (pool, pool, 0, 0));
        drop((cpu, space, child, file));
        machine.end();
    }
}

/// `hugemmap05`: a pool that may grow by surplus pages, up to a limit that can be lowered at any time.
#[test]
fn overcommit_gives_what_the_pool_lacks_up_to_its_limit() {
    let mut machine = Machine::new(2);
    let pool = || machine.hugetlb.pool(SMALL);
    pool().set_overcommit(2);
    assert_eq!(pool().overcommit(), 2);
    let (file, space) = (machine.file(5), machine.process());
    let refused = machine.try_map(&space, &file, BASE, 5 * MIB2, SHARED).unwrap_err();
    assert_eq!((refused.errno(), machine.four()), (Errno::ENOMEM, (2, 2, 0, 0)));
    machine.map(&space, &file, BASE, 4 * MIB2, SHARED);
    assert_eq!(machine.four(), (4, 4, 4, 2));
    write_fault(&mut cpu(&space), &mut machine.task, BASE, 4);
    // What is there stays; nothing is added.
    machine.hugetlb.pool(SMALL).set_overcommit(0);
    assert_eq!(machine.four(), (4, 0, 0, 2));
    // A larger pool makes proper pages of surplus ones first.
    assert_eq!(machine.hugetlb.resize_pool(SMALL, 3), 3);
    assert_eq!(machine.four(), (4, 0, 0, 1));
    drop((space, file));
    assert_eq!(machine.four(), (3, 3, 0, 0));
    machine.end();
}

/// `quota`: a mount that has one page.
#[test]
fn a_mount_with_a_limit_refuses_at_mmap_or_at_the_fault() {
    let mut machine = Machine::new(8);
    let mount = SubPool::new(&machine.hugetlb, SMALL, Some(1), None).unwrap();
    let file = HugeFile::new(&machine.hugetlb, SMALL, Some(&mount)).unwrap();
    let space = machine.process();
    for flags in [SHARED, PRIVATE] {
        let refused = machine.try_map(&space, &file, BASE, 2 * MIB2, flags).unwrap_err();
        assert_eq!(refused.errno(), Errno::ENOMEM);
        machine.map(&space, &file, BASE, 2 * MIB2, flags | NORESERVE);
        let mut cpu = cpu(&space);
        cpu.store(&mut machine.task, BASE, 1).unwrap();
        let over = cpu.store(&mut machine.task, at(1), 1).unwrap_err();
        assert!(matches!(over, FaultError::SubPoolFull(_)) && over.is_bus_error(), "{over:?}");
        assert_eq!(mount.left(), Some(0));
        // A copy would be one page too many, too.
        if flags == PRIVATE {
            let child = space.fork(&mut machine.task).unwrap();
            let copy = crate::setup::cpu(&child).store(&mut machine.task, BASE, 2).unwrap_err();
            assert!(matches!(copy, FaultError::SubPoolFull(_)));
            child.exit(&mut machine.task).unwrap();
        }
        space.munmap(&mut machine.task, BASE, 2 * MIB2).unwrap();
        file.truncate(&mut machine.task, 0).unwrap();
        assert_eq!((mount.left(), machine.free()), (Some(1), 8));
    }
    let refused = file.allocate(&mut machine.task, 0, 2 * MIB2, false).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOSPC);
    drop((space, file, mount));
    machine.end();
}

#[test]
fn reservations_in_two_chunks_are_limited_by_the_pool_as_one() {
    for flags in [SHARED, PRIVATE] {
        let mut machine = Machine::new(5);
        let (one, two, space) = (machine.file(3), machine.file(3), machine.process());
        machine.map(&space, &one, BASE, 3 * MIB2, flags);
        let refused = machine.try_map(&space, &two, at(10), 3 * MIB2, flags).unwrap_err();
        assert_eq!((refused.errno(), machine.four()), (Errno::ENOMEM, (5, 5, 3, 0)));
        // The first has used all its reservations.
        write_fault(&mut cpu(&space), &mut machine.task, BASE, 3);
        machine.map(&space, &two, at(10), 2 * MIB2, flags);
        write_fault(&mut cpu(&space), &mut machine.task, at(10), 2);
        assert_eq!(machine.four(), (5, 0, 0, 0));
        drop((space, one, two));
        machine.end();
    }
}

/// `noresv-preserve-resv-page`: a mapping without reservations does not take pages that are reserved for others.
#[test]
fn a_mapping_without_reservations_leaves_reserved_pages_alone() {
    for flags in [SHARED, PRIVATE] {
        let mut machine = Machine::new(1);
        let (reserved, other, space) = (machine.file(1), machine.file(1), machine.process());
        machine.map(&space, &reserved, BASE, MIB2, flags);
        machine.map(&space, &other, at(10), MIB2, flags | NORESERVE);
        let refused = cpu(&space).store(&mut machine.task, at(10), 1).unwrap_err();
        assert!(matches!(refused, FaultError::PoolEmpty(_)));
        assert_eq!(machine.four(), (1, 1, 1, 0));
        assert_eq!(cpu(&space).store(&mut machine.task, BASE, 1), Ok(()));
        drop((space, reserved, other));
        machine.end();
    }
}

/// `noresv-regarded-as-resv`: freeing a page that used no reservation restores none.
#[test]
fn freeing_a_page_that_used_no_reservation_restores_none() {
    for by_truncation in [false, true] {
        let mut machine = Machine::new(4);
        let (file, other, space) = (machine.file(2), machine.file(2), machine.process());
        machine.map(&space, &other, at(10), 2 * MIB2, SHARED);
        machine.map(&space, &file, BASE, 2 * MIB2, SHARED | NORESERVE);
        write_fault(&mut cpu(&space), &mut machine.task, BASE, 2);
        assert_eq!(machine.four(), (4, 2, 2, 0));
        if by_truncation {
            file.truncate(&mut machine.task, 0).unwrap();
        } else {
            space.madvise(&mut machine.task, BASE, 2 * MIB2, Advice::Remove).unwrap();
        }
        assert_eq!(machine.four(), (4, 4, 2, 0));
        drop((space, file, other));
        machine.end();
    }
}

/// `truncate_reserve_wraparound`: reservations are given back once, however often the file is truncated.
#[test]
fn truncation_again_and_again_gives_reservations_back_once() {
    let mut machine = Machine::new(4);
    let (file, space) = (machine.file(3), machine.process());
    machine.map(&space, &file, BASE, 3 * MIB2, SHARED);
    cpu(&space).store(&mut machine.task, BASE, 1).unwrap();
    for pages in [2, 1, 0, 0] {
        file.truncate(&mut machine.task, pages * MIB2).unwrap();
        let reserved = pages.saturating_sub(1);
        assert_eq!(machine.four(), (4, 4 - u64::from(pages > 0), reserved, 0));
    }
    // Long again, it has no reservations: a page that is touched is taken as any free page.
    file.truncate(&mut machine.task, 3 * MIB2).unwrap();
    write_fault(&mut cpu(&space), &mut machine.task, BASE, 3);
    assert_eq!(machine.four(), (4, 1, 0, 0));
    space.munmap(&mut machine.task, BASE, 3 * MIB2).unwrap();
    file.truncate(&mut machine.task, 0).unwrap();
    assert_eq!(machine.four(), (4, 4, 0, 0));
    drop((space, file));
    machine.end();
}

/// `fallocate_basic`, `fallocate_align`.
#[test]
fn fallocate_takes_whole_pages_and_a_hole_gives_whole_pages_back() {
    let mut machine = Machine::new(6);
    let file = machine.file(0);
    let task = &mut machine.task;
    file.allocate(task, MIB2 / 2, MIB2, false).unwrap();
    assert_eq!((file.pages(), file.size()), (2, MIB2 + MIB2 / 2));
    file.allocate(task, 0, 4 * MIB2, false).unwrap();
    assert_eq!((file.pages(), file.size()), (4, 4 * MIB2));
    // One page and two halves: the halves stay, emptied.
    file.write_at(task, 0, &[1; 8]).unwrap();
    file.write_at(task, MIB2 - 8, &[1; 16]).unwrap();
    file.punch_hole(task, MIB2 / 2, 2 * MIB2).unwrap();
    assert_eq!((file.pages(), file.size()), (3, 4 * MIB2));
    let mut bytes = [9; 8];
    file.read_at(MIB2 - 8, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 8]);
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 8]);
    let refused = file.allocate(task, 0, 8 * MIB2, false).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOSPC);
    file.truncate(task, 0).unwrap();
    drop(file);
    machine.end();
}
