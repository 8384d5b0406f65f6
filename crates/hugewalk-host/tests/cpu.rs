//! The soft CPU on the whole engine: what processes see of each other, and that no access reaches a page that is gone.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, LeafFlags, X86_64};
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::walk::leaf_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Cpu, Host, HostConfig, Tracing};

const MIB2: u64 = X86_64::SIZE_2M.bytes();
const GIB: u64 = X86_64::SIZE_1G.bytes();
const BASE: VirtAddr = VirtAddr::new(8 << 30);

fn system(config: &HostConfig) -> Arc<Hugetlb<Host>> {
    let hugetlb = Hugetlb::new(Host::new(config).unwrap()).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_2M, 256);
    hugetlb
}

fn small() -> HostConfig {
    HostConfig::new().huge_bytes(2 * GIB).max_tables(1000).tracing(Tracing::Count)
}

fn file_of(task: &mut Task<Host>, pages: u64) -> Arc<HugeFile<Host>> {
    let file = HugeFile::new(task.hugetlb(), X86_64::SIZE_2M, None).unwrap();
    file.truncate(task, pages * MIB2).unwrap();
    file
}

fn map(
    space: &AddressSpace<Host>,
    task: &mut Task<Host>,
    file: &Arc<HugeFile<Host>>,
    flags: MapFlags,
) -> Result<VirtAddr, hugewalk::mm::MapError> {
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: file.size(),
        protection: Protection::READ | Protection::WRITE,
        flags,
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request)
}

fn at(page: u64, offset: u64) -> VirtAddr {
    BASE.checked_add(page * MIB2 + offset).unwrap()
}

#[test]
fn a_store_faults_once_and_later_accesses_hit_the_tlb() {
    let hugetlb = system(&small());
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 4);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, MapFlags::SHARED).unwrap();
    let mut cpu = Cpu::new(&space).unwrap();
    cpu.store(&mut task, at(1, 77), 5).unwrap();
    assert_eq!(cpu.load(&mut task, at(1, 77)), Ok(5));
    assert_eq!(cpu.load(&mut task, at(1, 78)), Ok(0));
    cpu.store_u64(&mut task, at(1, 80), u64::MAX).unwrap();
    assert_eq!(cpu.load_u64(&mut task, at(1, 80)), Ok(u64::MAX));
    let stats = cpu.stats();
    assert_eq!((stats.faults, stats.misses, stats.hits), (1, 1, 4));
    let mut bytes = [0];
    assert_eq!(file.read_at(MIB2 + 77, &mut bytes), Ok(1));
    assert_eq!(bytes, [5]);
}

#[test]
fn bytes_are_copied_across_pages_up_to_the_first_fault() {
    let hugetlb = system(&small());
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 2);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, MapFlags::SHARED).unwrap();
    let mut cpu = Cpu::new(&space).unwrap();
    let text: Vec<u8> = (0..20_000).map(|n| (n % 251) as u8).collect();
    cpu.write_bytes(&mut task, at(0, MIB2 - 10_001), &text).unwrap();
    let mut back = vec![0; text.len()];
    cpu.read_bytes(&mut task, at(0, MIB2 - 10_001), &mut back).unwrap();
    assert_eq!(back, text);
    let error = cpu.write_bytes(&mut task, at(1, MIB2 - 3), &[7; 8]);
    assert_eq!(error, Err(FaultError::NotMapped { address: at(2, 0) }));
    cpu.read_bytes(&mut task, at(1, MIB2 - 3), &mut back[..3]).unwrap();
    assert_eq!(back[..3], [7; 3]);
}

#[test]
fn private_copies_are_apart_after_a_fork() {
    let hugetlb = system(&small());
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 2);
    let parent = AddressSpace::new(&hugetlb).unwrap();
    map(&parent, &mut task, &file, MapFlags::empty()).unwrap();
    let mut parent_cpu = Cpu::new(&parent).unwrap();
    parent_cpu.store(&mut task, at(0, 0), 1).unwrap();
    let child = parent.fork(&mut task).unwrap();
    let mut child_cpu = Cpu::new(&child).unwrap();
    // The translation that the parent's processor holds from before the fork must not serve this store.
    parent_cpu.store(&mut task, at(0, 0), 2).unwrap();
    assert_eq!(child_cpu.load(&mut task, at(0, 0)), Ok(1));
    child_cpu.store(&mut task, at(0, 0), 3).unwrap();
    assert_eq!(parent_cpu.load(&mut task, at(0, 0)), Ok(2));
}

#[test]
fn what_the_mapping_does_not_allow_is_an_error() {
    let hugetlb = system(&small());
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 2);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, MapFlags::SHARED).unwrap();
    let mut cpu = Cpu::new(&space).unwrap();
    cpu.store(&mut task, at(0, 0), 1).unwrap();
    space.mprotect(&mut task, BASE, 2 * MIB2, Protection::READ).unwrap();
    assert_eq!(cpu.store(&mut task, at(0, 0), 2), Err(FaultError::Protection { address: at(0, 0) }));
    assert_eq!(cpu.load(&mut task, at(0, 0)), Ok(1));
    let fetch = cpu.touch(&mut task, at(0, 0), Access::Execute);
    assert_eq!(fetch, Err(FaultError::Protection { address: at(0, 0) }));
    file.truncate(&mut task, MIB2).unwrap();
    assert_eq!(cpu.load(&mut task, at(1, 0)), Err(FaultError::BeyondEof { index: 1 }));
    space.munmap(&mut task, BASE, 2 * MIB2).unwrap();
    assert_eq!(cpu.load(&mut task, at(0, 0)), Err(FaultError::NotMapped { address: at(0, 0) }));
}

#[test]
fn pages_without_contents_fault_as_others_do() {
    let hugetlb = system(&small().contents(Contents::Nothing));
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 2);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, MapFlags::SHARED).unwrap();
    let mut cpu = Cpu::new(&space).unwrap();
    cpu.store(&mut task, at(1, 0), 9).unwrap();
    assert_eq!(cpu.load(&mut task, at(1, 0)), Ok(0));
    assert_eq!(file.pages(), 1);
}

#[test]
fn a_load_marks_a_page_accessed_and_the_first_store_marks_it_dirty() {
    let hugetlb = system(&small());
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 1);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, MapFlags::SHARED).unwrap();
    let mut cpu = Cpu::new(&space).unwrap();
    let flags = |task: &Task<Host>| {
        let section = task.rcu_read_lock();
        let (slot, size) = leaf_offset(&section, space.mm(), BASE).unwrap().unwrap();
        assert_eq!(size, X86_64::SIZE_2M);
        let Entry::Leaf(leaf) = slot.read().unwrap() else { panic!("no leaf") };
        leaf.flags & (LeafFlags::ACCESSED | LeafFlags::DIRTY)
    };
    cpu.load(&mut task, BASE).unwrap();
    assert_eq!(flags(&task), LeafFlags::ACCESSED);
    cpu.store(&mut task, BASE, 1).unwrap();
    assert_eq!(flags(&task), LeafFlags::ACCESSED | LeafFlags::DIRTY);
    // The page is there and writable: the store needed another walk, but no fault.
    assert_eq!(cpu.stats().faults, 1);
}

/// Processors fill parts of the pages of one private mapping while another thread throws the pages away and looks at what
/// becomes of them: MADV_DONTNEED gives each page back to the pool, where the next fault of anybody finds it. A store
/// through an old translation would land in a page of the other process, which holds zeroes only.
fn foreign_bytes(config: &HostConfig) -> usize {
    const PAGES: u64 = 4;
    let hugetlb = system(config);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_2M, 2 * PAGES);
    let file = file_of(&mut task, PAGES);
    let (writers, reader) = (AddressSpace::new(&hugetlb).unwrap(), AddressSpace::new(&hugetlb).unwrap());
    map(&writers, &mut task, &file, MapFlags::empty()).unwrap();
    map(&reader, &mut task, &file, MapFlags::empty()).unwrap();
    let done = AtomicBool::new(false);
    let start = Barrier::new(3);
    let mut foreign = 0;
    thread::scope(|scope| {
        for number in 1..=2_u8 {
            let (hugetlb, writers, done, start) = (&hugetlb, &writers, &done, &start);
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                let mut cpu = Cpu::new(writers).unwrap();
                start.wait();
                while !done.load(Ordering::Relaxed) {
                    for page in 0..PAGES {
                        cpu.write_bytes(&mut task, at(page, 0), &[number; 4096]).unwrap();
                    }
                }
            });
        }
        let mut cpu = Cpu::new(&reader).unwrap();
        start.wait();
        for _ in 0..200 {
            for space in [&writers, &reader] {
                space.madvise(&mut task, BASE, PAGES * MIB2, Advice::DontNeed).unwrap();
            }
            for page in 0..PAGES {
                // A store makes a private page of zeroes.
                cpu.store(&mut task, at(page, 0), 0).unwrap();
                let mut bytes = [0; 4096];
                cpu.read_bytes(&mut task, at(page, 0), &mut bytes).unwrap();
                foreign += bytes.iter().filter(|&&byte| byte != 0).count();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    foreign
}

#[test]
fn no_store_reaches_a_page_that_was_given_to_another_process() {
    assert_eq!(foreign_bytes(&small()), 0);
}

#[test]
fn nor_without_membarrier() {
    assert_eq!(foreign_bytes(&small().membarrier(false)), 0);
}

/// One process stores to a table it shares, while others take that table from each other, and from it, over and over.
#[test]
fn a_process_finds_its_own_stores_however_often_its_table_is_unshared() {
    let hugetlb = system(&small());
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 512);
    let spaces = [(); 3].map(|()| AddressSpace::new(&hugetlb).unwrap());
    for space in &spaces {
        map(space, &mut task, &file, MapFlags::SHARED | MapFlags::NORESERVE).unwrap();
    }
    let done = AtomicBool::new(false);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            let mut cpu = Cpu::new(&spaces[0]).unwrap();
            start.wait();
            let mut value = 0;
            while !done.load(Ordering::Relaxed) {
                for page in [0, 7, 99, 511] {
                    value += 1;
                    cpu.store_u64(&mut task, at(page, 8), value).unwrap();
                    assert_eq!(cpu.load_u64(&mut task, at(page, 8)), Ok(value));
                }
            }
        });
        start.wait();
        for _ in 0..300 {
            for space in &spaces {
                Cpu::new(space).unwrap().load(&mut task, BASE).unwrap();
                space.madvise(&mut task, BASE, GIB, Advice::DontNeed).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(hugetlb.platform().event_counts().unshared > 0);
    for space in &spaces {
        space.exit(&mut task).unwrap();
    }
    drop(spaces);
    task.rcu_barrier();
    assert_eq!(hugetlb.platform().usage().tables, 0);
}

#[test]
fn a_store_under_way_is_over_when_fork_returns() {
    let hugetlb = system(&small());
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 1);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, MapFlags::NORESERVE).unwrap();
    let done = AtomicBool::new(false);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            let mut cpu = Cpu::new(&space).unwrap();
            start.wait();
            let mut value = 0;
            while !done.load(Ordering::Relaxed) {
                value += 1;
                cpu.store_u64(&mut task, at(0, 0), value).unwrap();
            }
        });
        start.wait();
        let mut changed = 0;
        for _ in 0..200 {
            let child = space.fork(&mut task).unwrap();
            let mut cpu = Cpu::new(&child).unwrap();
            let seen = cpu.load_u64(&mut task, at(0, 0)).unwrap();
            for _ in 0..50 {
                changed += u32::from(cpu.load_u64(&mut task, at(0, 0)).unwrap() != seen);
            }
            child.exit(&mut task).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(changed, 0);
    });
}

/// As on a real machine: the bits appear while somebody has the table locked, and nobody waits for anybody.
#[test]
fn a_processor_sets_bits_while_the_table_is_locked() {
    let hugetlb = system(&small());
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = file_of(&mut task, 1);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, MapFlags::SHARED).unwrap();
    space.fault(&mut task, BASE, Access::Read).unwrap();
    let section = task.rcu_read_lock();
    let (slot, _) = leaf_offset(&section, space.mm(), BASE).unwrap().unwrap();
    let locked = slot.lock().unwrap();
    let dirty = |entry| matches!(entry, Entry::Leaf(leaf) if leaf.flags.contains(LeafFlags::DIRTY));
    assert!(!dirty(locked.read()));
    let (stored, done) = channel();
    let (during, after) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            Cpu::new(&space).unwrap().store(&mut task, BASE, 1).unwrap();
            stored.send(()).unwrap();
        });
        let during = done.recv_timeout(Duration::from_secs(10));
        let after = locked.read();
        // Else a processor that waits for the lock would do so for ever.
        drop(locked);
        (during, after)
    });
    assert_eq!(during, Ok(()), "the store waits for the table lock");
    assert!(dirty(after));
}
