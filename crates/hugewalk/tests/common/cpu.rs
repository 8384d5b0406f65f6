//! Two processors for each address space, one that loads and one that stores, with TLBs that forget nothing until they
//! are told to: a flush that is missing shows as a stale byte, or as an access to a page that is free.

use core::ops::Range;
use std::collections::BTreeMap;

use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Entry, Leaf, LeafFlags, Paging};
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::walk::leaf_offset;
use parking_lot::Mutex;

use super::secondary::Secondary;
use super::{AddressSpace, Task, inject};

/// Translations by the page they begin at, of the processor that loads and of the one that stores.
#[derive(Default)]
pub(crate) struct Tlb {
    processors: [Mutex<BTreeMap<VirtAddr, (Leaf, HugeSize)>>; 2],
    pub(crate) secondary: Secondary,
}

impl Tlb {
    pub(crate) fn flush(&self, range: &Range<VirtAddr>) {
        let end = |start: VirtAddr, size: HugeSize| start.as_u64() + size.bytes();
        for processor in &self.processors {
            processor.lock().retain(|&start, &mut (_, size)| {
                start >= range.end || end(start, size) <= range.start.as_u64()
            });
        }
    }

    fn processor(&self, access: Access) -> &Mutex<BTreeMap<VirtAddr, (Leaf, HugeSize)>> {
        &self.processors[usize::from(access == Access::Write)]
    }

    fn find(&self, sizes: &[HugeSize], address: VirtAddr, access: Access) -> Option<(Leaf, HugeSize)> {
        sizes.iter().copied().find_map(|size| {
            let found = self.processor(access).lock().get(&address.huge_page(size)).copied();
            found.filter(|&(_, there)| there == size)
        })
    }

    fn insert(&self, address: VirtAddr, access: Access, leaf: Leaf, size: HugeSize) {
        self.processor(access).lock().insert(address.huge_page(size), (leaf, size));
    }
}

fn allows(leaf: Leaf, access: Access) -> bool {
    leaf.is_accessible()
        && match access {
            Access::Read => true,
            // A translation without the dirty bit is no good for stores: the bit has to be set first.
            Access::Write => leaf.is_writable() && leaf.flags.contains(LeafFlags::DIRTY),
            Access::Execute => !leaf.flags.contains(LeafFlags::NO_EXECUTE),
        }
}

/// The leaf that maps an address, without a fault.
pub(crate) fn peek(space: &AddressSpace, task: &Task, address: VirtAddr) -> Option<(Leaf, HugeSize)> {
    let section = task.rcu_read_lock();
    let (slot, size) = leaf_offset(&section, space.mm(), address).unwrap()?;
    match slot.read().expect("nobody unshares meanwhile") {
        Entry::Leaf(leaf) => Some((leaf, size)),
        _ => None,
    }
}

fn mark_used(space: &AddressSpace, task: &Task, address: VirtAddr, access: Access) {
    let section = task.rcu_read_lock();
    let (slot, _) = leaf_offset(&section, space.mm(), address).unwrap().unwrap();
    let locked = slot.lock().expect("nobody unshares meanwhile");
    assert!(locked.mark_used(access == Access::Write));
}

/// Translates an address, with the faults that takes. What they came to goes into `faults`.
pub(crate) fn translate(
    space: &AddressSpace,
    task: &mut Task,
    address: VirtAddr,
    access: Access,
    faults: &mut Vec<Fault>,
) -> Result<(HugeFrame, u64), FaultError> {
    for _ in 0..10 {
        let tlb = space.mm().context();
        if let Some((leaf, size)) = inject::exempt(|| tlb.find(space.mm().paging().leaves(), address, access))
            && allows(leaf, access)
        {
            return Ok((leaf.frame, address.as_u64() & (size.bytes() - 1)));
        }
        match peek(space, task, address) {
            Some((leaf, size)) if allows(leaf, access) && leaf.flags.contains(LeafFlags::ACCESSED) => {
                inject::exempt(|| tlb.insert(address, access, leaf, size));
            }
            Some((leaf, _)) if leaf.is_accessible() && (access != Access::Write || leaf.is_writable()) => {
                if access == Access::Execute && !allows(leaf, access) {
                    let fault = space.fault(task, address, access)?;
                    inject::exempt(|| faults.push(fault));
                } else {
                    mark_used(space, task, address, access);
                }
            }
            _ => {
                let fault = space.fault(task, address, access)?;
                inject::exempt(|| faults.push(fault));
            }
        }
    }
    panic!("faults at {address:?} come to nothing: {faults:?}");
}

/// Loads a byte.
pub(crate) fn load(space: &AddressSpace, task: &mut Task, address: VirtAddr) -> Result<u8, FaultError> {
    let (frame, offset) = translate(space, task, address, Access::Read, &mut Vec::new())?;
    Ok(space.mm().hugetlb().platform().byte(frame, offset))
}

/// Stores a byte.
pub(crate) fn store(
    space: &AddressSpace,
    task: &mut Task,
    address: VirtAddr,
    value: u8,
) -> Result<(), FaultError> {
    let (frame, offset) = translate(space, task, address, Access::Write, &mut Vec::new())?;
    space.mm().hugetlb().platform().set_byte(frame, offset, value);
    Ok(())
}

/// How many faults it takes to load from each page of a range.
pub(crate) fn faults_to_read(space: &AddressSpace, task: &mut Task, start: u64, length: u64) -> usize {
    let mut faults = Vec::new();
    for address in (start..start + length).step_by(2 << 20) {
        translate(space, task, VirtAddr::new(address), Access::Read, &mut faults).unwrap();
    }
    faults.len()
}
