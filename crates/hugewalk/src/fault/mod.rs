//! Page faults.
//!
//! # Protocol
//!
//! A fault takes the mmap lock in read, and looks at the entry under RCU. If the entry allows the access, and notes it already,
//! there is nothing to do: another fault was faster, or the processor remembered what the entry was before. Such a fault writes to
//! nothing that others read. (In Linux it takes all the locks that follow.)
//!
//! Else it takes the fault mutex of (file, page) and the VMA lock in read, in this order. Then it works in four steps:
//!
//! - It walks, and makes or shares tables on the way.
//! - It reads the entry.
//! - It prepares what needs no table lock: it finds or allocates the page, and fills it.
//! - It locks the table, rereads the entry, and installs the page.
//!
//! Truncation and hole punch come from the file, and may have changed the entry since it was first read.
//! Then the fault ends, and the access is tried again.
//!
//! A fault that a handler has to resolve releases everything but the mmap lock before it queues, and the
//! mmap lock before it sleeps: see [`uffd`](crate::uffd).
//!
//! Linux: `hugetlb_fault()`, `hugetlb_no_page()` and `hugetlb_wp()` in mm/hugetlb.c.

mod attempt;
mod run;

use self::attempt::{Attempt, Faulting, WaitFor, rob_children};
pub(crate) use self::run::Ahead;
use crate::addr::{HugeFrame, VirtAddr};
use crate::arch::Entry;
use crate::entries::look_again;
pub use crate::error::FaultError;
use crate::platform::{Event, Platform};
use crate::protocol::{Step, keeps};
use crate::root::Mm;
use crate::sleep::Signals;
use crate::space::AddressSpace;
use crate::sync::Arc;
use crate::task::Task;
use crate::uffd::Asked;
pub use crate::vma::Access;
use crate::vma::held::KeepsVma as _;
use crate::vma::{MmapLocked, Protection, Vma, VmaReadGuard};
use crate::walk::leaf_offset;

/// How a fault was resolved. The processor tries the access again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The entry allowed the access already: another fault was faster, or the entry came with a table that
    /// is shared now.
    Present,
    /// A page of the file's page cache was mapped.
    Mapped,
    /// A fresh page of zeroes was mapped.
    Fresh,
    /// The page was copied for this address space alone.
    Copied,
    /// No other address space had the page, so it was made writable.
    Reused,
    /// The entry changed while the fault was under way, or a handler was asked (see [`uffd`](crate::uffd)).
    /// Nothing was done.
    Raced,
}

/// How a fault was resolved, for callers that go on until the access is possible.
#[derive(Clone, Copy)]
struct Resolved {
    fault: Fault,
    /// The page was mapped without the right to write, since a handler had protected the entry.
    protected: bool,
}

impl From<Fault> for Resolved {
    fn from(fault: Fault) -> Self {
        Self { fault, protected: false }
    }
}

const fn allows(rights: Protection, access: Access) -> bool {
    match access {
        // x86-64 cannot map a page for stores or fetches alone.
        Access::Read => !rights.is_empty(),
        Access::Write => rights.contains(Protection::WRITE),
        Access::Execute => rights.contains(Protection::EXECUTE),
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Resolves a fault. May sleep.
    ///
    /// Takes the mmap lock in read, the fault mutex of the page, the VMA lock in read, `i_mmap` in read to
    /// share a table (in write to take a page from children), and table locks.
    ///
    /// If a handler has to resolve the fault, it waits for the handler with nothing held. If a handler has
    /// left without unregistering, it takes the mmap lock in write and unregisters it.
    ///
    /// # Errors
    ///
    /// [`FaultError`]. Nothing was changed then, with two exceptions: tables may have been made on the way,
    /// and a page of the file may be mapped for reading if there was no page for a copy of it.
    pub fn fault(&self, task: &mut Task<P>, address: VirtAddr, access: Access) -> Result<Fault, FaultError> {
        self.resolve(task, address, (access, false), Signals::Any).map(|resolved| resolved.fault)
    }

    /// As a fault for reading, after which the address space has a page of a private mapping to itself. A
    /// page that others share is copied, and stays write-protected. A page that is missing, or that lies in
    /// a shared mapping, is mapped as by any fault. May sleep.
    ///
    /// Linux: `FAULT_FLAG_UNSHARE`.
    ///
    /// # Errors
    ///
    /// As for [`fault`](Self::fault).
    pub(crate) fn unshare_page(&self, task: &mut Task<P>, address: VirtAddr) -> Result<Fault, FaultError> {
        self.resolve(task, address, (Access::Read, true), Signals::Fatal).map(|resolved| resolved.fault)
    }

    /// Resolves faults until the access can go on. May sleep.
    ///
    /// # Errors
    ///
    /// As for [`fault`](Self::fault).
    pub(crate) fn fault_in(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        access: Access,
    ) -> Result<Fault, FaultError> {
        loop {
            match self.resolve(task, address, (access, false), Signals::Fatal)? {
                Resolved { fault: Fault::Raced, .. } => task.pause(),
                // The handler that has protected the entry comes next: the next attempt asks it.
                Resolved { protected: true, .. } if access == Access::Write => {}
                done => return Ok(done.fault),
            }
        }
    }

    fn resolve(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        (access, unshare): (Access, bool),
        signals: Signals,
    ) -> Result<Resolved, FaultError> {
        let hugetlb = self.mm().hugetlb();
        task.enter(hugetlb)?;
        let resolved = self.resolve_untold(task, address, (access, unshare), signals);
        let (mm, write) = (self.mm().id(), access == Access::Write);
        hugetlb.platform().trace(Event::Faulted { mm, address, write, resolved: resolved.is_ok() });
        resolved
    }

    fn resolve_untold(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        (access, unshare): (Access, bool),
        signals: Signals,
    ) -> Result<Resolved, FaultError> {
        let mut tidied = false;
        loop {
            let mmap = self.mmap_read(task);
            let vma = mmap.find(address).ok_or(FaultError::NotMapped { address })?;
            if !allows(vma.protection(), access) {
                return Err(FaultError::Protection { address });
            }
            if let Some(left) = vma.userfault().filter(|context| context.is_gone() && !tidied).cloned() {
                // The handle was dropped, and a drop cannot take the mmap lock to unregister. If there is
                // no memory to unregister now, this fault ignores the handler too.
                drop(mmap);
                self.unregister_all(&left, task);
                tidied = true;
                continue;
            }
            match handle(&mmap.held, vma, address, (access, unshare), task)? {
                Handling::Done(resolved) => return Ok(resolved),
                Handling::Busy(migration) => {
                    drop(mmap);
                    migration.wait(task)?;
                    continue;
                }
                Handling::Wait(WaitFor::Migration(address, frame)) => {
                    let migration = Migration { mm: self.mm().clone(), address, frame };
                    drop(mmap);
                    migration.wait(task)?;
                }
                Handling::Wait(WaitFor::Handler(reason)) => {
                    if let Some(asked) = Asked::new(vma, address, access, reason, task) {
                        asked.wait(mmap, signals, task)?;
                    }
                }
            }
            return Ok(Fault::Raced.into());
        }
    }
}

/// The result of [`hugetlb_fault`].
#[derive(Debug)]
pub enum Handled<P: Platform> {
    /// It was resolved. The processor tries the access again.
    Done(Fault),
    /// The page is being moved. The host releases its mmap lock, [waits](Migration::wait), and begins again with the lookup of
    /// the VMA. Linux: `VM_FAULT_RETRY`.
    Retry(Migration<P>),
}

/// Resolves a fault in a VMA, for hosts with [a set of VMAs of their own](crate::vm_ops). Sleeps.
///
/// Holds: the mmap lock in read. Takes the fault mutex of the page, the VMA lock in read, `i_mmap` in read to share a table (in
/// write to take a page from children), and table locks.
///
/// Linux: `hugetlb_fault()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`FaultError::NotMapped`] if the address does not lie in the VMA, or the VMA was replaced or unmapped; others as for
/// [`AddressSpace::fault`].
pub fn hugetlb_fault<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Arc<Vma<P>>,
    address: VirtAddr,
    access: Access,
    task: &mut Task<P>,
) -> Result<Handled<P>, FaultError> {
    task.enter(mmap.mm().hugetlb())?;
    if !vma.contains(address) || !mmap.keeps(vma) {
        return Err(FaultError::NotMapped { address });
    }
    if !allows(vma.protection(), access) {
        return Err(FaultError::Protection { address });
    }
    fault_under(mmap, vma, address, (access, false), task)
}

/// Resolves a fault in a VMA that contains the address and allows the access, for hosts with a set of VMAs of their own. The second of
/// the two says whether no other address space may have the page afterwards.
pub(crate) fn fault_under<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Arc<Vma<P>>,
    address: VirtAddr,
    access: (Access, bool),
    task: &mut Task<P>,
) -> Result<Handled<P>, FaultError> {
    Ok(match handle(mmap, vma, address, access, task)? {
        Handling::Done(resolved) => Handled::Done(resolved.fault),
        Handling::Busy(migration) => Handled::Retry(migration),
        Handling::Wait(WaitFor::Migration(address, frame)) => {
            Handled::Retry(Migration { mm: mmap.mm().clone(), address, frame })
        }
        // Not reached: no VMA of such a host has a handler.
        Handling::Wait(WaitFor::Handler(_)) => Handled::Done(Fault::Raced),
    })
}

/// How far a fault has come with the mmap lock held.
enum Handling<P: Platform> {
    Done(Resolved),
    /// The page was being moved before the fault began with anything.
    Busy(Migration<P>),
    Wait(WaitFor),
}

/// Resolves a fault in a VMA that contains the address and allows the access. Sleeps.
///
/// The mmap lock is held over all attempts: a fork in between would share the page that was just taken from the
/// children with another child.
fn handle<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Arc<Vma<P>>,
    address: VirtAddr,
    (access, unshare): (Access, bool),
    task: &mut Task<P>,
) -> Result<Handling<P>, FaultError> {
    let (mm, hugetlb) = (mmap.mm(), mmap.mm().hugetlb());
    // Before the fault mutex, which migration holds. Where entries stand for a page together, it is the one that the processor came
    // by: others may be stored before it.
    let locked = VmaReadGuard::beside_section(mmap, vma, task);
    let first = first_look(mm, task, address);
    drop(locked);
    let (entry_address, address) = (address, address.huge_page(vma.size()));
    match first {
        Some(Entry::Hwpoison(_)) => return Err(FaultError::Hwpoison { address, size: vma.size() }),
        Some(Entry::Migration(entry)) => {
            let migration = Migration { mm: mm.clone(), address: entry_address, frame: entry.frame };
            return Ok(Handling::Busy(migration));
        }
        Some(Entry::Leaf(leaf))
            if !unshare && leaf.notes(access == Access::Write) && keeps::<P>(Step::UsePresent) =>
        {
            look_again(vma, address);
            return Ok(Handling::Done(Fault::Present.into()));
        }
        _ => {}
    }
    let index = vma.offset_of(address);
    let mut may_rob = true;
    loop {
        let mutex = hugetlb.fault_mutex(task, vma.file().id(), index);
        let Some(guard) = mmap.lock_vma(vma, task) else {
            return Ok(Handling::Done(Fault::Raced.into()));
        };
        let fault = Faulting { guard: &guard, address, index, access, unshare, may_rob };
        match fault.attempt(task)? {
            Attempt::Done(done) => return Ok(Handling::Done(done.into())),
            Attempt::Failed(error) => return Err(error),
            Attempt::Protected(fault) => return Ok(Handling::Done(Resolved { fault, protected: true })),
            Attempt::RobChildren(page) => {
                // Robbing takes `i_mmap` in write, and VMA locks in write if they are free. So
                // everything but the mmap lock is released, as in Linux.
                drop(guard);
                drop(mutex);
                rob_children(vma, index, page.frame(), task);
                may_rob = false;
            }
            Attempt::Wait(wait) => return Ok(Handling::Wait(wait)),
        }
    }
}

/// What a fault sees before it takes the locks of the page. It looks under RCU, and keeps no slot; what it has seen was an entry of
/// this address space.
///
/// Linux: the start of `hugetlb_fault()` in mm/hugetlb.c.
fn first_look<P: Platform>(mm: &Mm<P>, task: &Task<P>, address: VirtAddr) -> Option<Entry> {
    let section = task.rcu_read_lock();
    let (slot, _) = leaf_offset(&section, mm, address).ok().flatten()?;
    slot.read().ok()
}

/// A page that a fault met while it was being moved.
#[derive(Debug)]
pub struct Migration<P: Platform> {
    mm: Arc<Mm<P>>,
    address: VirtAddr,
    frame: HugeFrame,
}

impl<P: Platform> Migration<P> {
    /// Waits until the entry is no longer a migration entry. Holds nothing meanwhile: neither
    /// a lock that the migration may want, nor a table, which may be unshared and freed. So the caller has released its mmap
    /// lock. Sleeps.
    ///
    /// Linux: `migration_entry_wait_huge()` in mm/migrate.c.
    ///
    /// # Errors
    ///
    /// [`FaultError::OutOfMemory`] if the task cannot queue, [`FaultError::WrongSystem`].
    pub fn wait(self, task: &mut Task<P>) -> Result<(), FaultError> {
        task.check(self.mm.hugetlb())?;
        if !keeps::<P>(Step::SleepOnMigration) {
            return Ok(());
        }
        let Self { mm, address, frame } = self;
        mm.hugetlb().migrations(frame).wait(task, |task| {
            let section = task.rcu_read_lock();
            // If it was not found, or could not be read, the next fault sees what it is now.
            let leaf = leaf_offset(&section, &mm, address).ok().flatten();
            // A migration of another frame has its own queue, and its end does not wake this task.
            let moving = leaf.is_some_and(
                |(slot, _)| matches!(slot.read(), Ok(Entry::Migration(entry)) if entry.frame == frame),
            );
            (!moving).then_some(())
        })?;
        Ok(())
    }
}
