//! `hugepage-shm`, LTP's `hugeshm*` and libhugetlbfs' `shm-*`: a SysV segment of huge pages. It is a file without a name that
//! is made at its full size, with its pages reserved; attaching maps it, wherever there is room; it goes with the last of
//! whoever has it attached, once it has been removed.

use hugewalk::addr::VirtAddr;
use hugewalk::mm::{Backing, MapError, Placement};
use hugewalk::reserve::NoPage;
use hugewalk::vma::Protection;

use crate::pages::{File, RW, Space};
use crate::setup::{BASE, GIB, MIB2, Machine, SHARED, check_bytes, cpu, write_bytes};

/// The selftest's length.
const LENGTH: u64 = 256 << 20;
const PAGES: u64 = LENGTH / MIB2;

/// `shmget(IPC_PRIVATE, length, SHM_HUGETLB)`.
fn shmget(machine: &mut Machine, length: u64) -> Result<File, MapError> {
    let segment = machine.file(length.div_ceil(MIB2));
    segment.reserve(&mut machine.task, 0, length)?;
    Ok(segment)
}

fn shmat(
    machine: &mut Machine,
    space: &Space,
    segment: &File,
    placement: Placement,
) -> Result<VirtAddr, MapError> {
    let backing = Backing::File { file: segment, offset: 0 };
    machine.mmap(space, placement, segment.size(), RW, SHARED, backing)
}

#[test]
fn what_is_written_to_a_segment_is_read_back_and_the_segment_goes_when_it_is_removed() {
    let mut machine = Machine::new(PAGES + 2);
    let segment = shmget(&mut machine, LENGTH).unwrap();
    assert_eq!(machine.four(), (PAGES + 2, PAGES + 2, PAGES, 0));
    let space = machine.process();
    let start = shmat(&mut machine, &space, &segment, Placement::Anywhere).unwrap();
    let mut cpu = cpu(&space);
    write_bytes(&mut cpu, &mut machine.task, start, LENGTH);
    check_bytes(&mut cpu, &mut machine.task, start, LENGTH);
    assert_eq!(machine.four(), (PAGES + 2, 2, 0, 0));
    // Detached, it keeps its contents: whoever attaches it next finds them.
    space.munmap(&mut machine.task, start, LENGTH).unwrap();
    assert_eq!(machine.free(), 2);
    let again = shmat(&mut machine, &space, &segment, Placement::Fixed(BASE)).unwrap();
    check_bytes(&mut cpu, &mut machine.task, again, LENGTH);
    // Removed, it stays until it is detached.
    drop(segment);
    assert_eq!(machine.free(), 2);
    check_bytes(&mut cpu, &mut machine.task, again, LENGTH);
    space.munmap(&mut machine.task, again, LENGTH).unwrap();
    assert_eq!(machine.free(), PAGES + 2);
    drop((cpu, space));
    machine.end();
}

/// `hugeshmat*`, `shm-fork`: in two processes, and twice in one.
#[test]
fn a_segment_that_is_attached_twice_is_the_same_memory_in_both_places() {
    let mut machine = Machine::new(512);
    let segment = shmget(&mut machine, GIB).unwrap();
    let (one, two) = (machine.process(), machine.process());
    let places = [BASE, VirtAddr::new(20 * GIB)];
    for place in places {
        shmat(&mut machine, &one, &segment, Placement::Fixed(place)).unwrap();
    }
    shmat(&mut machine, &two, &segment, Placement::Fixed(BASE)).unwrap();
    let (mut first, mut second) = (cpu(&one), cpu(&two));
    first.store(&mut machine.task, BASE, 5).unwrap();
    assert_eq!(first.load(&mut machine.task, places[1]), Ok(5));
    assert_eq!(second.load(&mut machine.task, BASE), Ok(5));
    second.store(&mut machine.task, BASE, 6).unwrap();
    assert_eq!(first.load(&mut machine.task, BASE), Ok(6));
    // All three by one table.
    assert_eq!(one.tables(&mut machine.task).unwrap()[0].users, 3);
    let child = one.fork(&mut machine.task).unwrap();
    cpu(&child).store(&mut machine.task, places[1], 7).unwrap();
    assert_eq!(second.load(&mut machine.task, BASE), Ok(7));
    for place in places {
        one.munmap(&mut machine.task, place, GIB).unwrap();
    }
    assert_eq!(second.load(&mut machine.task, BASE), Ok(7));
    assert_eq!(machine.four(), (512, 511, 511, 0));
    drop((first, second, one, two, child, segment));
    machine.end();
}

/// LTP's `hugeshmget`, out of pages.
#[test]
fn a_segment_whose_pages_cannot_be_reserved_is_refused_and_one_that_can_keeps_them() {
    let mut machine = Machine::new(4);
    let segment = shmget(&mut machine, 3 * MIB2).unwrap();
    let refused = shmget(&mut machine, 2 * MIB2).unwrap_err();
    assert!(matches!(refused, MapError::NoPage(NoPage::PoolEmpty(_))), "{refused:?}");
    assert_eq!(machine.four(), (4, 4, 3, 0));
    // A length that is no multiple takes whole pages.
    let small = shmget(&mut machine, 1).unwrap();
    assert_eq!(machine.four(), (4, 4, 4, 0));
    drop(segment);
    assert_eq!(machine.four(), (4, 4, 1, 0));
    drop(small);
    machine.end();
}

/// `hugeshmat*`: addresses that no page begins at; a segment attached for reading.
#[test]
fn a_segment_is_attached_at_aligned_addresses_and_for_reading_if_that_is_asked_for() {
    let mut machine = Machine::new(2);
    let segment = shmget(&mut machine, 2 * MIB2).unwrap();
    let space = machine.process();
    let odd = Placement::Fixed(VirtAddr::new(8 * GIB + 4096));
    assert!(shmat(&mut machine, &space, &segment, odd).is_err());
    let backing = Backing::File { file: &segment, offset: 0 };
    let place = Placement::Fixed(BASE);
    machine.mmap(&space, place, 2 * MIB2, Protection::READ, SHARED, backing).unwrap();
    let mut cpu = cpu(&space);
    assert_eq!(cpu.load(&mut machine.task, BASE), Ok(0));
    assert!(cpu.store(&mut machine.task, BASE, 1).is_err());
    drop((cpu, space, segment));
    machine.end();
}
