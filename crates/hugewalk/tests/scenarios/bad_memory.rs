//! Memory that fails while it is copied or read: the caller hears of it, and everything is as it was.

use super::World;
use super::common::{AddressSpace, GIB, M2, at, cpu, small};
use hugewalk::addr::HugeFrame;
use hugewalk::error::MemoryError;
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::file::FileError;
use hugewalk::gup::{GupError, GupFlags, TransferError};
use hugewalk::mm::{MapError, MapFlags};
use hugewalk::rmap::{PageError, Recovery};
use hugewalk::vma::Protection;

const HERE: u64 = 4 * GIB;
const PRIVATE: MapFlags = MapFlags::empty();

impl World {
    /// The frame that is mapped at an address.
    fn frame(&self, space: &AddressSpace, address: u64) -> HugeFrame {
        cpu::peek(space, &self.task, at(address)).unwrap().0.frame
    }

    /// Its memory fails from now on.
    fn spoil(&self, space: &AddressSpace, address: u64) -> HugeFrame {
        let frame = self.frame(space, address);
        self.hugetlb.platform().spoil(frame);
        frame
    }

    /// References, pins and mappings of the page that is mapped at an address. It was never taken out of use: that is left to
    /// memory failure.
    fn counts(&mut self, space: &AddressSpace, address: u64) -> (u64, u64, u64) {
        let pages = space.pin_pages(&mut self.task, at(address), 1, GupFlags::empty()).unwrap();
        let page = pages.page(0).unwrap();
        assert!(!page.page().is_hwpoison());
        // One of the references is this function's.
        (page.page().references() - 1, page.page().pins(), page.page().mapcount())
    }
}

#[test]
fn a_store_to_a_page_that_fork_shares_gets_a_bus_error() {
    let mut world = World::new(8);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, 2 * M2, PRIVATE);
    world.store(&parent, HERE, 1);
    let child = parent.fork(&mut world.task).unwrap();
    let frame = world.spoil(&parent, HERE);
    let before =
        (world.counters(), world.counts(&parent, HERE), parent.mm().resident(), child.mm().resident());
    // The child has no reservation, and the parent's is not used for a copy.
    for space in [&child, &parent] {
        let failed = cpu::store(space, &mut world.task, at(HERE), 2).unwrap_err();
        assert_eq!(failed, FaultError::Hwpoison { address: at(HERE), size: small() });
        assert!(failed.is_bus_error());
        let after =
            (world.counters(), world.counts(&parent, HERE), parent.mm().resident(), child.mm().resident());
        assert_eq!(after, before);
        assert_eq!(world.frame(space, HERE), frame);
    }
    // What is not copied is as before.
    world.store(&parent, HERE + M2, 3);
    child.exit(&mut world.task).unwrap();
    assert_eq!(world.faults(&parent, HERE, Access::Write), [Fault::Reused]);
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_store_to_a_private_mapping_of_a_bad_page_of_the_file_leaves_it_mapped_for_reading() {
    for flags in [PRIVATE, MapFlags::NORESERVE] {
        let mut world = World::new(4);
        let (file, shared, private) = (world.file(), world.process(), world.process());
        world.map(&shared, &file, HERE, M2, MapFlags::SHARED);
        world.store(&shared, HERE, 1);
        world.map(&private, &file, HERE, M2, flags);
        let frame = world.spoil(&shared, HERE);
        let before = (world.counters(), world.counts(&shared, HERE).0);
        let failed = cpu::store(&private, &mut world.task, at(HERE), 2);
        assert_eq!(failed, Err(FaultError::Hwpoison { address: at(HERE), size: small() }));
        let (leaf, _) = cpu::peek(&private, &world.task, at(HERE)).unwrap();
        assert!(leaf.frame == frame && !leaf.is_writable());
        assert_eq!((world.counters(), world.counts(&shared, HERE).0), (before.0, before.1 + 1));
        drop((shared, private, file));
        world.task.finish_drops();
        world.finish();
    }
}

#[test]
fn a_pin_that_needs_a_copy_says_that_there_is_a_hardware_error() {
    let mut world = World::new(8);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, M2, PRIVATE);
    world.store(&parent, HERE, 1);
    let child = parent.fork(&mut world.task).unwrap();
    world.spoil(&parent, HERE);
    let before = (world.counters(), world.counts(&parent, HERE));
    for flags in [GupFlags::PIN, GupFlags::PIN | GupFlags::WRITE] {
        let refused = child.pin_pages(&mut world.task, at(HERE), 1, flags).unwrap_err();
        assert_eq!(refused, GupError::Hwpoison { address: at(HERE), size: small() });
        assert_eq!((world.counters(), world.counts(&parent, HERE)), before);
    }
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_fork_fails_that_would_have_to_copy_a_bad_page_because_it_is_pinned() {
    let mut world = World::new(8);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, 4 * M2, PRIVATE);
    for page in 0..3 {
        world.store(&parent, HERE + page * M2, 1);
    }
    let flags = GupFlags::PIN | GupFlags::WRITE;
    let pins = parent.pin_pages(&mut world.task, at(HERE + M2), 1, flags).unwrap();
    world.spoil(&parent, HERE + M2);
    let tables = world.hugetlb.platform().tables_in_use();
    let before = (world.counters(), world.counts(&parent, HERE + M2), parent.mm().resident());
    let failed = parent.fork(&mut world.task).unwrap_err();
    assert_eq!(failed, MapError::Hwpoison { address: at(HERE + M2) });
    assert_eq!(failed.errno().name(), "EHWPOISON");
    world.task.finish_drops();
    world.task.rcu_barrier();
    assert_eq!((world.counters(), world.counts(&parent, HERE + M2), parent.mm().resident()), before);
    assert_eq!(world.hugetlb.platform().tables_in_use(), tables);
    // The pinned page was never protected; the first was, and has one user again.
    assert_eq!(world.faults(&parent, HERE + M2, Access::Write), []);
    assert_eq!(world.faults(&parent, HERE, Access::Write), [Fault::Reused]);
    drop(pins);
    drop((parent, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_bad_page_stays_where_it_is() {
    for flags in [PRIVATE, MapFlags::SHARED] {
        let mut world = World::new(4);
        let (file, space) = (world.file(), world.process());
        world.map(&space, &file, HERE, M2, flags);
        world.store(&space, HERE, 1);
        let frame = world.spoil(&space, HERE);
        let before = (world.counters(), world.counts(&space, HERE), space.mm().resident());
        assert_eq!(world.hugetlb.clone().migrate(&mut world.task, frame), Err(PageError::Hwpoison));
        assert_eq!(world.hugetlb.clone().soft_offline(&mut world.task, frame), Err(PageError::Hwpoison));
        assert_eq!((world.counters(), world.counts(&space, HERE), space.mm().resident()), before);
        assert_eq!(world.frame(&space, HERE), frame);
        world.store(&space, HERE, 2);
        assert_eq!(world.load(&space, HERE), 2);
        drop((space, file));
        world.task.finish_drops();
        world.finish();
    }
}

#[test]
fn reading_stops_before_memory_that_fails() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, MapFlags::SHARED);
    file.write_at(&mut world.task, 0, &[7; 8]).unwrap();
    file.truncate(&mut world.task, 2 * M2).unwrap();
    world.store(&space, HERE + M2, 1);
    world.load(&space, HERE);
    world.spoil(&space, HERE + M2);
    let before = (world.counters(), world.counts(&space, HERE + M2));

    let mut bytes = [9; 8];
    assert_eq!(file.read_at(M2 - 3, &mut bytes), Ok(3));
    assert_eq!(bytes[..3], [0; 3]);
    let failed = file.read_at(M2, &mut bytes).unwrap_err();
    assert_eq!((failed, failed.errno().name()), (FileError::Hwpoison { index: 1 }, "EIO"));

    assert_eq!(space.read_bytes(&mut world.task, at(HERE + M2 - 3), &mut bytes), Ok(3));
    let failed = space.read_bytes(&mut world.task, at(HERE + M2), &mut bytes).unwrap_err();
    assert_eq!((failed, failed.errno().name()), (TransferError::Memory { address: at(HERE + M2) }, "EFAULT"));

    let pins = space.pin_pages(&mut world.task, at(HERE + M2), 1, GupFlags::PIN).unwrap();
    assert_eq!(pins.page(0).unwrap().read(0, &mut bytes), Err(MemoryError));
    drop(pins);
    assert_eq!((world.counters(), world.counts(&space, HERE + M2)), before);
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn pages_are_mapped_ahead_up_to_one_that_memory_failure_has_hit() {
    let bad_memory = |page| FaultError::Hwpoison { address: at(HERE + page * M2), size: small() };
    for (flags, bad) in [(MapFlags::SHARED, 0), (MapFlags::SHARED, 2), (PRIVATE, 0), (PRIVATE, 2)] {
        let mut world = World::new(8);
        let (file, other, space) = (world.file(), world.process(), world.process());
        file.allocate(&mut world.task, 0, 4 * M2, false).unwrap();
        world.map(&other, &file, HERE, 4 * M2, MapFlags::SHARED);
        world.load(&other, HERE + bad * M2);
        let frame = world.frame(&other, HERE + bad * M2);
        other.exit(&mut world.task).unwrap();
        assert_eq!(world.hugetlb.memory_failure(&mut world.task, frame), Ok(Recovery::File));

        world.map(&space, &file, HERE, 4 * M2, flags);
        space.mprotect(&mut world.task, at(HERE), 4 * M2, Protection::READ).unwrap();
        let refused = space.mlock(&mut world.task, at(HERE), 4 * M2);
        assert_eq!(refused, Err(MapError::Lock(bad_memory(bad))));
        assert_eq!(space.mm().resident(), bad, "those before it");
        assert_eq!(space.fault(&mut world.task, at(HERE + bad * M2), Access::Read), Err(bad_memory(bad)));
        drop((other, space, file));
        world.task.finish_drops();
        world.finish();
    }
}

/// Until then the reservation needs it, in number.
#[test]
fn a_free_page_that_fails_leaves_the_pool_once_another_comes_back_for_its_reservation() {
    let mut world = World::new(2);
    let (file, other, space) = (world.file(), world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, MapFlags::SHARED.union(MapFlags::NORESERVE));
    world.store(&space, HERE, 1);
    world.store(&space, HERE + M2, 1);
    let frame = world.frame(&space, HERE + M2);
    file.punch_hole(&mut world.task, M2, M2).unwrap();
    other.reserve(&mut world.task, 0, M2).unwrap();
    assert_eq!(world.hugetlb.memory_failure(&mut world.task, frame), Err(PageError::Reserved));
    assert_eq!(world.counters(), (2, 1, 1, 0));
    file.punch_hole(&mut world.task, 0, M2).unwrap();
    assert_eq!(world.counters(), (1, 1, 1, 0));
    world.map(&space, &other, HERE, M2, MapFlags::SHARED);
    world.store(&space, HERE, 2);
    assert_eq!(world.counters(), (1, 0, 0, 0));
    drop((space, file, other));
    world.task.finish_drops();
    world.finish();
}
