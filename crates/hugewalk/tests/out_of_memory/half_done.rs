//! Calls that stop half way: what came before is there, and nothing else.

use std::sync::Arc;

use hugewalk::arch::X86_64;
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement, RemapTo};

use parking_lot::Mutex;

use crate::common::interrupt::{At, before_next, before_next_flush, is_pending};
use crate::common::task as task_of;
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

/// Its pages will need two tables, and those above.
#[test]
fn a_move_that_fails_leaves_no_table_at_the_new_place() {
    let outcomes = until_it_succeeds(|allowed| {
        let (hugetlb, mut task) = system(2);
        let (file, space) = (File::new(&hugetlb, SMALL, None).unwrap(), AddressSpace::new(&hugetlb).unwrap());
        map(&space, &mut task, &file, 0, HERE, 2 * M2, MapFlags::SHARED).unwrap();
        space.madvise(&mut task, at(HERE), 2 * M2, Advice::PopulateWrite).unwrap();
        let before = hugetlb.platform().tables_in_use();
        inject::arm(allowed);
        let to = RemapTo::Fixed(at((1 << 40) - M2));
        let done = inject::inside(|| space.mremap(&mut task, at(HERE), 2 * M2, 2 * M2, to));
        inject::disarm();
        task.rcu_barrier();
        if done.is_err() {
            assert_eq!(hugetlb.platform().tables_in_use(), before, "allocation {allowed} refused");
        }
        (space.mm().resident(), done.is_err())
    });
    // Each of the four tables was refused once.
    assert!(outcomes.len() >= 4 && outcomes.iter().all(|&(pages, failed)| failed && pages == 2));
}

#[test]
fn populating_keeps_the_pages_it_got() {
    for advice in [Advice::PopulateRead, Advice::PopulateWrite] {
        let outcomes = until_it_succeeds(|allowed| {
            let (hugetlb, mut task) = system(8);
            let (file, space) =
                (File::new(&hugetlb, SMALL, None).unwrap(), AddressSpace::new(&hugetlb).unwrap());
            map(&space, &mut task, &file, 0, HERE, 4 * M2, MapFlags::SHARED).unwrap();
            // From now on every allocation fails: a fault tries again what one failed allocation has kept it from.
            inject::arm_for_good_after(allowed);
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
            backing: Backing::Anonymous(X86_64::SIZE_2M),
        };
        inject::arm_for_good_after(allowed);
        let done = inject::inside(|| space.mmap(&mut task, &request));
        inject::disarm();
        let mapped = space.mmap_read(&mut task).vmas().count();
        assert_eq!(mapped, usize::from(done.is_ok()));
        (space.mm().resident(), done.is_err())
    });
    assert!(outcomes.iter().any(|&(pages, failed)| !failed && pages < 4));
}

/// Other processes fork, which maps the same file once more each, between the moment a call has made room in the file's tree and the moment
/// it uses that, and from then on there is no memory.
#[test]
fn a_mapping_takes_the_place_of_another_or_leaves_it_whatever_others_do_meanwhile() {
    for others in 0..20 {
        let (hugetlb, mut task) = system(8);
        let (old, new) =
            (File::new(&hugetlb, SMALL, None).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
        let spaces = [(); 2].map(|()| AddressSpace::new(&hugetlb).unwrap());
        let [space, other] = spaces.clone();
        map(&space, &mut task, &old, 0, HERE, M2, MapFlags::SHARED).unwrap();
        space.fault(&mut task, at(HERE), Access::Write).unwrap();
        map(&other, &mut task, &new, 0, HERE, M2, MapFlags::SHARED | MapFlags::NORESERVE).unwrap();
        let family = Arc::new(Mutex::new(Vec::new()));
        let (children, system) = (family.clone(), hugetlb.clone());
        before_next_flush(move || {
            let mut task = task_of(&system);
            children.lock().extend((0..others).map(|_| other.fork(&mut task).unwrap()));
            inject::arm(0);
        });
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let done = inject::inside(|| map(&space, &mut task, &new, 0, HERE, M2, flags));
        inject::disarm();
        assert!(!is_pending());
        let mmap = space.mmap_read(&mut task);
        let there = mmap.find(at(HERE)).map(|vma| vma.file().id());
        let expected = if done.is_ok() { new.id() } else { old.id() };
        assert_eq!(there, Some(expected), "{done:?} after {others} others");
    }
}

/// The room that was made to note an offset is others' before the offset has to be taken out of its range again.
#[test]
fn a_page_that_comes_to_nothing_leaves_the_reservation_that_its_file_still_names() {
    let mut stayed = 0;
    for others in 0..10 {
        let (hugetlb, mut task) = system(20);
        let file = File::new(&hugetlb, SMALL, None).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        map(&space, &mut task, &file, 0, HERE, 3 * M2, MapFlags::SHARED | MapFlags::NORESERVE).unwrap();
        for index in [0, 2] {
            file.reserve(&mut task, index * M2, M2).unwrap();
        }
        let (beside, system) = (file.clone(), hugetlb.clone());
        before_next(At::Fill, move || {
            let mut task = task_of(&system);
            for other in 0..others {
                beside.reserve(&mut task, (10 + 2 * other) * M2, M2).unwrap();
            }
            inject::arm_for_good();
        });
        let fault = inject::inside(|| space.fault(&mut task, at(HERE + M2), Access::Write));
        inject::disarm();
        assert!(!is_pending());
        assert!(fault.is_err(), "there is no room in the cache of the file");
        assert_eq!(hugetlb.pool(SMALL).counters().reserved, file.reserved(), "after {others} others");
        stayed += file.reserved() - 2 - others;
    }
    assert!((1..10).contains(&stayed), "{stayed}: sometimes there is room, and sometimes not");
}
