//! Which pages were written: protection that stores take off by themselves, and scans that find them.

use hugewalk::addr::VirtAddr;
use hugewalk::error::Errno;
use hugewalk::mm::MapFlags;
use hugewalk::pagewalk::{Categories, Region, Scan, ScanError, ScanFlags};
use hugewalk::uffd::{Features, Modes, ProtectMode, Userfault};

use crate::setup::{BASE, GIB, KINDS, MIB2, World, at, load, map_at, store};

const SMALL: u64 = 4096;
const WRITTEN: Categories = Categories::WRITTEN;

fn asynchronous(pages: u64, kind: MapFlags) -> World {
    let mut world = World::new(pages, kind, Features::WP_ASYNC);
    world.register(Modes::WP);
    world
}

/// A scan of the whole mapping for pages that were written.
fn for_written(world: &World) -> Scan {
    let range = BASE..at(world.pages, 0);
    Scan { mask: WRITTEN, report: WRITTEN, ..Scan::new(range) }
}

/// The pages that were written since the last call, protected again.
fn written(world: &mut World) -> Vec<u64> {
    let scan = Scan { flags: ScanFlags::WP_MATCHING, ..for_written(world) };
    let scanned = world.space.scan_pages(&mut world.task, &scan).unwrap();
    assert_eq!(scanned.end, at(world.pages, 0));
    scanned.regions.iter().flat_map(pages).collect()
}

fn pages(region: &Region) -> impl Iterator<Item = u64> + use<> {
    let number = |address: VirtAddr| address.offset_from(BASE) / MIB2;
    number(region.start)..number(region.end)
}

#[test]
fn asynchronous_protection_brings_that_of_pages_that_are_not_there_and_no_other_feature_does() {
    let world = World::new(1, MapFlags::SHARED, Features::empty());
    for (asked, has) in [
        (Features::empty(), Features::empty()),
        (Features::PAGEFAULT_FLAG_WP, Features::PAGEFAULT_FLAG_WP),
        (Features::WP_ASYNC, Features::WP_ASYNC | Features::WP_UNPOPULATED),
    ] {
        assert_eq!(Userfault::new(&world.space, asked).unwrap().features(), has);
    }
    world.end();
}

#[test]
fn a_store_takes_the_protection_off_and_the_next_scan_finds_the_page() {
    for kind in KINDS {
        let mut world = asynchronous(4, kind);
        assert!(world.uffd.features().contains(Features::WP_UNPOPULATED));
        let mut cpu = world.cpu();
        for page in 0..4 {
            store(&mut cpu, &mut world.task, page, 1).unwrap();
        }
        // Written since they are there.
        assert_eq!(written(&mut world), [0, 1, 2, 3]);
        assert_eq!(written(&mut world), [0; 0]);
        let faults = cpu.stats().faults;
        assert_eq!(load(&mut cpu, &mut world.task, 1), Ok(1));
        assert_eq!(cpu.stats().faults, faults);
        store(&mut cpu, &mut world.task, 1, 7).unwrap();
        store(&mut cpu, &mut world.task, 2, 7).unwrap();
        assert_eq!(cpu.stats().faults, faults + 2);
        assert!(!world.uffd.poll(), "the handler was asked");
        assert_eq!(written(&mut world), [1, 2]);
        assert_eq!(load(&mut cpu, &mut world.task, 1), Ok(7));
        drop(cpu);
        world.end();
    }
}

#[test]
fn a_protection_that_waits_for_a_page_is_taken_off_by_a_store_and_not_by_a_load() {
    for kind in KINDS {
        let mut world = asynchronous(3, kind);
        world.uffd.write_protect(&mut world.task, BASE, 3 * MIB2, ProtectMode::WP).unwrap();
        let mut cpu = world.cpu();
        assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(0));
        store(&mut cpu, &mut world.task, 1, 1).unwrap();
        assert_eq!(written(&mut world), [1]);
        drop(cpu);
        world.end();
    }
}

/// As the running kernel does: `hugewalk conform --table uffd`.
#[test]
fn an_empty_entry_is_not_written_and_a_page_that_comes_there_is() {
    let mut world = asynchronous(4, MapFlags::SHARED);
    let all = Scan::new(BASE..at(4, 0));
    let (allowed, huge) = (Categories::WPALLOWED, Categories::WPALLOWED | Categories::HUGE);
    let region =
        |first: u64, end: u64, categories| Region { start: at(first, 0), end: at(end, 0), categories };
    // Where there is no table, it is not even huge.
    let scanned = world.space.scan_pages(&mut world.task, &all).unwrap();
    assert_eq!(scanned.regions, [region(0, 4, allowed)]);
    let mut cpu = world.cpu();
    store(&mut cpu, &mut world.task, 0, 1).unwrap();
    assert_eq!(written(&mut world), [0]);
    // A load: the page was not protected when it came.
    load(&mut cpu, &mut world.task, 2).unwrap();
    assert_eq!(written(&mut world), [2]);
    let scanned = world.space.scan_pages(&mut world.task, &all).unwrap();
    let there = huge | Categories::FILE | Categories::PRESENT | Categories::SOFT_DIRTY;
    let expected = [region(0, 1, there), region(1, 2, huge), region(2, 3, there), region(3, 4, huge)];
    assert_eq!(scanned.regions, expected);
    drop(cpu);
    world.end();
}

#[test]
fn a_hole_that_matches_is_protected_and_its_pages_come_protected() {
    let mut world = asynchronous(4, MapFlags::SHARED);
    let scan = Scan { flags: ScanFlags::WP_MATCHING, ..Scan::new(at(1, 0)..at(3, 0)) };
    let scanned = world.space.scan_pages(&mut world.task, &scan).unwrap();
    assert_eq!(
        scanned.regions,
        [Region { start: at(1, 0), end: at(3, 0), categories: Categories::WPALLOWED }]
    );
    let mut cpu = world.cpu();
    for page in 0..4 {
        load(&mut cpu, &mut world.task, page).unwrap();
    }
    assert_eq!(written(&mut world), [0, 3]);
    drop(cpu);
    world.end();
}

#[test]
fn a_scan_ends_where_its_report_is_full_and_the_next_goes_on_from_there() {
    let mut world = asynchronous(6, MapFlags::SHARED);
    let mut cpu = world.cpu();
    for page in [0, 1, 3, 5] {
        store(&mut cpu, &mut world.task, page, 1).unwrap();
    }
    let small = MIB2 / SMALL;
    let cases = [
        // (pages, regions), what is found, where it ends
        ((Some(small), usize::MAX), vec![0], 1),
        ((Some(2 * small), usize::MAX), vec![0, 1], 3),
        ((Some(5 * small), usize::MAX), vec![0, 1, 3, 5], 6),
        ((None, 1), vec![0, 1], 3),
        ((None, 2), vec![0, 1, 3], 5),
        ((None, 0), vec![], 6),
    ];
    for ((max_pages, max_regions), found, end) in cases {
        let scan = Scan { max_pages, max_regions, ..for_written(&world) };
        let scanned = world.space.scan_pages(&mut world.task, &scan).unwrap();
        let seen: Vec<u64> = scanned.regions.iter().flat_map(pages).collect();
        assert_eq!((seen, scanned.end), (found, at(end, 0)), "{max_pages:?} {max_regions}");
    }
    // A huge page is protected as a whole, or left out; it may be reported in part.
    let part = Scan { max_pages: Some(small + 1), ..for_written(&world) };
    let scanned = world.space.scan_pages(&mut world.task, &part).unwrap();
    assert_eq!(scanned.end, at(1, SMALL));
    let part = Scan { flags: ScanFlags::WP_MATCHING, ..part };
    let scanned = world.space.scan_pages(&mut world.task, &part).unwrap();
    assert_eq!((scanned.regions.len(), scanned.end), (1, at(1, 0)));
    assert_eq!(written(&mut world), [1, 3, 5]);
    // What is not reported is protected all the same.
    store(&mut cpu, &mut world.task, 3, 2).unwrap();
    let unseen = Scan { flags: ScanFlags::WP_MATCHING, max_regions: 0, ..for_written(&world) };
    world.space.scan_pages(&mut world.task, &unseen).unwrap();
    assert_eq!(written(&mut world), [0; 0]);
    drop(cpu);
    world.end();
}

#[test]
fn a_mapping_without_asynchronous_protection_is_left_out_or_refused() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::WP);
    let mut cpu = world.cpu();
    store(&mut cpu, &mut world.task, 0, 1).unwrap();
    assert_eq!(written(&mut world), [0; 0]);
    let scan = for_written(&world);
    assert_eq!(world.space.scan_pages(&mut world.task, &scan).unwrap().regions.len(), 1);
    let scan = Scan { flags: ScanFlags::CHECK_WPASYNC, ..scan };
    let refused = world.space.scan_pages(&mut world.task, &scan).unwrap_err();
    assert_eq!((refused, refused.errno()), (ScanError::NotAsync { address: BASE }, Errno::EPERM));
    let scan = Scan { flags: ScanFlags::empty(), mask: Categories::WPALLOWED, ..scan };
    assert_eq!(world.space.scan_pages(&mut world.task, &scan).unwrap().regions, []);
    drop(cpu);
    world.end();

    // Nor has a mapping it whose handler asks for missing pages only.
    let mut world = World::new(2, MapFlags::SHARED, Features::WP_ASYNC);
    world.register(Modes::MISSING);
    let scan = Scan { flags: ScanFlags::CHECK_WPASYNC, ..for_written(&world) };
    let refused = world.space.scan_pages(&mut world.task, &scan);
    assert_eq!(refused.unwrap_err(), ScanError::NotAsync { address: BASE });
    world.end();
}

#[test]
fn categories_can_count_the_other_way_round() {
    let mut world = asynchronous(4, MapFlags::SHARED);
    let mut cpu = world.cpu();
    for page in 0..3 {
        store(&mut cpu, &mut world.task, page, 1).unwrap();
    }
    world.uffd.write_protect(&mut world.task, at(1, 0), MIB2, ProtectMode::WP).unwrap();
    let mut found = |mask, inverted, any_of| {
        let scan = Scan { mask, inverted, any_of, ..Scan::new(BASE..at(4, 0)) };
        let scanned = world.space.scan_pages(&mut world.task, &scan).unwrap();
        scanned.regions.iter().flat_map(pages).collect::<Vec<u64>>()
    };
    let (none, present) = (Categories::empty(), Categories::PRESENT);
    assert_eq!(found(present | WRITTEN, WRITTEN, none), [1]);
    assert_eq!(found(present, present, none), [3]);
    assert_eq!(found(none, none, present), [0, 1, 2]);
    assert_eq!(found(none, none, Categories::SWAPPED | Categories::PFNZERO), [0; 0]);
    drop(cpu);
    world.end();
}

#[test]
fn a_scan_with_a_wrong_range_or_unknown_flags_is_refused() {
    let mut world = asynchronous(1, MapFlags::SHARED);
    let mut errno =
        |scan: &Scan| world.space.scan_pages(&mut world.task, scan).map(|_| ()).map_err(|e| e.errno());
    let whole = Scan::new(BASE..at(1, 0));
    assert_eq!(errno(&Scan::new(at(0, 5)..at(1, 0))), Err(Errno::EINVAL));
    assert_eq!(errno(&Scan::new(at(1, 0)..BASE)), Err(Errno::EFAULT));
    assert_eq!(errno(&Scan::new(BASE..VirtAddr::new(u64::MAX))), Err(Errno::EFAULT));
    assert_eq!(errno(&Scan { flags: ScanFlags::from_bits_retain(4), ..whole.clone() }), Err(Errno::EINVAL));
    assert_eq!(
        errno(&Scan { report: Categories::from_bits_retain(1 << 60), ..whole.clone() }),
        Err(Errno::EINVAL)
    );
    assert_eq!(errno(&Scan::new(BASE..BASE)), Ok(()));
    assert_eq!(errno(&Scan::new(BASE..at(0, 5))), Ok(()));
    world.end();
}

/// Stores of one thread beside scans of another: each store is found by exactly the scans that come after it.
#[test]
fn no_store_is_lost_between_two_scans() {
    const ROUNDS: u8 = 200;
    for kind in KINDS {
        let mut world = asynchronous(2, kind);
        let mut cpu = world.cpu();
        store(&mut cpu, &mut world.task, 0, 0).unwrap();
        written(&mut world);
        drop(cpu);
        let pages = world.pages;
        let space = world.space.clone();
        let (_, seen) = world.beside(
            |cpu, task| {
                for round in 1..=ROUNDS {
                    store(cpu, task, 0, round).unwrap();
                }
            },
            |task, _| {
                // What a copy of the page would have had, taken after each scan that found it written.
                let mut cpu = hugewalk_host::Cpu::new(&space).unwrap();
                let mut copy = 0;
                while copy != ROUNDS {
                    let scan = Scan {
                        flags: ScanFlags::WP_MATCHING,
                        mask: WRITTEN,
                        ..Scan::new(BASE..at(pages, 0))
                    };
                    if !space.scan_pages(task, &scan).unwrap().regions.is_empty() {
                        copy = load(&mut cpu, task, 0).unwrap();
                    }
                }
                copy
            },
        );
        assert_eq!(seen, ROUNDS);
        drop(space);
        world.end();
    }
}

/// A scan crosses mappings, some of which allow protection, and what lies between them.
#[test]
fn a_scan_goes_over_several_mappings_and_tables() {
    let pages = GIB / MIB2 + 2;
    let mut world = asynchronous(pages, MapFlags::SHARED);
    let mut cpu = world.cpu();
    let last = pages - 1;
    for page in [0, 511, 512, last] {
        store(&mut cpu, &mut world.task, page, 1).unwrap();
    }
    let beyond = at(pages + 3, 0);
    map_at(&world.space, &mut world.task, &world.file.clone(), beyond, MapFlags::SHARED);
    cpu.store(&mut world.task, beyond, 1).unwrap();
    let scan = Scan { mask: WRITTEN, report: WRITTEN, ..Scan::new(BASE..beyond.checked_add(MIB2).unwrap()) };
    let scanned = world.space.scan_pages(&mut world.task, &scan).unwrap();
    let found: Vec<u64> = scanned.regions.iter().flat_map(self::pages).collect();
    assert_eq!(found, [0, 511, 512, last, pages + 3]);
    assert_eq!(written(&mut world), [0, 511, 512, last]);
    assert_eq!(written(&mut world), [0; 0]);
    drop(cpu);
    world.end();
}
