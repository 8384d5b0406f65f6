//! What a walk under RCU takes: where the address of each depends on the walk before, and where it is known ahead, so that a
//! processor does several at a time.
//!
//! The command's `bench walk` sets the former beside a bare pointer chase and the VMA lock. This is small enough to be built
//! twice, from two versions of the engine, and run in turn.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb};
use hugewalk_host::{Contents, Host, HostConfig, task};

/// As many tables, 64 KiB of them.
const GIGABYTES: u64 = 16;
const ADDRESSES: u64 = 8192;
const WALKS: u32 = 200_000;
const SAMPLES: usize = 41;

fn main() -> Result<(), Box<dyn Error>> {
    let config = HostConfig::new().huge_bytes(GIGABYTES * PUD_SIZE).contents(Contents::Nothing);
    let hugetlb = Hugetlb::new(Host::new(&config)?)?;
    let pages = GIGABYTES * 512;
    hugetlb.resize_pool(X86_64::SIZE_2M, pages);
    let mut task = task(&hugetlb)?;
    let space = AddressSpace::new(&hugetlb)?;
    let request = MapRequest {
        placement: Placement::Fixed(VirtAddr::new(64 * PUD_SIZE)),
        length: GIGABYTES * PUD_SIZE,
        protection: Protection::READ | Protection::WRITE,
        flags: MapFlags::SHARED | MapFlags::POPULATE,
        backing: Backing::Anonymous(X86_64::SIZE_2M),
    };
    let start = space.mmap(&mut task, &request)?.as_u64();
    // The multiplier is odd, so every page comes once before one comes again, in an order no prefetcher guesses.
    let address = |n: u64| VirtAddr::new(start + ((n * 40_503) % pages) * X86_64::SIZE_2M.bytes());
    let addresses: Vec<VirtAddr> = (0..ADDRESSES).map(address).collect();
    let at = |n: u64| addresses[(n % ADDRESSES) as usize];

    let mm = space.mm();
    let walk = |address| {
        let section = task.rcu_read_lock();
        let slot = huge_pte_offset(&section, mm, address, X86_64::SIZE_2M);
        match slot.ok().flatten().and_then(|slot| slot.read().ok()) {
            Some(Entry::Leaf(leaf)) => leaf.frame.0,
            _ => 0,
        }
    };
    let nothing = black_box(0);
    let dependent = median(|| (0..u64::from(WALKS)).fold(0, |last, n| walk(at(n ^ last)) & nothing));
    let ahead = median(|| (0..u64::from(WALKS)).fold(0, |sum: u64, n| sum.wrapping_add(walk(at(n)))));
    println!("each depends on the one before: {dependent:.2} ns; known ahead: {ahead:.2} ns");
    Ok(())
}

/// Nanoseconds of one walk.
fn median(mut walks: impl FnMut() -> u64) -> f64 {
    let mut samples: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let began = Instant::now();
            black_box(walks());
            began.elapsed().as_secs_f64() * 1e9 / f64::from(WALKS)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[SAMPLES / 2]
}
