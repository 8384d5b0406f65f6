//! Who sleeps, and in what: migration, userfaultfd, visitors.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE};
use hugewalk::fault::Access;
use hugewalk::pagewalk::{Found, Next, Resched, SleepingVisitor, Visitor};
use hugewalk::uffd::{Features, Modes, Userfault};
use hugewalk::vma::Vma;

use super::Scenario;
use super::bench::{BASE, Bench, LabTask, Process, another, page};
use super::expected::{MISTAKE, NONE, Row, Verdicts};
use super::other::{USUAL, fault};
use super::races::STALE;
use crate::lab::{Lab, Property, Walker};

pub(super) const ROWS: &[Row] = &[
    Row {
        scenario: Scenario {
            id: "S5",
            what: "A faults on a page that B moves, which unshares, and waits; C unmaps and frees the table",
            judged: USUAL,
            build: |bench| {
                fault_and_migrate(bench, |process, task, second| {
                    let walker = Walker::new(process, page(0));
                    if walker.waits_with_slot() {
                        walker.wait_out_of_section(task, second);
                    } else {
                        fault(task, process, 0);
                    }
                });
            },
        },
        verdicts: Verdicts::Races(STALE),
    },
    Row {
        scenario: Scenario {
            id: "S5:no-sleep",
            what: "S5, and A looks again and again until the page has arrived",
            judged: USUAL,
            build: |bench| {
                bench.without("sleep-on-migration");
                fault_and_migrate(bench, |process, task, _| fault(task, process, 0));
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S6:sleeping-visitor",
            what: "a visitor sleeps inside a walk under RCU",
            judged: &[Property::I10],
            build: sleeping_visitor,
        },
        verdicts: Verdicts::Mistake(&["rfc", "rfc-ptl"]),
    },
    Row {
        scenario: Scenario {
            id: "S19",
            what: "a fault is the handler's: it queues and sees whether it must wait; the handler resolves it",
            judged: USUAL,
            build: handled_fault,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S19:look-first",
            what: "S19, and who waits looks first and queues then",
            judged: USUAL,
            build: |bench| {
                bench.without("queue-then-look");
                handled_fault(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S20",
            what: "a range is registered for write protection, which forbids sharing; another process shares",
            judged: USUAL,
            build: register_and_share,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S20:late-flags",
            what: "S20, and the new flags show after the locks were let go that the range was unshared under",
            judged: USUAL,
            build: |bench| {
                bench.without("exchange-under-i-mmap");
                register_and_share(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S26",
            what: "a visitor that may sleep walks; B unshares",
            judged: USUAL,
            build: |bench| visit(bench, |_, _| Reads),
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S26:write-lock",
            what: "S26, and the visitor takes the VMA lock in write, under the walk that holds it in read",
            judged: USUAL,
            build: |bench| visit(bench, LocksInWrite),
        },
        verdicts: MISTAKE,
    },
];

fn fault_and_migrate(bench: &mut Bench<'_>, waits: fn(&Process, &mut LabTask, &LabTask)) {
    let file = bench.file();
    // The older one is unshared; the entry is changed in the table that the younger one has alone then.
    let process = bench.process(&file, &[0]);
    let last = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let second = another(bench.hugetlb());
    bench.cpu("fault", move |task| waits(&process, task, &second));
    bench.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // It may be gone already.
        let _ = hugetlb.migrate(task, frame);
    });
    bench.cpu("munmap", move |task| last.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned"));
}

/// With a task of its own, which is not the one in the section: else it does not compile.
struct Sleeper(LabTask, Process);

impl Visitor<Lab> for Sleeper {
    fn entry(&mut self, _: &Found<'_, Lab>) {
        drop(self.1.mmap_read(&mut self.0));
    }
}

fn sleeping_visitor(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.process(&file, &[]);
    let mut visitor = Sleeper(another(bench.hugetlb()), other);
    bench.cpu("walk", move |task| {
        process.walk_range(task, page(0)..page(1), &mut visitor).expect("aligned");
    });
}

fn handled_fault(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    handler.register(bench.task(), BASE, PUD_SIZE, Modes::MISSING).expect("mapped");
    bench.cpu("fault", move |task| _ = process.fault(task, page(0), Access::Read).expect("handled"));
    bench.cpu("handler", move |task| {
        handler.read_event(task).expect("memory");
        handler.wake(page(0), PMD_SIZE).expect("registered");
    });
}

fn register_and_share(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    bench.cpu("UFFDIO_REGISTER", move |task| {
        handler.register(task, BASE, PUD_SIZE, Modes::WP).expect("mapped");
    });
    bench.cpu("fault", move |task| fault(task, &other, 0));
}

/// Looks at entries and does not sleep, though it might.
pub(super) struct Reads;

impl SleepingVisitor<Lab> for Reads {
    fn entry(&mut self, _: &mut Resched<'_, Lab>, _: &Vma<Lab>, _: VirtAddr, _: Entry) -> Next {
        Next::Go
    }
}

/// Takes the lock of the VMA it is called for. It needs a task of its own for that: with what it is given it does not compile.
struct LocksInWrite(LabTask, Process);

impl SleepingVisitor<Lab> for LocksInWrite {
    fn entry(&mut self, _: &mut Resched<'_, Lab>, vma: &Vma<Lab>, _: VirtAddr, _: Entry) -> Next {
        let Self(task, process) = self;
        // The mmap lock is held in read already.
        let mmap = process.mmap_try_read(task);
        drop(mmap.as_ref().map(|mmap| mmap.lock_vma_write(vma, task)));
        Next::Go
    }
}

fn visit<V: SleepingVisitor<Lab> + 'static>(bench: &mut Bench<'_>, make: fn(LabTask, Process) -> V) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let second = another(bench.hugetlb());
    let mut visitor = make(second, process.clone());
    let same = process.clone();
    bench.cpu("walk", move |task| {
        process.walk_range_sleeping(task, page(0)..page(1), &mut visitor).expect("aligned");
    });
    bench.cpu("madvise", move |task| super::bench::dont_need(task, &same));
}
