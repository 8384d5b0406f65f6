//! What a walk costs: bare, under RCU, under the VMA lock.

use std::cell::RefCell;
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hugewalk::addr::{HugeSize, PUD_SIZE, VirtAddr};
use hugewalk::arch::Entry;
use hugewalk::fault::Access;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig};

use super::chase::chase;
use super::crowd::together;
use super::sample::{Case, Effort, measure};
use super::{BenchError, Group};

/// Gigabytes mapped: as many PMD tables, 64 KiB of them, more than the first-level cache holds.
const GIGABYTES: u64 = 16;
/// Addresses walked, in an order no prefetcher guesses.
const ADDRESSES: u64 = 8192;

/// A way to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// The loads alone
    Bare,
    /// In a read section for each walk; what is read is confirmed
    Rcu,
    /// With the VMA lock taken for each walk
    VmaLock,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare pointer chase",
            Self::Rcu => "RCU, read confirmed",
            Self::VmaLock => "VMA lock",
        }
    }
}

/// A mapping whose tables all exist, and a second process that shares them.
struct Setting {
    hugetlb: Arc<Hugetlb<Host>>,
    space: Arc<AddressSpace<Host>>,
    _sharer: Arc<AddressSpace<Host>>,
    addresses: Vec<VirtAddr>,
}

fn host() -> Result<Host, BenchError> {
    let config = HostConfig::new().huge_bytes(GIGABYTES * PUD_SIZE).contents(Contents::Nothing);
    Ok(Host::new(&config)?)
}

/// Does the host have the barrier that makes read sections cheap?
pub(super) fn has_membarrier() -> Result<bool, BenchError> {
    Ok(host()?.uses_membarrier())
}

impl Setting {
    fn new() -> Result<Self, BenchError> {
        let hugetlb = Hugetlb::new(host()?)?;
        let pages = GIGABYTES * 512;
        if hugetlb.resize_pool(HugeSize::Size2M, pages) < pages {
            return Err(BenchError::Pages(pages));
        }
        let mut task = hugewalk_host::task(&hugetlb)?;
        let space = AddressSpace::new(&hugetlb)?;
        let start = space.mmap(
            &mut task,
            &MapRequest {
                placement: Placement::Fixed(VirtAddr::new(64 * PUD_SIZE)),
                length: GIGABYTES * PUD_SIZE,
                protection: Protection::READ | Protection::WRITE,
                flags: MapFlags::SHARED | MapFlags::POPULATE,
                backing: Backing::Anonymous(HugeSize::Size2M),
            },
        )?;
        let sharer = space.fork(&mut task)?;
        for gigabyte in 0..GIGABYTES {
            let address = VirtAddr::new(start.as_u64() + gigabyte * PUD_SIZE);
            sharer.fault(&mut task, address, Access::Read)?;
        }
        // The multiplier is odd, so every page comes once before one comes again.
        let address =
            |n: u64| VirtAddr::new(start.as_u64() + ((n * 40_503) % pages) * HugeSize::Size2M.bytes());
        let addresses = (0..ADDRESSES).map(address).collect();
        Ok(Self { hugetlb, space, _sharer: sharer, addresses })
    }

    /// Calls `walk` for one address after the other. The next address depends on the entry before, as far as the
    /// processor can tell: what is measured is how long a walk takes, not how many can overlap.
    #[inline]
    fn each(&self, iterations: u64, mut walk: impl FnMut(VirtAddr) -> u64) {
        let nothing = black_box(0u64);
        let mask = ADDRESSES - 1;
        let mut depends = 0;
        for n in 0..iterations {
            let address = self.addresses[((n ^ depends) & mask) as usize];
            depends = walk(address) & nothing;
        }
        black_box(depends);
    }

    fn bare(&self, iterations: u64) {
        let (platform, mm) = (self.hugetlb.platform(), self.space.mm());
        self.each(iterations, |address| chase(platform, mm, address));
    }

    fn under_rcu(&self, task: &Task<Host>, iterations: u64) {
        let mm = self.space.mm();
        self.each(iterations, |address| {
            let section = task.rcu_read_lock();
            let slot = huge_pte_offset(&section, mm, address, HugeSize::Size2M);
            slot.ok().flatten().and_then(|slot| slot.read().ok()).map_or(0, number)
        });
    }

    fn under_vma_lock(&self, task: &mut Task<Host>, iterations: u64) {
        let mm = self.space.mm();
        let mmap = self.space.mmap_read(task);
        let Some(vma) = self.addresses.first().and_then(|&address| mmap.find(address)) else { return };
        self.each(iterations, |address| {
            let Some(locked) = mmap.lock_vma(vma, task) else { return 0 };
            let slot = huge_pte_offset(&locked, mm, address, HugeSize::Size2M);
            slot.ok().flatten().map_or(0, |slot| number(slot.read()))
        });
    }

    fn run(&self, way: Way, task: &mut Task<Host>, iterations: u64) {
        match way {
            Way::Bare => self.bare(iterations),
            Way::Rcu => self.under_rcu(task, iterations),
            Way::VmaLock => self.under_vma_lock(task, iterations),
        }
    }

    /// So often on a thread of its own beside others; how long that took.
    fn timed(&self, way: Way, task: &mut Task<Host>, iterations: u64) -> Duration {
        let began = Instant::now();
        self.run(way, task, iterations);
        began.elapsed()
    }
}

fn number(entry: Entry) -> u64 {
    match entry {
        Entry::Leaf(leaf) => leaf.frame.0,
        _ => 0,
    }
}

pub(super) fn groups(effort: &Effort) -> Result<Vec<Group>, BenchError> {
    let setting = Setting::new()?;
    let task = RefCell::new(hugewalk_host::task(&setting.hugetlb)?);
    let alone = Way::value_variants().iter();
    let alone = alone.map(|way| Case::new(way.name(), |n| setting.run(*way, &mut task.borrow_mut(), n)));
    let alone = measure(effort, alone.collect());
    let both = Way::value_variants().iter();
    let setting = &setting;
    let both = both.map(|&way| {
        Case::timed(way.name(), move |n| together(&setting.hugetlb, 2, |task, _| setting.timed(way, task, n)))
    });
    let both = measure(effort, both.collect());
    let baseline = Way::Bare.name();
    let group = |title: &str, cases| Group {
        title: title.to_owned(),
        note: None,
        baseline: baseline.to_owned(),
        cases,
    };
    Ok(vec![group("One walk to a 2 MiB entry, 1 thread", alone), group("The same, 2 threads at once", both)])
}

/// Does one case so many times and nothing else, for a tool that counts instructions.
pub(super) fn count(way: Way, iterations: u64, out: &mut dyn Write) -> Result<(), BenchError> {
    let setting = Setting::new()?;
    let mut task = hugewalk_host::task(&setting.hugetlb)?;
    setting.run(way, &mut task, iterations);
    writeln!(out, "{}: {iterations} times", way.name())?;
    Ok(())
}
