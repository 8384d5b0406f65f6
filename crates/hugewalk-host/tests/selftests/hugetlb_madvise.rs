//! `hugetlb-madvise`: what MADV_DONTNEED and MADV_REMOVE do to free pages, after each step.

use hugewalk::error::Errno;
use hugewalk::mm::Advice::{DontNeed, Remove};

use crate::setup::{BASE, MIB2, Machine, PRIVATE, SHARED, after, at, cpu, read_fault, write_fault};

/// The selftest's number.
const PAGES: u64 = 10;
const LENGTH: u64 = PAGES * MIB2;
/// More than the tests use.
const POOL: u64 = 4 * PAGES;
/// Where a second mapping lies.
const SECOND: u64 = 100;

#[test]
fn addresses_and_lengths_that_are_not_the_mappings_are_refused() {
    let mut machine = Machine::new(POOL);
    let space = machine.process();
    machine.anonymous(&space, at(1), LENGTH, PRIVATE);
    write_fault(&mut cpu(&space), &mut machine.task, at(1), PAGES);
    let free = machine.free();
    // Before the mapping, and past its end.
    let task = &mut machine.task;
    let before = space.madvise(task, BASE, LENGTH, DontNeed).unwrap_err();
    assert_eq!(before.errno(), Errno::ENOMEM);
    // But what is mapped has been dropped, and is there again.
    write_fault(&mut cpu(&space), task, at(1), PAGES);
    let past = space.madvise(task, at(1), LENGTH + MIB2, DontNeed).unwrap_err();
    assert_eq!(past.errno(), Errno::ENOMEM);
    write_fault(&mut cpu(&space), task, at(1), PAGES);
    assert_eq!(machine.free(), free);
    drop(space);
    machine.end();
}

#[test]
fn an_unaligned_start_is_refused_and_an_unaligned_end_is_rounded_down() {
    let mut machine = Machine::new(POOL);
    let space = machine.process();
    machine.anonymous(&space, BASE, LENGTH, PRIVATE);
    write_fault(&mut cpu(&space), &mut machine.task, BASE, PAGES);
    assert_eq!(machine.free(), POOL - PAGES);
    let odd = space.madvise(&mut machine.task, after(BASE, 4096), LENGTH - 4096, DontNeed).unwrap_err();
    assert_eq!(odd.errno(), Errno::EINVAL);
    assert_eq!(machine.free(), POOL - PAGES);
    // All but the last page.
    space.madvise(&mut machine.task, BASE, LENGTH - 4096, DontNeed).unwrap();
    assert_eq!(machine.free(), POOL - 1);
    assert_eq!(cpu(&space).load(&mut machine.task, at(PAGES - 1)), Ok(PAGES as u8));
    assert_eq!(machine.free(), POOL - 1);
    drop(space);
    machine.end();
}

#[test]
fn anonymous_pages_are_freed() {
    let mut machine = Machine::new(POOL);
    let space = machine.process();
    machine.anonymous(&space, BASE, LENGTH, PRIVATE);
    let mut cpu = cpu(&space);
    write_fault(&mut cpu, &mut machine.task, BASE, PAGES);
    assert_eq!(machine.free(), POOL - PAGES);
    space.madvise(&mut machine.task, BASE, LENGTH, DontNeed).unwrap();
    assert_eq!(machine.free(), POOL);
    // They come back as zeroes.
    assert_eq!(cpu.load(&mut machine.task, at(3)), Ok(0));
    drop((cpu, space));
    machine.end();
}

#[test]
fn of_a_private_mapping_of_a_file_the_copies_are_freed_and_the_files_pages_are_not() {
    let mut machine = Machine::new(POOL);
    let (file, space) = (machine.file(PAGES), machine.process());
    file.allocate(&mut machine.task, 0, LENGTH, false).unwrap();
    assert_eq!(machine.free(), POOL - PAGES);
    machine.map(&space, &file, BASE, LENGTH, PRIVATE);
    let mut cpu = cpu(&space);
    // Read, they are the file's.
    read_fault(&mut cpu, &mut machine.task, BASE, PAGES);
    assert_eq!(machine.free(), POOL - PAGES);
    space.madvise(&mut machine.task, BASE, LENGTH, DontNeed).unwrap();
    assert_eq!(machine.free(), POOL - PAGES);
    // Written, they are copies.
    write_fault(&mut cpu, &mut machine.task, BASE, PAGES);
    assert_eq!(machine.free(), POOL - 2 * PAGES);
    space.madvise(&mut machine.task, BASE, LENGTH, DontNeed).unwrap();
    assert_eq!(machine.free(), POOL - PAGES);
    assert_eq!(cpu.load(&mut machine.task, at(3)), Ok(0), "what the file has");
    // The file's go with the file.
    space.munmap(&mut machine.task, BASE, LENGTH).unwrap();
    drop((cpu, space, file));
    machine.end();
}

#[test]
fn of_a_shared_mapping_dontneed_frees_nothing() {
    let mut machine = Machine::new(POOL);
    let (file, space) = (machine.file(PAGES), machine.process());
    file.allocate(&mut machine.task, 0, LENGTH, false).unwrap();
    machine.map(&space, &file, BASE, LENGTH, SHARED);
    let mut cpu = cpu(&space);
    write_fault(&mut cpu, &mut machine.task, BASE, PAGES);
    assert_eq!(machine.free(), POOL - PAGES);
    space.madvise(&mut machine.task, BASE, LENGTH, DontNeed).unwrap();
    assert_eq!(machine.free(), POOL - PAGES);
    assert_eq!(cpu.load(&mut machine.task, at(3)), Ok(4), "it is the file's still");
    drop((cpu, space, file));
    machine.end();
}

#[test]
fn remove_frees_the_pages_of_the_file() {
    let mut machine = Machine::new(POOL);
    let (file, space) = (machine.file(PAGES), machine.process());
    file.allocate(&mut machine.task, 0, LENGTH, false).unwrap();
    machine.map(&space, &file, BASE, LENGTH, SHARED);
    let mut cpu = cpu(&space);
    write_fault(&mut cpu, &mut machine.task, BASE, PAGES);
    assert_eq!(machine.free(), POOL - PAGES);
    space.madvise(&mut machine.task, BASE, LENGTH, Remove).unwrap();
    assert_eq!((machine.free(), file.pages(), file.size()), (POOL, 0, LENGTH));
    assert_eq!(cpu.load(&mut machine.task, at(3)), Ok(0));
    drop((cpu, space, file));
    machine.end();
}

#[test]
fn a_file_that_is_mapped_shared_and_private_loses_what_each_advice_says() {
    let mut machine = Machine::new(POOL);
    let (file, space) = (machine.file(PAGES), machine.process());
    file.allocate(&mut machine.task, 0, LENGTH, false).unwrap();
    machine.map(&space, &file, BASE, LENGTH, SHARED);
    machine.map(&space, &file, at(SECOND), LENGTH, PRIVATE);
    let mut cpu = cpu(&space);
    write_fault(&mut cpu, &mut machine.task, BASE, PAGES);
    assert_eq!(machine.free(), POOL - PAGES);
    read_fault(&mut cpu, &mut machine.task, at(SECOND), PAGES);
    assert_eq!(machine.free(), POOL - PAGES);
    write_fault(&mut cpu, &mut machine.task, at(SECOND), PAGES);
    assert_eq!(machine.free(), POOL - 2 * PAGES);
    // Of the shared one nothing is freed, of the private one the copies.
    space.madvise(&mut machine.task, BASE, LENGTH, DontNeed).unwrap();
    assert_eq!(machine.free(), POOL - 2 * PAGES);
    space.madvise(&mut machine.task, at(SECOND), LENGTH, DontNeed).unwrap();
    assert_eq!(machine.free(), POOL - PAGES);
    // Copies again; and the file's pages go with the copies of them.
    write_fault(&mut cpu, &mut machine.task, at(SECOND), PAGES);
    assert_eq!(machine.free(), POOL - 2 * PAGES);
    space.madvise(&mut machine.task, BASE, LENGTH, Remove).unwrap();
    assert_eq!((machine.free(), file.pages()), (POOL, 0));
    drop((cpu, space, file));
    machine.end();
}

/// Through the file itself, with the mappings as onlookers.
#[test]
fn fallocate_and_its_holes_are_seen_by_both_kinds_of_mapping() {
    for flags in [SHARED, PRIVATE] {
        let mut machine = Machine::new(POOL);
        let (file, space) = (machine.file(PAGES), machine.process());
        machine.map(&space, &file, BASE, LENGTH, flags);
        let mut cpu = cpu(&space);
        file.allocate(&mut machine.task, 0, LENGTH, false).unwrap();
        assert_eq!(machine.free(), POOL - PAGES);
        write_fault(&mut cpu, &mut machine.task, BASE, PAGES);
        let copies = if flags == PRIVATE { PAGES } else { 0 };
        assert_eq!(machine.free(), POOL - PAGES - copies);
        file.punch_hole(&mut machine.task, 0, LENGTH).unwrap();
        assert_eq!(machine.free(), POOL);
        assert_eq!(cpu.load(&mut machine.task, at(2)), Ok(0));
        // Once more, over what is there and what is not.
        file.allocate(&mut machine.task, MIB2, 4 * MIB2, false).unwrap();
        file.allocate(&mut machine.task, 0, LENGTH, false).unwrap();
        assert_eq!(file.pages(), PAGES);
        drop((cpu, space, file));
        machine.end();
    }
}
