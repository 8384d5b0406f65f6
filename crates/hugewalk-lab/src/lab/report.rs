//! Reports of the engine under watch: what they tell of each entry is judged (I16).

use std::ops::Range;

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

    fn watched(&self, report: impl FnOnce(Range<VirtAddr>)) {
        let root = self.space.mm().root_frame();
        super::trace::works_in(root);
        Reports::begin(root, &self.range);
        report(self.range.clone());
        Reports::end();
    }

    /// `walk_page_range()`, with a visitor that does not sleep.
    pub fn walk(&self, task: &mut Task<Lab>) {
        self.watched(|range| _ = self.space.walk_range(task, range, &mut Tells));
    }

    /// The same, with a visitor that may.
    pub fn walk_sleeping(&self, task: &mut Task<Lab>) {
        self.watched(|range| _ = self.space.walk_range_sleeping(task, range, &mut Tells));
    }

    /// `/proc/PID/pagemap`.
    pub fn pagemap(&self, task: &mut Task<Lab>) {
        self.watched(|range| {
            for (address, map) in self.space.pagemap(task, range).unwrap_or_default() {
                Reports::tells(address, Told::Map(map));
            }
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
        });
    }
}
