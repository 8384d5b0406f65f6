//! Pins of several pages in a row: one walk for all of them, while others take the table away. The second page is watched.

use hugewalk::arch::PMD_SIZE;
use hugewalk::fault::Access;
use hugewalk::gup::GupFlags;

use super::Scenario;
use super::bench::{Bench, LabTask, Process, dont_need, map, page};
use super::expected::{MISTAKE, OWN, Row};
use crate::lab::{Property, Walker};

const TOLD: &[Property] = &[Property::I1, Property::I3];

const S98: &str = "A pins two pages in a row without a lock; B, of the same process, unshares; C maps something else where the table is now its own";
const S98_LOCKED: &str = "S98, and A takes the pages under the table lock";

pub(super) const ROWS: &[Row] = &[
    Row {
        scenario: Scenario { id: "S98", what: S98, judged: TOLD, build: |bench| table_goes(bench, fast) },
        verdicts: OWN,
    },
    Row {
        scenario: Scenario {
            id: "S98:not-confirmed",
            what: "S98, and A does not look again at who has the table",
            judged: TOLD,
            build: |bench| {
                bench.without("confirm-parent");
                bench.without("confirm-generation");
                table_goes(bench, fast);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S98/locked",
            what: S98_LOCKED,
            judged: TOLD,
            build: |bench| table_goes(bench, locked),
        },
        verdicts: OWN,
    },
    Row {
        scenario: Scenario {
            id: "S98/locked:not-revalidated",
            what: "S98/locked, and A does not look again at who has the table that it has locked",
            judged: TOLD,
            build: |bench| {
                bench.without("revalidate");
                table_goes(bench, locked);
            },
        },
        verdicts: MISTAKE,
    },
];

type Pin = fn(&Process, &mut LabTask);

/// `pin_user_pages_fast()`.
fn fast(process: &Process, task: &mut LabTask) {
    let walker = Walker::new(process, page(1));
    walker.watch(|| {
        let pins = process.pin_pages_fast(task, page(0), 2 * PMD_SIZE, GupFlags::PIN).expect("a page");
        walker.told_fast(pins.page(1).map(|found| found.frame()));
    });
}

/// `pin_user_pages_unlocked()`.
fn locked(process: &Process, task: &mut LabTask) {
    let walker = Walker::new(process, page(1));
    walker.watch(|| {
        let pins = process.pin_pages(task, page(0), 2 * PMD_SIZE, GupFlags::PIN).expect("a page");
        walker.told(pins.page(1).map(|found| Some(found.frame())));
    });
}

fn table_goes(bench: &mut Bench<'_>, pin: Pin) {
    let file = bench.file();
    let other = bench.process(&file, &[0, 1]);
    let process = bench.process(&file, &[0, 1]);
    let foreign = bench.file();
    let elsewhere = bench.process(&foreign, &[0, 1]);
    Walker::foreign(bench.frame(&elsewhere, 1));
    let same = process.clone();
    bench.cpu("pin", move |task| pin(&process, task));
    bench.cpu("madvise", move |task| dont_need(task, &same));
    bench.cpu("mmap", move |task| {
        map(task, &other, &foreign, 0, 2);
        other.fault(task, page(1), Access::Read).expect("a page");
    });
}
