//! Processors in user space on the tables of each format: they walk to pages of each size, and note what they have used by
//! themselves, or leave it to the fault.

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{Aarch64, AnyPaging, Entry, Granule, Leaf, Paging, Riscv64, Sv, X86_64};
use hugewalk::mm::{Advice, MapFlags, MapRequest};
use hugewalk::sync::Arc;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{Hugetlb, Task};
use hugewalk_host::{Cpu, HostConfig, Tracing};

type Host = hugewalk_host::Host<AnyPaging>;
type AddressSpace = hugewalk::AddressSpace<Host>;

const GIB: u64 = 1 << 30;

fn formats() -> Vec<AnyPaging> {
    let arm = |granule, bits| Aarch64::new(granule, bits).unwrap().with_memory_type(1).into();
    vec![
        X86_64::FOUR_LEVELS.into(),
        X86_64::FIVE_LEVELS.into(),
        arm(Granule::K4, 48),
        arm(Granule::K16, 48),
        arm(Granule::K64, 48),
        Aarch64::<12>::of(39).unwrap().into(),
        Riscv64::new(Sv::Sv39).into(),
        Riscv64::new(Sv::Sv48).with_svnapot().into(),
    ]
}

/// Calls `test` with each size of each format, up to 32 MiB, with processors of both kinds. (Larger pages take long to copy.)
fn each(test: impl Fn(&Arc<Hugetlb<Host>>, &mut Task<Host>, HugeSize, bool)) {
    for paging in formats() {
        for &size in paging.leaves().iter().filter(|size| size.bytes() < GIB / 2) {
            for notes_use in [true, false] {
                let config = HostConfig::new().paging(paging).notes_use(notes_use).tracing(Tracing::Count);
                let host = hugewalk_host::Host::new(&config.huge_bytes(GIB)).unwrap();
                let hugetlb = Hugetlb::new(host).unwrap();
                assert_eq!(hugetlb.resize_pool(size, 4), 4);
                let mut task = hugewalk_host::task(&hugetlb).unwrap();
                test(&hugetlb, &mut task, size, notes_use);
                task.rcu_barrier();
                let usage = hugetlb.platform().usage();
                assert_eq!((usage.tables, usage.huge(size)), (0, 4), "{paging:?} {size:?}");
            }
        }
    }
}

/// Maps pages from the start of a table on.
fn map(space: &AddressSpace, task: &mut Task<Host>, size: HugeSize, length: u64, shared: bool) -> VirtAddr {
    let table = space.mm().paging().geometry().table_bytes(size.level());
    let request = MapRequest::anonymous(size, length).at(VirtAddr::new(table));
    let request = request.with(MapFlags::NORESERVE);
    space.mmap(task, &if shared { request.shared() } else { request }).unwrap()
}

fn leaf(space: &AddressSpace, task: &Task<Host>, address: VirtAddr, size: HugeSize) -> Leaf {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, space.mm(), address, size).unwrap().unwrap();
    match slot.lock().unwrap().read() {
        Entry::Leaf(leaf) => leaf,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_processor_uses_is_noted_by_it_or_by_the_fault() {
    each(|hugetlb, task, size, notes_use| {
        let space = AddressSpace::new(hugetlb).unwrap();
        let start = map(&space, task, size, 2 * size.bytes(), true);
        let last = VirtAddr::new(start.as_u64() + size.bytes() - 8);
        let mut cpu = Cpu::new(&space).unwrap();
        assert_eq!(cpu.load_u64(task, start), Ok(0));
        assert_eq!(cpu.stats().faults, 1);
        let first = leaf(&space, task, start, size);
        assert!(first.is_accessed() && !first.is_dirty());
        // The page may be written, and was not.
        cpu.store_u64(task, last, 7).unwrap();
        let noted_by_fault = u64::from(!notes_use);
        assert_eq!(cpu.stats().faults, 1 + noted_by_fault);
        assert!(leaf(&space, task, start, size).is_dirty());
        // Made old, it is used again.
        let all = start..VirtAddr::new(start.as_u64() + size.bytes());
        assert_eq!(space.sample_accessed(task, all.clone()), Ok(1));
        assert_eq!(space.sample_accessed(task, all.clone()), Ok(0));
        // By a processor that remembers no translation: nobody flushes for that.
        let mut other = Cpu::new(&space).unwrap();
        assert_eq!(other.load_u64(task, last), Ok(7));
        assert_eq!(other.stats().faults, noted_by_fault);
        assert_eq!(space.sample_accessed(task, all), Ok(1));
        let after = leaf(&space, task, start, size);
        assert_eq!((after.frame, after.is_dirty()), (first.frame, true));
        space.exit(task).unwrap();
    });
}

#[test]
fn processes_share_copy_and_give_up_pages_of_each_size() {
    each(|hugetlb, task, size, _| {
        let parent = AddressSpace::new(hugetlb).unwrap();
        let start = map(&parent, task, size, 2 * size.bytes(), false);
        let [near, far] = [8, size.bytes() - 8].map(|within| VirtAddr::new(start.as_u64() + within));
        let mut cpu = Cpu::new(&parent).unwrap();
        cpu.store_u64(task, near, 1).unwrap();
        cpu.store_u64(task, far, 2).unwrap();
        let child = parent.fork(task).unwrap();
        let mut other = Cpu::new(&child).unwrap();
        assert_eq!((other.load_u64(task, near), other.load_u64(task, far)), (Ok(1), Ok(2)));
        other.store_u64(task, far, 3).unwrap();
        assert_eq!((other.load_u64(task, near), other.load_u64(task, far)), (Ok(1), Ok(3)));
        assert_eq!(cpu.load_u64(task, far), Ok(2));
        parent.exit(task).unwrap();
        cpu.store_u64(task, near, 9).unwrap_err();
        assert_eq!(other.load_u64(task, near), Ok(1));
        child.exit(task).unwrap();
    });
}

/// Where tables are shared, another process finds the pages without a fault of each, and a hole is a hole for both.
#[test]
fn tables_are_shared_where_the_format_says_so_and_given_up_again() {
    each(|hugetlb, task, size, notes_use| {
        let table = hugetlb.paging().geometry().table_bytes(size.level());
        let parent = AddressSpace::new(hugetlb).unwrap();
        let start = map(&parent, task, size, table, true);
        let next = VirtAddr::new(start.as_u64() + size.bytes());
        let mut cpu = Cpu::new(&parent).unwrap();
        cpu.store_u64(task, start, 5).unwrap();
        cpu.store_u64(task, next, 6).unwrap();
        let child = parent.fork(task).unwrap();
        let mut other = Cpu::new(&child).unwrap();
        assert_eq!((other.load_u64(task, start), other.load_u64(task, next)), (Ok(5), Ok(6)));
        let counts = hugetlb.platform().event_counts();
        assert_eq!(counts.shared, u64::from(size.shares_tables()), "{size:?}");
        // The first load takes the table up. Without one, each page is a fault.
        assert_eq!(other.stats().faults, if size.shares_tables() { 1 } else { 2 }, "{notes_use}");
        child.madvise(task, start, size.bytes(), Advice::DontNeed).unwrap();
        assert_eq!(hugetlb.platform().event_counts().unshared, counts.shared);
        assert_eq!((cpu.load_u64(task, start), other.load_u64(task, start)), (Ok(5), Ok(5)));
        parent.exit(task).unwrap();
        assert_eq!(other.load_u64(task, next), Ok(6));
        child.exit(task).unwrap();
    });
}
