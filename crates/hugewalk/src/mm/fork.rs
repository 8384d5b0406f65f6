//! fork: a second address space with the same mappings.

use core::ops::Range;

use crate::addr::{HugeFrame, HugeSize, VirtAddr};
use crate::arch::{Entry, Leaf, LeafFlags, Level};
use crate::entries::by_table;
use crate::entries::leaf_flags;
use crate::error::MapError;
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::reserve::{NewPage, NoPage};
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
        result = copy_range(&source, &target, new, part, task);
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
    new: &Vma<P>,
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
        let pinned = copy_table(&mut source, &mut target, new, &mut range, ready.take());
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
    copy: NewPage<'a, P>,
}

impl<'a, P: Platform> PinnedCopy<'a, P> {
    fn new(of: PageRef<'a, P>, vma: &'a Vma<P>, address: VirtAddr) -> Result<Self, NoPage> {
        let file = vma.file();
        let (hugetlb, size) = (file.hugetlb(), vma.size());
        let index = vma.offset_of(address);
        // The parent's reservation is not used for the copy.
        let copy = NewPage::take(hugetlb, size, &vma.reservations(), file.subpool(), index, true)?;
        copy.set_private(file);
        // SAFETY: both are held, and of the file's size; the copy was taken above, so they are two.
        unsafe { hugetlb.platform().copy_huge(of.frame(), copy.frame(), size) };
        Ok(Self { of, copy })
    }

    fn install(self, target: &LockedSlot<'_, P>, vma: &Vma<P>, protected: bool) {
        let used = LeafFlags::ACCESSED | LeafFlags::DIRTY | LeafFlags::SOFT_DIRTY;
        self.copy.page().add_mapping();
        vma.mm().add_resident(vma.size());
        let mut flags = leaf_flags(vma, !protected) | used;
        flags.set(LeafFlags::UFFD_WP, protected);
        target.fill(Entry::Leaf(Leaf { frame: self.copy.frame(), flags }));
        self.copy.commit();
    }
}

/// Copies entries under the locks of both tables, and moves the start of the range along. Stops at a page that is pinned
/// and has to be copied first, unless `ready` is that copy.
fn copy_table<'n, P: Platform>(
    source: &mut LockedSlot<'_, P>,
    target: &mut LockedSlot<'_, P>,
    new: &'n Vma<P>,
    range: &mut Range<VirtAddr>,
    mut ready: Option<PinnedCopy<'n, P>>,
) -> Option<PageRef<'n, P>> {
    let (mm, size) = (new.mm(), new.size());
    let shift = Level::of_leaf(size).shift();
    // The child keeps write protections only if the handler asked for fork events.
    let keeps_protections = new.flags().contains(VmaFlags::UFFD_WP);
    while range.start < range.end {
        let index = index_of(range.start, shift);
        source.move_to(index);
        target.move_to(index);
        let entry = source.read();
        let copy = if keeps_protections { entry } else { entry.without_uffd_wp() };
        match (copy, ready.take()) {
            (Entry::Leaf(leaf), Some(copied)) if copied.of.frame() == leaf.frame => {
                copied.install(target, new, leaf.flags.contains(LeafFlags::UFFD_WP));
            }
            (Entry::Leaf(leaf), _) if new.is_shared() => {
                mm.hugetlb().page(leaf.frame).add_mapping();
                mm.add_resident(size);
                target.fill(Entry::Leaf(leaf));
            }
            (Entry::Leaf(leaf), _) => {
                if let Err(pinned) = make_shared(source, mm.hugetlb(), entry, leaf.frame, size) {
                    return Some(pinned);
                }
                mm.add_resident(size);
                // A bit that a processor of the parent has set since stays in the parent's entry.
                target.fill(copy.without_write());
            }
            (Entry::Hwpoison(_) | Entry::Marker, _) => target.fill(copy),
            (Entry::Migration(migration), _) if new.is_shared() => {
                mm.hugetlb().page(migration.frame).add_migration();
                target.fill(copy);
            }
            // Migration refuses pinned pages, so this one may be shared. The child's entry is counted, and
            // the migration finds it, since the child's mapping is in the file's tree; see `rmap`.
            (Entry::Migration(migration), _) => {
                mm.hugetlb().page(migration.frame).add_migration();
                source.replace_seen(entry, Entry::without_write);
                target.fill(copy.without_write());
            }
            (Entry::None | Entry::Table(_), _) => {}
        }
        range.start = range.start.plus(size.bytes());
    }
    None
}

/// Write-protects a leaf and counts a second mapping of its page, unless the page is pinned: the pin's
/// owner relies on the parent to go on using this very page. If it is pinned, the page is returned with a
/// reference, and all is as it was.
///
/// This function first makes the page shared and then looks for pins. A GUP-fast walker works the other way
/// round: it first takes the pin, and then sees that the entry can still be written, or that the page is
/// mapped once. All four accesses are sequentially consistent, so at least one of the two sides notices the
/// other.
///
/// Linux: `write_protect_seq`, `page_needs_cow_for_dma()`.
fn make_shared<'h, P: Platform>(
    source: &LockedSlot<'_, P>,
    hugetlb: &'h Hugetlb<P>,
    entry: Entry,
    frame: HugeFrame,
    size: HugeSize,
) -> Result<(), PageRef<'h, P>> {
    let page = hugetlb.page(frame);
    let writable = entry != entry.without_write();
    if writable {
        source.replace_seen(entry, Entry::without_write);
    }
    page.add_mapping();
    if !page.is_anon() || page.pins() == 0 {
        return Ok(());
    }
    if writable {
        source.replace(|entry| entry.with(LeafFlags::WRITE));
    }
    page.remove_mapping();
    // SAFETY: the reference of the mapping that is not made after all.
    Err(unsafe { PageRef::from_raw(hugetlb, frame, size) })
}
