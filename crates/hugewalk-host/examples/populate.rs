//! What a page costs that `mmap(MAP_POPULATE)` brings and `munmap` takes away, without contents: shared and private.
//!
//!     cargo run --release -p hugewalk-host --example populate [ROUNDS]
//!
//! Small enough to be built twice, from two versions of the engine, and run in turn. With ROUNDS it does that many and prints
//! nothing, for tools that count instructions.

use std::error::Error;
use std::time::Instant;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb};
use hugewalk_host::{Contents, Host, HostConfig, task};

const PAGES: u64 = 512;
const SAMPLES: usize = 41;
const ROUNDS: u32 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let hugetlb =
        Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE).contents(Contents::Nothing))?)?;
    hugetlb.resize_pool(X86_64::SIZE_2M, PAGES);
    let mut task = task(&hugetlb)?;
    let space = AddressSpace::new(&hugetlb)?;
    let mut round = |flags| -> Result<(), Box<dyn Error>> {
        let request = MapRequest {
            placement: Placement::Fixed(VirtAddr::new(4 * PUD_SIZE)),
            length: PUD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: flags | MapFlags::POPULATE,
            backing: Backing::Anonymous(X86_64::SIZE_2M),
        };
        let start = space.mmap(&mut task, &request)?;
        Ok(space.munmap(&mut task, start, PUD_SIZE)?)
    };
    let counted = std::env::args().nth(1).map(|rounds| rounds.parse::<u32>()).transpose()?;
    for (name, flags) in [("shared", MapFlags::SHARED), ("private", MapFlags::empty())] {
        if let Some(rounds) = counted {
            (0..rounds).try_for_each(|_| round(flags))?;
            continue;
        }
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            let began = Instant::now();
            (0..ROUNDS).try_for_each(|_| round(flags))?;
            samples.push(began.elapsed().as_nanos() as f64 / f64::from(ROUNDS) / PAGES as f64);
        }
        samples.sort_by(f64::total_cmp);
        println!("{name}: {:.0} ns a page (least {:.0})", samples[SAMPLES / 2], samples[0]);
    }
    Ok(())
}
