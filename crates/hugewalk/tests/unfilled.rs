//! Nobody comes to a page before it has its contents: neither from an entry nor from the file, and whoever has its frame is
//! told that it is on its way.

mod common;

use common::interrupt::{At, before_next, is_pending};
use common::{AddressSpace, File, Hugetlb, M2, SMALL, Task, map, system};
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::Entry;
use hugewalk::fault::Access;
use hugewalk::mm::MapFlags;
use hugewalk::rmap::PageError;
use hugewalk::sync::Arc;
use hugewalk::uffd::{CopyMode, Features, Modes, Userfault};
use hugewalk::walk::huge_pte_offset;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

const ADDRESS: VirtAddr = VirtAddr::new(1 << 32);
const PRIVATE: MapFlags = MapFlags::empty();

/// A pool of one page, and a process that maps a file and has not touched it.
struct World {
    hugetlb: Arc<Hugetlb>,
    task: Task,
    file: Arc<File>,
    space: Arc<AddressSpace>,
    /// The one page that there is.
    frame: HugeFrame,
}

impl World {
    fn new(flags: MapFlags) -> Self {
        let (hugetlb, mut task) = system(1);
        let file = File::new(&hugetlb, SMALL, None).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        map(&space, &mut task, &file, 0, ADDRESS.as_u64(), M2, flags).unwrap();
        space.fault(&mut task, ADDRESS, Access::Write).unwrap();
        let Entry::Leaf(leaf) = entry(&space, &task) else { panic!("it was touched") };
        file.punch_hole(&mut task, 0, M2).unwrap();
        assert_eq!((hugetlb.pool(SMALL).counters().free, entry(&space, &task)), (1, Entry::None));
        Self { hugetlb, task, file, space, frame: leaf.frame }
    }

    /// A handle on the faults of the process.
    fn handler(&mut self) -> Userfault<common::Bench> {
        let uffd = Userfault::new(&self.space, Features::empty()).unwrap();
        uffd.register(&mut self.task, ADDRESS, M2, Modes::MISSING).unwrap();
        uffd
    }

    /// Looks for the page while `work` fills it, the first time.
    fn look_while(mut self, what: &str, work: impl FnOnce(&mut Self)) {
        let (hugetlb, file, space, frame) =
            (self.hugetlb.clone(), self.file.clone(), self.space.clone(), self.frame);
        before_next(At::Fill, move || {
            let mut task = common::task(&hugetlb);
            assert_eq!(entry(&space, &task), Entry::None);
            assert_eq!(file.pages(), 0);
            assert_eq!(hugetlb.memory_failure(&mut task, frame), Err(PageError::OnItsWay));
            assert_eq!(hugetlb.unmap_page(&mut task, frame), Err(PageError::OnItsWay));
            assert_eq!(hugetlb.migrate(&mut task, frame), Err(PageError::OnItsWay));
            assert_eq!(hugetlb.soft_offline(&mut task, frame), Err(PageError::OnItsWay));
        });
        work(&mut self);
        assert!(!is_pending(), "{what} fills no page");
        assert_eq!(self.hugetlb.pool(SMALL).counters().free, 0, "{what} has made use of the page");
    }
}

/// What a walker finds.
fn entry(space: &AddressSpace, task: &Task) -> Entry {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, space.mm(), ADDRESS, SMALL).unwrap();
    slot.map_or(Entry::None, |slot| slot.read().unwrap())
}

#[test]
fn a_page_that_a_fault_brings_is_nobodys_before_it_is_zeroed() {
    for flags in [MapFlags::SHARED, PRIVATE] {
        World::new(flags).look_while("a fault", |world| {
            world.space.fault(&mut world.task, ADDRESS, Access::Write).unwrap();
        });
    }
}

#[test]
fn a_page_that_a_call_puts_into_a_file_is_nobodys_before_it_is_zeroed() {
    World::new(MapFlags::SHARED).look_while("fallocate", |world| {
        world.file.allocate(&mut world.task, 0, M2, false).unwrap();
    });
    World::new(MapFlags::SHARED).look_while("a write", |world| {
        world.file.write_at(&mut world.task, 5, b"bytes").unwrap();
    });
}

#[test]
fn a_page_that_a_handler_brings_is_nobodys_before_it_has_the_handlers_bytes() {
    for flags in [MapFlags::SHARED, PRIVATE] {
        World::new(flags).look_while("a handler's page", |world| {
            let uffd = world.handler();
            uffd.copy(&mut world.task, ADDRESS, &vec![7; M2 as usize], CopyMode::empty()).unwrap();
        });
    }
}
