//! What a walk costs: bare, under RCU, under the VMA lock.

use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Barrier;
use std::time::{Duration, Instant};

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
use super::sample::{Case, Effort, measure};
use super::{BenchError, Group};

/// Gigabytes mapped: as many PMD tables, 256 KiB of them, more than the first-level cache holds.
const GIGABYTES: u64 = 64;
/// Addresses walked, in an order no prefetcher guesses.
const ADDRESSES: u64 = 8192;

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
            return Err(format!("the host has not the {pages} huge pages that the benchmark maps").into());
        }
        let mut task = Task::new(&hugetlb)?;
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
        // A multiplier that is a primitive root's cousin: visits every page class before it repeats.
        let address = |n: u64| VirtAddr::new(start.as_u64() + ((n * 40_503) % pages) * HugeSize::Size2M.bytes());
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

    fn run(&self, case: &str, task: &mut Task<Host>, iterations: u64) {
        match case {
            BARE => self.bare(iterations),
            RCU => self.under_rcu(task, iterations),
            _ => self.under_vma_lock(task, iterations),
        }
    }

    /// The same on two threads at once; the time of the slower one.
    fn on_two_threads(&self, case: &str, iterations: u64) -> Duration {
        let start = Barrier::new(2);
        let one = || {
            let Ok(mut task) = Task::new(&self.hugetlb) else { return Duration::ZERO };
            start.wait();
            let began = Instant::now();
            self.run(case, &mut task, iterations);
            began.elapsed()
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(one);
            let mine = one();
            other.join().map_or(mine, |theirs| mine.max(theirs))
        })
    }
}

const BARE: &str = "bare pointer chase";
const RCU: &str = "RCU, read confirmed";
const VMA_LOCK: &str = "VMA lock";

fn number(entry: Entry) -> u64 {
    match entry {
        Entry::Leaf(leaf) => leaf.frame.0,
        _ => 0,
    }
}

pub(super) fn groups(effort: &Effort) -> Result<Vec<Group>, BenchError> {
    let setting = Setting::new()?;
    let mut tasks = Vec::new();
    for _ in [BARE, RCU, VMA_LOCK] {
        tasks.push(Task::new(&setting.hugetlb)?);
    }
    let alone = [BARE, RCU, VMA_LOCK].into_iter().zip(&mut tasks);
    let alone = alone.map(|(name, task)| Case::new(name, |n| setting.run(name, task, n))).collect();
    let alone = measure(effort, alone);
    let both = [BARE, RCU, VMA_LOCK].map(|name| Case::timed(name, |n| setting.on_two_threads(name, n)));
    let both = measure(effort, both.into());
    let group = |title: &str, cases| Group { title: title.to_owned(), baseline: BARE.to_owned(), cases };
    Ok(vec![group("One walk to a 2 MiB entry, 1 thread", alone), group("The same, 2 threads at once", both)])
}

/// Does one case so many times and nothing else, for a tool that counts instructions.
pub(super) fn count(case: &str, iterations: u64, out: &mut dyn Write) -> Result<(), BenchError> {
    let name = match case {
        "bare" => BARE,
        "rcu" => RCU,
        "vma-lock" => VMA_LOCK,
        _ => {
            let known = "bare, rcu, vma-lock";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no case {case:?}: one of {known}")).into());
        }
    };
    let setting = Setting::new()?;
    let mut task = Task::new(&setting.hugetlb)?;
    setting.run(name, &mut task, iterations);
    writeln!(out, "{name}: {iterations} times")?;
    Ok(())
}
