//! `thuge-gen`: each mapping takes its pages from the pool of its size, and from no other. And what is left of
//! `hugepage-vmemmap`: every small page of a huge one leads to its record.

use hugewalk::addr::{HugeFrame, HugeSize};
use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, Placement};
use hugewalk::rmap::PageError;

use crate::pages::{RW, frame};
use crate::setup::{BASE, LARGE, Machine, PRIVATE, SHARED, at, cpu};

const SIZES: [HugeSize; 2] = X86_64::SIZES;

fn free(machine: &Machine) -> [u64; 2] {
    SIZES.map(|size| machine.hugetlb.pool(size).counters().free)
}

#[test]
fn a_page_of_each_size_comes_from_its_own_pool_and_goes_back_there() {
    for (number, size) in SIZES.into_iter().enumerate() {
        for flags in [PRIVATE, SHARED] {
            for segment in [false, true] {
                let mut machine = Machine::new(4);
                machine.hugetlb.resize_pool(LARGE, 2);
                let before = free(&machine);
                let space = machine.process();
                let file = HugeFile::new(&machine.hugetlb, size, None).unwrap();
                file.truncate(&mut machine.task, size.bytes()).unwrap();
                let backing =
                    if segment { Backing::File { file: &file, offset: 0 } } else { Backing::Anonymous(size) };
                machine.mmap(&space, Placement::Fixed(BASE), size.bytes(), RW, flags, backing).unwrap();
                let reserved = SIZES.map(|size| machine.hugetlb.pool(size).counters().reserved);
                assert_eq!(reserved[number], 1);
                assert_eq!(reserved[1 - number], 0);
                cpu(&space).store(&mut machine.task, BASE, 1).unwrap();
                let mut expected = before;
                expected[number] -= 1;
                assert_eq!(free(&machine), expected, "{size:?}");
                space.munmap(&mut machine.task, BASE, size.bytes()).unwrap();
                drop((space, file));
                assert_eq!(free(&machine), before);
                machine.end();
            }
        }
    }
}

#[test]
fn a_size_whose_pool_is_empty_is_refused_whatever_the_other_has() {
    let mut machine = Machine::new(1024);
    let space = machine.process();
    let backing = Backing::Anonymous(LARGE);
    let refused = machine.mmap(&space, Placement::Fixed(BASE), 1, RW, PRIVATE, backing).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOMEM);
    assert_eq!(machine.four(), (1024, 1024, 0, 0));
    drop(space);
    machine.end();
}

#[test]
fn every_small_page_of_a_huge_one_leads_to_it() {
    for size in SIZES {
        let mut machine = Machine::new(4);
        machine.hugetlb.resize_pool(LARGE, 1);
        let space = machine.process();
        let backing = Backing::Anonymous(size);
        machine.mmap(&space, Placement::Fixed(BASE), size.bytes(), RW, SHARED, backing).unwrap();
        cpu(&space).store(&mut machine.task, BASE, 1).unwrap();
        let head = frame(&machine.task, &space, at(0));
        let small = size.bytes() / 4096;
        for offset in [0, 1, 2, 7, small / 2, small - 1] {
            let found = machine.hugetlb.referenced(&mut machine.task, HugeFrame(head.0 + offset));
            // Used since it was last asked, which was a moment ago but for the first time.
            assert_eq!(found, Ok(u64::from(offset == 0)), "{offset}");
        }
        let behind = machine.hugetlb.referenced(&mut machine.task, HugeFrame(head.0 + small));
        assert!(matches!(behind, Err(PageError::NotInUse | PageError::NoHugePage { .. })), "{behind:?}");
        drop(space);
        machine.end();
    }
}
