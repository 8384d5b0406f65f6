//! Groups: sixteen entries side by side that stand for one page, as arm64 has them. A processor may keep all of them as one
//! translation, by whichever it has read, and notes its accesses in that one; who walks without the lock may see some of them changed and
//! others not yet.
//!
//! On a format of its own, and under the engine's own protocol: what differs between protocols is what becomes of tables that are shared, and tables
//! with groups are not.

use hugewalk::arch::{Aarch64, Entry, PMD_SIZE};
use hugewalk::fault::{Access, Fault};
use hugewalk::gup::GupFlags;
use hugewalk::uffd::{Features, Modes, ProtectMode, Userfault};
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;

use super::Scenario;
use super::bench::{BASE, GroupProcess, GroupTask, Groups, member};
use super::expected::{MISTAKE, OTHERS, Row, Verdicts};
use crate::explore::violation;
use crate::lab::{Cpu, Flaw, Format as _, Property};

/// What groups are judged by.
const GROUP: &[Property] =
    &[Property::I1, Property::I6, Property::I11, Property::I12, Property::I13, Property::I14, Property::I18];

/// As [`GROUP`], where a page may go with what was stored to it.
const GOES: &[Property] =
    &[Property::I1, Property::I6, Property::I11, Property::I12, Property::I14, Property::I18];

/// What counts are judged by.
const COUNTS: &[Property] = &[Property::I14];

/// Only who makes a table with groups knows of them.
const OURS: Verdicts = Verdicts::RacesBut(
    &[],
    OTHERS,
    "protocols differ in what becomes of shared tables, and tables with groups are not shared",
);

/// Rows of a scenario on a system with groups, and with each mistake.
macro_rules! groups {
    ($($id:literal, $what:expr, $build:expr, by $judged:expr $(; $mistake:literal, $how:literal, $kind:ident $with:expr)* ;;)*) => {
        &[$(
            Row {
                scenario: Scenario { id: $id, what: $what, judged: $judged, build: |bench| {
                    let mut groups = Groups::new(bench);
                    $build(&mut groups);
                    groups.finish();
                } },
                verdicts: OURS,
            },
            $(Row {
                scenario: Scenario {
                    id: concat!($id, ":", $mistake),
                    what: concat!($id, ", and ", $how),
                    judged: $judged,
                    build: |bench| {
                        bench.$kind($with);
                        let mut groups = Groups::new(bench);
                        $build(&mut groups);
                        groups.finish();
                    },
                },
                verdicts: MISTAKE,
            },)*
        )*]
    };
}

pub(super) const ROWS: &[Row] = groups! {
    "S90", "A loads by the first member of a group, and looks ahead by the last; B takes the right to write away", load_and_protect, by GROUP;
    "no-break", "the group is not broken first", without "break-first";
    "no-flush", "B does not flush", flawed Flaw::NoFlush ;;

    "S90/store", "A stores for the first time, by the sixth member; B takes the right to write away", store_and_protect, by GROUP;
    "read-then-write", "B reads the entries and writes them later", flawed Flaw::TornExchange;
    "no-break", "the group is not broken first", without "break-first" ;;

    "S90/copy", "a page is shared since a fork: A loads by one member, and looks ahead by another; B stores by a third, and gets a copy", load_and_copy, by GROUP;
    "no-break", "the group is not broken first", without "break-first";
    "no-flush", "B does not flush", flawed Flaw::NoFlush ;;

    "S90/unshare", "a page is shared since a fork: A loads, and looks ahead; B pins it for reading, and gets a copy", load_and_unshare, by GROUP;
    "no-break", "the group is not broken first", without "break-first" ;;

    "S90/fork", "A stores to a private page by one member, and looks ahead by another; B forks", store_and_fork, by GROUP;
    "no-break", "the group is not broken first", without "break-first";
    "no-flush", "B does not flush", flawed Flaw::NoFlush ;;

    "S90/migrate", "A stores by one member, and looks ahead by another; B moves the page elsewhere", store_and_migrate, by GROUP;
    "read-then-write", "B reads the entries and writes them later", flawed Flaw::TornExchange;
    "no-flush", "B does not flush", flawed Flaw::NoFlush ;;

    "S90/uffd-wp", "A stores for the first time; B, the handler of its faults, write-protects the page", store_and_handle, by GROUP;
    "read-then-write", "B reads the entries and writes them later", flawed Flaw::TornExchange;
    "no-break", "the group is not broken first", without "break-first" ;;

    "S90/referenced", "A stores for the first time; B asks whether the page was accessed, and clears that", store_and_ask, by GROUP;
    "read-then-write", "B reads the entries and writes them later", flawed Flaw::TornExchange ;;

    "S90/present", "A stores for the first time; a load of B by another member faults, and finds that the page is mapped", store_and_fault, by GROUP;
    "read-then-write", "B reads the entries and writes them later", flawed Flaw::TornExchange ;;

    "S90/punch", "A loads, and looks ahead; B punches the page out of the file", load_and_punch, by GOES;
    "no-flush", "B does not flush", flawed Flaw::NoFlush ;;

    "S90/faults", "nothing is mapped; A and B fault by two members: there is one page", two_faults, by COUNTS ;;

    "S90/walk", "A reads a member without the lock; B takes the right to write away: the group is never empty", walk_and_protect, by GROUP;
    "empty-first", "an entry is emptied before it is changed", flawed Flaw::EmptyFirst ;;

    "S90/walk-migrate", "A reads a member without the lock, twice; B moves the page elsewhere: the group is never empty", walk_and_migrate, by GROUP;
    "empty-first", "an entry is emptied before it is changed", flawed Flaw::EmptyFirst ;;

    "S90/freed", "A reads members without the lock; B unmaps, and the table goes", walk_and_unmap, by GROUP;
    "freed-at-once", "tables are freed right after the flush", without "rcu-free" ;;

    "S90/gup-fast", "A pins the page by a member, without locks, and stores to it; B moves the page elsewhere", pin_and_migrate, by GROUP;
    "entry-not-confirmed", "A does not look at the entry again", without "confirm-entry" ;;

    "S90/pin-fork", "A pins a private page by a member, without locks, and stores to it; B forks", pin_and_fork, by GROUP ;;
};

/// A store of a processor, with the faults that it takes.
fn store(task: &mut GroupTask, process: &GroupProcess, number: u64) -> bool {
    let mut cpu = Cpu::new(process);
    while cpu.store(member(number)).is_none() {
        if process.fault(task, member(number), Access::Write).is_err() {
            return false;
        }
    }
    true
}

/// A processor that loads by the first member, walks by the last, and loads again.
fn loads(groups: &mut Groups<'_, '_>, process: &GroupProcess) {
    let process = process.clone();
    groups.cpu("load, look ahead, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(member(0));
        cpu.look_ahead(member(15));
        cpu.load(member(0));
    });
}

/// A processor that stores by the sixth member, once, and does not fault.
fn stores_once(groups: &mut Groups<'_, '_>, process: &GroupProcess) {
    let process = process.clone();
    groups.cpu("store", move |_| _ = Cpu::new(&process).store(member(5)));
}

/// A processor that stores by one member, walks by another, and stores again.
fn stores(groups: &mut Groups<'_, '_>, process: &GroupProcess) {
    let process = process.clone();
    groups.cpu("store, look ahead, store", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.store(member(5));
        cpu.look_ahead(member(9));
        cpu.store(member(5));
    });
}

fn protects(groups: &mut Groups<'_, '_>, process: GroupProcess) {
    groups.cpu("mprotect", move |task| {
        process.mprotect(task, BASE, Aarch64::size().bytes(), Protection::READ).expect("mapped");
    });
}

fn load_and_protect(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, true);
    loads(groups, &process);
    protects(groups, process);
}

fn store_and_protect(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.clean(&file);
    stores(groups, &process);
    protects(groups, process);
}

fn load_and_copy(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, false);
    groups.fork(&process);
    loads(groups, &process);
    groups.cpu("store", move |task| _ = store(task, &process, 3));
}

fn load_and_unshare(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, false);
    groups.fork(&process);
    loads(groups, &process);
    groups.cpu("GUP", move |task| {
        drop(process.pin_pages(task, member(3), PMD_SIZE, GupFlags::PIN).expect("mapped"));
    });
}

fn store_and_fork(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, false);
    stores(groups, &process);
    let nursery = groups.nursery();
    groups.cpu("fork", move |task| {
        let child = process.fork(task).expect("memory");
        nursery.borrow_mut().push(child);
    });
}

fn migrates(groups: &mut Groups<'_, '_>, process: &GroupProcess) {
    let frame = groups.frame(process);
    groups.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        let _ = hugetlb.migrate(task, frame);
    });
}

fn store_and_migrate(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.clean(&file);
    stores(groups, &process);
    migrates(groups, &process);
}

fn store_and_handle(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.clean(&file);
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    handler.register(groups.task(), BASE, Aarch64::size().bytes(), Modes::WP).expect("mapped");
    // The first store after that gives the right to write back, and leaves the page dirty.
    groups.bring_anew(&process);
    stores(groups, &process);
    groups.cpu("UFFDIO_WRITEPROTECT", move |task| {
        handler.write_protect(task, BASE, Aarch64::size().bytes(), ProtectMode::WP).expect("registered");
    });
}

fn store_and_ask(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.clean(&file);
    let frame = groups.frame(&process);
    stores_once(groups, &process);
    groups.cpu("referenced", move |task| {
        let hugetlb = task.hugetlb().clone();
        hugetlb.referenced(task, frame).expect("in use");
    });
}

fn store_and_fault(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.clean(&file);
    // Where the access is noted already, a fault stores nothing.
    groups.make_old(&process);
    stores_once(groups, &process);
    groups.cpu("fault", move |task| {
        let fault = process.fault(task, member(9), Access::Read).expect("mapped");
        if fault != Fault::Present {
            violation(format!("I14: a fault where a page is mapped ends as {fault:?}"), Property::I14);
        }
    });
}

fn load_and_punch(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, true);
    loads(groups, &process);
    groups.cpu("fallocate", move |task| {
        file.punch_hole(task, 0, Aarch64::size().bytes()).expect("aligned");
    });
}

fn two_faults(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.untouched(&file, true);
    for number in [3, 12] {
        let process = process.clone();
        groups.cpu("fault", move |task| {
            _ = process.fault(task, member(number), Access::Write).expect("a page");
        });
    }
}

/// Reads a member without the lock of its table: it is that of a page, or says that the page is on its way.
fn reads(task: &GroupTask, process: &GroupProcess, number: u64) {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, process.mm(), member(number), Aarch64::size()).expect("its own");
    let seen = slot.and_then(|slot| slot.read().ok());
    if !matches!(seen, None | Some(Entry::Leaf(_) | Entry::Migration(_))) {
        violation(format!("I16: a walk reads {seen:?} where a page is mapped"), Property::I16);
    }
}

fn walk_and_protect(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, true);
    let same = process.clone();
    groups.cpu("walk", move |task| reads(task, &same, 7));
    protects(groups, process);
}

fn walk_and_migrate(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, true);
    let same = process.clone();
    groups.cpu("walk, walk", move |task| {
        reads(task, &same, 0);
        reads(task, &same, 15);
    });
    migrates(groups, &process);
}

fn walk_and_unmap(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, true);
    let same = process.clone();
    groups.cpu("walk", move |task| {
        let section = task.rcu_read_lock();
        let slot = huge_pte_offset(&section, same.mm(), member(7), Aarch64::size()).expect("its own");
        let _ = slot.map(|slot| slot.read());
    });
    groups.cpu("munmap", move |task| {
        process.munmap(task, BASE, Aarch64::size().bytes()).expect("aligned");
    });
}

/// A pin, and a store that must be in the page that is pinned.
fn pins(groups: &mut Groups<'_, '_>, process: &GroupProcess, flags: GupFlags) {
    let process = process.clone();
    groups.cpu("GUP-fast, store", move |task| {
        let pin = process.pin_page_fast(task, member(7), flags).map(|pin| pin.into_owned());
        let Some(pin) = pin else { return };
        let mut cpu = Cpu::new(&process);
        let stored = loop {
            match cpu.store(member(7)) {
                Some(page) => break page,
                None => _ = process.fault(task, member(7), Access::Write).expect("mapped"),
            }
        };
        if stored != pin.frame() {
            let text = "I13: a store after the pin is not in the page that is pinned".to_owned();
            violation(text, Property::I13);
        }
    });
}

fn pin_and_migrate(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, true);
    pins(groups, &process, GupFlags::PIN);
    migrates(groups, &process);
}

fn pin_and_fork(groups: &mut Groups<'_, '_>) {
    let file = groups.file();
    let process = groups.process(&file, false);
    pins(groups, &process, GupFlags::PIN | GupFlags::WRITE);
    let nursery = groups.nursery();
    groups.cpu("fork", move |task| {
        let child = process.fork(task).expect("memory");
        nursery.borrow_mut().push(child);
    });
}
