//! `map_hugetlb`: anonymous mappings of huge pages, of each size; lengths, addresses and offsets that pages do not begin at.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::mm::{Backing, Placement};

use crate::pages::RW;
use crate::setup::{
    BASE, GIB, LARGE, MIB2, Machine, PRIVATE, SHARED, after, at, check_bytes, cpu, write_bytes,
};

const LENGTH: u64 = 256 << 20;

#[test]
fn an_anonymous_mapping_holds_what_is_written_to_it_and_its_pages_go_with_it() {
    for (size, flags) in
        [X86_64::SIZE_2M, LARGE].into_iter().flat_map(|size| [(size, PRIVATE), (size, SHARED)])
    {
        let mut machine = Machine::new(LENGTH / MIB2);
        machine.hugetlb.resize_pool(LARGE, 1);
        let space = machine.process();
        let length = size.round_up(LENGTH).unwrap();
        let backing = Backing::Anonymous(size);
        machine.mmap(&space, Placement::Fixed(BASE), LENGTH, RW, flags, backing).unwrap();
        let mut cpu = cpu(&space);
        write_bytes(&mut cpu, &mut machine.task, BASE, length.min(LENGTH));
        check_bytes(&mut cpu, &mut machine.task, BASE, LENGTH);
        let counters = machine.hugetlb.pool(size).counters();
        assert_eq!((counters.free, counters.reserved), (0, 0), "{size:?} {flags:?}");
        // "munmap() length of MAP_HUGETLB memory must be hugepage aligned".
        let part = space.munmap(&mut machine.task, BASE, length - 4096).unwrap_err();
        assert_eq!(part.errno(), Errno::EINVAL);
        check_bytes(&mut cpu, &mut machine.task, BASE, LENGTH);
        space.munmap(&mut machine.task, BASE, length).unwrap();
        assert_eq!(machine.hugetlb.pool(size).counters().free, counters.total);
        drop((cpu, space));
        machine.end();
    }
}

/// `misalign`, `misaligned_offset`.
#[test]
fn what_pages_do_not_begin_at_is_refused() {
    let mut machine = Machine::new(8);
    let (file, space) = (machine.file(4), machine.process());
    machine.map(&space, &file, BASE, 4 * MIB2, SHARED);
    cpu(&space).store(&mut machine.task, BASE, 1).unwrap();
    let task = &mut machine.task;
    for refused in [
        space.munmap(task, after(BASE, 4096), MIB2),
        space.munmap(task, BASE, 4096),
        space.munmap(task, after(BASE, MIB2), MIB2 + 4096),
        space.mprotect(task, BASE, 4096, RW - hugewalk::vma::Protection::WRITE),
    ] {
        assert_eq!(refused.unwrap_err().errno(), Errno::EINVAL);
    }
    for offset in [4096, MIB2 + 1, MIB2 - 4096] {
        let backing = Backing::File { file: &file, offset };
        let refused = machine.mmap(&space, Placement::Anywhere, MIB2, RW, SHARED, backing).unwrap_err();
        assert_eq!(refused.errno(), Errno::EINVAL);
    }
    assert_eq!(cpu(&space).load(&mut machine.task, BASE), Ok(1));
    drop((space, file));
    machine.end();
}

/// `mmap-gettest`: a length that is no multiple maps the whole of its last page.
#[test]
fn a_mapping_is_as_long_as_whole_pages() {
    let mut machine = Machine::new(8);
    let space = machine.process();
    for length in [1, 4096, MIB2 - 1, MIB2, MIB2 + 1] {
        let backing = Backing::Anonymous(X86_64::SIZE_2M);
        let start = machine.mmap(&space, Placement::Anywhere, length, RW, PRIVATE, backing).unwrap();
        assert!(start.as_u64().is_multiple_of(MIB2));
        let whole = length.next_multiple_of(MIB2);
        let mut cpu = cpu(&space);
        write_bytes(&mut cpu, &mut machine.task, start, whole);
        assert!(cpu.load(&mut machine.task, after(start, whole)).is_err());
        assert_eq!(machine.free(), 8 - whole / MIB2);
        space.munmap(&mut machine.task, start, whole).unwrap();
    }
    drop(space);
    machine.end();
}

/// `huge_at_4GB_normal_*`, `straddle_4GB`, `task-size-overrun`: boundaries of address ranges.
#[test]
fn mappings_lie_across_every_boundary_below_the_last_address_and_not_across_that() {
    let mut machine = Machine::new(8);
    let space = machine.process();
    let top = space.mm().task_size().as_u64();
    for boundary in [4 * GIB, 512 * GIB, 1 << 40, 1 << 46] {
        let start = VirtAddr::new(boundary - 2 * MIB2);
        machine.anonymous(&space, start, 4 * MIB2, PRIVATE);
        let mut cpu = cpu(&space);
        write_bytes(&mut cpu, &mut machine.task, start, 4 * MIB2);
        check_bytes(&mut cpu, &mut machine.task, start, 4 * MIB2);
        space.munmap(&mut machine.task, start, 4 * MIB2).unwrap();
    }
    // The last huge page that ends below the last address.
    let end = top & !(MIB2 - 1);
    let last = VirtAddr::new(end - MIB2);
    machine.anonymous(&space, last, MIB2, PRIVATE);
    cpu(&space).store(&mut machine.task, VirtAddr::new(end - 1), 9).unwrap();
    let backing = Backing::Anonymous(X86_64::SIZE_2M);
    let over = machine.mmap(&space, Placement::Fixed(last), 2 * MIB2, RW, PRIVATE, backing).unwrap_err();
    assert_eq!(over.errno(), Errno::ENOMEM);
    assert_eq!(cpu(&space).load(&mut machine.task, VirtAddr::new(end - 1)), Ok(9));
    drop(space);
    machine.end();
}

/// Unmapped piece by piece, from the middle outwards.
#[test]
fn whole_pages_can_be_unmapped_from_the_middle_and_the_rest_stays() {
    for flags in [PRIVATE, SHARED] {
        let mut machine = Machine::new(5);
        let space = machine.process();
        machine.anonymous(&space, BASE, 5 * MIB2, flags);
        let mut cpu = cpu(&space);
        write_bytes(&mut cpu, &mut machine.task, BASE, 5 * MIB2);
        for (page, left) in [(2, [true, true, false, true, true]), (1, [true, false, false, true, true])] {
            space.munmap(&mut machine.task, at(page), MIB2).unwrap();
            for (number, mapped) in (0..).zip(left) {
                let seen = cpu.load(&mut machine.task, at(number));
                assert_eq!(seen.ok(), mapped.then_some(number as u8));
            }
        }
        drop((cpu, space));
        machine.end();
    }
}
