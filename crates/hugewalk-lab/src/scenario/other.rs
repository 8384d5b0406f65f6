//! What else may go wrong at the same time: locks in two orders, lost stores, shares with what is about to go.

use hugewalk::addr::{PMD_SIZE, PUD_SIZE, VirtAddr};
use hugewalk::fault::{Access, FaultError};
use hugewalk::mm::RemapTo;

use super::Scenario;
use super::bench::{BASE, Bench, dont_need, page};
use super::expected::{NONE, Row};
use crate::lab::Property;

const USUAL: &[Property] = &[Property::I1, Property::I7, Property::I10];

pub(super) const ROWS: &[Row] = &[
    Row {
        scenario: Scenario {
            id: "S13",
            what: "a fault holds a slot; truncation unshares",
            judged: USUAL,
            build: fault_and_truncate,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S14",
            what: "a split unshares; another process shares again (CVE-2025-38084)",
            judged: USUAL,
            build: split_and_share,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S18",
            what: "two threads populate one PUD entry, one by sharing, one by whatever is left to it",
            judged: USUAL,
            build: two_faults,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S21",
            what: "truncation meets a VMA lock that is held, and waits for it; the mapping goes meanwhile",
            judged: USUAL,
            build: truncate_and_unmap,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S22",
            what: "the final unmap; somebody shares with the mapping that dies",
            judged: USUAL,
            build: unmap_and_share,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S23",
            what: "a mapping moves to where it could share; another process shares and unshares",
            judged: USUAL,
            build: remap_and_share,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S24",
            what: "a hole punch meets a private mapping whose reservations a fault has locked",
            judged: USUAL,
            build: private_and_punch,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S25",
            what: "a fault shares, VMA lock before i_mmap; truncation takes them the other way round",
            judged: USUAL,
            build: share_and_truncate,
        },
        verdicts: NONE,
    },
];

fn fault(task: &mut super::LabTask, process: &super::Process, index: u64) {
    match process.fault(task, page(index), Access::Write) {
        Ok(_) | Err(FaultError::BeyondEof { .. } | FaultError::NotMapped { .. }) => {}
        Err(error) => crate::explore::violation(format!("a fault fails: {error}"), error),
    }
}

fn fault_and_truncate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    bench.cpu("fault", move |task| fault(task, &process, 1));
    bench.cpu("truncate", move |task| file.truncate(task, PMD_SIZE).expect("aligned"));
}

fn split_and_share(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    bench.cpu("munmap", move |task| process.munmap(task, BASE, PMD_SIZE).expect("aligned"));
    bench.cpu("fault", move |task| fault(task, &other, 1));
}

fn two_faults(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.untouched(&file);
    let same = process.clone();
    bench.cpu("fault", move |task| fault(task, &process, 0));
    bench.cpu("fault", move |task| fault(task, &same, 1));
}

fn unmap_and_share(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    bench.cpu("munmap", move |task| process.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned"));
    bench.cpu("fault", move |task| fault(task, &other, 0));
}

fn share_and_truncate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.untouched(&file);
    bench.cpu("fault", move |task| fault(task, &process, 0));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn truncate_and_unmap(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    bench.cpu("munmap", move |task| process.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned"));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn remap_and_share(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    bench.cpu("mremap", move |task| {
        let (whole, to) = (512 * PMD_SIZE, RemapTo::Fixed(VirtAddr::new(8 * PUD_SIZE)));
        process.mremap(task, BASE, whole, whole, to).expect("room");
    });
    bench.cpu("madvise, fault", move |task| {
        dont_need(task, &other);
        fault(task, &other, 0);
    });
}

fn private_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private(&file, 2);
    bench.cpu("fault", move |task| fault(task, &process, 0));
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
}
