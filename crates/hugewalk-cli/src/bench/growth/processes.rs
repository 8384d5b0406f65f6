//! The processes that share a table.

use std::time::Instant;

use hugewalk::arch::PUD_SIZE;
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, MapError, Placement};
use hugewalk::sync::Arc;
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use super::{PAGE, START, System, grow, map};
use crate::bench::sample::{Case, Effort};
use crate::bench::{BenchError, Group};

/// Processes that have all taken up one table.
struct Family(Vec<Arc<AddressSpace<Host>>>);

impl Family {
    fn new(system: &System, number: u64) -> Result<Self, BenchError> {
        let task = &mut *system.task.borrow_mut();
        let (file, parent) = (system.file()?, AddressSpace::new(&system.hugetlb)?);
        map(&parent, task, &file, Placement::Fixed(START), (0, PUD_SIZE))?;
        parent.fault(task, START, Access::Write)?;
        let mut family = vec![parent];
        for _ in 1..number {
            let child = family[0].fork(task)?;
            child.fault(task, START, Access::Read)?;
            family.push(child);
        }
        Ok(Self(family))
    }

    /// One more, and it goes away.
    fn child(&self, task: &mut Task<Host>) -> Result<(), BenchError> {
        let child = self.0[0].fork(task)?;
        child.fault(task, START, Access::Read)?;
        Ok(child.exit(task).map_err(MapError::from)?)
    }

    /// The last one gives the table up and takes it up again.
    fn unshare(&self, task: &mut Task<Host>) -> Result<(), BenchError> {
        let last = &self.0[self.0.len() - 1];
        last.madvise(task, START, PAGE, Advice::DontNeed)?;
        last.fault(task, START, Access::Read)?;
        Ok(())
    }
}

type Operation = fn(&Family, &mut Task<Host>) -> Result<(), BenchError>;

const OPERATIONS: [(&str, Operation); 2] = [
    ("fork of one more, a load, its exit", Family::child),
    ("one unshares it and shares it again", Family::unshare),
];

pub(super) fn groups(effort: &Effort, sizes: &[u64]) -> Result<Vec<Group>, BenchError> {
    let system = System::new(sizes.len() as u64)?;
    let mut all = Vec::new();
    for &number in sizes {
        let family = Family::new(&system, number)?;
        for (_, work) in OPERATIONS {
            work(&family, &mut system.task.borrow_mut())?;
        }
        all.push((number, family));
    }
    let groups = OPERATIONS.map(|(what, work)| {
        let title = format!("Processes that share a table: {what}");
        grow(effort, &title, ("process", "processes"), &all, |name, _, family| {
            Case::timed(name, |n| {
                let mut task = system.task.borrow_mut();
                let began = Instant::now();
                for _ in 0..n {
                    let _ = work(family, &mut task);
                }
                began.elapsed()
            })
        })
    });
    Ok(groups.into())
}
