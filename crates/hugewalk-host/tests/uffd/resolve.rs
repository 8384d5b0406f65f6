//! Faults on missing pages and on pages that are in the file, and how they are resolved.

use std::sync::atomic::{AtomicBool, Ordering};

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Modes, Operations, PagefaultFlags, ProtectMode, Stopped, Userfault,
    UserfaultError,
};
use hugewalk_host::Cpu;

use crate::setup::{
    BASE, GIB, KINDS, MIB2, World, a_while, at, errno, file_of, load, map_at, page_of, read_fault, store,
    until,
};

const NONE: CopyMode = CopyMode::empty();

#[test]
fn a_missing_page_is_what_the_handler_copies_there() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::MISSING);
        let (seen, fault) = world.beside(
            |cpu, task| load(cpu, task, 2),
            |task, uffd| {
                let fault = read_fault(uffd, task);
                uffd.copy(task, fault.address, &page_of(7), NONE).unwrap();
                fault
            },
        );
        assert_eq!((seen, fault.address), (Ok(7), at(2, 0)));
        assert_eq!((fault.flags, fault.thread), (PagefaultFlags::empty(), None));
        // A page of a shared mapping is the file's, one of a private mapping is not.
        let mut byte = [0];
        world.file.read_at(2 * MIB2, &mut byte).unwrap();
        let shared = kind == MapFlags::SHARED;
        assert_eq!((byte[0], world.file.pages()), if shared { (7, 1) } else { (0, 0) });
        // It is writable at once.
        let (stored, ()) = world.beside(|cpu, task| store(cpu, task, 2, 9), |_, _| ());
        assert_eq!(stored, Ok(()));
        assert!(!world.uffd.poll());
        world.end();
    }
}

#[test]
fn a_message_says_what_was_tried_and_with_the_feature_where_and_by_whom() {
    let features = Features::EXACT_ADDRESS | Features::THREAD_ID;
    for features in [Features::empty(), features] {
        let mut world = World::new(4, MapFlags::SHARED, features);
        world.register(Modes::MISSING);
        let (id, fault) = world.beside(
            |cpu, task| {
                store(cpu, task, 1, 1).unwrap();
                task.id()
            },
            |task, uffd| {
                let fault = read_fault(uffd, task);
                uffd.copy(task, fault.address.huge_page(X86_64::SIZE_2M), &page_of(0), NONE).unwrap();
                fault
            },
        );
        assert_eq!(fault.flags, PagefaultFlags::WRITE);
        let exact = !features.is_empty();
        assert_eq!(fault.address, if exact { at(1, 5) } else { at(1, 0) });
        assert_eq!(fault.thread, exact.then_some(id));
        world.end();
    }
}

#[test]
fn a_page_in_the_file_is_not_missing() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::MISSING);
        world.file.write_at(&mut world.task, MIB2, &[3; 10]).unwrap();
        let mut cpu = world.cpu();
        assert_eq!(load(&mut cpu, &mut world.task, 1), Ok(3));
        assert_eq!(store(&mut cpu, &mut world.task, 1, 4), Ok(()));
        assert!(!world.uffd.poll());
        drop(cpu);
        world.end();
    }
}

#[test]
fn a_page_that_is_in_the_file_and_not_mapped_is_a_minor_fault() {
    const PAGES: u64 = 6;
    let mut world = World::new(PAGES, MapFlags::SHARED, Features::MINOR_HUGETLBFS);
    world.register(Modes::MINOR);
    // The other mapping of the file is nobody's: it faults as always, and the handler writes through it.
    let other = VirtAddr::new(20 << 30);
    map_at(&world.space, &mut world.task, &world.file, other, MapFlags::SHARED);
    let mut alias = world.cpu();
    for page in 0..PAGES {
        alias.write_bytes(&mut world.task, other.plus_pages(page), &page_of(page as u8)).unwrap();
    }
    assert!(!world.uffd.poll());
    let (seen, ()) = world.beside(
        |cpu, task| (0..PAGES).map(|page| load(cpu, task, page).unwrap()).collect::<Vec<_>>(),
        |task, uffd| {
            for page in 0..PAGES {
                let fault = read_fault(uffd, task);
                assert_eq!((fault.address, fault.flags), (at(page, 0), PagefaultFlags::MINOR));
                alias.write_bytes(task, other.plus_pages(page), &page_of(!(page as u8))).unwrap();
                uffd.continue_range(task, fault.address, MIB2, ContinueMode::empty()).unwrap();
                let again = uffd.continue_range(task, fault.address, MIB2, ContinueMode::empty());
                assert_eq!(again.unwrap_err().errno(), Errno::EEXIST);
            }
        },
    );
    assert_eq!(seen, (0..PAGES).map(|page| !(page as u8)).collect::<Vec<_>>());
    drop(alias);
    world.end();
}

trait PlusPages {
    fn plus_pages(self, pages: u64) -> Self;
}

impl PlusPages for VirtAddr {
    fn plus_pages(self, pages: u64) -> Self {
        self.checked_add(pages * MIB2).unwrap()
    }
}

#[test]
fn continuing_a_private_mapping_maps_the_page_of_the_file_which_a_store_copies() {
    let mut world = World::registered(2, MapFlags::empty(), Modes::MINOR);
    world.file.write_at(&mut world.task, 0, &[5; 10]).unwrap();
    let (seen, fault) = world.beside(
        |cpu, task| {
            let seen = load(cpu, task, 0);
            store(cpu, task, 0, 6).unwrap();
            (seen, load(cpu, task, 0))
        },
        |task, uffd| {
            let fault = read_fault(uffd, task);
            uffd.continue_range(task, fault.address, MIB2, ContinueMode::empty()).unwrap();
            fault
        },
    );
    assert_eq!((seen, fault.flags), ((Ok(5), Ok(6)), PagefaultFlags::MINOR));
    let mut byte = [0];
    world.file.read_at(5, &mut byte).unwrap();
    assert_eq!(byte, [5]);
    // What is missing is nobody's fault to handle: only minor faults are.
    let mut cpu = world.cpu();
    assert_eq!(load(&mut cpu, &mut world.task, 1), Ok(0));
    drop(cpu);
    world.end();
}

#[test]
fn filling_stops_where_a_page_is_and_says_how_far_it_came() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::MISSING);
        let (uffd, task) = (&world.uffd, &mut world.task);
        uffd.copy(task, at(2, 0), &page_of(2), NONE).unwrap();
        let four: Vec<u8> = (10..14).flat_map(page_of).collect();
        let stopped = uffd.copy(task, BASE, &four, NONE).unwrap_err();
        assert_eq!(stopped, Stopped { done: 2 * MIB2, error: UserfaultError::Exists { address: at(2, 0) } });
        assert_eq!(stopped.errno(), Errno::EAGAIN);
        let stopped = uffd.copy(task, at(2, 0), &four[..MIB2 as usize], NONE).unwrap_err();
        assert_eq!((stopped.done, stopped.errno()), (0, Errno::EEXIST));
        let mut cpu = Cpu::new(&world.space).unwrap();
        for (page, byte) in [(0, 10), (1, 11), (2, 2)] {
            assert_eq!(load(&mut cpu, task, page), Ok(byte));
        }
        drop(cpu);
        world.end();
    }
}

#[test]
fn a_page_that_the_file_has_is_not_copied_over_in_a_shared_mapping() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::MISSING);
    world.file.write_at(&mut world.task, 0, b"here").unwrap();
    let stopped = world.uffd.copy(&mut world.task, BASE, &page_of(1), NONE).unwrap_err();
    assert_eq!(stopped.errno(), Errno::EEXIST);
    let stopped =
        world.uffd.continue_range(&mut world.task, at(1, 0), MIB2, ContinueMode::empty()).unwrap_err();
    assert_eq!(stopped.error, UserfaultError::NotInFile { address: at(1, 0) });
    assert_eq!(stopped.errno(), Errno::EFAULT);
    world.end();
}

#[test]
fn a_page_beyond_the_end_of_the_file_is_no_fault_of_the_handler() {
    let mut world = World::registered(4, MapFlags::SHARED, Modes::MISSING);
    world.file.truncate(&mut world.task, 2 * MIB2).unwrap();
    let mut cpu = world.cpu();
    assert_eq!(load(&mut cpu, &mut world.task, 2), Err(FaultError::BeyondEof { index: 2 }));
    let stopped = world.uffd.copy(&mut world.task, at(2, 0), &page_of(1), NONE).unwrap_err();
    assert_eq!(stopped.errno(), Errno::EFAULT);
    drop(cpu);
    world.end();
}

#[test]
fn a_copy_uses_the_reservation_as_a_fault_does_and_an_empty_pool_is_an_error() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::MISSING);
        let pool = |world: &World| world.hugetlb.pool(X86_64::SIZE_2M).counters();
        assert_eq!(pool(&world).reserved, 4);
        world.uffd.copy(&mut world.task, BASE, &page_of(1), NONE).unwrap();
        assert_eq!(pool(&world).reserved, 3);
        // What fails brings its reservation back.
        world.file.truncate(&mut world.task, 4 * MIB2).unwrap();
        let _ = world.uffd.copy(&mut world.task, BASE, &page_of(1), NONE).unwrap_err();
        assert_eq!(pool(&world).reserved, 3);
        world.end();

        let mut world = World::new(4, kind | MapFlags::NORESERVE, Features::empty());
        world.register(Modes::MISSING);
        world.hugetlb.resize_pool(X86_64::SIZE_2M, 1);
        world.uffd.copy(&mut world.task, BASE, &page_of(1), NONE).unwrap();
        let stopped = world.uffd.copy(&mut world.task, at(1, 0), &page_of(1), NONE).unwrap_err();
        assert!(matches!(stopped.error, UserfaultError::NoPage(_)));
        assert_eq!(stopped.errno(), Errno::ENOMEM);
        world.end();
    }
}

#[test]
fn who_is_woken_without_a_page_comes_back_and_who_is_not_woken_sleeps_on() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::MISSING);
    let woken = AtomicBool::new(false);
    let (seen, ()) = world.beside(
        |cpu, task| {
            let seen = load(cpu, task, 0);
            woken.store(true, Ordering::Release);
            seen
        },
        |task, uffd| {
            let first = read_fault(uffd, task);
            // A message is read once.
            assert!(!uffd.poll() && uffd.try_read_event().is_none());
            uffd.wake(at(1, 0), MIB2).unwrap();
            a_while();
            assert!(!uffd.poll());
            uffd.wake(at(0, 0), 2 * MIB2).unwrap();
            assert_eq!(read_fault(uffd, task), first);
            uffd.copy(task, BASE, &page_of(8), CopyMode::DONTWAKE).unwrap();
            a_while();
            assert!(!woken.load(Ordering::Acquire));
            uffd.wake(BASE, MIB2).unwrap();
        },
    );
    assert_eq!(seen, Ok(8));
    world.end();
}

#[test]
fn with_the_feature_the_fault_is_a_signal_and_no_message() {
    for kind in KINDS {
        let mut world = World::new(2, kind, Features::SIGBUS);
        world.register(Modes::MISSING);
        let mut cpu = world.cpu();
        let error = load(&mut cpu, &mut world.task, 1).unwrap_err();
        assert_eq!(error, FaultError::Userfault { address: at(1, 0) });
        assert!(error.is_bus_error());
        assert!(!world.uffd.poll());
        world.uffd.copy(&mut world.task, at(1, 0), &page_of(3), NONE).unwrap();
        assert_eq!(load(&mut cpu, &mut world.task, 1), Ok(3));
        drop(cpu);
        world.end();
    }
}

#[test]
fn what_is_not_registered_is_unregistered_wherever_in_it_the_range_ends() {
    for kind in KINDS {
        let mut world = World::new(2, kind, Features::empty());
        let cut = MIB2 + 4096;
        assert_eq!(world.uffd.unregister(&mut world.task, BASE, cut), Ok(()));
        world.register(Modes::MISSING);
        let refused = world.uffd.unregister(&mut world.task, BASE, cut);
        assert!(matches!(refused, Err(UserfaultError::Unaligned { .. })), "{refused:?}");
        world.end();
    }
}

#[test]
fn populating_a_range_waits_for_each_page_of_the_handler() {
    let mut world = World::registered(3, MapFlags::SHARED, Modes::MISSING);
    let space = world.space.clone();
    let (populated, ()) = world.beside(
        |_, task| space.madvise(task, BASE, 3 * MIB2, Advice::PopulateWrite),
        |task, uffd| {
            for page in 0..3 {
                let fault = read_fault(uffd, task);
                assert_eq!(fault.address, at(page, 0));
                uffd.copy(task, fault.address, &page_of(page as u8), NONE).unwrap();
            }
        },
    );
    assert_eq!(populated, Ok(()));
    assert_eq!(world.file.pages(), 3);
    drop(space);
    world.end();
}

#[test]
fn bad_input_gives_the_error_of_linux_and_changes_nothing() {
    let mut world = World::new(4, MapFlags::SHARED, Features::empty());
    let (uffd, task) = (&world.uffd, &mut world.task);
    let modes = Modes::MISSING;
    let all = 4 * MIB2;
    let top = VirtAddr::new((1 << 47) - 4096);
    for (start, length, modes, expected) in [
        (BASE, all, Modes::empty(), Errno::EINVAL),
        (BASE, all, Modes::from_bits_retain(8), Errno::EINVAL),
        (BASE, 0, modes, Errno::EINVAL),
        (at(0, 1), MIB2, modes, Errno::EINVAL),
        (BASE, MIB2 + 1, modes, Errno::EINVAL),
        (at(0, 4096), MIB2, modes, Errno::EINVAL),
        (BASE, MIB2 + 4096, modes, Errno::EINVAL),
        (BASE, u64::MAX - 4095, modes, Errno::EINVAL),
        (top, 4096, modes, Errno::EINVAL),
        (VirtAddr::new(GIB), MIB2, modes, Errno::EINVAL),
        (at(4, 0), MIB2, modes, Errno::ENOMEM),
    ] {
        let result = uffd.register(task, start, length, modes);
        assert_eq!(errno(result), expected, "register {start:?} {length:#x} {modes:?}");
    }
    assert!(Userfault::new(&world.space, Features::from_bits_retain(1 << 40)).is_err());
    // Nothing is registered, and so nothing can be filled.
    let copy =
        |task: &mut _, start, bytes: &[u8], mode| uffd.copy(task, start, bytes, mode).unwrap_err().errno();
    assert_eq!(copy(task, BASE, &page_of(1), NONE), Errno::ENOENT);
    // Holes are left out.
    let operations = uffd.register(task, VirtAddr::new(GIB), 40 * GIB, modes).unwrap();
    assert_eq!(operations, Operations::WAKE | Operations::COPY | Operations::POISON);
    for (start, length, mode, expected) in [
        (BASE, 0, NONE, Errno::EINVAL),
        (BASE, 4096, NONE, Errno::EINVAL),
        (at(0, 4096), MIB2, NONE, Errno::EINVAL),
        (at(0, 1), MIB2, NONE, Errno::EINVAL),
        (BASE, MIB2, CopyMode::from_bits_retain(4), Errno::EINVAL),
        // Not registered for write protection.
        (BASE, MIB2, CopyMode::WP, Errno::EINVAL),
        (at(3, 0), 2 * MIB2, NONE, Errno::ENOENT),
        (VirtAddr::new(GIB), MIB2, NONE, Errno::ENOENT),
    ] {
        let bytes = vec![1; length as usize];
        assert_eq!(copy(task, start, &bytes, mode), expected, "copy {start:?} {length:#x} {mode:?}");
    }
    let go_on = uffd.continue_range(task, BASE, MIB2, ContinueMode::from_bits_retain(2));
    assert_eq!(go_on.unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(uffd.zero(task, BASE, MIB2).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(errno(uffd.wake(at(0, 1), MIB2)), Errno::EINVAL);
    // The last addresses that there are.
    uffd.wake(VirtAddr::new(top.as_u64() - 4096), 4096).unwrap();
    assert_eq!(errno(uffd.wake(top, 4096)), Errno::EINVAL);
    assert_eq!(errno(uffd.unregister(task, at(4, 0), MIB2)), Errno::ENOMEM);
    assert_eq!(errno(uffd.unregister(task, VirtAddr::new(GIB), MIB2)), Errno::EINVAL);
    assert_eq!(errno(uffd.unregister(task, at(0, 4096), MIB2)), Errno::EINVAL);
    assert_eq!(errno(uffd.unregister(task, BASE, MIB2 + 4096)), Errno::EINVAL);
    assert_eq!(world.file.pages(), 0);
    world.end();
}

#[test]
fn after_the_end_of_the_process_the_handler_is_told_so() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::MISSING);
    world.space.exit(&mut world.task).unwrap();
    let (uffd, task) = (&world.uffd, &mut world.task);
    assert_eq!(uffd.copy(task, BASE, &page_of(1), NONE).unwrap_err().errno(), Errno::ESRCH);
    assert_eq!(errno(uffd.register(task, BASE, MIB2, Modes::MISSING)), Errno::ENOMEM);
    assert_eq!(errno(uffd.read_event(task)), Errno::ESRCH);
    world.end();
}

#[test]
fn a_mapping_has_one_handler_and_faults_of_others_are_none_of_its() {
    let mut world = World::registered(4, MapFlags::SHARED, Modes::MISSING);
    let second = Userfault::new(&world.space, Features::empty()).unwrap();
    let task = &mut world.task;
    assert_eq!(errno(second.register(task, at(1, 0), MIB2, Modes::MISSING)), Errno::EBUSY);
    world.uffd.unregister(task, at(1, 0), MIB2).unwrap();
    second.register(task, at(1, 0), MIB2, Modes::MISSING).unwrap();
    let uffd = &world.uffd;
    let (hugetlb, space) = (&world.hugetlb, &world.space);
    std::thread::scope(|scope| {
        for page in [0, 1] {
            scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                load(&mut Cpu::new(space).unwrap(), &mut task, page).unwrap();
            });
        }
        for (handler, page) in [(uffd, 0), (&second, 1)] {
            until(|| handler.poll());
            let fault = read_fault(handler, task);
            assert_eq!(fault.address, at(page, 0));
            handler.copy(task, fault.address, &page_of(1), NONE).unwrap();
            assert!(!handler.poll());
        }
    });
    drop(second);
    world.end();
}

/// Seen by mincore, which asks the file about what no table covers: as on Linux 6.18.
#[test]
fn a_fork_copies_the_tables_of_a_private_mapping_to_which_a_handler_tried_to_copy() {
    for tried in [false, true] {
        let mut world = World::registered(2, MapFlags::SHARED, Modes::MISSING);
        let other = file_of(&mut world.task, 1);
        map_at(&world.space, &mut world.task, &other, at(5, 0), MapFlags::empty());
        if tried {
            let refused = world.uffd.copy(&mut world.task, at(5, 0), &page_of(1), NONE);
            assert_eq!(refused.unwrap_err().error, UserfaultError::NotRegistered { address: at(5, 0) });
        }
        world.uffd.copy(&mut world.task, BASE, &page_of(1), NONE).unwrap();
        let child = world.space.fork(&mut world.task).unwrap();
        let resident = child.mincore(&mut world.task, BASE..at(1, 0)).unwrap();
        assert_eq!(resident, [(BASE, !tried)]);
        child.exit(&mut world.task).unwrap();
        drop((child, other));
        world.end();
    }
}

#[test]
fn populating_for_stores_meets_the_protection_of_what_was_not_there() {
    for kind in KINDS {
        let mut world = World::new(2, kind, Features::SIGBUS);
        world.register(Modes::WP);
        world.uffd.write_protect(&mut world.task, at(1, 0), MIB2, ProtectMode::WP).unwrap();
        let refused = world.space.madvise(&mut world.task, BASE, 2 * MIB2, Advice::PopulateWrite);
        assert_eq!(refused.unwrap_err().errno(), Errno::EFAULT);
        world.space.madvise(&mut world.task, BASE, 2 * MIB2, Advice::PopulateRead).unwrap();
        world.space.madvise(&mut world.task, BASE, MIB2, Advice::PopulateWrite).unwrap();
        world.end();
    }
}
