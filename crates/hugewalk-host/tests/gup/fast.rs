//! Without a lock.

use hugewalk::addr::VirtAddr;
use hugewalk::fault::Access;
use hugewalk::gup::{GupError, GupFlags};
use hugewalk::vma::Protection;

use crate::setup::{BASE, DUMP, GET, LONGTERM, MIB2, PIN, WRITE, World, at};

#[test]
fn fast_gup_takes_what_the_entry_allows_and_leaves_the_rest_to_the_slow_way() {
    let mut world = World::new();
    world.map_private(4);
    let World { task, space, .. } = &mut world;
    assert!(space.pin_page_fast(task, BASE, GET).is_none(), "no table yet");
    space.fault(task, at(0, 0), Access::Read).unwrap();
    space.fault(task, at(1, 0), Access::Write).unwrap();
    let fast = |page, flags| space.pin_page_fast(task, at(page, 77), flags).map(|page| page.is_writable());
    assert_eq!(fast(2, GET), None, "no page yet");
    assert_eq!((fast(0, GET), fast(0, PIN)), (Some(false), Some(false)));
    assert_eq!((fast(0, WRITE), fast(0, PIN | WRITE)), (None, None), "write-protected");
    assert_eq!((fast(1, WRITE), fast(1, PIN | LONGTERM | WRITE)), (Some(true), Some(true)));
    assert_eq!((fast(1, DUMP), fast(1, LONGTERM)), (None, None));
    assert_eq!(fast(1, GupFlags::from_bits_retain(1 << 20)), None);
    // The range: one page without a lock, two by way of a fault.
    let pins = space.pin_pages_fast(task, at(1, 0), 3 * MIB2, PIN | WRITE).unwrap();
    assert_eq!((pins.pages().len(), pins.stopped_by()), (3, None));
    drop(pins);
    space.mprotect(task, BASE, MIB2, Protection::empty()).unwrap();
    assert!(space.pin_page_fast(task, BASE, GET).is_none());
    let error = space.pin_pages_fast(task, BASE, 1, GET).unwrap_err();
    assert_eq!(error, GupError::Protection { address: BASE });
}

#[test]
fn fast_gup_of_the_highest_addresses_finds_nothing_and_faults_nothing() {
    let mut world = World::new();
    world.map_private(1);
    let World { task, space, .. } = &mut world;
    let top = space.mm().task_size();
    for address in [top.as_u64() - 1, top.as_u64(), 1 << 63, u64::MAX] {
        assert!(space.pin_page_fast(task, VirtAddr::new(address), GET).is_none());
        assert!(space.follow_page(task, VirtAddr::new(address), GET).unwrap().is_none());
    }
}
