//! What else may go wrong at the same time: locks in two orders, lost stores, shares with what is about to go.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::RemapTo;

use super::Scenario;
use super::bench::{BASE, Bench, dont_need, page};
use super::expected::{MISTAKE, NONE, Row};
use super::waits::Reads;
use crate::lab::{Property, Walker};

pub(super) const USUAL: &[Property] =
    &[Property::I1, Property::I2, Property::I5, Property::I7, Property::I10];

pub(super) const ROWS: &[Row] = &[
    Row {
        scenario: Scenario {
            id: "S13",
            what: "a fault holds a slot; a hole is punched elsewhere, which unshares",
            judged: USUAL,
            build: fault_and_punch,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S13:no-vma-lock",
            what: "S13, and the fault does not hold the VMA lock",
            judged: &[Property::I1, Property::I2],
            build: |bench| {
                bench.without("vma-lock");
                fault_and_punch(bench);
            },
        },
        verdicts: MISTAKE,
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
            id: "S14:unshare-early",
            what: "S14, and the split lets its locks go between unsharing and being visible",
            judged: USUAL,
            build: |bench| {
                bench.without("exchange-under-i-mmap");
                split_and_share(bench);
            },
        },
        verdicts: MISTAKE,
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
            id: "S18:two-locks",
            what: "S18, and who shares locks the shared table in place of the one it stores into",
            judged: USUAL,
            build: |bench| {
                bench.without("populate-lock");
                two_faults(bench);
            },
        },
        verdicts: MISTAKE,
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
            id: "S21:no-reference",
            what: "S21, and truncation has no reference to the mapping while it waits",
            judged: USUAL,
            build: |bench| {
                bench.without("hold-vma");
                truncate_and_unmap(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S21/rmap",
            what: "S21, but it is who takes a shared page away from everybody that meets the lock and waits",
            judged: USUAL,
            build: displace_and_unmap,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S21/rmap:no-reference",
            what: "S21/rmap, without a reference to the mapping",
            judged: USUAL,
            build: |bench| {
                bench.without("hold-vma");
                displace_and_unmap(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S21/rmap:not-looked",
            what: "S21/rmap, and whoever has waited does not look whether the mapping is still there",
            judged: USUAL,
            build: |bench| {
                bench.without("look-again");
                displace_and_unmap(bench);
            },
        },
        verdicts: MISTAKE,
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
            id: "S22:leave-late",
            what: "S22, and the mapping leaves its file after i_mmap was released",
            judged: USUAL,
            build: |bench| {
                bench.without("leave-under-i-mmap");
                unmap_and_share(bench);
            },
        },
        verdicts: MISTAKE,
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
            id: "S23:share-in-move",
            what: "S23, and the move looks for a partner under the i_mmap it holds",
            judged: USUAL,
            build: |bench| {
                bench.without("share-without-i-mmap");
                remap_and_share(bench);
            },
        },
        verdicts: MISTAKE,
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
            id: "S24:shared-lock-only",
            what: "S24, and the hole punch waits for a lock that only shared mappings have",
            judged: USUAL,
            build: |bench| {
                bench.without("reserve-lock");
                private_and_punch(bench);
            },
        },
        verdicts: MISTAKE,
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
    Row {
        scenario: Scenario {
            id: "S25:no-trylock",
            what: "S25, and truncation waits for the VMA lock under i_mmap",
            judged: USUAL,
            build: |bench| {
                bench.without("try-vma-lock");
                share_and_truncate(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S27",
            what: "rmap takes the page lock, then i_mmap; truncation has both to do with the same page",
            judged: USUAL,
            build: unmap_and_truncate,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S27:i_mmap-first",
            what: "S27, and truncation takes the page lock under i_mmap",
            judged: USUAL,
            build: |bench| {
                bench.without("mutex-first");
                unmap_and_truncate(bench);
            },
        },
        verdicts: MISTAKE,
    },
];

/// A store, as a processor does it: as long as a fault finds that the entry has changed meanwhile, there is another. So a fault
/// that goes on to find that, with nobody there to change it, is a livelock.
pub(super) fn fault(task: &mut super::LabTask, process: &super::Process, index: u64) {
    loop {
        match process.fault(task, page(index), Access::Write) {
            Ok(Fault::Raced) => {}
            Ok(_) | Err(FaultError::BeyondEof { .. } | FaultError::NotMapped { .. }) => return,
            Err(error) => return crate::explore::violation(format!("a fault fails: {error}"), error),
        }
    }
}

fn fault_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    // The older one is unshared first; the younger one is alone with the table then.
    let process = bench.process(&file, &[0]);
    let _other = bench.process(&file, &[0]);
    bench.cpu("fault", move |task| {
        Walker::new(&process, page(1)).watch(|| fault(task, &process, 1));
    });
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
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
    let first = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    let process = bench.untouched(&file);
    first.exit(bench.task()).expect("its own task");
    let same = process.clone();
    bench.cpu("fault", move |task| fault(task, &process, 0));
    bench.cpu("fault, fault", move |task| {
        fault(task, &other, 1);
        fault(task, &same, 1);
    });
}

fn unmap_and_truncate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    bench.cpu("try_to_unmap", move |task| {
        let hugetlb = task.hugetlb().clone();
        // It may be gone already.
        let _ = hugetlb.unmap_page(task, frame);
    });
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
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
    bench.keep_vmas();
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    bench.cpu("munmap", move |task| process.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned"));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn displace_and_unmap(bench: &mut Bench<'_>) {
    bench.keep_vmas();
    let file = bench.file();
    // Who is left alone with a table loses its page without its lock; so there is another whose lock is held.
    let other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    bench.cpu("munmap", move |task| process.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned"));
    bench.cpu("try_to_unmap", move |task| {
        let hugetlb = task.hugetlb().clone();
        // It may be in use no more.
        let _ = hugetlb.unmap_page(task, frame);
    });
    bench.cpu("walk", move |task| {
        other.walk_range_sleeping(task, page(0)..page(1), &mut Reads).expect("aligned");
    });
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
