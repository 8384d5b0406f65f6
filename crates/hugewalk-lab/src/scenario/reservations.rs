//! Reservations with several takers: those of pools, of files and of private mappings.

use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::uffd::{CopyMode, Features, Modes, Userfault};
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, page};
use super::expected::{NONE, Row};
use super::stores::{row, store};
use crate::explore::violation;
use crate::lab::{Lab, Property};

/// What rows with reservations are judged by.
pub(super) const RESERVED: &[Property] =
    &[Property::I1, Property::I6, Property::I11, Property::I12, Property::I14, Property::I15];

pub(super) const ROWS: &[Row] = &[
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
        "S44/reserve",
        "a mapping reserves a page, which a fault of somebody else brings into the file meanwhile",
        reserve_and_fault,
        by RESERVED
    ),
    row!(
        "S44/mmap",
        "a mapping is made while its file is truncated, and reserves the last page, which somebody without a reservation wants",
        map_and_truncate,
        by RESERVED
    ),
    row!(
        "S44/surplus",
        "a mapping asks the host for a page that the pool has not; another reserves the last that it has",
        reserve_surplus,
        by RESERVED
    ),
    row!(
        "S44/no-memory",
        "two faults use reservations of one private mapping, and there is memory to note one of them",
        fault_without_memory,
        by RESERVED
    ),
    row!(
        "S44/punch-apart",
        "a hole is punched where two pages lie apart, and there is memory to note one of them; somebody without a reservation wants a page",
        punch_without_memory,
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
pub(super) fn must_get(task: &mut LabTask, process: &Process, index: u64) {
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
pub(super) fn reserve(task: &mut LabTask, space: &Process, file: &File, pages: u64, shared: bool) -> bool {
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: pages * PMD_SIZE,
        protection: Protection::READ | Protection::WRITE,
        flags: if shared { MapFlags::SHARED } else { MapFlags::empty() },
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request).is_ok()
}

pub(super) fn pool_of(bench: &Bench<'_>, pages: u64) {
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, pages);
}

/// A pool of so many pages, and of one more, which somebody has reserved who never comes: whoever takes what is not its own
/// takes that.
pub(super) fn pool_and_one(bench: &mut Bench<'_>, pages: u64) {
    pool_of(bench, pages + 1);
    let (file, bystander) = (bench.file(), bench.empty());
    assert!(reserve(bench.task(), &bystander, &file, 1, true), "there is one more");
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

fn reserve_and_fault(bench: &mut Bench<'_>) {
    pool_and_one(bench, 2);
    let file = bench.file();
    let (owner, other) = (bench.empty(), bench.process(&file, &[]));
    bench.cpu("mmap, fault", move |task| {
        if reserve(task, &owner, &file, 1, true) {
            must_get(task, &owner, 0);
        }
    });
    bench.cpu("fault", move |task| _ = may_get(task, &other, 0));
}

fn map_and_truncate(bench: &mut Bench<'_>) {
    pool_and_one(bench, 1);
    let (file, outside) = (bench.file(), bench.file());
    let owner = bench.empty();
    let stranger = bench.process(&outside, &[]);
    let same = file.clone();
    bench.cpu("mmap, fault", move |task| {
        // Where the file has the place, the mapping has made it that long, and reserved the page with it.
        if reserve(task, &owner, &same, 1, true) && !may_get(task, &owner, 0) && same.size() > 0 {
            violation("I15: a fault with a reservation gets no page".to_owned(), Property::I15);
        }
    });
    bench.cpu("truncate, fault elsewhere", move |task| {
        file.truncate(task, 0).expect("aligned");
        may_get(task, &stranger, 0);
    });
}

fn reserve_surplus(bench: &mut Bench<'_>) {
    pool_of(bench, 1);
    bench.hugetlb().pool(X86_64::SIZE_2M).set_overcommit(1);
    let (file, second) = (bench.file(), bench.file());
    let (one, other) = (bench.empty(), bench.empty());
    bench.cpu("mmap of two, fault", move |task| {
        if reserve(task, &one, &file, 2, true) {
            must_get(task, &one, 0);
        }
    });
    bench.cpu("mmap of one, fault", move |task| {
        if reserve(task, &other, &second, 1, true) {
            must_get(task, &other, 0);
        }
    });
}

fn fault_without_memory(bench: &mut Bench<'_>) {
    pool_of(bench, 9);
    let file = bench.file();
    let owner = bench.private(&file, 9);
    // The list of used reservations has room for four that lie apart.
    for index in [2, 4] {
        owner.fault(bench.task(), page(index), Access::Write).expect("a page");
    }
    let same = owner.clone();
    bench.cpu("fault", move |task| {
        Lab::set_memory(false);
        Lab::with_failing_heap(|| may_get(task, &owner, 6));
        Lab::set_memory(true);
    });
    bench.cpu("fault", move |task| _ = Lab::with_failing_heap(|| may_get(task, &same, 8)));
}

fn punch_without_memory(bench: &mut Bench<'_>) {
    pool_and_one(bench, 7);
    let (file, outside) = (bench.file(), bench.file());
    let owner = bench.process(&file, &[10, 12]);
    // Two ranges that come and go leave the list of reservations with room for two. The third takes one of them.
    for index in [20, 22] {
        file.reserve(bench.task(), index * PMD_SIZE, PMD_SIZE).expect("pages");
    }
    file.unreserve(bench.task(), 20 * PMD_SIZE, 3 * PMD_SIZE).expect("they go whole");
    reserve(bench.task(), &owner, &file, 5, true);
    for index in [1, 3] {
        owner.fault(bench.task(), page(index), Access::Write).expect("a page");
    }
    let stranger = bench.process(&outside, &[]);
    bench.cpu("fallocate", move |task| {
        Lab::set_memory(false);
        // It stops at the second page.
        let _ = Lab::with_failing_heap(|| file.punch_hole(task, 0, 5 * PMD_SIZE));
        Lab::set_memory(true);
    });
    bench.cpu("fault elsewhere", move |task| _ = may_get(task, &stranger, 0));
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
        hugetlb.resize_pool(X86_64::SIZE_2M, 0);
        hugetlb.resize_pool(X86_64::SIZE_2M, 1);
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
