//! What a walk costs: bare, under RCU, under the VMA lock.

use std::cell::RefCell;
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
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
pub(super) const GIGABYTES: u64 = 16;

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
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare pointer chase",
            Self::Rcu => "RCU, read confirmed",
            Self::VmaLock => "VMA lock",
        }
    }
}

/// What a walk waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// The walk before it, as far as the processor can tell: what is measured is how long a walk takes.
    Dependent,
    /// Nothing, for all addresses are known ahead: what is measured is how many walks there can be.
    Ahead,
}

/// A mapping whose tables all exist, and a second process that shares them.
pub(super) struct Setting {
    pub(super) hugetlb: Arc<Hugetlb<Host>>,
    space: Arc<AddressSpace<Host>>,
    _sharer: Arc<AddressSpace<Host>>,
    /// All pages, in an order no prefetcher guesses; a power of two of them.
    addresses: Vec<VirtAddr>,
}

fn host(gigabytes: u64) -> Result<Host, BenchError> {
    let config = HostConfig::new().huge_bytes(gigabytes * PUD_SIZE).contents(Contents::Nothing);
    Ok(Host::new(&config)?)
}

/// Does the host have the barrier that makes read sections cheap?
pub(super) fn has_membarrier() -> Result<bool, BenchError> {
    Ok(host(1)?.uses_membarrier())
}

impl Setting {
    pub(super) fn new(gigabytes: u64) -> Result<Self, BenchError> {
        let hugetlb = Hugetlb::new(host(gigabytes)?)?;
        let pages = gigabytes * 512;
        if hugetlb.resize_pool(X86_64::SIZE_2M, pages) < pages {
            return Err(BenchError::Pages(pages));
        }
        let mut task = hugewalk_host::task(&hugetlb)?;
        let space = AddressSpace::new(&hugetlb)?;
        let start = space.mmap(
            &mut task,
            &MapRequest {
                placement: Placement::Fixed(VirtAddr::new(64 * PUD_SIZE)),
                length: gigabytes * PUD_SIZE,
                protection: Protection::READ | Protection::WRITE,
                flags: MapFlags::SHARED | MapFlags::POPULATE,
                backing: Backing::Anonymous(X86_64::SIZE_2M),
            },
        )?;
        let sharer = space.fork(&mut task)?;
        for gigabyte in 0..gigabytes {
            let address = VirtAddr::new(start.as_u64() + gigabyte * PUD_SIZE);
            sharer.fault(&mut task, address, Access::Read)?;
        }
        // The multiplier is odd, so every page comes once before one comes again.
        let address =
            |n: u64| VirtAddr::new(start.as_u64() + ((n * 40_503) % pages) * X86_64::SIZE_2M.bytes());
        let addresses = (0..pages).map(address).collect();
        Ok(Self { hugetlb, space, _sharer: sharer, addresses })
    }

    /// Calls `walk` for one address after the other.
    #[inline]
    fn each(&self, order: Order, iterations: u64, mut walk: impl FnMut(VirtAddr) -> u64) {
        let nothing = black_box(0u64);
        let mask = self.addresses.len() as u64 - 1;
        let mut sum = 0_u64;
        match order {
            Order::Dependent => {
                for n in 0..iterations {
                    sum = walk(self.addresses[((n ^ sum) & mask) as usize]) & nothing;
                }
            }
            Order::Ahead => {
                for n in 0..iterations {
                    sum = sum.wrapping_add(walk(self.addresses[(n & mask) as usize]));
                }
            }
        }
        black_box(sum);
    }

    fn bare(&self, order: Order, iterations: u64) {
        let (platform, mm) = (self.hugetlb.platform(), self.space.mm());
        self.each(order, iterations, |address| chase(platform, mm, address));
    }

    fn under_rcu(&self, order: Order, task: &Task<Host>, iterations: u64) {
        let mm = self.space.mm();
        self.each(order, iterations, |address| {
            let section = task.rcu_read_lock();
            // No closure, which would be a function of its own where there are two orders.
            match huge_pte_offset(&section, mm, address, X86_64::SIZE_2M) {
                Ok(Some(slot)) => slot.read().map_or(0, number),
                _ => 0,
            }
        });
    }

    fn under_vma_lock(&self, order: Order, task: &mut Task<Host>, iterations: u64) {
        let mm = self.space.mm();
        let mmap = self.space.mmap_read(task);
        let Some(vma) = self.addresses.first().and_then(|&address| mmap.find(address)) else { return };
        self.each(order, iterations, |address| {
            let Some(locked) = mmap.lock_vma(vma, task) else { return 0 };
            match huge_pte_offset(&locked, mm, address, X86_64::SIZE_2M) {
                Ok(Some(slot)) => number(slot.read()),
                _ => 0,
            }
        });
    }

    pub(super) fn run(&self, way: Way, order: Order, task: &mut Task<Host>, iterations: u64) {
        match way {
            Way::Bare => self.bare(order, iterations),
            Way::Rcu => self.under_rcu(order, task, iterations),
            Way::VmaLock => self.under_vma_lock(order, task, iterations),
        }
    }

    /// So often on a thread of its own beside others; how long that took.
    pub(super) fn timed(&self, way: Way, task: &mut Task<Host>, iterations: u64) -> Duration {
        let began = Instant::now();
        self.run(way, Order::Dependent, task, iterations);
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
    let setting = Setting::new(GIGABYTES)?;
    let task = RefCell::new(hugewalk_host::task(&setting.hugetlb)?);
    let alone = Way::value_variants().iter();
    let alone = alone
        .map(|way| Case::new(way.name(), |n| setting.run(*way, Order::Dependent, &mut task.borrow_mut(), n)));
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
    let setting = Setting::new(GIGABYTES)?;
    let mut task = hugewalk_host::task(&setting.hugetlb)?;
    setting.run(way, Order::Dependent, &mut task, iterations);
    writeln!(out, "{}: {iterations} times", way.name())?;
    Ok(())
}
