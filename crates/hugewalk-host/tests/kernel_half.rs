//! Entries 256 to 511 of a root are the embedder's: filled by `init_root`, and neither read nor written by the engine after.

mod stepped;

use core::sync::atomic::Ordering;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapFlags, MapRequest, Placement};
use hugewalk::platform::Tables as _;
use hugewalk::sync::Word;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Host, HostConfig};

use stepped::{Footprint, KERNELS, Stepped, SteppedWord, footprint};

fn root(space: &AddressSpace<Stepped>) -> &[SteppedWord; X86_64::ENTRIES] {
    // SAFETY: the root lives as long as the address space.
    let entries = unsafe { space.mm().hugetlb().platform().table_entries(space.mm().root_frame()) };
    // SAFETY: likewise; entries are atomics.
    unsafe { entries.cast().as_ref() }
}

/// Whatever walks the whole of an address space, or its ends.
fn live(parent: &AddressSpace<Stepped>, task: &mut Task<Stepped>) {
    let top = parent.mm().task_size().as_u64() & !(PUD_SIZE - 1);
    for start in [PUD_SIZE, top - PUD_SIZE] {
        let start = VirtAddr::new(start);
        let request = MapRequest::anonymous(X86_64::SIZE_2M, PUD_SIZE).with(MapFlags::NORESERVE);
        let shared = parent.mmap(task, &request.shared().at(start)).unwrap();
        parent.fault(task, shared, Access::Write).unwrap();
        drop(parent.pin_page_fast(task, shared, GupFlags::PIN).unwrap());
    }
    let beyond = VirtAddr::new(top);
    let request = MapRequest::anonymous(X86_64::SIZE_2M, PUD_SIZE);
    assert!(parent.mmap(task, &request.placed(Placement::FixedNoReplace(beyond))).is_err());
    for address in [beyond, VirtAddr::new(1 << 63), VirtAddr::new(u64::MAX - 4095)] {
        assert!(parent.fault(task, address, Access::Read).is_err());
        assert!(parent.pin_page_fast(task, address, GupFlags::PIN).is_none());
        // Fails, or finds nothing there.
        let _ = parent.munmap(task, address, PMD_SIZE);
    }
    let child = parent.fork(task).unwrap();
    child.fault(task, VirtAddr::new(PUD_SIZE), Access::Read).unwrap();
    child.tables(task).unwrap();
    child.residency(task, |_, _| {}).unwrap();
    child.clear_soft_dirty(task).unwrap();
    child.madvise(task, VirtAddr::new(PUD_SIZE), PUD_SIZE, Advice::DontNeed).unwrap();
    assert_untouched(&child);
    child.exit(task).unwrap();
    parent.exit(task).unwrap();
    task.rcu_barrier();
}

#[track_caller]
fn assert_untouched(space: &AddressSpace<Stepped>) {
    assert!(root(space)[X86_64::ENTRIES / 2..].iter().all(|entry| entry.load(Ordering::Relaxed) == KERNELS));
}

fn assert_kernels_half_is_left_alone(levels: X86_64) {
    let host = Host::new(&HostConfig::new().huge_bytes(PUD_SIZE).paging(levels)).unwrap();
    let hugetlb = Hugetlb::new(Stepped(host)).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_2M, 16);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    assert_untouched(&space);
    let ((), Footprint { read, written }) = footprint(|| live(&space, &mut task));
    let half = |range: core::ops::Range<usize>| {
        let word = |entry: &SteppedWord| core::ptr::from_ref(entry).addr();
        root(&space)[range].iter().map(word).collect::<Vec<_>>()
    };
    assert!(half(0..X86_64::ENTRIES / 2).iter().any(|word| written.contains(word)), "nothing was looked at");
    for word in half(X86_64::ENTRIES / 2..X86_64::ENTRIES) {
        assert!(!read.contains(&word) && !written.contains(&word));
    }
    assert_untouched(&space);
}

#[test]
fn the_kernels_half_of_a_root_is_left_alone_with_four_levels() {
    assert_kernels_half_is_left_alone(X86_64::FOUR_LEVELS);
}

#[test]
fn the_kernels_half_of_a_root_is_left_alone_with_five_levels() {
    assert_kernels_half_is_left_alone(X86_64::FIVE_LEVELS);
}
