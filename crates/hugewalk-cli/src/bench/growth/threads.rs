//! Threads that do the same at once, each with pages and tables of its own.
//!
//! Measured is the processor time of a thread: what waiting for a processor takes is no cost of the operation where there are more
//! threads than processors. Then no more work at once than there are processors, though: which lines they share is counted by a
//! test (`cargo test -p hugewalk-host --test shared_lines -- --nocapture`).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::grow;
use crate::bench::crowd::together;
use crate::bench::sample::{Case, Effort};
use crate::bench::walkers::{Operations, Way};
use crate::bench::{BenchError, Group};

const WAYS: [Way; 4] = [Way::Rcu, Way::VmaLock, Way::FaultMapped, Way::GupFast];

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

pub(super) fn groups(effort: &Effort, sizes: &[u64]) -> Result<Vec<Group>, BenchError> {
    let most = sizes.iter().copied().max().unwrap_or(1);
    let operations = Operations::new(most.next_power_of_two())?;
    let all: Vec<(u64, usize)> = sizes.iter().map(|&threads| (threads, threads as usize)).collect();
    let groups = WAYS.map(|way| {
        let title = format!("Threads at once: {}", way.name());
        let mut group = grow(effort, &title, ("thread", "threads"), &all, |name, _, &threads| {
            let operations = &operations;
            Case::timed(name, move |n| {
                together(&operations.ground.hugetlb, threads, |task, thread| {
                    let began = processor_time();
                    operations.run(way, task, thread, n);
                    processor_time().saturating_sub(began)
                })
            })
        });
        group.note = Some(
            "processor time; no more threads work at once than there are processors: the test shared_lines of hugewalk-host \
             counts which cache lines two of them both write"
                .to_owned(),
        );
        group
    });
    Ok(groups.into())
}
