//! Calls that stop half way: what came before is there, and nothing else.

use hugewalk::addr::HugeSize;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};

use crate::common::{AddressSpace, File, GIB, M2, RW, SMALL, at, inject, map, system};

const HERE: u64 = 4 * GIB;

/// Carries `work` out as often as it takes until no allocation fails any more, each time in a system of its own. It
/// returns pages that are there of those asked for, and whether it said that something was missing.
fn until_it_succeeds(mut work: impl FnMut(u64) -> (u64, bool)) -> Vec<(u64, bool)> {
    let mut outcomes = Vec::new();
    for allowed in 0.. {
        let outcome = work(allowed);
        if !inject::has_failed() {
            assert!(!outcome.1);
            break;
        }
        outcomes.push(outcome);
    }
    outcomes
}

#[test]
fn allocation_keeps_the_pages_it_got_and_the_size() {
    let outcomes = until_it_succeeds(|allowed| {
        let (hugetlb, mut task) = system(2);
        hugetlb.pool(SMALL).set_overcommit(2);
        let file = File::new(&hugetlb, SMALL, None).unwrap();
        inject::arm(allowed);
        let done = inject::inside(|| file.allocate(&mut task, 0, 4 * M2, false));
        inject::disarm();
        let counters = hugetlb.pool(SMALL).counters();
        assert_eq!(counters.total - counters.free, file.pages());
        assert_eq!(file.size(), if done.is_ok() { 4 * M2 } else { 0 });
        (file.pages(), done.is_err())
    });
    let stopped = outcomes.iter().filter(|outcome| outcome.1).map(|outcome| outcome.0);
    // Both at the start, and at the surplus pages.
    assert!(stopped.clone().any(|pages| pages == 0) && stopped.clone().any(|pages| pages == 2));
    assert!(stopped.is_sorted());
}

#[test]
fn populating_keeps_the_pages_it_got() {
    for advice in [Advice::PopulateRead, Advice::PopulateWrite] {
        let outcomes = until_it_succeeds(|allowed| {
            let (hugetlb, mut task) = system(8);
            let (file, space) =
                (File::new(&hugetlb, SMALL, None).unwrap(), AddressSpace::new(&hugetlb).unwrap());
            map(&space, &mut task, &file, 0, HERE, 4 * M2, MapFlags::SHARED).unwrap();
            inject::arm(allowed);
            let done = inject::inside(|| space.madvise(&mut task, at(HERE), 4 * M2, advice));
            inject::disarm();
            assert_eq!(file.pages(), space.mm().resident());
            (file.pages(), done.is_err())
        });
        assert!(!outcomes.is_empty() && outcomes.iter().all(|&(pages, failed)| failed == (pages < 4)));
    }
}

#[test]
fn mmap_succeeds_when_populating_does_not() {
    let outcomes = until_it_succeeds(|allowed| {
        let (hugetlb, mut task) = system(8);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let request = MapRequest {
            placement: Placement::Fixed(at(HERE)),
            length: 4 * M2,
            protection: RW,
            flags: MapFlags::POPULATE,
            backing: Backing::Anonymous(HugeSize::Size2M),
        };
        inject::arm(allowed);
        let done = inject::inside(|| space.mmap(&mut task, &request));
        inject::disarm();
        let mapped = space.mmap_read(&mut task).vmas().count();
        assert_eq!(mapped, usize::from(done.is_ok()));
        (space.mm().resident(), done.is_err())
    });
    assert!(outcomes.iter().any(|&(pages, failed)| !failed && pages < 4));
}
