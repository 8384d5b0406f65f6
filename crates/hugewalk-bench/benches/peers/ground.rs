//! What the engine's walks and maps need: a system, an address space with so many gigabytes, and where its tables lie.

use std::error::Error;
use std::hint::black_box;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::platform::Tables as _;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb};
use hugewalk_host::{Contents, Host, HostConfig, task};

/// Bytes of a huge page.
pub(crate) const MIB2: u64 = X86_64::SIZE_2M.bytes();
/// Bytes of a table.
const TABLE: usize = 4096;

/// A system without contents, with so many free pages.
pub(crate) fn system(pages: u64) -> Result<Arc<Hugetlb<Host>>, Box<dyn Error>> {
    let bytes = (pages * MIB2).next_multiple_of(PUD_SIZE);
    let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(bytes).contents(Contents::Nothing))?)?;
    if hugetlb.resize_pool(X86_64::SIZE_2M, pages) < pages {
        return Err("the host has not the memory for the records of its pages".into());
    }
    Ok(hugetlb)
}

/// An anonymous mapping at this place.
pub(crate) fn request<'a>(start: u64, length: u64, flags: MapFlags) -> MapRequest<'a, Host> {
    MapRequest {
        placement: Placement::Fixed(VirtAddr::new(start)),
        length,
        protection: Protection::READ | Protection::WRITE,
        flags,
        backing: Backing::Anonymous(X86_64::SIZE_2M),
    }
}

/// A mapping of a power of two of gigabytes, all tables of which exist and are shared with a second process.
pub(crate) struct Ground {
    pub(crate) hugetlb: Arc<Hugetlb<Host>>,
    pub(crate) space: Arc<AddressSpace<Host>>,
    _sharer: Arc<AddressSpace<Host>>,
    /// Where the mapping starts.
    pub(crate) start: u64,
    /// Pages of it.
    pub(crate) pages: u64,
}

impl Ground {
    pub(crate) fn new(gigabytes: u64) -> Result<Self, Box<dyn Error>> {
        let pages = gigabytes * 512;
        let hugetlb = system(pages)?;
        let mut task = task(&hugetlb)?;
        let space = AddressSpace::new(&hugetlb)?;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        let start = space.mmap(&mut task, &request(512 * PUD_SIZE, gigabytes * PUD_SIZE, flags))?;
        let sharer = space.fork(&mut task)?;
        for gigabyte in 0..gigabytes {
            let address = start.checked_add(gigabyte * PUD_SIZE).ok_or("below the end of addresses")?;
            sharer.fault(&mut task, address, Access::Read)?;
        }
        drop(task);
        Ok(Self { hugetlb, space, _sharer: sharer, start: start.as_u64(), pages })
    }

    /// The root table, and the address at which the table with the physical address 0 would lie.
    pub(crate) fn root(&self) -> (usize, usize) {
        let frame = self.space.mm().root_frame();
        // SAFETY: the root lives as long as its address space.
        let root = unsafe { self.hugetlb.platform().table_entries(frame) }.addr().get();
        (root, root - frame.0 as usize * TABLE)
    }

    /// Walks to pages in an order that no prefetcher guesses. Each address depends on the walk before, as far as the processor
    /// can tell: so this is how long a walk takes.
    #[inline(always)]
    pub(crate) fn dependent(&self, count: u64, mut walk: impl FnMut(u64) -> u64) {
        let (nothing, shift) = (black_box(0), 64 - self.pages.trailing_zeros());
        let (mut state, mut last) = (SEED, 0);
        for _ in 0..count {
            state = next(state) ^ last;
            last = walk(self.start + ((state >> shift) * MIB2)) & nothing;
        }
        black_box(last);
    }

    /// The same where addresses are known ahead, so that walks overlap: how many walks there can be.
    #[inline(always)]
    pub(crate) fn ahead(&self, count: u64, mut walk: impl FnMut(u64) -> u64) {
        let shift = 64 - self.pages.trailing_zeros();
        let (mut state, mut sum) = (SEED, 0_u64);
        for _ in 0..count {
            state = next(state);
            sum = sum.wrapping_add(walk(self.start + ((state >> shift) * MIB2)));
        }
        black_box(sum);
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The next number of Knuth's generator: its high bits are good.
fn next(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// The frame of a leaf.
pub(crate) fn number(entry: Entry) -> u64 {
    match entry {
        Entry::Leaf(leaf) => leaf.frame.0,
        _ => 0,
    }
}
