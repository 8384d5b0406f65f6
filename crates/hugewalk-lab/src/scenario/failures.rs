//! Pages that fail, are looked for from their side, are pinned, and stay where they are after all.

use hugewalk::addr::{HugeFrame, HugeSize, PMD_SIZE};
use hugewalk::fault::Access;
use hugewalk::gup::{GupFlags, PinnedPage};

use super::Scenario;
use super::bench::{Bench, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, NONE, Row};
use super::other::fault;
use super::reservations::{RESERVED, may_get};
use super::stores::{PAGES, row, store};
use crate::explore::violation;
use crate::lab::{Cpu, Flaw, Lab, Property};

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
        "S48",
        "rmap takes a page out of all mappings; it is punched out, and another file gets it",
        displace_and_punch
    ),
    row!("S48/exit", "rmap takes a page out of all mappings; one of the processes exits", displace_and_exit),
    row!(
        "S48/referenced",
        "rmap looks who used a page; a process exits, and another maps it",
        referenced_and_exit
    ),
    row!(
        "S48/unmap-in-two",
        "rmap takes a page out of all mappings while a fault maps it again",
        displace_and_fault
    ),
    row!("S49", "A pins a page, and keeps it; B truncates; another file wants a page", pin_and_truncate, by RESERVED),
    row!(
        "S49/slow",
        "A pins a page under the lock of its table, or faults it in; B truncates; another file wants a page",
        slow_pin_and_truncate,
        by RESERVED
    ),
    row!(
        "S49/fork",
        "A pins a private page without locks, and stores to it; B forks (only a changed engine shows the mistake: a fork that looks for pins before it takes the right to write away)",
        pin_and_fork
    ),
    row!("S50", "A pins a page, and stores to it; B tries to move it, and puts it back", put_back),
    row!(
        "S50/private",
        "S50 with a private page, which has no VMA lock: a fault that looks in between does not fail",
        put_back_private
    ),
    row!("S50/read", "a page moves elsewhere while somebody reads it by the file", move_and_read),
    row!(
        "S50/read:late-reference",
        "S50/read, and the reader takes its reference after the lock of the cache",
        move_and_read,
        on Flaw::LateReference
    ),
    row!(
        "S50/write",
        "a page moves elsewhere while somebody writes it by the file, and a processor loads",
        move_and_write
    ),
    row!(
        "S50/fork",
        "a private page moves elsewhere while its process forks; the child stores",
        move_and_fork
    ),
];

fn fail(bench: &mut Bench<'_>, frame: HugeFrame) {
    bench.cpu("memory_failure", move |task| {
        let hugetlb = task.hugetlb().clone();
        // It may be gone by then.
        let _ = hugetlb.memory_failure(task, frame);
    });
}

fn migrate(bench: &mut Bench<'_>, frame: HugeFrame) {
    bench.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        let _ = hugetlb.migrate(task, frame);
    });
}

fn displace(bench: &mut Bench<'_>, frame: HugeFrame) {
    bench.cpu("try_to_unmap", move |task| {
        let hugetlb = task.hugetlb().clone();
        // It may be gone by then.
        let _ = hugetlb.unmap_page(task, frame);
    });
}

fn loads(bench: &mut Bench<'_>, process: &Process) {
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
    bench.hugetlb().resize_pool(HugeSize::Size2M, 1);
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

fn displace_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(HugeSize::Size2M, 1);
    displace(bench, frame);
    bench.cpu("fallocate, fault", move |task| {
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        may_get(task, &other, 0);
    });
}

fn displace_and_exit(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    displace(bench, frame);
    bench.cpu("exit", move |task| process.exit(task).expect("its own task"));
    loads(bench, &other);
}

fn referenced_and_exit(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    let frame = bench.frame(&process, 0);
    bench.cpu("referenced", move |task| {
        let hugetlb = task.hugetlb().clone();
        let _ = hugetlb.referenced(task, frame);
    });
    bench.cpu("exit", move |task| process.exit(task).expect("its own task"));
    bench.cpu("fault", move |task| fault(task, &other, 0));
}

fn displace_and_fault(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    let frame = bench.frame(&process, 0);
    displace(bench, frame);
    bench.cpu("store", move |task| store(task, &process, 0));
    bench.cpu("fault", move |task| fault(task, &other, 0));
}

/// What the pages' holder does with it: it sees the page that it has taken, as long as it has it.
fn use_pin(pin: &PinnedPage<Lab>) {
    pin.read(0, &mut [0; 8]);
}

fn pinned_world(bench: &mut Bench<'_>) -> (Process, Process) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(HugeSize::Size2M, 1);
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
    (process, other)
}

fn pin_and_truncate(bench: &mut Bench<'_>) {
    let (process, other) = pinned_world(bench);
    bench.cpu("GUP-fast", move |task| {
        let pin = process.pin_page_fast(task, page(0), GupFlags::PIN).map(|pin| pin.into_owned());
        pin.iter().for_each(use_pin);
    });
    bench.cpu("fault elsewhere", move |task| _ = may_get(task, &other, 0));
}

fn slow_pin_and_truncate(bench: &mut Bench<'_>) {
    let (process, other) = pinned_world(bench);
    bench.cpu("get_user_pages", move |task| {
        if let Ok(Some(pin)) = process.follow_page(task, page(0), GupFlags::empty()) {
            use_pin(&pin);
        }
    });
    bench.cpu("fault elsewhere", move |task| _ = may_get(task, &other, 0));
}

/// A store with the faults that it takes. Returns where it went.
fn store_to(task: &mut LabTask, process: &Process) -> Option<HugeFrame> {
    let mut cpu = Cpu::new(process);
    loop {
        match cpu.store(page(0)) {
            None => process.fault(task, page(0), Access::Write).ok()?,
            stored => return stored,
        };
    }
}

fn pin_and_fork(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    pin_and_store(bench, &process);
    let nursery = bench.nursery();
    bench.cpu("fork", move |task| nursery.keep(process.fork(task).expect("memory")));
}

/// A pin, and a store that must be in the page that is pinned.
fn pin_and_store(bench: &mut Bench<'_>, process: &Process) {
    let process = process.clone();
    bench.cpu("GUP-fast, store", move |task| {
        let flags = GupFlags::PIN | GupFlags::WRITE;
        let Some(pin) = process.pin_page_fast(task, page(0), flags).map(|pin| pin.into_owned()) else {
            return;
        };
        if store_to(task, &process).is_some_and(|stored| stored != pin.frame()) {
            let text = "I13: a store after the pin is not in the page that is pinned".to_owned();
            violation(text, Property::I13);
        }
    });
}

/// A page is pinned, stored to, and moved.
fn pin_and_move(bench: &mut Bench<'_>, process: &Process) {
    let frame = bench.frame(process, 0);
    migrate(bench, frame);
    let same = process.clone();
    bench.cpu("GUP-fast, store", move |task| {
        let pin = same.pin_page_fast(task, page(0), GupFlags::PIN).map(|pin| pin.into_owned());
        store(task, &same, 0);
        drop(pin);
    });
}

fn put_back(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    pin_and_move(bench, &process);
}

fn put_back_private(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    pin_and_move(bench, &process);
}

fn move_and_read(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    bench.cpu("read", move |_| _ = file.read_at(0, &mut [0; 8]));
}

fn move_and_write(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    bench.cpu("write", move |task| file.write_at(task, 0, &[1; 8]).expect("a page"));
    loads(bench, &process);
}

fn move_and_fork(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    let nursery = bench.nursery();
    bench.cpu("fork, child stores", move |task| {
        let child = process.fork(task).expect("memory");
        store(task, &child, 0);
        nursery.keep(child);
    });
}
