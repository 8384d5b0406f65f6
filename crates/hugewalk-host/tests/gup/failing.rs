//! Pages that fail, or move.

use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::gup::GupError;

use crate::setup::{BASE, DUMP, GET, LONGTERM, MIB2, PIN, WRITE, World, at, byte};

#[test]
fn a_page_with_a_hardware_error_is_an_error_of_its_own_in_every_way_to_ask() {
    let mut world = World::new();
    world.map_private(3);
    for page in 0..3 {
        world.cpu().store(&mut world.task, at(page, 0), 1).unwrap();
    }
    let held = world.pin(1, PIN).unwrap();
    let World { hugetlb, task, space } = &mut world;
    hugetlb.memory_failure(task, held.page(0).unwrap().frame()).unwrap_err();
    let error = GupError::Hwpoison { address: at(1, 0), size: X86_64::SIZE_2M };
    assert_eq!(error.errno(), Errno::EHWPOISON);
    assert_eq!(space.pin_pages(task, at(1, 5), 1, PIN).unwrap_err(), error);
    assert_eq!(space.pin_pages(task, at(1, 5), 1, DUMP).unwrap_err(), error);
    assert_eq!(space.pin_pages_fast(task, at(1, 5), 1, GET).unwrap_err(), error);
    assert_eq!(space.pin_pages_nowait(task, at(1, 5), 1, WRITE).unwrap_err(), error);
    assert_eq!(space.follow_page(task, at(1, 5), GET).unwrap_err(), error);
    assert!(space.pin_page_fast(task, at(1, 5), GET).is_none());
    let pins = space.pin_pages(task, BASE, 3 * MIB2, PIN).unwrap();
    assert_eq!((pins.bytes(), pins.stopped_by()), (MIB2, Some(error)));
    // process_vm_readv knows one error only.
    let mut bytes = [0; 4];
    assert_eq!(space.read_bytes(task, at(1, 0), &mut bytes).unwrap_err().errno(), Errno::EFAULT);
    assert_eq!(space.read_bytes(task, at(0, MIB2 - 3), &mut bytes), Ok(3));
}

#[test]
fn a_pinned_page_does_not_move_and_one_that_moved_is_pinned_where_it_is() {
    let mut world = World::new();
    world.map_private(1);
    world.cpu().store(&mut world.task, BASE, 6).unwrap();
    for flags in [GET, PIN, PIN | LONGTERM | WRITE] {
        let pins = world.pin(0, flags).unwrap();
        let frame = pins.page(0).unwrap().frame();
        let refused = world.hugetlb.migrate(&mut world.task, frame).unwrap_err();
        assert_eq!(refused.errno(), Errno::EBUSY);
        world.cpu().store(&mut world.task, BASE, 7).unwrap();
        assert_eq!(byte(&pins), 7);
        drop(pins);
        let moved = world.hugetlb.migrate(&mut world.task, frame).unwrap();
        let pins = world.pin(0, flags).unwrap();
        assert_eq!((pins.page(0).unwrap().frame(), byte(&pins)), (moved, 7));
    }
}
