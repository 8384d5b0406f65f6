//! What the running kernel takes for what sharing spares and unsharing costs.
//!
//! | case | what is done |
//! |---|---|
//! | fault of a huge page that is there | a fresh mapping of a memfd of huge pages that hold data already is read; smaller than 1 GiB, so that its table cannot be shared |
//! | interrupt of all other processors | `membarrier(2)`, private and expedited, while a thread of ours runs on every processor |
//! | grace period | `membarrier(2)` of all threads, which is a `synchronize_rcu()` |
//!
//! Nothing of the machine is changed: the pages are those that are free in the pool.

use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::thread::{MembarrierCommand, membarrier};

use super::Group;
use super::sample::{Case, Effort, measure};

/// Groups of `hugewalk bench kernel`, if the machine has all that they need.
pub(super) const GROUPS: u64 = 3;

/// The names of the cases, by which [`crate::costs`] finds them.
pub(crate) const FAULT: &str = "fault of a huge page that is there";
pub(crate) const INTERRUPT: &str = "interrupt of all other processors";
pub(crate) const GRACE_PERIOD: &str = "grace period";

const BASELINE: &str = "a system call";
const PAGE: usize = 2 << 20;
/// Huge pages that are mapped at a time.
const PAGES: usize = 16;

/// The groups, and what could not be measured: a sentence each.
pub(super) fn groups(effort: &Effort) -> (Vec<Group>, Vec<String>) {
    let mut lacking = Vec::new();
    let mut groups = Vec::new();
    match filled() {
        Some(file) => {
            let case = Case::timed(FAULT, |n| faults(&file, n));
            groups.push(group("One fault, with its share of a page table", effort, case));
        }
        None => lacking.push(format!(
            "Faults were not measured: that needs {PAGES} free huge pages of 2 MiB (sysctl vm.nr_hugepages={PAGES})."
        )),
    }
    if membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok() {
        let case = Case::timed(INTERRUPT, |n| {
            beside_spinning_threads(
                || {
                    let _ = membarrier(MembarrierCommand::PrivateExpedited);
                },
                n,
            )
        });
        groups.push(group("One broadcast", effort, case));
    } else {
        lacking.push(
            "Interrupts were not measured: this kernel, or a sandbox, refuses membarrier(2).".to_owned(),
        );
    }
    if membarrier(MembarrierCommand::Global).is_ok() {
        let case = Case::new(GRACE_PERIOD, |n| {
            for _ in 0..n {
                let _ = membarrier(MembarrierCommand::Global);
            }
        });
        groups.push(group("One wait for read sections", effort, case));
    } else {
        lacking.push(
            "Grace periods were not measured: this kernel has no membarrier(2) of all threads.".to_owned(),
        );
    }
    (groups, lacking)
}

fn group(title: &str, effort: &Effort, case: Case<'_>) -> Group {
    let baseline = Case::new(BASELINE, |n| {
        for _ in 0..n {
            std::hint::black_box(rustix::process::getppid());
        }
    });
    Group {
        title: title.to_owned(),
        note: None,
        baseline: BASELINE.to_owned(),
        cases: measure(effort, vec![baseline, case]),
    }
}

/// A memfd of huge pages, all of them there; none if the pool has not as many.
fn filled() -> Option<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = memfd_create("hugewalk-bench", flags).ok()?;
    ftruncate(&file, (PAGES * PAGE) as u64).ok()?;
    // The mapping reserves its pages or fails, so that no touch of it can be answered with a signal.
    let mapping = Mapping::new(&file)?;
    mapping.touch();
    Some(file)
}

/// Maps the file so many times, and reads from each page; the reads alone are timed, and shared out among the pages.
fn faults(file: &OwnedFd, times: u64) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..times {
        let Some(mapping) = Mapping::new(file) else { break };
        let began = Instant::now();
        mapping.touch();
        took += began.elapsed();
    }
    took / PAGES as u32
}

/// Does something so many times while a thread of this process keeps every other processor busy.
fn beside_spinning_threads(work: impl Fn(), times: u64) -> Duration {
    let others = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let began = Instant::now();
        (0..times).for_each(|_| work());
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        took
    })
}

/// A mapping of [`PAGES`] huge pages.
///
/// # Invariants
///
/// `start` is that of a mapping of so many pages which may be read, and which nobody else knows.
struct Mapping {
    start: *mut std::ffi::c_void,
}

impl Mapping {
    fn new(file: &OwnedFd) -> Option<Self> {
        let length = PAGES * PAGE;
        // SAFETY: the kernel chooses the address, so nothing that is there already is replaced.
        let mapped = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0) };
        // INVARIANT: just made.
        mapped.ok().map(|start| Self { start })
    }

    /// Reads from each page.
    fn touch(&self) {
        for page in 0..PAGES {
            // SAFETY: by the invariant the sum lies inside of the mapping.
            let place = unsafe { self.start.byte_add(page * PAGE) }.cast::<u8>();
            // SAFETY: by the invariant it may be read, and any byte is a valid one.
            std::hint::black_box(unsafe { place.read_volatile() });
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: by the invariant the mapping is ours, and nothing refers to it any more.
        let _ = unsafe { munmap(self.start, PAGES * PAGE) };
    }
}
