//! A page walk calls a visitor that may sleep under the VMA lock in read. One that took that lock in write, itself or by what
//! it does to the address space, would wait for itself (scenario S26).

use hugewalk::AddressSpace;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PMD_SIZE};
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, MmapReadGuard};
use hugewalk::pagewalk::{Next, Resched, SleepingVisitor};
use hugewalk::platform::Platform;
use hugewalk::vma::Vma;

struct OfTheLock<'m, P: Platform>(MmapReadGuard<'m, P>);

impl<P: Platform> SleepingVisitor<P> for OfTheLock<'_, P> {
    fn entry(&mut self, resched: &mut Resched<'_, P>, vma: &Vma<P>, _: VirtAddr, _: Entry) -> Next {
        drop(self.0.lock_vma_write(vma, resched));
        Next::Go
    }
}

struct OfTheSpace<'s, P: Platform>(&'s AddressSpace<P>);

impl<P: Platform> SleepingVisitor<P> for OfTheSpace<'_, P> {
    fn entry(&mut self, resched: &mut Resched<'_, P>, vma: &Vma<P>, at: VirtAddr, _: Entry) -> Next {
        let _ = self.0.madvise(resched, at, PMD_SIZE, Advice::DontNeed);
        let _ = self.0.fault(resched, at, Access::Read);
        drop(self.0.mmap_read(resched));
        drop(vma.file().i_mmap_write(resched));
        Next::Go
    }
}

fn main() {}
