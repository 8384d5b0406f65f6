//! `hugepage-mmap`: a file of huge pages is mapped, written byte by byte, read back and unmapped.

use crate::setup::{BASE, MIB2, Machine, PRIVATE, SHARED, check_bytes, cpu, write_bytes};

/// The selftest's length.
const LENGTH: u64 = 256 << 20;
const PAGES: u64 = LENGTH / MIB2;

#[test]
fn what_is_written_to_a_mapped_file_byte_by_byte_is_read_back() {
    for flags in [SHARED, PRIVATE] {
        let mut machine = Machine::new(PAGES);
        let (file, space) = (machine.file(PAGES), machine.process());
        machine.map(&space, &file, BASE, LENGTH, flags);
        assert_eq!(machine.four(), (PAGES, PAGES, PAGES, 0));
        let mut cpu = cpu(&space);
        write_bytes(&mut cpu, &mut machine.task, BASE, LENGTH);
        check_bytes(&mut cpu, &mut machine.task, BASE, LENGTH);
        // All of the pool, and each page by one fault.
        assert_eq!(machine.four(), (PAGES, 0, 0, 0));
        assert_eq!(cpu.stats().faults, PAGES);
        space.munmap(&mut machine.task, BASE, LENGTH).unwrap();
        drop(cpu);
        assert_eq!(machine.free(), if flags == SHARED { 0 } else { PAGES });
        // Unlinked and closed.
        drop((space, file));
        machine.end();
    }
}

/// libhugetlbfs `unlinked_fd`: the file has no name any more, and nobody has it open.
#[test]
fn a_file_that_nobody_has_open_lives_as_long_as_it_is_mapped() {
    let mut machine = Machine::new(2);
    let (file, space) = (machine.file(2), machine.process());
    machine.map(&space, &file, BASE, 2 * MIB2, SHARED);
    drop(file);
    let mut cpu = cpu(&space);
    write_bytes(&mut cpu, &mut machine.task, BASE, 2 * MIB2);
    check_bytes(&mut cpu, &mut machine.task, BASE, 2 * MIB2);
    assert_eq!(machine.free(), 0);
    space.munmap(&mut machine.task, BASE, 2 * MIB2).unwrap();
    assert_eq!(machine.free(), 2);
    drop((cpu, space));
    machine.end();
}
