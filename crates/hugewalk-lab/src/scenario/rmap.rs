//! Pages that are looked for from their side, and pages that are pinned.

use hugewalk::addr::HugeFrame;
use hugewalk::arch::{PMD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::gup::{GupFlags, PinnedPage};

use super::Scenario;
use super::bench::{Bench, LabTask, Process, page};
use super::expected::{NONE, Row};
use super::failures::loads;
use super::other::fault;
use super::reservations::{RESERVED, may_get};
use super::stores::{PAGES, row, store};
use crate::explore::violation;
use crate::lab::{Cpu, Lab, Property};

pub(super) const ROWS: &[Row] = &[
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
    row!(
        "S48/told",
        "rmap takes a page out of both users of a table, whose locks are busy; then it looks whether they map it still",
        displace_and_look,
        by & [Property::I1, Property::I14, Property::I16]
    ),
    row!(
        "S48/in-place",
        "rmap has waited for long, and takes a page out of a table that is still shared; a processor of the other user loads",
        displace_in_place
    ),
    row!(
        "S48/copied",
        "rmap looks who used a page; meanwhile a private mapping that nobody has used copies it at a store",
        referenced_and_copy
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
];

fn displace(bench: &mut Bench<'_>, frame: HugeFrame) {
    bench.cpu("try_to_unmap", move |task| {
        let hugetlb = task.hugetlb().clone();
        // It may be gone by then.
        let _ = hugetlb.unmap_page(task, frame);
    });
}

fn displace_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 1);
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

fn displace_and_look(bench: &mut Bench<'_>) {
    let file = bench.file();
    let processes = [bench.process(&file, &[0]), bench.process(&file, &[0])];
    let frame = bench.frame(&processes[0], 0);
    let [one, other] = processes.clone();
    // With one lock free, its user would leave the table to the other, alone.
    bench.cpu("walk both", move |task| {
        let mmap = [one.mmap_read(task), other.mmap_read(task)];
        let _locked = mmap.each_ref().map(|mmap| mmap.lock_vma(mmap.find(page(0)).expect("mapped"), task));
    });
    bench.cpu("try_to_unmap, look", move |task| {
        let hugetlb = task.hugetlb().clone();
        let is_out = hugetlb.unmap_page(task, frame).is_ok();
        for process in processes.iter().filter(|_| is_out) {
            let found = process.follow_page(task, page(0), GupFlags::empty()).expect("no failure");
            if found.is_some_and(|found| found.frame() == frame) {
                let text =
                    "I16: rmap says that it has taken a page out of all mappings, and one has it".to_owned();
                violation(text, Property::I16);
            }
        }
    });
}

fn displace_in_place(bench: &mut Bench<'_>) {
    bench.in_place_at_once();
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    displace(bench, frame);
    loads(bench, &other);
}

fn referenced_and_copy(bench: &mut Bench<'_>) {
    let file = bench.file();
    let shared = bench.process(&file, &[0]);
    let private = bench.private(&file, 1);
    let frame = bench.frame(&shared, 0);
    let hugetlb = bench.hugetlb().clone();
    hugetlb.referenced(bench.task(), frame).expect("in use");
    bench.cpu("referenced", move |task| {
        if hugetlb.referenced(task, frame) != Ok(0) {
            let text = "I16: rmap says that a page was used, and nobody has used it".to_owned();
            violation(text, Property::I16);
        }
    });
    bench.cpu("store", move |task| store(task, &private, 0));
}

/// What the pages' holder does with it: it sees the page that it has taken, as long as it has it.
fn use_pin(pin: &PinnedPage<Lab>) {
    let _ = pin.read(0, &mut [0; 8]);
}

fn pinned_world(bench: &mut Bench<'_>) -> (Process, Process) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 1);
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
    pin_and_store(bench, &process, GupFlags::PIN | GupFlags::WRITE);
    let nursery = bench.nursery();
    bench.cpu("fork", move |task| nursery.keep(process.fork(task).expect("memory")));
}

/// A pin, and a store that must be in the page that is pinned.
pub(super) fn pin_and_store(bench: &mut Bench<'_>, process: &Process, flags: GupFlags) {
    let process = process.clone();
    bench.cpu("GUP-fast, store", move |task| {
        if let Some(pin) = process.pin_page_fast(task, page(0), flags).map(|pin| pin.into_owned()) {
            store_to_pinned(task, &process, &pin);
        }
    });
}

/// A store that must be in the page that is pinned.
pub(super) fn store_to_pinned(task: &mut LabTask, process: &Process, pin: &PinnedPage<Lab>) {
    if store_to(task, process).is_some_and(|stored| stored != pin.frame()) {
        let text = "I13: a store after the pin is not in the page that is pinned".to_owned();
        violation(text, Property::I13);
    }
}
