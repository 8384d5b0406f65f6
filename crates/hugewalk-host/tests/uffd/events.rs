//! Events: what changes the mappings waits until the handler knows of it.

use std::sync::atomic::{AtomicBool, Ordering};

use hugewalk::addr::VirtAddr;
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::uffd::{CopyMode, Features, Message, Modes, Userfault, UserfaultError};
use hugewalk::vma::{Protection, VmaFlags};
use hugewalk::{AddressSpace, Task};
use hugewalk_host::{Cpu, Host};

use crate::setup::{BASE, KINDS, MIB2, World, a_while, at, load, map_at, page_of, read_fault, store, until};

const NONE: CopyMode = CopyMode::empty();
const ELSEWHERE: VirtAddr = VirtAddr::new(30 << 30);

/// Runs an operation of the process. While it waits for its event to be read, the handler cannot fill anything.
fn blocks_until_read(
    world: &mut World,
    operation: impl FnOnce(&AddressSpace<Host>, &mut Task<Host>) + Send,
    expected: impl Fn(&Message<Host>) -> bool,
) {
    let done = AtomicBool::new(false);
    let space = world.space.clone();
    world.beside(
        |_, task| {
            operation(&space, task);
            done.store(true, Ordering::Release);
        },
        |task, uffd| {
            until(|| uffd.poll());
            a_while();
            assert!(!done.load(Ordering::Acquire), "it did not wait");
            let stopped = uffd.copy(task, BASE, &page_of(1), NONE).unwrap_err();
            assert_eq!(stopped.errno(), Errno::EAGAIN);
            let message = uffd.read_event(task).unwrap();
            assert!(expected(&message), "{message:?}");
            until(|| done.load(Ordering::Acquire));
        },
    );
    assert!(!world.uffd.poll());
}

#[test]
fn munmap_waits_until_the_handler_knows() {
    for kind in KINDS {
        let mut world = World::new(4, kind, Features::EVENT_UNMAP);
        world.register(Modes::MISSING);
        blocks_until_read(
            &mut world,
            |space, task| space.munmap(task, at(1, 0), 2 * MIB2).unwrap(),
            |message| matches!(message, Message::Unmap { start, end } if (*start, *end) == (at(1, 0), at(3, 0))),
        );
        // What is left is registered still.
        world.uffd.copy(&mut world.task, at(3, 0), &page_of(1), NONE).unwrap();
        world.end();
    }
}

/// A process with three mappings that are registered with its handler, and one with another handler.
fn two_handlers(features: Features) -> (World, Userfault<Host>) {
    let mut world = World::new(4, MapFlags::SHARED, features);
    let other = Userfault::new(&world.space, features).unwrap();
    world.uffd.register(&mut world.task, BASE, 3 * MIB2, Modes::MISSING).unwrap();
    other.register(&mut world.task, at(3, 0), MIB2, Modes::MISSING).unwrap();
    world.space.mprotect(&mut world.task, at(1, 0), MIB2, Protection::READ).unwrap();
    (world, other)
}

/// What the two handlers read, each by its number, until the operation is over.
fn all_told<R: Send>(
    world: &mut World,
    other: &Userfault<Host>,
    operation: impl FnOnce(&AddressSpace<Host>, &mut Task<Host>) -> R + Send,
) -> (R, Vec<(u8, Message<Host>)>) {
    let (space, done) = (world.space.clone(), AtomicBool::new(false));
    world.beside(
        |_, task| {
            let result = operation(&space, task);
            done.store(true, Ordering::Release);
            result
        },
        |_, uffd| {
            let mut told = Vec::new();
            until(|| {
                for (handler, number) in [(uffd, 1), (other, 2)] {
                    told.extend(handler.try_read_event().map(|message| (number, message)));
                }
                done.load(Ordering::Acquire)
            });
            told
        },
    )
}

#[test]
fn munmap_of_several_mappings_is_told_once_to_each_handler() {
    let (mut world, other) = two_handlers(Features::EVENT_UNMAP);
    let ((), told) = all_told(&mut world, &other, |space, task| space.munmap(task, BASE, 4 * MIB2).unwrap());
    for (_, message) in &told {
        assert!(matches!(message, Message::Unmap { start: BASE, end } if *end == at(4, 0)));
    }
    assert_eq!(told.iter().map(|&(number, _)| number).collect::<Vec<_>>(), [1, 2]);
    drop(other);
    world.end();
}

#[test]
fn a_mapping_that_takes_the_place_of_another_unmaps_it() {
    let mut world = World::new(2, MapFlags::SHARED, Features::EVENT_UNMAP);
    world.register(Modes::MISSING);
    let (space, file) = (world.space.clone(), world.file.clone());
    blocks_until_read(
        &mut world,
        move |_, task| map_at(&space, task, &file, BASE, MapFlags::SHARED),
        |message| matches!(message, Message::Unmap { start: BASE, end } if *end == at(2, 0)),
    );
    world.end();
}

#[test]
fn dropping_pages_waits_until_the_handler_knows_and_only_then_drops_them() {
    for (advice, kind) in
        [(Advice::DontNeed, KINDS[0]), (Advice::DontNeed, KINDS[1]), (Advice::Remove, KINDS[1])]
    {
        let mut world = World::new(4, kind, Features::EVENT_REMOVE);
        world.register(Modes::MISSING);
        world.uffd.copy(&mut world.task, at(1, 0), &page_of(6), NONE).unwrap();
        let space = world.space.clone();
        let mut cpu = world.cpu();
        let (advised, ()) = world.beside(
            |_, task| space.madvise(task, at(1, 0), 2 * MIB2, advice),
            |task, uffd| {
                until(|| uffd.poll());
                a_while();
                assert_eq!(load(&mut cpu, task, 1), Ok(6));
                let message = uffd.read_event(task).unwrap();
                let expected =
                    matches!(message, Message::Remove { start, end } if (start, end) == (at(1, 0), at(3, 0)));
                assert!(expected, "{message:?}");
            },
        );
        assert_eq!(advised, Ok(()));
        drop(cpu);
        // The next touch is the handler's, where the page is gone.
        if (advice, kind) != (Advice::DontNeed, MapFlags::SHARED) {
            let (seen, ()) = world.beside(
                |cpu, task| load(cpu, task, 1),
                |task, uffd| {
                    assert_eq!(read_fault(uffd, task).address, at(1, 0));
                    uffd.copy(task, at(1, 0), &page_of(7), NONE).unwrap();
                },
            );
            assert_eq!(seen, Ok(7));
        }
        drop(space);
        world.end();
    }
}

#[test]
fn a_moved_mapping_stays_registered_if_the_handler_is_told_and_the_old_place_is_unmapped() {
    for kind in KINDS {
        let mut world = World::new(4, kind, Features::EVENT_REMAP | Features::EVENT_UNMAP);
        world.register(Modes::MISSING);
        world.uffd.copy(&mut world.task, BASE, &page_of(3), NONE).unwrap();
        let space = world.space.clone();
        let to = |page: u64| ELSEWHERE.checked_add(page * MIB2).unwrap();
        let (seen, ()) = world.beside(
            |cpu, task| {
                // Two pages are cut off, two are moved.
                space.mremap(task, BASE, 4 * MIB2, 2 * MIB2, RemapTo::Fixed(ELSEWHERE)).unwrap();
                (cpu.load(task, ELSEWHERE), cpu.load(task, to(1)), cpu.load(task, BASE))
            },
            |task, uffd| {
                let first = uffd.read_event(task).unwrap();
                assert!(matches!(first, Message::Remap { from: BASE, to: ELSEWHERE, length } if length == 4 * MIB2));
                let tail = uffd.read_event(task).unwrap();
                assert!(matches!(tail, Message::Unmap { start, end } if (start, end) == (at(2, 0), at(4, 0))));
                let old = uffd.read_event(task).unwrap();
                assert!(matches!(old, Message::Unmap { start: BASE, end } if end == at(2, 0)));
                let fault = read_fault(uffd, task);
                assert_eq!(fault.address, to(1));
                uffd.copy(task, to(1), &page_of(4), NONE).unwrap();
            },
        );
        assert_eq!(seen, (Ok(3), Ok(4), Err(FaultError::NotMapped { address: BASE })));
        drop(space);
        world.end();
    }
}

#[test]
fn without_the_feature_a_moved_mapping_is_nobodys() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::MISSING);
    world.space.mremap(&mut world.task, BASE, 2 * MIB2, 2 * MIB2, RemapTo::Fixed(ELSEWHERE)).unwrap();
    let mut cpu = world.cpu();
    assert_eq!(cpu.load(&mut world.task, ELSEWHERE), Ok(0));
    drop(cpu);
    world.end();
}

#[test]
fn a_fault_that_waits_where_a_mapping_moves_away_finds_nothing_there() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::MISSING);
    let space = world.space.clone();
    let (seen, ()) = world.beside(
        |cpu, task| cpu.load(task, BASE),
        |task, uffd| {
            assert_eq!(read_fault(uffd, task).address, BASE);
            space.mremap(task, BASE, 2 * MIB2, 2 * MIB2, RemapTo::Fixed(ELSEWHERE)).unwrap();
        },
    );
    assert_eq!(seen, Err(FaultError::NotMapped { address: BASE }));
    drop(space);
    world.end();
}

fn child_handle(message: Message<Host>) -> Userfault<Host> {
    match message {
        Message::Fork(handle) => handle,
        other => panic!("no fork: {other:?}"),
    }
}

/// The part of the selftest that forks: the child touches all pages, moves the area, and drops it; its faults come to the
/// handle that the fork event brings.
#[test]
fn a_child_has_its_parents_handler_by_a_handle_of_its_own() {
    const PAGES: u64 = 6;
    for kind in KINDS {
        let features = Features::EVENT_FORK | Features::EVENT_REMAP | Features::EVENT_REMOVE;
        let mut world = World::new(PAGES, kind, features);
        world.register(Modes::MISSING);
        let space = world.space.clone();
        let (child, missing) = world.beside(
            |_, task| {
                let child = space.fork(task).unwrap();
                let mut cpu = Cpu::new(&child).unwrap();
                for page in 0..PAGES / 2 {
                    assert_eq!(load(&mut cpu, task, page), Ok(page as u8 + 1));
                    store(&mut cpu, task, page, 100).unwrap();
                }
                let length = PAGES * MIB2;
                child.mremap(task, BASE, length, length, RemapTo::Fixed(ELSEWHERE)).unwrap();
                for page in PAGES / 2..PAGES {
                    let address = ELSEWHERE.checked_add(page * MIB2).unwrap();
                    assert_eq!(cpu.load(task, address), Ok(page as u8 + 1));
                }
                child.madvise(task, ELSEWHERE, length, Advice::DontNeed).unwrap();
                child.exit(task).unwrap();
                child
            },
            |task, uffd| {
                let handle = child_handle(uffd.read_event(task).unwrap());
                let (mut start, mut missing) = (BASE, 0);
                // The process of the handle ends, which ends the reading.
                while let Ok(message) = handle.read_event(task) {
                    match message {
                        Message::Pagefault(fault) => {
                            let page = fault.address.offset_from(start) / MIB2;
                            handle.copy(task, fault.address, &page_of(page as u8 + 1), NONE).unwrap();
                            missing += 1;
                        }
                        Message::Remap { to, .. } => start = to,
                        Message::Remove { start, end } => {
                            // The child, told by now, may have exited already.
                            let unregistered = handle.unregister(task, start, end.offset_from(start));
                            let gone = UserfaultError::NothingAbove { start };
                            assert!(unregistered.is_ok() || unregistered == Err(gone));
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert!(!uffd.poll());
                missing
            },
        );
        assert_eq!(missing, PAGES);
        drop((child, space));
        world.end();
    }
}

#[test]
fn a_fork_waits_until_the_handler_has_the_child() {
    let mut world = World::new(2, MapFlags::SHARED, Features::EVENT_FORK);
    world.register(Modes::MISSING);
    blocks_until_read(
        &mut world,
        |space, task| space.fork(task).unwrap().exit(task).unwrap(),
        |message| matches!(message, Message::Fork(_)),
    );
    world.end();
}

#[test]
fn a_fork_gives_each_handler_one_handle_for_all_its_mappings() {
    let (mut world, other) = two_handlers(Features::EVENT_FORK);
    let (child, told) = all_told(&mut world, &other, |space, task| space.fork(task).unwrap());
    assert_eq!(told.iter().map(|&(number, _)| number).collect::<Vec<_>>(), [1, 2]);
    let handles: Vec<_> = told.into_iter().map(|(_, message)| child_handle(message)).collect();
    let stranger = Userfault::new(&child, Features::empty()).unwrap();
    for (page, handle) in [(0, 0), (1, 0), (2, 0), (3, 1)] {
        let others = UserfaultError::Others { address: at(page, 0) };
        assert_eq!(stranger.unregister(&mut world.task, at(page, 0), MIB2), Err(others));
        handles[handle].unregister(&mut world.task, at(page, 0), MIB2).unwrap();
    }
    child.exit(&mut world.task).unwrap();
    drop((handles, stranger, child, other));
    world.end();
}

#[test]
fn without_the_feature_the_faults_of_a_child_are_nobodys() {
    for kind in KINDS {
        let mut world = World::registered(2, kind, Modes::MISSING);
        let child = world.space.fork(&mut world.task).unwrap();
        let mut cpu = Cpu::new(&child).unwrap();
        assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(0));
        child.exit(&mut world.task).unwrap();
        drop((cpu, child));
        world.end();
    }
}

/// The robustness part of the selftest: a child whose parent's handler asked for signals gets them, and no message comes.
#[test]
fn a_child_of_a_process_with_signals_gets_signals() {
    let mut world = World::new(2, MapFlags::SHARED, Features::EVENT_FORK | Features::SIGBUS);
    world.register(Modes::MISSING);
    let space = world.space.clone();
    let (child, handle) = world.beside(
        |_, task| {
            let child = space.fork(task).unwrap();
            let mut cpu = Cpu::new(&child).unwrap();
            for page in 0..2 {
                assert_eq!(load(&mut cpu, task, page), Err(FaultError::Userfault { address: at(page, 0) }));
            }
            child
        },
        |task, uffd| child_handle(uffd.read_event(task).unwrap()),
    );
    assert!(!handle.poll());
    child.exit(&mut world.task).unwrap();
    drop((handle, child, space));
    world.end();
}

fn has_handler(space: &AddressSpace<Host>, task: &mut Task<Host>) -> bool {
    space.mmap_read(task).vmas().any(|vma| vma.flags().intersects(VmaFlags::UFFD))
}

#[test]
fn a_handler_that_dies_does_not_hold_up_who_waits_for_it_to_read() {
    let features =
        Features::EVENT_FORK | Features::EVENT_UNMAP | Features::EVENT_REMOVE | Features::EVENT_REMAP;
    type Operation = fn(&AddressSpace<Host>, &mut Task<Host>);
    let operations: [Operation; 4] = [
        |space, task| {
            let child = space.fork(task).unwrap();
            // It has no handler either.
            assert!(!has_handler(&child, task));
            assert_eq!(load(&mut Cpu::new(&child).unwrap(), task, 0), Ok(0));
            child.exit(task).unwrap();
        },
        |space, task| space.munmap(task, BASE, MIB2).unwrap(),
        |space, task| space.madvise(task, BASE, MIB2, Advice::DontNeed).unwrap(),
        |space, task| {
            space.mremap(task, BASE, MIB2, MIB2, RemapTo::Fixed(ELSEWHERE)).unwrap();
        },
    ];
    for operation in operations {
        for closes in [false, true] {
            let mut world = World::new(2, MapFlags::SHARED, features);
            world.register(Modes::MISSING);
            let doomed = std::mem::replace(&mut world.uffd, Userfault::new(&world.space, features).unwrap());
            let space = world.space.clone();
            world.beside(
                |_, task| operation(&space, task),
                |task, _| {
                    until(|| doomed.poll());
                    if closes {
                        doomed.close(task).unwrap();
                    } else {
                        drop(doomed);
                    }
                },
            );
            drop(space);
            world.end();
        }
    }
}
