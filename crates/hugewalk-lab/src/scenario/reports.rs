//! Reports while what they report on changes: what they tell of an entry was so (I16).

use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::Access;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, RemapTo};
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, LabTask, Process, dont_need, map, page};
use super::expected::{EVERY_MISTAKE, MISTAKE, NONE, Row, Verdicts};
use super::races::STALE;
use super::stores::{row, store};
use crate::lab::{Flaw, Property, Report, Walker};

/// What reports are judged by.
const TRUE: &[Property] = &[Property::I1, Property::I16];

pub(super) const ROWS: &[Row] = &[
    row!("S46", "A reads pagemap; B stores to a page that a fork shares, and copies it", pagemap_and_copy, by TRUE),
    row!("S46/walk", "A walks the range; B stores to a page that a fork shares, and copies it", walk_and_copy, by TRUE),
    row!("S46/sleeping-walk", "the same with a visitor that may sleep", sleeping_walk_and_copy, by TRUE),
    row!("S46/smaps", "A reads smaps; B drops a private page and touches it again", smaps_and_zap, by TRUE),
    row!("S46/protect", "A walks; B takes the right to write away", walk_and_protect, by TRUE),
    row!(
        "S46/protect:empty-first",
        "S46/protect, on a machine where an entry is emptied before it is changed",
        walk_and_protect,
        by TRUE,
        on Flaw::EmptyFirst
    ),
    row!("S46/migrate", "A reads pagemap; B moves the page elsewhere", pagemap_and_migrate, by TRUE),
    row!(
        "S46/put-back",
        "A walks; B pins a private page, and tries to move it, which is put back",
        walk_and_put_back,
        by TRUE
    ),
    row!("S46/fork", "A walks; B forks", walk_and_fork, by TRUE),
    row!("S46/mremap", "A walks; B moves a part of the mapping", walk_and_move, by TRUE),
    row!("S46/truncate", "A reads pagemap; B truncates the file", pagemap_and_truncate, by TRUE),
    row!(
        "S46/unshare",
        "A walks; B unshares and faults anew",
        walk_and_unshare,
        by TRUE
    ),
    row!(
        "S46/two",
        "A walks over two pages; B unshares and faults anew: none is left out, and none reported twice",
        walk_two_and_unshare,
        by TRUE
    ),
    row!(
        "S46/reuse",
        "A walks; B unshares; C maps something else where the table is its own now",
        walk_and_reuse,
        by TRUE,
        is Verdicts::Races(STALE)
    ),
    row!(
        "S46/reuse:parent-not-confirmed",
        "S46/reuse, and A does not look at the parent entry again",
        walk_and_reuse,
        by TRUE,
        without "confirm-parent"
    ),
];

/// A report of a thread, under the protocol's locks.
type Reports = fn(&Report<'_>, &mut LabTask);

fn report(bench: &mut Bench<'_>, process: &Process, reports: Reports) {
    report_of(bench, process, 1, reports);
}

fn report_of(bench: &mut Bench<'_>, process: &Process, pages: u64, reports: Reports) {
    let process = process.clone();
    bench.cpu("report", move |task| {
        let report = Report::new(&process, page(0)..page(pages));
        Walker::new(&process, page(0)).watch(|| reports(&report, task));
    });
}

/// A private page that a fork shares: the parent's.
fn shared_since_fork(bench: &mut Bench<'_>) -> Process {
    let file = bench.file();
    let parent = bench.private_written(&file, 1);
    bench.fork(&parent);
    parent
}

fn copy(bench: &mut Bench<'_>, reports: Reports) {
    let process = shared_since_fork(bench);
    report(bench, &process, reports);
    bench.cpu("store", move |task| store(task, &process, 0));
}

fn pagemap_and_copy(bench: &mut Bench<'_>) {
    copy(bench, |report, task| report.pagemap(task));
}

fn walk_and_copy(bench: &mut Bench<'_>) {
    copy(bench, |report, task| report.walk(task));
}

fn sleeping_walk_and_copy(bench: &mut Bench<'_>) {
    copy(bench, |report, task| report.walk_sleeping(task));
}

fn smaps_and_zap(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    report(bench, &process, |report, task| report.smaps(task));
    bench.cpu("madvise, fault", move |task| {
        process.madvise(task, BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
        process.fault(task, page(0), Access::Write).expect("a page");
    });
}

fn walk_and_protect(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    report(bench, &process, |report, task| report.walk(task));
    // It keeps the mmap lock, which a report holds in read; so the file's side changes the entry.
    let frame = bench.frame(&process, 0);
    bench.cpu("clear accessed bits", move |task| {
        let hugetlb = task.hugetlb().clone();
        hugetlb.referenced(task, frame).expect("in use");
    });
    bench.cpu("mprotect", move |task| {
        process.mprotect(task, BASE, PMD_SIZE, Protection::READ).expect("mapped");
    });
}

fn pagemap_and_migrate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    report(bench, &process, |report, task| report.pagemap(task));
    bench.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        hugetlb.migrate(task, frame).expect("nobody holds it");
    });
}

fn walk_and_put_back(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let frame = bench.frame(&process, 0);
    report(bench, &process, |report, task| report.walk(task));
    bench.cpu("GUP-fast, migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        let pin = process.pin_page_fast(task, page(0), GupFlags::PIN).map(|pin| pin.into_owned());
        let _ = hugetlb.migrate(task, frame);
        drop(pin);
    });
}

fn walk_and_fork(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    report(bench, &process, |report, task| report.walk(task));
    let nursery = bench.nursery();
    bench.cpu("fork", move |task| nursery.keep(process.fork(task).expect("memory")));
}

fn walk_and_move(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    report(bench, &process, |report, task| report.walk(task));
    bench.cpu("mremap", move |task| {
        let to = RemapTo::Fixed(hugewalk::addr::VirtAddr::new(8 * PUD_SIZE));
        process.mremap(task, BASE, PMD_SIZE, PMD_SIZE, to).expect("room");
    });
}

fn pagemap_and_truncate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    report(bench, &process, |report, task| report.pagemap(task));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn walk_and_unshare(bench: &mut Bench<'_>) {
    walk_over(bench, 1);
}

fn walk_two_and_unshare(bench: &mut Bench<'_>) {
    walk_over(bench, 2);
}

fn walk_over(bench: &mut Bench<'_>, pages: u64) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    report_of(bench, &process, pages, |report, task| report.walk(task));
    bench.cpu("madvise, fault", move |task| {
        dont_need(task, &process);
        process.fault(task, page(0), Access::Read).expect("a page");
    });
}

fn walk_and_reuse(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let foreign = bench.file();
    report(bench, &process, |report, task| report.walk(task));
    bench.cpu("madvise", move |task| dont_need(task, &process));
    bench.cpu("mmap", move |task| {
        map(task, &other, &foreign, 0, 1);
        other.fault(task, page(0), Access::Read).expect("a page");
    });
}
