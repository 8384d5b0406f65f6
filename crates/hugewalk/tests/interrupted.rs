//! What another processor can do between a changed entry and the TLB flush that follows, forced to happen there.

mod common;

use common::interrupt::{before_next_flush, is_pending};
use common::{AddressSpace, File, M2, SMALL, Task, at, map, system};
use hugewalk::addr::VirtAddr;
use hugewalk::arch::Entry;
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::sync::Arc;
use hugewalk::walk::huge_pte_offset;

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
    let writer = parent.clone();
    before_next_flush(move || {
        let mut task = Task::new(writer.mm().hugetlb()).unwrap();
        // The child's entry is gone, and its processors may have the page in their TLBs all the same.
        assert_eq!(writer.fault(&mut task, ADDRESS, Access::Write), Ok(Fault::Copied));
    });
    child.madvise(&mut task, ADDRESS, M2, Advice::DontNeed).unwrap();
    assert!(!is_pending());
}

#[test]
fn nobody_reaches_a_copy_while_the_page_it_replaces_can_still_be_read() {
    let (mut task, _, _parent, child) = family();
    let Entry::Leaf(before) = entry(&child, &task) else { panic!("fork has copied the entry") };
    let other = child.clone();
    before_next_flush(move || {
        let task = Task::new(other.mm().hugetlb()).unwrap();
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
