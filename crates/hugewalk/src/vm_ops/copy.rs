//! Copying a VMA at fork.

use core::ops::Range;

use super::{empty, enter};
use crate::addr::VirtAddr;
use crate::arch::Entry;
use crate::entries::{At, Contents, FreshPage, Install, NotFresh, by_table};
use crate::error::{MapError, OutOfMemory, WrongSystem};
use crate::file::TreePlace;
use crate::hugetlb::Hugetlb;
use crate::notice::Notice;
use crate::page::PageRef;
use crate::platform::{Flush, Invalidation, Platform};
use crate::share::huge_pte_alloc;
use crate::sync::Arc;
use crate::table::{LockedSlot, Slot, Stable};
use crate::task::Task;
use crate::vma::{MmapLockedForWrite, Vma, VmaFlags, VmaReadGuard};
use crate::walk::huge_pte_offset;

/// Copies a VMA of a parent to a child, at the same addresses, and returns the child's. Sleeps.
///
/// What that means for shared and private mappings, for pinned pages and for reservations is said at
/// [`AddressSpace::fork`](crate::AddressSpace::fork). The host does not call it for VMAs that children do not get.
///
/// After an error the child has no such VMA. The host calls [`free_tables`](super::free_tables) for the range: some tables may
/// have been made there.
///
/// Holds: the mmap locks of both in write. Takes `i_mmap` in write, and for private mappings the VMA lock in read.
///
/// Linux: `dup_mmap()` in kernel/fork.c for the order, `copy_hugetlb_page_range()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`MapError::NotMapped`] if the VMA was replaced or unmapped, [`MapError::OutOfMemory`], [`MapError::NoPage`] if there is no
/// page to copy a pinned one to, [`MapError::Hwpoison`] if the memory of a pinned one fails; [`MapError::WrongSystem`].
///
/// # Safety
///
/// The range of the VMA is free in the child, as for [`map`](super::map()).
pub unsafe fn copy<P: Platform>(
    parent: &mut MmapLockedForWrite<'_, P>,
    vma: &Vma<P>,
    child: &mut MmapLockedForWrite<'_, P>,
    task: &mut Task<P>,
) -> Result<Arc<Vma<P>>, MapError> {
    enter(parent, vma, task)?;
    if !core::ptr::eq::<Hugetlb<P>>(parent.mm().hugetlb(), child.mm().hugetlb()) {
        return Err(WrongSystem.into());
    }
    let new = Vma::new(child.mm(), vma.file(), vma.shape(), None)?;
    link_copy(vma, &new, task)?;
    if let Err(error) = copy_if_needed(parent, vma, child, &new, task) {
        empty(child, &new, task);
        return Err(error);
    }
    Ok(new)
}

/// Puts a child's VMA into the file's tree, behind its original. Takes `i_mmap` in write. Sleeps.
///
/// That comes before the entries are copied: so truncation finds the original or the copy of each.
pub(crate) fn link_copy<P: Platform>(
    old: &Vma<P>,
    new: &Arc<Vma<P>>,
    task: &mut Task<P>,
) -> Result<(), OutOfMemory> {
    let place = TreePlace::new(new.clone())?;
    old.file().i_mmap_write_within(task).insert_after(old, place);
    Ok(())
}

/// Copies the entries of a VMA to a child's that was linked, if they say more than the file does.
pub(crate) fn copy_if_needed<P: Platform>(
    parent: &MmapLockedForWrite<'_, P>,
    old: &Vma<P>,
    child: &MmapLockedForWrite<'_, P>,
    new: &Vma<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    // The child finds the file's pages in the file. Pages of its own and write protections are recorded
    // in the entries only. Linux: vma_needs_copy().
    if old.is_anon() || new.flags().contains(VmaFlags::UFFD_WP) {
        copy_entries(parent, old, child, new, task)?;
        // After the entries. A page that was taken away from the parent before it was copied is missing
        // in the child as well, and the child must not find zeroes in its place. (Linux forgets that it
        // was taken, so there a child finds zeroes.)
        new.take_over_from(old);
    }
    Ok(())
}

fn copy_entries<P: Platform>(
    parent: &MmapLockedForWrite<'_, P>,
    old: &Vma<P>,
    child: &MmapLockedForWrite<'_, P>,
    new: &Vma<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    let locks = (VmaReadGuard::lock(parent, old, task), VmaReadGuard::lock(child, new, task));
    let (Some(from), Some(to)) = locks else {
        return Ok(());
    };
    let size = old.size();
    // Told of the end after the flush below. The entries of a shared mapping stay as they are.
    let changes = if old.is_shared() { old.start()..old.start() } else { old.start()..old.end() };
    let _notice = Notice::start(old.mm(), changes, Invalidation::Clear, task);
    let mut result = Ok(());
    for part in by_table(old.mm().geometry(), old.start()..old.end(), size) {
        let Ok(Some(source)) = huge_pte_offset(&from, old.mm(), part.start, size) else {
            continue;
        };
        let target = match huge_pte_alloc(&to, new, part.start, None, task) {
            Ok(slot) => slot,
            Err(error) => {
                result = Err(error.into());
                break;
            }
        };
        result = copy_range(&source, &target, (old, new), part, task);
        if result.is_err() {
            break;
        }
    }
    // The parent's processors may still have the pages writable in their TLBs, also where the copying
    // stopped half way.
    let flush = Flush { range: old.start()..old.end(), stride: old.size().member_bytes(), tables: false };
    old.mm().hugetlb().platform().flush_tlb(old.mm().context(), flush);
    result
}

/// Copies the entries of a range that lies in one table.
fn copy_range<P: Platform>(
    source: &Slot<'_, P, Stable>,
    target: &Slot<'_, P, Stable>,
    (old, new): (&Vma<P>, &Vma<P>),
    mut range: Range<VirtAddr>,
    task: &Task<P>,
) -> Result<(), MapError> {
    // The entry may have changed while the page was copied, through an operation on the file. Then what it
    // says now is copied.
    let mut ready: Option<PinnedCopy<'_, P>> = None;
    while !range.is_empty() {
        // The parent's table first. No other thread knows the child's table, so none locks the two in the
        // other order.
        let mut source = source.lock(task);
        let mut target = target.lock(task);
        let pinned = copy_table(&mut source, &mut target, (old, new), &mut range, ready.take());
        drop((source, target));
        if let Some(pinned) = pinned {
            let copy = PinnedCopy::new(pinned, new, range.start);
            ready = Some(copy.map_err(|error| error.of_fork(range.start))?);
        }
    }
    Ok(())
}

/// A page that is pinned in the parent, and the copy of it for the child. Made without a table lock.
///
/// Linux: `copy_hugetlb_page_range()` in mm/hugetlb.c, where `page_try_dup_anon_rmap()` fails.
struct PinnedCopy<'a, P: Platform> {
    /// Held, so that an entry with the same frame still means the same page.
    of: PageRef<'a, P>,
    copy: FreshPage<'a, P>,
}

impl<'a, P: Platform> PinnedCopy<'a, P> {
    fn new(of: PageRef<'a, P>, vma: &'a Vma<P>, address: VirtAddr) -> Result<Self, NotFresh> {
        // The parent's reservation is not used for the copy.
        let copy = FreshPage::new(vma, vma.offset_of(address), &Contents::Of(&of), true)?;
        Ok(Self { of, copy })
    }

    fn install(self, from: &At<'_, '_, P>, to: &At<'_, '_, P>, protected: bool) {
        let how = Install { writable: true, protected, written: true };
        to.install_beside(from, self.copy.commit(), how);
    }
}

/// Copies entries under the locks of both tables, and moves the start of the range along. Stops at a page that is pinned
/// and has to be copied first, unless `ready` is that copy.
fn copy_table<'n, P: Platform>(
    source: &mut LockedSlot<'_, P>,
    target: &mut LockedSlot<'_, P>,
    (old, new): (&'n Vma<P>, &'n Vma<P>),
    range: &mut Range<VirtAddr>,
    mut ready: Option<PinnedCopy<'n, P>>,
) -> Option<PageRef<'n, P>> {
    while range.start < range.end {
        source.move_to(range.start);
        target.move_to(range.start);
        let (from, to) = (At::new(source, old, range.start), At::new(target, new, range.start));
        match (from.read(), ready.take()) {
            (Entry::Leaf(leaf), Some(copied)) if copied.of.frame() == leaf.frame => {
                copied.install(&from, &to, leaf.is_protected() && new.flags().contains(VmaFlags::UFFD_WP));
            }
            _ => {
                if let Err(pinned) = from.copy_to(&to) {
                    return Some(pinned);
                }
            }
        }
        range.start = range.start.plus(new.size().bytes());
    }
    None
}
