//! Secondary MMUs, which keep translations until they are told that these change.

use hugewalk::arch::PMD_SIZE;
use hugewalk::mm::Advice;
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, Process, dont_need, page};
use super::expected::{MISTAKE, OWN, Row};
use super::failures::migrate;
use super::pages::{touched_in_both, two_gigabytes};
use super::stores::{PAGES, store};
use crate::lab::SecondaryMmu;

macro_rules! row {
    ($id:literal, $what:literal, $build:ident) => {
        Row { scenario: Scenario { id: $id, what: $what, judged: PAGES, build: $build }, verdicts: OWN }
    };
    ($id:literal, $what:literal, $build:ident, without $step:literal) => {
        Row {
            scenario: Scenario {
                id: $id,
                what: $what,
                judged: PAGES,
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
    row!("S91", "A, a secondary MMU, looks a page up, and loads; B punches the page out", load_and_punch),
    row!(
        "S91:not-told",
        "S91, and B tells of no start: A keeps the page that is gone",
        load_and_punch,
        without "notify-start"
    ),
    row!("S91/protect", "A looks a page up, and stores; B takes the right to write away", store_and_protect),
    row!(
        "S91/copy",
        "a page is shared since a fork: A looks it up, and loads; B stores to it, and gets a copy",
        load_and_copy
    ),
    row!("S91/fork", "A looks a private page up, and stores; B forks", store_and_fork),
    row!("S91/migrate", "A looks a page up, and loads; B moves the page elsewhere", load_and_migrate),
    row!("S91/exit", "A looks a page up, and loads; B exits", load_and_exit),
    row!(
        "S92",
        "A looks a page up twice, by what its processor remembers; B drops the page",
        look_up_and_drop
    ),
    row!(
        "S92:end-early",
        "S92, and B tells of the end before the flush: A looks up what its processor remembers, and keeps it",
        look_up_and_drop,
        without "notify-end-last"
    ),
    row!(
        "S93",
        "A looks a page up in a table that is shared; B drops the page beside it, which unshares the table",
        look_up_and_unshare
    ),
    row!(
        "S93:one-page",
        "S93, and B tells of the page that it drops: A keeps the one beside it",
        look_up_and_unshare,
        without "notify-whole-table"
    ),
    row!(
        "S93/cut",
        "A looks two pages up twice, in two tables that are shared; B cuts the mapping in both, in one operation",
        look_up_and_cut
    ),
    row!(
        "S94",
        "A looks a page up in a table that is shared; rmap takes the page out of the table in place, by another user of it",
        look_up_and_displace
    ),
    row!(
        "S94/remembered",
        "S94, and A looks the page up twice, by what its processor remembers",
        look_up_twice_and_displace
    ),
    row!(
        "S94:one-user",
        "S94, and only the user by which the entry was found is told",
        look_up_and_displace,
        without "notify-sharers"
    ),
];

/// The secondary MMU of a process looks a page up, and loads.
fn loads(bench: &mut Bench<'_>, process: &Process, index: u64) {
    SecondaryMmu::attach(process);
    let process = process.clone();
    bench.cpu("look up, load", move |_| {
        let secondary = SecondaryMmu::of(&process);
        secondary.look_up(page(index));
        secondary.load(page(index));
    });
}

/// The secondary MMU of a process looks a page up, and stores.
fn stores(bench: &mut Bench<'_>, process: &Process) {
    SecondaryMmu::attach(process);
    let process = process.clone();
    bench.cpu("look up, store", move |_| {
        let secondary = SecondaryMmu::of(&process);
        secondary.look_up_to_store(page(0));
        secondary.store(page(0));
    });
}

fn load_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    loads(bench, &process, 0);
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
}

fn store_and_protect(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    stores(bench, &process);
    bench.cpu("mprotect", move |task| {
        process.mprotect(task, BASE, PMD_SIZE, Protection::READ).expect("mapped");
    });
}

fn load_and_copy(bench: &mut Bench<'_>) {
    let file = bench.file();
    let parent = bench.private_written(&file, 1);
    let child = bench.fork(&parent);
    loads(bench, &child, 0);
    bench.cpu("store", move |task| store(task, &child, 0));
}

fn store_and_fork(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    stores(bench, &process);
    let nursery = bench.nursery();
    bench.cpu("fork", move |task| nursery.keep(process.fork(task).expect("memory")));
}

fn load_and_migrate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    loads(bench, &process, 0);
    migrate(bench, frame);
}

fn load_and_exit(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    loads(bench, &process, 0);
    bench.cpu("exit", move |task| process.exit(task).expect("its own task"));
}

/// The secondary MMU of a process looks page 0 up twice, and loads.
fn remembers(bench: &mut Bench<'_>, process: &Process) {
    SecondaryMmu::attach(process);
    let process = process.clone();
    bench.cpu("look up twice, load", move |_| {
        let secondary = SecondaryMmu::of(&process);
        secondary.look_up(page(0));
        secondary.look_up(page(0));
        secondary.load(page(0));
    });
}

fn look_up_and_drop(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    remembers(bench, &process);
    bench.cpu("madvise", move |task| dont_need(task, &process));
}

fn look_up_and_cut(bench: &mut Bench<'_>) {
    let file = two_gigabytes(bench);
    let process = touched_in_both(bench, &file);
    let _other = touched_in_both(bench, &file);
    remembers(bench, &process);
    bench.cpu("madvise", move |task| {
        process.madvise(task, page(1), 512 * PMD_SIZE, Advice::DontDump).expect("mapped");
    });
}

fn look_up_and_unshare(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0, 1]);
    let process = bench.process(&file, &[0]);
    loads(bench, &process, 1);
    bench.cpu("madvise", move |task| dont_need(task, &process));
}

fn look_up_and_displace(bench: &mut Bench<'_>) {
    displace(bench, |bench, other| loads(bench, other, 0));
}

fn look_up_twice_and_displace(bench: &mut Bench<'_>) {
    displace(bench, remembers);
}

fn displace(bench: &mut Bench<'_>, looks_up: fn(&mut Bench<'_>, &Process)) {
    bench.in_place_at_once();
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    looks_up(bench, &other);
    bench.cpu("try_to_unmap", move |task| {
        let hugetlb = task.hugetlb().clone();
        hugetlb.unmap_page(task, frame).expect("in use");
    });
}
