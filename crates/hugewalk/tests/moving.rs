//! What others do to a page while it moves. At the moment of the copy its entries are migration entries, and its mover holds no
//! lock but the mutex of its place.

mod common;

use core::cell::RefCell;
use std::rc::Rc;

use common::interrupt::{At, before_next, forget, is_pending};
use common::{AddressSpace, File, Hugetlb, M2, RW, SMALL, Task, cpu, map, system};
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, Leaf};
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

const HERE: VirtAddr = VirtAddr::new(1 << 32);
const BESIDE: VirtAddr = VirtAddr::new((1 << 32) + M2);
const PAGES: u64 = 6;

/// A process with two private pages; the one at `HERE` is to move.
struct World {
    hugetlb: Arc<Hugetlb>,
    task: Task,
    space: Arc<AddressSpace>,
}

impl World {
    fn new() -> Self {
        let (hugetlb, mut task) = system(PAGES);
        let file = File::new(&hugetlb, SMALL, None).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        map(&space, &mut task, &file, 0, HERE.as_u64(), 2 * M2, MapFlags::NORESERVE).unwrap();
        for address in [HERE, BESIDE] {
            cpu::store(&space, &mut task, address, 1).unwrap();
        }
        Self { hugetlb, task, space }
    }

    /// Moves the page while others do something at the moment of the copy. Returns where it is now, and what they came to.
    fn moves<R: 'static>(
        &mut self,
        meanwhile: impl FnOnce(&AddressSpace, &mut Task) -> R + 'static,
    ) -> (HugeFrame, R) {
        let (hugetlb, space) = (self.hugetlb.clone(), self.space.clone());
        let result = Rc::new(RefCell::new(None));
        let told = result.clone();
        before_next(At::Copy, move || {
            assert!(matches!(entry(&space, &common::task(&hugetlb), HERE), Entry::Migration(_)));
            *told.borrow_mut() = Some(meanwhile(&space, &mut common::task(&hugetlb)));
        });
        let frame = leaf(&self.space, &self.task, HERE).frame;
        let moved = self.hugetlb.migrate(&mut self.task, frame).unwrap();
        assert_ne!(moved, frame);
        (moved, result.take().unwrap())
    }

    /// Nothing is left once all processes have exited.
    fn finish(mut self, others: &[Arc<AddressSpace>]) {
        for space in others.iter().chain([&self.space]) {
            space.exit(&mut self.task).unwrap();
        }
        let counters = self.hugetlb.pool(SMALL).counters();
        assert_eq!((counters.free, counters.total), (PAGES, PAGES));
    }
}

/// What a walker finds.
fn entry(space: &AddressSpace, task: &Task, address: VirtAddr) -> Entry {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, space.mm(), address, SMALL).unwrap();
    slot.map_or(Entry::None, |slot| slot.read().unwrap())
}

fn leaf(space: &AddressSpace, task: &Task, address: VirtAddr) -> Leaf {
    match entry(space, task, address) {
        Entry::Leaf(leaf) => leaf,
        other => panic!("{other:?} at {address:?}"),
    }
}

#[test]
fn fork_shares_a_page_that_moves_like_one_that_stays() {
    let mut world = World::new();
    let (moved, child) = world.moves(|space, task| space.fork(task).unwrap());
    for space in [&world.space, &child] {
        let leaf = leaf(space, &world.task, HERE);
        assert!(leaf.frame == moved && !leaf.is_writable(), "{leaf:?}");
    }
    // Each has its own from the first store on.
    cpu::store(&world.space, &mut world.task, HERE, 2).unwrap();
    assert_eq!(cpu::load(&child, &mut world.task, HERE), Ok(1));
    cpu::store(&child, &mut world.task, HERE, 3).unwrap();
    assert_eq!(cpu::load(&world.space, &mut world.task, HERE), Ok(2));
    world.finish(&[child]);
}

#[test]
fn mprotect_changes_a_page_that_moves_like_one_that_stays() {
    let mut world = World::new();
    world.moves(|space, task| {
        space.mprotect(task, HERE, 2 * M2, Protection::READ).unwrap();
        space.mprotect(task, HERE, 2 * M2, RW).unwrap();
    });
    // The right to write is a fault's to give back.
    let [moved, stayed] = [HERE, BESIDE].map(|address| leaf(&world.space, &world.task, address).flags);
    assert_eq!(moved, stayed);
    world.finish(&[]);
}

#[test]
fn a_page_that_is_dropped_while_it_moves_arrives_nowhere() {
    let mut world = World::new();
    world.moves(|space, task| space.madvise(task, HERE, M2, Advice::DontNeed).unwrap());
    assert_eq!(entry(&world.space, &world.task, HERE), Entry::None);
    assert_eq!(world.hugetlb.pool(SMALL).counters().free, PAGES - 1);
    world.finish(&[]);
}

#[test]
fn what_the_holder_of_a_reference_stores_before_it_lets_go_moves_along() {
    let mut world = World::new();
    let reference = world.space.pin_pages(&mut world.task, HERE, 1, GupFlags::WRITE).unwrap();
    // The mover waits a moment for it.
    before_next(At::Pause, move || {
        reference.page(0).unwrap().write(0, &[9]).unwrap();
        drop(reference);
    });
    world.moves(|_, _| ());
    assert_eq!(cpu::load(&world.space, &mut world.task, HERE), Ok(9));
    world.finish(&[]);
}

/// Each of the two would store to a copy of its own, and the pin would be of neither.
#[test]
fn nobody_pins_a_page_that_two_share_at_any_moment_of_its_move() {
    for number in 0.. {
        let mut world = World::new();
        let child = world.space.fork(&mut world.task).unwrap();
        let (both, task) = ([world.space.clone(), child.clone()], common::task(&world.hugetlb));
        for _ in 0..number {
            before_next(At::Record, || {});
        }
        before_next(At::Record, move || {
            for (who, space) in ["the parent", "the child"].into_iter().zip(both) {
                let pinned = space.pin_page_fast(&task, HERE, GupFlags::PIN).is_some();
                assert!(!pinned, "{who} has it pinned at look {number}");
            }
        });
        let frame = leaf(&child, &world.task, HERE).frame;
        world.hugetlb.migrate(&mut world.task, frame).unwrap();
        let interrupted = !is_pending();
        forget();
        world.finish(&[child]);
        if !interrupted {
            assert!(number > 2, "it is looked at more than twice");
            return;
        }
    }
}
