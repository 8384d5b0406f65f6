//! Bad input, and no memory.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::gup::{GupError, GupFlags};
use hugewalk::mm::MapFlags;
use hugewalk::pool::PoolCounters;

use crate::setup::{BASE, DUMP, GET, LONGTERM, MIB2, PIN, WRITE, World, byte};

#[test]
fn what_linux_refuses_is_refused_and_nothing_changes() {
    let mut world = World::new();
    world.map_private(2);
    let before = world.counters();
    let World { task, space, .. } = &mut world;
    let top = space.mm().task_size().as_u64();

    for flags in [LONGTERM, LONGTERM | WRITE, GupFlags::from_bits_retain(1 << 31) | PIN] {
        let errors = [
            space.pin_pages(task, BASE, 1, flags).unwrap_err(),
            space.pin_pages_fast(task, BASE, 1, flags).unwrap_err(),
            space.pin_pages_nowait(task, BASE, 1, flags).unwrap_err(),
            space.follow_page(task, BASE, flags).unwrap_err(),
        ];
        assert_eq!(errors, [GupError::BadFlags; 4]);
    }
    assert_eq!(space.pin_pages_fast(task, BASE, 1, DUMP).unwrap_err().errno(), Errno::EINVAL);

    let foreign_calls = |length| {
        let foreign = &mut World::new().task;
        assert_eq!(space.pin_pages(foreign, BASE, length, PIN).unwrap_err(), GupError::WrongSystem);
        assert_eq!(space.pin_pages_fast(foreign, BASE, length, PIN).unwrap_err(), GupError::WrongSystem);
        assert_eq!(space.pin_pages_nowait(foreign, BASE, length, PIN).unwrap_err(), GupError::WrongSystem);
        assert_eq!(space.follow_page(foreign, BASE, PIN).unwrap_err(), GupError::WrongSystem);
        assert!(space.pin_page_fast(foreign, BASE, PIN).is_none());
        assert_eq!(space.read_bytes(foreign, BASE, &mut [0]).unwrap_err().errno(), Errno::EINVAL);
    };
    for length in [0, 1, u64::MAX] {
        std::thread::scope(|scope| scope.spawn(move || foreign_calls(length)).join().unwrap());
    }

    // A length of 0 is no error, wherever it is.
    for address in [0, BASE.as_u64(), BASE.as_u64() + 1, top] {
        let address = VirtAddr::new(address);
        assert_eq!(space.pin_pages(task, address, 0, PIN).unwrap().small_pages(), 0);
        assert_eq!(space.pin_pages_fast(task, address, 0, PIN).unwrap().small_pages(), 0);
        assert_eq!(space.pin_pages_nowait(task, address, 0, PIN).unwrap().small_pages(), 0);
    }
    // Ranges that wrap, or begin where nothing can be mapped.
    for (address, length) in [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 1), (top, 1), (top - 1, 2)] {
        let address = VirtAddr::new(address);
        assert_eq!(space.pin_pages(task, address, length, PIN).unwrap_err().errno(), Errno::EFAULT);
        assert_eq!(space.pin_pages_nowait(task, address, length, PIN).unwrap_err().errno(), Errno::EFAULT);
        assert_eq!(space.pin_pages_fast(task, address, length, PIN).unwrap_err().errno(), Errno::EFAULT);
    }
    let error = space.pin_pages_fast(task, BASE, u64::MAX - 5, PIN).unwrap_err();
    assert_eq!(error, GupError::OutOfRange { address: BASE, length: u64::MAX - 5 });
    assert_eq!(world.counters(), before);
}

#[test]
fn a_page_that_cannot_be_faulted_in_is_an_error_and_costs_nothing() {
    let mut world = World::new();
    let file = world.map_file(2, MapFlags::SHARED | MapFlags::NORESERVE);
    file.truncate(&mut world.task, MIB2).unwrap();
    let pins = world.space.pin_pages(&mut world.task, BASE, 2 * MIB2, PIN).unwrap();
    let beyond = GupError::Fault(FaultError::BeyondEof { index: 1 });
    assert_eq!((pins.bytes(), pins.stopped_by()), (MIB2, Some(beyond)));
    assert_eq!(beyond.errno(), Errno::EFAULT);
    drop(pins);
    file.truncate(&mut world.task, 0).unwrap();
    file.truncate(&mut world.task, 2 * MIB2).unwrap();
    world.hugetlb.resize_pool(X86_64::SIZE_2M, 0);
    let error = world.pin(0, PIN).unwrap_err();
    assert!(matches!(error, GupError::Fault(FaultError::PoolEmpty(_))), "{error:?}");
    assert_eq!(world.counters(), PoolCounters::default());
}

#[test]
fn without_memory_for_tables_or_pages_there_is_an_error_and_nothing_is_lost() {
    for flags in [PIN, PIN | WRITE] {
        for allowed in 0..3 {
            let mut world = World::new();
            let file = world.map_file(1, MapFlags::SHARED);
            let before = (world.counters(), world.hugetlb.platform().usage());
            world.hugetlb.platform().fail_tables_after(Some(allowed));
            let result = world.pin(0, flags).map(drop);
            world.hugetlb.platform().fail_tables_after(None);
            match allowed {
                0 | 1 => assert_eq!(result.unwrap_err().errno(), Errno::ENOMEM),
                _ => assert_eq!(result, Ok(())),
            }
            assert_eq!(world.pin(0, flags).unwrap().pages().len(), 1);
            world.space.exit(&mut world.task).unwrap();
            drop(file);
            world.task.rcu_barrier();
            let after = (world.counters(), world.hugetlb.platform().usage());
            assert_eq!(after.0, PoolCounters { reserved: 0, ..before.0 });
            assert_eq!(after.1.tables, before.1.tables);
        }
    }
}

#[test]
fn a_pin_for_reading_that_cannot_copy_is_an_error_and_the_page_stays_shared() {
    let mut world = World::new();
    world.map_private(1);
    world.cpu().store(&mut world.task, BASE, 1).unwrap();
    let child = world.space.fork(&mut world.task).unwrap();
    world.hugetlb.resize_pool(X86_64::SIZE_2M, 1);
    let before = world.counters();
    let error = child.pin_pages(&mut world.task, BASE, 1, PIN).unwrap_err();
    assert!(matches!(error, GupError::Fault(FaultError::PoolEmpty(_))), "{error:?}");
    let got = child.pin_pages(&mut world.task, BASE, 1, GET).unwrap();
    let held = got.page(0).unwrap();
    let page = held.page();
    assert_eq!((page.mapcount(), page.pins(), page.references()), (2, 0, 3));
    assert_eq!(world.counters(), before);
    // The owner of the reservation takes the page from the child, as for a store.
    let pins = world.pin(0, PIN).unwrap();
    assert_eq!((byte(&pins), pins.page(0).unwrap().page().mapcount()), (1, 1));
    let error = child.pin_pages(&mut world.task, BASE, 1, PIN).unwrap_err();
    assert_eq!(error, GupError::Fault(FaultError::TakenAway { address: BASE }));
}
