//! Dropping a value never sleeps, takes no lock that sleeps, and does not fail, wherever it is done. Here whoever would
//! wait panics, and a lock that the thread holds already panics too.

mod common;

use std::mem;
use std::sync::Arc as StdArc;

use common::{Bench, M2, SMALL, at, heap, inject};
use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gup::{GupFlags, PinnedPage};
use hugewalk::mm::{Advice, MapFlags, MapRequest, Mm};
use hugewalk::reserve::SubPool;
use hugewalk::sync::Arc;
use hugewalk::uffd::{Features, Modes, Userfault};
use hugewalk::vma::Vma;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

type Machine = StdArc<Bench>;

const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE);

/// Two processes that share the table of a file's gigabyte, of which one page is there.
struct World {
    machine: Machine,
    hugetlb: Arc<Hugetlb<Machine>>,
    task: Task<Machine>,
    file: Arc<HugeFile<Machine>>,
    spaces: [Arc<AddressSpace<Machine>>; 2],
}

fn task_of(hugetlb: &Arc<Hugetlb<Machine>>) -> Task<Machine> {
    // SAFETY: this thread has no other task of the system.
    unsafe { Task::new(hugetlb) }.unwrap()
}

fn map(space: &AddressSpace<Machine>, task: &mut Task<Machine>, file: &Arc<HugeFile<Machine>>, pages: u64) {
    space
        .mmap(task, &MapRequest::file(file, 0, pages * M2).shared().with(MapFlags::NORESERVE).at(START))
        .unwrap();
    space.fault(task, START, Access::Write).unwrap();
}

impl World {
    fn new() -> Self {
        let machine = StdArc::new(Bench::new());
        let hugetlb = Hugetlb::new(machine.clone()).unwrap();
        assert_eq!(hugetlb.resize_pool(SMALL, 8), 8);
        let mut task = task_of(&hugetlb);
        let file = HugeFile::new(&hugetlb, SMALL, None).unwrap();
        let spaces = [(); 2].map(|()| {
            let space = AddressSpace::new(&hugetlb).unwrap();
            map(&space, &mut task, &file, 512);
            space
        });
        assert_eq!(spaces[1].tables(&mut task).unwrap()[0].users, 2);
        Self { machine, hugetlb, task, file, spaces }
    }

    /// Tables and huge pages in use, the pool's among them.
    fn in_use(&self) -> (usize, usize) {
        in_use(&self.machine)
    }
}

fn in_use(machine: &Bench) -> (usize, usize) {
    (machine.tables_in_use(), machine.huge_in_use(SMALL))
}

/// The roots, two tables below them, and one table that both share.
const SHARED: usize = 5;

#[test]
fn a_process_may_be_dropped_while_a_table_that_it_shares_is_locked() {
    let World { machine, hugetlb, mut task, file, spaces: [first, second] } = World::new();
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, first.mm(), START, SMALL).unwrap().unwrap();
    let locked = slot.lock().unwrap();
    drop(second);
    assert_eq!(in_use(&machine), (SHARED, 8), "nothing is unmapped under a table lock");
    drop(locked);
    drop(section);
    // The next operation, of whatever it is.
    file.truncate(&mut task, 512 * M2).unwrap();
    assert_eq!(first.tables(&mut task).unwrap()[0].users, 1);
    task.rcu_barrier();
    assert_eq!(in_use(&machine), (3, 8));
    drop((first, file, task, hugetlb));
    assert_eq!(in_use(&machine), (0, 0));
}

#[test]
fn what_is_dropped_in_a_read_section_is_unmapped_after_it() {
    let mut world = World::new();
    let section = world.task.rcu_read_lock();
    drop(world.spaces);
    assert_eq!(in_use(&world.machine), (SHARED, 8));
    assert_eq!(world.hugetlb.pool(SMALL).counters().free, 7);
    drop(section);
    world.file.truncate(&mut world.task, 0).unwrap();
    assert_eq!(world.hugetlb.pool(SMALL).counters().free, 8);
    world.task.rcu_barrier();
    assert_eq!(in_use(&world.machine), (0, 8));
}

#[test]
fn what_is_busy_is_left_for_later_and_its_holder_does_not_wait_for_itself() {
    let World { machine, hugetlb, mut task, file, spaces: [first, second] } = World::new();
    let other = HugeFile::new(&hugetlb, SMALL, None).unwrap();
    let i_mmap = file.i_mmap_read(&mut task);
    drop(second);
    // All of these would take `i_mmap` in write to take the process down.
    let third = AddressSpace::new(&hugetlb).unwrap();
    map(&third, &mut task, &other, 1);
    third.exit(&mut task).unwrap();
    task.finish_drops();
    task.rcu_barrier();
    // A stable slot that `i_mmap` proves stays what it is.
    let vmas: Vec<_> = i_mmap.vmas(0..1).collect();
    assert_eq!(vmas.len(), 2);
    for vma in &vmas {
        let slot = huge_pte_offset(vma, vma.vma().mm(), START, SMALL).unwrap().unwrap();
        assert_eq!(slot.sharers(), 1);
    }
    drop(i_mmap);
    task.finish_drops();
    assert_eq!(first.tables(&mut task).unwrap()[0].users, 1);
    // Likewise a VMA lock: of a process that lives, found busy by nobody but truncation and its like.
    drop((first, third, file, other, task, hugetlb));
    assert_eq!(in_use(&machine), (0, 0));
}

#[test]
fn what_was_busy_in_the_middle_goes_with_the_next_attempt() {
    let World { machine, hugetlb, mut task, .. } = World::new();
    let space = AddressSpace::new(&hugetlb).unwrap();
    let files = [0, 1, 2].map(|page| {
        let (file, start) = (HugeFile::new(&hugetlb, SMALL, None).unwrap(), START.as_u64() + page * M2);
        space.mmap(&mut task, &MapRequest::file(&file, 0, M2).shared().at(VirtAddr::new(start))).unwrap();
        space.fault(&mut task, VirtAddr::new(start), Access::Write).unwrap();
        file
    });
    let i_mmap = files[1].i_mmap_read(&mut task);
    drop(space);
    task.finish_drops();
    let mapped = |task: &mut Task<Machine>, file: usize| files[file].i_mmap_read(task).vmas(0..1).count();
    assert_eq!([mapped(&mut task, 0), i_mmap.vmas(0..1).count(), mapped(&mut task, 2)], [0, 1, 1]);
    drop(i_mmap);
    task.finish_drops();
    assert_eq!([0, 1, 2].map(|file| mapped(&mut task, file)), [0; 3]);
    drop((files, task, hugetlb));
    assert_eq!(in_use(&machine), (0, 0));
}

/// A guard of `i_mmap` keeps no borrow of the task, and only of the file.
#[test]
fn the_end_waits_for_a_guard_that_outlives_every_task() {
    for writes in [false, true] {
        let World { machine, hugetlb, mut task, file, spaces } = World::new();
        let (read, write) = if writes {
            (None, Some(file.i_mmap_write(&mut task)))
        } else {
            (Some(file.i_mmap_read(&mut task)), None)
        };
        drop((spaces, task, hugetlb));
        assert_eq!(in_use(&machine), (SHARED, 8));
        drop((read, write));
        // The guard had the last handle. The file keeps the system's memory and its page, and nothing is mapped.
        assert_eq!(in_use(&machine), (0, 8));
        drop(file);
        assert_eq!(in_use(&machine), (0, 0));
    }
}

#[test]
fn nothing_is_left_when_every_allocation_fails_from_now_on() {
    for in_section in [false, true] {
        let before = heap::live();
        let world = World::new();
        let uffd = Userfault::new(&world.spaces[0], Features::empty()).unwrap();
        let World { machine, hugetlb, task, file, spaces } = world;
        inject::arm_for_good();
        inject::inside(|| {
            let section = in_section.then(|| task.rcu_read_lock());
            drop((spaces, uffd));
            drop(section);
            drop((file, task));
            drop(hugetlb);
        });
        assert!(!inject::has_failed(), "nothing was even asked for");
        inject::disarm();
        assert_eq!(in_use(&machine), (0, 0));
        drop(machine);
        assert_eq!(heap::live(), before, "memory leaked");
    }
}

/// What a small program does, up to the first thing that there is no memory for. All it has is dropped on the way out.
fn little_program(machine: &Machine) -> Result<(), &'static str> {
    let hugetlb = Hugetlb::new(machine.clone()).map_err(|_| "Hugetlb::new")?;
    hugetlb.resize_pool(SMALL, 8);
    // SAFETY: this thread has no other task of the system.
    let mut task = unsafe { Task::new(&hugetlb) }.map_err(|_| "Task::new")?;
    let parent = AddressSpace::new(&hugetlb).map_err(|_| "AddressSpace::new")?;
    let request = MapRequest::anonymous(SMALL, 4 * M2).shared().at(START);
    parent.mmap(&mut task, &request).map_err(|_| "mmap")?;
    parent.fault(&mut task, START, Access::Write).map_err(|_| "fault")?;
    let uffd = Userfault::new(&parent, Features::empty()).map_err(|_| "Userfault::new")?;
    uffd.register(&mut task, START, M2, Modes::WP).map_err(|_| "register")?;
    let child = parent.fork(&mut task).map_err(|_| "fork")?;
    child.fault(&mut task, START, Access::Write).map_err(|_| "fault of the child")?;
    child.munmap(&mut task, START, 2 * M2).map_err(|_| "munmap")?;
    parent.madvise(&mut task, START, 2 * M2, Advice::Remove).map_err(|_| "madvise")?;
    Ok(())
}

#[test]
fn memory_that_runs_out_anywhere_once_or_for_good_leaves_nothing_behind() {
    for for_good in [false, true] {
        let mut failed = Vec::new();
        for allowed in 0.. {
            let before = heap::live();
            let machine = StdArc::new(Bench::new());
            if for_good {
                inject::arm_for_good_after(allowed);
            } else {
                inject::arm(allowed);
            }
            let ended = inject::inside(|| little_program(&machine));
            let has_failed = inject::has_failed();
            inject::disarm();
            assert_eq!(in_use(&machine), (0, 0), "allocation {allowed}, for good: {for_good}, {ended:?}");
            drop(machine);
            assert_eq!(heap::live(), before, "memory leaked: {allowed}, for good: {for_good}, {ended:?}");
            match ended {
                Err(what) => failed.push(what),
                Ok(()) if !has_failed => break,
                // It did without, or tried again.
                Ok(()) => {}
            }
        }
        failed.dedup();
        for what in ["Hugetlb::new", "Task::new", "AddressSpace::new", "mmap", "fault", "fork"] {
            assert!(failed.contains(&what), "no allocation of {what} has failed: {failed:?}");
        }
    }
}

/// All that somebody can have of a system.
struct Things {
    machine: Machine,
    list: Vec<Box<dyn std::any::Any>>,
}

fn things() -> Things {
    let machine = StdArc::new(Bench::new());
    let hugetlb = Hugetlb::new(machine.clone()).unwrap();
    assert_eq!(hugetlb.resize_pool(SMALL, 16), 16);
    let mut task = task_of(&hugetlb);
    let mount = SubPool::new(&hugetlb, SMALL, Some(8), Some(2)).unwrap();
    let file = HugeFile::new(&hugetlb, SMALL, Some(&mount)).unwrap();
    let parent = AddressSpace::new(&hugetlb).unwrap();
    map(&parent, &mut task, &file, 512);
    let private = VirtAddr::new(8 * PUD_SIZE);
    parent.mmap(&mut task, &MapRequest::anonymous(SMALL, 2 * M2).at(private)).unwrap();
    parent.fault(&mut task, private, Access::Write).unwrap();
    let child = parent.fork(&mut task).unwrap();
    child.fault(&mut task, START, Access::Read).unwrap();
    let pin: PinnedPage<Machine> =
        child.pin_page_fast(&task, private, GupFlags::empty()).unwrap().into_owned();
    let uffd = Userfault::new(&parent, Features::empty()).unwrap();
    uffd.register(&mut task, private, M2, Modes::WP).unwrap();
    let vma: Arc<Vma<Machine>> = parent.mmap_read(&mut task).find(START).unwrap().clone();
    let mm: Arc<Mm<Machine>> = child.mm().clone();
    let list: Vec<Box<dyn std::any::Any>> = vec![
        Box::new(hugetlb),
        Box::new(task),
        Box::new((file, mount)),
        Box::new(parent),
        Box::new((child, pin)),
        Box::new((mm, vma, uffd)),
    ];
    Things { machine, list }
}

/// Calls `visit` with each order of so many things (Heap's way).
fn each_order(order: &mut [usize], count: usize, visit: &mut dyn FnMut(&[usize])) {
    if count <= 1 {
        return visit(order);
    }
    for at in 0..count {
        each_order(order, count - 1, visit);
        order.swap(if count.is_multiple_of(2) { at } else { 0 }, count - 1);
    }
}

#[test]
fn handles_may_be_dropped_in_any_order() {
    let count = things().list.len();
    let mut orders = 0;
    let mut order: Vec<_> = (0..count).collect();
    each_order(&mut order, count, &mut |order| {
        orders += 1;
        let before = heap::live();
        let Things { machine, list } = things();
        let mut list: Vec<_> = list.into_iter().map(Some).collect();
        for &at in order {
            drop(list[at].take());
        }
        assert_eq!(in_use(&machine), (0, 0), "{order:?}");
        drop((machine, list));
        assert_eq!(heap::live(), before, "memory leaked: {order:?}");
    });
    assert_eq!(orders, 720);
}

#[test]
fn a_guard_that_is_forgotten_leaks_or_blocks_and_nothing_worse() {
    // A section: nothing is freed while its task is there.
    let mut world = World::new();
    mem::forget(world.task.rcu_read_lock());
    let tables = world.in_use().0;
    for space in &world.spaces {
        space.exit(&mut world.task).unwrap();
    }
    assert_eq!(world.in_use().0, tables, "the section is still open");
    let World { machine, hugetlb, task, file, spaces } = world;
    drop((file, spaces, task, hugetlb));
    assert_eq!(in_use(&machine), (0, 0));

    // The lock of a VMA or a file, or the mmap lock: what it guards is never taken down.
    for which in 0..3 {
        let World { machine, hugetlb, mut task, file, spaces: [first, second] } = World::new();
        match which {
            0 => mem::forget(file.i_mmap_read(&mut task)),
            1 => mem::forget(second.mmap_read(&mut task)),
            _ => {
                let mmap = second.mmap_read(&mut task);
                mem::forget(mmap.lock_vma(mmap.find(START).unwrap(), &mut task));
            }
        }
        drop(second);
        task.finish_drops();
        assert_eq!(first.tables(&mut task).unwrap()[0].users, 2);
        let slot_is_alive = {
            let section = task.rcu_read_lock();
            huge_pte_offset(&section, first.mm(), START, SMALL).unwrap().unwrap().read().is_ok()
        };
        assert!(slot_is_alive);
        drop((first, file, task, hugetlb));
        // Leaked, with the system.
        assert!(in_use(&machine).0 > 0, "{which}");
    }
}

#[test]
fn a_gigabyte_page_goes_the_same_way() {
    let machine = StdArc::new(Bench::new());
    let hugetlb = Hugetlb::new(machine.clone()).unwrap();
    assert_eq!(hugetlb.resize_pool(X86_64::SIZE_1G, 1), 1);
    let mut task = task_of(&hugetlb);
    let space = AddressSpace::new(&hugetlb).unwrap();
    space.mmap(&mut task, &MapRequest::anonymous(X86_64::SIZE_1G, PUD_SIZE).at(at(PUD_SIZE))).unwrap();
    space.fault(&mut task, at(PUD_SIZE), Access::Write).unwrap();
    drop(space);
    assert_eq!(hugetlb.pool(X86_64::SIZE_1G).counters().free, 0);
    drop((task, hugetlb));
    assert_eq!((machine.tables_in_use(), machine.huge_in_use(X86_64::SIZE_1G)), (0, 0));
}

#[test]
fn a_file_is_told_to_be_gone_once_and_with_its_last_mapping() {
    let World { machine, hugetlb, mut task, file, spaces: [first, second] } = World::new();
    let (id, pages) = (file.id(), 512 * M2);
    drop(file);
    first.munmap(&mut task, START, pages).unwrap();
    assert_eq!(machine.freed_files(), []);
    second.munmap(&mut task, START, pages).unwrap();
    assert_eq!(machine.freed_files(), [id]);
    drop((first, second, task, hugetlb));
    assert_eq!(machine.freed_files(), [id]);
}
