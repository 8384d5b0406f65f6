//! The mappings of a file, of one process: one page each, with a hole of as much behind it.

use hugewalk::addr::VirtAddr;
use hugewalk::file::HugeFile;
use hugewalk::mm::Placement;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use super::{PAGE, RW, START, Spread, System, grow, map};
use crate::bench::sample::{Case, Effort};
use crate::bench::{BenchError, Group};

struct Mapped {
    file: Arc<HugeFile<Host>>,
    space: Arc<AddressSpace<Host>>,
    number: u64,
    spread: Spread,
}

fn place(number: u64) -> VirtAddr {
    VirtAddr::new(START.as_u64() + number * 2 * PAGE)
}

impl Mapped {
    fn new(system: &System, number: u64) -> Result<Self, BenchError> {
        let (file, space) = (system.file()?, AddressSpace::new(&system.hugetlb)?);
        let mapped = Self { file, space, number, spread: Spread::new() };
        (0..number).try_for_each(|number| mapped.map(&mut system.task.borrow_mut(), number))?;
        Ok(mapped)
    }

    /// Maps the one of this number.
    fn map(&self, task: &mut Task<Host>, number: u64) -> Result<(), BenchError> {
        let part = (number % 512 * PAGE, PAGE);
        map(&self.space, task, &self.file, Placement::Fixed(place(number)), part).map(|_| ())
    }

    fn anywhere(&self, task: &mut Task<Host>) -> Result<(), BenchError> {
        let part = (self.spread.below(512) * PAGE, 4 * PAGE);
        let at = map(&self.space, task, &self.file, Placement::Anywhere, part)?;
        Ok(self.space.munmap(task, at, 4 * PAGE)?)
    }

    fn between(&self, task: &mut Task<Host>) -> Result<(), BenchError> {
        let number = self.spread.below(self.number);
        self.space.munmap(task, place(number), PAGE)?;
        self.map(task, number)
    }

    fn protect(&self, task: &mut Task<Host>) -> Result<(), BenchError> {
        let at = place(self.spread.below(self.number));
        self.space.mprotect(task, at, PAGE, Protection::READ)?;
        Ok(self.space.mprotect(task, at, PAGE, RW)?)
    }

    fn fork(&self, task: &mut Task<Host>) -> Result<(), BenchError> {
        let child = self.space.fork(task)?;
        Ok(child.exit(task).map_err(hugewalk::mm::MapError::from)?)
    }
}

type Operation = fn(&Mapped, &mut Task<Host>) -> Result<(), BenchError>;

/// What is done, and whether it is done to all mappings.
const OPERATIONS: [(&str, Operation, bool); 4] = [
    ("mmap anywhere, and munmap", Mapped::anywhere, false),
    ("munmap, and mmap between two others", Mapped::between, false),
    ("mprotect there and back", Mapped::protect, false),
    ("fork and exit, for each mapping", Mapped::fork, true),
];

pub(super) fn groups(effort: &Effort, sizes: &[u64]) -> Result<Vec<Group>, BenchError> {
    let system = System::new(0)?;
    let mut all = Vec::new();
    for &number in sizes {
        let mapped = Mapped::new(&system, number)?;
        // Once before, so that what cannot work is said and not measured.
        for (_, work, _) in OPERATIONS {
            work(&mapped, &mut system.task.borrow_mut())?;
        }
        all.push((number, mapped));
    }
    let groups = OPERATIONS.map(|(what, work, each)| {
        let title = format!("Mappings of a file: {what}");
        grow(effort, &title, ("mapping", "mappings"), &all, |name, number, mapped| {
            let system = &system;
            let case = Case::new(name, move |n| {
                let mut task = system.task.borrow_mut();
                for _ in 0..n {
                    let _ = work(mapped, &mut task);
                }
            });
            case.parts(if each { number } else { 1 })
        })
    });
    Ok(groups.into())
}
