//! Each walker of the engine in the walker's role, in the scenarios whose action is something it does.
//!
//! It holds what the protocol gives it: the mmap lock alone (its read sections are none then, and what would hold the VMA
//! lock does not), a read section without the checks, the VMA lock around it, or what the engine does. Rmap, truncation
//! and GUP-fast hold what they hold in every protocol: `i_mmap`, or interrupts off.

use hugewalk::Task;
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE};
use hugewalk::fault::Access;
use hugewalk::gup::GupFlags;
use hugewalk::pagewalk::{Found, Next, Resched, SleepingVisitor, Visitor};
use hugewalk::uffd::{Features, Modes, Userfault};
use hugewalk::vma::Vma;

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, dont_need, map, page};
use super::expected::{NONE, Row, Verdicts};
use super::races::{FAST, STALE};
use crate::lab::{Lab, Property, Walker};

const FREED: &[Property] = &[Property::I1];
const TOLD: &[Property] = &[Property::I1, Property::I3];
const WRITES: &[Property] = &[Property::I1, Property::I2];

const RACES_LEGACY: Verdicts = Verdicts::Races(&["legacy"]);
const RACES_STALE: Verdicts = Verdicts::Races(STALE);
const RACES_LOCK: Verdicts = Verdicts::Races(&["legacy", "rfc"]);
const SLEEPS: Verdicts = Verdicts::RacesBut(
    &["legacy"],
    &["rfc", "rfc-ptl"],
    "the RFC walks in a read section whatever the visitor does: see S6",
);

const S1: &str = "A walks into the table and reads; B unshares; C unmaps and frees the table";
const S2: &str = "A walks into the table and locks it; B unshares; C unmaps and frees the table";
const S3: &str = "S2 on a machine that frees tables right after the flush";
const S4: &str = "S2 on a machine that has no memory for the batch of tables to be freed";
const S7: &str = "A reads an entry; B unshares and faults anew";
const S8: &str = "A locks the table and writes an entry; B unshares";
const S9: &str = "A takes a page; B unshares; C maps something else where the table is now its own";
const S30: &str = "A reads an entry; B unshares and shares the same table again";

macro_rules! rows {
    ($($id:literal $what:ident $judged:ident $layout:ident($walk:ident) $verdicts:ident,)*) => {
        &[$(Row {
            scenario: Scenario { id: $id, what: $what, judged: $judged, build: |bench| $layout(bench, $walk) },
            verdicts: $verdicts,
        }),*]
    };
}

pub(super) const ROWS: &[Row] = rows![
    "S1/maps-page" S1 FREED last_user_leaves(maps_page) NONE,
    "S1/must-wait" S1 FREED last_user_leaves_handled(must_wait) RACES_LEGACY,
    "S1/page-walk" S1 FREED last_user_leaves(page_walk) RACES_LEGACY,
    "S1/sleeping-walk" S1 FREED last_user_leaves(sleeping_walk) SLEEPS,
    "S1/first-look" S1 FREED last_user_leaves(first_look) RACES_LEGACY,
    "S1/gup-fast" S1 FREED last_user_leaves(gup_fast) NONE,
    "S2/page-walk" S2 FREED last_user_leaves(page_walk_marks) RACES_LOCK,
    "S2/rmap" S2 FREED last_user_leaves(rmap) NONE,
    "S2/follow-page" S2 FREED last_user_leaves(follow_page) RACES_LOCK,
    "S2/gup-range" S2 FREED last_user_leaves(gup_range) RACES_LOCK,
    "S3/page-walk" S3 FREED freed_at_once(page_walk_marks) RACES_STALE,
    "S3/follow-page" S3 FREED freed_at_once(follow_page) RACES_STALE,
    "S3/gup-range" S3 FREED freed_at_once(gup_range) RACES_STALE,
    "S3/gup-fast" S3 FREED freed_at_once(gup_fast) NONE,
    "S4/page-walk" S4 FREED without_batches(page_walk_marks) RACES_STALE,
    "S4/follow-page" S4 FREED without_batches(follow_page) RACES_STALE,
    "S4/gup-range" S4 FREED without_batches(gup_range) RACES_STALE,
    "S4/gup-fast" S4 FREED without_batches(gup_fast) NONE,
    "S7/must-wait" S7 TOLD table_goes_handled(must_wait) RACES_STALE,
    "S7/page-walk" S7 TOLD table_comes_back(page_walk) RACES_STALE,
    "S7/sleeping-walk" S7 TOLD table_comes_back(sleeping_walk) SLEEPS,
    "S7/follow-page" S7 TOLD table_comes_back(follow_page) RACES_STALE,
    "S7/gup-range" S7 TOLD table_comes_back(gup_range) RACES_STALE,
    "S8/page-walk" S8 WRITES table_goes(page_walk_marks) RACES_STALE,
    "S8/rmap" S8 WRITES table_goes(rmap) NONE,
    "S9/follow-page" S9 TOLD table_is_reused(follow_page) RACES_STALE,
    "S9/gup-range" S9 TOLD table_is_reused(gup_range) RACES_STALE,
    "S9/gup-fast" S9 TOLD table_is_reused(gup_fast) RACES_FAST,
    "S30/page-walk" S30 TOLD table_comes_back(page_walk) RACES_STALE,
    "S30/gup-fast" S30 TOLD table_comes_back(gup_fast) NONE,
];

const RACES_FAST: Verdicts = Verdicts::Races(FAST);

/// What a walker walks to: page 0 of a process, which is page 0 of a file.
struct Target {
    process: Process,
    file: File,
    frame: HugeFrame,
}

type Walk = fn(&Target, &mut LabTask);

/// `hugetlb_vma_maps_page()`: whom truncation and hole punch wait for.
fn maps_page(target: &Target, task: &mut LabTask) {
    Walker::new(&target.process, page(0)).watch_everywhere(|| {
        target.file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
    });
}

/// `userfaultfd_huge_must_wait()`: a fault on a page that is missing.
fn must_wait(target: &Target, task: &mut LabTask) {
    Walker::new(&target.process, page(1)).watch(|| {
        target.process.fault(task, page(1), Access::Read).expect("a page");
    });
}

struct Looks<'s>(&'s Walker<'s>);
impl Visitor<Lab> for Looks<'_> {
    fn entry(&mut self, found: &Found<'_, Lab>) {
        self.0.told(Some(found.entry().page()));
    }
}
impl SleepingVisitor<Lab> for Looks<'_> {
    fn entry(&mut self, _: &mut Resched<'_, Lab>, _: &Vma<Lab>, _: VirtAddr, entry: Entry) -> Next {
        self.0.told(Some(entry.page()));
        Next::Go
    }
}

struct Marks;
impl Visitor<Lab> for Marks {
    fn entry(&mut self, found: &Found<'_, Lab>) {
        if let Ok(locked) = found.lock() {
            locked.mark_used(true);
        }
    }
}

/// `walk_hugetlb_range()`, with a visitor that looks at entries.
fn page_walk(target: &Target, task: &mut LabTask) {
    let walker = Walker::new(&target.process, page(0));
    walker.watch(|| {
        target.process.walk_range(task, page(0)..page(1), &mut Looks(&walker)).expect("aligned");
    });
}

/// The same, with a visitor that locks the table and sets bits.
fn page_walk_marks(target: &Target, task: &mut LabTask) {
    Walker::new(&target.process, page(0)).watch(|| {
        target.process.walk_range(task, page(0)..page(1), &mut Marks).expect("aligned");
    });
}

/// The same, with a visitor that may sleep.
fn sleeping_walk(target: &Target, task: &mut LabTask) {
    let walker = Walker::new(&target.process, page(0));
    walker.watch_sleeper(|| {
        target.process.walk_range_sleeping(task, page(0)..page(1), &mut Looks(&walker)).expect("aligned");
    });
}

/// `page_vma_mapped_walk()`, as `try_to_unmap()` uses it.
fn rmap(target: &Target, task: &mut LabTask) {
    let hugetlb = task.hugetlb().clone();
    Walker::new(&target.process, page(0)).watch_everywhere(|| {
        // It may be in use no more.
        let _ = hugetlb.unmap_page(task, target.frame);
    });
}

/// `hugetlb_follow_page_mask()`. Its callers hold the mmap lock.
fn follow_page(target: &Target, task: &mut LabTask) {
    let walker = Walker::new(&target.process, page(0));
    walker.watch(|| {
        let mmap = target.process.mmap_read(task);
        let vma = mmap.find(page(0)).filter(|_| walker.holds_vma_lock());
        let _locked = vma.and_then(|vma| mmap.lock_vma(vma, task));
        let found = target.process.follow_page(task, page(0), GupFlags::empty()).expect("no error");
        walker.told(found.as_ref().map(|found| Some(found.frame())));
    });
}

/// `follow_hugetlb_page()`, which faults in what is missing.
fn gup_range(target: &Target, task: &mut LabTask) {
    let walker = Walker::new(&target.process, page(0));
    walker.watch(|| {
        let pins = target.process.pin_pages(task, page(0), PMD_SIZE, GupFlags::empty()).expect("a page");
        for found in pins.pages() {
            walker.told(Some(Some(found.frame())));
        }
    });
}

/// The first look of `hugetlb_fault()`.
fn first_look(target: &Target, task: &mut LabTask) {
    Walker::new(&target.process, page(0)).watch(|| {
        target.process.fault(task, page(0), Access::Read).expect("a page");
    });
}

/// `get_user_pages_fast_only()`.
fn gup_fast(target: &Target, task: &mut LabTask) {
    let walker = Walker::new(&target.process, page(0));
    walker.watch_fast(|| {
        let found = target.process.pin_page_fast(task, page(0), GupFlags::empty());
        walker.told_fast(found.as_ref().map(|found| found.frame()));
    });
}

/// A process that shares its table with another, which was there first.
fn target(bench: &mut Bench<'_>) -> (Target, Process) {
    let file = bench.file();
    let other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    (Target { process, file, frame }, other)
}

fn last_user_leaves(bench: &mut Bench<'_>, walk: Walk) {
    let (target, last) = target(bench);
    let same = target.process.clone();
    bench.cpu("walk", move |task| walk(&target, task));
    bench.cpu("madvise", move |task| dont_need(task, &same));
    bench.cpu("munmap", move |task| last.munmap(task, BASE, PUD_SIZE).expect("aligned"));
}

fn freed_at_once(bench: &mut Bench<'_>, walk: Walk) {
    bench.protocol(|settings| Some(settings.freed_at_once()));
    last_user_leaves(bench, walk);
}

fn without_batches(bench: &mut Bench<'_>, walk: Walk) {
    bench.protocol(|settings| Some(settings.without_batches()));
    last_user_leaves(bench, walk);
}

/// Both have handlers for missing pages, which does not keep them from sharing. A handler that leaves wakes who waits.
fn handlers(bench: &mut Bench<'_>, of: [&Process; 2]) -> [Userfault<Lab>; 2] {
    of.map(|process| {
        let handler = Userfault::new(process, Features::empty()).expect("memory");
        handler.register(bench.task(), BASE, PUD_SIZE, Modes::MISSING).expect("mapped");
        handler
    })
}

fn last_user_leaves_handled(bench: &mut Bench<'_>, walk: Walk) {
    let (target, last) = target(bench);
    let [handler, other_handler] = handlers(bench, [&target.process, &last]);
    let same = target.process.clone();
    bench.cpu("fault", move |task| walk(&target, task));
    bench.cpu("madvise, close", move |task| {
        dont_need(task, &same);
        drop(handler);
    });
    bench.cpu("munmap", move |task| {
        last.munmap(task, BASE, PUD_SIZE).expect("aligned");
        drop(other_handler);
    });
}

fn table_goes_handled(bench: &mut Bench<'_>, walk: Walk) {
    let (target, other) = target(bench);
    let [handler, other_handler] = handlers(bench, [&target.process, &other]);
    let same = target.process.clone();
    bench.cpu("fault", move |task| walk(&target, task));
    bench.cpu("madvise, close", move |task| {
        dont_need(task, &same);
        drop((handler, other_handler));
    });
}

fn table_goes(bench: &mut Bench<'_>, walk: Walk) {
    let (target, _) = target(bench);
    let same = target.process.clone();
    bench.cpu("walk", move |task| walk(&target, task));
    bench.cpu("madvise", move |task| dont_need(task, &same));
}

fn table_comes_back(bench: &mut Bench<'_>, walk: Walk) {
    let (target, _) = target(bench);
    let same = target.process.clone();
    bench.cpu("walk", move |task| walk(&target, task));
    bench.cpu("madvise, fault", move |task| {
        dont_need(task, &same);
        same.fault(task, page(0), Access::Read).expect("a page");
    });
}

fn table_is_reused(bench: &mut Bench<'_>, walk: Walk) {
    let (target, other) = target(bench);
    let foreign = bench.foreign_file();
    let same = target.process.clone();
    bench.cpu("walk", move |task| walk(&target, task));
    bench.cpu("madvise", move |task| dont_need(task, &same));
    bench.cpu("mmap", move |task: &mut Task<Lab>| {
        map(task, &other, &foreign, 0, 1);
        other.fault(task, page(0), Access::Read).expect("a page");
    });
}
