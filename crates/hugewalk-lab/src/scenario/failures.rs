//! Pages that fail.

use hugewalk::addr::{FRAME_BYTES, HugeFrame};
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::{Access, FaultError};
use hugewalk::gup::GupFlags;

use super::Scenario;
use super::bench::{Bench, Process, dont_need, page};
use super::expected::{EVERY_MISTAKE, NONE, OTHERS, Row, Verdicts};
use super::other::fault;
use super::reservations::RESERVED;
use super::stores::row;
use crate::explore::violation;
use crate::lab::{Cpu, Flaw, Property};

/// A row with many executions in which nobody shares.
const ONE_PROTOCOL: Verdicts = Verdicts::RacesBut(
    &[],
    OTHERS,
    "no table is shared, so the protocols do not differ, and the engine's own is checked",
);

pub(super) const ROWS: &[Row] = &[
    row!("S47", "a page fails, and is punched out", fail_and_punch, by RESERVED),
    row!("S47/load", "a page fails while a processor loads from it", fail_and_load, by RESERVED),
    row!(
        "S47/load:no-flush",
        "S47/load, and processors are not flushed",
        fail_and_load,
        by RESERVED,
        on Flaw::NoFlush
    ),
    row!("S47/exit", "a page fails; its process exits", fail_and_exit, by RESERVED),
    row!("S47/private", "a private page fails; its process exits", fail_private_and_exit, by RESERVED),
    row!("S47/fault", "a page fails while another process maps it", fail_and_fault, by RESERVED),
    row!(
        "S47/free",
        "a page fails while it is taken out of the pool for a file",
        fail_and_take,
        by & [Property::I1, Property::I14]
    ),
    row!("S47/truncate", "a page fails, and is truncated", fail_and_truncate, by RESERVED),
    row!("S47/read", "a page fails while somebody reads the file", fail_and_read, by RESERVED),
    row!("S47/migrate", "a page fails while it is moved elsewhere", fail_and_migrate, by RESERVED),
    row!(
        "S47/again",
        "a page is punched out; meanwhile it is mapped once more, and fails",
        map_fail_and_punch,
        by RESERVED,
        is ONE_PROTOCOL
    ),
    row!(
        "S47/told",
        "a page fails; a processor that is told so by its fault reads the file",
        fail_and_be_told,
        by RESERVED
    ),
    row!(
        "S47/let-go",
        "a page fails that has left its file, and that a pin holds; the pin is dropped, and another file gets the page",
        fail_and_let_go,
        by RESERVED
    ),
    row!(
        "S47/split",
        "memory in a free page of 1 GiB fails, while the page is given back, and its start is handed out as a page of 2 MiB that a file gets",
        fail_and_split,
        by RESERVED
    ),
];

fn fail(bench: &mut Bench<'_>, frame: HugeFrame) {
    bench.cpu("memory_failure", move |task| {
        let hugetlb = task.hugetlb().clone();
        // It may be gone by then.
        let _ = hugetlb.memory_failure(task, frame);
    });
}

pub(super) fn migrate(bench: &mut Bench<'_>, frame: HugeFrame) {
    bench.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        let _ = hugetlb.migrate(task, frame);
    });
}

pub(super) fn loads(bench: &mut Bench<'_>, process: &Process) {
    let process = process.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(0));
        cpu.load(page(0));
    });
}

fn fail_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
}

fn fail_and_load(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    loads(bench, &process);
}

fn fail_and_exit(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let _other = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    bench.cpu("exit", move |task| process.exit(task).expect("its own task"));
}

fn fail_private_and_exit(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private(&file, 1);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    bench.cpu("exit", move |task| process.exit(task).expect("its own task"));
}

fn fail_and_fault(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    bench.cpu("fault", move |task| _ = other.fault(task, page(0), Access::Write));
    loads(bench, &process);
}

fn fail_and_take(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    // It is the only one.
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 1);
    file.punch_hole(bench.task(), 0, PMD_SIZE).expect("aligned");
    fail(bench, frame);
    // There may be none left.
    bench.cpu("fallocate", move |task| _ = file.allocate(task, 0, PMD_SIZE, false));
}

fn fail_and_truncate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn fail_and_read(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    // An error, or what was there before.
    bench.cpu("read", move |_| _ = file.read_at(0, &mut [0; 8]));
}

fn fail_and_migrate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    migrate(bench, frame);
}

fn map_fail_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    // The page stays in the file.
    dont_need(bench.task(), &process);
    bench.cpu("fault, memory_failure", move |task| {
        // It may be gone by then, now or below.
        let _ = process.fault(task, page(0), Access::Read);
        let hugetlb = task.hugetlb().clone();
        let _ = hugetlb.memory_failure(task, frame);
    });
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
}

fn fail_and_be_told(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    fail(bench, frame);
    bench.cpu("fault, read", move |task| {
        let told = process.fault(task, page(0), Access::Read);
        if matches!(told, Err(FaultError::Hwpoison { .. })) && file.read_at(0, &mut [0; 8]).is_ok() {
            let text = "I12: a page that a fault says has failed is read by the file".to_owned();
            violation(text, Property::I12);
        }
    });
}

fn fail_and_let_go(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let held = process.follow_page(bench.task(), page(0), GupFlags::PIN).expect("no failure");
    file.punch_hole(bench.task(), 0, PMD_SIZE).expect("aligned");
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 1);
    fail(bench, frame);
    bench.cpu("unpin, fault elsewhere", move |task| {
        drop(held);
        // There is none left if it has failed by then.
        let _ = other.fault(task, page(0), Access::Write);
    });
}

fn fail_and_split(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 0);
    let hugetlb = bench.hugetlb().clone();
    assert_eq!(hugetlb.resize_pool(X86_64::SIZE_1G, 1), 1, "there is one");
    // Behind the first two MiB.
    fail(bench, HugeFrame((PUD_SIZE + PMD_SIZE) / FRAME_BYTES));
    bench.cpu("nr_hugepages, fault, fault", move |task| {
        hugetlb.resize_pool(X86_64::SIZE_1G, 0);
        hugetlb.resize_pool(X86_64::SIZE_2M, 1);
        fault(task, &process, 0);
        fault(task, &process, 0);
    });
}
