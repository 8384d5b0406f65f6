//! Pages that the owner of a reservation takes from its children.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::RemapTo;
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, NONE, Row};
use super::reservations::{RESERVED, must_get, pool_and_one};
use super::stores::row;
use crate::explore::violation;
use crate::lab::{Cpu, Flaw, Property};

pub(super) const ROWS: &[Row] = &[
    row!(
        "S42",
        "the pool is empty; a parent with a reservation stores to a page that a fork shares, and takes it from its child, which loads meanwhile",
        rob,
        by RESERVED
    ),
    row!("S42:no-flush", "S42, and the child's processor is not flushed", rob, by RESERVED, on Flaw::NoFlush),
    row!(
        "S42/split",
        "S42, and the child unmaps a part of its mapping before or after, and comes to the page (only a changed engine shows the mistake: a part that does not know what was taken)",
        rob_and_split,
        by RESERVED
    ),
    row!(
        "S42/mprotect",
        "S42, and the child changes its rights before or after (as S42/split)",
        rob_and_protect,
        by RESERVED
    ),
    row!("S42/mremap", "S42, and the child moves its mapping before or after (as S42/split)", rob_and_move, by RESERVED),
    row!(
        "S42/fork",
        "S42, and the child forks before or after (as S42/split)",
        rob_and_fork,
        by RESERVED
    ),
    row!(
        "S42/owner-forks",
        "S42, and the parent forks once more before or after: the new child has the page, or is told that it was taken",
        rob_and_fork_again,
        by RESERVED
    ),
];

/// A parent with a reservation for each page, which has used that of page 0, and a child that shares page 0. No page is left that
/// is not reserved.
fn family(bench: &mut Bench<'_>, pages: u64) -> (Process, Process) {
    let file = bench.file();
    let parent = bench.private(&file, pages);
    pool_and_one(bench, pages);
    let child = bench.fork(&parent);
    (parent, child)
}

/// The owner's store. It takes the page from the child if it must.
fn owner_stores(bench: &mut Bench<'_>, parent: Process) {
    bench.cpu("store", move |task| {
        let mut cpu = Cpu::new(&parent);
        while cpu.store(page(0)).is_none() {
            must_get(task, &parent, 0);
        }
    });
}

/// Somebody who had the page comes to it: it is there, or was taken away. It is not a fresh one.
fn comes_to(task: &mut LabTask, process: &Process, address: VirtAddr) {
    loop {
        match process.fault(task, address, Access::Read) {
            Ok(Fault::Raced) => {}
            Ok(Fault::Fresh) => {
                return violation("I13: zeroes are where a page was taken away".to_owned(), Property::I13);
            }
            Ok(_) | Err(FaultError::TakenAway { .. }) => return,
            Err(error) => return violation(format!("a fault fails: {error}"), error),
        }
    }
}

fn rob(bench: &mut Bench<'_>) {
    let (parent, child) = family(bench, 1);
    owner_stores(bench, parent);
    bench.cpu("child loads, loads", move |task| {
        let mut cpu = Cpu::new(&child);
        cpu.load(page(0));
        cpu.load(page(0));
        comes_to(task, &child, page(0));
    });
}

fn rob_and_split(bench: &mut Bench<'_>) {
    let (parent, child) = family(bench, 2);
    owner_stores(bench, parent);
    bench.cpu("child unmaps, loads", move |task| {
        child.munmap(task, page(1), PMD_SIZE).expect("aligned");
        comes_to(task, &child, page(0));
    });
}

fn rob_and_protect(bench: &mut Bench<'_>) {
    let (parent, child) = family(bench, 1);
    owner_stores(bench, parent);
    bench.cpu("child mprotects, loads", move |task| {
        child.mprotect(task, BASE, PMD_SIZE, Protection::READ).expect("mapped");
        comes_to(task, &child, page(0));
    });
}

fn rob_and_move(bench: &mut Bench<'_>) {
    let (parent, child) = family(bench, 1);
    owner_stores(bench, parent);
    bench.cpu("child moves, loads", move |task| {
        let to = VirtAddr::new(8 * PUD_SIZE);
        child.mremap(task, BASE, PMD_SIZE, PMD_SIZE, RemapTo::Fixed(to)).expect("room");
        comes_to(task, &child, to);
    });
}

fn rob_and_fork(bench: &mut Bench<'_>) {
    let (parent, child) = family(bench, 1);
    let nursery = bench.nursery();
    owner_stores(bench, parent);
    bench.cpu("child forks, grandchild loads", move |task| {
        let grandchild = child.fork(task).expect("memory");
        comes_to(task, &grandchild, page(0));
        nursery.keep(grandchild);
    });
}

fn rob_and_fork_again(bench: &mut Bench<'_>) {
    let (parent, _child) = family(bench, 1);
    let (same, nursery) = (parent.clone(), bench.nursery());
    owner_stores(bench, parent);
    bench.cpu("fork, child loads", move |task| {
        let child = same.fork(task).expect("memory");
        comes_to(task, &child, page(0));
        nursery.keep(child);
    });
}
