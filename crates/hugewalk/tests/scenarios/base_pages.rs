//! Base pages of the host's in the same tree: who keeps which table, and who stays away from whose.

use super::common::{AddressSpace, GIB, M2, Task, at, inject, map, small};
use super::{World, common};
use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::arch::Entry;
use hugewalk::base::host_table;
use hugewalk::fault::{Access, FaultError};
use hugewalk::gup::GupFlags;
use hugewalk::mm::{ActiveMm, Advice, MapError, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::pagewalk::{Found, Visitor};
use hugewalk::platform::Tables as _;
use hugewalk::sync::Arc;
use hugewalk::vma::{Protection, Vma};
use hugewalk::walk::leaf_offset;

const HERE: u64 = 4 * GIB;
const KIB: u64 = 1 << 10;
const SHARED: MapFlags = MapFlags::SHARED;

impl World {
    /// Claims a range, and puts a table there.
    fn base_pages(&mut self, space: &AddressSpace, address: u64, length: u64) -> TableFrame {
        space.claim(&mut self.task, Placement::FixedNoReplace(at(address)), length).unwrap();
        let table = self.hugetlb.platform().alloc_table().unwrap();
        assert_eq!(put(space, &mut self.task, address, table), Ok(Ok(())));
        table
    }

    /// Takes the tables of a range away, and frees them.
    pub(super) fn take(&mut self, space: &AddressSpace, address: u64, length: u64) -> usize {
        // No memory is asked for with a table locked.
        let mut taken = Vec::with_capacity(8);
        let mmap = space.mmap_read(&mut self.task);
        mmap.host_slots(&self.task, at(address)..at(address + length), |slot| taken.extend(slot.take()))
            .unwrap();
        drop(mmap);
        for &table in &taken {
            // SAFETY: taken away and flushed.
            unsafe { self.hugetlb.platform().free_table(table) };
        }
        taken.len()
    }

    /// Tables in use once those that wait for a grace period are free.
    fn tables(&mut self) -> usize {
        self.task.rcu_barrier();
        self.hugetlb.platform().tables_in_use()
    }

    fn host_table(&self, space: &AddressSpace, address: u64) -> Option<TableFrame> {
        host_table(&self.task.rcu_read_lock(), space.mm(), at(address))
    }
}

pub(super) fn put(
    space: &AddressSpace,
    task: &mut Task,
    address: u64,
    table: TableFrame,
) -> Result<Result<(), TableFrame>, MapError> {
    let mmap = space.mmap_read(task);
    // SAFETY: an empty table, which stays until it was taken away.
    mmap.host_slot(task, at(address), |slot| unsafe { slot.put(table) })
}

#[test]
fn huge_pages_and_base_pages_lie_in_one_gigabyte_and_stay_out_of_each_others_way() {
    let mut world = World::new(8);
    let (space, file) = (world.process(), world.file());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    world.store(&space, HERE, 1);
    let table = world.base_pages(&space, HERE + 2 * M2 + 8 * KIB, 64 * KIB);
    let private = MapRequest::anonymous(small(), M2).at(at(HERE + 3 * M2));
    space.mmap(&mut world.task, &private).unwrap();
    world.store(&space, HERE + 3 * M2, 2);
    // The root, one on the way, one with all of it, and the host's.
    assert_eq!(world.tables(), 4);

    let (task, here) = (&mut world.task, |pages: u64| at(HERE + pages * M2));
    // Whatever the engine is asked to do with the whole range, the table stays where it is.
    let all = 4 * M2;
    assert!(matches!(
        space.madvise(task, here(0), all, Advice::DontNeed),
        Err(MapError::NotMapped { address }) if address == here(2)
    ));
    assert!(space.mprotect(task, here(0), all, Protection::READ).is_err());
    assert!(space.mlock(task, here(0), all).is_err());
    space.clear_soft_dirty(task).unwrap();
    let child = space.fork(task).unwrap();
    assert_eq!(world.host_table(&child, HERE + 2 * M2), None);
    let task = &mut world.task;
    child.exit(task).unwrap();
    space.munmap(task, here(0), all).unwrap();
    assert_eq!(world.host_table(&space, HERE + 2 * M2), Some(table));
    drop(child);
    assert_eq!(world.tables(), 4);

    // What is the last thing below them frees the tables above.
    assert_eq!(world.take(&space, HERE, GIB), 1);
    assert_eq!(world.tables(), 1);
    drop((space, file));
    world.finish();
}

#[test]
fn no_walker_follows_a_table_of_the_hosts_or_takes_it_for_a_page() {
    struct Everything(Vec<Entry>);
    impl Visitor<common::Bench> for Everything {
        fn entry(&mut self, found: &Found<'_, common::Bench>) {
            self.0.push(found.entry());
        }
        fn hole(&mut self, _: &Vma<common::Bench>, range: core::ops::Range<VirtAddr>) {
            panic!("a hole at {range:?}");
        }
    }

    let mut world = World::new(8);
    let (space, file) = (world.process(), world.file());
    world.map(&space, &file, HERE, M2, SHARED);
    world.store(&space, HERE, 1);
    let address = HERE + M2;
    let table = world.base_pages(&space, address, 4 * KIB);

    let (task, address) = (&mut world.task, at(address));
    let section = task.rcu_read_lock();
    let (slot, size) = leaf_offset(&section, space.mm(), address).unwrap().unwrap();
    assert_eq!((slot.read(), size), (Ok(Entry::HostTable(table)), small()));
    assert_eq!(slot.lock().unwrap().read(), Entry::HostTable(table));
    drop(section);
    assert_eq!(space.fault(task, address, Access::Read), Err(FaultError::NotMapped { address }));
    assert!(space.pin_page_fast(task, address, GupFlags::empty()).is_none());
    assert!(space.follow_page(task, address, GupFlags::empty()).is_ok_and(|page| page.is_none()));
    assert!(space.pin_pages(task, address, 1, GupFlags::empty()).is_err());
    let mut seen = Everything(Vec::new());
    let hole = space.walk_range(task, at(HERE)..at(HERE + 2 * M2), &mut seen).unwrap();
    assert_eq!((hole, seen.0.len()), (Some(address), 1));
    // From the page, and from the file.
    let Entry::Leaf(leaf) = seen.0[0] else { panic!("{:?}", seen.0) };
    world.hugetlb.migrate(&mut world.task, leaf.frame).unwrap();
    file.truncate(&mut world.task, 0).unwrap();
    assert_eq!(world.host_table(&space, HERE + M2), Some(table));
    let residents = space.tables(&mut world.task).unwrap();
    assert_eq!((residents.len(), residents[0].leaves), (1, 0));

    assert_eq!(world.take(&space, HERE, GIB), 1);
    space.exit(&mut world.task).unwrap();
    drop((space, file));
    world.finish();
}

#[test]
fn the_tables_above_go_with_the_last_that_needs_them_whoever_that_is() {
    for host_first in [false, true] {
        let mut world = World::new(4);
        let (space, file) = (world.process(), world.file());
        world.map(&space, &file, HERE, M2, SHARED);
        world.store(&space, HERE, 1);
        // One beside the huge page, one in the next gigabyte, one in the next 512.
        for address in [HERE + M2, HERE + GIB, HERE + 512 * GIB] {
            world.base_pages(&space, address, 4 * KIB);
        }
        // Their own three, and six above: the root, two for 512 gigabytes, three for one.
        assert_eq!(world.tables(), 3 + 6);
        assert_eq!(world.take(&space, HERE + GIB, 1023 * GIB), 2);
        assert_eq!(world.tables(), 4);
        if host_first {
            assert_eq!(world.take(&space, 0, 1 << 40), 1);
            assert_eq!(world.tables(), 3);
            space.munmap(&mut world.task, at(HERE), M2).unwrap();
        } else {
            space.munmap(&mut world.task, at(HERE), M2).unwrap();
            assert_eq!(world.tables(), 4);
            assert_eq!(world.take(&space, HERE, GIB), 1);
        }
        assert_eq!(world.tables(), 1);
        drop((space, file));
        world.finish();
    }
}

#[test]
fn a_gigabyte_is_shared_once_the_host_has_left_it() {
    let mut world = World::new(8);
    let (one, other, file) = (world.process(), world.process(), world.file());
    world.map(&one, &file, HERE, GIB, SHARED | MapFlags::NORESERVE);
    world.store(&one, HERE, 1);
    // The host has something in the way, and there is a huge page beside it.
    world.base_pages(&other, HERE + 7 * M2, 4 * KIB);
    world.map(&other, &file, HERE, M2, SHARED);
    assert_eq!(world.load(&other, HERE), 1);
    assert_eq!(world.users(&one), [1]);
    let whole = MapRequest::file(&file, 0, GIB).shared().with(MapFlags::NORESERVE).at(at(HERE));
    let claimed = MapError::Claimed { address: at(HERE + 7 * M2) };
    assert_eq!(other.mmap(&mut world.task, &whole), Err(claimed));
    assert_eq!(world.take(&other, HERE, GIB), 1);
    other.release(&mut world.task, at(HERE)..at(HERE + GIB)).unwrap();
    other.mmap(&mut world.task, &whole).unwrap();
    assert_eq!(world.load(&other, HERE), 1);
    assert_eq!(world.users(&one), [2]);
    assert_eq!(world.users(&other), [2]);
    for space in [one, other] {
        space.exit(&mut world.task).unwrap();
    }
    drop(file);
    world.finish();
}

#[test]
fn tables_lie_only_where_something_is_claimed() {
    let mut world = World::new(4);
    let space = world.process();
    let table = world.hugetlb.platform().alloc_table().unwrap();
    let nowhere = Err(MapError::NotClaimed { address: at(HERE) });
    assert_eq!(put(&space, &mut world.task, HERE, table), nowhere);
    // Two claims have the table in common: it goes with the second.
    for address in [HERE + 4 * KIB, HERE + M2 - 4 * KIB] {
        space.claim(&mut world.task, Placement::FixedNoReplace(at(address)), 4 * KIB).unwrap();
    }
    assert_eq!(put(&space, &mut world.task, HERE, table), Ok(Ok(())));
    assert_eq!(put(&space, &mut world.task, HERE + M2 - 1, table), Ok(Err(table)), "one place, one table");
    let whole = at(HERE)..at(HERE + M2);
    let mut visits = Vec::with_capacity(8);
    let mmap = space.mmap_read(&mut world.task);
    mmap.host_slots(&world.task, whole.clone(), |slot| visits.push((slot.address(), slot.table()))).unwrap();
    drop(mmap);
    assert_eq!(visits, [(at(HERE), Some(table))]);
    space.release(&mut world.task, at(HERE)..at(HERE + M2 / 2)).unwrap();
    let left = MapError::HostTable { address: at(HERE) };
    assert_eq!(space.release(&mut world.task, whole.clone()), Err(left));
    assert_eq!(world.host_table(&space, HERE), Some(table));
    assert_eq!(world.take(&space, HERE + M2 - 1, 1), 1);
    space.release(&mut world.task, whole).unwrap();
    assert_eq!(world.tables(), 1);
    let unaligned = MapError::UnalignedAddress { address: at(5) };
    assert_eq!(space.release(&mut world.task, at(5)..at(HERE)), Err(unaligned));
    drop(space);
    world.finish();
}

#[test]
fn a_place_without_memory_leaves_no_empty_table_behind() {
    for allowed in 0.. {
        let mut world = World::new(4);
        let space = world.process();
        space.claim(&mut world.task, Placement::Fixed(at(HERE)), M2).unwrap();
        let table = world.hugetlb.platform().alloc_table().unwrap();
        inject::arm(allowed);
        let placed = inject::inside(|| put(&space, &mut world.task, HERE, table));
        inject::disarm();
        if inject::has_failed() {
            assert!(matches!(placed, Err(MapError::OutOfMemory(_))), "{placed:?}");
            assert_eq!(world.tables(), 2, "the root, and the host's table");
            assert_eq!(put(&space, &mut world.task, HERE, table), Ok(Ok(())));
        }
        assert_eq!(world.take(&space, HERE, M2), 1);
        drop(space);
        world.finish();
        if !inject::has_failed() {
            assert_eq!(allowed, 2, "two tables are made, of 512 GiB and of 1 GiB");
            break;
        }
    }
}

#[test]
fn a_flush_covers_what_the_host_took_away_and_nothing_else() {
    let mut world = World::new(4);
    let (space, file) = (world.process(), world.file());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    world.store(&space, HERE, 1);
    for page in [4, 6, 8] {
        world.base_pages(&space, HERE + page * M2, M2);
    }
    let flushed = |world: &World| {
        let events = world.hugetlb.platform().take_events();
        events.iter().filter(|event| matches!(event, hugewalk::platform::Event::Flushed { .. })).count()
    };
    flushed(&world);
    let mmap = space.mmap_read(&mut world.task);
    let all = at(HERE)..at(HERE + GIB);
    mmap.host_slots(&world.task, all.clone(), |slot| assert!(slot.table().is_some())).unwrap();
    assert_eq!(flushed(&world), 0);
    mmap.host_slots(&world.task, all, |slot| slot.flush()).unwrap();
    assert_eq!(flushed(&world), 1);
    mmap.host_slot(&mut world.task, at(HERE + 4 * M2), |slot| slot.flush()).unwrap();
    assert_eq!(flushed(&world), 1);
    // Each base page may be cached by itself.
    let flush = world.hugetlb.platform().take_flush().unwrap();
    assert_eq!(flush.range, at(HERE + 4 * M2)..at(HERE + 5 * M2));
    assert_eq!((flush.stride, flush.tables), (4096, true));
    drop(mmap);
    assert_eq!(world.take(&space, HERE, GIB), 3);
    assert_eq!(flushed(&world), 1);
    space.exit(&mut world.task).unwrap();
    drop((space, file));
    world.finish();
}

#[test]
fn an_address_space_that_ends_with_tables_of_the_hosts_leaves_none_of_its_own() {
    let mut world = World::new(4);
    let space = world.process();
    let tables = [HERE, HERE + 3 * GIB, HERE + 700 * GIB].map(|address| world.base_pages(&space, address, 1));
    space.exit(&mut world.task).unwrap();
    assert_eq!(world.take(&space, HERE, M2), 1, "after its end too");
    drop(space);
    assert_eq!(world.tables(), 2);
    for table in &tables[1..] {
        // SAFETY: nothing reaches it any more.
        unsafe { world.hugetlb.platform().free_table(*table) };
    }
    world.finish();
}

#[test]
fn a_root_that_a_processor_has_loaded_stays() {
    let mut world = World::new(4);
    let (space, other) = (world.process(), world.process());
    let active = ActiveMm::new(space.mm());
    assert!(active.is(space.mm()) && !active.is(other.mm()));
    assert_eq!(active.root_frame(), space.mm().root_frame());
    drop((space, other));
    assert_eq!(world.tables(), 1);
    // SAFETY: no processor has ever loaded it.
    unsafe { active.deactivate() };
    world.finish();
}

#[test]
fn a_task_of_another_system_gets_no_place() {
    let (mut world, mut other) = (World::new(4), World::new(4));
    let space = world.process();
    space.claim(&mut world.task, Placement::Fixed(at(HERE)), M2).unwrap();
    let mmap = space.mmap_read(&mut world.task);
    let wrong = hugewalk::error::WrongSystem;
    assert_eq!(mmap.host_slot(&mut other.task, at(HERE), |_| ()), Err(MapError::WrongSystem(wrong)));
    assert_eq!(mmap.host_slots(&other.task, at(HERE)..at(HERE + M2), |_| ()), Err(wrong));
    assert_eq!(host_table(&other.task.rcu_read_lock(), space.mm(), at(HERE)), None);
    drop(mmap);
    let refused = space.claim(&mut other.task, Placement::Anywhere, 1);
    assert_eq!(refused, Err(MapError::WrongSystem(wrong)));
    assert!(space.release(&mut other.task, at(HERE)..at(HERE + M2)).is_err());
    drop(space);
    world.finish();
    other.finish();
}

/// As in `map`, for a place in the middle of things.
#[test]
fn a_mapping_that_moves_away_leaves_the_table_to_the_host() {
    let mut world = World::new(4);
    let (space, file): (_, Arc<_>) = (world.process(), world.file());
    map(&space, &mut world.task, &file, 0, HERE, M2, MapFlags::empty()).unwrap();
    world.store(&space, HERE, 9);
    let table = world.base_pages(&space, HERE + M2, 4 * KIB);
    space.mremap(&mut world.task, at(HERE), M2, M2, RemapTo::Fixed(at(HERE + 2 * GIB))).unwrap();
    assert_eq!(world.load(&space, HERE + 2 * GIB), 9);
    assert_eq!(world.host_table(&space, HERE + M2), Some(table));
    assert_eq!(world.tables(), 1 + 1 + 2 + 1);
    assert_eq!(world.take(&space, HERE, GIB), 1);
    assert_eq!(world.tables(), 3);
    space.exit(&mut world.task).unwrap();
    drop((space, file));
    world.finish();
}
