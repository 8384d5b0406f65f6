//! mbind: the nodes that the pages of a range come from.

use super::unmap::page_range;
use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::platform::Platform;
use crate::space::{AddressSpace, exchange_range};
use crate::task::Task;
use crate::vma::{Policy, Shape};

impl<P: Platform> AddressSpace<P> {
    /// Gives the mappings of a range a policy. Sleeps.
    ///
    /// Mappings that reach out of the range are split, which unshares the tables at the ends; mappings that
    /// have the policy already stay whole. Pages that are present stay where they are: there is one node.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `mbind(2)` without flags, `do_mbind()` in mm/mempolicy.c.
    ///
    /// # Errors
    ///
    /// [`MapError::UnalignedAddress`], [`MapError::Overflow`]; [`MapError::BadNodes`]; [`MapError::NoPolicy`] if there is a hole in
    /// the range, or, for [`Policy::Default`], nothing but a hole; [`MapError::Unaligned`] if a huge page would be cut in
    /// two; [`MapError::OutOfMemory`]. Nothing was changed then.
    pub fn mbind(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
        policy: Policy,
    ) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        if length == 0 && self.mm().geometry().is_aligned(address.as_u64()) {
            return Ok(());
        }
        let range = page_range(self.mm(), address, length)?;
        let policy = policy.of_present_nodes().ok_or(MapError::BadNodes)?;
        let mut mmap = self.mmap_write(task);
        if policy == Policy::Default {
            // Where nothing is mapped, the policy is the default already: holes are no error.
            mmap.vmas.first_in(&range).ok_or(MapError::NoPolicy { address: range.start })?;
        } else {
            let mapped = mmap.vmas.mapped_until(&range);
            if mapped < range.end {
                return Err(MapError::NoPolicy { address: mapped });
            }
        }
        exchange_range(
            &mut mmap,
            &range,
            |vma| vma.policy() != policy,
            |vma, shape| vma.successor(Shape { policy, ..shape }),
            |_, _, _, _| {},
            task,
        )
    }
}
