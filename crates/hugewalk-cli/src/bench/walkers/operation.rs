//! One operation for each walker: the one that makes it walk when a user calls it.

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use hugewalk::Task;
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::gup::GupFlags;
use hugewalk::pagewalk::{Found, Next, Resched, SleepingVisitor, Visitor};
use hugewalk::vma::Vma;
use hugewalk::walk::huge_pte_offset;
use hugewalk_host::Host;

use super::Way;
use super::ground::Ground;
use crate::bench::BenchError;

/// Gigabytes that are walked: as many tables, 64 KiB of them, and half a megabyte of records of pages.
const GIGABYTES: u64 = 16;
/// Pages of a range that is pinned at once.
pub(in crate::bench) const PINNED: u64 = 64;

/// Sixteen gigabytes that are walked and left as they are, and one whose pages are punched out and fail.
pub(in crate::bench) struct Operations {
    pub(in crate::bench) ground: Ground,
    /// Threads there may be, each with pages of its own; a power of two.
    threads: u64,
    addresses: Vec<VirtAddr>,
    frames: Vec<HugeFrame>,
    failed: VirtAddr,
}

impl Operations {
    pub(in crate::bench) fn new(threads: u64) -> Result<Self, BenchError> {
        let ground = Ground::new(GIGABYTES + 1)?;
        let mut task = hugewalk_host::task(&ground.hugetlb)?;
        // Gigabytes of its own for each thread: processors fetch cache lines in pairs, and the records of two neighbouring
        // pages are a pair.
        let each = GIGABYTES / threads;
        let addresses: Vec<_> =
            (0..threads).flat_map(|thread| ground.addresses(thread * each..(thread + 1) * each)).collect();
        let frames = addresses.iter().filter_map(|&address| ground.frame(&task, address)).collect();
        let failed = ground.page(GIGABYTES, 100);
        if let Some(frame) = ground.frame(&task, failed) {
            ground.hugetlb.memory_failure(&mut task, frame)?;
        }
        // Which took the page out of both mappings, one table of them by unsharing it.
        ground.share(&mut task)?;
        Ok(Self { ground, threads, addresses, frames, failed })
    }

    /// Does it so many times; how long that took.
    pub(in crate::bench) fn run(
        &self,
        way: Way,
        task: &mut Task<Host>,
        thread: usize,
        iterations: u64,
    ) -> Duration {
        match way {
            Way::PunchHole => return self.punch_hole(task, thread, iterations),
            // Needs threads of its own.
            Way::Handled => return Duration::ZERO,
            _ => {}
        }
        let began = Instant::now();
        match way {
            Way::Visit => self.visit(task, iterations),
            Way::VisitSleeping => self.visit_sleeping(task, iterations),
            Way::Referenced => self.referenced(task, thread, iterations),
            Way::FollowPage => self.follow_page(task, thread, iterations),
            Way::PinPages => self.pin_pages(task, thread, iterations),
            Way::FaultMapped => self.fault_mapped(task, thread, iterations),
            Way::FaultFailed => self.fault_failed(task, iterations),
            Way::GupFast => self.gup_fast(task, thread, iterations, GupFlags::empty()),
            Way::PinFast => self.gup_fast(task, thread, iterations, GupFlags::PIN | GupFlags::WRITE),
            Way::GupFastSame => self.gup_fast_same(task, iterations),
            Way::Rcu => self.bare_rcu(task, thread, iterations),
            Way::VmaLock => self.bare_vma_lock(task, thread, iterations),
            Way::PunchHole | Way::Handled => {}
        }
        began.elapsed()
    }

    /// Is what the operations are to meet there: mapped pages, and one that failed?
    #[cfg(test)]
    pub(super) fn meets_what_it_measures(&self, task: &mut Task<Host>) -> bool {
        use hugewalk::fault::{Fault, FaultError};
        let space = &self.ground.space;
        let failed = space.fault(task, self.failed, Access::Read);
        let mapped = self.addresses.iter().all(|&address| {
            space.fault(task, address, Access::Read) == Ok(Fault::Present)
                && space.pin_page_fast(task, address, GupFlags::PIN | GupFlags::WRITE).is_some()
        });
        mapped
            && matches!(failed, Err(FaultError::Hwpoison { .. }))
            && self.frames.len() == self.addresses.len()
    }

    /// The places in the list that are a thread's, from one to the next as the entry before says: as far as the processor can
    /// tell. What is measured is how long a walk takes, not how many can overlap.
    #[inline]
    fn each(&self, thread: usize, iterations: u64, mut walk: impl FnMut(usize, VirtAddr) -> u64) {
        let nothing = black_box(0u64);
        let each = self.addresses.len() as u64 / self.threads;
        let mask = each - 1;
        let mut depends = 0;
        for n in 0..iterations {
            let place = (((n ^ depends) & mask) + thread as u64 * each) as usize;
            let Some(&address) = self.addresses.get(place) else { return };
            depends = walk(place, address) & nothing;
        }
        black_box(depends);
    }

    fn bare_rcu(&self, task: &Task<Host>, thread: usize, iterations: u64) {
        let mm = self.ground.space.mm();
        self.each(thread, iterations, |_, address| {
            loop {
                let section = task.rcu_read_lock();
                let Some(slot) = huge_pte_offset(&section, mm, address, X86_64::SIZE_2M).ok().flatten()
                else {
                    return 0;
                };
                if let Ok(entry) = slot.read() {
                    return number(entry);
                }
            }
        });
    }

    fn bare_vma_lock(&self, task: &mut Task<Host>, thread: usize, iterations: u64) {
        let mm = self.ground.space.mm();
        let mmap = self.ground.space.mmap_read(task);
        let Some(vma) = mmap.find(self.ground.page(0, 0)) else { return };
        self.each(thread, iterations, |_, address| {
            let Some(locked) = mmap.lock_vma(vma, task) else { return 0 };
            let slot = huge_pte_offset(&locked, mm, address, X86_64::SIZE_2M);
            slot.ok().flatten().map_or(0, |slot| number(slot.read()))
        });
    }

    /// The hole alone is timed, not the fault that maps a new page for the next one.
    fn punch_hole(&self, task: &mut Task<Host>, thread: usize, iterations: u64) -> Duration {
        let page = 200 + thread as u64;
        let address = self.ground.page(GIGABYTES, page);
        let offset = GIGABYTES * PUD_SIZE + page * PMD_SIZE;
        let mut took = Duration::ZERO;
        for _ in 0..iterations {
            let _ = self.ground.space.fault(task, address, Access::Read);
            let began = Instant::now();
            let _ = self.ground.file.punch_hole(task, offset, PMD_SIZE);
            took += began.elapsed();
        }
        took
    }

    fn visit(&self, task: &mut Task<Host>, iterations: u64) {
        let mut leaves = Leaves(0);
        for n in 0..iterations {
            let _ = self.ground.space.walk_range(task, self.gigabyte(n), &mut leaves);
        }
        black_box(leaves.0);
    }

    fn visit_sleeping(&self, task: &mut Task<Host>, iterations: u64) {
        let mut leaves = Leaves(0);
        for n in 0..iterations {
            let _ = self.ground.space.walk_range_sleeping(task, self.gigabyte(n), &mut leaves);
        }
        black_box(leaves.0);
    }

    fn gigabyte(&self, n: u64) -> Range<VirtAddr> {
        let gigabyte = n % GIGABYTES;
        self.ground.page(gigabyte, 0)..self.ground.page(gigabyte + 1, 0)
    }

    fn referenced(&self, task: &mut Task<Host>, thread: usize, iterations: u64) {
        self.each(thread, iterations, |place, _| {
            let Some(&frame) = self.frames.get(place) else { return 0 };
            self.ground.hugetlb.referenced(task, frame).unwrap_or(0)
        });
    }

    fn follow_page(&self, task: &Task<Host>, thread: usize, iterations: u64) {
        self.each(thread, iterations, |_, address| {
            let page = self.ground.space.follow_page(task, address, GupFlags::empty());
            page.ok().flatten().map_or(0, |page| page.frame().0)
        });
    }

    /// Pages one after the other, from a different gigabyte each time.
    fn pin_pages(&self, task: &mut Task<Host>, thread: usize, iterations: u64) {
        for n in 0..iterations {
            let from = self.ground.page(n % GIGABYTES, 2 * PINNED * (1 + thread as u64));
            let pins = self.ground.space.pin_pages(task, from, PINNED * PMD_SIZE, GupFlags::PIN);
            let _ = black_box(pins);
        }
    }

    fn fault_mapped(&self, task: &mut Task<Host>, thread: usize, iterations: u64) {
        self.each(thread, iterations, |_, address| {
            self.ground.space.fault(task, address, Access::Read).map_or(0, |fault| fault as u64)
        });
    }

    fn fault_failed(&self, task: &mut Task<Host>, iterations: u64) {
        self.each(0, iterations, |_, _| {
            u64::from(self.ground.space.fault(task, self.failed, Access::Read).is_ok())
        });
    }

    fn gup_fast(&self, task: &Task<Host>, thread: usize, iterations: u64, flags: GupFlags) {
        self.each(thread, iterations, |_, address| {
            self.ground.space.pin_page_fast(task, address, flags).map_or(0, |page| page.frame().0)
        });
    }

    fn gup_fast_same(&self, task: &Task<Host>, iterations: u64) {
        let Some(&address) = self.addresses.first() else { return };
        let flags = GupFlags::empty();
        self.each(0, iterations, |_, _| {
            self.ground.space.pin_page_fast(task, address, flags).map_or(0, |page| page.frame().0)
        });
    }
}

fn number(entry: Entry) -> u64 {
    match entry {
        Entry::Leaf(leaf) => leaf.frame.0,
        _ => 0,
    }
}

/// Counts leaves, with or without sleeping.
struct Leaves(u64);

impl Visitor<Host> for Leaves {
    fn entry(&mut self, found: &Found<'_, Host>) {
        self.0 += u64::from(matches!(found.entry(), Entry::Leaf(_)));
    }
}

impl SleepingVisitor<Host> for Leaves {
    fn entry(&mut self, _: &mut Resched<'_, Host>, _: &Vma<Host>, _: VirtAddr, entry: Entry) -> Next {
        self.0 += u64::from(matches!(entry, Entry::Leaf(_)));
        Next::Go
    }
}
