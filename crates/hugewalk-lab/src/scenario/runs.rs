//! Pages that are faulted in together, before they are touched, while others fault, share, unshare and truncate.

use hugewalk::arch::PMD_SIZE;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, dont_need};
use super::expected::{MISTAKE, OWN, Row};
use super::other::{USUAL, fault};
use super::reservations::{RESERVED, may_get, must_get, pool_and_one, pool_of, reserve};
use crate::explore::violation;
use crate::lab::Property;

macro_rules! row {
    ($id:literal, $what:literal, $build:ident, by $judged:ident) => {
        Row { scenario: Scenario { id: $id, what: $what, judged: $judged, build: $build }, verdicts: OWN }
    };
    ($id:literal, $what:literal, $build:ident, by $judged:ident, without $step:literal) => {
        Row {
            scenario: Scenario {
                id: $id,
                what: $what,
                judged: $judged,
                build: |bench| {
                    bench.without($step);
                    $build(bench);
                },
            },
            verdicts: MISTAKE,
        }
    };
}

pub(super) const ROWS: &[Row] = &[
    row!(
        "S95",
        "A populates two pages that its mapping has reserved; B faults on one of them",
        populate_and_fault,
        by RESERVED
    ),
    row!(
        "S95:no-mutexes",
        "S95, and A takes no fault mutexes: the page is taken twice, once with the reservation of somebody else",
        populate_and_fault,
        by RESERVED,
        without "run-mutexes"
    ),
    row!(
        "S95/both",
        "A and B populate the same two pages",
        populate_twice,
        by RESERVED
    ),
    row!(
        "S95/private",
        "A populates a private mapping, B faults on a page of it, and then on one elsewhere: there are enough pages for all",
        populate_private,
        by RESERVED
    ),
    row!(
        "S95/private:looks-once",
        "S95/private, and A does not look again with the fault mutexes held: it takes a page for one that is mapped",
        populate_private,
        by RESERVED,
        without "run-looks-again"
    ),
    row!(
        "S95/truncate",
        "A populates a private mapping; B truncates the file",
        populate_and_truncate,
        by RESERVED
    ),
    row!(
        "S95/truncate:size-once",
        "S95/truncate, and A does not look at the size again with the table locked",
        populate_and_truncate,
        by RESERVED,
        without "recheck-size"
    ),
    row!(
        "S95/truncate-shared",
        "A populates a shared mapping; B truncates the file",
        populate_and_truncate_shared,
        by RESERVED
    ),
    row!(
        "S96",
        "A populates what another process has mapped, and shares its table; B, of that process, faults",
        populate_shared_table,
        by RESERVED
    ),
    row!(
        "S96:not-reread",
        "S96, and A does not read the entries again with the table locked: it maps pages that came with the table",
        populate_shared_table,
        by RESERVED,
        without "run-recheck"
    ),
    row!(
        "S96/unshare",
        "A populates a part of a table that is shared; B, of the same process, takes the table away, and the process that is left with it exits",
        populate_and_unshare,
        by USUAL
    ),
    row!(
        "S96/unshare:no-vma-lock",
        "S96/unshare, and A does not hold the VMA lock while it has its slot",
        populate_and_unshare,
        by USUAL,
        without "vma-lock"
    ),
];

/// Two pages that are faulted in together.
fn populate(task: &mut LabTask, process: &Process) -> bool {
    process.madvise(task, BASE, 2 * PMD_SIZE, Advice::PopulateWrite).is_ok()
}

fn must_populate(task: &mut LabTask, process: &Process) {
    if !populate(task, process) {
        violation("I15: populating finds too few pages, and there are enough".to_owned(), Property::I15);
    }
}

/// Two pages that are somebody's own, without reservations.
fn private(bench: &mut Bench<'_>, file: &File) -> Process {
    let process = bench.empty();
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: 2 * PMD_SIZE,
        protection: Protection::READ | Protection::WRITE,
        flags: MapFlags::NORESERVE,
        backing: Backing::File { file, offset: 0 },
    };
    process.mmap(bench.task(), &request).expect("room");
    process
}

fn populate_and_fault(bench: &mut Bench<'_>) {
    pool_and_one(bench, 2);
    let file = bench.file();
    let owner = bench.empty();
    reserve(bench.task(), &owner, &file, 2, true);
    let same = owner.clone();
    bench.cpu("madvise", move |task| must_populate(task, &owner));
    bench.cpu("fault", move |task| must_get(task, &same, 1));
}

fn populate_twice(bench: &mut Bench<'_>) {
    pool_and_one(bench, 2);
    let file = bench.file();
    let owner = bench.empty();
    reserve(bench.task(), &owner, &file, 2, true);
    let same = owner.clone();
    bench.cpu("madvise", move |task| must_populate(task, &owner));
    bench.cpu("madvise too", move |task| must_populate(task, &same));
}

fn populate_private(bench: &mut Bench<'_>) {
    pool_of(bench, 3);
    let (file, outside) = (bench.file(), bench.file());
    let process = private(bench, &file);
    let other = bench.process(&outside, &[]);
    let same = process.clone();
    bench.cpu("madvise", move |task| must_populate(task, &process));
    bench.cpu("fault, fault elsewhere", move |task| {
        if !may_get(task, &same, 0) || !may_get(task, &other, 0) {
            violation("I15: there is no page, and three are enough".to_owned(), Property::I15);
        }
    });
}

fn populate_and_truncate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = private(bench, &file);
    bench.cpu("madvise", move |task| _ = populate(task, &process));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn populate_and_truncate_shared(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    pool_and_one(bench, 2);
    bench.cpu("madvise", move |task| _ = populate(task, &process));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn populate_shared_table(bench: &mut Bench<'_>) {
    let file = bench.file();
    let partner = bench.process(&file, &[0]);
    let process = bench.process(&file, &[]);
    bench.cpu("madvise", move |task| must_populate(task, &process));
    bench.cpu("fault", move |task| fault(task, &partner, 1));
}

fn populate_and_unshare(bench: &mut Bench<'_>) {
    let file = bench.file();
    let partner = bench.process(&file, &[4]);
    let process = bench.process(&file, &[4]);
    let same = process.clone();
    bench.cpu("madvise", move |task| must_populate(task, &process));
    bench.cpu("madvise DONTNEED, exit", move |task| {
        dont_need(task, &same);
        partner.exit(task).expect("its own task");
    });
}
