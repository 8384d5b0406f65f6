//! Pins under an mmap lock of the host's: for hosts with [a set of VMAs of their own](crate::vm_ops).

use super::follow::{Follow, Missing, Want};
use super::{GupError, GupFlags, PinnedPage, Pins, SystemRef, check, check_rights, is_cached};
use crate::addr::VirtAddr;
use crate::fault::{Access, Fault, Handled, Migration, fault_under};
use crate::platform::Platform;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::held::KeepsVma as _;
use crate::vma::{MmapLocked, Vma};

/// The result of [`follow_hugetlb_page`].
#[derive(Debug)]
pub enum Followed<P: Platform> {
    /// As many pages as possible, from the first on.
    Pages(Pins<P>),
    /// The first page is being moved. The host releases its mmap lock, [waits](Migration::wait), and begins again with the lookup of
    /// the VMA.
    Retry(Migration<P>),
}

/// Takes references to pages of one VMA, of `length` bytes from `address` on, up to the end of the VMA. Missing pages are faulted in.
/// Sleeps.
///
/// [`Pins::bytes`] says how far it came. If it stopped at the end of the VMA, the host goes on with the next one.
///
/// Holds: the mmap lock in read. Takes table locks, for 16 pages of a table at a time, and what
/// [`hugetlb_fault`](crate::fault::hugetlb_fault) takes.
///
/// Linux: `follow_hugetlb_page()` in mm/hugetlb.c, and `__get_user_pages()` in mm/gup.c since 6.5.
///
/// # Errors
///
/// [`GupError`] if not even the first page could be taken; [`GupError::NotMapped`] if the address does not lie in the VMA, or the
/// VMA was replaced or unmapped.
pub fn follow_hugetlb_page<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Arc<Vma<P>>,
    address: VirtAddr,
    length: u64,
    flags: GupFlags,
    task: &mut Task<P>,
) -> Result<Followed<P>, GupError> {
    check(mmap.mm(), task, flags)?;
    task.enter(mmap.mm().hugetlb())?;
    check_vma(mmap, vma, address, flags)?;
    let length = length.min(vma.end().offset_from(address));
    let mut pins = Pins::new(task.hugetlb().clone(), address, length, Want::of(flags));
    // SAFETY: `pins` has a handle, and is declared before what the value is used for.
    let system = unsafe { SystemRef::of_mm(mmap.mm()) };
    let access = if flags.contains(GupFlags::WRITE) { Access::Write } else { Access::Read };
    let mut moving = None;
    let filled = pins.fill(|at, pins| {
        loop {
            let unshare = match mmap.mm().follow_run(task, system, at..vma.end(), pins)? {
                Follow::Page(()) => return Ok(()),
                Follow::Missing(Missing::Hole) if flags.contains(GupFlags::DUMP) && !is_cached(vma, at) => {
                    return Err(GupError::NoPage { address: at });
                }
                Follow::Missing(Missing::Hole | Missing::MustFault) => false,
                Follow::Missing(Missing::MustUnshare) => true,
            };
            let wanted = if unshare { (Access::Read, true) } else { (access, false) };
            match fault_under(mmap, vma, at, wanted, task)? {
                Handled::Done(Fault::Raced) => task.pause(),
                Handled::Done(_) => {}
                Handled::Retry(migration) => {
                    moving = Some(migration);
                    return Err(GupError::WouldSleep);
                }
            }
        }
    });
    match (filled, moving) {
        (Err(_), Some(migration)) => Ok(Followed::Retry(migration)),
        (filled, _) => filled.map(|()| Followed::Pages(pins)),
    }
}

/// Takes a reference to the page that is mapped at an address of a VMA now. `None` if there is none, if it is being moved, or if it
/// needs a fault first. Does not sleep.
///
/// Holds: the mmap lock in read. Takes the table lock.
///
/// Linux: `hugetlb_follow_page_mask()` in mm/hugetlb.c.
///
/// # Errors
///
/// As for [`AddressSpace::follow_page`](crate::AddressSpace::follow_page); [`GupError::NotMapped`] if the address does not lie in
/// the VMA, or the VMA was replaced or unmapped.
pub fn hugetlb_follow_page<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Arc<Vma<P>>,
    address: VirtAddr,
    flags: GupFlags,
    task: &Task<P>,
) -> Result<Option<PinnedPage<P>>, GupError> {
    check(mmap.mm(), task, flags)?;
    check_vma(mmap, vma, address, flags)?;
    Ok(match mmap.mm().follow(task, task.hugetlb().clone(), address, Want::of(flags))? {
        Follow::Page(page) => Some(page),
        Follow::Missing(_) => None,
    })
}

fn check_vma<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Vma<P>,
    address: VirtAddr,
    flags: GupFlags,
) -> Result<(), GupError> {
    if !vma.contains(address) || !mmap.keeps(vma) {
        return Err(GupError::NotMapped { address });
    }
    check_rights(vma, address, flags)
}
