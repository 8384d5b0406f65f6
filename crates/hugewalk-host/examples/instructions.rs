//! Walks, and nothing else, for a tool that counts instructions: `ci/instructions.sh`.
//!
//! ```console
//! $ valgrind --tool=callgrind target/release/examples/instructions x86-64 rcu 1000
//! ```
//!
//! The format is a type here, as it is in a kernel; so the compiler knows it. What is counted differs between two numbers of
//! walks by the walks alone.

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::sync::atomic::Ordering;

use hugewalk::addr::{FRAME_BYTES, TableFrame, VirtAddr};
use hugewalk::arch::{Aarch64, Entry, Paging, Riscv64, Sv, X86_64};
use hugewalk::gup::GupFlags;
use hugewalk::mm::{MapFlags, MapRequest};
use hugewalk::platform::Tables as _;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Arc, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig, task};

const LENGTH: u64 = 4 << 30;
const ADDRESSES: u64 = 8192;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let &[format, way, walks] = words.as_slice() else { return Err("FORMAT WAY WALKS".into()) };
    let walks = walks.parse()?;
    match format {
        "x86-64" => Setting::<_, 0>::new(X86_64::FOUR_LEVELS)?.run(way, walks),
        "arm64" => Setting::<_, 1>::new(arm64()?)?.run(way, walks),
        "arm64-group" => Setting::<_, 2>::new(arm64()?)?.run(way, walks),
        "riscv64" => Setting::<_, 1>::new(riscv64())?.run(way, walks),
        "riscv64-group" => Setting::<_, 0>::new(riscv64())?.run(way, walks),
        _ => Err("no such format".into()),
    }
}

/// 4 KiB granule, 48 bits.
fn arm64() -> Result<Aarch64<12>, &'static str> {
    Aarch64::of(48).ok_or("arm64 has 48 bits")
}

const fn riscv64() -> Riscv64 {
    Riscv64::new(Sv::Sv48).with_svnapot()
}

/// A mapping with pages of the format's size number `SIZE`, whose tables all exist.
struct Setting<F: Paging, const SIZE: usize> {
    space: Arc<AddressSpace<Host<F>>>,
    task: Task<Host<F>>,
    addresses: Vec<VirtAddr>,
}

impl<F: Paging, const SIZE: usize> Setting<F, SIZE> {
    fn new(paging: F) -> Result<Self, Box<dyn Error>> {
        let size = paging.leaves()[SIZE];
        let config = HostConfig::new().huge_bytes(LENGTH).contents(Contents::Nothing).paging(paging);
        let hugetlb = Hugetlb::new(Host::new(&config)?)?;
        let pages = LENGTH / size.bytes();
        hugetlb.resize_pool(size, pages);
        let mut task = task(&hugetlb)?;
        let space = AddressSpace::new(&hugetlb)?;
        let request = MapRequest::anonymous(size, LENGTH).shared().with(MapFlags::POPULATE);
        let start = space.mmap(&mut task, &request.at(VirtAddr::new(16 * LENGTH)))?.as_u64();
        // The multiplier is odd, so every page comes once before one comes again, in an order no prefetcher guesses.
        let address = |n: u64| VirtAddr::new(start + ((n * 40_503) % pages) * size.bytes());
        Ok(Self { space, task, addresses: (0..ADDRESSES).map(address).collect() })
    }

    fn run(mut self, way: &str, walks: u64) -> Result<(), Box<dyn Error>> {
        match way {
            "bare" => self.bare(walks),
            "rcu" => self.rcu(walks),
            "vma-lock" => self.vma_lock(walks),
            "gup-fast" => self.gup_fast(walks),
            "follow-page" => self.follow_page(walks),
            _ => return Err("no such way".into()),
        }
        Ok(())
    }

    #[inline(never)]
    fn rcu(&self, walks: u64) {
        let (mm, task) = (self.space.mm(), &self.task);
        each(&self.addresses, walks, |address| {
            let section = task.rcu_read_lock();
            let slot = huge_pte_offset(&section, mm, address, mm.paging().leaves()[SIZE]);
            slot.ok().flatten().and_then(|slot| slot.read().ok()).map_or(0, number)
        });
    }

    #[inline(never)]
    fn vma_lock(&mut self, walks: u64) {
        let (mm, task) = (self.space.mm(), &mut self.task);
        let mmap = self.space.mmap_read(task);
        let Some(vma) = self.addresses.first().and_then(|&address| mmap.find(address)) else { return };
        each(&self.addresses, walks, |address| {
            let Some(locked) = mmap.lock_vma(vma, task) else { return 0 };
            let slot = huge_pte_offset(&locked, mm, address, mm.paging().leaves()[SIZE]);
            slot.ok().flatten().map_or(0, |slot| number(slot.read()))
        });
    }

    #[inline(never)]
    fn gup_fast(&self, walks: u64) {
        let (space, task) = (&self.space, &self.task);
        each(&self.addresses, walks, |address| {
            space.pin_page_fast(task, address, GupFlags::empty()).map_or(0, |page| page.frame().0)
        });
    }

    #[inline(never)]
    fn follow_page(&self, walks: u64) {
        let (space, task) = (&self.space, &self.task);
        each(&self.addresses, walks, |address| {
            let page = space.follow_page(task, address, GupFlags::empty());
            page.ok().flatten().map_or(0, |page| page.frame().0)
        });
    }

    /// The dependent loads that any walk of the tables has to make, and no check: three levels above a leaf of 2 MiB.
    #[inline(never)]
    fn bare(&self, walks: u64) {
        const FRAME: u64 = ((1 << 52) - 1) & !(FRAME_BYTES - 1);
        let (host, mm) = (self.space.mm().hugetlb().platform(), self.space.mm());
        each(&self.addresses, walks, |address| {
            let mut frame = mm.root_frame();
            let mut entry = 0;
            for shift in [39, 30, 21] {
                let index = (address.as_u64() >> shift) as usize & 511;
                // SAFETY: the frame is the root's or came out of an entry, and nobody frees tables meanwhile. An index is
                // below the number of entries.
                let place = unsafe { host.table_entry(frame, index) };
                // SAFETY: likewise; entries are atomics.
                entry = unsafe { place.as_ref() }.load(Ordering::Relaxed);
                frame = TableFrame((entry & FRAME) / FRAME_BYTES);
            }
            entry
        });
    }
}

/// Calls `walk` for one address after the other. The next address depends on the walk before, as far as the compiler can
/// tell.
#[inline(always)]
fn each(addresses: &[VirtAddr], walks: u64, mut walk: impl FnMut(VirtAddr) -> u64) {
    let nothing = black_box(0);
    let mut last = 0;
    for n in 0..walks {
        let address = addresses[((n ^ last) & (ADDRESSES - 1)) as usize];
        last = walk(address) & nothing;
    }
    black_box(last);
}

fn number(entry: Entry) -> u64 {
    match entry {
        Entry::Leaf(leaf) => leaf.frame.0,
        _ => 0,
    }
}
