//! A system made of a handle to a platform: `&'static P`, and both kinds of `Arc`.

use std::sync::{Arc, LazyLock};

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
use hugewalk::fault::{Access, Fault};
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::platform::Platform;
use hugewalk::rmap::PageError;
use hugewalk::vma::Protection;
use hugewalk::walk::{Unshared, huge_pte_offset};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Host, HostConfig, KnowsThreads, TaskError};

fn host() -> Host {
    Host::new(&HostConfig::new().huge_bytes(PUD_SIZE)).unwrap()
}

/// A task for another thread of the story, which this one plays.
fn another<P: Platform>(hugetlb: &hugewalk::sync::Arc<Hugetlb<P>>) -> Task<P> {
    // SAFETY: the platforms below use the engine's own RCU, which knows readers and not threads; none of them waits here.
    unsafe { Task::new(hugetlb) }.unwrap()
}

/// Shares a table, copies a page, moves one, unshares under a walk.
fn use_all_of_it<P: Platform<Rcu: KnowsThreads>>(platform: P) {
    let hugetlb = Hugetlb::new(platform).unwrap();
    assert_eq!(hugetlb.resize_pool(X86_64::SIZE_2M, 512), 512);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    assert_eq!(hugewalk_host::task(&hugetlb).err(), Some(TaskError::HasOne));
    let parent = AddressSpace::new(&hugetlb).unwrap();
    let map = |flags, gigabyte, task: &mut Task<P>| {
        let request = MapRequest {
            placement: Placement::Fixed(VirtAddr::new(gigabyte * PUD_SIZE)),
            length: PUD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: flags | MapFlags::NORESERVE,
            backing: Backing::Anonymous(X86_64::SIZE_2M),
        };
        parent.mmap(task, &request).unwrap()
    };
    let shared = map(MapFlags::SHARED, 4, &mut task);
    let private = map(MapFlags::empty(), 8, &mut task);
    for at in [shared, private] {
        assert_eq!(parent.fault(&mut task, at, Access::Write), Ok(Fault::Fresh));
    }
    parent.write_bytes(&mut task, shared, b"seen through a handle").unwrap();

    let child = parent.fork(&mut task).unwrap();
    assert_eq!(child.fault(&mut task, shared, Access::Read), Ok(Fault::Present));
    assert_eq!(child.fault(&mut task, private, Access::Write), Ok(Fault::Copied));
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, child.mm(), shared, X86_64::SIZE_2M).unwrap().unwrap();
    let Entry::Leaf(leaf) = slot.read().unwrap() else { panic!("no leaf") };
    drop(section);
    hugetlb.migrate(&mut task, leaf.frame).unwrap();
    // Whoever moves a page unshares its table.
    for space in [&parent, &child] {
        space.fault(&mut task, shared, Access::Read).unwrap();
    }
    let mut bytes = [0; 21];
    child.read_bytes(&mut task, shared, &mut bytes).unwrap();
    assert_eq!(&bytes, b"seen through a handle");

    let walker = another(&hugetlb);
    let section = walker.rcu_read_lock();
    let slot = huge_pte_offset(&section, child.mm(), shared, X86_64::SIZE_2M).unwrap().unwrap();
    child.madvise(&mut task, shared, PUD_SIZE, Advice::DontNeed).unwrap();
    assert_eq!(slot.read(), Err(Unshared));
    drop(section);
    child.exit(&mut task).unwrap();
    parent.exit(&mut task).unwrap();
}

#[track_caller]
fn assert_nothing_left(host: &Host) {
    let usage = host.usage();
    assert_eq!((usage.tables, usage.all_huge()), (0, 0));
}

#[test]
fn a_system_is_made_of_a_platform_in_a_static() {
    static MACHINE: LazyLock<Host> = LazyLock::new(host);
    use_all_of_it(&*MACHINE);
    assert_nothing_left(&MACHINE);
}

#[test]
fn a_system_is_made_of_a_reference_to_a_static() {
    let host: &'static Host = Box::leak(Box::new(host()));
    use_all_of_it(host);
    assert_nothing_left(host);
    // And another, when the first is gone.
    use_all_of_it(host);
    assert_nothing_left(host);
}

#[test]
fn a_system_is_made_of_an_arc_that_outlives_it() {
    let host = Arc::new(host());
    use_all_of_it(host.clone());
    assert_nothing_left(&host);
    assert_eq!(Arc::strong_count(&host), 1);
}

#[test]
fn a_system_is_made_of_the_engines_own_arc() {
    let host = hugewalk::sync::Arc::try_new(host()).unwrap();
    use_all_of_it(host.clone());
    assert_nothing_left(&host);
    // A handle to a handle is one as well.
    use_all_of_it(Arc::new(host.clone()));
    assert_nothing_left(&host);
}

/// Each takes pages from the host, which hands each page to one of them; and neither acts on a page of the other's.
#[test]
fn two_systems_on_one_platform_leave_each_others_pages_alone() {
    let host: &'static Host = Box::leak(Box::new(host()));
    let systems = [(), ()].map(|()| Hugetlb::new(host).unwrap());
    for system in &systems {
        assert_eq!(system.resize_pool(X86_64::SIZE_2M, 16), 16);
    }
    let mut task = hugewalk_host::task(&systems[0]).unwrap();
    let space = AddressSpace::new(&systems[0]).unwrap();
    let request = MapRequest::anonymous(X86_64::SIZE_2M, 8 << 21).shared();
    let start = space.mmap(&mut task, &request).unwrap();
    space.write_bytes(&mut task, start, b"the first system's").unwrap();
    let page = space.pin_page_fast(&task, start, GupFlags::empty()).unwrap();
    let frame = page.frame();
    drop((page, task));

    let other = &systems[1];
    let mut theirs = hugewalk_host::task(other).unwrap();
    let task = &mut theirs;
    let unknown = PageError::NoHugePage { frame };
    assert_eq!(other.migrate(task, frame), Err(unknown));
    assert_eq!(other.soft_offline(task, frame), Err(unknown));
    assert_eq!(other.memory_failure(task, frame).err(), Some(unknown));
    assert_eq!(other.unmap_page(task, frame), Err(unknown));
    assert_eq!(other.referenced(task, frame), Err(unknown));
    assert_eq!(other.unpoison(frame), Err(unknown));

    let mut bytes = [0; 18];
    drop(theirs);
    let mut task = hugewalk_host::task(&systems[0]).unwrap();
    space.read_bytes(&mut task, start, &mut bytes).unwrap();
    assert_eq!(&bytes, b"the first system's");
    systems[0].migrate(&mut task, frame).unwrap();
    space.exit(&mut task).unwrap();
    drop((space, task, systems));
    assert_nothing_left(host);
}
