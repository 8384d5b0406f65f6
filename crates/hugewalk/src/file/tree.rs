//! The VMAs that map a file, by the offset they start at.

use alloc::boxed::Box;
use core::ops::{Range, RangeInclusive};

use super::ranks::{Spread, free_between};
use crate::avl::{Node, Sorted, Tree};
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::sync::Arc;
use crate::vma::Vma;

/// A VMA in the tree, or on its way there.
struct Mapping<P: Platform> {
    /// That of its start, and of its end, in huge pages.
    offset: u64,
    end: u64,
    /// As [`Vma::rank`].
    rank: u64,
    vma: Arc<Vma<P>>,
}

impl<P: Platform> Mapping<P> {
    fn new(vma: Arc<Vma<P>>) -> Self {
        let offsets = vma.offsets();
        Self { offset: offsets.start, end: offsets.end, rank: vma.rank(), vma }
    }

    /// Gives the VMA its rank. `i_mmap` is held in write.
    fn set_rank(&mut self, rank: u64) {
        self.rank = rank;
        self.vma.set_rank(rank);
    }
}

impl<P: Platform> Sorted for Mapping<P> {
    type Key = (u64, u64);
    /// The largest end of an offset range.
    type Summary = u64;

    fn key(&self) -> (u64, u64) {
        (self.offset, self.rank)
    }

    fn summary(&self) -> u64 {
        self.end
    }

    fn join(first: u64, second: u64) -> u64 {
        first.max(second)
    }
}

/// The VMAs of a file by the offset they start at. Linux: the interval tree `i_mmap`.
///
/// A balanced tree that knows of each subtree how far its VMAs reach, so that a search leaves out those that end before
/// the range.
///
/// VMAs that start at the same offset lie in the order in which they were inserted, with one
/// exception: the copy that fork makes lies right behind its original. This order has two uses.
///
/// - A walker visits all VMAs while fork copies the parent's entries to the child. It finds each
///   entry in the parent before the entry is copied, or in the child afterwards.
/// - The order of visits is defined. A hole punch unshares a table from one VMA after the other,
///   and takes its page out of the last one.
///
/// Linux: `vma_interval_tree_insert()` and `vma_interval_tree_insert_after()` in
/// mm/interval_tree.c; `dup_mmap()` calls the latter.
///
/// # Invariants
///
/// Sorted by start offset, then by [`rank`](Vma::rank), which differs between any two VMAs of the
/// same offset.
pub(super) struct VmaTree<P: Platform> {
    mappings: Tree<Mapping<P>>,
}

/// The place that a VMA will have in the tree of its file: the memory for it, and the VMA.
pub(crate) struct TreePlace<P: Platform>(Box<Node<Mapping<P>>>);

impl<P: Platform> TreePlace<P> {
    pub(crate) fn new(vma: Arc<Vma<P>>) -> Result<Self, OutOfMemory> {
        Ok(Self(Node::new(Mapping::new(vma))?))
    }

    pub(crate) fn vma(&self) -> &Arc<Vma<P>> {
        &self.0.element().vma
    }

    fn at_rank(mut self, rank: u64) -> Box<Node<Mapping<P>>> {
        self.0.element_mut().set_rank(rank);
        self.0
    }
}

impl<P: Platform> VmaTree<P> {
    pub(super) const fn new() -> Self {
        Self { mappings: Tree::new() }
    }

    /// Is the VMA in the tree?
    pub(super) fn has(&self, vma: &Vma<P>) -> bool {
        // A VMA that has left the tree keeps its last rank, so the pointers are compared.
        let found = self.mappings.find((vma.offset(), vma.rank()));
        found.is_some_and(|found| core::ptr::eq::<Vma<P>>(&*found.vma, vma))
    }

    /// The VMAs that overlap a range of offsets.
    pub(super) fn overlapping(&self, offsets: Range<u64>) -> impl Iterator<Item = &Arc<Vma<P>>> {
        let Range { start, end } = offsets;
        self.mappings
            .iter_where(move |&reach| reach > start)
            .take_while(move |found| found.offset < end)
            .filter(move |found| found.end > start)
            .map(|found| &found.vma)
    }

    /// Inserts a VMA behind all others of the same offset.
    pub(super) fn insert(&mut self, place: TreePlace<P>) {
        let offset = place.vma().offset();
        let last = self.mappings.at_or_below((offset, u64::MAX)).filter(|last| last.offset == offset);
        let rank = self.rank_behind(offset, last.map_or(0, |last| last.rank));
        self.mappings.insert(place.at_rank(rank));
    }

    /// Inserts a VMA right behind another one of the same offset. If that is not in the tree, it goes behind all.
    pub(super) fn insert_after(&mut self, original: &Vma<P>, place: TreePlace<P>) {
        debug_assert_eq!(original.offset(), place.vma().offset(), "a copy has the offset of its original");
        if !self.has(original) {
            return self.insert(place);
        }
        let rank = self.rank_behind(original.offset(), original.rank());
        self.mappings.insert(place.at_rank(rank));
    }

    /// Puts a VMA in the place of one of the same bounds, which is in the tree.
    pub(super) fn replace(&mut self, old: &Vma<P>, new: Arc<Vma<P>>) {
        debug_assert!(self.has(old), "{old:?} is not in the tree of its file");
        new.set_rank(old.rank());
        if let Some(place) = self.mappings.find_mut((old.offset(), old.rank())) {
            place.vma = new;
        }
    }

    /// Removes a VMA. Returns its place.
    pub(super) fn remove(&mut self, vma: &Vma<P>) -> Option<TreePlace<P>> {
        if !self.has(vma) {
            return None;
        }
        self.mappings.remove((vma.offset(), vma.rank())).map(TreePlace)
    }

    /// Removes `old`, and inserts `new` in its memory, behind all others of the offset that it starts at.
    pub(super) fn change(&mut self, old: &Vma<P>, new: Arc<Vma<P>>) {
        if let Some(TreePlace(mut node)) = self.remove(old) {
            *node.element_mut() = Mapping::new(new);
            self.insert(TreePlace(node));
        }
    }

    /// A free rank between that of a VMA and the next one. Without a VMA, `rank` is 0, and so is no VMA's.
    fn rank_behind(&mut self, offset: u64, rank: u64) -> u64 {
        if let Some(free) = self.free_behind(offset, rank) {
            return free;
        }
        let rank = self.spread(offset, rank);
        // The ranks are apart now.
        self.free_behind(offset, rank).unwrap_or(rank)
    }

    /// A free rank behind this one, if there is one.
    fn free_behind(&self, offset: u64, rank: u64) -> Option<u64> {
        let behind = self.mappings.above((offset, rank)).filter(|behind| behind.offset == offset);
        free_between(rank, behind.map(|behind| behind.rank))
    }

    /// Brings the ranks around one further apart. Returns what has become of it.
    fn spread(&mut self, offset: u64, rank: u64) -> u64 {
        let spread = Spread::around(rank, |ranks| self.mappings.count(&keys(offset, ranks)) as u64);
        let (mut numbers, mut here) = (spread.numbers(), rank);
        self.mappings.rename(&keys(offset, spread.ranks()), |mapping| {
            let next = numbers.next().unwrap_or(mapping.rank);
            if mapping.rank == rank {
                here = next;
            }
            mapping.set_rank(next);
        });
        here
    }
}

/// The keys of the VMAs with these ranks.
fn keys(offset: u64, ranks: &RangeInclusive<u64>) -> RangeInclusive<(u64, u64)> {
    (offset, *ranks.start())..=(offset, *ranks.end())
}
