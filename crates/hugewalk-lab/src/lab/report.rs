//! Reports of the engine under watch: what they tell of each entry is judged (I16).

use std::ops::{Range, RangeInclusive};

use hugewalk::addr::VirtAddr;
use hugewalk::arch::Entry;
use hugewalk::mm::AddressSpace;
use hugewalk::pagewalk::{Found, Next, Resched, SleepingVisitor, Visitor};
use hugewalk::task::Task;
use hugewalk::vma::Vma;

use super::ground::Lab;
use super::judge::reports::{Reports, Told};

/// A report on a few pages of an address space.
#[derive(Debug)]
pub struct Report<'s> {
    space: &'s AddressSpace<Lab>,
    range: Range<VirtAddr>,
}

/// Tells what it sees.
struct Tells;

impl Visitor<Lab> for Tells {
    fn entry(&mut self, found: &Found<'_, Lab>) {
        Reports::tells(found.address(), Told::Entry(found.entry()));
    }

    fn hole(&mut self, _: &Vma<Lab>, range: Range<VirtAddr>) {
        for address in (range.start.as_u64()..range.end.as_u64()).step_by(1 << 21) {
            Reports::tells(VirtAddr::new(address), Told::Entry(Entry::None));
        }
    }
}

impl SleepingVisitor<Lab> for Tells {
    fn entry(&mut self, _: &mut Resched<'_, Lab>, _: &Vma<Lab>, address: VirtAddr, entry: Entry) -> Next {
        Reports::tells(address, Told::Entry(entry));
        Next::Go
    }
}

impl<'s> Report<'s> {
    /// A report on these pages, two at the most.
    #[must_use]
    pub fn new(space: &'s AddressSpace<Lab>, range: Range<VirtAddr>) -> Self {
        Self { space, range }
    }

    /// Runs a report, which says how often it may tell of each page.
    fn watched(&self, report: impl FnOnce(Range<VirtAddr>) -> RangeInclusive<u8>) {
        let root = self.space.mm().root_frame();
        super::trace::works_in(root);
        Reports::begin(root, &self.range);
        Reports::end(report(self.range.clone()));
    }

    /// `walk_page_range()`, with a visitor that does not sleep.
    pub fn walk(&self, task: &mut Task<Lab>) {
        self.watched(|range| match self.space.walk_range(task, range, &mut Tells) {
            Ok(None) => 1..=1,
            // Not all of it was mapped.
            _ => 0..=1,
        });
    }

    /// The same, with a visitor that may.
    pub fn walk_sleeping(&self, task: &mut Task<Lab>) {
        self.watched(|range| {
            let _ = self.space.walk_range_sleeping(task, range, &mut Tells);
            0..=1
        });
    }

    /// `/proc/PID/pagemap`.
    pub fn pagemap(&self, task: &mut Task<Lab>) {
        self.watched(|range| {
            for (address, map) in self.space.pagemap(task, range).unwrap_or_default() {
                Reports::tells(address, Told::Map(map));
            }
            0..=1
        });
    }

    /// `/proc/PID/smaps`, of the mapping that is just the page of the report.
    pub fn smaps(&self, task: &mut Task<Lab>) {
        self.watched(|range| {
            let mut pages = None;
            let _ = self.space.residency(task, |vma, residency| {
                if (vma.start(), vma.end()) == (range.start, range.end) {
                    pages = Some(residency.shared + residency.private);
                }
            });
            if let Some(pages) = pages {
                Reports::tells(range.start, Told::Page(pages > 0));
            }
            0..=1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Property, Settings};
    use crate::scenario::{Scenario, page};
    use crate::{Verdict, check};

    /// A report on two pages that tells of these.
    fn told_of(build: fn(&mut crate::scenario::Bench<'_>)) -> Verdict {
        let scenario = Scenario { id: "mine", what: "a report", judged: &[Property::I16], build };
        check(&scenario, Settings::HUGEWALK, &Default::default())
    }

    #[test]
    fn a_walk_that_leaves_a_page_out_or_tells_of_it_twice_is_untrue() {
        let left_out = told_of(|bench| {
            let space = bench.empty();
            bench.cpu("walk", move |_| {
                Report::new(&space, page(0)..page(2)).watched(|range| {
                    Reports::tells(range.start, Told::Entry(Entry::None));
                    1..=1
                });
            });
        });
        assert!(left_out.to_string().contains("reports 0 times what is at 100200000 of P1"), "{left_out}");
        let twice = told_of(|bench| {
            let space = bench.empty();
            bench.cpu("walk", move |_| {
                Report::new(&space, page(0)..page(1)).watched(|range| {
                    Reports::tells(range.start, Told::Entry(Entry::None));
                    Reports::tells(range.start, Told::Entry(Entry::None));
                    1..=1
                });
            });
        });
        assert!(twice.to_string().contains("reports 2 times what is at 100000000 of P1"), "{twice}");
    }
}
