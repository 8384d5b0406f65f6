//! Pins and copy-on-write.

use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::gup::GupError;
use hugewalk::mm::{MapError, MapFlags};
use hugewalk_host::Cpu;

use crate::setup::{BASE, GET, MIB2, PIN, WRITE, World, at, byte};

#[test]
fn a_page_pinned_for_reading_is_copied_if_a_child_shares_it_and_stays_write_protected() {
    let mut world = World::new();
    world.map_private(1);
    let mut cpu = world.cpu();
    cpu.store(&mut world.task, BASE, 1).unwrap();
    let child = world.space.fork(&mut world.task).unwrap();
    let mut child_cpu = Cpu::new(&child).unwrap();

    // A mere reference is to the page that both have.
    let got = world.pin(0, GET).unwrap();
    assert_eq!(got.page(0).unwrap().page().mapcount(), 2);
    // Without sleeping there is no way to copy it.
    let nowait = world.space.pin_pages_nowait(&world.task, BASE, 1, PIN);
    assert_eq!(nowait.unwrap_err(), GupError::WouldSleep);
    assert!(world.space.follow_page(&world.task, BASE, PIN).unwrap().is_none());
    assert!(world.space.pin_page_fast(&world.task, BASE, PIN).is_none());
    assert_eq!(got.page(0).unwrap().page().pins(), 0);

    let pins = world.pin(0, PIN).unwrap();
    assert_ne!(pins.page(0).unwrap().frame(), got.page(0).unwrap().frame());
    assert_eq!((byte(&pins), pins.page(0).unwrap().page().mapcount()), (1, 1));
    assert!(world.space.pin_page_fast(&world.task, BASE, PIN | WRITE).is_none(), "still write-protected");
    // What the process stores from now on is seen through the pin; by the child it is not.
    cpu.store(&mut world.task, BASE, 2).unwrap();
    assert_eq!((byte(&pins), byte(&got)), (2, 1));
    assert_eq!(child_cpu.load(&mut world.task, BASE), Ok(1));
    // The child has the old page to itself: no copy is needed for its pin.
    let pins = child.pin_pages(&mut world.task, BASE, 1, PIN).unwrap();
    assert_eq!(pins.page(0).unwrap().frame(), got.page(0).unwrap().frame());
}

#[test]
fn a_page_of_the_file_is_pinned_for_reading_as_it_is() {
    let mut world = World::new();
    let file = world.map_file(1, MapFlags::empty());
    file.write_at(&mut world.task, 0, &[3]).unwrap();
    let pins = world.pin(0, PIN).unwrap();
    assert_eq!((byte(&pins), pins.page(0).unwrap().page().is_anon()), (3, false));
    // For writing it is copied.
    let copy = world.pin(0, PIN | WRITE).unwrap();
    copy.page(0).unwrap().write(0, &[4]).unwrap();
    assert_eq!((byte(&copy), byte(&pins), copy.page(0).unwrap().page().is_anon()), (4, 3, true));
    assert_eq!(world.cpu().load(&mut world.task, BASE), Ok(4));
}

#[test]
fn fork_leaves_a_pinned_page_to_the_parent_as_it_is_and_gives_the_child_a_copy() {
    let mut world = World::new();
    world.map_private(3);
    let mut cpu = world.cpu();
    for page in 0..3 {
        cpu.store(&mut world.task, at(page, 0), 10 + page as u8).unwrap();
    }
    let pins = world.pin(1, PIN).unwrap();
    let free = world.counters().free;
    let child = world.space.fork(&mut world.task).unwrap();
    assert_eq!(world.counters().free, free - 1);
    // Not even write-protected: a store needs no fault.
    let faults = cpu.stats().faults;
    cpu.store(&mut world.task, at(1, 0), 21).unwrap();
    assert_eq!((cpu.stats().faults, byte(&pins)), (faults, 21));
    assert_eq!(pins.page(0).unwrap().page().mapcount(), 1);
    let mut child_cpu = Cpu::new(&child).unwrap();
    for page in 0..3 {
        assert_eq!(child_cpu.load(&mut world.task, at(page, 0)), Ok(10 + page as u8));
    }
    // The copy is the child's alone, and it may write to it at once.
    let own = child.follow_page(&world.task, at(1, 0), PIN | WRITE).unwrap().unwrap();
    assert_ne!(own.frame(), pins.page(0).unwrap().frame());
    // The other pages are shared until somebody writes.
    assert!(child.follow_page(&world.task, at(0, 0), WRITE).unwrap().is_none());
    drop(own);
    child.exit(&mut world.task).unwrap();
    assert_eq!(world.counters().free, free);
}

#[test]
fn a_mere_reference_does_not_keep_fork_from_sharing_the_page() {
    let mut world = World::new();
    world.map_private(1);
    let got = world.pin(0, WRITE).unwrap();
    let free = world.counters().free;
    let child = world.space.fork(&mut world.task).unwrap();
    assert_eq!((world.counters().free, got.page(0).unwrap().page().mapcount()), (free, 2));
    child.exit(&mut world.task).unwrap();
}

#[test]
fn a_fork_that_cannot_copy_a_pinned_page_leaves_nothing_behind() {
    let mut world = World::new();
    world.map_private(4);
    let mut cpu = world.cpu();
    for page in 0..4 {
        cpu.store(&mut world.task, at(page, 0), 1).unwrap();
    }
    let pins = world.space.pin_pages(&mut world.task, at(1, 0), 2 * MIB2, PIN).unwrap();
    // One page is left: enough for the first of the two copies.
    world.hugetlb.resize_pool(X86_64::SIZE_2M, 5);
    let (before, tables) = (world.counters(), world.hugetlb.platform().usage().tables);
    let error = world.space.fork(&mut world.task).unwrap_err();
    assert!(matches!(error, MapError::NoPage(_)), "{error:?}");
    assert_eq!(error.errno(), Errno::ENOMEM);
    world.task.rcu_barrier();
    assert_eq!((world.counters(), world.hugetlb.platform().usage().tables), (before, tables));
    for page in 0..4 {
        cpu.store(&mut world.task, at(page, 0), 2).unwrap();
    }
    assert_eq!((byte(&pins), world.counters()), (2, before), "all are the parent's alone again");
}
