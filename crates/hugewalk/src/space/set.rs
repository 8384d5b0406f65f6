//! The VMAs of an address space, by address.

use alloc::boxed::Box;
use core::ops::Range;

use super::claims::Claims;
use crate::addr::VirtAddr;
use crate::avl::{Node, Sorted, Tree};
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::sync::Arc;
use crate::vma::Vma;

/// A VMA in the set, or on its way there, with its bounds.
struct Mapped<P: Platform> {
    start: VirtAddr,
    end: VirtAddr,
    vma: Arc<Vma<P>>,
}

/// What is known of a run of VMAs.
#[derive(Clone, Copy)]
struct Run {
    start: VirtAddr,
    end: VirtAddr,
    /// Bytes of the largest hole between two neighbours.
    hole: u64,
}

impl<P: Platform> Sorted for Mapped<P> {
    type Key = VirtAddr;
    type Summary = Run;

    fn key(&self) -> VirtAddr {
        self.start
    }

    fn summary(&self) -> Run {
        Run { start: self.start, end: self.end, hole: 0 }
    }

    fn join(first: Run, second: Run) -> Run {
        let between = second.start.offset_from(first.end);
        Run { start: first.start, end: second.end, hole: between.max(first.hole).max(second.hole) }
    }
}

/// The place that a VMA will have in the set of its address space: the memory for it, and the VMA.
pub(crate) struct SetPlace<P: Platform>(Box<Node<Mapped<P>>>);

impl<P: Platform> SetPlace<P> {
    pub(crate) fn new(vma: Arc<Vma<P>>) -> Result<Self, OutOfMemory> {
        Ok(Self(Node::new(Mapped { start: vma.start(), end: vma.end(), vma })?))
    }

    pub(crate) fn vma(&self) -> &Arc<Vma<P>> {
        &self.0.element().vma
    }
}

/// VMAs by address, none of which overlap, in no address space or no longer: places that wait.
pub(crate) struct Places<P: Platform> {
    tree: Tree<Mapped<P>>,
}

impl<P: Platform> Places<P> {
    pub(crate) const fn new() -> Self {
        Self { tree: Tree::new() }
    }

    pub(crate) fn put(&mut self, place: SetPlace<P>) {
        self.tree.insert(place.0);
    }

    /// The VMAs, by address.
    pub(crate) fn vmas(&self) -> impl Iterator<Item = &Arc<Vma<P>>> {
        self.tree.iter().map(|mapped| &mapped.vma)
    }

    /// Takes the first one out.
    pub(crate) fn pop_first(&mut self) -> Option<SetPlace<P>> {
        self.tree.pop_first().map(SetPlace)
    }
}

/// The VMAs of an address space. Linux: the maple tree `mm_mt`.
///
/// A balanced tree that knows of each subtree its largest hole, so that a free range is found without looking at each.
///
/// # Invariants
///
/// Sorted by start; no two overlap, and none overlaps a claim.
pub(crate) struct VmaSet<P: Platform> {
    vmas: Tree<Mapped<P>>,
    /// The ranges of the host's own mappings.
    pub(crate) claims: Claims,
    /// The address space has exited: no mapping can be made any more.
    pub(crate) exited: bool,
    /// New mappings are faulted in at once. Linux: `VM_LOCKED` in `def_flags`.
    pub(crate) locks_new: bool,
}

impl<P: Platform> VmaSet<P> {
    pub(crate) const fn new() -> Self {
        Self { vmas: Tree::new(), claims: Claims::new(), exited: false, locks_new: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.vmas.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Vma<P>>> {
        self.vmas.iter().map(|mapped| &mapped.vma)
    }

    /// The VMA that contains the address.
    pub(crate) fn find(&self, address: VirtAddr) -> Option<&Arc<Vma<P>>> {
        self.vmas.at_or_below(address).filter(|found| address < found.end).map(|found| &found.vma)
    }

    /// The VMAs that overlap the range, by address.
    pub(crate) fn overlapping(&self, range: &Range<VirtAddr>) -> impl Iterator<Item = &Arc<Vma<P>>> {
        // Mostly few, so each is looked for: that needs no memory of the way to the one before.
        let end = range.end;
        let next = move |vma: &&'_ Arc<Vma<P>>| {
            self.vmas.above(vma.start()).filter(|found| found.start < end).map(|found| &found.vma)
        };
        core::iter::successors(self.first_in(range), next)
    }

    /// The first VMA that overlaps the range.
    pub(crate) fn first_in(&self, range: &Range<VirtAddr>) -> Option<&Arc<Vma<P>>> {
        let before = self.vmas.at_or_below(range.start).filter(|found| range.start < found.end);
        let first = before.or_else(|| self.vmas.above(range.start));
        first.filter(|found| found.start < range.end).map(|found| &found.vma)
    }

    /// The end of the run of VMAs that begins at the start of the range, or the end of the range if it reaches that.
    pub(crate) fn mapped_until(&self, range: &Range<VirtAddr>) -> VirtAddr {
        let mut end = range.start;
        for vma in self.overlapping(range) {
            if vma.start() > end {
                break;
            }
            end = vma.end();
        }
        end.min(range.end)
    }

    /// Puts in a VMA whose range is free.
    pub(crate) fn put(&mut self, place: SetPlace<P>) {
        debug_assert!(self.find(place.vma().start()).is_none(), "{:?} overlaps another", place.vma());
        self.vmas.insert(place.0);
    }

    /// Puts a VMA in the place of one of the same bounds. Returns the other place, with that one.
    pub(crate) fn replace(&mut self, mut place: SetPlace<P>) -> SetPlace<P> {
        let new = place.0.element_mut();
        match self.vmas.find_mut(new.start) {
            Some(old) if old.end == new.end => core::mem::swap(&mut old.vma, &mut new.vma),
            _ => debug_assert!(false, "{:?} replaces none", new.vma),
        }
        place
    }

    /// Takes a VMA out. Returns its place.
    pub(crate) fn remove(&mut self, vma: &Vma<P>) -> Option<SetPlace<P>> {
        let is_there =
            self.vmas.find(vma.start()).is_some_and(|found| core::ptr::eq::<Vma<P>>(&*found.vma, vma));
        if is_there { self.vmas.remove(vma.start()).map(SetPlace) } else { None }
    }

    /// Takes the last VMA out.
    pub(crate) fn pop_last(&mut self) -> Option<SetPlace<P>> {
        self.vmas.pop_last().map(SetPlace)
    }

    /// The first address of a range that is mapped, or claimed by the host.
    pub(crate) fn first_taken(&self, range: &Range<VirtAddr>) -> Option<VirtAddr> {
        let mapped = self.first_in(range).map(|vma| vma.start().max(range.start));
        [mapped, self.claims.first_in(range)].into_iter().flatten().min()
    }

    /// What `fits` answers for the highest hole between mappings that lies in `bounds` and has `length` bytes, and for which it has an
    /// answer.
    pub(super) fn highest_hole(
        &self,
        bounds: Range<VirtAddr>,
        length: u64,
        fits: &impl Fn(Range<VirtAddr>) -> Option<VirtAddr>,
    ) -> Option<VirtAddr> {
        let lowest = VirtAddr::new(bounds.start.as_u64().max(1));
        highest(self.vmas.root(), lowest..bounds.end, length, fits)
    }
}

/// What `fits` answers for the highest hole in `bounds` that it has an answer for. It is asked for holes of at least
/// `length` bytes, from the highest down.
fn highest<P: Platform>(
    below: Option<&Node<Mapped<P>>>,
    bounds: Range<VirtAddr>,
    length: u64,
    fits: &impl Fn(Range<VirtAddr>) -> Option<VirtAddr>,
) -> Option<VirtAddr> {
    let holds = |from: VirtAddr, to: VirtAddr| to > from && to.offset_from(from) >= length;
    if !holds(bounds.start, bounds.end) {
        return None;
    }
    let Some(node) = below else { return fits(bounds) };
    let run = node.summary();
    if run.hole < length && !holds(bounds.start, run.start) && !holds(run.end, bounds.end) {
        return None;
    }
    let mapped = node.element();
    let (before, after) =
        (bounds.start..bounds.end.min(mapped.start), bounds.start.max(mapped.end)..bounds.end);
    highest(node.right(), after, length, fits).or_else(|| highest(node.left(), before, length, fits))
}
