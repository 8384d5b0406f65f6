//! The faulting side: a fault that is the handler's.

use super::{Context, Features, Pagefault, PagefaultFlags};
use crate::addr::{HugeSize, VirtAddr};
use crate::arch::{Entry, LeafFlags};
use crate::fault::{Access, FaultError};
use crate::mm::{Mm, MmapReadGuard};
use crate::platform::{Platform, Protocol};
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{Vma, VmaFlags};
use crate::walk::huge_pte_offset;

/// Why a fault is the handler's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is no page.
    Missing,
    /// The file has a page, which is not mapped.
    Minor,
    /// A store met the handler's write protection.
    Protected,
}

impl Reason {
    /// The flag of the VMAs whose faults of this kind are their handler's.
    pub(crate) const fn vma_flag(self) -> VmaFlags {
        match self {
            Self::Missing => VmaFlags::UFFD_MISSING,
            Self::Minor => VmaFlags::UFFD_MINOR,
            Self::Protected => VmaFlags::UFFD_WP,
        }
    }
}

/// A question to the handler, for which no lock of the page is needed.
pub(crate) struct Asked<P: Platform> {
    context: Arc<Context<P>>,
    reason: Reason,
    /// Start of the page.
    page: VirtAddr,
    size: HugeSize,
    pagefault: Pagefault,
}

impl<P: Platform> Asked<P> {
    /// What a fault at `address` asks the handler of `vma`. `None` if there is no handler any more.
    pub(crate) fn new(
        vma: &Vma<P>,
        address: VirtAddr,
        access: Access,
        reason: Reason,
        task: &Task<P>,
    ) -> Option<Self> {
        let context = vma.userfault()?;
        let features = context.features();
        let (page, size) = (address.huge_page(vma.size()), vma.size());
        let mut flags = match reason {
            Reason::Missing => PagefaultFlags::empty(),
            Reason::Minor => PagefaultFlags::MINOR,
            Reason::Protected => PagefaultFlags::WP,
        };
        flags.set(PagefaultFlags::WRITE, access == Access::Write);
        let pagefault = Pagefault {
            address: if features.contains(Features::EXACT_ADDRESS) { address } else { page },
            flags,
            thread: features.contains(Features::THREAD_ID).then(|| task.id()),
        };
        Some(Self { context: context.clone(), reason, page, size, pagefault })
    }

    /// Calls the handler, and sleeps until it has woken the fault, or the entry is not any more what the fault was about.
    /// The access is to be tried again then.
    ///
    /// Holds: the mmap lock in read, under which the VMA was found to be registered, and nothing else. It is let go before the
    /// task sleeps, and after it has queued: so who unregisters the range, which takes the lock in write, comes before the
    /// VMA was looked up or finds the fault in the queue.
    ///
    /// Linux: `handle_userfault()` in fs/userfaultfd.c.
    ///
    /// # Errors
    ///
    /// [`FaultError::Userfault`] if the handler wants a signal instead; [`FaultError::OutOfMemory`] if the fault cannot wait.
    pub(crate) fn wait(self, mmap: MmapReadGuard<'_, P>, task: &mut Task<P>) -> Result<(), FaultError> {
        let context = &*self.context;
        if context.features().contains(Features::SIGBUS) {
            return Err(FaultError::Userfault { address: self.page });
        }
        let Some(ticket) = context.post_fault(self.pagefault)? else {
            return Ok(());
        };
        // Before the task queues: what comes between queueing and sleeping must not sleep by itself.
        let vma = mmap.find(self.page).filter(|_| P::Protocol::walks_under_vma_lock()).cloned();
        let mut locked = vma.as_ref().and_then(|vma| Some(vma.semaphore()?.read(task)));
        let mut mmap = Some(mmap);
        // The closure looks with the task queued, and cannot sleep: it has the task behind a shared borrow (scenario S19).
        let woken = context.faults().wait_as(self.pagefault.address, task, |task| {
            if context.is_woken(ticket) {
                return Some(());
            }
            // Later looks come from a wake-up, but perhaps not from ours.
            let mmap = mmap.take()?;
            let wait = self.must_wait(context.mm(), task);
            drop(locked.take());
            drop(mmap);
            if !wait {
                return Some(());
            }
            context.call_handler();
            None
        });
        context.withdraw_fault(ticket);
        Ok(woken?)
    }

    /// Is the entry still what the fault was about? Looks once. Whatever it is then, another fault sees it.
    ///
    /// Unlike Linux, which asks whether the entry can be written, this asks whether the protection is still there: a private
    /// page that the handler has unprotected stays read-only until the next store, and the fault would sleep for ever if
    /// the handler was that fast.
    ///
    /// Linux: `userfaultfd_huge_must_wait()` in fs/userfaultfd.c.
    fn must_wait(&self, mm: &Mm<P>, task: &Task<P>) -> bool {
        let section = task.rcu_read_lock();
        let Ok(slot) = huge_pte_offset(&section, mm, self.page, self.size) else {
            return false;
        };
        let empty = self.reason != Reason::Protected;
        match slot.map(|slot| slot.read()) {
            None | Some(Ok(Entry::None | Entry::Marker)) => empty,
            Some(Ok(Entry::Leaf(leaf))) => !empty && leaf.flags.contains(LeafFlags::UFFD_WP),
            // A table that was unshared meanwhile may have been shared again: that is a look more, by another fault.
            Some(Ok(Entry::Migration(_) | Entry::Hwpoison(_) | Entry::Table(_)) | Err(_)) => false,
        }
    }
}
