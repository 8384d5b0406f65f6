//! What another processor can do between a changed entry and the TLB flush that follows, or between a look at an entry and
//! the use of what it said, forced to happen there.

mod common;

use common::interrupt::{At, before_next, before_next_flush, is_pending};
use common::{AddressSpace, Bench, File, GIB, Hugetlb, M2, SMALL, Task, at, map, system};
use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Aarch64, Entry, Granule, Paging as _, X86_64};
use hugewalk::error::BadSource;
use hugewalk::fault::{Access, Fault};
use hugewalk::file::HugeFile;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapFlags, MapRequest};
use hugewalk::pool::PoolCounters;
use hugewalk::rmap::PageError;
use hugewalk::source::{Room, Source};
use hugewalk::sync::Arc;
use hugewalk::uffd::{CopyMode, Features, Message, Modes, Userfault};
use hugewalk::walk::huge_pte_offset;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

const ADDRESS: VirtAddr = VirtAddr::new(1 << 32);

/// A process with a private page, and its child, which has it too.
fn family() -> (Task, Arc<File>, Arc<AddressSpace>, Arc<AddressSpace>) {
    let (hugetlb, mut task) = system(4);
    let file = File::new(&hugetlb, SMALL, None).unwrap();
    let parent = AddressSpace::new(&hugetlb).unwrap();
    map(&parent, &mut task, &file, 0, ADDRESS.as_u64(), M2, MapFlags::NORESERVE).unwrap();
    assert_eq!(parent.fault(&mut task, ADDRESS, Access::Write), Ok(Fault::Fresh));
    let child = parent.fork(&mut task).unwrap();
    (task, file, parent, child)
}

/// What a processor finds.
fn entry(space: &AddressSpace, task: &Task) -> Entry {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, space.mm(), ADDRESS, SMALL).unwrap().unwrap();
    slot.read().unwrap()
}

#[test]
fn nobody_takes_a_page_for_its_own_that_another_process_can_still_read() {
    let (mut task, _, parent, child) = family();
    let (hugetlb, writer) = (task.hugetlb().clone(), parent.clone());
    before_next_flush(move || {
        let mut task = common::task(&hugetlb);
        // The child's entry is gone, and its processors may have the page in their TLBs all the same.
        assert_eq!(writer.fault(&mut task, ADDRESS, Access::Write), Ok(Fault::Copied));
    });
    child.madvise(&mut task, ADDRESS, M2, Advice::DontNeed).unwrap();
    assert!(!is_pending());
}

#[test]
fn a_handler_hears_of_an_unmap_once_it_has_happened() {
    let (mut task, _, space, child) = family();
    child.exit(&mut task).unwrap();
    let uffd = Userfault::new(&space, Features::EVENT_UNMAP).unwrap();
    uffd.register(&mut task, ADDRESS, M2, Modes::MISSING).unwrap();
    before_next_flush(move || {
        assert!(!uffd.poll() && uffd.try_read_event().is_none());
        // Nobody would read what it waits for.
        drop(uffd);
    });
    space.munmap(&mut task, ADDRESS, M2).unwrap();
    assert!(!is_pending());
}

/// Drops the two pages of a mapping. Before its handler reads of that, something takes its place, whose page at `kept` is touched. It is
/// there afterwards.
fn drops_what_is_left(kept: VirtAddr, replace: fn(&AddressSpace, &mut Task)) {
    let (hugetlb, mut task) = system(4);
    assert_eq!(hugetlb.resize_pool(X86_64::SIZE_1G, 1), 1);
    let file = File::new(&hugetlb, SMALL, None).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, 0, ADDRESS.as_u64(), 2 * M2, MapFlags::SHARED).unwrap();
    let uffd = Userfault::new(&space, Features::EVENT_REMOVE).unwrap();
    uffd.register(&mut task, ADDRESS, 2 * M2, Modes::MISSING).unwrap();
    let same = space.clone();
    before_next(At::HandlerCalled, move || {
        let mut task = common::task(&hugetlb);
        replace(&same, &mut task);
        assert_eq!(same.fault(&mut task, kept, Access::Write), Ok(Fault::Fresh));
        assert!(matches!(uffd.try_read_event(), Some(Message::Remove { .. })));
    });
    space.madvise(&mut task, ADDRESS, 2 * M2, Advice::DontNeed).unwrap();
    assert!(!is_pending());
    assert_eq!(space.fault(&mut task, kept, Access::Read), Ok(Fault::Present));
}

#[test]
fn pages_are_dropped_up_to_where_the_mapping_ends_once_its_handler_knows() {
    drops_what_is_left(at(ADDRESS.as_u64() + M2), |space, task| {
        let other = File::new(task.hugetlb(), SMALL, None).unwrap();
        map(space, task, &other, 0, ADDRESS.as_u64() + M2, M2, MapFlags::SHARED).unwrap();
    });
}

#[test]
fn a_page_that_is_larger_once_the_handler_knows_is_not_dropped_for_a_part_of_it() {
    drops_what_is_left(ADDRESS, |space, task| {
        space.munmap(task, ADDRESS, 2 * M2).unwrap();
        let other = File::new(task.hugetlb(), X86_64::SIZE_1G, None).unwrap();
        map(space, task, &other, 0, ADDRESS.as_u64(), GIB, MapFlags::SHARED).unwrap();
    });
}

/// A program's memory that is not there. While the first page of it is brought, something else is mapped where it will be copied to.
struct Absent<F: FnOnce(&mut Task)> {
    replace: Option<F>,
    /// How many bytes were asked for, each time.
    asked: Vec<u64>,
}

impl<F: FnOnce(&mut Task)> Source<Bench> for Absent<F> {
    fn copy(&mut self, offset: u64, room: &mut Room<'_, Bench>, task: &mut Task) -> Result<(), BadSource> {
        self.asked.push(room.left() as u64);
        if let Some(replace) = self.replace.take() {
            replace(task);
        }
        // What is in the page says what it was filled from.
        room.write(&vec![(offset >> 16) as u8 + 1; room.left()]);
        Ok(())
    }
}

#[test]
fn a_page_that_was_copied_for_a_mapping_is_not_used_for_one_of_pages_of_another_size() {
    let paging = Aarch64::new(Granule::K4, 48).unwrap();
    let sizes = [16, 21].map(|shift| paging.of_shift(shift).unwrap());
    for [before, after] in [sizes, [sizes[1], sizes[0]]] {
        let hugetlb = Hugetlb::new(Bench::with_paging(paging.into())).unwrap();
        let mut task = common::task(&hugetlb);
        // The source fills a page that is not reserved.
        for size in sizes {
            let pages = M2 / size.bytes() + 1;
            assert_eq!(hugetlb.resize_pool(size, pages), pages);
        }
        let [old, new] = [before, after].map(|size| File::new(&hugetlb, size, None).unwrap());
        let space = AddressSpace::new(&hugetlb).unwrap();
        let uffd = Userfault::new(&space, Features::empty()).unwrap();
        let map_registered = |file: &Arc<File>, task: &mut Task| {
            map(&space, task, file, 0, ADDRESS.as_u64(), M2, MapFlags::SHARED).unwrap();
            uffd.register(task, ADDRESS, M2, Modes::MISSING).unwrap();
        };
        map_registered(&old, &mut task);
        let replace = |task: &mut Task| map_registered(&new, task);
        let mut source = Absent { replace: Some(replace), asked: Vec::new() };
        uffd.copy_from(&mut task, ADDRESS, M2, &mut source, CopyMode::empty()).unwrap();
        let mut expected = vec![before.bytes()];
        expected.resize(1 + (M2 / after.bytes()) as usize, after.bytes());
        assert_eq!((source.asked, old.pages(), new.pages()), (expected, 0, M2 / after.bytes()));
        for page in 0..new.pages() {
            let address = at(ADDRESS.as_u64() + page * after.bytes());
            let pin = space.pin_page_fast(&task, address, GupFlags::empty()).unwrap();
            let value = ((page * after.bytes()) >> 16) as u8 + 1;
            assert_eq!(hugetlb.platform().byte(pin.frame(), after.bytes() - 1), value);
        }
    }
}

#[test]
fn nobody_reaches_a_copy_while_the_page_it_replaces_can_still_be_read() {
    let (mut task, _, _parent, child) = family();
    let Entry::Leaf(before) = entry(&child, &task) else { panic!("fork has copied the entry") };
    let (hugetlb, other) = (task.hugetlb().clone(), child.clone());
    before_next_flush(move || {
        let task = common::task(&hugetlb);
        let Entry::Leaf(now) = entry(&other, &task) else {
            panic!("who looks for mapped pages overlooks it")
        };
        assert!(!now.is_accessible());
        assert_eq!(now.frame, before.frame);
    });
    assert_eq!(child.fault(&mut task, ADDRESS, Access::Write), Ok(Fault::Copied));
    assert!(!is_pending());
    let Entry::Leaf(after) = entry(&child, &task) else { panic!("the copy is mapped") };
    assert!(after.is_writable() && after.frame != before.frame);
}

#[test]
fn a_child_is_visited_right_after_its_parent_while_fork_copies() {
    let (mut task, file, parent, child) = family();
    let mut family = vec![parent, child];
    for number in 0..90 {
        let parent = family[number / 2].clone();
        // A mapping that has moved is the last, and its copy comes behind it all the same.
        if number % 3 == 0 {
            let there = at((1 << 33) + (number as u64 + 1) * M2);
            let here = parent.mmap_read(&mut task).vmas().next().unwrap().start();
            parent.mremap(&mut task, here, M2, M2, hugewalk::mm::RemapTo::Fixed(there)).unwrap();
        }
        let child = parent.fork(&mut task).unwrap();
        let ids: Vec<_> = file.i_mmap_read(&mut task).vmas(0..1).map(|proof| proof.vma().mm().id()).collect();
        assert_eq!(ids.len(), family.len() + 1);
        let at = ids.iter().position(|&id| id == parent.mm().id()).unwrap();
        assert_eq!(ids[at + 1], child.mm().id());
        family.push(child);
    }
}

/// The counters of both pools, small pages first.
fn counters(hugetlb: &Hugetlb) -> [PoolCounters; 2] {
    [SMALL, X86_64::SIZE_1G].map(|size| hugetlb.pool(size).counters())
}

fn free_pages(pages: u64) -> PoolCounters {
    PoolCounters { total: pages, free: pages, ..PoolCounters::default() }
}

/// A walker reads an entry that maps a page of size `before`; by the time it takes its reference, the frame is a page of
/// size `after`, which its file lets go while the walker holds it. So the walker's reference is the last.
fn a_guess_outlives_the_page(before: HugeSize, after: HugeSize, flags: GupFlags) {
    let hugetlb = Hugetlb::new(Bench::with_one_memory()).unwrap();
    let mut task = common::task(&hugetlb);
    assert_eq!(hugetlb.resize_pool(before, 1), 1);
    let [old, new] = [before, after].map(|size| File::new(&hugetlb, size, None).unwrap());
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &old, 0, 4 * GIB, before.bytes(), MapFlags::SHARED).unwrap();
    space.fault(&mut task, at(4 * GIB), Access::Write).unwrap();

    let (other, file, system) = (space.clone(), new.clone(), hugetlb.clone());
    before_next(At::Record, move || {
        let mut task = common::task(&system);
        other.munmap(&mut task, at(4 * GIB), before.bytes()).unwrap();
        old.truncate(&mut task, 0).unwrap();
        assert_eq!(system.resize_pool(before, 0), 0);
        assert_eq!(system.resize_pool(after, 1), 1);
        file.allocate(&mut task, 0, after.bytes(), false).unwrap();
    });
    let system = hugetlb.clone();
    before_next(At::Record, move || {
        new.truncate(&mut common::task(&system), 0).unwrap();
        assert_eq!(system.pool(after).counters().free, 0, "the walker holds the page");
    });
    assert!(space.pin_page_fast(&task, at(4 * GIB), flags).is_none());
    assert!(!is_pending());

    let mut expected = [free_pages(0); 2];
    expected[usize::from(after == X86_64::SIZE_1G)] = free_pages(1);
    assert_eq!(counters(&hugetlb), expected);
}

/// The same, but by then the page is of another system on the same platform.
#[test]
fn a_page_that_went_to_another_system_meanwhile_goes_back_to_the_host() {
    let bench: &'static Bench = Box::leak(Box::new(Bench::new()));
    let [one, other] = [(), ()].map(|()| hugewalk::Hugetlb::new(bench).unwrap());
    // SAFETY: the thread's only task of this system.
    let mut task = unsafe { hugewalk::Task::new(&one) }.unwrap();
    assert_eq!(one.resize_pool(SMALL, 1), 1);
    let space = hugewalk::AddressSpace::new(&one).unwrap();
    let request = MapRequest::anonymous(SMALL, M2).shared().at(ADDRESS);
    space.mmap(&mut task, &request).unwrap();
    space.fault(&mut task, ADDRESS, Access::Write).unwrap();
    let file = HugeFile::new(&other, SMALL, None).unwrap();

    let (mapped, system, others, theirs) = (space.clone(), one.clone(), other.clone(), file.clone());
    before_next(At::Record, move || {
        // SAFETY: as if on another thread, which has no other.
        let mut task = unsafe { hugewalk::Task::new(&system) }.unwrap();
        mapped.munmap(&mut task, ADDRESS, M2).unwrap();
        assert_eq!(system.resize_pool(SMALL, 0), 0);
        assert_eq!(others.resize_pool(SMALL, 1), 1);
        // SAFETY: likewise.
        let mut task = unsafe { hugewalk::Task::new(&others) }.unwrap();
        theirs.allocate(&mut task, 0, M2, false).unwrap();
    });
    let others = other.clone();
    before_next(At::Record, move || {
        // SAFETY: likewise.
        file.truncate(&mut unsafe { hugewalk::Task::new(&others) }.unwrap(), 0).unwrap();
        assert_eq!(others.pool(SMALL).counters().free, 0, "the walker holds the page");
    });
    assert!(space.pin_page_fast(&task, ADDRESS, GupFlags::PIN).is_none());
    assert!(!is_pending());
    assert_eq!(one.pool(SMALL).counters(), free_pages(0));
    assert_eq!(bench.huge_in_use(SMALL), 0, "nobody has it, and nobody will");
    // Neither system takes it for its own.
    let named = other.unpoison(HugeFrame(1 << 32));
    assert_eq!(named, Err(PageError::NoHugePage { frame: HugeFrame(1 << 32) }));
}

/// The same, and the other system is of another type, made of another kind of handle to the platform. What its page keeps, a
/// mount or a file, is of types that only it knows: it takes its page back by itself.
fn a_guess_outlives_a_page_that_keeps_what_is_of_another_type(
    use_page: impl FnOnce(&OtherSystem) -> Unused + 'static,
) {
    let bench = std::sync::Arc::new(Bench::new());
    let handle: &'static std::sync::Arc<Bench> = Box::leak(Box::new(bench.clone()));
    let one: Arc<hugewalk::Hugetlb<&'static Bench>> = hugewalk::Hugetlb::new(&**handle).unwrap();
    let other: OtherSystem = hugewalk::Hugetlb::new(bench.clone()).unwrap();
    // SAFETY: the thread's only task of this system.
    let mut task = unsafe { hugewalk::Task::new(&one) }.unwrap();
    assert_eq!(one.resize_pool(SMALL, 1), 1);
    let space = hugewalk::AddressSpace::new(&one).unwrap();
    let request = MapRequest::anonymous(SMALL, M2).shared().at(ADDRESS);
    space.mmap(&mut task, &request).unwrap();
    space.fault(&mut task, ADDRESS, Access::Write).unwrap();

    let (mapped, system, others) = (space.clone(), one.clone(), other.clone());
    let in_use = std::rc::Rc::new(std::cell::RefCell::new(None));
    let unused = in_use.clone();
    before_next(At::Record, move || {
        // SAFETY: as if on another thread, which has no other.
        let mut task = unsafe { hugewalk::Task::new(&system) }.unwrap();
        mapped.munmap(&mut task, ADDRESS, M2).unwrap();
        assert_eq!(system.resize_pool(SMALL, 0), 0);
        assert_eq!(others.resize_pool(SMALL, 1), 1);
        *in_use.borrow_mut() = Some(use_page(&others));
    });
    let others = other.clone();
    before_next(At::Record, move || {
        unused.take().unwrap()();
        assert_eq!(others.pool(SMALL).counters().free, 0, "the walker holds the page");
    });
    assert!(space.pin_page_fast(&task, ADDRESS, GupFlags::PIN).is_none());
    assert!(!is_pending());
    assert_eq!(one.pool(SMALL).counters(), free_pages(0));
    assert_eq!(other.pool(SMALL).counters(), free_pages(1), "it is the other system's again");
    assert_eq!(Arc::strong_count(&other), 1);
    drop(other);
    assert_eq!(bench.huge_in_use(SMALL), 0);
}

type OtherSystem = Arc<hugewalk::Hugetlb<std::sync::Arc<Bench>>>;
/// Lets a page go that was put to use.
type Unused = Box<dyn FnOnce()>;

#[test]
fn a_page_of_a_mount_of_a_system_of_another_type_goes_back_to_that_system() {
    a_guess_outlives_a_page_that_keeps_what_is_of_another_type(|system| {
        let mount = hugewalk::reserve::SubPool::new(system, SMALL, Some(1), None).unwrap();
        let file = HugeFile::new(system, SMALL, Some(&mount)).unwrap();
        drop(mount);
        // SAFETY: as if on another thread, which has no other.
        let mut task = unsafe { hugewalk::Task::new(system) }.unwrap();
        file.allocate(&mut task, 0, M2, false).unwrap();
        // The page is the last that keeps the mount.
        Box::new(move || drop(file))
    });
}

#[test]
fn a_private_page_of_a_system_of_another_type_goes_back_to_that_system() {
    a_guess_outlives_a_page_that_keeps_what_is_of_another_type(|system| {
        let space = hugewalk::AddressSpace::new(system).unwrap();
        // SAFETY: as if on another thread, which has no other.
        let mut task = unsafe { hugewalk::Task::new(system) }.unwrap();
        space.mmap(&mut task, &MapRequest::anonymous(SMALL, M2).at(ADDRESS)).unwrap();
        assert_eq!(space.fault(&mut task, ADDRESS, Access::Write), Ok(Fault::Fresh));
        let system = system.clone();
        // The page is the last that keeps its file.
        // SAFETY: likewise.
        Box::new(move || space.exit(&mut unsafe { hugewalk::Task::new(&system) }.unwrap()).unwrap())
    });
}

#[test]
fn a_reference_taken_on_a_guess_is_given_back_to_the_pool_that_the_page_is_of_by_then() {
    for flags in [GupFlags::empty(), GupFlags::PIN] {
        a_guess_outlives_the_page(X86_64::SIZE_1G, SMALL, flags);
        a_guess_outlives_the_page(SMALL, X86_64::SIZE_1G, flags);
    }
}

#[test]
fn a_frame_never_stands_for_a_page_that_does_not_have_it() {
    let hugetlb = Hugetlb::new(Bench::with_one_memory()).unwrap();
    let mut task = common::task(&hugetlb);
    assert_eq!(hugetlb.resize_pool(X86_64::SIZE_1G, 1), 1);
    let file = File::new(&hugetlb, X86_64::SIZE_1G, None).unwrap();
    file.allocate(&mut task, 0, GIB, false).unwrap();
    let small = File::new(&hugetlb, SMALL, None).unwrap();
    let head = HugeFrame(1 << 32);

    // The second look at the record is for the reference; the frame's page has been taken to pieces by then.
    before_next(At::Record, || {});
    before_next(At::Record, || {});
    let (owner, system) = (small.clone(), hugetlb.clone());
    before_next(At::Record, move || {
        let mut task = common::task(&system);
        file.truncate(&mut task, 0).unwrap();
        assert_eq!(system.resize_pool(X86_64::SIZE_1G, 0), 0);
        assert_eq!(system.resize_pool(SMALL, 2), 2);
        owner.allocate(&mut task, 0, 2 * M2, false).unwrap();
    });
    let meant = HugeFrame(head.0 + 512);
    // The page that begins where the large one began is another one now.
    assert_eq!(hugetlb.migrate(&mut task, meant), Err(PageError::OnItsWay));
    assert!(!is_pending());
    assert_eq!(hugetlb.resize_pool(SMALL, 3), 3);
    let moved = hugetlb.migrate(&mut task, meant).unwrap();
    assert!(moved != head && moved != meant);
    assert_eq!(small.pages(), 2);
}
