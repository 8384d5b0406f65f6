//! What the mmap lock and the VMA lock cost those who only read, on one thread and on two, and what unsharing costs, which
//! takes the VMA lock in write.
//!
//!     chrt -f 10 cargo run --release -p hugewalk-host --example locks [ROUNDS]
//!
//! Small enough to be built twice, from two versions of the engine, and run in turn. With ROUNDS it does that many of each on one
//! thread and prints nothing, for tools that count instructions.

use std::error::Error;
use std::sync::Barrier;
use std::time::Instant;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig, task};

const PMD_SIZE: u64 = 2 << 20;
const PUD_SIZE: u64 = 1 << 30;
const START: u64 = 4 * PUD_SIZE;
/// Each thread has a gigabyte of its own of one mapping.
const GIGABYTES: u64 = 2;
const SAMPLES: usize = 31;
const ROUNDS: u64 = 20_000;

type Space = AddressSpace<Host>;
type Work = fn(&Space, &mut Task<Host>, VirtAddr);

/// A page of the gigabyte.
fn walk(space: &Space, task: &mut Task<Host>, at: VirtAddr) {
    let mmap = space.mmap_read(task);
    let vma = mmap.find(at).expect("mapped");
    let locked = mmap.lock_vma(vma, task).expect("its own");
    let slot = huge_pte_offset(&locked, space.mm(), at, X86_64::SIZE_2M).expect("in the mapping");
    std::hint::black_box(slot.expect("there is a table").read());
}

fn mmap_read(space: &Space, task: &mut Task<Host>, at: VirtAddr) {
    let mmap = space.mmap_read(task);
    std::hint::black_box(mmap.find(at).is_some());
}

fn fault(space: &Space, task: &mut Task<Host>, at: VirtAddr) {
    space.fault(task, at, Access::Read).expect("mapped");
}

/// The table is taken up again before it is given up.
fn unshare(space: &Space, task: &mut Task<Host>, at: VirtAddr) {
    space.fault(task, at, Access::Read).expect("mapped");
    space.madvise(task, at, PMD_SIZE, Advice::DontNeed).expect("mapped");
}

const ROWS: [(&str, Work); 4] = [
    ("mmap lock in read, find the VMA", mmap_read),
    ("the same, and a walk under the VMA lock", walk),
    ("fault of a mapped page", fault),
    ("fault that shares a table, unshare it", unshare),
];

fn at(thread: u64) -> VirtAddr {
    VirtAddr::new(START + thread * PUD_SIZE)
}

fn run(hugetlb: &Arc<Hugetlb<Host>>, space: &Space, work: Work, threads: u64) -> f64 {
    let start = Barrier::new(threads as usize);
    let one = |thread| {
        let mut task = task(hugetlb).expect("its first");
        // So that it is not the first look at anything, and locks have got their bias.
        (0..100).for_each(|_| work(space, &mut task, at(thread)));
        start.wait();
        let began = Instant::now();
        (0..ROUNDS).for_each(|_| work(space, &mut task, at(thread)));
        began.elapsed().as_nanos() as f64 / ROUNDS as f64
    };
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).fold(0.0, f64::max)
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let config = HostConfig::new().huge_bytes(GIGABYTES * PUD_SIZE).contents(Contents::Nothing);
    let hugetlb = Hugetlb::new(Host::new(&config)?)?;
    hugetlb.resize_pool(X86_64::SIZE_2M, 64);
    let mut first = task(&hugetlb)?;
    let file = hugewalk::file::HugeFile::new(&hugetlb, X86_64::SIZE_2M, None)?;
    file.truncate(&mut first, GIGABYTES * PUD_SIZE)?;
    let spaces = [AddressSpace::new(&hugetlb)?, AddressSpace::new(&hugetlb)?];
    for space in &spaces {
        space.mmap(
            &mut first,
            &MapRequest {
                placement: Placement::Fixed(VirtAddr::new(START)),
                length: GIGABYTES * PUD_SIZE,
                protection: Protection::READ | Protection::WRITE,
                flags: MapFlags::SHARED | MapFlags::NORESERVE,
                backing: Backing::File { file: &file, offset: 0 },
            },
        )?;
        for thread in 0..GIGABYTES {
            space.fault(&mut first, at(thread), Access::Write)?;
        }
    }
    let space = &*spaces[1];
    if let Some(rounds) = std::env::args().nth(1) {
        let rounds: u64 = rounds.parse()?;
        for (_, work) in ROWS {
            (0..rounds).for_each(|_| work(space, &mut first, at(0)));
        }
        return Ok(());
    }
    drop(first);
    println!("nanoseconds, median (least)");
    for (name, work) in ROWS {
        print!("{name}:");
        for threads in 1..=GIGABYTES {
            let mut samples: Vec<_> = (0..SAMPLES).map(|_| run(&hugetlb, space, work, threads)).collect();
            samples.sort_by(f64::total_cmp);
            print!(" {} threads {:.1} ({:.1})", threads, samples[SAMPLES / 2], samples[0]);
        }
        println!();
    }
    Ok(())
}
