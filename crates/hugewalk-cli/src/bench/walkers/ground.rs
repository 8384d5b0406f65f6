//! What the walkers walk over: gigabytes that two processes map and share the tables of.

use std::ops::Range;

use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig};

use crate::bench::BenchError;

const START: VirtAddr = VirtAddr::new(64 * PUD_SIZE);
/// Pages in a gigabyte.
const PAGES: u64 = 512;

/// A file, mapped by two processes, each of whose tables is shared by both.
pub(in crate::bench) struct Ground {
    pub(in crate::bench) hugetlb: Arc<Hugetlb<Host>>,
    /// The process that is walked over.
    pub(super) space: Arc<AddressSpace<Host>>,
    /// The one that keeps the tables when the other gives them up.
    pub(super) sharer: Arc<AddressSpace<Host>>,
    pub(super) file: Arc<HugeFile<Host>>,
    gigabytes: u64,
}

impl Ground {
    pub(super) fn new(gigabytes: u64) -> Result<Self, BenchError> {
        // A gigabyte more, for the pages that memory failure takes and those that are not freed at once.
        let bytes = (gigabytes + 1) * PUD_SIZE;
        let hugetlb =
            Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(bytes).contents(Contents::Nothing))?)?;
        let pages = (gigabytes + 1) * PAGES;
        if hugetlb.resize_pool(X86_64::SIZE_2M, pages) < pages {
            return Err(BenchError::Pages(pages));
        }
        let mut task = hugewalk_host::task(&hugetlb)?;
        let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None)?;
        let space = AddressSpace::new(&hugetlb)?;
        let request = MapRequest {
            placement: Placement::Fixed(START),
            length: gigabytes * PUD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: MapFlags::SHARED | MapFlags::POPULATE,
            backing: Backing::File { file: &file, offset: 0 },
        };
        space.mmap(&mut task, &request)?;
        let sharer = space.fork(&mut task)?;
        let ground = Self { hugetlb, space, sharer, file, gigabytes };
        ground.share(&mut task)?;
        Ok(ground)
    }

    /// Lets the second process take up each table of the first.
    pub(super) fn share(&self, task: &mut Task<Host>) -> Result<(), BenchError> {
        for gigabyte in 0..self.gigabytes {
            self.sharer.fault(task, self.page(gigabyte, 0), Access::Read)?;
            self.space.fault(task, self.page(gigabyte, 0), Access::Read)?;
        }
        Ok(())
    }

    /// The address of a page in a gigabyte.
    #[allow(clippy::unused_self, reason = "an address of this ground")]
    pub(super) fn page(&self, gigabyte: u64, page: u64) -> VirtAddr {
        VirtAddr::new(START.as_u64() + gigabyte * PUD_SIZE + page * PMD_SIZE)
    }

    /// All of it.
    pub(super) fn range(&self) -> Range<VirtAddr> {
        self.page(0, 0)..self.page(self.gigabytes, 0)
    }

    /// All pages of some gigabytes, a power of two of them, in an order no prefetcher guesses.
    pub(super) fn addresses(&self, gigabytes: Range<u64>) -> Vec<VirtAddr> {
        let pages = (gigabytes.end - gigabytes.start) * PAGES;
        // The multiplier is odd, so every page comes once before one comes again.
        (0..pages).map(|n| self.page(gigabytes.start, (n * 40_503) % pages)).collect()
    }

    /// The frame that is mapped at an address.
    pub(super) fn frame(&self, task: &Task<Host>, address: VirtAddr) -> Option<HugeFrame> {
        let page = self.space.follow_page(task, address, GupFlags::empty()).ok()??;
        Some(page.frame())
    }

    /// Gives a table up and takes it up again, each in its turn.
    pub(super) fn unshare(&self, task: &mut Task<Host>, turn: u64) {
        let address = self.page(turn % self.gigabytes, 0);
        let _ = self.space.madvise(task, address, PMD_SIZE, Advice::DontNeed);
        let _ = self.space.fault(task, address, Access::Read);
    }
}
