//! The pages of a file, by their offset.
//!
//! A balanced tree of chunks, each with as many pages as a table has entries: a terabyte of 2 MiB
//! pages is a tree of a thousand chunks.
//!
//! The cache lies under a spinning lock, so it neither allocates nor frees. Its owner brings the
//! memory that a new page needs, and takes back the memory of a chunk that became empty.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::addr::HugeFrame;
use crate::avl::{Node, Sorted, Tree};
use crate::error::OutOfMemory;

/// Pages of a chunk of the cache.
const CHUNK: usize = 512;
const SHIFT: u32 = CHUNK.trailing_zeros();

/// The pages of one aligned run of offsets. Chunks in a cache are not empty.
pub(crate) struct Chunk {
    number: u64,
    used: u32,
    pages: Box<[Option<HugeFrame>]>,
}

impl Sorted for Chunk {
    type Key = u64;
    type Summary = ();

    fn key(&self) -> u64 {
        self.number
    }

    fn summary(&self) {}

    fn join((): (), (): ()) {}
}

/// A chunk in the cache, on its way there, or on its way out.
pub(crate) struct ChunkPlace(Box<Node<Chunk>>);

impl ChunkPlace {
    /// An empty chunk, for a cache that needs one.
    pub(crate) fn new() -> Result<Self, OutOfMemory> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(CHUNK)?;
        pages.resize(CHUNK, None);
        Ok(Self(Node::new(Chunk { number: 0, used: 0, pages: pages.into_boxed_slice() })?))
    }

    /// The pages, by offset.
    pub(crate) fn pages(&self) -> impl Iterator<Item = HugeFrame> + '_ {
        self.0.element().pages.iter().copied().flatten()
    }
}

/// The cache needs a chunk for the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoChunk;

/// The pages of a file. Linux: the `i_pages` array of an `address_space`.
pub(crate) struct PageCache {
    chunks: Tree<Chunk>,
    len: u64,
}

impl PageCache {
    pub(crate) const fn new() -> Self {
        Self { chunks: Tree::new(), len: 0 }
    }

    /// Pages in it.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn find(&self, index: u64) -> Option<HugeFrame> {
        self.chunks.find(index >> SHIFT)?.pages.get(within(index)).copied().flatten()
    }

    /// Puts a page in where there is none. Takes the chunk in `fresh` if it needs one. Does not
    /// allocate.
    pub(crate) fn insert(
        &mut self,
        index: u64,
        frame: HugeFrame,
        fresh: &mut Option<ChunkPlace>,
    ) -> Result<(), NoChunk> {
        let number = index >> SHIFT;
        if self.chunks.find_mut(number).is_none() {
            let ChunkPlace(mut place) = fresh.take().ok_or(NoChunk)?;
            place.element_mut().number = number;
            self.chunks.insert(place);
        }
        if let Some(chunk) = self.chunks.find_mut(number)
            && let Some(place) = chunk.pages.get_mut(within(index))
            && place.replace(frame).is_none()
        {
            chunk.used += 1;
            self.len += 1;
        }
        Ok(())
    }

    /// Replaces the page at `index`. False if there is none.
    pub(crate) fn replace(&mut self, index: u64, frame: HugeFrame) -> bool {
        let chunk = self.chunks.find_mut(index >> SHIFT);
        let place = chunk.and_then(|chunk| chunk.pages.get_mut(within(index)));
        place.and_then(Option::as_mut).map(|page| *page = frame).is_some()
    }

    /// Takes the page at `index` out. Returns it, and the chunk if it became empty, which the
    /// caller drops with the lock released.
    pub(crate) fn remove(&mut self, index: u64) -> Option<(HugeFrame, Option<ChunkPlace>)> {
        let chunk = self.chunks.find_mut(index >> SHIFT)?;
        let frame = chunk.pages.get_mut(within(index))?.take()?;
        chunk.used -= 1;
        let is_empty = chunk.used == 0;
        self.len -= 1;
        let emptied = if is_empty { self.chunks.remove(index >> SHIFT).map(ChunkPlace) } else { None };
        Some((frame, emptied))
    }

    /// The first offset from `from` on, and below `to`, that has a page.
    pub(crate) fn next_from(&self, from: u64, to: u64) -> Option<u64> {
        let first_in = |chunk: &Chunk| {
            let base = chunk.number << SHIFT;
            let skip = if base < from { within(from) } else { 0 };
            let found = chunk.pages.iter().enumerate().skip(skip).find(|(_, page)| page.is_some());
            found.map(|(offset, _)| base + offset as u64)
        };
        let here = self.chunks.find(from >> SHIFT).and_then(first_in);
        // A chunk behind has a page.
        let next = here.or_else(|| self.chunks.above(from >> SHIFT).and_then(first_in));
        next.filter(|&index| index < to)
    }

    /// Takes the last chunk out, with its pages.
    pub(crate) fn pop_chunk(&mut self) -> Option<ChunkPlace> {
        let chunk = self.chunks.pop_last()?;
        self.len -= u64::from(chunk.element().used);
        Some(ChunkPlace(chunk))
    }
}

const fn within(index: u64) -> usize {
    index as usize & (CHUNK - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::collections::btree_map::Entry;
    use proptest::prelude::*;

    fn index() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..40, 500u64..1100, Just(u64::MAX >> 1), Just(u64::MAX - 1)]
    }

    /// Puts a page in as the owner of a cache does.
    fn put(cache: &mut PageCache, index: u64) {
        let mut fresh = None;
        while cache.insert(index, HugeFrame(index), &mut fresh) == Err(NoChunk) {
            fresh = Some(ChunkPlace::new().unwrap());
        }
        assert!(fresh.is_none());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert,
        Replace,
        Remove,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![2 => Just(Step::Insert), 1 => Just(Step::Replace), 2 => Just(Step::Remove)]
    }

    proptest! {
        #[test]
        fn a_cache_finds_what_a_map_would(steps in prop::collection::vec((step(), index()), 0..80), from in index(), to in index()) {
            let mut cache = PageCache::new();
            let mut model = BTreeMap::new();
            for (number, (step, index)) in (0..).zip(steps) {
                match step {
                    Step::Insert => {
                        if let Entry::Vacant(place) = model.entry(index) {
                            place.insert(HugeFrame(index));
                            put(&mut cache, index);
                        }
                    }
                    Step::Replace => {
                        let page = model.get_mut(&index).map(|page| *page = HugeFrame(number));
                        prop_assert_eq!(cache.replace(index, HugeFrame(number)), page.is_some());
                    }
                    Step::Remove => {
                        let removed = cache.remove(index);
                        prop_assert_eq!(removed.map(|(frame, _)| frame), model.remove(&index));
                    }
                }
                prop_assert_eq!(cache.find(index), model.get(&index).copied());
            }
            prop_assert_eq!(cache.len(), model.len() as u64);
            if from <= to {
                prop_assert_eq!(cache.next_from(from, to), model.range(from..to).next().map(|(index, _)| *index));
            }
            while let Some(chunk) = cache.pop_chunk() {
                let frames: Vec<_> = chunk.pages().collect();
                let first = model.len() - frames.len();
                prop_assert_eq!(frames, model.values().skip(first).copied().collect::<Vec<_>>());
                while model.len() > first {
                    model.pop_last();
                }
                prop_assert_eq!(cache.len(), model.len() as u64);
            }
            prop_assert!(model.is_empty());
        }
    }
}
