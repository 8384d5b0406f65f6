//! What a pin keeps, and for how long.

use hugewalk::arch::X86_64;
use hugewalk::fault::Access;
use hugewalk::gup::NotPinnedForWriting;
use hugewalk::mm::MapFlags;
use hugewalk::pool::PoolCounters;
use hugewalk_host::Cpu;

use crate::setup::{BASE, BOTH, GET, MIB2, PIN, POOL, WRITE, World, at, byte, file_of, map, map_anonymous};

#[test]
fn a_pinned_page_survives_unmapping_truncation_fork_exit_and_the_end_of_all_who_knew_it() {
    let World { hugetlb, mut task, space } = World::new();
    let file = file_of(&mut task, 2);
    map(&space, &mut task, &file, BASE, MapFlags::SHARED).unwrap();
    Cpu::new(&space).unwrap().store(&mut task, BASE, 7).unwrap();
    let pins = space.pin_pages(&mut task, BASE, 1, PIN | WRITE).unwrap();
    let frame = pins.page(0).unwrap().frame();

    space.munmap(&mut task, BASE, 2 * MIB2).unwrap();
    assert_eq!(byte(&pins), 7);
    file.truncate(&mut task, 0).unwrap();
    assert_eq!((byte(&pins), file.pages()), (7, 0));
    // Nobody is given the page meanwhile: not even the one who takes all that are free.
    map_anonymous(&space, &mut task, POOL - 1, BOTH);
    for page in 0..POOL - 1 {
        space.fault(&mut task, at(page, 0), Access::Write).unwrap();
        let other = space.follow_page(&task, at(page, 0), GET).unwrap().unwrap();
        assert_ne!(other.frame(), frame);
    }
    let child = space.fork(&mut task).unwrap();
    child.exit(&mut task).unwrap();
    space.exit(&mut task).unwrap();
    drop((file, child, space, task));
    assert_eq!(byte(&pins), 7);

    let free = || hugetlb.pool(X86_64::SIZE_2M).counters().free;
    assert_eq!(free(), POOL - 1);
    drop(pins);
    assert_eq!(free(), POOL);
}

#[test]
fn a_pinned_page_keeps_its_system_alive() {
    let World { hugetlb, mut task, space } = World::new();
    map_anonymous(&space, &mut task, 1, BOTH);
    let pins = space.pin_pages(&mut task, BASE, 1, PIN | WRITE).unwrap();
    let fast = space.pin_pages_fast(&mut task, BASE, 1, PIN | WRITE).unwrap();
    let [fast] = fast.into_pages().collect::<Vec<_>>().try_into().unwrap();
    let fast = fast.into_owned();
    // Dropped alone, the mapping would keep its reference until the pins go: they have the last handles.
    space.exit(&mut task).unwrap();
    drop((hugetlb, task, space));
    assert_eq!(pins.page(0).unwrap().write(5, &[1, 2]), Ok(2));
    let mut bytes = [0; 3];
    assert_eq!(fast.read(5, &mut bytes), Ok(3));
    assert_eq!(bytes, [1, 2, 0]);
    assert_eq!(fast.page().pins(), 2);
    drop(pins);
    assert_eq!((fast.page().pins(), fast.page().references()), (1, 1));
}

#[test]
fn contents_are_read_and_written_up_to_the_end_of_the_page_and_no_further() {
    let mut world = World::new();
    world.map_private(2);
    let pins = world.pin(0, PIN | WRITE).unwrap();
    let page = pins.page(0).unwrap();
    assert_eq!(page.write(MIB2 - 2, &[1, 2, 3]), Ok(2));
    let mut bytes = [9; 4];
    assert_eq!(page.read(MIB2 - 3, &mut bytes), Ok(3));
    assert_eq!(bytes, [0, 1, 2, 9]);
    for offset in [MIB2, MIB2 + 1, u64::MAX] {
        assert_eq!(page.read(offset, &mut bytes), Ok(0));
        assert_eq!(page.write(offset, &bytes), Ok(0));
    }
    let read_only = world.pin(0, PIN).unwrap();
    assert_eq!(read_only.page(0).unwrap().write(0, &[1]), Err(NotPinnedForWriting));
    assert!(!read_only.page(0).unwrap().is_writable());
}

#[test]
fn pins_and_references_are_counted_apart_and_both_given_back() {
    let mut world = World::new();
    world.map_private(1);
    let pinned = world.pin(0, PIN | WRITE).unwrap();
    let got = world.pin(0, GET).unwrap();
    let held = got.page(0).unwrap();
    let page = held.page();
    assert_eq!((page.pins(), page.references(), page.mapcount()), (1, 3, 1));
    drop(pinned);
    assert_eq!((page.pins(), page.references()), (0, 2));
    world.space.munmap(&mut world.task, BASE, MIB2).unwrap();
    assert_eq!((page.pins(), page.references(), page.mapcount()), (0, 1, 0));
    drop(got);
    assert_eq!(world.counters(), PoolCounters { total: POOL, free: POOL, reserved: 0, surplus: 0 });
}

#[test]
fn pages_that_are_not_taken_out_of_a_range_are_given_back_with_it() {
    let mut world = World::new();
    world.map_private(4);
    let pins = world.space.pin_pages(&mut world.task, BASE, 4 * MIB2, PIN | WRITE).unwrap();
    let frames: Vec<_> = pins.pages().map(|page| page.frame()).collect();
    let mut pages = pins.into_pages();
    assert_eq!(pages.len(), 4);
    let (first, second) = (pages.next().unwrap(), pages.next().unwrap());
    assert_eq!([first.frame(), second.frame()], frames[..2]);
    drop((first, pages));
    let pins_of =
        |page| world.space.follow_page(&world.task, at(page, 0), GET).unwrap().unwrap().page().pins();
    assert_eq!([0, 1, 2, 3].map(pins_of), [0, 1, 0, 0]);
    world.space.exit(&mut world.task).unwrap();
    assert_eq!(world.counters().free, POOL - 1);
    drop(second);
    assert_eq!(world.counters().free, POOL);
}
