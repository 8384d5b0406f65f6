//! The pages of a file that one process maps.

use std::cell::Cell;
use std::time::{Duration, Instant};

use hugewalk::addr::VirtAddr;
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, Placement};
use hugewalk::sync::Arc;
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use super::{PAGE, START, Spread, System, grow, map};
use crate::bench::sample::{Case, Effort};
use crate::bench::{BenchError, Group};

struct Filled {
    file: Arc<HugeFile<Host>>,
    space: Arc<AddressSpace<Host>>,
    pages: u64,
    /// Pages that are there: the first ones.
    there: Cell<u64>,
    spread: Spread,
}

fn at(page: u64) -> VirtAddr {
    VirtAddr::new(START.as_u64() + page * PAGE)
}

impl Filled {
    fn new(system: &System, pages: u64) -> Result<Self, BenchError> {
        let (file, space) = (system.file()?, AddressSpace::new(&system.hugetlb)?);
        let filled = Self { file, space, pages, there: Cell::new(0), spread: Spread::new() };
        let task = &mut *system.task.borrow_mut();
        map(&filled.space, task, &filled.file, Placement::Fixed(START), (0, pages * PAGE))?;
        filled.fill(task, pages)?;
        Ok(filled)
    }

    /// Faults in the next pages, one after the other.
    fn fill(&self, task: &mut Task<Host>, pages: u64) -> Result<(), BenchError> {
        let there = self.there.get();
        for page in there..there + pages {
            self.space.fault(task, at(page), Access::Write)?;
        }
        self.there.set(there + pages);
        Ok(())
    }

    /// Faults in so many pages, and begins anew whenever all are there; that is not timed.
    fn fresh(&self, task: &mut Task<Host>, iterations: u64) -> Result<Duration, BenchError> {
        let (mut left, mut took) = (iterations, Duration::ZERO);
        while left > 0 {
            if self.there.get() == self.pages {
                self.file.truncate(task, 0)?;
                self.file.truncate(task, self.pages * PAGE)?;
                self.there.set(0);
            }
            let pages = left.min(self.pages - self.there.get());
            let began = Instant::now();
            self.fill(task, pages)?;
            took += began.elapsed();
            left -= pages;
        }
        Ok(took)
    }

    fn again(&self, task: &mut Task<Host>, iterations: u64) -> Result<Duration, BenchError> {
        let began = Instant::now();
        for _ in 0..iterations {
            let page = at(self.spread.below(self.pages));
            self.space.madvise(task, page, PAGE, Advice::DontNeed)?;
            self.space.fault(task, page, Access::Read)?;
        }
        Ok(began.elapsed())
    }

    fn hole(&self, task: &mut Task<Host>, iterations: u64) -> Result<Duration, BenchError> {
        let began = Instant::now();
        for _ in 0..iterations {
            let page = self.spread.below(self.pages);
            self.file.punch_hole(task, page * PAGE, PAGE)?;
            self.space.fault(task, at(page), Access::Write)?;
        }
        Ok(began.elapsed())
    }
}

type Operation = fn(&Filled, &mut Task<Host>, u64) -> Result<Duration, BenchError>;

/// The first two need all pages and leave all there.
const OPERATIONS: [(&str, Operation); 3] = [
    ("a page is dropped from the mapping, and mapped again", Filled::again),
    ("a hole of one page, and the fault that fills it", Filled::hole),
    ("fault of a fresh page", Filled::fresh),
];

pub(super) fn groups(effort: &Effort, sizes: &[u64]) -> Result<Vec<Group>, BenchError> {
    // Some more, for those that are not freed at once.
    let system = System::new(sizes.iter().sum::<u64>() + 1024)?;
    let mut all = Vec::new();
    for &pages in sizes {
        let filled = Filled::new(&system, pages)?;
        // Once before, so that what cannot work is said and not measured.
        for (_, work) in &OPERATIONS[..2] {
            work(&filled, &mut system.task.borrow_mut(), 1)?;
        }
        all.push((pages, filled));
    }
    let groups = OPERATIONS.map(|(what, work)| {
        let title = format!("Pages of a file: {what}");
        grow(effort, &title, ("page", "pages"), &all, |name, _, filled| {
            Case::timed(name, |n| work(filled, &mut system.task.borrow_mut(), n).unwrap_or_default())
        })
    });
    Ok(groups.into())
}
