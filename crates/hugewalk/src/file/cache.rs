//! The pages of a file, by their offset.
//!
//! A sorted list of chunks, each with as many pages as a table has entries: a terabyte of 2 MiB
//! pages is a list of a thousand chunks.
//!
//! The cache lies under a spinning lock, so it neither allocates nor frees. Its owner brings the
//! memory that a new page needs, and takes back the memory of a chunk that became empty.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::addr::HugeFrame;
use crate::error::OutOfMemory;
use crate::platform::ENTRIES;

const SHIFT: u32 = ENTRIES.trailing_zeros();

/// The pages of one aligned run of offsets. Chunks in a cache are not empty.
pub(crate) struct Chunk {
    number: u64,
    used: u32,
    pages: Box<[Option<HugeFrame>]>,
}

impl Chunk {
    /// An empty chunk, for a cache that needs one.
    pub(crate) fn new() -> Result<Self, OutOfMemory> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(ENTRIES)?;
        pages.resize(ENTRIES, None);
        Ok(Self { number: 0, used: 0, pages: pages.into_boxed_slice() })
    }

    /// The pages, by offset.
    pub(crate) fn pages(&self) -> impl Iterator<Item = HugeFrame> + '_ {
        self.pages.iter().copied().flatten()
    }
}

/// The cache needs a chunk for the page, and room in the list of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoChunk;

/// The pages of a file. Linux: the `i_pages` array of an `address_space`.
pub(crate) struct PageCache {
    chunks: Vec<Chunk>,
    len: u64,
}

impl PageCache {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    /// Pages in it.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn find(&self, index: u64) -> Option<HugeFrame> {
        let at = self.search(index >> SHIFT).ok()?;
        self.chunks.get(at)?.pages.get(within(index)).copied().flatten()
    }

    /// The list of chunks, for an owner that makes room with the cache's lock released.
    pub(crate) fn chunks_mut(&mut self) -> &mut Vec<Chunk> {
        &mut self.chunks
    }

    /// Does a page at `index` need a chunk that is not there?
    pub(crate) fn needs_chunk(&self, index: u64) -> bool {
        self.search(index >> SHIFT).is_err()
    }

    /// Puts a page in where there is none. Takes the chunk in `fresh` if it needs one. Does not
    /// allocate.
    pub(crate) fn insert(
        &mut self,
        index: u64,
        frame: HugeFrame,
        fresh: &mut Option<Chunk>,
    ) -> Result<(), NoChunk> {
        let at = match self.search(index >> SHIFT) {
            Ok(at) => at,
            Err(_) if self.chunks.len() == self.chunks.capacity() => return Err(NoChunk),
            Err(at) => {
                let chunk = fresh.take().ok_or(NoChunk)?;
                self.chunks.insert(at, Chunk { number: index >> SHIFT, ..chunk });
                at
            }
        };
        if let Some(chunk) = self.chunks.get_mut(at)
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
        let Ok(at) = self.search(index >> SHIFT) else {
            return false;
        };
        let place = self.chunks.get_mut(at).and_then(|chunk| chunk.pages.get_mut(within(index)));
        place.and_then(Option::as_mut).map(|page| *page = frame).is_some()
    }

    /// Takes the page at `index` out. Returns it, and the chunk if it became empty, which the
    /// caller drops with the lock released.
    pub(crate) fn remove(&mut self, index: u64) -> Option<(HugeFrame, Option<Chunk>)> {
        let at = self.search(index >> SHIFT).ok()?;
        let chunk = self.chunks.get_mut(at)?;
        let frame = chunk.pages.get_mut(within(index))?.take()?;
        chunk.used -= 1;
        self.len -= 1;
        let emptied = (chunk.used == 0).then(|| self.chunks.remove(at));
        Some((frame, emptied))
    }

    /// The first offset from `from` on, and below `to`, that has a page.
    pub(crate) fn next_from(&self, from: u64, to: u64) -> Option<u64> {
        let first = self.search(from >> SHIFT).unwrap_or_else(|at| at);
        for chunk in self.chunks.get(first..)? {
            let base = chunk.number << SHIFT;
            let skip = if base < from { within(from) } else { 0 };
            let found = chunk.pages.iter().enumerate().skip(skip).find(|(_, page)| page.is_some());
            if let Some((offset, _)) = found {
                let index = base + offset as u64;
                return (index < to).then_some(index);
            }
        }
        None
    }

    /// Takes the last chunk out, with its pages.
    pub(crate) fn pop_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop()?;
        self.len -= u64::from(chunk.used);
        Some(chunk)
    }

    fn search(&self, number: u64) -> Result<usize, usize> {
        self.chunks.binary_search_by_key(&number, |chunk| chunk.number)
    }
}

const fn within(index: u64) -> usize {
    index as usize & (ENTRIES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    fn index() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..40, 500u64..1100, Just(u64::MAX >> 1), Just(u64::MAX - 1)]
    }

    /// Puts a page in as the owner of a cache does.
    fn put(cache: &mut PageCache, index: u64) {
        let mut fresh = None;
        while cache.insert(index, HugeFrame(index), &mut fresh) == Err(NoChunk) {
            cache.chunks_mut().try_reserve(1).unwrap();
            fresh = Some(Chunk::new().unwrap());
        }
        assert!(fresh.is_none());
    }

    proptest! {
        #[test]
        fn a_cache_finds_what_a_map_would(steps in prop::collection::vec((any::<bool>(), index()), 0..80), from in index(), to in index()) {
            let mut cache = PageCache::new();
            let mut model = BTreeMap::new();
            for (insert, index) in steps {
                if insert {
                    if model.insert(index, HugeFrame(index)).is_none() {
                        put(&mut cache, index);
                    }
                } else {
                    let removed = cache.remove(index);
                    prop_assert_eq!(removed.map(|(frame, _)| frame), model.remove(&index));
                }
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
