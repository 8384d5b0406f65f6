//! However many mappings, pages, reservations and claims there are, no large piece of memory is asked for.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{AddressSpace, File, GIB, M2, RW, SMALL, at, inject, map, system};
use hugewalk::fault::Access;
use hugewalk::mm::{MapFlags, Placement};
use hugewalk::vma::Protection;

/// The pages of 512 offsets of a file are the largest.
const MOST: usize = 512 * 16;
const MANY: u64 = 3000;
const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);

thread_local! {
    static IS_ENGINE: Cell<bool> = const { Cell::new(false) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Heap;

// SAFETY: the system's.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_ENGINE.get() && !inject::is_exempt() {
            LARGEST.set(LARGEST.get().max(layout.size()));
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[global_allocator]
static HEAP: Heap = Heap;

/// The largest piece of memory that the engine asks for.
fn largest(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    IS_ENGINE.set(true);
    work();
    IS_ENGINE.set(false);
    LARGEST.get()
}

#[test]
fn many_of_anything_are_in_many_small_pieces() {
    let (hugetlb, mut task) = system(MANY);
    let file = File::new(&hugetlb, SMALL, None).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    let task = &mut task;
    let start = 64 * GIB;
    let mappings = largest(|| {
        for number in 0..MANY {
            map(&space, task, &file, number % 512 * M2, start + number * M2, M2, SHARED).unwrap();
        }
        space.mprotect(task, at(start), MANY * M2, Protection::READ).unwrap();
        space.mprotect(task, at(start), MANY * M2, RW).unwrap();
        let child = space.fork(task).unwrap();
        child.exit(task).unwrap();
        space.munmap(task, at(start), MANY * M2).unwrap();
    });
    assert!((40..=MOST).contains(&mappings), "{mappings} bytes for mappings");
    let reservations = largest(|| {
        for number in 0..MANY {
            file.reserve(task, 2 * number * M2, M2).unwrap();
        }
        file.unreserve(task, 0, 2 * MANY * M2).unwrap();
    });
    assert!((40..=MOST).contains(&reservations), "{reservations} bytes for reservations");
    let claims = largest(|| {
        for number in 0..MANY {
            space.claim(task, Placement::Fixed(at(start + number * 2 * M2)), M2).unwrap();
        }
        space.fork(task).unwrap().exit(task).unwrap();
    });
    assert!((40..=MOST).contains(&claims), "{claims} bytes for claims");
    let other = AddressSpace::new(&hugetlb).unwrap();
    let pages = largest(|| {
        for number in 0..MANY {
            // One page in each run of 512.
            map(&other, task, &file, number * GIB, start, M2, SHARED).unwrap();
            other.fault(task, at(start), Access::Write).unwrap();
        }
    });
    assert_eq!(file.pages(), MANY);
    assert!((40..=MOST).contains(&pages), "{pages} bytes for pages");
}
