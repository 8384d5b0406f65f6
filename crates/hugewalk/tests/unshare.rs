//! Unsharing by hand: the types prove which kinds of lock are held, the call checks whose they are.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gather::Gather;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::share::{Unsharing, huge_pmd_unshare};
use hugewalk::sync::Arc;
use hugewalk::vma::{Protection, VmaWriteGuard};
use hugewalk::walk::{WrongProof, huge_pte_offset};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Host, HostConfig};

const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE);

/// Two address spaces that share the table of a file at [`START`].
fn two_users(
    hugetlb: &Arc<Hugetlb<Host>>,
    task: &mut Task<Host>,
    file: &Arc<HugeFile<Host>>,
) -> [Arc<AddressSpace<Host>>; 2] {
    let parent = AddressSpace::new(hugetlb).unwrap();
    let request = MapRequest {
        placement: Placement::Fixed(START),
        length: PUD_SIZE,
        protection: Protection::READ | Protection::WRITE,
        flags: MapFlags::SHARED | MapFlags::NORESERVE,
        backing: Backing::File { file, offset: 0 },
    };
    parent.mmap(task, &request).unwrap();
    parent.fault(task, START, Access::Write).unwrap();
    let child = parent.fork(task).unwrap();
    child.fault(task, START, Access::Read).unwrap();
    assert_eq!(child.tables(task).unwrap()[0].users, 2);
    [parent, child]
}

#[test]
fn unshare_refuses_a_gather_of_another_address_space_or_file() {
    let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE)).unwrap()).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_2M, 4);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
    let other_file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
    let [parent, child] = two_users(&hugetlb, &mut task, &file);
    {
        let mmap = child.mmap_read(&mut task);
        let vma = mmap.find(START).unwrap();
        let mut vma_lock = mmap.lock_vma_write(vma, &mut task).unwrap();
        let mut i_mmap = file.i_mmap_write(&mut task);
        let mut other_i_mmap = other_file.i_mmap_write(&mut task);

        // It would flush the parent, and leave the child's processors the table they have lost.
        let refused = Gather::scope(parent.mm(), &mut i_mmap, |gather| {
            huge_pmd_unshare(&mut vma_lock, START, gather, &task)
        });
        assert_eq!(refused, Err(WrongProof));

        // It would let `i_mmap` of the file go before the flush.
        let refused = Gather::scope(child.mm(), &mut other_i_mmap, |gather| {
            huge_pmd_unshare(&mut vma_lock, START, gather, &task)
        });
        assert_eq!(refused, Err(WrongProof));

        let done = Gather::scope(child.mm(), &mut i_mmap, |gather| {
            huge_pmd_unshare(&mut vma_lock, START, gather, &task)
        });
        assert_eq!(done, Ok(Unsharing::Unshared));
    }
    assert_eq!(parent.tables(&mut task).unwrap()[0].users, 1);
    assert!(child.tables(&mut task).unwrap().is_empty());
}

/// A slot from before does not compile (`compile_fail/no_slot_of_the_vma_lock_survives_an_unshare.rs`); the guard goes on to
/// prove what is there now.
#[test]
fn after_an_unshare_its_holder_walks_anew_and_finds_no_table() {
    let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE)).unwrap()).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_2M, 4);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
    let [parent, child] = two_users(&hugetlb, &mut task, &file);
    let mmap = parent.mmap_read(&mut task);
    let mut vma_lock = mmap.lock_vma_write(mmap.find(START).unwrap(), &mut task).unwrap();
    let slot = |proof: &VmaWriteGuard<'_, Host>| {
        let slot = huge_pte_offset(proof, parent.mm(), START, X86_64::SIZE_2M).unwrap();
        slot.map(|slot| slot.read())
    };
    assert!(matches!(slot(&vma_lock), Some(Entry::Leaf(_))));
    {
        let mut i_mmap = file.i_mmap_write(&mut task);
        let done = Gather::scope(parent.mm(), &mut i_mmap, |gather| {
            let users = gather.vmas(0..1).map(|found| found.vma().mm().id()).collect::<Vec<_>>();
            assert_eq!(users, [parent.mm().id(), child.mm().id()]);
            huge_pmd_unshare(&mut vma_lock, START, gather, &task)
        });
        assert_eq!(done, Ok(Unsharing::Unshared));
    }
    // The last user gives the table up, and it is freed, with the VMA lock of the first still held.
    child.exit(&mut task).unwrap();
    task.rcu_barrier();
    assert_eq!(slot(&vma_lock), None);
}
