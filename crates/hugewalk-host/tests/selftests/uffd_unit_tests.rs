//! `uffd-unit-tests` and the parts of `userfaultfd` that it grew out of, for `hugetlb` (shared) and `hugetlb-private`.
//!
//! | unit test | where |
//! |---|---|
//! | `register-ioctls`, `zeropage` | `../uffd/resolve.rs`, and [`what_can_be_done_with_a_range_depends_on_its_modes`] |
//! | `minor` | `../uffd/resolve.rs` |
//! | `minor-wp` | [`minor_faults_and_protections_go_together`] |
//! | `sigbus` | `../uffd/resolve.rs`; its fork in `../uffd/events.rs` |
//! | `sigbus-wp` | [`a_store_to_a_protected_page_is_a_signal_if_the_handler_wants_signals`] |
//! | `events` | `../uffd/events.rs` |
//! | `events-wp` | [`a_process_forks_moves_and_drops_under_a_handler_of_missing_pages_and_protections`] |
//! | `pagemap`, `wp-unpopulated` | [`pagemap_shows_protections_of_pages_that_are_there_and_of_pages_that_are_not`] |
//! | `wp-fork`, `wp-fork-with-event` | `../uffd/protect.rs` |
//! | `wp-fork-pin`, `wp-fork-pin-with-event` | [`a_pinned_page_is_protected_in_the_child_if_the_handler_has_the_child_too`] |
//! | `mmap-changing` | [`while_the_mappings_change_the_handler_is_told_to_read_first`] |
//! | `move*`, `minor-collapse`, `poison` | none: not for huge pages, or later than Linux 6.1 |

use std::collections::BTreeSet;

use hugewalk::addr::VirtAddr;
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::pagewalk::PageMap;
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Message, Modes, Operations, PagefaultFlags, ProtectMode, Userfault,
};

use crate::pages::Worker;
use crate::uffd::{BASE, KINDS, MIB2, Space, World, at, load, page_of, store, until};

const ON: ProtectMode = ProtectMode::WP;
const OFF: ProtectMode = ProtectMode::empty();

#[test]
fn what_can_be_done_with_a_range_depends_on_its_modes() {
    for kind in KINDS {
        for bits in 1..8 {
            let modes = Modes::from_bits_truncate(bits);
            let mut world = World::new(2, kind, Features::empty());
            let operations = world.uffd.register(&mut world.task, BASE, 2 * MIB2, modes).unwrap();
            let mut expected = Operations::WAKE | Operations::COPY | Operations::POISON;
            expected.set(Operations::WRITEPROTECT, modes.contains(Modes::WP));
            expected.set(Operations::CONTINUE, modes.contains(Modes::MINOR));
            assert_eq!(operations, expected);
            let zeroes = world.uffd.zero(&mut world.task, BASE, MIB2).unwrap_err();
            assert_eq!(zeroes.errno(), Errno::EINVAL);
            let protected = world.uffd.write_protect(&mut world.task, BASE, MIB2, ON);
            let allowed = modes.contains(Modes::WP);
            assert_eq!(
                protected.map_err(|error| error.errno()),
                if allowed { Ok(()) } else { Err(Errno::ENOENT) }
            );
            world.end();
        }
    }
}

#[test]
fn minor_faults_and_protections_go_together() {
    const PAGES: u64 = 4;
    let mut world = World::new(PAGES, MapFlags::SHARED, Features::empty());
    world.register(Modes::MINOR | Modes::WP);
    for page in 0..PAGES {
        world.file.write_at(&mut world.task, page * MIB2, &[page as u8 + 1; 16]).unwrap();
    }
    world.uffd.write_protect(&mut world.task, BASE, PAGES * MIB2, ON).unwrap();
    let (seen, kinds) = world.beside(
        |cpu, task| {
            (0..PAGES)
                .map(|page| {
                    let seen = load(cpu, task, page).unwrap();
                    store(cpu, task, page, !seen).unwrap();
                    (seen, load(cpu, task, page).unwrap())
                })
                .collect::<Vec<_>>()
        },
        |task, uffd| {
            let mut kinds = BTreeSet::new();
            let mut left = PAGES;
            while left > 0 {
                let Ok(Message::Pagefault(fault)) = uffd.read_event(task) else { panic!("no fault") };
                kinds.insert(fault.flags.bits());
                if fault.flags.contains(PagefaultFlags::WP) {
                    uffd.write_protect(task, fault.address, MIB2, OFF).unwrap();
                    left -= 1;
                } else {
                    assert_eq!(fault.flags, PagefaultFlags::MINOR);
                    uffd.continue_range(task, fault.address, MIB2, ContinueMode::DONTWAKE).unwrap();
                    // What was continued with can be written: it is protected anew, before the thread goes on to store.
                    uffd.write_protect(task, fault.address, MIB2, ON).unwrap();
                    uffd.wake(fault.address, MIB2).unwrap();
                }
            }
            kinds
        },
    );
    assert_eq!(seen, (1..=PAGES as u8).map(|byte| (byte, !byte)).collect::<Vec<_>>());
    let stores = (PagefaultFlags::WRITE | PagefaultFlags::WP).bits();
    assert_eq!(kinds, BTreeSet::from([PagefaultFlags::MINOR.bits(), stores]));
    world.end();
}

#[test]
fn a_store_to_a_protected_page_is_a_signal_if_the_handler_wants_signals() {
    for kind in KINDS {
        let mut world = World::new(2, kind, Features::SIGBUS);
        let mut cpu = world.cpu();
        store(&mut cpu, &mut world.task, 0, 1).unwrap();
        world.register(Modes::WP);
        world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, ON).unwrap();
        assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(1));
        for page in 0..2 {
            let refused = store(&mut cpu, &mut world.task, page, 2).unwrap_err();
            assert_eq!(refused, FaultError::Userfault { address: at(page, 0) });
            assert!(refused.is_bus_error() && !world.uffd.poll());
        }
        world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, OFF).unwrap();
        assert_eq!(store(&mut cpu, &mut world.task, 0, 3), Ok(()));
        assert_eq!(store(&mut cpu, &mut world.task, 1, 3), Ok(()));
        drop(cpu);
        world.end();
    }
}

/// Answers all that a process and its children ask until it exits: missing pages with their number, protections by taking
/// them back. Returns the kinds of messages.
fn serve(
    uffd: &Userfault<hugewalk_host::Host>,
    task: &mut hugewalk::Task<hugewalk_host::Host>,
) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let mut start = BASE;
    while let Ok(message) = uffd.read_event(task) {
        kinds.push(match message {
            Message::Pagefault(fault) if fault.flags.contains(PagefaultFlags::WP) => {
                uffd.write_protect(task, fault.address, MIB2, OFF).unwrap();
                "protection"
            }
            Message::Pagefault(fault) => {
                let byte = (fault.address.offset_from(start) / MIB2) as u8 + 1;
                uffd.copy(task, fault.address, &page_of(byte), CopyMode::WP).unwrap();
                "missing"
            }
            Message::Remap { to, .. } => {
                start = to;
                "remap"
            }
            Message::Remove { .. } => "remove",
            Message::Unmap { .. } => "unmap",
            Message::Fork(_) => "fork",
        });
    }
    kinds
}

#[test]
fn a_process_forks_moves_and_drops_under_a_handler_of_missing_pages_and_protections() {
    const PAGES: u64 = 4;
    const THERE: VirtAddr = VirtAddr::new(40 << 30);
    let features = Features::EVENT_REMAP | Features::EVENT_REMOVE | Features::EVENT_UNMAP;
    for kind in KINDS {
        let mut world = World::new(PAGES, kind, features);
        world.register(Modes::MISSING | Modes::WP);
        let space: Space = world.space.clone();
        let ((), kinds) = world.beside(
            |cpu, task| {
                let length = PAGES * MIB2;
                for page in 0..PAGES {
                    assert_eq!(load(cpu, task, page), Ok(page as u8 + 1));
                    store(cpu, task, page, 50 + page as u8).unwrap();
                }
                space.mremap(task, BASE, length, length, RemapTo::Fixed(THERE)).unwrap();
                let place = |page: u64| THERE.checked_add(page * MIB2 + 5).unwrap();
                for page in 0..PAGES {
                    assert_eq!(cpu.load(task, place(page)), Ok(50 + page as u8));
                }
                let advice = if kind == MapFlags::SHARED { Advice::Remove } else { Advice::DontNeed };
                space.madvise(task, THERE, 2 * MIB2, advice).unwrap();
                for page in 0..2 {
                    assert_eq!(cpu.load(task, place(page)), Ok(page as u8 + 1));
                    cpu.store(task, place(page), 9).unwrap();
                }
                space.munmap(task, THERE, MIB2).unwrap();
                space.exit(task).unwrap();
            },
            |task, uffd| serve(uffd, task),
        );
        let of = |kind| kinds.iter().filter(|&&found| found == kind).count();
        assert_eq!((of("missing"), of("remap"), of("remove"), of("unmap")), (6, 1, 1, 2), "{kinds:?}");
        assert_eq!(of("protection"), 6, "{kinds:?}");
        drop(space);
        world.end();
    }
}

#[test]
fn pagemap_shows_protections_of_pages_that_are_there_and_of_pages_that_are_not() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::WP);
        let mut cpu = world.cpu();
        store(&mut cpu, &mut world.task, 0, 1).unwrap();
        load(&mut cpu, &mut world.task, 1).unwrap();
        let bits = |world: &mut World| -> Vec<bool> {
            let pages = world.space.pagemap(&mut world.task, BASE..at(4, 0)).unwrap();
            pages.iter().map(|(_, map)| map.contains(PageMap::UFFD_WP)).collect()
        };
        assert_eq!(bits(&mut world), [false; 4]);
        world.uffd.write_protect(&mut world.task, BASE, 3 * MIB2, ON).unwrap();
        assert_eq!(bits(&mut world), [true, true, true, false]);
        // Mapped by a load, it is protected all the same.
        load(&mut cpu, &mut world.task, 2).unwrap();
        assert_eq!(bits(&mut world), [true, true, true, false]);
        // So is what was dropped, though there is no page.
        world.space.madvise(&mut world.task, BASE, MIB2, Advice::DontNeed).unwrap();
        assert_eq!(bits(&mut world), [true, true, true, false]);
        let resident = world.space.mincore(&mut world.task, BASE..at(3, 0)).unwrap();
        assert_eq!(resident.iter().map(|&(_, resident)| resident).collect::<Vec<_>>(), [false, true, true]);
        world.uffd.write_protect(&mut world.task, BASE, 2 * MIB2, OFF).unwrap();
        assert_eq!(bits(&mut world), [false, false, true, false]);
        // A child without the handler has none of it.
        let child = world.space.fork(&mut world.task).unwrap();
        let of_child = child.pagemap(&mut world.task, BASE..at(4, 0)).unwrap();
        assert!(of_child.iter().all(|(_, map)| !map.contains(PageMap::UFFD_WP)));
        world.uffd.unregister(&mut world.task, BASE, 4 * MIB2).unwrap();
        assert_eq!(bits(&mut world), [false; 4]);
        child.exit(&mut world.task).unwrap();
        drop((cpu, child));
        world.end();
    }
}

/// fork copies a pinned page of a private mapping at once: the copy is as protected as the page.
#[test]
fn a_pinned_page_is_protected_in_the_child_if_the_handler_has_the_child_too() {
    for kind in KINDS {
        for features in [Features::empty(), Features::EVENT_FORK] {
            let mut world = World::new(2, kind, features);
            world.register(Modes::WP);
            let mut cpu = world.cpu();
            store(&mut cpu, &mut world.task, 0, 7).unwrap();
            world.uffd.write_protect(&mut world.task, BASE, MIB2, ON).unwrap();
            let pins = world.space.pin_pages(&mut world.task, BASE, 1, GupFlags::PIN).unwrap();
            let space = world.space.clone();
            let forking = Worker::start(&world.hugetlb, move |task| space.fork(task).unwrap());
            let handle = features.contains(Features::EVENT_FORK).then(|| {
                match world.uffd.read_event(&mut world.task).unwrap() {
                    Message::Fork(handle) => handle,
                    other => panic!("{other:?}"),
                }
            });
            let child = forking.result();
            let of_child = child.pagemap(&mut world.task, BASE..at(1, 0)).unwrap();
            // A shared mapping without a handler is not copied at all.
            assert_eq!(of_child[0].1.contains(PageMap::UFFD_WP), handle.is_some());
            let mut child_cpu = hugewalk_host::Cpu::new(&child).unwrap();
            assert_eq!(load(&mut child_cpu, &mut world.task, 0), Ok(7));
            let mut seen = [0];
            pins.page(0).unwrap().read(5, &mut seen).unwrap();
            assert_eq!(seen, [7]);
            if let Some(handle) = &handle {
                handle.write_protect(&mut world.task, BASE, MIB2, OFF).unwrap();
            }
            store(&mut child_cpu, &mut world.task, 0, 8).unwrap();
            let shared = kind == MapFlags::SHARED;
            assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(if shared { 8 } else { 7 }));
            child.exit(&mut world.task).unwrap();
            drop((cpu, child_cpu, pins, handle, child));
            world.end();
        }
    }
}

#[test]
fn while_the_mappings_change_the_handler_is_told_to_read_first() {
    let mut world = World::new(2, MapFlags::SHARED, Features::EVENT_REMOVE);
    world.register(Modes::MISSING | Modes::WP);
    let space = world.space.clone();
    let ((), ()) = world.beside(
        |_, task| space.madvise(task, BASE, MIB2, Advice::DontNeed).unwrap(),
        |task, uffd| {
            until(|| uffd.poll());
            let copy = uffd.copy(task, BASE, &page_of(1), CopyMode::empty()).unwrap_err();
            assert_eq!((copy.done, copy.errno()), (0, Errno::EAGAIN));
            let protect = uffd.write_protect(task, BASE, MIB2, ON).unwrap_err();
            assert_eq!(protect.errno(), Errno::EAGAIN);
            assert!(matches!(uffd.read_event(task), Ok(Message::Remove { .. })));
        },
    );
    world.uffd.copy(&mut world.task, BASE, &page_of(1), CopyMode::empty()).unwrap();
    drop(space);
    world.end();
}
