//! A host that puts tables of base pages into the tree and takes them away, while others walk, share and free what is around.

use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE};
use hugewalk::base::{HostSlot, host_table};
use hugewalk::fault::Access;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{MapFlags, MapRequest, Placement};
use hugewalk::pagewalk::{Found, Visitor};
use hugewalk::platform::Tables;
use hugewalk::walk::{Unshared, leaf_offset};

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, dont_need, page};
use super::expected::{MISTAKE, NONE, OTHERS, Row, Verdicts};
use super::races::STALE;
use super::stores::row;
use crate::explore::violation;
use crate::lab::{Lab, Property, Walker};

const FREED: &[Property] = &[Property::I1];
const TOLD: &[Property] = &[Property::I1, Property::I3];

/// In this engine a host holds the mmap lock in read when it takes its tables away, and those above go with them.
const OURS: Verdicts =
    Verdicts::RacesBut(&[], OTHERS, "Linux frees the tables above with the mmap lock held in write");

pub(super) const ROWS: &[Row] = &[
    row!(
        "S70",
        "the host takes its last table of a gigabyte away; B, another thread of it, puts one there",
        taken_and_put,
        by FREED,
        is OURS
    ),
    row!(
        "S70:stray",
        "S70, and B does not ask whether the table is attached still that its own goes into",
        taken_and_put,
        by FREED,
        without "populate-attached"
    ),
    row!(
        "S70/both",
        "two threads of the host put their first tables into a gigabyte, one each",
        put_twice,
        by FREED
    ),
    row!(
        "S70/visit",
        "S70, and B looks for tables of the host's behind, and finds none",
        taken_and_visited,
        by FREED,
        is OURS
    ),
    row!(
        "S71",
        "A unmaps the huge page beside; B, the host, puts a table there",
        unmapped_beside,
        by FREED
    ),
    row!(
        "S71:uncounted",
        "S71, and A asks only whether anything of the engine's is mapped",
        unmapped_beside,
        by FREED,
        without "count-below"
    ),
    row!(
        "S72",
        "A walks to a table of the host's; B takes it away, and the tables above go with it",
        |bench| walked_to(bench, rcu_walk),
        by FREED,
        is OURS
    ),
    row!(
        "S72:freed-at-once",
        "S72, and tables are freed right after the flush",
        |bench| walked_to(bench, rcu_walk),
        by FREED,
        without "rcu-free"
    ),
    row!(
        "S72/gup-fast",
        "GUP-fast in S72",
        |bench| walked_to(bench, gup_fast),
        by FREED
    ),
    row!(
        "S72/gup-fast:freed-at-once",
        "S72/gup-fast, and tables are freed right after the flush",
        |bench| walked_to(bench, gup_fast),
        by FREED,
        without "rcu-free"
    ),
    row!(
        "S72/follow-page",
        "the slow walk of GUP in S72: it locks",
        |bench| walked_to(bench, follow_page),
        by FREED,
        is OURS
    ),
    row!(
        "S72/page-walk",
        "a walk over the huge page beside it in S72, with a second place of the host's behind",
        |bench| walked_beside(bench, page_walk),
        by TOLD
    ),
    row!(
        "S72/rmap",
        "truncation of the huge page beside it in S72: it comes from the file",
        |bench| walked_beside(bench, truncate),
        by FREED
    ),
    row!(
        "S73",
        "the host leaves a gigabyte, which then shares a table; B unshares that; A walks all the time",
        shared_afterwards,
        by TOLD,
        is Verdicts::Races(STALE)
    ),
    row!(
        "S73:unconfirmed",
        "S73, and A does not ask whether the entry was its own",
        |bench| {
            bench.without("confirm-parent");
            bench.without("confirm-generation");
            shared_afterwards(bench);
        },
        by TOLD,
        is MISTAKE
    ),
];

fn block(index: u64) -> std::ops::Range<VirtAddr> {
    page(index)..VirtAddr::new(page(index).as_u64() + PMD_SIZE)
}

/// The host claims the place of a page.
fn claim(task: &mut LabTask, space: &Process, index: u64) {
    space.claim(task, Placement::FixedNoReplace(page(index)), PMD_SIZE).expect("room");
}

/// The host puts a table there, and finds it.
fn put(task: &mut LabTask, space: &Process, index: u64) {
    let table = task.hugetlb().platform().alloc_table().expect("memory");
    let mmap = space.mmap_read(task);
    // SAFETY: a table of empty entries. It is freed after it was taken away and flushed, or at the end of the run.
    let put = mmap.host_slot(task, page(index), |slot| unsafe { slot.put(table) }).expect("claimed");
    drop(mmap);
    assert_eq!(put, Ok(()), "nobody else puts one there");
    let found = host_table(&task.rcu_read_lock(), space.mm(), page(index));
    assert_eq!(found, Some(table), "the host does not find the table that it has put there");
}

/// The host takes the table away, and frees it.
fn take(task: &mut LabTask, space: &Process, index: u64) {
    let mut taken: Option<TableFrame> = None;
    let mmap = space.mmap_read(task);
    mmap.host_slots(task, block(index), |slot| taken = slot.take()).expect("its own task");
    drop(mmap);
    let table = taken.expect("the host's table is lost");
    // SAFETY: taken away, and flushed.
    unsafe { task.hugetlb().platform().free_table(table) };
}

/// A process with a table of the host's for page `index`, and nothing else.
fn with_table(bench: &mut Bench<'_>, index: u64) -> Process {
    let space = bench.empty();
    claim(bench.task(), &space, index);
    put(bench.task(), &space, index);
    bench.host(&space);
    space
}

/// The process maps the first page of the file beside what the host has, and touches it.
fn map_beside(bench: &mut Bench<'_>, space: &Process, file: &File) {
    let request = MapRequest::file(file, 0, PMD_SIZE).shared().with(MapFlags::NORESERVE).at(BASE);
    space.mmap(bench.task(), &request).expect("room");
    space.fault(bench.task(), BASE, Access::Write).expect("a page");
}

fn taken_and_put(bench: &mut Bench<'_>) {
    let space = with_table(bench, 1);
    claim(bench.task(), &space, 2);
    let same = space.clone();
    bench.cpu("host munmap", move |task| take(task, &space, 1));
    bench.cpu("host fault", move |task| put(task, &same, 2));
}

fn put_twice(bench: &mut Bench<'_>) {
    let space = bench.empty();
    claim(bench.task(), &space, 1);
    claim(bench.task(), &space, 2);
    bench.host(&space);
    let same = space.clone();
    bench.cpu("host fault", move |task| put(task, &space, 1));
    bench.cpu("host fault", move |task| put(task, &same, 2));
}

fn taken_and_visited(bench: &mut Bench<'_>) {
    let space = with_table(bench, 1);
    claim(bench.task(), &space, 2);
    let same = space.clone();
    bench.cpu("host munmap", move |task| take(task, &space, 1));
    bench.cpu("host visits", move |task| {
        let mmap = same.mmap_read(task);
        let none = |_: &mut HostSlot<'_, Lab>| violation("I3: a table at page 2".to_owned(), Property::I3);
        mmap.host_slots(task, block(2), none).expect("its own task");
    });
}

fn unmapped_beside(bench: &mut Bench<'_>) {
    let file = bench.file();
    let space = bench.empty();
    map_beside(bench, &space, &file);
    claim(bench.task(), &space, 1);
    bench.host(&space);
    let same = space.clone();
    bench.cpu("munmap", move |task| space.munmap(task, BASE, PMD_SIZE).expect("aligned"));
    bench.cpu("host fault", move |task| put(task, &same, 1));
}

type Walk = fn(&Process, &mut LabTask);

fn walked_to(bench: &mut Bench<'_>, walk: Walk) {
    let space = with_table(bench, 1);
    let same = space.clone();
    bench.cpu("walk", move |task| walk(&space, task));
    bench.cpu("host munmap", move |task| take(task, &same, 1));
}

fn walked_beside(bench: &mut Bench<'_>, walk: Walk) {
    let file = bench.file();
    let space = with_table(bench, 1);
    map_beside(bench, &space, &file);
    claim(bench.task(), &space, 2);
    let same = space.clone();
    bench.cpu("walk", move |task| walk(&space, task));
    bench.cpu("host", move |task| {
        take(task, &same, 1);
        put(task, &same, 2);
    });
}

/// Nothing but the host's table, or nothing at all, lies where it is.
fn is_no_page(found: Result<Entry, Unshared>) {
    assert!(
        !matches!(found, Ok(Entry::Leaf(_) | Entry::Table(_))),
        "a page at a place of the host's: {found:?}"
    );
}

fn rcu_walk(space: &Process, task: &mut LabTask) {
    let section = task.rcu_read_lock();
    if let Some((slot, _)) = leaf_offset(&section, space.mm(), page(1)).expect("its own task") {
        is_no_page(slot.read());
        is_no_page(slot.lock().map(|locked| locked.read()));
    }
}

fn gup_fast(space: &Process, task: &mut LabTask) {
    Walker::new(space, page(1)).watch_fast(|| {
        assert!(space.pin_page_fast(task, page(1), GupFlags::empty()).is_none(), "a pin on a table");
    });
}

fn follow_page(space: &Process, task: &mut LabTask) {
    let found = space.follow_page(task, page(1), GupFlags::empty()).expect("no error");
    assert!(found.is_none(), "a reference to a table");
}

fn page_walk(space: &Process, task: &mut LabTask) {
    struct Pages(u32);
    impl Visitor<Lab> for Pages {
        fn entry(&mut self, found: &Found<'_, Lab>) {
            assert!(matches!(found.entry(), Entry::Leaf(_)), "{:?} is mapped", found.entry());
            self.0 += 1;
        }
    }
    let mut pages = Pages(0);
    let end = space.walk_range(task, page(0)..page(3), &mut pages).expect("aligned");
    assert_eq!((pages.0, end), (1, Some(page(1))), "pages seen, and the first address that is not mapped");
}

fn truncate(space: &Process, task: &mut LabTask) {
    let file = space.mmap_read(task).find(BASE).expect("mapped").file().clone();
    file.truncate(task, 0).expect("aligned");
}

fn shared_afterwards(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.process(&file, &[0]);
    let space = with_table(bench, 1);
    let (same, walker) = (space.clone(), space.clone());
    bench.cpu("walk", move |task| {
        Walker::new(&walker, page(0)).read(task);
    });
    bench.cpu("host", move |task| {
        take(task, &space, 1);
        space.release(task, block(1)).expect("free");
        let request = MapRequest::file(&file, 0, PUD_SIZE).shared().with(MapFlags::NORESERVE).at(BASE);
        space.mmap(task, &request).expect("room");
        space.fault(task, page(0), Access::Read).expect("a page");
        dont_need(task, &same);
    });
    drop(other);
}
