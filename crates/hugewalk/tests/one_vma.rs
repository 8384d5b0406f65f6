//! The operations on one VMA, as a host calls them that has a set and an mmap lock of its own: what they refuse, what they
//! make, and what they leave.

mod common;

use common::{Bench, File, GIB, M2, RW, SMALL, Task, at, heap, system, task};
use core::ops::Range;
use hugewalk::Hugetlb;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Aarch64, AnyPaging, Granule, Paging as _};
use hugewalk::error::WrongSystem;
use hugewalk::fault::{Access, FaultError, Handled, hugetlb_fault};
use hugewalk::mm::{MapError, Mm};
use hugewalk::sync::Arc;
use hugewalk::uffd::{Fill, UserfaultError, hugetlb_mfill_atomic};
use hugewalk::vm_ops;
use hugewalk::vma::{MmapLockedForWrite, Policy, Protection, Shape, Vma, VmaFlags};

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

const HERE: u64 = 4 * GIB;
const SHARED: VmaFlags = VmaFlags::SHARED;

type Locked<'m> = MmapLockedForWrite<'m, Bench>;

/// The mmap lock of an address space.
fn lock(mm: &Arc<Mm<Bench>>) -> Locked<'_> {
    // SAFETY: one thread plays all tasks of a test, and each address space of a test is locked once.
    unsafe { MmapLockedForWrite::assume_held(mm) }
}

fn shape(range: Range<u64>, offset: u64, flags: VmaFlags) -> Shape {
    let Range { start, end } = range;
    Shape { start: at(start), end: at(end), offset, protection: RW, flags, policy: Policy::Default }
}

fn pages(count: u64) -> Range<u64> {
    HERE..HERE + count * M2
}

fn addresses(range: Range<u64>) -> Range<VirtAddr> {
    at(range.start)..at(range.end)
}

fn map(
    mmap: &mut Locked<'_>,
    file: &Arc<File>,
    shape: Shape,
    task: &mut Task,
) -> Result<Arc<Vma<Bench>>, MapError> {
    // SAFETY: each test maps a range once.
    unsafe { vm_ops::map(mmap, file, shape, task) }
}

fn remap(
    mmap: &mut Locked<'_>,
    vma: &Vma<Bench>,
    to: u64,
    task: &mut Task,
) -> Result<Arc<Vma<Bench>>, MapError> {
    // SAFETY: the tests move to places where nothing is.
    unsafe { vm_ops::remap(mmap, vma, at(to), task) }
}

fn copy(
    parent: &mut Locked<'_>,
    vma: &Vma<Bench>,
    child: &mut Locked<'_>,
    task: &mut Task,
) -> Result<Arc<Vma<Bench>>, MapError> {
    // SAFETY: nothing is mapped in the child.
    unsafe { vm_ops::copy(parent, vma, child, task) }
}

/// The VMAs of the range have been unmapped.
fn free_tables(
    mmap: &mut Locked<'_>,
    range: Range<u64>,
    free: Range<u64>,
    task: &Task,
) -> Result<(), WrongSystem> {
    // SAFETY: as the caller says.
    unsafe { vm_ops::free_tables(mmap, addresses(range), addresses(free), task) }
}

/// Faults in each page of a mapping.
fn fill(mmap: &Locked<'_>, vma: &Arc<Vma<Bench>>, access: Access, task: &mut Task) {
    for page in 0..vma.pages() {
        let handled = hugetlb_fault(mmap, vma, at(vma.start().as_u64() + page * M2), access, task);
        assert!(matches!(handled, Ok(Handled::Done(_))));
    }
}

#[test]
fn a_mapping_that_no_address_space_or_file_has_room_for_is_refused() {
    let (hugetlb, mut task) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let mut mmap = lock(&mm);
    let unaligned = |value| MapError::Unaligned { value, size: SMALL };
    let beyond = mm.task_size().as_u64().next_multiple_of(M2);
    // The last page of the largest file, and one too many.
    let (last, too_many) = ((1 << 63) / M2 - 2, (1 << 63) / M2 - 1);
    for (range, offset, refused) in [
        (HERE + 4096..HERE + 2 * M2, 0, unaligned(HERE + 4096)),
        (HERE..HERE + M2 + 4096, 0, unaligned(HERE + M2 + 4096)),
        (HERE..HERE, 0, MapError::ZeroLength),
        (Range { start: HERE + M2, end: HERE }, 0, MapError::ZeroLength),
        (beyond - M2..beyond, 0, MapError::Overflow),
        (pages(1), too_many, MapError::OffsetOverflow { offset: too_many * M2 }),
        (pages(2), last, MapError::OffsetOverflow { offset: last * M2 }),
        (pages(1), u64::MAX, MapError::OffsetOverflow { offset: u64::MAX }),
    ] {
        let refusal = map(&mut mmap, &file, shape(range.clone(), offset, SHARED), &mut task);
        assert_eq!(refusal.map(|_| ()), Err(refused), "{range:x?} from {offset:#x} on");
    }
    assert_eq!((file.size(), file.reserved()), (0, 0));

    // Rights that are not known are ignored. Only a mapping that allows stores makes the file longer.
    let unknown = Protection::from_bits_retain(1 << 7);
    for (protection, size) in [(Protection::READ, 0), (RW, (last + 1) * M2)] {
        let shape = Shape { protection: protection | unknown, ..shape(pages(1), last, SHARED) };
        let vma = map(&mut mmap, &file, shape, &mut task).unwrap();
        assert_eq!((vma.protection(), file.size(), file.reserved()), (protection, size, 1));
        drop(vm_ops::unmap(&mut mmap, &vma, &mut task).unwrap());
    }
}

#[test]
fn a_mapping_may_end_where_user_addresses_end() {
    let paging = AnyPaging::from(Aarch64::new(Granule::K4, 48).unwrap().with_memory_type(1));
    let hugetlb = Hugetlb::new(Bench::with_paging(paging)).unwrap();
    let (mm, mut task) = (Mm::new(&hugetlb).unwrap(), task(&hugetlb));
    let file = File::new(&hugetlb, paging.of_shift(21).unwrap(), None).unwrap();
    let top = mm.task_size().as_u64();
    assert_eq!(top % M2, 0);
    let mut mmap = lock(&mm);
    let flags = SHARED | VmaFlags::NORESERVE;
    assert_eq!(
        map(&mut mmap, &file, shape(top - M2..top + M2, 0, flags), &mut task).map(|_| ()),
        Err(MapError::Overflow)
    );
    let vma = map(&mut mmap, &file, shape(top - M2..top, 0, flags), &mut task).unwrap();
    for beyond in [top, u64::MAX - M2 + 1] {
        assert_eq!(remap(&mut mmap, &vma, beyond, &mut task).map(|_| ()), Err(MapError::Overflow));
    }
    let vma = remap(&mut mmap, &vma, HERE, &mut task).unwrap();
    let vma = remap(&mut mmap, &vma, top - M2, &mut task).unwrap();
    assert_eq!((vma.start(), vma.end()), (at(top - M2), at(top)));
    drop(vm_ops::unmap(&mut mmap, &vma, &mut task).unwrap());
}

#[test]
fn a_cut_lies_inside_a_mapping_and_between_two_pages() {
    let (hugetlb, mut task) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let mut mmap = lock(&mm);
    let vma = map(&mut mmap, &file, shape(pages(4), 3, SHARED), &mut task).unwrap();
    for address in [HERE - M2, HERE, HERE + 4 * M2, HERE + 5 * M2].map(at) {
        let cut = vm_ops::split(&mut mmap, &vma, address, &mut task);
        assert_eq!(cut.map(|_| ()), Err(MapError::NotMapped { address }));
    }
    let cut = vm_ops::split(&mut mmap, &vma, at(HERE + 4096), &mut task);
    assert_eq!(cut.map(|_| ()), Err(MapError::Unaligned { value: HERE + 4096, size: SMALL }));
    let parts = vm_ops::split(&mut mmap, &vma, at(HERE + M2), &mut task).unwrap();
    let bounds = parts.each_ref().map(|part| (part.start().as_u64(), part.end().as_u64(), part.offset()));
    assert_eq!(bounds, [(HERE, HERE + M2, 3), (HERE + M2, HERE + 4 * M2, 4)]);

    // What was replaced is no mapping any more.
    let child = Mm::new(&hugetlb).unwrap();
    let gone = Err(MapError::NotMapped { address: at(HERE) });
    assert_eq!(vm_ops::split(&mut mmap, &vma, at(HERE + M2), &mut task).map(|_| ()), gone);
    assert_eq!(vm_ops::protect(&mut mmap, &vma, RW, &mut task).map(|_| ()), gone);
    assert_eq!(vm_ops::zap(&mmap, &vma, addresses(pages(1)), &mut task), gone);
    assert_eq!(remap(&mut mmap, &vma, 9 * GIB, &mut task).map(|_| ()), gone);
    assert_eq!(copy(&mut mmap, &vma, &mut lock(&child), &mut task).map(|_| ()), gone);
    assert_eq!(vm_ops::unmap(&mut mmap, &vma, &mut task).map(|_| ()), gone);
    for part in &parts {
        drop(vm_ops::unmap(&mut mmap, part, &mut task).unwrap());
    }
}

#[test]
fn a_mapping_that_has_moved_is_none_at_its_old_place() {
    let (hugetlb, mut task) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let mut mmap = lock(&mm);
    let old = map(&mut mmap, &file, shape(pages(1), 0, SHARED), &mut task).unwrap();
    let new = remap(&mut mmap, &old, 9 * GIB, &mut task).unwrap();
    free_tables(&mut mmap, pages(1), 0..9 * GIB, &task).unwrap();
    let gone = Err(MapError::NotMapped { address: at(HERE) });
    assert_eq!(vm_ops::zap(&mmap, &old, addresses(pages(1)), &mut task), gone);
    assert_eq!(vm_ops::protect(&mut mmap, &old, RW, &mut task).map(|_| ()), gone);
    assert!(hugetlb_fault(&mmap, &old, at(HERE), Access::Write, &mut task).is_err());
    assert!(mmap.lock_vma(&old, &mut task).is_none());
    fill(&mmap, &new, Access::Write, &mut task);
    drop(vm_ops::unmap(&mut mmap, &new, &mut task).unwrap());
    free_tables(&mut mmap, 9 * GIB..9 * GIB + M2, 0..1 << 40, &task).unwrap();
}

#[test]
fn pages_are_dropped_inside_a_mapping_only() {
    let (hugetlb, mut task) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let mut mmap = lock(&mm);
    let vma = map(&mut mmap, &file, shape(pages(4), 0, SHARED), &mut task).unwrap();
    fill(&mmap, &vma, Access::Write, &mut task);
    for (range, refused) in [
        (HERE + 4096..HERE + M2, MapError::Unaligned { value: HERE + 4096, size: SMALL }),
        (HERE..HERE + 4096, MapError::Unaligned { value: HERE + 4096, size: SMALL }),
        (HERE - M2..HERE + M2, MapError::NotMapped { address: at(HERE - M2) }),
        (HERE + 3 * M2..HERE + 5 * M2, MapError::NotMapped { address: at(HERE + 3 * M2) }),
    ] {
        assert_eq!(vm_ops::zap(&mmap, &vma, addresses(range), &mut task), Err(refused));
    }
    assert_eq!(vm_ops::zap(&mmap, &vma, addresses(HERE - M2..HERE - M2), &mut task), Ok(()));
    assert_eq!(mm.resident(), 4);
    assert_eq!(vm_ops::zap(&mmap, &vma, addresses(HERE..HERE + M2), &mut task), Ok(()));
    assert_eq!(mm.resident(), 3);
    assert_eq!(vm_ops::zap(&mmap, &vma, addresses(pages(4)), &mut task), Ok(()));
    assert_eq!((mm.resident(), file.pages()), (0, 4));
    drop(vm_ops::unmap(&mut mmap, &vma, &mut task).unwrap());
    free_tables(&mut mmap, pages(4), 0..1 << 40, &task).unwrap();
}

#[test]
fn a_mapping_gets_rights_that_are_known_and_its_entries_with_it() {
    let (hugetlb, mut task) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let mut mmap = lock(&mm);
    let vma = map(&mut mmap, &file, shape(pages(1), 0, SHARED), &mut task).unwrap();
    fill(&mmap, &vma, Access::Write, &mut task);
    let unknown = RW | Protection::from_bits_retain(1 << 7);
    let refused = vm_ops::protect(&mut mmap, &vma, unknown, &mut task);
    assert_eq!(refused.map(|_| ()), Err(MapError::UnknownRights));
    let vma = vm_ops::protect(&mut mmap, &vma, Protection::READ, &mut task).unwrap();
    assert_eq!(vma.protection(), Protection::READ);
    assert!(hugetlb_fault(&mmap, &vma, at(HERE), Access::Write, &mut task).is_err());
    drop(vm_ops::unmap(&mut mmap, &vma, &mut task).unwrap());
    free_tables(&mut mmap, pages(1), 0..1 << 40, &task).unwrap();
}

#[test]
fn a_page_is_filled_inside_a_mapping_from_its_start_and_with_as_many_bytes_as_it_has() {
    let (hugetlb, mut task) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let mut mmap = lock(&mm);
    let vma = map(&mut mmap, &file, shape(pages(2), 0, SHARED), &mut task).unwrap();
    let mut fill = |mmap: &Locked<'_>, vma: &Arc<Vma<Bench>>, address, bytes: u64| {
        let bytes = vec![7; usize::try_from(bytes).unwrap()];
        hugetlb_mfill_atomic(mmap, vma, at(address), Fill::Copy(&bytes), &mut task)
    };
    for address in [HERE - M2, HERE + 2 * M2] {
        let outside = Err(UserfaultError::NotRegistered { address: at(address) });
        assert_eq!(fill(&mmap, &vma, address, M2), outside);
    }
    let unaligned = Err(UserfaultError::Unaligned { value: HERE + 4096, size: SMALL });
    assert_eq!(fill(&mmap, &vma, HERE + 4096, M2), unaligned);
    for length in [0, M2 - 1, M2 + 1, 2 * M2] {
        let no_page = Err(UserfaultError::BadRange { start: at(HERE), length });
        assert_eq!(fill(&mmap, &vma, HERE, length), no_page);
    }
    assert_eq!((mm.resident(), file.pages()), (0, 0));
    assert_eq!(fill(&mmap, &vma, HERE, M2), Ok(()));
    assert_eq!(fill(&mmap, &vma, HERE, M2), Err(UserfaultError::Exists { address: at(HERE) }));
    // A copy of a shared mapping finds the page in the file.
    let child = Mm::new(&hugetlb).unwrap();
    let mut child_mmap = lock(&child);
    let copied = copy(&mut mmap, &vma, &mut child_mmap, &mut common::task(&hugetlb)).unwrap();
    assert_eq!((mm.resident(), child.resident()), (1, 0));
    drop(vm_ops::unmap(&mut child_mmap, &copied, &mut common::task(&hugetlb)).unwrap());
    drop(vm_ops::unmap(&mut mmap, &vma, &mut common::task(&hugetlb)).unwrap());
    let gone = Err(UserfaultError::NotRegistered { address: at(HERE) });
    assert_eq!(fill(&mmap, &vma, HERE, M2), gone);
    free_tables(&mut mmap, pages(2), 0..1 << 40, &task).unwrap();
}

#[test]
fn a_copy_of_a_private_mapping_has_the_poison_that_was_filled_in() {
    let (hugetlb, mut task) = system(4);
    let file = File::new(&hugetlb, SMALL, None).unwrap();
    let (mm, into) = (Mm::new(&hugetlb).unwrap(), Mm::new(&hugetlb).unwrap());
    let (mut parent, mut child) = (lock(&mm), lock(&into));
    let vma = map(&mut parent, &file, shape(pages(1), 0, VmaFlags::empty()), &mut task).unwrap();
    hugetlb_mfill_atomic(&parent, &vma, at(HERE), Fill::Poison, &mut task).unwrap();
    let copied = copy(&mut parent, &vma, &mut child, &mut task).unwrap();
    let lost = FaultError::Hwpoison { address: at(HERE), size: SMALL };
    for (mmap, vma) in [(&parent, &vma), (&child, &copied)] {
        assert_eq!(hugetlb_fault(mmap, vma, at(HERE), Access::Read, &mut task).map(|_| ()), Err(lost));
    }
    for (mmap, vma) in [(&mut parent, &vma), (&mut child, &copied)] {
        drop(vm_ops::unmap(mmap, vma, &mut task).unwrap());
        free_tables(mmap, pages(1), 0..1 << 40, &task).unwrap();
    }
}

#[test]
fn a_table_goes_if_it_covers_nothing_but_what_is_free() {
    let (hugetlb, mut task) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let mut mmap = lock(&mm);
    let vma = map(&mut mmap, &file, shape(pages(1), 0, SHARED), &mut task).unwrap();
    let root = hugetlb.platform().tables_in_use();
    fill(&mmap, &vma, Access::Write, &mut task);
    let all = hugetlb.platform().tables_in_use();
    drop(vm_ops::unmap(&mut mmap, &vma, &mut task).unwrap());
    for (free, left) in [
        (HERE + M2..HERE + GIB, all),
        (HERE..HERE + GIB - M2, all),
        (HERE..HERE + GIB, all - 1),
        (0..1 << 47, root),
    ] {
        free_tables(&mut mmap, pages(1), free.clone(), &task).unwrap();
        task.rcu_barrier();
        assert_eq!(hugetlb.platform().tables_in_use(), left, "{free:x?}");
    }
}

#[test]
fn a_copy_has_what_the_file_does_not_tell() {
    let (hugetlb, mut task) = system(8);
    let file = File::new(&hugetlb, SMALL, None).unwrap();
    let (mm, into) = (Mm::new(&hugetlb).unwrap(), Mm::new(&hugetlb).unwrap());
    let (mut parent, mut child) = (lock(&mm), lock(&into));
    let shared = map(&mut parent, &file, shape(pages(2), 0, SHARED), &mut task).unwrap();
    let own = shape(HERE + GIB..HERE + GIB + 2 * M2, 0, VmaFlags::empty());
    let private = map(&mut parent, &file, own, &mut task).unwrap();
    assert_eq!((shared.reserved(), private.reserved()), (0, 2));
    hugetlb_fault(&parent, &private, private.start(), Access::Write, &mut task).unwrap();
    assert_eq!(private.reserved(), 1);
    for vma in [&shared, &private] {
        fill(&parent, vma, Access::Write, &mut task);
    }
    let copies = [&shared, &private].map(|vma| copy(&mut parent, vma, &mut child, &mut task).unwrap());
    assert_eq!((mm.resident(), into.resident()), (4, 2));
    // Its reservation stays with the parent.
    assert!(private.owns_reservation() && !copies[1].owns_reservation());
    assert_eq!((private.reserved(), copies[1].reserved()), (0, 0));
    for vma in [&shared, &private] {
        drop(vm_ops::unmap(&mut parent, vma, &mut task).unwrap());
    }
    for vma in &copies {
        drop(vm_ops::unmap(&mut child, vma, &mut task).unwrap());
    }
    for mmap in [&mut parent, &mut child] {
        free_tables(mmap, HERE..HERE + 2 * GIB, 0..1 << 40, &task).unwrap();
    }
}

#[test]
fn what_is_left_of_a_reservation_goes_back_when_the_unmapped_vma_is_dropped() {
    let (hugetlb, mut task) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let mut mmap = lock(&mm);
    let vma = map(&mut mmap, &file, shape(pages(2), 0, VmaFlags::empty()), &mut task).unwrap();
    hugetlb_fault(&mmap, &vma, at(HERE), Access::Write, &mut task).unwrap();
    let reserved = || hugetlb.pool(SMALL).counters().reserved;
    assert_eq!(reserved(), 1);
    // Where a page of its own was, the mapping has its reservation again.
    let unmapped = vm_ops::unmap(&mut mmap, &vma, &mut task).unwrap();
    assert_eq!(reserved(), 2);
    drop(unmapped);
    assert_eq!(reserved(), 0);
    free_tables(&mut mmap, pages(2), 0..1 << 40, &task).unwrap();
}

#[test]
fn what_belongs_to_another_system_is_refused() {
    let (hugetlb, mut task) = system(4);
    let (other, mut stranger) = system(4);
    let (mm, file) = (Mm::new(&hugetlb).unwrap(), File::new(&hugetlb, SMALL, None).unwrap());
    let (others_mm, others_file) = (Mm::new(&other).unwrap(), File::new(&other, SMALL, None).unwrap());
    let (mut mmap, mut others) = (lock(&mm), lock(&others_mm));
    let vma = map(&mut mmap, &file, shape(pages(2), 0, SHARED), &mut task).unwrap();
    let wrong = Err(MapError::from(WrongSystem));
    let elsewhere = shape(HERE + GIB..HERE + GIB + M2, 0, SHARED);
    assert_eq!(map(&mut mmap, &others_file, elsewhere, &mut task).map(|_| ()), wrong);
    assert_eq!(copy(&mut mmap, &vma, &mut others, &mut task).map(|_| ()), wrong);

    assert_eq!(map(&mut mmap, &file, elsewhere, &mut stranger).map(|_| ()), wrong);
    assert_eq!(vm_ops::split(&mut mmap, &vma, at(HERE + M2), &mut stranger).map(|_| ()), wrong);
    assert_eq!(vm_ops::protect(&mut mmap, &vma, RW, &mut stranger).map(|_| ()), wrong);
    assert_eq!(vm_ops::zap(&mmap, &vma, addresses(pages(1)), &mut stranger), wrong);
    assert_eq!(remap(&mut mmap, &vma, 9 * GIB, &mut stranger).map(|_| ()), wrong);
    assert_eq!(copy(&mut mmap, &vma, &mut others, &mut stranger).map(|_| ()), wrong);
    assert_eq!(vm_ops::unmap(&mut mmap, &vma, &mut stranger).map(|_| ()), wrong);
    assert_eq!(free_tables(&mut mmap, HERE + GIB..HERE + 2 * GIB, 0..0, &stranger), Err(WrongSystem));
    // It is still mapped.
    fill(&mmap, &vma, Access::Write, &mut task);
    drop(vm_ops::unmap(&mut mmap, &vma, &mut task).unwrap());
    free_tables(&mut mmap, pages(2), 0..1 << 40, &task).unwrap();
}
