//! The faulting side: a fault that the handler has to resolve.

use super::{Context, Features, Pagefault, PagefaultFlags};
use crate::addr::{HugeSize, VirtAddr};
use crate::arch::Entry;
use crate::error::FaultError;
use crate::platform::{Event, Platform};
use crate::protocol::{Step, keeps};
use crate::root::Mm;
use crate::sleep::Signals;
use crate::space::MmapReadGuard;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{Access, Reason, Vma};
use crate::walk::huge_pte_offset;

/// A question to the handler. No lock of the page is held for it.
pub(crate) struct Asked<P: Platform> {
    context: Arc<Context<P>>,
    reason: Reason,
    /// Start of the page.
    page: VirtAddr,
    size: HugeSize,
    pagefault: Pagefault,
}

impl<P: Platform> Asked<P> {
    /// The question of a fault at `address` to the handler of `vma`. `None` if the handler has left.
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

    /// Calls the handler, and sleeps until the handler has woken the fault, or until the fault's reason is
    /// gone from the entry. The access is to be tried again then.
    ///
    /// Holds: the mmap lock in read, under which the VMA was found to be registered, and nothing else. The
    /// lock is released after the task has queued and before it sleeps. So an operation that unregisters
    /// the range, which takes the lock in write, either came before the VMA was looked up or finds the
    /// fault in the queue.
    ///
    /// Linux: `handle_userfault()` in fs/userfaultfd.c.
    ///
    /// # Errors
    ///
    /// [`FaultError::Userfault`] if the handler wants a signal instead; [`FaultError::OutOfMemory`] if the fault cannot
    /// wait; [`FaultError::Interrupted`] if one of the signals comes first.
    pub(crate) fn wait(
        self,
        mmap: MmapReadGuard<'_, P>,
        signals: Signals,
        task: &mut Task<P>,
    ) -> Result<(), FaultError> {
        let context = &*self.context;
        if context.features().contains(Features::SIGBUS) {
            return Err(FaultError::Userfault { address: self.page });
        }
        let (system, mm, address) = (task.hugetlb().clone(), context.mm().id(), self.page);
        system.platform().trace(Event::HandlerAsked { mm, address });
        let waited = self.wait_untold(mmap, signals, task);
        system.platform().trace(Event::HandlerAnswered { mm, address });
        waited
    }

    fn wait_untold(
        self,
        mmap: MmapReadGuard<'_, P>,
        signals: Signals,
        task: &mut Task<P>,
    ) -> Result<(), FaultError> {
        let context = &*self.context;
        let Some(ticket) = context.post_fault(self.pagefault)? else {
            return Ok(());
        };
        // Before the task queues: between queueing and sleeping the task must not sleep otherwise.
        let vma = mmap.find(self.page).filter(|_| !keeps::<P>(Step::WalkUnlocked)).cloned();
        let mut locked = vma.as_ref().and_then(|vma| Some(vma.semaphore()?.read(task)));
        let mut mmap = Some(mmap);
        // The closure looks at the entry with the task queued. It cannot sleep, which would use up the
        // wake-up: it has the task behind a shared borrow.
        let woken = context.faults().wait_unless(self.pagefault.address, signals, task, |task| {
            if context.is_woken(ticket) {
                return Some(());
            }
            // A later look follows a wake-up, but perhaps not one that was for this fault.
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

    /// Is the fault's reason still in the entry? Looks once: if the entry says something else, another
    /// fault sees that.
    ///
    /// Linux asks whether the entry can be written. This asks whether the protection is still there: a
    /// private page that the handler has unprotected stays read-only until the next store, and the fault
    /// would sleep for ever if the handler was that fast.
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
            Some(Ok(Entry::Leaf(leaf))) => !empty && leaf.is_protected(),
            // A table that was unshared meanwhile may have been shared again: another fault looks at it.
            Some(
                Ok(
                    Entry::Migration(_)
                    | Entry::Hwpoison(_)
                    | Entry::Poison
                    | Entry::Table(_)
                    | Entry::HostTable(_),
                )
                | Err(_),
            ) => false,
        }
    }
}
