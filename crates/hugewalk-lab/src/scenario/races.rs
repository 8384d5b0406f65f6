//! Walkers against unsharing: the scenarios that the rule is there for.

use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::Access;

use super::Scenario;
use super::bench::{BASE, Bench, dont_need, map, page};
use super::expected::{EVERY_MISTAKE, MISTAKE, NONE, Row, Verdicts};
use crate::lab::{Broadcast, Cpu, Property, Settings, Walker};

/// Who trusts a table that was found under RCU, or the mmap lock, to be still its own.
pub(super) const STALE: &[&str] = &["legacy", "rfc", "rfc-ptl"];
/// Who lets GUP-fast do that.
pub(super) const FAST: &[&str] = &["legacy", "rfc", "rfc-ptl", "vma-lock"];

/// In this order in the table of verdicts.
pub(super) const ROWS: &[Row] = &[
    Row {
        scenario: Scenario {
            id: "S1",
            what: "A reads an entry; B unshares; C unmaps and frees the table",
            judged: &[Property::I1],
            build: |bench| walker_and_last_user(bench, |walker, task| _ = walker.read(task)),
        },
        verdicts: Verdicts::Races(&["legacy"]),
    },
    Row {
        scenario: Scenario {
            id: "S2",
            what: "A locks the table; B unshares; C unmaps and frees the table",
            judged: &[Property::I1],
            build: |bench| walker_and_last_user(bench, |walker, task| walker.lock(task)),
        },
        verdicts: Verdicts::Races(&["legacy", "rfc"]),
    },
    Row {
        scenario: Scenario {
            id: "S3",
            what: "S2 on a machine that frees tables right after the flush",
            judged: &[Property::I1],
            build: |bench| {
                bench.protocol(|settings| Some(settings.freed_at_once()));
                walker_and_last_user(bench, |walker, task| walker.lock(task));
            },
        },
        verdicts: Verdicts::Races(STALE),
    },
    Row {
        scenario: Scenario {
            id: "S4",
            what: "S2 on a machine that has no memory for the batch of tables to be freed",
            judged: &[Property::I1],
            build: |bench| {
                bench.protocol(|settings| Some(settings.without_batches()));
                walker_and_last_user(bench, |walker, task| walker.lock(task));
            },
        },
        verdicts: Verdicts::Races(STALE),
    },
    Row {
        scenario: Scenario {
            id: "S7",
            what: "A reads an entry; B unshares and faults anew",
            judged: &[Property::I3],
            build: stale_table,
        },
        verdicts: Verdicts::Races(STALE),
    },
    Row {
        scenario: Scenario {
            id: "S8",
            what: "A locks the table and marks an entry; B unshares",
            judged: &[Property::I2],
            build: wrong_table,
        },
        verdicts: Verdicts::Races(STALE),
    },
    Row {
        scenario: Scenario {
            id: "S8/other-table",
            what: "S8, and B maps another file there, with a table of its own",
            judged: &[Property::I2],
            build: another_table,
        },
        verdicts: Verdicts::Races(&["rfc", "rfc-ptl"]),
    },
    Row {
        scenario: Scenario {
            id: "S9",
            what: "A is in GUP-fast; B unshares; C maps something else where the table is now its own (CVE-2025-38085)",
            judged: &[Property::I1, Property::I3],
            build: gup_fast,
        },
        verdicts: Verdicts::Races(FAST),
    },
    Row {
        scenario: Scenario {
            id: "S10",
            what: "three sharers: A is in GUP-fast; B unshares, 2 to 1; C unshares, 1 to 0, and the third reuses the table",
            judged: &[Property::I1, Property::I3],
            build: three_sharers,
        },
        // Interrupts that go to those who walk the address space of the last to unshare miss A, who walks the first one's.
        verdicts: Verdicts::Races(&["legacy", "rfc", "rfc-ptl", "vma-lock", "ipi-targeted"]),
    },
    Row {
        scenario: Scenario {
            id: "S10:no-broadcast",
            what: "S10, and C, whose gather left a table with one user, does not broadcast",
            judged: &[Property::I1, Property::I3],
            build: |bench| {
                bench.protocol(|settings| Some(Settings { broadcast: Broadcast::None, ..settings }));
                three_sharers(bench);
            },
        },
        verdicts: Verdicts::Mistake(&["ipi-last"]),
    },
    Row {
        scenario: Scenario {
            id: "S10:late-flush",
            what: "S10, and C releases i_mmap before it flushes and broadcasts",
            judged: &[Property::I1, Property::I3],
            build: |bench| {
                bench.without("flush-under-i-mmap");
                three_sharers(bench);
            },
        },
        verdicts: Verdicts::Mistake(&["ipi-last"]),
    },
    Row {
        scenario: Scenario {
            id: "S10:early-count",
            what: "S10, and C asks whether the table has one user left before it counts itself out",
            judged: &[Property::I1, Property::I3],
            build: |bench| {
                bench.without("count-then-tell");
                three_sharers(bench);
            },
        },
        verdicts: Verdicts::Mistake(&["ipi-last"]),
    },
    Row {
        scenario: Scenario {
            id: "S11",
            what: "A loads twice from memory; B unshares, and C reuses the table (CVE-2021-4002)",
            judged: &[Property::I1, Property::I6],
            build: late_flush,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S11:no-flush",
            what: "S11, and B does not flush at all",
            judged: &[Property::I1, Property::I6],
            build: |bench| {
                bench.without("flush");
                late_flush(bench);
            },
        },
        verdicts: EVERY_MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S11:late-flush",
            what: "S11, and B flushes after it has released i_mmap",
            judged: &[Property::I1, Property::I6],
            build: |bench| {
                bench.without("flush-under-i-mmap");
                late_flush(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S11:narrow-flush",
            what: "S11, and B flushes what it unmaps, not all that the table covers",
            judged: &[Property::I1, Property::I6],
            build: |bench| {
                bench.without("flush-whole-table");
                late_flush(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S28",
            what: "A walks; B unshares and shares again",
            judged: &[Property::I1],
            build: loads,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S28:two-loads",
            what: "S28, and A loads the entry that leads to the table twice",
            judged: &[Property::I1],
            build: |bench| {
                bench.without("load-once");
                loads(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S30",
            what: "A reads an entry; B unshares and shares the same table again",
            judged: &[Property::I3],
            build: table_comes_back,
        },
        verdicts: Verdicts::Races(STALE),
    },
    Row {
        scenario: Scenario {
            id: "S30:parent-only",
            what: "S30, and A confirms by its parent entry alone",
            judged: &[Property::I3],
            build: |bench| {
                bench.without("confirm-generation");
                table_comes_back(bench);
            },
        },
        verdicts: MISTAKE,
    },
];

/// Two processes share a table. A walks in the first; B unshares in it; C ends the second.
fn walker_and_last_user(bench: &mut Bench<'_>, act: fn(&Walker<'_>, &mut super::LabTask)) {
    let file = bench.file();
    let last = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("walk", move |task| act(&Walker::new(&process, page(0)), task));
    bench.cpu("madvise", move |task| dont_need(task, &same));
    bench.cpu("munmap", move |task| last.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned"));
}

fn stale_table(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("walk", move |task| _ = Walker::new(&process, page(0)).read(task));
    bench.cpu("madvise", move |task| {
        dont_need(task, &same);
        same.fault(task, page(0), Access::Read).expect("a page");
    });
}

fn wrong_table(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("walk", move |task| Walker::new(&process, page(0)).mark(task));
    bench.cpu("madvise", move |task| dont_need(task, &same));
}

fn another_table(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let another_file = bench.file();
    another_file.truncate(bench.task(), 2 * PUD_SIZE).expect("aligned");
    // The table of the entry that led to it stays, for what is mapped in the next gigabyte.
    map(bench.task(), &process, &another_file, 512, 1);
    process.fault(bench.task(), page(512), Access::Read).expect("a page");
    let same = process.clone();
    bench.cpu("walk", move |task| Walker::new(&process, page(0)).mark(task));
    bench.cpu("mmap, fault", move |task| {
        map(task, &same, &another_file, 0, 512);
        same.fault(task, page(0), Access::Read).expect("a page");
    });
}

fn gup_fast(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let foreign = bench.foreign_file();
    let same = process.clone();
    bench.cpu("GUP-fast", move |task| _ = Walker::new(&process, page(0)).gup_fast(task));
    bench.cpu("madvise", move |task| dont_need(task, &same));
    bench.cpu("mmap", move |task| {
        map(task, &other, &foreign, 0, 1);
        other.fault(task, page(0), Access::Read).expect("a page");
    });
}

fn three_sharers(bench: &mut Bench<'_>) {
    let file = bench.file();
    let third = bench.process(&file, &[0]);
    let second = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let foreign = bench.foreign_file();
    let same = process.clone();
    bench.cpu("GUP-fast", move |task| _ = Walker::new(&process, page(0)).gup_fast(task));
    bench.cpu("madvise", move |task| dont_need(task, &same));
    bench.cpu("madvise, mmap", move |task| {
        dont_need(task, &second);
        map(task, &third, &foreign, 0, 1);
        third.fault(task, page(0), Access::Read).expect("a page");
    });
}

fn late_flush(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0, 1]);
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(0));
        cpu.load(page(1));
    });
    bench.cpu("madvise", move |task| dont_need(task, &same));
}

fn table_comes_back(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("walk", move |task| _ = Walker::new(&process, page(0)).read(task));
    bench.cpu("madvise, fault", move |task| {
        dont_need(task, &same);
        same.fault(task, page(0), Access::Read).expect("a page");
    });
}

fn loads(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("walk", move |task| _ = Walker::new(&process, page(0)).read(task));
    bench.cpu("madvise, fault", move |task| {
        dont_need(task, &same);
        same.fault(task, page(0), Access::Read).expect("a page");
    });
}
