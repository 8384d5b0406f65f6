//! A file's pages by their offset.
//!
//! Chunks of as many pages as a table has entries, in a sorted list: a terabyte touched all over is a list of a
//! thousand chunks. Every allocation may fail, and leaves the cache as it was.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::addr::HugeFrame;
use crate::error::OutOfMemory;
use crate::platform::ENTRIES;

const SHIFT: u32 = ENTRIES.trailing_zeros();

/// The pages of one aligned run of offsets. Never empty but while a page is being put in.
struct Chunk {
    number: u64,
    used: u32,
    pages: Box<[Option<HugeFrame>]>,
}

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

    /// Puts a page in where there is none.
    pub(crate) fn insert(&mut self, index: u64, frame: HugeFrame) -> Result<(), OutOfMemory> {
        let at = match self.search(index >> SHIFT) {
            Ok(at) => at,
            Err(at) => {
                let mut pages = Vec::new();
                pages.try_reserve_exact(ENTRIES)?;
                pages.resize(ENTRIES, None);
                self.chunks.try_reserve(1)?;
                let chunk = Chunk { number: index >> SHIFT, used: 0, pages: pages.into_boxed_slice() };
                self.chunks.insert(at, chunk);
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

    /// Puts another page in the place of the one at `index`. False if there is none.
    pub(crate) fn replace(&mut self, index: u64, frame: HugeFrame) -> bool {
        let Ok(at) = self.search(index >> SHIFT) else {
            return false;
        };
        let place = self.chunks.get_mut(at).and_then(|chunk| chunk.pages.get_mut(within(index)));
        place.and_then(Option::as_mut).map(|page| *page = frame).is_some()
    }

    /// Takes the page at `index` out.
    pub(crate) fn remove(&mut self, index: u64) -> Option<HugeFrame> {
        let at = self.search(index >> SHIFT).ok()?;
        let chunk = self.chunks.get_mut(at)?;
        let frame = chunk.pages.get_mut(within(index))?.take()?;
        chunk.used -= 1;
        self.len -= 1;
        if chunk.used == 0 {
            self.chunks.remove(at);
        }
        Some(frame)
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

    /// Pages from `from` on and below `to`.
    pub(crate) fn count(&self, from: u64, to: u64) -> u64 {
        let first = self.search(from >> SHIFT).unwrap_or_else(|at| at);
        let chunks = self.chunks.get(first..).unwrap_or_default();
        let of_chunk = |chunk: &Chunk| {
            let base = chunk.number << SHIFT;
            if from <= base && base.saturating_add(ENTRIES as u64) <= to {
                return u64::from(chunk.used);
            }
            let inside = |(offset, page): &(usize, &Option<HugeFrame>)| {
                page.is_some() && (from..to).contains(&(base + *offset as u64))
            };
            chunk.pages.iter().enumerate().filter(inside).count() as u64
        };
        chunks.iter().take_while(|chunk| chunk.number << SHIFT < to).map(of_chunk).sum()
    }

    /// Takes the first page from `from` on out.
    pub(crate) fn pop_from(&mut self, from: u64) -> Option<(u64, HugeFrame)> {
        // From the last chunk, so that none has to be moved.
        let last = self.chunks.last()?;
        let base = last.number << SHIFT;
        let skip = if base < from { within(from) } else { 0 };
        if base.saturating_add(ENTRIES as u64) <= from {
            return None;
        }
        let (offset, _) = last.pages.iter().enumerate().skip(skip).find(|(_, page)| page.is_some())?;
        let index = base + offset as u64;
        self.remove(index).map(|frame| (index, frame))
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

    proptest! {
        #[test]
        fn a_cache_finds_what_a_map_would(steps in prop::collection::vec((any::<bool>(), index()), 0..80), from in index(), to in index()) {
            let mut cache = PageCache::new();
            let mut model = BTreeMap::new();
            for (insert, index) in steps {
                if insert {
                    if model.insert(index, HugeFrame(index)).is_none() {
                        cache.insert(index, HugeFrame(index)).unwrap();
                    }
                } else {
                    prop_assert_eq!(cache.remove(index), model.remove(&index));
                }
            }
            prop_assert_eq!(cache.len(), model.len() as u64);
            if from <= to {
                prop_assert_eq!(cache.next_from(from, to), model.range(from..to).next().map(|(index, _)| *index));
                prop_assert_eq!(cache.count(from, to), model.range(from..to).count() as u64);
            }
            while let Some((index, frame)) = cache.pop_from(0) {
                prop_assert_eq!(model.remove(&index), Some(frame));
            }
            prop_assert!(model.is_empty());
        }
    }
}
