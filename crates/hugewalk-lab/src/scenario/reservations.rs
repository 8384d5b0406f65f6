//! Reservations with several takers: those of pools, of mounts and of private mappings, and pages that the owner of one takes
//! from its children.

use hugewalk::addr::{HugeSize, PMD_SIZE, PUD_SIZE, VirtAddr};
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::uffd::{CopyMode, Features, Modes, Userfault};
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, NONE, Row};
use super::stores::{row, store};
use crate::explore::violation;
use crate::lab::{Cpu, Flaw, Lab, Property};

/// What rows with reservations are judged by.
pub(super) const RESERVED: &[Property] =
    &[Property::I1, Property::I6, Property::I11, Property::I12, Property::I14, Property::I15];

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
    row!(
        "S43",
        "a mount with a minimum: a page of it goes back, another file of it takes one, and somebody else the last that is not reserved",
        mount_takes_back,
        by RESERVED
    ),
    row!(
        "S43:account-let-go",
        "S43, and the mount's lock is released before the pool has the page",
        mount_takes_back,
        by RESERVED,
        on Flaw::OneSpinLock
    ),
    row!(
        "S43/min",
        "a mount's minimum is free; somebody else takes all pages that are not reserved, and a fault on the mount needs one",
        mount_has_its_minimum,
        by RESERVED
    ),
    row!("S43/max", "two faults want the last page that a mount allows", mount_has_a_maximum, by RESERVED),
    row!(
        "S43/reserve",
        "two mappings want to reserve what is left of a mount and of the pool, one of them truncates its file",
        mount_reserves,
        by RESERVED
    ),
    row!(
        "S43/private",
        "a private mapping of a file on a mount loses its page while a shared one takes the last that the mount allows",
        mount_has_private_pages,
        by RESERVED
    ),
    row!(
        "S43/no-memory",
        "S43, and for a while there is no memory on the heap",
        mount_without_memory,
        by RESERVED
    ),
    row!(
        "S44",
        "a shared mapping has reserved the last page; a fault there and one of somebody without a reservation want it",
        reserved_fault,
        by RESERVED
    ),
    row!(
        "S44/private",
        "the owner of a private page drops it and comes back; somebody without a reservation wants it meanwhile",
        drop_and_come_back,
        by RESERVED
    ),
    row!(
        "S44/batch",
        "as S44/private with nine pages, more than a gather holds without memory, and there is none for a while",
        drop_a_batch,
        by RESERVED
    ),
    row!(
        "S44/munmap",
        "a part of a private mapping goes, with a page that was used and one that was not, while others reserve",
        unmap_reserved,
        by RESERVED
    ),
    row!(
        "S44/unreserve",
        "reservations of a file are given back while a fault uses one",
        unreserve,
        by RESERVED
    ),
    row!(
        "S44/punch",
        "a hole is punched, with the reservation; a fault wants the page again, and all that is left is reserved",
        punch_reserved,
        by RESERVED
    ),
    row!(
        "S44/truncate",
        "a fault takes a page without a reservation, and finds the file too short for it",
        truncate_and_fault,
        by RESERVED
    ),
    row!(
        "S44/truncate-reserved",
        "a fault uses a reservation, and finds the file too short for the page; others come for what is left",
        truncate_and_reserved_fault,
        by RESERVED
    ),
    row!(
        "S44/truncate-handler",
        "a handler brings a page without a reservation, and finds the file too short for it",
        truncate_and_bring,
        by RESERVED
    ),
    row!(
        "S44/resize",
        "the pool shrinks and grows while reservations are made and used",
        resize,
        by RESERVED
    ),
    row!(
        "S44/move",
        "a page that was reserved moves elsewhere, while a fault uses the last reservation and somebody without one wants a page",
        move_reserved,
        by RESERVED
    ),
];

/// A fault that must find a page, since it has a reservation (I15).
fn must_get(task: &mut LabTask, process: &Process, index: u64) {
    loop {
        match process.fault(task, page(index), Access::Write) {
            Ok(Fault::Raced) => {}
            Ok(_) => return,
            Err(error) => {
                let text = format!("I15: a fault with a reservation gets no page: {error}");
                return violation(text, Property::I15);
            }
        }
    }
}

/// A fault that may find none.
pub(super) fn may_get(task: &mut LabTask, process: &Process, index: u64) -> bool {
    loop {
        match process.fault(task, page(index), Access::Write) {
            Ok(Fault::Raced) => {}
            Ok(_) => return true,
            Err(
                FaultError::PoolEmpty(_)
                | FaultError::SubPoolFull(_)
                | FaultError::NotMapped { .. }
                | FaultError::BeyondEof { .. }
                | FaultError::OutOfMemory(_),
            ) => return false,
            Err(error) => {
                violation(format!("a fault fails: {error}"), error);
                return false;
            }
        }
    }
}

/// Maps pages of a file, from the first on, with reservations. False if there are too few.
fn reserve(task: &mut LabTask, space: &Process, file: &File, pages: u64, shared: bool) -> bool {
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: pages * PMD_SIZE,
        protection: Protection::READ | Protection::WRITE,
        flags: if shared { MapFlags::SHARED } else { MapFlags::empty() },
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request).is_ok()
}

fn pool_of(bench: &Bench<'_>, pages: u64) {
    bench.hugetlb().resize_pool(HugeSize::Size2M, pages);
}

/// A pool of so many pages, and of one more, which somebody has reserved who never comes: whoever takes what is not its own
/// takes that.
fn pool_and_one(bench: &mut Bench<'_>, pages: u64) {
    pool_of(bench, pages + 1);
    let (file, bystander) = (bench.file(), bench.empty());
    assert!(reserve(bench.task(), &bystander, &file, 1, true), "there is one more");
}

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

/// A file of a mount with a page in it, a process that maps it, and one that maps another file of the mount.
fn on_a_mount(bench: &mut Bench<'_>, max: Option<u64>, min: Option<u64>) -> (File, Process, Process) {
    let mount = bench.mount(max, min);
    let (file, second) = (bench.file_on(&mount), bench.file_on(&mount));
    let (one, other) = (bench.process(&file, &[0]), bench.process(&second, &[]));
    (file, one, other)
}

fn mount_takes_back(bench: &mut Bench<'_>) {
    let (file, _one, other) = on_a_mount(bench, Some(2), Some(1));
    let outside = bench.file();
    let stranger = bench.process(&outside, &[]);
    pool_of(bench, 2);
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
    bench.cpu("fault", move |task| _ = may_get(task, &other, 0));
    bench.cpu("fault elsewhere", move |task| _ = may_get(task, &stranger, 0));
}

fn mount_has_its_minimum(bench: &mut Bench<'_>) {
    pool_and_one(bench, 2);
    let mount = bench.mount(None, Some(1));
    let file = bench.file_on(&mount);
    let process = bench.process(&file, &[]);
    let outside = bench.file();
    let stranger = bench.process(&outside, &[]);
    bench.cpu("fault", move |task| must_get(task, &process, 0));
    bench.cpu("fault, fault elsewhere", move |task| {
        may_get(task, &stranger, 0);
        may_get(task, &stranger, 1);
    });
}

fn mount_has_a_maximum(bench: &mut Bench<'_>) {
    let (_file, one, other) = on_a_mount(bench, Some(2), None);
    bench.cpu("fault", move |task| _ = may_get(task, &one, 1));
    bench.cpu("fault in another file", move |task| _ = may_get(task, &other, 0));
}

fn mount_reserves(bench: &mut Bench<'_>) {
    let mount = bench.mount(Some(2), Some(1));
    pool_of(bench, 2);
    let (file, second) = (bench.file_on(&mount), bench.file_on(&mount));
    let (one, other) = (bench.empty(), bench.empty());
    bench.cpu("mmap, truncate", move |task| {
        reserve(task, &one, &file, 2, true);
        file.truncate(task, 0).expect("aligned");
    });
    bench.cpu("mmap, fault", move |task| {
        if reserve(task, &other, &second, 1, true) {
            must_get(task, &other, 0);
        }
    });
}

fn mount_has_private_pages(bench: &mut Bench<'_>) {
    let mount = bench.mount(Some(1), None);
    let (file, second) = (bench.file_on(&mount), bench.file_on(&mount));
    let owner = bench.private(&file, 1);
    let other = bench.process(&second, &[]);
    bench.cpu("munmap", move |task| owner.munmap(task, BASE, PMD_SIZE).expect("aligned"));
    bench.cpu("fault in another file", move |task| _ = may_get(task, &other, 0));
}

fn mount_without_memory(bench: &mut Bench<'_>) {
    let (file, _one, other) = on_a_mount(bench, Some(2), Some(1));
    pool_of(bench, 2);
    bench.cpu("fallocate", move |task| {
        // It may have no memory to note what is left.
        let _ = Lab::with_failing_heap(|| file.punch_hole(task, 0, PMD_SIZE));
    });
    bench.cpu("fault", move |task| _ = Lab::with_failing_heap(|| may_get(task, &other, 0)));
    bench.cpu("no memory", move |_| {
        Lab::set_memory(false);
        Lab::set_memory(true);
    });
}

fn reserved_fault(bench: &mut Bench<'_>) {
    pool_and_one(bench, 1);
    let (file, outside) = (bench.file(), bench.file());
    let owner = bench.empty();
    reserve(bench.task(), &owner, &file, 1, true);
    let stranger = bench.process(&outside, &[]);
    bench.cpu("fault", move |task| must_get(task, &owner, 0));
    bench.cpu("fault elsewhere", move |task| _ = may_get(task, &stranger, 0));
}

fn drop_and_come_back(bench: &mut Bench<'_>) {
    let (file, outside) = (bench.file(), bench.file());
    let owner = bench.private(&file, 1);
    let stranger = bench.process(&outside, &[]);
    pool_and_one(bench, 1);
    bench.cpu("madvise, fault", move |task| {
        owner.madvise(task, BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
        must_get(task, &owner, 0);
    });
    bench.cpu("fault elsewhere", move |task| _ = may_get(task, &stranger, 0));
}

fn drop_a_batch(bench: &mut Bench<'_>) {
    pool_and_one(bench, 9);
    let (file, outside) = (bench.file(), bench.file());
    let owner = bench.private(&file, 9);
    for index in 1..9 {
        owner.fault(bench.task(), page(index), Access::Write).expect("a page");
    }
    let stranger = bench.process(&outside, &[]);
    bench.cpu("madvise", move |task| {
        Lab::set_memory(false);
        Lab::with_failing_heap(|| owner.madvise(task, BASE, 9 * PMD_SIZE, Advice::DontNeed)).expect("mapped");
        Lab::set_memory(true);
    });
    bench.cpu("fault elsewhere", move |task| _ = may_get(task, &stranger, 0));
}

fn unmap_reserved(bench: &mut Bench<'_>) {
    let (file, outside) = (bench.file(), bench.file());
    let owner = bench.private(&file, 3);
    // It shares page 0, whose reservation does not come back with the mapping.
    bench.fork(&owner);
    let stranger = bench.empty();
    pool_and_one(bench, 3);
    let same = owner.clone();
    bench.cpu("munmap", move |task| owner.munmap(task, BASE, 2 * PMD_SIZE).expect("aligned"));
    bench.cpu("fault", move |task| must_get(task, &same, 2));
    bench.cpu("mmap elsewhere", move |task| _ = reserve(task, &stranger, &outside, 1, false));
}

fn unreserve(bench: &mut Bench<'_>) {
    pool_and_one(bench, 2);
    let file = bench.file();
    let owner = bench.empty();
    reserve(bench.task(), &owner, &file, 2, true);
    bench.cpu("fault", move |task| _ = may_get(task, &owner, 0));
    bench.cpu("unreserve", move |task| file.unreserve(task, 0, 2 * PMD_SIZE).expect("memory"));
}

fn punch_reserved(bench: &mut Bench<'_>) {
    pool_and_one(bench, 1);
    let file = bench.file();
    let owner = bench.empty();
    reserve(bench.task(), &owner, &file, 1, true);
    owner.fault(bench.task(), BASE, Access::Write).expect("reserved");
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
    bench.cpu("fault", move |task| _ = may_get(task, &owner, 0));
}

fn truncate_and_fault(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    pool_and_one(bench, 1);
    bench.cpu("fault", move |task| _ = may_get(task, &process, 0));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn truncate_and_reserved_fault(bench: &mut Bench<'_>) {
    pool_of(bench, 2);
    let (file, outside) = (bench.file(), bench.file());
    let (owner, other) = (bench.empty(), bench.empty());
    reserve(bench.task(), &owner, &file, 1, true);
    reserve(bench.task(), &other, &outside, 1, true);
    let elsewhere = bench.file();
    let stranger = bench.process(&elsewhere, &[]);
    bench.cpu("fault", move |task| _ = may_get(task, &owner, 0));
    bench.cpu("truncate, fault elsewhere", move |task| {
        file.truncate(task, 0).expect("aligned");
        may_get(task, &stranger, 0);
        // What it has reserved is still there.
        must_get(task, &other, 0);
    });
}

fn truncate_and_bring(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    handler.register(bench.task(), BASE, PUD_SIZE, Modes::MISSING).expect("mapped");
    pool_and_one(bench, 1);
    bench.cpu("handler", move |task| {
        // The file may be too short.
        let _ = handler.copy(task, page(0), &super::handlers::PAGE, CopyMode::empty());
    });
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn resize(bench: &mut Bench<'_>) {
    pool_of(bench, 2);
    let file = bench.file();
    let owner = bench.empty();
    bench.cpu("mmap, fault", move |task| {
        if reserve(task, &owner, &file, 1, true) {
            must_get(task, &owner, 0);
        }
    });
    bench.cpu("nr_hugepages", move |task| {
        let hugetlb = task.hugetlb().clone();
        hugetlb.resize_pool(HugeSize::Size2M, 0);
        hugetlb.resize_pool(HugeSize::Size2M, 1);
    });
}

fn move_reserved(bench: &mut Bench<'_>) {
    pool_and_one(bench, 3);
    let (file, outside) = (bench.file(), bench.file());
    let owner = bench.empty();
    reserve(bench.task(), &owner, &file, 2, true);
    owner.fault(bench.task(), BASE, Access::Write).expect("reserved");
    let frame = bench.frame(&owner, 0);
    let stranger = bench.process(&outside, &[]);
    bench.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // There may be no page to move it to.
        let _ = hugetlb.migrate(task, frame);
    });
    bench.cpu("fault", move |task| must_get(task, &owner, 1));
    bench.cpu("store elsewhere", move |task| store(task, &stranger, 0));
}
