//! Mounts with limits, and several takers.

use hugewalk::arch::PMD_SIZE;

use super::Scenario;
use super::bench::{BASE, Bench, File, Process};
use super::expected::{EVERY_MISTAKE, NONE, Row};
use super::reservations::{RESERVED, may_get, must_get, pool_and_one, pool_of, reserve};
use super::stores::row;
use crate::explore::violation;
use crate::lab::{Flaw, Lab, Property};

pub(super) const ROWS: &[Row] = &[
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
        "S43/refused",
        "a mapping wants to reserve all that a mount allows, which the pool has not; another the one page that it has",
        mount_is_refused,
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
];

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

fn mount_is_refused(bench: &mut Bench<'_>) {
    let mount = bench.mount(Some(2), None);
    pool_of(bench, 1);
    let (file, second) = (bench.file_on(&mount), bench.file_on(&mount));
    let (one, other) = (bench.empty(), bench.empty());
    bench.cpu("mmap of two", move |task| {
        // Never: there is one page.
        assert!(!reserve(task, &one, &file, 2, true), "there is one page");
    });
    bench.cpu("mmap of one", move |task| {
        if reserve(task, &other, &second, 1, true) {
            must_get(task, &other, 0);
        } else {
            let text = "I15: nobody has the page, nor a reservation, and a reservation is refused";
            violation(text.to_owned(), Property::I15);
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
