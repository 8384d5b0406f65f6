//! What each walker of the RFC costs, by the operation that a user calls; alone, beside another thread, and while somebody
//! unshares the tables.
//!
//! Each walker walks under one kind of proof, but for the walks over ranges, which have both. So beside each of the others
//! stand the bare walks of both kinds, to the same entries: what of its cost is the walk, and what the walk would cost
//! under the other proof.

mod ground;
mod handled;
mod operation;

use std::io::Write;

use clap::ValueEnum;
use hugewalk::Task;

use self::handled::Handled;
pub(super) use self::operation::{Operations, PINNED};
use super::crowd::{Crowd, Unshare};
use super::sample::{Case, Effort, measure};
use super::{BenchError, Group};

/// Something that walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Way {
    /// A hole of one page
    PunchHole,
    /// A fault that a handler resolves
    Handled,
    /// A walk over a gigabyte, with a visitor that never sleeps
    Visit,
    /// A walk over a gigabyte, with a visitor that may sleep
    VisitSleeping,
    /// The accessed bits of a page
    Referenced,
    /// A reference to a page, under the table lock
    FollowPage,
    /// Pins of 64 pages in a row
    PinPages,
    /// A fault of a page that is mapped
    FaultMapped,
    /// A fault of a page that memory failure took
    FaultFailed,
    /// A reference to a page without a lock
    GupFast,
    /// A pin of a page for writing without a lock
    PinFast,
    /// A reference to always the same page without a lock
    GupFastSame,
    /// A walk in a read section, the entry confirmed
    Rcu,
    /// A walk with the VMA lock taken for it
    VmaLock,
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PunchHole => "punch_hole of 1 page (i_mmap in write, VMA locks tried)",
            Self::Handled => "missing fault until UFFDIO_COPY has woken it (RCU)",
            Self::Visit => "visitor that never sleeps (RCU), 512 entries",
            Self::VisitSleeping => "visitor that may sleep (VMA lock), 512 entries",
            Self::Referenced => "referenced, 1 page (i_mmap in read)",
            Self::FollowPage => "follow_page, 1 page (RCU, table lock)",
            Self::PinPages => "pin_pages, 64 pages (RCU, table lock)",
            Self::FaultMapped => "fault of a mapped page: first look (RCU)",
            Self::FaultFailed => "fault of a failed page: first look (RCU)",
            Self::GupFast => "get 1 page and put it (RCU)",
            Self::PinFast => "pin 1 page for writing and unpin it (RCU)",
            Self::GupFastSame => "get 1 page and put it, always the same (RCU)",
            Self::Rcu => "bare walk, RCU, read confirmed",
            Self::VmaLock => "bare walk, VMA lock",
        }
    }
}

/// A walker and what is measured of it; the first is what ratios refer to.
const WALKERS: [(&str, &[Way]); 8] = [
    ("Hole punch: hugetlb_vma_maps_page", &[Way::Rcu, Way::VmaLock, Way::PunchHole]),
    ("userfaultfd: userfaultfd_huge_must_wait", &[Way::Rcu, Way::VmaLock, Way::Handled]),
    ("Page walk: walk_hugetlb_range", &[Way::Visit, Way::VisitSleeping]),
    ("Reverse map: page_vma_mapped_walk", &[Way::Rcu, Way::VmaLock, Way::Referenced]),
    ("GUP of one page: hugetlb_follow_page_mask", &[Way::Rcu, Way::VmaLock, Way::FollowPage]),
    ("GUP of a range: follow_hugetlb_page", &[Way::Rcu, Way::VmaLock, Way::PinPages]),
    ("Fault: the first look of hugetlb_fault", &[Way::Rcu, Way::VmaLock, Way::FaultFailed, Way::FaultMapped]),
    ("Fast GUP", &[Way::Rcu, Way::VmaLock, Way::GupFast, Way::PinFast, Way::GupFastSame]),
];

/// The most threads that are measured at once, each with pages of its own.
const THREADS: u64 = 2;

/// Who is at work: threads that are measured, and threads that unshare.
const CROWDS: [(usize, usize); 4] = [(1, 0), (2, 0), (1, 1), (2, 1)];

/// Groups that [`groups`] measures.
pub(super) const GROUPS: u64 = (WALKERS.len() * CROWDS.len()) as u64;

pub(super) fn groups(effort: &Effort) -> Result<Vec<Group>, BenchError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let operations = Operations::new(THREADS)?;
    let handled = Handled::new()?;
    let mut groups = Vec::new();
    for (walker, ways) in WALKERS {
        for (threads, unsharers) in CROWDS {
            let cases = ways.iter().map(|&way| case(way, &operations, &handled, threads, unsharers));
            let cases = measure(effort, cases.collect());
            let handlers = usize::from(ways.contains(&Way::Handled));
            groups.push(Group {
                title: title(walker, threads, unsharers),
                note: note(threads + unsharers, handlers, processors),
                baseline: ways.first().map_or("", |way| way.name()).to_owned(),
                cases,
            });
        }
    }
    Ok(groups)
}

fn case<'a>(
    way: Way,
    operations: &'a Operations,
    handled: &'a Handled,
    threads: usize,
    unsharers: usize,
) -> Case<'a> {
    let ground = if way == Way::Handled { &handled.ground } else { &operations.ground };
    Case::timed(way.name(), move |iterations| {
        let unshare = |task: &mut Task<_>, turn| ground.unshare(task, turn);
        let unsharer: Option<Unshare<'_>> = if unsharers > 0 { Some(&unshare) } else { None };
        let crowd = Crowd { hugetlb: &ground.hugetlb, threads, unsharer };
        match way {
            Way::Handled => handled.run(&crowd, iterations),
            way => crowd.run(|task, thread| operations.run(way, task, thread, iterations)),
        }
    })
}

fn title(walker: &str, threads: usize, unsharers: usize) -> String {
    let threads = if threads == 1 { "1 thread" } else { "2 threads at once" };
    let beside = if unsharers == 0 { "" } else { ", and 1 that unshares all the while" };
    format!("{walker}; {threads}{beside}")
}

/// What a reader has to know where there are more threads than processors.
fn note(threads: usize, handlers: usize, processors: usize) -> Option<String> {
    let handler = if handlers > 0 { ", the handler's among them," } else { "" };
    let threads = threads + handlers;
    (threads > processors).then(|| {
        format!(
            "{threads} threads{handler} on {processors} processors: the figures hold waiting for a processor, also for one \
             that has the lock"
        )
    })
}

/// Does one case so many times on one thread and nothing else, for a tool that counts instructions.
pub(super) fn count(way: Way, iterations: u64, out: &mut dyn Write) -> Result<(), BenchError> {
    if way == Way::Handled {
        let handled = Handled::new()?;
        let crowd = Crowd { hugetlb: &handled.ground.hugetlb, threads: 1, unsharer: None };
        handled.run(&crowd, iterations);
    } else {
        let operations = Operations::new(THREADS)?;
        let mut task = hugewalk_host::task(&operations.ground.hugetlb)?;
        operations.run(way, &mut task, 0, iterations);
    }
    writeln!(out, "{}: {iterations} times", way.name())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hugewalk::arch::PUD_SIZE;

    use super::*;

    #[test]
    fn every_way_is_measured_somewhere() {
        for way in Way::value_variants() {
            assert!(WALKERS.iter().any(|(_, ways)| ways.contains(way)), "{way:?}");
        }
    }

    #[test]
    fn each_operation_leaves_the_tables_shared_and_the_pages_there() {
        let operations = Operations::new(THREADS).unwrap();
        let ground = &operations.ground;
        let mut task = hugewalk_host::task(&ground.hugetlb).unwrap();
        for &way in Way::value_variants() {
            operations.run(way, &mut task, 1, 40);
        }
        ground.share(&mut task).unwrap();
        let tables = ground.space.tables(&mut task).unwrap();
        let range = ground.range();
        let gigabytes = range.end.offset_from(range.start) / PUD_SIZE;
        assert_eq!(tables.len() as u64, gigabytes);
        assert!(tables.iter().all(|table| table.users == 2), "{tables:?}");
        // But for the page that was punched out last; the one that failed stays in the file.
        assert_eq!(ground.file.pages(), gigabytes * 512 - 1);
    }

    #[test]
    fn a_failed_page_ends_the_fault_and_a_mapped_one_is_found() {
        let operations = Operations::new(THREADS).unwrap();
        let mut task = hugewalk_host::task(&operations.ground.hugetlb).unwrap();
        assert!(operations.meets_what_it_measures(&mut task));
    }

    #[test]
    fn a_handler_resolves_each_fault_and_ends() {
        let handled = Handled::new().unwrap();
        for unsharers in [0, 1] {
            let unshare = |task: &mut Task<_>, turn| handled.ground.unshare(task, turn);
            let unsharer: Option<Unshare<'_>> = if unsharers > 0 { Some(&unshare) } else { None };
            let crowd = Crowd { hugetlb: &handled.ground.hugetlb, threads: 2, unsharer };
            let sample = handled.run(&crowd, 20);
            assert!(sample.took > Duration::ZERO);
            assert_eq!(sample.unshared.is_some(), unsharers > 0);
        }
        assert_eq!(handled.ground.file.pages(), 512);
    }

    #[test]
    fn more_threads_than_processors_are_said() {
        assert_eq!(note(2, 0, 2), None);
        assert!(
            note(2, 1, 2).is_some_and(|note| note.starts_with("3 threads, the handler's among them, on 2"))
        );
        assert!(note(3, 0, 2).is_some_and(|note| note.starts_with("3 threads on 2 processors")));
    }
}
