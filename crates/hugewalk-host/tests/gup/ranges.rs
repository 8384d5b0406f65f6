//! Ranges: whole, in pieces, up to what cannot be had; who must not sleep, and who dumps core.

use core::ops::Deref;
use hugewalk::Hugetlb;
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::fault::Access;
use hugewalk::gup::{GupError, Pins};
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::vma::Protection;
use hugewalk_host::Host;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::setup::{BASE, BOTH, DUMP, GET, GIB, LONGTERM, MIB2, PIN, WRITE, World, at, byte};

#[test]
fn a_range_gives_as_many_pages_as_it_touches() {
    let mut world = World::new();
    world.map_private(4);
    let pins = world.space.pin_pages(&mut world.task, at(0, MIB2 - 1), MIB2 + 2, PIN | WRITE).unwrap();
    assert_eq!((pins.pages().len(), pins.bytes(), pins.stopped_by()), (3, MIB2 + 2, None));
    assert_eq!(pins.small_pages(), 1 + 512 + 1);
    assert_eq!(pins.start(), at(0, MIB2 - 1));
    let frames: Vec<_> = pins.pages().map(|page| page.frame()).collect();
    for (page, frame) in (0..).zip(frames) {
        let found = world.space.follow_page(&world.task, at(page, 99), GET).unwrap().unwrap();
        assert_eq!(found.frame(), frame);
    }
}

#[test]
fn a_range_that_ends_in_a_hole_gives_the_pages_before_it() {
    let mut world = World::new();
    world.map_private(2);
    for fast in [false, true] {
        let start = at(0, 4096);
        let (pages, bytes, stopped_by) = if fast {
            let pins = world.space.pin_pages_fast(&mut world.task, start, 8 * MIB2, PIN | WRITE).unwrap();
            (pins.small_pages(), pins.bytes(), pins.stopped_by())
        } else {
            let pins = world.space.pin_pages(&mut world.task, start, 8 * MIB2, PIN | WRITE).unwrap();
            (pins.small_pages(), pins.bytes(), pins.stopped_by())
        };
        assert_eq!((pages, bytes), (2 * 512 - 1, 2 * MIB2 - 4096));
        assert_eq!(stopped_by, Some(GupError::NotMapped { address: at(2, 0) }));
    }
    assert_eq!(world.pin(2, GET).unwrap_err(), GupError::NotMapped { address: at(2, 0) });
}

#[test]
fn a_range_across_mappings_stops_at_the_one_that_does_not_allow_it() {
    let mut world = World::new();
    world.map_private(3);
    world.space.mprotect(&mut world.task, at(1, 0), MIB2, Protection::READ).unwrap();
    world.space.mprotect(&mut world.task, at(2, 0), MIB2, Protection::WRITE).unwrap();
    let mut pin = |flags| world.space.pin_pages(&mut world.task, BASE, 3 * MIB2, flags).unwrap();
    let writing = pin(WRITE);
    assert_eq!(
        (writing.bytes(), writing.stopped_by()),
        (MIB2, Some(GupError::Protection { address: at(1, 0) }))
    );
    let reading = pin(GET);
    assert_eq!(reading.stopped_by(), Some(GupError::Protection { address: at(2, 0) }));
    assert_eq!(reading.stopped_by().unwrap().errno(), Errno::EFAULT);
    assert_eq!(reading.bytes(), 2 * MIB2);
}

#[test]
fn a_page_of_a_gigabyte_is_pinned_as_one() {
    let World { hugetlb, mut task, space } = World::new();
    assert_eq!(hugetlb.resize_pool(X86_64::SIZE_1G, 1), 1);
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: GIB,
        protection: BOTH,
        flags: MapFlags::SHARED,
        backing: Backing::Anonymous(X86_64::SIZE_1G),
    };
    space.mmap(&mut task, &request).unwrap();
    let pins = space.pin_pages(&mut task, at(3, 1), GIB - 3 * MIB2 - 1, PIN | WRITE).unwrap();
    assert_eq!((pins.pages().len(), pins.page(0).unwrap().size()), (1, X86_64::SIZE_1G));
    assert!(space.pin_page_fast(&task, at(511, MIB2 - 1), PIN | WRITE).is_some());
    space.exit(&mut task).unwrap();
    let free = || hugetlb.pool(X86_64::SIZE_1G).counters().free;
    assert_eq!(free(), 0);
    drop(pins);
    assert_eq!(free(), 1);
}

#[test]
fn who_must_not_sleep_gets_what_is_mapped_already_and_is_told_of_the_rest() {
    let mut world = World::new();
    world.map_private(3);
    world.space.fault(&mut world.task, at(0, 0), Access::Write).unwrap();
    world.space.fault(&mut world.task, at(1, 0), Access::Read).unwrap();
    let World { task, space, .. } = &world;
    let before = world.counters();
    let pins = space.pin_pages_nowait(task, at(0, 5), 3 * MIB2, PIN).unwrap();
    assert_eq!((pins.bytes(), pins.stopped_by()), (2 * MIB2 - 5, Some(GupError::WouldSleep)));
    let refused = |page, flags| space.pin_pages_nowait(task, at(page, 0), 1, flags).unwrap_err();
    assert_eq!(refused(2, PIN), GupError::WouldSleep);
    assert_eq!(refused(2, PIN).errno(), Errno::EAGAIN);
    assert_eq!(refused(2, DUMP), GupError::NoPage { address: at(2, 0) });
    assert_eq!(refused(3, PIN), GupError::NotMapped { address: at(3, 0) });
    // Mapped, but for a store it would have to be faulted once more.
    assert_eq!(refused(1, PIN | WRITE), GupError::WouldSleep);
    assert_eq!(world.counters(), before);
}

#[test]
fn who_must_not_sleep_does_not_wait_for_the_mmap_lock_either() {
    let mut world = World::new();
    world.map_private(1);
    world.space.fault(&mut world.task, BASE, Access::Write).unwrap();
    let World { hugetlb, task, space } = &world;
    let done = AtomicBool::new(false);
    let (mut had, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut task = hugewalk_host::task(hugetlb).unwrap();
            while !done.load(Ordering::Relaxed) {
                space.fork(&mut task).unwrap().exit(&mut task).unwrap();
            }
        });
        while had < 100 || refused < 100 {
            match space.pin_pages_nowait(task, BASE, 1, GET) {
                Ok(pins) => had += pins.pages().len(),
                Err(error) => {
                    assert_eq!(error, GupError::WouldSleep);
                    refused += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_core_dump_finds_holes_and_makes_no_pages() {
    let mut world = World::new();
    let file = world.map_file(3, MapFlags::SHARED);
    file.write_at(&mut world.task, MIB2, &[5]).unwrap();
    let before = world.counters();
    assert_eq!(world.pin(0, DUMP).unwrap_err(), GupError::NoPage { address: at(0, 0) });
    assert_eq!(world.pin(0, DUMP).unwrap_err().errno(), Errno::EFAULT);
    // The file has this page: it is mapped, and dumped.
    let pins = world.space.pin_pages(&mut world.task, at(1, 0), 2 * MIB2, DUMP).unwrap();
    assert_eq!((byte(&pins), pins.bytes()), (5, MIB2));
    assert_eq!(pins.stopped_by(), Some(GupError::NoPage { address: at(2, 0) }));
    assert_eq!((file.pages(), world.counters()), (1, before));
    // The table is there by now, and its entry is still empty.
    assert_eq!(world.pin(2, DUMP).unwrap_err(), GupError::NoPage { address: at(2, 0) });
}

/// What the kernel's own gup_test asks of a range: that all of it can be had in pieces of any size, for reading and for
/// writing, touched before or not, private or shared; that what was pinned counts as pinned until it is given back.
#[test]
fn a_range_can_be_had_in_pieces_of_any_size_and_counts_as_pinned_until_it_is_given_back() {
    const PAGES: u64 = 8;
    for map_flags in [MapFlags::empty(), MapFlags::SHARED] {
        for flags in [GET, WRITE, PIN, PIN | WRITE, PIN | LONGTERM, PIN | LONGTERM | WRITE] {
            for (touched, small_pages) in [(true, 1), (false, 3), (true, 512), (false, 700), (true, 4096)] {
                let mut world = World::new();
                let start = world.counters();
                let file = world.map_file(PAGES, map_flags);
                if touched {
                    for page in 0..PAGES {
                        world.cpu().store(&mut world.task, at(page, 0), 1).unwrap();
                    }
                }
                let (mut slow, mut fast) = (Vec::new(), Vec::new());
                // Single small pages of a huge one are all alike: a few will do.
                let step = if small_pages == 1 { 100 } else { small_pages };
                for first in (0..PAGES * 512).step_by(step) {
                    let address = at(0, first * 4096);
                    let length = (small_pages as u64).min(PAGES * 512 - first) * 4096;
                    let pins = world.space.pin_pages(&mut world.task, address, length, flags).unwrap();
                    assert_eq!((pins.small_pages() * 4096, pins.stopped_by()), (length, None));
                    slow.push(pins);
                    let pins = world.space.pin_pages_fast(&mut world.task, address, length, flags).unwrap();
                    assert_eq!((pins.small_pages() * 4096, pins.stopped_by()), (length, None));
                    fast.push(pins);
                }
                for (slow, fast) in slow.iter().zip(&fast) {
                    for (slow, fast) in slow.pages().zip(fast.pages()) {
                        assert_eq!(slow.frame(), fast.frame());
                        assert_eq!(slow.page().pins() > 0, flags.contains(PIN));
                    }
                }
                let first = world.space.follow_page(&world.task, BASE, GET).unwrap().unwrap();
                drop((slow, fast));
                assert_eq!(first.page().pins(), 0);
                drop(first);
                world.space.exit(&mut world.task).unwrap();
                drop(file);
                assert_eq!(world.counters(), start);
            }
        }
    }
}

/// The frames of pages, each of which is pinned once.
fn pinned_once<H: Deref<Target = Hugetlb<Host>>>(pins: &Pins<Host, H>) -> Vec<HugeFrame> {
    assert_eq!(pins.stopped_by(), None);
    pins.pages().for_each(|page| assert_eq!(page.page().pins(), 1));
    pins.pages().map(|page| page.frame()).collect()
}

#[test]
fn pages_of_several_tables_come_one_after_the_other_whether_they_were_there_or_not() {
    let missing = [0, 7, 8, 19, 20, 39];
    for (way, missing) in [
        ("pin_pages", &missing[..]),
        ("fast", &missing[..]),
        ("pin_pages", &[]),
        ("fast", &[]),
        ("nowait", &[]),
    ] {
        let mut world = World::new();
        // 20 pages before the end of a table, 20 behind it.
        let start = at(512 - 20, 0);
        map_private_at(&mut world, start, 40);
        // The first entries of that table are others.
        map_private_at(&mut world, BASE, 20);
        for index in 0..20 {
            world.cpu().store(&mut world.task, at(index, 0), 2).unwrap();
        }
        let page = |index: u64| start.checked_add(index * MIB2).unwrap();
        for index in (0..40).filter(|index| !missing.contains(index)) {
            world.cpu().store(&mut world.task, page(index), 1).unwrap();
        }
        let World { task, space, .. } = &mut world;
        let frames = match way {
            "pin_pages" => pinned_once(&space.pin_pages(task, start, 40 * MIB2, PIN).unwrap()),
            "fast" => pinned_once(&space.pin_pages_fast(task, start, 40 * MIB2, PIN).unwrap()),
            _ => pinned_once(&space.pin_pages_nowait(task, start, 40 * MIB2, PIN).unwrap()),
        };
        let mapped = |index| space.follow_page(task, page(index), GET).unwrap().expect("mapped").frame();
        assert_eq!(frames, (0..40).map(mapped).collect::<Vec<_>>(), "{way}");
    }
}

#[test]
fn pages_behind_the_mapping_whose_rights_were_looked_at_are_not_taken_with_it() {
    let mut world = World::new();
    map_private_at(&mut world, BASE, 4);
    for index in 0..4 {
        world.cpu().store(&mut world.task, at(index, 0), 1).unwrap();
    }
    // Such an entry can be read: only the mapping says that it must not be.
    world.space.mprotect(&mut world.task, at(2, 0), 2 * MIB2, Protection::WRITE).unwrap();
    let World { task, space, .. } = &mut world;
    let stopped_by = Some(GupError::Protection { address: at(2, 0) });
    let pins = space.pin_pages(task, BASE, 4 * MIB2, PIN).unwrap();
    assert_eq!((pins.bytes(), pins.stopped_by()), (2 * MIB2, stopped_by));
    let pins = space.pin_pages_nowait(task, BASE, 4 * MIB2, PIN).unwrap();
    assert_eq!((pins.bytes(), pins.stopped_by()), (2 * MIB2, stopped_by));
}

fn map_private_at(world: &mut World, start: VirtAddr, pages: u64) {
    let request = MapRequest {
        placement: Placement::Fixed(start),
        length: pages * MIB2,
        protection: BOTH,
        flags: MapFlags::empty(),
        backing: Backing::Anonymous(X86_64::SIZE_2M),
    };
    world.space.mmap(&mut world.task, &request).unwrap();
}
