//! A proof is for the VMAs of one address space: the types prove the kind of lock, the walk checks whose it is.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::sync::Arc;
use hugewalk::vma::{Protection, Vma};
use hugewalk::walk::{Proof, WrongProof, huge_pte_offset, leaf_offset};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Host, HostConfig};

const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE + PMD_SIZE);

fn after(pages: u64) -> VirtAddr {
    VirtAddr::new(START.as_u64() + pages * PMD_SIZE)
}

/// In the same table.
fn before() -> VirtAddr {
    VirtAddr::new(START.as_u64() - PMD_SIZE)
}

fn system() -> (Arc<Hugetlb<Host>>, Task<Host>) {
    let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE)).unwrap()).unwrap();
    let task = hugewalk_host::task(&hugetlb).unwrap();
    (hugetlb, task)
}

/// One page of a file, shared, at [`START`], and holes before and behind it.
fn space(
    hugetlb: &Arc<Hugetlb<Host>>,
    task: &mut Task<Host>,
    file: &Arc<HugeFile<Host>>,
) -> Arc<AddressSpace<Host>> {
    let space = AddressSpace::new(hugetlb).unwrap();
    let request = MapRequest {
        placement: Placement::Fixed(START),
        length: PMD_SIZE,
        protection: Protection::READ,
        flags: MapFlags::SHARED | MapFlags::NORESERVE,
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request).unwrap();
    space
}

fn is_refused<W: Proof<Host>>(proof: &W, space: &AddressSpace<Host>, address: VirtAddr) -> bool {
    let refused = matches!(huge_pte_offset(proof, space.mm(), address, X86_64::SIZE_2M), Err(WrongProof));
    assert_eq!(refused, matches!(leaf_offset(proof, space.mm(), address), Err(WrongProof)));
    refused
}

#[test]
fn a_lock_of_another_address_space_or_of_another_vma_is_no_proof() {
    let (hugetlb, mut task) = system();
    let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
    let (space, other) = (space(&hugetlb, &mut task, &file), space(&hugetlb, &mut task, &file));
    let mmap = space.mmap_read(&mut task);
    let vma = mmap.find(START).unwrap();
    {
        let locked = mmap.lock_vma(vma, &mut task).unwrap();
        assert!(!is_refused(&locked, &space, START));
        assert!(is_refused(&locked, &other, START));
        assert!(is_refused(&locked, &space, after(1)) && is_refused(&locked, &space, before()));
    }
    {
        let locked = mmap.lock_vma_write(vma, &mut task).unwrap();
        assert!(!is_refused(&locked, &space, START));
        assert!(is_refused(&locked, &other, START));
        assert!(is_refused(&locked, &space, after(1)) && is_refused(&locked, &space, before()));
    }
    let i_mmap = file.i_mmap_read(&mut task);
    let proofs: Vec<_> = i_mmap.vmas(0..1).collect();
    assert_eq!(proofs.len(), 2);
    for proof in &proofs {
        assert_ne!(is_refused(proof, &space, START), is_refused(proof, &other, START));
        assert!(is_refused(proof, &space, after(1)) && is_refused(proof, &other, after(1)));
        assert!(is_refused(proof, &space, before()) && is_refused(proof, &other, before()));
    }
    // Nor is a VMA of another address space locked through this one.
    let others = other.mmap_read(&mut task);
    assert!(others.lock_vma(vma, &mut task).is_none() && others.lock_vma_write(vma, &mut task).is_none());
}

#[test]
fn a_mapping_that_was_replaced_or_unmapped_is_not_locked_any_more() {
    let (hugetlb, mut task) = system();
    let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    let request = MapRequest {
        placement: Placement::Fixed(START),
        length: 3 * PMD_SIZE,
        protection: Protection::READ,
        flags: MapFlags::SHARED | MapFlags::NORESERVE,
        backing: Backing::File { file: &file, offset: 0 },
    };
    space.mmap(&mut task, &request).unwrap();
    let mut replaced: Vec<Arc<Vma<Host>>> = Vec::new();
    let mut check = |task: &mut Task<Host>, mapped: Option<VirtAddr>| {
        let mmap = space.mmap_read(task);
        for vma in &replaced {
            assert!(mmap.lock_vma(vma, task).is_none() && mmap.lock_vma_write(vma, task).is_none());
        }
        if let Some(address) = mapped {
            let vma = mmap.find(address).unwrap();
            assert!(mmap.lock_vma(vma, task).is_some() && mmap.lock_vma_write(vma, task).is_some());
            replaced.push(vma.clone());
        }
    };
    check(&mut task, Some(START));
    // One of the same bounds takes its place, then one that is a part of it, then one elsewhere.
    space.mprotect(&mut task, START, 3 * PMD_SIZE, Protection::READ | Protection::WRITE).unwrap();
    check(&mut task, Some(START));
    space.mprotect(&mut task, after(1), PMD_SIZE, Protection::READ).unwrap();
    check(&mut task, Some(START));
    space.mremap(&mut task, START, PMD_SIZE, PMD_SIZE, RemapTo::Fixed(after(8))).unwrap();
    check(&mut task, Some(after(8)));
    space.munmap(&mut task, after(8), PMD_SIZE).unwrap();
    check(&mut task, None);
}

#[test]
fn a_read_section_of_another_system_is_no_proof() {
    let (hugetlb, mut task) = system();
    let other = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE)).unwrap()).unwrap();
    // SAFETY: nothing sleeps while it is in its section.
    let stranger = unsafe { Task::new(&other) }.unwrap();
    let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
    let space = space(&hugetlb, &mut task, &file);
    assert!(!is_refused(&task.rcu_read_lock(), &space, START));
    assert!(is_refused(&stranger.rcu_read_lock(), &space, START));
}
