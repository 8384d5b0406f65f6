//! `private`, `shared`, `readback`, `fork-cow`, `mmap-cow`, `mprotect`, `mlock`, `truncate*`, `direct`, `ptrace-write-hugepage`:
//! who sees what is written where.

use hugewalk::addr::VirtAddr;
use hugewalk::fault::FaultError;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Backing, MapFlags, Placement};
use hugewalk::vma::Protection;
use hugewalk_host::Cpu;

use crate::pages::RW;
use crate::setup::{
    BASE, GIB, MIB2, Machine, NORESERVE, PRIVATE, SHARED, after, at, check_bytes, cpu, write_bytes,
    write_fault,
};

/// `private`, `shared`, `mmap-cow`: a file that is mapped in both ways.
#[test]
fn stores_to_a_shared_mapping_are_everybodys_and_those_to_a_private_one_nobody_elses() {
    let mut machine = Machine::new(8);
    let (file, space) = (machine.file(2), machine.process());
    machine.map(&space, &file, BASE, 2 * MIB2, SHARED);
    machine.map(&space, &file, at(10), 2 * MIB2, PRIVATE);
    machine.map(&space, &file, at(20), 2 * MIB2, SHARED);
    let (mut cpu, task) = (cpu(&space), &mut machine.task);
    write_bytes(&mut cpu, task, BASE, 2 * MIB2);
    for area in [BASE, at(10), at(20)] {
        check_bytes(&mut cpu, task, area, 2 * MIB2);
    }
    cpu.store(task, at(10), 77).unwrap();
    assert_eq!([BASE, at(20)].map(|area| cpu.load(task, area)), [Ok(0), Ok(0)]);
    cpu.store(task, at(20), 78).unwrap();
    // The private copy has been made; the second page is still the file's.
    assert_eq!([BASE, at(10)].map(|area| cpu.load(task, area)), [Ok(78), Ok(77)]);
    cpu.store(task, at(21), 79).unwrap();
    assert_eq!(cpu.load(task, at(11)), Ok(79));
    drop((cpu, space, file));
    machine.end();
}

/// `fork-cow`, `corrupt-by-cow-opt`.
#[test]
fn after_a_fork_each_has_its_own_private_memory_and_both_have_the_shared() {
    let mut machine = Machine::new(12);
    let (file, parent) = (machine.file(2), machine.process());
    machine.map(&parent, &file, BASE, 2 * MIB2, PRIVATE);
    machine.map(&parent, &file, at(10), 2 * MIB2, SHARED);
    let mut of_parent = cpu(&parent);
    write_fault(&mut of_parent, &mut machine.task, BASE, 2);
    write_fault(&mut of_parent, &mut machine.task, at(10), 2);
    let child = parent.fork(&mut machine.task).unwrap();
    let mut of_child = cpu(&child);
    let task = &mut machine.task;
    of_child.store(task, BASE, 100).unwrap();
    of_parent.store(task, at(1), 101).unwrap();
    of_child.store(task, at(10), 102).unwrap();
    let seen =
        |cpu: &mut Cpu, task: &mut _| [BASE, at(1), at(10), at(11)].map(|at| cpu.load(task, at).unwrap());
    assert_eq!(seen(&mut of_parent, task), [1, 101, 102, 2]);
    assert_eq!(seen(&mut of_child, task), [100, 2, 102, 2]);
    let mut byte = [0];
    file.read_at(0, &mut byte).unwrap();
    assert_eq!(byte, [102], "the file has what was written to the shared mapping");
    child.exit(task).unwrap();
    // The parent, alone again, writes without a copy, and not to the file.
    of_parent.store(task, BASE, 103).unwrap();
    file.read_at(0, &mut byte).unwrap();
    assert_eq!((of_parent.load(task, at(10)), byte), (Ok(102), [102]));
    drop((of_parent, of_child, parent, child, file));
    machine.end();
}

/// `mprotect`.
#[test]
fn rights_that_are_taken_away_are_missed_and_those_that_are_given_are_there() {
    for flags in [SHARED, PRIVATE] {
        let mut machine = Machine::new(4);
        let (file, space) = (machine.file(2), machine.process());
        machine.map(&space, &file, BASE, 2 * MIB2, flags);
        let (mut cpu, task) = (cpu(&space), &mut machine.task);
        write_fault(&mut cpu, task, BASE, 1);
        let refused = |address| Err(FaultError::Protection { address });
        for (rights, load, store) in [
            (Protection::READ, Ok(1), refused(BASE)),
            (Protection::empty(), Err(FaultError::Protection { address: BASE }), refused(BASE)),
            (RW, Ok(1), Ok(())),
        ] {
            // Of the first page alone: the second keeps its rights.
            space.mprotect(task, BASE, MIB2, rights).unwrap();
            assert_eq!(cpu.load(task, BASE), load);
            assert_eq!(cpu.store(task, BASE, 1), store);
            assert_eq!(cpu.store(task, at(1), 2), Ok(()));
        }
        drop((cpu, space, file));
        machine.end();
    }
}

/// `mlock`.
#[test]
fn a_locked_mapping_is_there_from_the_start() {
    for flags in [SHARED, PRIVATE] {
        let mut machine = Machine::new(4);
        let space = machine.process();
        machine.anonymous(&space, BASE, 3 * MIB2, flags | MapFlags::LOCKED);
        assert_eq!(machine.four(), (4, 1, 0, 0));
        assert_eq!(cpu(&space).load(&mut machine.task, at(2)), Ok(0));
        drop(space);
        machine.end();
    }
}

/// `truncate`, `truncate_sigbus_versus_oom`: SIGBUS, whether or not the pool has pages, and never that memory is missing.
#[test]
fn who_touches_what_was_truncated_gets_sigbus() {
    for pool in [2, 8] {
        let mut machine = Machine::new(pool);
        let (file, space) = (machine.file(2), machine.process());
        machine.map(&space, &file, BASE, 2 * MIB2, SHARED);
        let mut cpu = cpu(&space);
        write_fault(&mut cpu, &mut machine.task, BASE, 2);
        file.truncate(&mut machine.task, MIB2).unwrap();
        let beyond = cpu.load(&mut machine.task, at(1)).unwrap_err();
        assert_eq!(beyond, FaultError::BeyondEof { index: 1 });
        assert!(beyond.is_bus_error());
        assert_eq!(cpu.load(&mut machine.task, BASE), Ok(1));
        let child = space.fork(&mut machine.task).unwrap();
        assert_eq!(crate::setup::cpu(&child).store(&mut machine.task, at(1), 1), Err(beyond));
        child.exit(&mut machine.task).unwrap();
        // Long again, it is there again, and empty.
        file.truncate(&mut machine.task, 2 * MIB2).unwrap();
        assert_eq!(cpu.load(&mut machine.task, at(1)), Ok(0));
        drop((cpu, space, child, file));
        machine.end();
    }
}

/// `truncate_above_4GB`: offsets that do not fit into 32 bits, nor their pages' numbers into what is left of them.
#[test]
fn a_file_is_truncated_beyond_4_gib_and_pages_below_stay() {
    let mut machine = Machine::new(16);
    let space = machine.process();
    let far = 4 * GIB + 2 * MIB2;
    let file = machine.file(far / MIB2 + 4);
    for (place, offset) in [(BASE, 0), (at(10), far - 3 * MIB2), (at(20), far)] {
        let backing = Backing::File { file: &file, offset };
        machine.mmap(&space, Placement::Fixed(place), 4 * MIB2, RW, SHARED, backing).unwrap();
        write_fault(&mut cpu(&space), &mut machine.task, place, 4);
    }
    // The last page of the second mapping is the first of the third.
    assert_eq!(machine.free(), 16 - 11);
    file.truncate(&mut machine.task, far).unwrap();
    let mut cpu = cpu(&space);
    for (place, page, expected) in
        [(BASE, 3, Some(4)), (at(10), 2, Some(3)), (at(10), 3, None), (at(20), 0, None), (at(20), 3, None)]
    {
        let seen = cpu.load(&mut machine.task, after(place, page * MIB2));
        assert_eq!(seen.ok(), expected, "{place:?} {page}");
    }
    assert_eq!(machine.free(), 16 - 7);
    file.truncate(&mut machine.task, 4 * GIB - MIB2).unwrap();
    assert_eq!(machine.free(), 16 - 4);
    assert_eq!(cpu.load(&mut machine.task, at(3)), Ok(4));
    drop((cpu, space, file));
    machine.end();
}

/// `map_high_truncate_2`: mapped high up in the address space, from a high offset, and truncated in steps.
#[test]
fn a_file_that_is_mapped_high_up_is_truncated_page_by_page() {
    let mut machine = Machine::new(8);
    let space = machine.process();
    let high = VirtAddr::new((1 << 47) - 8 * GIB - 4 * MIB2);
    let start = 7 * GIB;
    let file = machine.file(start / MIB2 + 4);
    let backing = Backing::File { file: &file, offset: start };
    machine.mmap(&space, Placement::Fixed(high), 4 * MIB2, RW, SHARED, backing).unwrap();
    let mut cpu = cpu(&space);
    write_fault(&mut cpu, &mut machine.task, high, 4);
    for left in (0..4).rev() {
        file.truncate(&mut machine.task, start + left * MIB2).unwrap();
        for page in 0..4 {
            let seen = cpu.load(&mut machine.task, after(high, page * MIB2));
            assert_eq!(seen.ok(), (page < left).then_some(page as u8 + 1));
        }
        assert_eq!(machine.free(), 8 - left);
    }
    drop((cpu, space, file));
    machine.end();
}

/// `direct`: a device that writes into huge pages and reads out of them; `ptrace-write-hugepage`: a debugger that does.
#[test]
fn what_comes_past_the_page_tables_is_seen_by_the_process_and_the_other_way_round() {
    for flags in [SHARED, PRIVATE] {
        let mut machine = Machine::new(8);
        let (file, space) = (machine.file(2), machine.process());
        machine.map(&space, &file, BASE, 2 * MIB2, flags | NORESERVE);
        let mut cpu = cpu(&space);
        let device = GupFlags::PIN | GupFlags::WRITE;
        let pins = space.pin_pages(&mut machine.task, BASE, 2 * MIB2, device).unwrap();
        assert_eq!(pins.page(1).unwrap().write(100, b"disk"), Ok(4));
        let mut seen = [0; 4];
        cpu.read_bytes(&mut machine.task, after(at(1), 100), &mut seen).unwrap();
        assert_eq!(&seen, b"disk");
        cpu.write_bytes(&mut machine.task, at(1), b"memory").unwrap();
        let mut out = [0; 6];
        pins.page(1).unwrap().read(0, &mut out).unwrap();
        assert_eq!(&out, b"memory");
        drop(pins);
        // Across the boundary of two pages.
        let debugger = space.write_bytes(&mut machine.task, at(1), b"ptrace");
        assert_eq!(debugger, Ok(6));
        let across = VirtAddr::new(at(1).as_u64() - 3);
        assert_eq!(space.write_bytes(&mut machine.task, across, b"across"), Ok(6));
        cpu.read_bytes(&mut machine.task, across, &mut out).unwrap();
        assert_eq!(&out, b"across");
        drop((cpu, space, file));
        machine.end();
    }
}
