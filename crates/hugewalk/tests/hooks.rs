//! What processors have to be told of entries, beside flushes: on each format, what each change of an entry says.

mod common;

use common::{AddressSpace, Bench, Hugetlb, RW, Task, Told};
use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{Aarch64, AnyPaging, Barrier, Granule, Paging, Riscv64, Sv, X86_64};
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::MapRequest;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

const READ_EXECUTE: Protection = Protection::READ.union(Protection::EXECUTE);

struct World {
    hugetlb: Arc<Hugetlb>,
    task: Task,
    space: Arc<AddressSpace>,
    size: HugeSize,
    start: VirtAddr,
}

impl World {
    /// One page of a shared mapping, which nobody has touched.
    fn new(paging: AnyPaging, size: HugeSize) -> Self {
        let hugetlb = Hugetlb::new(Bench::with_paging(paging)).unwrap();
        assert_eq!(hugetlb.resize_pool(size, 2), 2);
        let mut task = common::task(&hugetlb);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let start = space.mmap(&mut task, &MapRequest::anonymous(size, size.bytes()).shared()).unwrap();
        hugetlb.platform().take_told();
        Self { hugetlb, task, space, size, start }
    }

    /// An access to the last bytes of the page.
    fn fault(&mut self, access: Access) -> Fault {
        let address = self.start.checked_add(self.size.bytes() - 8).unwrap();
        self.space.fault(&mut self.task, address, access).unwrap()
    }

    fn protect(&mut self, rights: Protection) {
        self.space.mprotect(&mut self.task, self.start, self.size.bytes(), rights).unwrap();
    }

    /// What was said since the last call is this of the page, and nothing else.
    #[track_caller]
    fn was_told(&self, due: Barrier) {
        let expected = (due != Barrier::Nothing).then_some(Told::Stored(self.start, self.size, due));
        assert_eq!(self.hugetlb.platform().take_told(), Vec::from_iter(expected));
    }

    /// Is its entry broken, and made again, when its page gets other rights? A group of arm64's is.
    fn is_broken(&self, paging: AnyPaging) -> bool {
        matches!(paging, AnyPaging::Aarch64(_)) && self.size.group() > 1
    }

    fn finish(mut self) {
        self.space.exit(&mut self.task).unwrap();
    }
}

/// Calls `test` with each size of some formats, which differ in what they ask for.
fn each_size(test: impl Fn(World, AnyPaging)) {
    let formats: [AnyPaging; 4] = [
        X86_64::FOUR_LEVELS.into(),
        Aarch64::new(Granule::K4, 48).unwrap().into(),
        Riscv64::new(Sv::Sv48).with_svnapot().into(),
        Riscv64::new(Sv::Sv39).with_svvptc().into(),
    ];
    for paging in formats {
        for &size in paging.leaves() {
            test(World::new(paging, size), paging);
        }
    }
}

#[test]
fn an_entry_that_becomes_valid_is_told() {
    each_size(|mut world, paging| {
        assert_eq!(world.fault(Access::Write), Fault::Fresh);
        world.was_told(paging.hooks().after_valid);
        world.finish();
    });
}

#[test]
fn a_processor_that_has_faulted_where_the_page_is_mapped_looks_again() {
    each_size(|mut world, paging| {
        world.fault(Access::Write);
        world.hugetlb.platform().take_told();
        // The access is noted already, and no lock is taken.
        for access in [Access::Read, Access::Write] {
            assert_eq!(world.fault(access), Fault::Present);
            world.was_told(paging.hooks().after_valid.max(paging.hooks().after_gain));
        }
        // It is not noted.
        let range = world.start..world.start.checked_add(world.size.bytes()).unwrap();
        assert_eq!(world.space.sample_accessed(&mut world.task, range), Ok(1));
        assert_eq!(world.fault(Access::Read), Fault::Present);
        world.was_told(paging.hooks().after_valid.max(paging.hooks().after_gain));
        world.finish();
    });
}

#[test]
fn rights_that_are_gained_are_told_and_those_that_are_lost_are_flushed() {
    each_size(|mut world, paging| {
        let hooks = paging.hooks();
        let (lost, gained) = if world.is_broken(paging) {
            (hooks.after_valid, hooks.after_valid)
        } else {
            (Barrier::Nothing, hooks.after_gain)
        };
        world.fault(Access::Write);
        world.hugetlb.platform().take_told();
        world.protect(Protection::READ);
        world.was_told(lost);
        world.protect(RW);
        world.was_told(gained);
        world.protect(Protection::empty());
        world.was_told(Barrier::Nothing);
        world.protect(RW);
        world.was_told(hooks.after_valid);
        world.finish();
    });
}

#[test]
fn fetches_find_what_was_stored_before_a_page_can_be_executed() {
    each_size(|mut world, paging| {
        world.fault(Access::Write);
        world.hugetlb.platform().take_told();
        for again in [false, true] {
            world.protect(READ_EXECUTE);
            let told = world.hugetlb.platform().take_told();
            let first = told.first().copied();
            assert_eq!(first == Some(Told::Execution), paging.hooks().instruction_cache, "{again} {told:?}");
            world.protect(RW);
            assert!(!world.hugetlb.platform().take_told().contains(&Told::Execution));
        }
        world.finish();
    });
}

#[test]
fn the_right_to_execute_is_told_where_it_is_all_that_is_gained() {
    each_size(|mut world, paging| {
        let hooks = paging.hooks();
        world.fault(Access::Write);
        world.protect(Protection::READ);
        world.hugetlb.platform().take_told();
        world.protect(READ_EXECUTE);
        let due = if world.is_broken(paging) { hooks.after_valid } else { hooks.after_gain };
        let told = Told::Stored(world.start, world.size, due);
        let mut expected = Vec::from_iter(hooks.instruction_cache.then_some(Told::Execution));
        expected.extend((due != Barrier::Nothing).then_some(told));
        assert_eq!(world.hugetlb.platform().take_told(), expected);
        world.finish();
    });
}
