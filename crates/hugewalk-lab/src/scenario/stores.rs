//! Processors that load and store while what they do it through changes.

use hugewalk::addr::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::Access;
use hugewalk::mm::Advice;
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, Process, page};
use super::expected::{EVERY_MISTAKE, NONE, Row};
use crate::lab::{Cpu, Flaw, Property};

const JUDGED: &[Property] = &[Property::I1, Property::I6, Property::I13];

pub(super) const ROWS: &[Row] = &[
    Row {
        scenario: Scenario {
            id: "S34",
            what: "A stores to a page for the first time; B takes the right to write away (mprotect)",
            judged: JUDGED,
            build: store_and_protect,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S34:read-then-write",
            what: "S34, and B reads the entry and writes it later, so that a dirty bit is lost that A sets in between",
            judged: JUDGED,
            build: |bench| {
                bench.flawed(Flaw::TornExchange);
                store_and_protect(bench);
            },
        },
        verdicts: EVERY_MISTAKE,
    },
];

/// A process whose page 0 is mapped and has not been stored to.
fn clean(bench: &mut Bench<'_>) -> Process {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    process.madvise(bench.task(), BASE, PUD_SIZE, Advice::DontNeed).expect("mapped");
    process.fault(bench.task(), BASE, Access::Read).expect("a page");
    process
}

fn store_and_protect(bench: &mut Bench<'_>) {
    let process = clean(bench);
    let same = process.clone();
    bench.cpu("store", move |_| _ = Cpu::new(&process).store(page(0)));
    bench.cpu("mprotect", move |task| {
        same.mprotect(task, BASE, PMD_SIZE, Protection::READ).expect("mapped");
    });
}
