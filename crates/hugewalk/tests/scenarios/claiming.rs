//! Ranges that the host claims, what is mapped in between, and the tables that a claim needs.

use super::World;
use super::base_pages::put;
use super::common::{GIB, M2, at, small};
use core::ops::Range;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::Paging as _;
use hugewalk::mm::{MapError, MapRequest, Placement, RemapTo};
use hugewalk::platform::Tables as _;

const HERE: u64 = 4 * GIB;
const KIB: u64 = 1 << 10;

#[test]
fn what_the_host_has_claimed_is_taken() {
    let mut world = World::new(4);
    let space = world.process();
    let task = &mut world.task;
    let top = at(HERE + GIB);
    // Base pages go below huge ones, huge ones below base pages: both see both.
    assert_eq!(space.claim(task, Placement::Below(top), 5 * KIB), Ok(at(HERE + GIB - 8 * KIB)));
    let request = MapRequest::anonymous(small(), M2).placed(Placement::Below(top));
    assert_eq!(space.mmap(task, &request), Ok(at(HERE + GIB - 2 * M2)));
    assert_eq!(space.claim(task, Placement::Below(top), M2 - 8 * KIB), Ok(at(HERE + GIB - M2)));
    assert_eq!(space.claim(task, Placement::Below(top), 4 * KIB), Ok(at(HERE + GIB - 2 * M2 - 4 * KIB)));
    let taken = at(HERE + GIB - M2);
    let claims = space.mmap_read(task).claims(&(at(0)..at(1 << 40))).collect::<Vec<_>>();
    assert_eq!(
        claims,
        [at(HERE + GIB - 2 * M2 - 4 * KIB)..at(HERE + GIB - 2 * M2), at(HERE + GIB - M2)..top,]
    );

    let here = |placement| MapRequest::anonymous(small(), M2).placed(placement);
    let error = MapError::Exists { address: taken };
    assert_eq!(space.mmap(task, &here(Placement::FixedNoReplace(taken))), Err(error));
    assert_eq!(space.mmap(task, &here(Placement::Fixed(taken))), Err(MapError::Claimed { address: taken }));
    assert_ne!(space.mmap(task, &here(Placement::Hint(taken))), Ok(taken));
    assert_eq!(space.claim(task, Placement::FixedNoReplace(taken), M2), Err(error));
    let huge = space.mmap(task, &here(Placement::Below(at(HERE)))).unwrap();
    let moved = space.mremap(task, huge, M2, M2, RemapTo::Fixed(taken));
    assert_eq!(moved, Err(MapError::Claimed { address: taken }));

    // A child has the same.
    let child = space.fork(task).unwrap();
    assert_eq!(child.mmap_read(task).claims(&(at(0)..at(1 << 40))).collect::<Vec<_>>(), claims);
    child.release(task, at(0)..at(1 << 40)).unwrap();
    assert_eq!(child.mmap(task, &here(Placement::FixedNoReplace(taken))), Ok(taken));

    // The other way round a fixed place is a fixed place.
    assert_eq!(
        space.claim(task, Placement::Fixed(huge), 4 * KIB),
        Err(MapError::Unaligned { value: huge.as_u64() + 4 * KIB, size: small() })
    );
    assert_eq!(space.claim(task, Placement::Fixed(huge), M2), Ok(huge));
    assert!(space.mmap_read(task).find(huge).is_none());
    assert_eq!(space.claim(task, Placement::Fixed(huge), M2), Ok(huge), "what is claimed already stays so");
    assert_eq!(space.claim(task, Placement::Fixed(at(0)), M2).map_err(|error| error.errno()), {
        Err(hugewalk::error::Errno::EPERM)
    });
    assert_eq!(space.claim(task, Placement::Anywhere, 0), Err(MapError::ZeroLength));
    assert_eq!(space.claim(task, Placement::Anywhere, u64::MAX), Err(MapError::Overflow));
    for space in [child, space] {
        assert_eq!(space.has_exited(task), Ok(false));
        space.exit(task).unwrap();
        assert_eq!(space.has_exited(task), Ok(true));
        assert_eq!(space.claim(task, Placement::Anywhere, 1), Err(MapError::Exited));
    }
    world.finish();
}

#[test]
fn a_claim_reaches_the_last_address_and_no_further() {
    let mut world = World::new(4);
    let space = world.process();
    let (length, base) = (space.mm().task_size().as_u64(), space.mm().paging().geometry().base_bytes());
    // Refused for its length, whatever else is wrong.
    let refused = space.claim(&mut world.task, Placement::Fixed(at(5)), length + base);
    assert_eq!(refused, Err(MapError::NoRoom { length: length + base }));
    let refused = space.claim(&mut world.task, Placement::Fixed(at(5)), length);
    assert_eq!(refused, Err(MapError::UnalignedAddress { address: at(5) }));
    let last = at(length - base);
    assert_eq!(space.claim(&mut world.task, Placement::Fixed(last), base), Ok(last));
    let refused = space.claim(&mut world.task, Placement::Fixed(last), 2 * base);
    assert_eq!(refused, Err(MapError::NoRoom { length: 2 * base }));
}

#[test]
fn a_table_of_the_hosts_keeps_the_last_claim_that_it_translates_for() {
    let mut world = World::new(4);
    let space = world.process();
    let (first, last) = (at(HERE)..at(HERE + 4 * KIB), at(HERE + M2 - 8 * KIB)..at(HERE + M2 - 4 * KIB));
    let claim = |task: &mut _, range: &Range<VirtAddr>| {
        space.claim(task, Placement::FixedNoReplace(range.start), 4 * KIB).unwrap();
    };
    claim(&mut world.task, &first);
    claim(&mut world.task, &last);
    let table = world.hugetlb.platform().alloc_table().unwrap();
    assert_eq!(put(&space, &mut world.task, HERE, table), Ok(Ok(())));
    // The other claim needs the table, whether it lies before or behind.
    for gone in [&first, &last] {
        space.release(&mut world.task, gone.clone()).unwrap();
        claim(&mut world.task, gone);
    }
    let left = Err(MapError::HostTable { address: at(HERE) });
    assert_eq!(space.release(&mut world.task, at(HERE - GIB)..at(HERE + GIB)), left);
    for (gone, stays) in [(&first, &last), (&last, &first)] {
        space.release(&mut world.task, gone.clone()).unwrap();
        assert_eq!(space.release(&mut world.task, stays.clone()), left, "it is the last one");
        assert_eq!(space.release(&mut world.task, stays.start..at(HERE + GIB)), left);
        claim(&mut world.task, gone);
    }
    assert_eq!(world.take(&space, HERE, M2), 1);
    space.release(&mut world.task, at(HERE)..at(HERE + M2)).unwrap();
    drop(space);
    world.finish();
}
