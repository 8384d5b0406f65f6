//! fork: a second address space with the same mappings.

use core::ops::Range;

use crate::addr::VirtAddr;
use crate::arch::{Entry, Level};
use crate::entries::{At, Contents, FreshPage, Install, by_table};
use crate::error::MapError;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::reserve::NoPage;
use crate::share::huge_pte_alloc;
use crate::space::{AddressSpace, MmapWriteGuard};
use crate::sync::Arc;
use crate::table::{LockedSlot, Slot, Stable, index_of};
use crate::task::Task;
use crate::uffd::ForkedContexts;
use crate::vma::{Vma, VmaFlags, VmaReadGuard};
use crate::walk::huge_pte_offset;

impl<P: Platform> AddressSpace<P> {
    /// Returns a copy of the address space. Sleeps.
    ///
    /// - A shared mapping is mapped in the copy but not filled: the copy shares tables, or maps pages, as
    ///   it touches them. The same holds for a private mapping that never had a page of its own.
    /// - Other private mappings are copied entry by entry. Parent and copy lose the right to write to a
    ///   page until one of them copies it.
    /// - A page that is pinned (see [`gup`](crate::gup)) stays the parent's as it is, and the copy gets a
    ///   page of its own at once.
    /// - Reservations stay with the parent.
    ///
    /// Takes the mmap locks of both in write, for each VMA `i_mmap` in write, and for private ones the VMA lock in read.
    ///
    /// Linux: `dup_mmap()` in kernel/fork.c, `copy_hugetlb_page_range()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfMemory`], [`MapError::NoPage`] if there is no page to copy a pinned one to, [`MapError::Exited`];
    /// there is no copy then.
    pub fn fork(&self, task: &mut Task<P>) -> Result<Arc<Self>, MapError> {
        task.enter(self.mm().hugetlb())?;
        let child = Self::new(task.hugetlb())?;
        let mut parent = self.mmap_write(task);
        if parent.vmas.exited {
            return Err(MapError::Exited);
        }
        let mut contexts = ForkedContexts::new();
        let copied = copy_vmas(&mut parent, &child, &mut contexts, task);
        if let Err(error) = copied {
            child.unmap_all(task);
            return Err(error);
        }
        drop(parent);
        contexts.tell(task);
        Ok(child)
    }
}

fn copy_vmas<P: Platform>(
    parent: &mut MmapWriteGuard<'_, P>,
    child: &Arc<AddressSpace<P>>,
    contexts: &mut ForkedContexts<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    // No other thread can reach the child yet. Its lock is taken because the walks below need it as their
    // proof.
    let mut into = child.mmap_write(task);
    for old in parent.vmas.iter() {
        if old.flags().contains(VmaFlags::DONTFORK) {
            continue;
        }
        let shape = old.shape();
        let userfault = contexts.of_copy(old, child, task)?;
        let new = Vma::with_handler(child.mm(), old.file(), shape, None, userfault.as_ref())?;
        into.vmas.prepare(1)?;
        // Put into the tree before the entries are copied: so truncation finds the original or the copy of
        // each.
        old.file().i_mmap_write(task).insert_after(old, new.clone())?;
        into.vmas.put(new.clone());
        // The child finds the file's pages in the file. Pages of its own and write protections are recorded
        // in the entries only. Linux: vma_needs_copy().
        if old.is_anon() || new.flags().contains(VmaFlags::UFFD_WP) {
            copy_entries(parent, old, &into, &new, task)?;
            // After the entries. A page that was taken away from the parent before it was copied is missing
            // in the child as well, and the child must not find zeroes in its place. (Linux forgets that it
            // was taken, so there a child finds zeroes.)
            new.take_over_from(old);
        }
    }
    Ok(())
}

fn copy_entries<P: Platform>(
    parent: &MmapWriteGuard<'_, P>,
    old: &Vma<P>,
    child: &MmapWriteGuard<'_, P>,
    new: &Vma<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    let locks = (VmaReadGuard::lock(parent, old, task), VmaReadGuard::lock(child, new, task));
    let (Some(from), Some(to)) = locks else {
        return Ok(());
    };
    let size = old.size();
    let mut result = Ok(());
    for part in by_table(old.start()..old.end(), size) {
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
    old.mm().hugetlb().platform().flush_tlb(old.mm().context(), old.start()..old.end());
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
            ready = Some(PinnedCopy::new(pinned, new, range.start)?);
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
    fn new(of: PageRef<'a, P>, vma: &'a Vma<P>, address: VirtAddr) -> Result<Self, NoPage> {
        // The parent's reservation is not used for the copy.
        let copy = FreshPage::new(vma, vma.offset_of(address), &Contents::Of(&of), true)?;
        Ok(Self { of, copy })
    }

    fn install(self, at: &At<'_, '_, P>, protected: bool) {
        let how = Install { writable: true, protected, written: true };
        at.install(Entry::None, self.copy.commit(), how);
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
    let size = new.size();
    let shift = Level::of_leaf(size).shift();
    while range.start < range.end {
        let index = index_of(range.start, shift);
        source.move_to(index);
        target.move_to(index);
        let (from, to) = (At::new(source, old, range.start), At::new(target, new, range.start));
        match (from.read(), ready.take()) {
            (Entry::Leaf(leaf), Some(copied)) if copied.of.frame() == leaf.frame => {
                copied.install(&to, leaf.is_protected() && new.flags().contains(VmaFlags::UFFD_WP));
            }
            _ => {
                if let Err(pinned) = from.copy_to(&to) {
                    return Some(pinned);
                }
            }
        }
        range.start = range.start.plus(size.bytes());
    }
    None
}
