//! Write protection: of pages that are there, and of pages that are not (markers).

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, X86_64};
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::uffd::{
    CopyMode, Features, Message, Modes, Operations, PagefaultFlags, ProtectMode, UserfaultError,
};
use hugewalk::vma::{Protection, VmaFlags};
use hugewalk::walk::huge_pte_offset;
use hugewalk_host::Cpu;

use crate::setup::{
    BASE, KINDS, MIB2, READ_WRITE, Space, World, a_while, at, errno, load, map_at, page_of, read_fault, store,
};

const ON: ProtectMode = ProtectMode::WP;
const OFF: ProtectMode = ProtectMode::empty();
const WP_WRITE: PagefaultFlags = PagefaultFlags::WP.union(PagefaultFlags::WRITE);
const ELSEWHERE: VirtAddr = VirtAddr::new(30 << 30);

fn protected(world: &mut World, page: u64) {
    world.uffd.write_protect(&mut world.task, at(page, 0), MIB2, ON).unwrap();
}

/// What lies at an address, read without a lock.
fn entry(world: &World, space: &Space, address: VirtAddr) -> Entry {
    let section = world.task.rcu_read_lock();
    let slot = huge_pte_offset(&section, space.mm(), address, X86_64::SIZE_2M).unwrap();
    slot.map_or(Entry::None, |slot| slot.read().unwrap())
}

fn is_protected(entry: Entry) -> bool {
    matches!(entry, Entry::Leaf(leaf) if leaf.flags.contains(hugewalk::arch::LeafFlags::UFFD_WP) && !leaf.is_writable())
}

#[test]
fn a_store_to_a_protected_page_waits_until_the_handler_takes_the_protection_back() {
    for kind in KINDS {
        let mut world = World::registered(3, kind, Modes::WP);
        let mut cpu = world.cpu();
        for page in 0..3 {
            store(&mut cpu, &mut world.task, page, 1).unwrap();
        }
        world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, ON).unwrap();
        // Loads go on, and so do stores to what is not protected.
        assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(1));
        store(&mut cpu, &mut world.task, 2, 2).unwrap();
        assert!(!world.uffd.poll());
        let (stored, fault) = world.beside(
            |cpu, task| store(cpu, task, 1, 3),
            |task, uffd| {
                let fault = read_fault(uffd, task);
                a_while();
                // Nobody has written meanwhile.
                assert_eq!(load(&mut cpu, task, 1), Ok(1));
                uffd.write_protect(task, fault.address, MIB2, OFF).unwrap();
                fault
            },
        );
        assert_eq!((stored, fault.address, fault.flags), (Ok(()), at(1, 0), WP_WRITE));
        assert_eq!(load(&mut cpu, &mut world.task, 1), Ok(3));
        assert!(is_protected(entry(&world, &world.space, BASE)));
        drop(cpu);
        world.end();
    }
}

#[test]
fn a_protected_page_that_is_not_there_is_mapped_protected() {
    for kind in KINDS {
        let mut world = World::registered(3, kind, Modes::WP);
        protected(&mut world, 1);
        assert_eq!(entry(&world, &world.space, at(1, 0)), Entry::Marker);
        let mut cpu = world.cpu();
        assert_eq!(load(&mut cpu, &mut world.task, 1), Ok(0));
        assert!(is_protected(entry(&world, &world.space, at(1, 0))));
        // Also when the first access is a store, and when the file has the page.
        protected(&mut world, 2);
        world.file.write_at(&mut world.task, 2 * MIB2, &[4; 10]).unwrap();
        let (seen, ()) = world.beside(
            |cpu, task| {
                store(cpu, task, 2, 6).unwrap();
                load(cpu, task, 2)
            },
            |task, uffd| {
                assert_eq!(read_fault(uffd, task).flags, WP_WRITE);
                assert_eq!(load(&mut cpu, task, 2), Ok(4));
                uffd.write_protect(task, at(2, 0), MIB2, OFF).unwrap();
            },
        );
        assert_eq!(seen, Ok(6));
        drop(cpu);
        world.end();
    }
}

/// As Linux 6.18 counts: a mapping that is registered for protections gets the right to write from faults alone.
#[test]
fn unprotecting_and_mprotect_leave_the_right_to_write_to_the_next_store() {
    for kind in KINDS {
        let mut world = World::registered(2, kind, Modes::WP);
        let mut cpu = world.cpu();
        for page in 0..2 {
            store(&mut cpu, &mut world.task, page, 1).unwrap();
        }
        let faults = |cpu: &mut Cpu, world: &mut World, page| {
            let before = cpu.stats().faults;
            store(cpu, &mut world.task, page, 2).unwrap();
            cpu.stats().faults - before
        };
        protected(&mut world, 0);
        // The second page was never protected, and loses the right all the same.
        world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, OFF).unwrap();
        assert_eq!([0, 1, 1].map(|page| faults(&mut cpu, &mut world, page)), [1, 1, 0]);
        for rights in [Protection::READ, READ_WRITE] {
            world.space.mprotect(&mut world.task, BASE, 2 * MIB2, rights).unwrap();
        }
        assert_eq!([1, 1].map(|page| faults(&mut cpu, &mut world, page)), [1, 0]);
        drop(cpu);
        world.end();
    }
}

#[test]
fn a_marker_goes_when_the_protection_is_taken_back() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::WP);
    protected(&mut world, 0);
    world.uffd.write_protect(&mut world.task, BASE, MIB2, OFF).unwrap();
    assert_eq!(entry(&world, &world.space, BASE), Entry::None);
    let mut cpu = world.cpu();
    store(&mut cpu, &mut world.task, 0, 1).unwrap();
    drop(cpu);
    world.end();
}

#[test]
fn a_missing_page_with_a_marker_is_the_handlers_and_what_it_brings_is_protected_if_it_says_so() {
    for kind in KINDS {
        let mut world = World::registered(2, kind, Modes::MISSING | Modes::WP);
        world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, ON).unwrap();
        world.beside(
            |cpu, task| {
                store(cpu, task, 0, 1).unwrap();
                store(cpu, task, 1, 1).unwrap();
            },
            |task, uffd| {
                let missing = read_fault(uffd, task);
                assert_eq!((missing.address, missing.flags), (BASE, PagefaultFlags::WRITE));
                uffd.copy(task, BASE, &page_of(9), CopyMode::empty()).unwrap();
                // The first store has gone through; the second page is brought protected.
                let missing = read_fault(uffd, task);
                assert_eq!((missing.address, missing.flags), (at(1, 0), PagefaultFlags::WRITE));
                uffd.copy(task, at(1, 0), &page_of(9), CopyMode::WP).unwrap();
                let store = read_fault(uffd, task);
                assert_eq!((store.address, store.flags), (at(1, 0), WP_WRITE));
                uffd.write_protect(task, at(1, 0), MIB2, OFF).unwrap();
            },
        );
        world.end();
    }
}

#[test]
fn protections_survive_mprotect() {
    for kind in KINDS {
        let mut world = World::registered(2, kind, Modes::WP);
        let mut cpu = world.cpu();
        store(&mut cpu, &mut world.task, 0, 1).unwrap();
        world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, ON).unwrap();
        for rights in [Protection::READ, Protection::empty(), READ_WRITE] {
            world.space.mprotect(&mut world.task, BASE, 2 * MIB2, rights).unwrap();
        }
        assert!(is_protected(entry(&world, &world.space, BASE)));
        assert_eq!(entry(&world, &world.space, at(1, 0)), Entry::Marker);
        // Without the right to write it is no fault of the handler.
        world.space.mprotect(&mut world.task, BASE, 2 * MIB2, Protection::READ).unwrap();
        let error = store(&mut cpu, &mut world.task, 0, 2).unwrap_err();
        assert!(matches!(error, FaultError::Protection { .. }));
        drop(cpu);
        world.end();
    }
}

#[test]
fn protections_move_along_only_if_the_handler_is_told_of_the_move() {
    for kind in KINDS {
        for told in [false, true] {
            let features = if told { Features::EVENT_REMAP } else { Features::empty() };
            let mut world = World::new(2, kind, features);
            world.register(Modes::WP);
            let mut cpu = world.cpu();
            store(&mut cpu, &mut world.task, 0, 1).unwrap();
            world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, ON).unwrap();
            let space = world.space.clone();
            let (moved, ()) = world.beside(
                |_, task| space.mremap(task, BASE, 2 * MIB2, 2 * MIB2, RemapTo::Fixed(ELSEWHERE)),
                |task, uffd| {
                    if told {
                        let event = uffd.read_event(task).unwrap();
                        assert!(matches!(event, Message::Remap { from: BASE, to: ELSEWHERE, length } if length == 2 * MIB2));
                    }
                },
            );
            assert_eq!(moved, Ok(ELSEWHERE));
            let next = ELSEWHERE.checked_add(MIB2).unwrap();
            let (first, second) = (entry(&world, &space, ELSEWHERE), entry(&world, &space, next));
            let flags = space.mmap_read(&mut world.task).find(ELSEWHERE).unwrap().flags();
            assert_eq!(flags.contains(VmaFlags::UFFD_WP), told);
            assert_eq!((is_protected(first), second == Entry::Marker), (told, told));
            if !told {
                cpu.store(&mut world.task, ELSEWHERE, 2).unwrap();
                cpu.store(&mut world.task, next, 2).unwrap();
            }
            drop((cpu, space));
            world.end();
        }
    }
}

#[test]
fn dropping_pages_remembers_their_protection_and_so_does_a_hole_but_not_truncation() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::WP);
        let mut cpu = world.cpu();
        for page in 0..4 {
            store(&mut cpu, &mut world.task, page, 1).unwrap();
        }
        world.uffd.write_protect(&mut world.task, BASE, 4 * MIB2, ON).unwrap();
        world.space.madvise(&mut world.task, BASE, MIB2, Advice::DontNeed).unwrap();
        // Twice: a marker stays too.
        world.space.madvise(&mut world.task, BASE, MIB2, Advice::DontNeed).unwrap();
        assert_eq!(entry(&world, &world.space, BASE), Entry::Marker);
        world.file.punch_hole(&mut world.task, MIB2, MIB2).unwrap();
        world.file.punch_hole(&mut world.task, MIB2, MIB2).unwrap();
        assert_eq!(entry(&world, &world.space, at(1, 0)), Entry::Marker);
        world.file.truncate(&mut world.task, 2 * MIB2).unwrap();
        assert_eq!(entry(&world, &world.space, at(2, 0)), Entry::None);
        let seen = if kind == MapFlags::SHARED { 1 } else { 0 };
        assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(seen));
        assert!(is_protected(entry(&world, &world.space, BASE)));
        drop(cpu);
        world.end();
    }
}

#[test]
fn unregistering_takes_all_protections_back() {
    for kind in KINDS {
        let mut world = World::registered(3, kind, Modes::WP);
        let mut cpu = world.cpu();
        store(&mut cpu, &mut world.task, 0, 1).unwrap();
        store(&mut cpu, &mut world.task, 1, 1).unwrap();
        world.uffd.write_protect(&mut world.task, BASE, 3 * MIB2, ON).unwrap();
        world.uffd.unregister(&mut world.task, at(1, 0), 2 * MIB2).unwrap();
        assert!(is_protected(entry(&world, &world.space, BASE)));
        assert!(!is_protected(entry(&world, &world.space, at(1, 0))));
        assert_eq!(entry(&world, &world.space, at(2, 0)), Entry::None);
        store(&mut cpu, &mut world.task, 1, 2).unwrap();
        store(&mut cpu, &mut world.task, 2, 2).unwrap();
        let result = world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, ON);
        assert_eq!(errno(result), Errno::ENOENT);
        drop(cpu);
        world.end();
    }
}

#[test]
fn a_store_that_waits_goes_on_when_the_range_is_unregistered() {
    let mut world = World::registered(1, MapFlags::empty(), Modes::WP);
    let mut cpu = world.cpu();
    store(&mut cpu, &mut world.task, 0, 1).unwrap();
    protected(&mut world, 0);
    let (stored, ()) = world.beside(
        |cpu, task| store(cpu, task, 0, 2),
        |task, uffd| {
            read_fault(uffd, task);
            uffd.unregister(task, BASE, MIB2).unwrap();
        },
    );
    assert_eq!(stored, Ok(()));
    drop(cpu);
    world.end();
}

#[test]
fn a_protection_is_that_of_one_mapping_and_others_of_the_file_go_on() {
    let mut world = World::registered(1, MapFlags::SHARED, Modes::WP);
    map_at(&world.space, &mut world.task, &world.file, ELSEWHERE, MapFlags::SHARED);
    let mut cpu = world.cpu();
    store(&mut cpu, &mut world.task, 0, 1).unwrap();
    protected(&mut world, 0);
    cpu.store(&mut world.task, ELSEWHERE, 7).unwrap();
    assert_eq!(cpu.load(&mut world.task, BASE), Ok(7));
    assert!(!world.uffd.poll());
    drop(cpu);
    world.end();
}

#[test]
fn a_child_keeps_protections_only_if_the_handler_has_it_too() {
    for kind in KINDS {
        for told in [false, true] {
            let features = if told { Features::EVENT_FORK } else { Features::empty() };
            let mut world = World::new(3, kind, features);
            world.register(Modes::WP);
            let mut cpu = world.cpu();
            store(&mut cpu, &mut world.task, 0, 1).unwrap();
            store(&mut cpu, &mut world.task, 2, 1).unwrap();
            world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, ON).unwrap();
            let space = world.space.clone();
            let (child, handle) = world.beside(
                |_, task| space.fork(task).unwrap(),
                |task, uffd| {
                    told.then(|| match uffd.read_event(task).unwrap() {
                        Message::Fork(handle) => handle,
                        other => panic!("{other:?}"),
                    })
                },
            );
            let entries = [entry(&world, &child, BASE), entry(&world, &child, at(1, 0))];
            assert_eq!(is_protected(entries[0]), told, "{kind:?}");
            assert_eq!(entries[1] == Entry::Marker, told);
            assert!(is_protected(entry(&world, &space, BASE)));
            let mut child_cpu = Cpu::new(&child).unwrap();
            store(&mut child_cpu, &mut world.task, 2, 3).unwrap();
            if let Some(handle) = &handle {
                handle.write_protect(&mut world.task, BASE, 2 * MIB2, OFF).unwrap();
            }
            store(&mut child_cpu, &mut world.task, 0, 3).unwrap();
            store(&mut child_cpu, &mut world.task, 1, 3).unwrap();
            assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(if kind == MapFlags::SHARED { 3 } else { 1 }));
            child.exit(&mut world.task).unwrap();
            drop((cpu, child_cpu, handle, child, space));
            world.end();
        }
    }
}

/// As Linux does since 6.4.
#[test]
fn protecting_goes_from_mapping_to_mapping_until_one_is_not_registered_for_it() {
    let mut world = World::registered(4, MapFlags::SHARED, Modes::WP);
    world.space.munmap(&mut world.task, at(1, 0), MIB2).unwrap();
    // Over the hole, and beyond the end.
    world.uffd.write_protect(&mut world.task, BASE, 6 * MIB2, ON).unwrap();
    let seen = |world: &World| [0, 1, 2, 3].map(|page| entry(world, &world.space, at(page, 0)));
    let (marker, none) = (Entry::Marker, Entry::None);
    assert_eq!(seen(&world), [marker, none, marker, marker]);
    world.uffd.unregister(&mut world.task, at(3, 0), MIB2).unwrap();
    let stopped = world.uffd.write_protect(&mut world.task, BASE, 4 * MIB2, OFF);
    assert_eq!(stopped, Err(UserfaultError::NotRegistered { address: at(3, 0) }));
    assert_eq!(seen(&world), [none; 4]);
    world.end();
}

#[test]
fn bad_input_gives_the_error_of_linux() {
    let mut world = World::new(2, MapFlags::SHARED, Features::empty());
    let (uffd, task) = (&world.uffd, &mut world.task);
    assert_eq!(errno(uffd.write_protect(task, BASE, MIB2, ON)), Errno::ENOENT);
    uffd.register(task, BASE, 2 * MIB2, Modes::MISSING).unwrap();
    assert_eq!(errno(uffd.write_protect(task, BASE, MIB2, ON)), Errno::ENOENT);
    let operations = uffd.register(task, BASE, 2 * MIB2, Modes::WP | Modes::MISSING).unwrap();
    let basic = Operations::WAKE | Operations::COPY | Operations::POISON;
    assert_eq!(operations, basic | Operations::WRITEPROTECT);
    for (start, length, mode, expected) in [
        (BASE, 0, ON, Errno::EINVAL),
        (BASE, MIB2 + 4096, ON, Errno::EINVAL),
        (at(0, 4096), MIB2, ON, Errno::EINVAL),
        (BASE, MIB2, ProtectMode::all(), Errno::EINVAL),
        (BASE, MIB2, ProtectMode::from_bits_retain(4), Errno::EINVAL),
        (at(2, 0), MIB2, ON, Errno::ENOENT),
    ] {
        let result = uffd.write_protect(task, start, length, mode);
        assert_eq!(errno(result), expected, "{start:?} {length:#x} {mode:?}");
    }
    assert_eq!(uffd.write_protect(task, BASE, MIB2, ProtectMode::DONTWAKE), Ok(()));
    assert_eq!(entry(&world, &world.space, BASE), Entry::None);
    world.space.exit(&mut world.task).unwrap();
    let result = world.uffd.write_protect(&mut world.task, BASE, MIB2, ON);
    assert_eq!(result, Err(UserfaultError::Exited));
    world.end();
}
