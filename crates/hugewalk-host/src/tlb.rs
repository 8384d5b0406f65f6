//! A translation lookaside buffer: what a soft CPU remembers of its walks.

use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::fault::Access;

/// Places for a translation in a set.
const WAYS: usize = 4;
/// 64 translations of each size.
const SETS: usize = 16;

/// The translations of one address space that one processor remembers.
///
/// Each carries the generation that it was looked up under, and counts only while the address space
/// has that generation. So a flush drops them all without touching one.
#[derive(Debug)]
pub(crate) struct Tlb {
    sets: [[Set; SETS]; HugeSize::MOST],
}

#[derive(Clone, Copy, Debug)]
struct Set {
    ways: [Way; WAYS],
    /// Which way is replaced next.
    victim: usize,
}

/// A translation; empty while its generation is 0.
#[derive(Clone, Copy, Debug)]
struct Way {
    generation: u64,
    page: u64,
    frame: HugeFrame,
    rights: Rights,
}

/// Where an address lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) frame: HugeFrame,
    pub(crate) size: HugeSize,
    pub(crate) rights: Rights,
}

/// What a translation may be used for without another walk, besides loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

impl Rights {
    #[inline]
    pub(crate) fn allow(self, access: Access) -> bool {
        match access {
            Access::Read => true,
            Access::Write => self.write,
            Access::Execute => self.execute,
        }
    }
}

impl Tlb {
    pub(crate) const fn new() -> Self {
        const NO_RIGHTS: Rights = Rights { write: false, execute: false };
        let way = Way { generation: 0, page: 0, frame: HugeFrame(0), rights: NO_RIGHTS };
        let set = Set { ways: [way; WAYS], victim: 0 };
        Self { sets: [[set; SETS]; HugeSize::MOST] }
    }

    /// The translation of an address by a page of one of these sizes, if it was looked up under this generation and allows the
    /// access.
    #[inline]
    pub(crate) fn lookup(
        &self,
        sizes: &[HugeSize],
        address: VirtAddr,
        generation: u64,
        access: Access,
    ) -> Option<Translation> {
        sizes.iter().find_map(|&size| {
            let page = page(address, size);
            let fits =
                |way: &&Way| way.page == page && way.generation == generation && way.rights.allow(access);
            let found = self.sets[index(size)][set(page)].ways.iter().find(fits);
            found.map(|way| Translation { frame: way.frame, size, rights: way.rights })
        })
    }

    /// Remembers a translation. It replaces one of the same page, one that is out of date, or the
    /// set's oldest.
    pub(crate) fn insert(&mut self, address: VirtAddr, generation: u64, translation: Translation) {
        let size = translation.size;
        let page = page(address, size);
        let set = &mut self.sets[index(size)][set(page)];
        let same = set.ways.iter().position(|way| way.page == page);
        let free = || set.ways.iter().position(|way| way.generation != generation);
        let way = same.or_else(free).unwrap_or_else(|| {
            set.victim = (set.victim + 1) % WAYS;
            set.victim
        });
        set.ways[way] = Way { generation, page, frame: translation.frame, rights: translation.rights };
    }
}

fn page(address: VirtAddr, size: HugeSize) -> u64 {
    address.as_u64() >> size.shift()
}

fn set(page: u64) -> usize {
    page as usize % SETS
}

fn index(size: HugeSize) -> usize {
    size.index() % HugeSize::MOST
}

#[cfg(test)]
mod tests {
    use super::*;
    use Access::{Execute, Read, Write};
    use hugewalk::arch::X86_64;

    fn translation(frame: u64, size: HugeSize, write: bool) -> Translation {
        Translation { frame: HugeFrame(frame), size, rights: Rights { write, execute: false } }
    }

    #[test]
    fn a_translation_serves_its_page_and_generation_only() {
        let mut tlb = Tlb::new();
        let address = VirtAddr::new(0x7f00_0020_0000);
        let found = translation(512, X86_64::SIZE_2M, true);
        tlb.insert(address, 7, found);
        assert_eq!(tlb.lookup(&X86_64::SIZES, VirtAddr::new(0x7f00_003f_ffff), 7, Write), Some(found));
        assert_eq!(tlb.lookup(&X86_64::SIZES, VirtAddr::new(0x7f00_0040_0000), 7, Read), None);
        assert_eq!(tlb.lookup(&X86_64::SIZES, address, 8, Read), None);
    }

    #[test]
    fn a_store_needs_a_writable_translation() {
        let mut tlb = Tlb::new();
        let address = VirtAddr::new(0);
        tlb.insert(address, 1, translation(512, X86_64::SIZE_2M, false));
        assert_eq!(tlb.lookup(&X86_64::SIZES, address, 1, Write), None);
        assert_eq!(tlb.lookup(&X86_64::SIZES, address, 1, Execute), None);
        assert!(tlb.lookup(&X86_64::SIZES, address, 1, Read).is_some());
        // The page again, now writable: it replaces the old translation instead of hiding behind it.
        tlb.insert(address, 1, translation(1024, X86_64::SIZE_2M, true));
        assert_eq!(
            tlb.lookup(&X86_64::SIZES, address, 1, Read),
            Some(translation(1024, X86_64::SIZE_2M, true))
        );
    }

    #[test]
    fn both_sizes_are_found() {
        let mut tlb = Tlb::new();
        let large = translation(1 << 18, X86_64::SIZE_1G, true);
        tlb.insert(VirtAddr::new(0x4000_0000), 1, large);
        assert_eq!(tlb.lookup(&X86_64::SIZES, VirtAddr::new(0x7fff_ffff), 1, Write), Some(large));
        assert_eq!(tlb.lookup(&X86_64::SIZES, VirtAddr::new(0x8000_0000), 1, Write), None);
    }

    #[test]
    fn a_full_set_forgets_one_translation_at_a_time() {
        let mut tlb = Tlb::new();
        let stride = X86_64::SIZE_2M.bytes() * SETS as u64;
        let addresses: Vec<_> = (0..6).map(|n| VirtAddr::new(n * stride)).collect();
        for (n, &address) in addresses.iter().enumerate() {
            tlb.insert(address, 1, translation(n as u64 * 512, X86_64::SIZE_2M, false));
        }
        let left = addresses
            .iter()
            .filter(|&&address| tlb.lookup(&X86_64::SIZES, address, 1, Read).is_some())
            .count();
        assert_eq!(left, WAYS);
        assert!(tlb.lookup(&X86_64::SIZES, addresses[5], 1, Read).is_some());
    }
}
