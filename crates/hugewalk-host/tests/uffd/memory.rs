//! Memory that runs out, at every single allocation of every operation: an error, nothing lost, and the second try works.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use hugewalk::arch::X86_64;
use hugewalk::fault::FaultError;
use hugewalk::mm::{Advice, MapError, MapFlags, RemapTo};
use hugewalk::pagewalk::PageMap;
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Message, Modes, ProtectMode, Userfault, UserfaultError,
};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Cpu, Host, HostConfig};

use crate::setup::{BASE, GIB, KINDS, MIB2, Space, World, at, file_of, load, map_at, page_of, store};

thread_local! {
    /// Allocations of this thread that will be granted before one is refused.
    static GRANTED: Cell<Option<u64>> = const { Cell::new(None) };
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static HEAP: Heap = Heap;

struct Heap;

impl Heap {
    fn grants() -> bool {
        match GRANTED.get() {
            None => true,
            Some(0) => {
                GRANTED.set(None);
                REFUSED.set(true);
                false
            }
            Some(more) => {
                GRANTED.set(Some(more - 1));
                true
            }
        }
    }
}

// SAFETY: the system's, but for the allocations that are refused, as any may be.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::grants() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !Self::grants() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) };
    }
}

/// Carries `work` out in one world after the other, with each of its allocations refused in turn, until none is. Where one
/// was, `work` is told to be done again. It returns whether it said that memory was missing.
fn each_allocation_refused(make: impl Fn() -> World, mut work: impl FnMut(&mut World) -> bool) {
    let mut refusals = 0;
    loop {
        let mut world = make();
        REFUSED.set(false);
        GRANTED.set(Some(refusals));
        let missing = work(&mut world);
        GRANTED.set(None);
        let refused = REFUSED.get();
        assert!(refused || !missing, "it said that memory was missing, and none was");
        if missing {
            assert!(!work(&mut world), "there was memory for the second try");
        }
        world.end();
        if !refused {
            assert!(refusals > 0, "it needs no memory");
            return;
        }
        refusals += 1;
    }
}

fn is_missing<T>(result: &Result<T, UserfaultError>) -> bool {
    match result {
        Ok(_) => false,
        Err(UserfaultError::OutOfMemory(_)) => true,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn registering_and_unregistering_a_part_say_so_and_can_be_done_again() {
    for kind in KINDS {
        let two_gigabytes =
            || World::with_contents(Contents::Nothing, 1024, kind | MapFlags::NORESERVE, Features::empty());
        let (inside, length) = (at(100, 0), 800 * MIB2);
        let modes = Modes::WP | Modes::MINOR;
        each_allocation_refused(two_gigabytes, |world| {
            is_missing(&world.uffd.register(&mut world.task, inside, length, modes))
        });
        let registered = || {
            let mut world = two_gigabytes();
            world.register(modes);
            world
        };
        each_allocation_refused(registered, |world| {
            is_missing(&world.uffd.unregister(&mut world.task, inside, length))
        });
    }
}

/// Protecting takes no memory but tables.
#[test]
fn without_tables_for_all_markers_nothing_is_protected() {
    for (tables, enough) in [(2, false), (3, false), (4, true)] {
        let config = HostConfig::new().huge_bytes(GIB).max_tables(tables).contents(Contents::Nothing);
        let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
        hugetlb.resize_pool(X86_64::SIZE_2M, 8);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let (file, space) = (file_of(&mut task, 1024), AddressSpace::new(&hugetlb).unwrap());
        map_at(&space, &mut task, &file, BASE, MapFlags::SHARED | MapFlags::NORESERVE);
        let uffd = Userfault::new(&space, Features::empty()).unwrap();
        uffd.register(&mut task, BASE, 2 * GIB, Modes::WP).unwrap();
        let protected = uffd.write_protect(&mut task, at(1, 0), 1023 * MIB2, ProtectMode::WP);
        assert_eq!(!is_missing(&protected), enough);
        if tables > 2 {
            let mut cpu = Cpu::new(&space).unwrap();
            load(&mut cpu, &mut task, 1).unwrap();
            // A store would be the handler's, and find nobody.
            let map = space.pagemap(&mut task, at(1, 0)..at(2, 0)).unwrap();
            assert_eq!(map[0].1.contains(PageMap::UFFD_WP), enough);
        }
        space.exit(&mut task).unwrap();
    }
}

#[test]
fn filling_says_so_and_restores_reservations() {
    let bytes = page_of(1);
    for kind in KINDS {
        let missing = || World::registered(2, kind, Modes::MISSING);
        each_allocation_refused(missing, |world| {
            let filled = world.uffd.copy(&mut world.task, at(1, 0), &bytes, CopyMode::empty());
            let failed = is_missing(&filled.map_err(|stopped| stopped.error));
            let reserved = world.hugetlb.pool(X86_64::SIZE_2M).counters().reserved;
            assert_eq!(reserved, if failed { 2 } else { 1 });
            failed
        });
    }
    // From a source that has to be faulted in first.
    for kind in KINDS {
        let missing = || World::registered(2, kind, Modes::MISSING);
        each_allocation_refused(missing, |world| {
            let mut source = crate::copies::Absent(|_: &mut Task<Host>, _| Ok(()));
            let filled =
                world.uffd.copy_from(&mut world.task, at(1, 0), MIB2, &mut source, CopyMode::empty());
            let failed = is_missing(&filled.map_err(|stopped| stopped.error));
            let counters = world.hugetlb.pool(X86_64::SIZE_2M).counters();
            let used = if failed { 0 } else { 1 };
            assert_eq!((counters.reserved, counters.free), (2 - used, counters.total - used));
            failed
        });
    }
    let in_file = || {
        let mut world = World::registered(2, MapFlags::SHARED, Modes::MINOR);
        world.file.write_at(&mut world.task, 0, b"x").unwrap();
        // A table is no memory of the heap, but its number is.
        world
    };
    let mut needed = false;
    let mut world = in_file();
    GRANTED.set(Some(0));
    let mode = ContinueMode::empty();
    if world.uffd.continue_range(&mut world.task, BASE, MIB2, mode).is_err() {
        needed = true;
    }
    GRANTED.set(None);
    assert_eq!(needed, world.uffd.continue_range(&mut world.task, BASE, MIB2, mode).is_ok());
    world.end();
}

/// Runs an operation of the process with the allocations of its thread refused in turn, while the handler here reads what
/// it is told, and resolves what it is asked.
fn told(
    features: Features,
    kind: MapFlags,
    operation: impl Fn(&Space, &mut Task<Host>, &mut dyn FnMut()) -> bool + Sync,
) {
    let bytes = page_of(1);
    let mut refusals = 0;
    loop {
        let mut world = World::new(4, kind, features);
        world.register(Modes::MISSING);
        let space = world.space.clone();
        let (operation, work) = (&operation, space.clone());
        let (refused, ()) = world.beside(
            move |_, task| {
                REFUSED.set(false);
                let missing = operation(&work, task, &mut || GRANTED.set(Some(refusals)));
                GRANTED.set(None);
                let refused = REFUSED.get();
                assert!(refused || !missing);
                if missing {
                    assert!(!operation(&work, task, &mut || ()));
                }
                work.exit(task).unwrap();
                refused
            },
            |task, uffd| {
                while let Ok(message) = uffd.read_event(task) {
                    if let Message::Pagefault(fault) = message {
                        // After the end of the process it is too late.
                        let _ = uffd.copy(task, fault.address, &bytes, CopyMode::empty());
                    }
                }
            },
        );
        drop(space);
        world.end();
        if !refused {
            assert!(refusals > 0, "it needs no memory");
            return;
        }
        refusals += 1;
    }
}

fn map_error<T>(result: Result<T, MapError>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(MapError::OutOfMemory(_)) => None,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn operations_that_tell_the_handler_say_so_before_they_begin() {
    for kind in KINDS {
        told(Features::EVENT_UNMAP, kind, |space, task, refuse| {
            refuse();
            map_error(space.munmap(task, at(1, 0), MIB2)).is_none()
        });
        told(Features::EVENT_REMOVE, kind, |space, task, refuse| {
            refuse();
            map_error(space.madvise(task, BASE, MIB2, Advice::DontNeed)).is_none()
        });
        told(Features::EVENT_REMAP | Features::EVENT_UNMAP, kind, |space, task, refuse| {
            refuse();
            map_error(space.mremap(task, at(1, 0), MIB2, MIB2, RemapTo::Fixed(at(50, 0)))).is_none()
        });
        told(Features::EVENT_FORK, kind, |space, task, refuse| {
            refuse();
            let child = map_error(space.fork(task));
            GRANTED.set(None);
            child.map(|child| child.exit(task).unwrap()).is_none()
        });
    }
}

#[test]
fn a_fault_that_cannot_wait_says_so() {
    told(Features::empty(), MapFlags::SHARED, |space, task, refuse| {
        let mut cpu = Cpu::new(space).unwrap();
        refuse();
        match load(&mut cpu, task, 2) {
            Ok(1) => false,
            Err(FaultError::OutOfMemory(_)) => true,
            other => panic!("{other:?}"),
        }
    });
}

/// Where a handler was dropped and there is no memory to unregister what it had, faults take no notice of it.
#[test]
fn faults_go_on_without_memory_to_unregister() {
    for refusals in 0..40 {
        let mut world = World::new(2, MapFlags::empty(), Features::empty());
        let doomed = Userfault::new(&world.space, Features::empty()).unwrap();
        doomed.register(&mut world.task, BASE, 2 * MIB2, Modes::MISSING | Modes::WP).unwrap();
        doomed.copy(&mut world.task, BASE, &page_of(1), CopyMode::WP).unwrap();
        drop(doomed);
        let mut cpu = world.cpu();
        GRANTED.set(Some(refusals));
        let stored = [store(&mut cpu, &mut world.task, 0, 2), store(&mut cpu, &mut world.task, 1, 2)];
        GRANTED.set(None);
        for (page, stored) in stored.into_iter().enumerate() {
            assert!(matches!(stored, Ok(()) | Err(FaultError::OutOfMemory(_))), "{stored:?}");
            store(&mut cpu, &mut world.task, page as u64, 3).unwrap();
        }
        drop(cpu);
        world.end();
    }
}
