//! What may be called while a guard is held, as the documentation of `mm` says. The locks of `Bench` panic where a thread
//! would wait for itself, or might: in read twice.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{AddressSpace, Bench, File, GIB, SMALL, Task, at, map, system};
use hugewalk::fault::Access;
use hugewalk::gather::Gather;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::share::{Unsharing, huge_pmd_unshare};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

const START: hugewalk::addr::VirtAddr = at(4 * GIB);

/// An address space that shares the table of a file with another one.
fn setting() -> (Task, Arc<File>, [Arc<AddressSpace>; 2]) {
    let (hugetlb, mut task) = system(4);
    let file = File::new(&hugetlb, SMALL, None).unwrap();
    let spaces = [(); 2].map(|()| {
        let space = AddressSpace::new(&hugetlb).unwrap();
        map(&space, &mut task, &file, 0, START.as_u64(), GIB, MapFlags::SHARED | MapFlags::NORESERVE)
            .unwrap();
        space.fault(&mut task, START, Access::Write).unwrap();
        space
    });
    (task, file, spaces)
}

/// What takes `&Task`, and the two that wait for readers: allowed under every guard.
fn always(space: &AddressSpace, task: &mut Task) {
    {
        let section = task.rcu_read_lock();
        let slot = huge_pte_offset(&section, space.mm(), START, SMALL).unwrap().unwrap();
        assert!(slot.read().is_ok() && slot.lock().is_ok());
    }
    assert!(space.pin_page_fast(task, START, GupFlags::PIN).is_some());
    let _ = space.pin_pages_nowait(task, START, 1, GupFlags::PIN);
    let _ = space.mmap_try_read(task);
    task.synchronize();
    task.rcu_barrier();
}

#[test]
fn what_the_documentation_allows_under_a_guard_waits_for_nothing() {
    let (mut task, file, [space, _other]) = setting();
    {
        let mmap = space.mmap_read(&mut task);
        always(&space, &mut task);
        drop(file.i_mmap_read(&mut task));
        drop(file.i_mmap_write(&mut task));
        let vma = mmap.find(START).unwrap();
        {
            let _locked = mmap.lock_vma(vma, &mut task).unwrap();
            always(&space, &mut task);
            let i_mmap = file.i_mmap_read(&mut task);
            always(&space, &mut task);
            drop(i_mmap);
            drop(file.i_mmap_write(&mut task));
        }
        let mut locked = mmap.lock_vma_write(vma, &mut task).unwrap();
        always(&space, &mut task);
        let mut i_mmap = file.i_mmap_write(&mut task);
        always(&space, &mut task);
        let unsharing = Gather::<Bench>::scope(space.mm(), &mut i_mmap, |gather| {
            huge_pmd_unshare(&mut locked, START, gather, &task)
        });
        assert_eq!(unsharing, Ok(Unsharing::Unshared));
    }
    assert!(space.mmap_try_read(&task).is_some());
}

/// What it comes to does not matter: it must not come that far.
fn ignore<T>(_: T) {}

type Call = fn(&AddressSpace, &File, &mut Task);

/// Under the mmap lock, a VMA lock or `i_mmap`.
const FORBIDDEN: [(&str, Call); 9] = [
    ("munmap", |space, _, task| ignore(space.munmap(task, START, GIB))),
    ("mprotect", |space, _, task| ignore(space.mprotect(task, START, GIB, Protection::READ))),
    ("mremap", |space, _, task| ignore(space.mremap(task, START, GIB, GIB, RemapTo::Fixed(at(8 * GIB))))),
    ("madvise", |space, _, task| ignore(space.madvise(task, START, GIB, Advice::DontNeed))),
    ("fork", |space, _, task| ignore(space.fork(task))),
    ("exit", |space, _, task| space.exit(task).unwrap()),
    ("fault", |space, _, task| ignore(space.fault(task, START, Access::Write))),
    ("tables", |space, _, task| ignore(space.tables(task))),
    ("mmap_read", |space, _, task| ignore(space.mmap_read(task))),
];

#[test]
fn every_other_call_under_the_mmap_lock_waits_for_its_own_task() {
    for (name, call) in FORBIDDEN {
        let (mut task, file, [space, _other]) = setting();
        let mmap = space.mmap_read(&mut task);
        let called = catch_unwind(AssertUnwindSafe(|| call(&space, &file, &mut task)));
        assert!(called.is_err(), "{name} goes through");
        drop(mmap);
        // It was refused before it did anything.
        assert_eq!(space.tables(&mut task).unwrap()[0].users, 2, "{name}");
    }
}

#[test]
fn what_unshares_waits_for_the_locks_that_keep_a_table() {
    let calls: [(&str, Call); 2] = [
        ("punch_hole", |_, file, task| ignore(file.punch_hole(task, 0, 2 << 20))),
        ("truncate", |_, file, task| ignore(file.truncate(task, 0))),
    ];
    for (name, call) in calls {
        let (mut task, file, [space, _other]) = setting();
        let mmap = space.mmap_read(&mut task);
        let locked = mmap.lock_vma(mmap.find(START).unwrap(), &mut task);
        assert!(catch_unwind(AssertUnwindSafe(|| call(&space, &file, &mut task))).is_err(), "{name}");
        drop(locked);
        drop(mmap);
        let i_mmap = file.i_mmap_read(&mut task);
        assert!(catch_unwind(AssertUnwindSafe(|| call(&space, &file, &mut task))).is_err(), "{name}");
        drop(i_mmap);
    }
}
