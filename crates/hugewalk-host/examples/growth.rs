//! How costs grow: with the mappings of a file, with the processes that share a table, with the pages of a file.
//!
//!     cargo run --release -p hugewalk-host --example growth
//!
//! Without contents. Each row is the median of a few samples, in nanoseconds an operation.

use std::error::Error;
use std::time::Instant;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig, task};

const PAGE: u64 = X86_64::SIZE_2M.bytes();
const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE);
const RW: Protection = Protection::READ.union(Protection::WRITE);
const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);
/// As many mappings as Linux allows a process.
const MAPPINGS: [u64; 5] = [1, 64, 1024, 16_384, 65_530];
const PROCESSES: [u64; 5] = [1, 10, 100, 1000, 10_000];
const PAGES: [u64; 4] = [512, 512 * 8, 512 * 64, 512 * 512];

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The median time of one of `count` operations, which `work` carries out in one go, in nanoseconds.
fn nanoseconds(count: u64, mut work: impl FnMut() -> Outcome) -> Outcome<f64> {
    let mut samples = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        work()?;
        samples.push(began.elapsed().as_nanos() as f64 / count as f64);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}

fn map(
    space: &AddressSpace<Host>,
    task: &mut Task<Host>,
    file: &Arc<HugeFile<Host>>,
    placement: Placement,
    (offset, length): (u64, u64),
) -> Outcome<VirtAddr> {
    let backing = Backing::File { file, offset };
    Ok(space.mmap(task, &MapRequest { placement, length, protection: RW, flags: SHARED, backing })?)
}

/// One page of each mapping, with a hole of as much behind it.
fn place(number: u64) -> VirtAddr {
    START.checked_add(number * 2 * PAGE).expect("below the end of user addresses")
}

fn mappings(hugetlb: &Arc<Hugetlb<Host>>, task: &mut Task<Host>, number: u64) -> Outcome {
    let file = HugeFile::new(hugetlb, X86_64::SIZE_2M, None)?;
    let space = AddressSpace::new(hugetlb)?;
    for number in 0..number {
        map(&space, task, &file, Placement::Fixed(place(number)), (number % 512 * PAGE, PAGE))?;
    }
    let few = 256;
    // Spread over all of them, in no order that a cache could follow.
    let some = |turn: u64| turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % number;
    let anywhere = nanoseconds(few, || {
        for turn in 0..few {
            let at = map(&space, task, &file, Placement::Anywhere, (turn % 512 * PAGE, 4 * PAGE))?;
            space.munmap(task, at, 4 * PAGE)?;
        }
        Ok(())
    })?;
    let between = nanoseconds(few, || {
        for turn in 0..few {
            let number = some(turn);
            space.munmap(task, place(number), PAGE)?;
            map(&space, task, &file, Placement::Fixed(place(number)), (number % 512 * PAGE, PAGE))?;
        }
        Ok(())
    })?;
    let protect = nanoseconds(2 * few, || {
        for turn in 0..few {
            for rights in [Protection::READ, RW] {
                space.mprotect(task, place(some(turn)), PAGE, rights)?;
            }
        }
        Ok(())
    })?;
    let fork = nanoseconds(number, || Ok(space.fork(task)?.exit(task)?))?;
    space.exit(task)?;
    println!("{number:>7} | {anywhere:>8.0} | {between:>8.0} | {protect:>8.0} | {fork:>8.0}");
    Ok(())
}

fn processes(hugetlb: &Arc<Hugetlb<Host>>, task: &mut Task<Host>, number: u64) -> Outcome {
    let file = HugeFile::new(hugetlb, X86_64::SIZE_2M, None)?;
    let parent = AddressSpace::new(hugetlb)?;
    map(&parent, task, &file, Placement::Fixed(START), (0, PUD_SIZE))?;
    parent.fault(task, START, Access::Write)?;
    let mut family = vec![parent];
    while (family.len() as u64) < number {
        let child = family[0].fork(task)?;
        child.fault(task, START, Access::Read)?;
        family.push(child);
    }
    let few = 64;
    let child = nanoseconds(few, || {
        for _ in 0..few {
            let child = family[0].fork(task)?;
            child.fault(task, START, Access::Read)?;
            child.exit(task)?;
        }
        Ok(())
    })?;
    let last = &family[family.len() - 1];
    let unshare = nanoseconds(few, || {
        for _ in 0..few {
            last.madvise(task, START, PAGE, Advice::DontNeed)?;
            last.fault(task, START, Access::Read)?;
        }
        Ok(())
    })?;
    for space in family {
        space.exit(task)?;
    }
    println!("{number:>7} | {child:>8.0} | {unshare:>8.0}");
    Ok(())
}

fn pages(hugetlb: &Arc<Hugetlb<Host>>, task: &mut Task<Host>, number: u64) -> Outcome {
    let file = HugeFile::new(hugetlb, X86_64::SIZE_2M, None)?;
    let space = AddressSpace::new(hugetlb)?;
    map(&space, task, &file, Placement::Fixed(START), (0, number * PAGE))?;
    let at = |page: u64| START.checked_add(page * PAGE).expect("below the end of user addresses");
    let began = Instant::now();
    for page in 0..number {
        space.fault(task, at(page), Access::Write)?;
    }
    let fresh = began.elapsed().as_nanos() as f64 / number as f64;
    let few = 256;
    let some = |turn: u64| turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % number;
    let again = nanoseconds(few, || {
        for turn in 0..few {
            space.madvise(task, at(some(turn)), PAGE, Advice::DontNeed)?;
            space.fault(task, at(some(turn)), Access::Read)?;
        }
        Ok(())
    })?;
    let hole = nanoseconds(few, || {
        for turn in 0..few {
            file.punch_hole(task, some(turn) * PAGE, PAGE)?;
            space.fault(task, at(some(turn)), Access::Write)?;
        }
        Ok(())
    })?;
    space.exit(task)?;
    println!("{number:>7} | {fresh:>8.0} | {again:>8.0} | {hole:>8.0}");
    Ok(())
}

fn main() -> Outcome {
    let most = PAGES[PAGES.len() - 1] + 1024;
    let config =
        HostConfig::new().huge_bytes((most * PAGE).next_multiple_of(PUD_SIZE)).contents(Contents::Nothing);
    let hugetlb = Hugetlb::new(Host::new(&config)?)?;
    if hugetlb.resize_pool(X86_64::SIZE_2M, most) < most {
        return Err("the host has not the memory for the records of its pages".into());
    }
    let task = &mut task(&hugetlb)?;
    println!(
        "mappings of a file | mmap anywhere, munmap | munmap, mmap between | mprotect | fork, exit: a mapping"
    );
    MAPPINGS.iter().try_for_each(|&number| mappings(&hugetlb, task, number))?;
    println!("processes that share a table | fork, load, exit | unshare, share again");
    PROCESSES.iter().try_for_each(|&number| processes(&hugetlb, task, number))?;
    println!("pages of a file | fresh fault | drop, fault | hole, fault");
    PAGES.iter().try_for_each(|&number| pages(&hugetlb, task, number))
}
