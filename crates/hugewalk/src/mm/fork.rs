//! fork: a second address space with the same mappings.

use core::ops::Range;

use super::unmap::by_table;
use super::{AddressSpace, MapError, MmapWriteGuard};
use crate::addr::{HugeFrame, HugeSize, VirtAddr};
use crate::arch::{Entry, Leaf, LeafFlags, Level};
use crate::fault::leaf_flags;
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::reserve::{NewPage, NoPage};
use crate::share::huge_pte_alloc;
use crate::sync::Arc;
use crate::table::{LockedSlot, Slot, Stable, index_of};
use crate::task::Task;
use crate::uffd::ForkedContexts;
use crate::vma::{Vma, VmaFlags, VmaReadGuard};
use crate::walk::huge_pte_offset;

impl<P: Platform> AddressSpace<P> {
    /// A copy of the address space. Shared mappings are mapped but not filled: the copy takes tables up, or pages, as it
    /// touches them, and so are private ones that never had a page of their own. The others are copied entry by entry, and both sides lose the right to write until one of them
    /// copies the page; but a page that somebody has pinned (see [`gup`](crate::gup)) stays the parent's as it is, and the
    /// copy gets a page of its own at once. Reservations stay with the parent. Sleeps.
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
            child.exit(task);
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
    // Nobody else knows the child yet; its lock is taken as the proof that the walks below ask for.
    let mut into = child.mmap_write(task);
    for old in parent.vmas.iter() {
        if old.flags().contains(VmaFlags::DONTFORK) {
            continue;
        }
        let shape = old.shape();
        let userfault = contexts.of_copy(old, child, task)?;
        let new = Vma::with_handler(child.mm(), old.file(), shape, None, userfault.as_ref())?;
        into.vmas.prepare(1)?;
        // In the tree before the entries are copied: truncation then finds the original or the copy of each.
        old.file().i_mmap_write(task).insert_after(old, new.clone())?;
        into.vmas.put(new.clone());
        // What the file has the child finds there; pages of one's own and write protections are nowhere but in the entries.
        // Linux: vma_needs_copy().
        if old.is_anon() || new.flags().contains(VmaFlags::UFFD_WP) {
            copy_entries(parent, old, &into, &new, task)?;
            // After the entries: a page that was taken away from the parent before it was copied is missed by the child as
            // well, which must not find zeroes in its place. (Linux forgets it here, and the child does.)
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
    // The parent's processors may still have the pages writable; also where the copying stopped half way.
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
    // A copy may find the entry changed, by who works on the file; then what it is now is copied.
    let mut ready: Option<PinnedCopy<'_, P>> = None;
    while !range.is_empty() {
        // The parent's table first; the child's is known to nobody who would lock them the other way round.
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
    /// Held, so that it is the same page still if the entry has the same frame.
    of: PageRef<'a, P>,
    copy: NewPage<'a, P>,
}

impl<'a, P: Platform> PinnedCopy<'a, P> {
    fn new(of: PageRef<'a, P>, vma: &'a Vma<P>, address: VirtAddr) -> Result<Self, NoPage> {
        let file = vma.file();
        let (hugetlb, size) = (file.hugetlb(), vma.size());
        let index = vma.offset_of(address);
        // The parent's reservation is not for this.
        let copy = NewPage::take(hugetlb, size, &vma.promises(), file.subpool(), index, true)?;
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
    // Only who has a handler who wants the child too keeps the handler's write protections.
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
            // The mover has taken pinned pages for busy, so this one may be shared. The child's entry is counted, and found by
            // the mover, since the child's mapping is in the file's tree; see `rmap`.
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

/// Write-protects a leaf and counts a second mapping of its page; not if the page is pinned, since who pinned it relies on
/// the parent to go on using this very page. Then the page comes back, with a reference, and all is as it was.
///
/// The page is made shared first, and pins are looked for then. Who pins without a lock does it the other way round: takes
/// the pin, then sees that the entry can still be written, or that the page is mapped once. All four are sequentially
/// consistent, so at least one of the two finds out about the other. Linux: `write_protect_seq`, `page_needs_cow_for_dma()`.
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
