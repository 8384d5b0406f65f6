//! A platform must not unwind. If it does all the same, nothing is freed that a processor or a walker may still reach, no
//! lock stays held, and nobody waits for what will not come.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::cpu::{load, peek, store};
use common::interrupt::{At, is_pending, unwind_at};
use common::{AddressSpace, Bench, File, GIB, Hugetlb, M2, SMALL, Task, at, map, system};
use hugewalk::arch::{Entry, Leaf};
use hugewalk::fault::{Access, Fault};
use hugewalk::gather::Gather;
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::rcu::Rcu as _;
use hugewalk::share::huge_pmd_unshare;
use hugewalk::sync::Arc;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

const START: u64 = 4 * GIB;
const ADDRESS: hugewalk::addr::VirtAddr = at(START);

/// Runs work in which the platform unwinds.
fn unwinds<R>(work: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(work)).is_err(), "the platform was not called, or did not unwind");
    assert!(!is_pending());
}

fn free(hugetlb: &Arc<Hugetlb>) -> u64 {
    hugetlb.pool(SMALL).counters().free
}

/// An address space with so many pages of a file of its own.
fn mapped(
    hugetlb: &Arc<Hugetlb>,
    task: &mut Task,
    pages: u64,
    flags: MapFlags,
) -> (Arc<AddressSpace>, Arc<File>) {
    let file = File::new(hugetlb, SMALL, None).unwrap();
    let space = AddressSpace::new(hugetlb).unwrap();
    map(&space, task, &file, 0, START, pages * M2, flags | MapFlags::NORESERVE).unwrap();
    for page in 0..pages {
        let address = at(START + page * M2);
        // Both processors have it in their TLBs.
        store(&space, task, address, 1).unwrap();
        assert_eq!(load(&space, task, address), Ok(1));
    }
    (space, file)
}

/// Two address spaces that share a table, which has one page.
fn sharers(hugetlb: &Arc<Hugetlb>, task: &mut Task) -> ([Arc<AddressSpace>; 2], Arc<File>) {
    let file = File::new(hugetlb, SMALL, None).unwrap();
    let spaces = [(); 2].map(|()| {
        let space = AddressSpace::new(hugetlb).unwrap();
        map(&space, task, &file, 0, START, GIB, MapFlags::SHARED | MapFlags::NORESERVE).unwrap();
        store(&space, task, ADDRESS, 1).unwrap();
        space
    });
    assert_eq!(spaces[0].tables(task).unwrap()[0].users, 2);
    (spaces, file)
}

fn leaf(space: &AddressSpace, task: &Task) -> Option<Leaf> {
    peek(space, task, ADDRESS).map(|(leaf, _)| leaf)
}

#[test]
fn pages_whose_flush_unwinds_are_never_free_again() {
    // In the gather itself, in its list, and more than a batch holds: these are flushed while more are being unmapped.
    for (pages, lost) in [(1, 1), (8, 8), (9, 9), (520, 520), (600, 520)] {
        let (hugetlb, mut task) = system(pages);
        let (space, _file) = mapped(&hugetlb, &mut task, pages, MapFlags::empty());
        assert_eq!(free(&hugetlb), 0);
        unwind_at(At::Flush, 0);
        unwinds(|| space.madvise(&mut task, ADDRESS, pages * M2, Advice::DontNeed));
        assert_eq!(free(&hugetlb), 0, "of {pages} pages some are free, and a processor has them in its TLB");

        // The processors have them still. Everything else goes on, and what was not unmapped comes back.
        assert_eq!(load(&space, &mut task, ADDRESS), Ok(1));
        space.exit(&mut task).unwrap();
        assert_eq!(free(&hugetlb), pages - lost);
    }
}

#[test]
fn an_unshare_whose_flush_unwinds_leaves_the_others_their_table() {
    let (hugetlb, mut task) = system(4);
    let ([space, other], file) = sharers(&hugetlb, &mut task);
    let mmap = space.mmap_read(&mut task);
    let mut vma_lock = mmap.lock_vma_write(mmap.find(ADDRESS).unwrap(), &mut task).unwrap();
    let mut i_mmap = file.i_mmap_write(&mut task);
    unwind_at(At::Flush, 0);
    unwinds(|| {
        Gather::<Bench>::scope(space.mm(), &mut i_mmap, |gather| {
            huge_pmd_unshare(&mut vma_lock, ADDRESS, gather, &task).unwrap()
        })
    });
    drop(i_mmap);
    drop(vma_lock);
    drop(mmap);
    // The table is the other's alone, who did not lose it.
    assert!(space.tables(&mut task).unwrap().is_empty());
    assert_eq!(other.tables(&mut task).unwrap()[0].users, 1);
    assert_eq!(load(&other, &mut task, ADDRESS), Ok(1));
}

#[test]
fn tables_whose_flush_unwinds_are_never_freed() {
    let (hugetlb, mut task) = system(4);
    let (space, file) = mapped(&hugetlb, &mut task, 1, MapFlags::SHARED);
    let before = hugetlb.platform().tables_in_use();
    // The first flush is that of the page, the second one that of the tables.
    unwind_at(At::Flush, 1);
    unwinds(|| space.munmap(&mut task, ADDRESS, M2));
    task.rcu_barrier();
    assert_eq!(hugetlb.platform().tables_in_use(), before);
    // The place can be mapped anew, with tables of its own.
    map(&space, &mut task, &file, 0, START, M2, MapFlags::SHARED).unwrap();
    assert_eq!(load(&space, &mut task, ADDRESS), Ok(1));
}

#[test]
fn dropped_processes_whose_turn_had_not_come_are_taken_down_later() {
    let (hugetlb, mut task) = system(3);
    drop([(); 3].map(|()| mapped(&hugetlb, &mut task, 1, MapFlags::empty())));
    unwind_at(At::Flush, 0);
    unwinds(|| task.finish_drops());
    assert_eq!(free(&hugetlb), 0);
    task.finish_drops();
    assert_eq!(free(&hugetlb), 2, "all but the page whose flush unwound");
}

#[test]
fn truncation_does_not_wait_for_pages_that_were_leaked() {
    let (hugetlb, mut task) = system(4);
    let (space, file) = mapped(&hugetlb, &mut task, 4, MapFlags::SHARED);
    unwind_at(At::Flush, 0);
    unwinds(|| space.madvise(&mut task, ADDRESS, 4 * M2, Advice::DontNeed));
    file.truncate(&mut task, 0).unwrap();
    assert_eq!(free(&hugetlb), 0, "a processor has them in its TLB");
}

#[test]
fn a_huge_page_is_given_to_the_platform_once_even_if_that_unwinds() {
    let (hugetlb, mut task) = system(0);
    hugetlb.pool(SMALL).set_overcommit(600);
    let (space, _file) = mapped(&hugetlb, &mut task, 600, MapFlags::empty());
    let in_use = || hugetlb.platform().huge_in_use(SMALL);
    assert_eq!(in_use(), 600);
    // Surplus pages go back at once, a batch of them while more are being unmapped.
    unwind_at(At::FreeHuge, 1);
    unwinds(|| space.madvise(&mut task, ADDRESS, 600 * M2, Advice::DontNeed));
    // None is given back twice. The first one is back, and so is what the gather had in its list. The other seven that it held
    // itself are leaked.
    assert_eq!(in_use(), 600 - 1 - 512);
    space.exit(&mut task).unwrap();
    assert_eq!(in_use(), 7);
}

#[test]
fn a_write_whose_flush_unwinds_can_be_tried_again() {
    let (hugetlb, mut task) = system(4);
    let (parent, _file) = mapped(&hugetlb, &mut task, 1, MapFlags::empty());
    let child = parent.fork(&mut task).unwrap();
    assert_eq!(load(&child, &mut task, ADDRESS), Ok(1));
    let before = leaf(&child, &task);
    unwind_at(At::Flush, 0);
    unwinds(|| child.fault(&mut task, ADDRESS, Access::Write));
    assert_eq!((leaf(&child, &task), free(&hugetlb)), (before, 3));
    assert_eq!(load(&child, &mut task, ADDRESS), Ok(1));
    assert_eq!(child.fault(&mut task, ADDRESS, Access::Write), Ok(Fault::Copied));
}

#[test]
fn a_page_whose_move_unwinds_stays_where_it_was() {
    for what in [At::Copy, At::Flush] {
        let (hugetlb, mut task) = system(4);
        let (space, _file) = mapped(&hugetlb, &mut task, 1, MapFlags::SHARED);
        let frame = leaf(&space, &task).unwrap().frame;
        unwind_at(what, 0);
        unwinds(|| hugetlb.migrate(&mut task, frame));
        // It would wait for ever, were its entry a migration entry still.
        assert_eq!(load(&space, &mut task, ADDRESS), Ok(1));
        let after = leaf(&space, &task).map(|leaf| leaf.frame);
        assert_eq!((after, free(&hugetlb)), (Some(frame), 3), "{what:?}");
    }
}

#[test]
fn a_fork_whose_copy_or_flush_unwinds_leaves_the_parent_alone_with_its_pages() {
    use hugewalk::gup::GupFlags;
    for what in [At::Copy, At::Flush] {
        let (hugetlb, mut task) = system(4);
        let (space, _file) = mapped(&hugetlb, &mut task, 1, MapFlags::empty());
        let pin = (what == At::Copy)
            .then(|| space.pin_page_fast(&task, ADDRESS, GupFlags::PIN | GupFlags::WRITE).unwrap());
        unwind_at(what, 0);
        unwinds(|| space.fork(&mut task));
        drop(pin);
        assert_eq!(free(&hugetlb), 3, "{what:?}");
        store(&space, &mut task, ADDRESS, 2).unwrap();
        assert_eq!((load(&space, &mut task, ADDRESS), free(&hugetlb)), (Ok(2), 3), "{what:?}");
    }
}

#[test]
fn a_grace_period_whose_barrier_unwinds_is_made_up_for() {
    let (hugetlb, mut task) = system(4);
    unwind_at(At::Heavy, 0);
    unwinds(|| task.synchronize());
    // `Bench` panics where this would wait.
    task.synchronize();
    let (space, _file) = mapped(&hugetlb, &mut task, 1, MapFlags::SHARED);
    let before = hugetlb.platform().tables_in_use();
    space.munmap(&mut task, ADDRESS, M2).unwrap();
    unwind_at(At::Heavy, 0);
    unwinds(|| task.rcu_barrier());
    assert_eq!(hugetlb.platform().tables_in_use(), before);
    task.rcu_barrier();
    assert_eq!(hugetlb.platform().tables_in_use(), before - 2);
}

#[test]
fn a_read_section_whose_barrier_unwinds_was_not_entered() {
    let (_hugetlb, mut task) = system(4);
    unwind_at(At::Light, 0);
    unwinds(|| drop(task.rcu_read_lock()));
    task.synchronize();
    drop(task.rcu_read_lock());
    task.synchronize();
}

#[test]
fn a_table_whose_return_unwinds_holds_up_no_other() {
    let (hugetlb, mut task) = system(4);
    for _ in 0..6 {
        let (space, _file) = mapped(&hugetlb, &mut task, 1, MapFlags::SHARED);
        space.munmap(&mut task, ADDRESS, M2).unwrap();
        unwind_at(At::FreeTable, 0);
        unwinds(|| task.rcu_barrier());
        // Those that were to be freed with it are leaked; nobody waits for them.
        task.rcu_barrier();
        assert_eq!(hugetlb.rcu().pending(), 0);
    }
}

#[test]
fn an_entry_is_its_page_s_again_when_a_flush_has_unwound() {
    let (hugetlb, mut task) = system(4);
    let (space, _file) = mapped(&hugetlb, &mut task, 1, MapFlags::SHARED);
    unwind_at(At::Flush, 0);
    unwinds(|| space.madvise(&mut task, ADDRESS, M2, Advice::DontNeed));
    assert_eq!(peek(&space, &task, ADDRESS), None);
    // The page is the file's, and the access finds it there.
    assert_eq!(space.fault(&mut task, ADDRESS, Access::Read), Ok(Fault::Mapped));
    assert!(matches!(leaf(&space, &task).map(Entry::Leaf), Some(Entry::Leaf(_))));
    assert_eq!(free(&hugetlb), 3);
}
