//! The engine on the tables of each format: programs with pages of each size, seen through a processor that walks the entries
//! by itself.

mod common;

use core::sync::atomic::{AtomicU64, Ordering};

use common::{AddressSpace, Bench, File, Hugetlb, RW, Task, cpu};
use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Aarch64, AnyPaging, Entry, Granule, Leaf, LeafFlags, Paging, Riscv64, Sv, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapError, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::platform::{Event, Tables as _};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

/// The formats that the engine runs on, one for each shape of tree and of entry.
fn formats() -> Vec<AnyPaging> {
    let arm = |granule, bits| Aarch64::new(granule, bits).unwrap().with_memory_type(1).into();
    vec![
        X86_64::FOUR_LEVELS.into(),
        X86_64::FIVE_LEVELS.encrypted(47).unwrap().into(),
        arm(Granule::K4, 39),
        arm(Granule::K4, 48),
        arm(Granule::K16, 36),
        arm(Granule::K16, 48),
        arm(Granule::K64, 42),
        arm(Granule::K64, 52),
        Riscv64::new(Sv::Sv39).into(),
        Riscv64::new(Sv::Sv48).with_svnapot().into(),
    ]
}

/// Calls `test` with each size of each format. Two sizes of one level meet in one table.
fn each_size(test: impl Fn(AnyPaging, HugeSize)) {
    for paging in formats() {
        for &size in paging.leaves() {
            test(paging, size);
        }
    }
}

/// A system with a few pages of each size.
fn system(paging: AnyPaging) -> (Arc<Hugetlb>, Task) {
    let hugetlb = Hugetlb::new(Bench::with_paging(paging)).unwrap();
    for size in hugetlb.sizes() {
        assert_eq!(hugetlb.resize_pool(size, 16), 16);
    }
    let task = common::task(&hugetlb);
    (hugetlb, task)
}

/// Where a table of these leaves begins.
fn start(paging: AnyPaging, size: HugeSize) -> u64 {
    let geometry = paging.geometry();
    let table = geometry.table_bytes(size.level()).max(size.bytes());
    // Not in the first table, if there is another one.
    if 2 * table < 1 << geometry.user_bits { table } else { 4 * size.bytes() }
}

fn map(space: &AddressSpace, task: &mut Task, size: HugeSize, pages: u64, shared: bool) -> u64 {
    let start = start(*space.mm().paging(), size);
    let request = MapRequest::anonymous(size, pages * size.bytes()).at(VirtAddr::new(start));
    let request = if shared { request.shared() } else { request };
    assert_eq!(space.mmap(task, &request).unwrap().as_u64(), start);
    start
}

/// The members of the group at an address, as they lie in the table.
fn members(space: &AddressSpace, address: u64, size: HugeSize) -> Vec<Entry> {
    let (mm, paging) = (space.mm(), *space.mm().paging());
    let geometry = paging.geometry();
    let mut frame = mm.root_frame();
    for level in (size.level()..geometry.levels).rev() {
        let index = geometry.index(address, level);
        let word = |index| {
            // SAFETY: a root, or a table that an entry points to; nobody frees tables meanwhile.
            let entry = unsafe { mm.hugetlb().platform().table_entry(frame, index) };
            // SAFETY: likewise; entries are atomics.
            unsafe { entry.as_ref() }.load(Ordering::Relaxed)
        };
        if level == size.level() {
            let first = index & !size.group_mask();
            let all = (first..first + usize::from(size.group())).map(word);
            // A leaf says by itself which part of the page it maps.
            let own = |(member, bits)| {
                if let (entry @ Entry::Leaf(_), Some(found)) =
                    (paging.decode(bits, level), paging.leaf_size(bits, level))
                {
                    assert_eq!(found, size);
                    assert_eq!(paging.encode(entry, size, member, paging.carried(bits, level)), bits);
                    assert_eq!(paging.carried(bits, level), paging.ordinary());
                }
                paging.decode(bits, level)
            };
            return (0..).zip(all).map(own).collect();
        }
        let Some(next) = paging.next_table(word(index), level) else { return Vec::new() };
        frame = next;
    }
    Vec::new()
}

/// The leaf at an address, which all members of the group agree on.
#[track_caller]
fn leaf(space: &AddressSpace, address: u64, size: HugeSize) -> Option<Leaf> {
    let used = LeafFlags::ACCESSED | LeafFlags::DIRTY;
    let all = members(space, address, size);
    assert!(all.is_sorted_by_key(|entry| entry.with(used).page()), "members name different pages: {all:?}");
    let (&first, others) = all.split_first()?;
    assert!(others.iter().all(|other| other.is_same_but_for_use(first)), "members differ: {all:?}");
    match first {
        Entry::Leaf(leaf) => Some(leaf),
        _ => None,
    }
}

/// Addresses in the first, in the middle and in the last part of a page.
fn inside(size: HugeSize) -> [u64; 4] {
    [0, size.member_bytes() - 1, size.bytes() / 2 + 5, size.bytes() - 1]
}

fn finish(spaces: Vec<Arc<AddressSpace>>, hugetlb: &Arc<Hugetlb>, mut task: Task) {
    for space in spaces {
        space.exit(&mut task).unwrap();
    }
    task.rcu_barrier();
    drop(task);
    for size in hugetlb.sizes() {
        let counters = hugetlb.pool(size).counters();
        assert_eq!((counters.total, counters.free, counters.reserved), (16, 16, 0), "{size:?}");
    }
    assert_eq!(hugetlb.platform().tables_in_use(), 0);
}

#[test]
fn a_page_of_each_size_is_found_at_each_of_its_addresses() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let start = map(&space, &mut task, size, 3, true);
        for page in 0..3 {
            for (value, within) in (1..).zip(inside(size)) {
                let address = VirtAddr::new(start + page * size.bytes() + within);
                cpu::store(&space, &mut task, address, value + page as u8).unwrap();
                assert_eq!(
                    cpu::load(&space, &mut task, address),
                    Ok(value + page as u8),
                    "{paging:?} {size:?}"
                );
            }
        }
        assert_eq!(space.mm().resident_of(size), 3);
        assert_eq!(hugetlb.pool(size).counters().free, 13);
        let leaf = leaf(&space, start + size.bytes(), size).expect("mapped");
        assert!(leaf.is_writable() && leaf.is_dirty());
        // Each entry of a group is found at its own address, and says the same.
        let section = task.rcu_read_lock();
        for within in inside(size) {
            let address = VirtAddr::new(start + size.bytes() + within);
            let slot = huge_pte_offset(&section, space.mm(), address, size).unwrap().unwrap();
            assert_eq!(slot.read().unwrap().page(), Some(leaf.frame));
        }
        drop(section);
        finish(vec![space], &hugetlb, task);
    });
}

#[test]
fn a_private_page_is_copied_after_a_fork_and_the_parent_keeps_its_own() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let parent = AddressSpace::new(&hugetlb).unwrap();
        let start = map(&parent, &mut task, size, 2, false);
        let [first, .., last] = inside(size).map(|within| VirtAddr::new(start + within));
        cpu::store(&parent, &mut task, first, 1).unwrap();
        cpu::store(&parent, &mut task, last, 2).unwrap();
        let child = parent.fork(&mut task).unwrap();
        let both = [&parent, &child].map(|space| leaf(space, start, size).expect("mapped"));
        assert_eq!(both[0].frame, both[1].frame);
        assert!(both.iter().all(|leaf| !leaf.is_writable()));
        cpu::store(&child, &mut task, last, 3).unwrap();
        let both = [&parent, &child].map(|space| leaf(space, start, size).expect("mapped"));
        assert_ne!(both[0].frame, both[1].frame);
        assert!(both[1].is_writable() && both[1].is_dirty());
        for (space, value) in [(&parent, 2), (&child, 3)] {
            assert_eq!(cpu::load(space, &mut task, first), Ok(1));
            assert_eq!(cpu::load(space, &mut task, last), Ok(value));
        }
        // Alone with its page, the parent writes to it as it is.
        child.exit(&mut task).unwrap();
        drop(child);
        cpu::store(&parent, &mut task, first, 4).unwrap();
        assert_eq!(leaf(&parent, start, size).map(|leaf| leaf.frame), Some(both[0].frame));
        finish(vec![parent], &hugetlb, task);
    });
}

#[test]
fn what_one_member_of_a_group_notes_is_the_groups() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let start = map(&space, &mut task, size, 1, true);
        let all = VirtAddr::new(start)..VirtAddr::new(start + size.bytes());
        space.fault(&mut task, all.start, Access::Read).unwrap();
        assert_eq!(space.sample_accessed(&mut task, all.clone()), Ok(1));
        assert_eq!(space.sample_accessed(&mut task, all.clone()), Ok(0));
        let before = leaf(&space, start, size).unwrap();
        assert!(!before.is_accessed() && !before.is_dirty());
        // A processor notes the store in the last member alone.
        note(&space, start, size, LeafFlags::ACCESSED | LeafFlags::DIRTY);
        let section = task.rcu_read_lock();
        let slot = huge_pte_offset(&section, space.mm(), all.start, size).unwrap().unwrap();
        let Entry::Leaf(locked) = slot.lock().unwrap().read() else { panic!("a leaf") };
        assert!(locked.is_accessed() && locked.is_dirty());
        drop(section);
        assert_eq!(space.sample_accessed(&mut task, all.clone()), Ok(1));
        assert_eq!(space.sample_accessed(&mut task, all.clone()), Ok(0));
        // It is still dirty, and nothing that changes rights forgets that.
        space.mprotect(&mut task, all.start, size.bytes(), Protection::READ).unwrap();
        assert!(leaf(&space, start, size).unwrap().is_dirty());
        space.mprotect(&mut task, all.start, size.bytes(), Protection::empty()).unwrap();
        assert!(leaf(&space, start, size).is_some_and(|leaf| !leaf.is_accessible() && leaf.is_dirty()));
        space.mprotect(&mut task, all.start, size.bytes(), RW).unwrap();
        assert!(leaf(&space, start, size).is_some_and(|leaf| leaf.is_writable() && leaf.is_dirty()));
        finish(vec![space], &hugetlb, task);
    });
}

/// Notes an access in the last member of a group, as a processor does.
fn note(space: &AddressSpace, address: u64, size: HugeSize, used: LeafFlags) {
    let paging = *space.mm().paging();
    let last = address + size.bytes() - 1;
    let index = paging.geometry().index(last, size.level());
    let word = word(space, last, size.level());
    let noted = paging.change_flags(word.load(Ordering::Relaxed), size.level(), index, |flags| flags | used);
    word.store(noted, Ordering::Relaxed);
}

/// The entry for an address in its table of `level`.
fn word(space: &AddressSpace, address: u64, level: u8) -> &AtomicU64 {
    let (mm, paging) = (space.mm(), *space.mm().paging());
    let geometry = paging.geometry();
    let mut frame = mm.root_frame();
    for at in (level..geometry.levels).rev() {
        // SAFETY: a root, or a table that an entry points to; nobody frees tables meanwhile.
        let entry = unsafe { mm.hugetlb().platform().table_entry(frame, geometry.index(address, at)) };
        // SAFETY: likewise; entries are atomics.
        let word = unsafe { entry.as_ref() };
        if at == level {
            return word;
        }
        frame = paging.next_table(word.load(Ordering::Relaxed), at).expect("a table");
    }
    panic!("no tree has tables of that level")
}

/// A protection key, a memory type: what a host writes to entries by itself.
fn foreign(paging: AnyPaging) -> u64 {
    match paging {
        AnyPaging::X86_64(_) => 5 << 59 | 1 << 12 | 1 << 3,
        AnyPaging::Aarch64(_) => 6 << 2 | 1 << 50,
        AnyPaging::Riscv64(_) => 2 << 61,
    }
}

/// What all entries of a page carry.
#[track_caller]
fn carried(space: &AddressSpace, address: u64, size: HugeSize) -> u64 {
    let parts = (address..address + size.bytes()).step_by(size.member_bytes() as usize);
    let bits = parts.map(|part| word(space, part, size.level()).load(Ordering::Relaxed));
    let mut all = bits.map(|bits| space.mm().paging().carried(bits, size.level()));
    let first = all.next().unwrap();
    assert!(all.all(|other| other == first));
    first
}

#[test]
fn a_protection_key_or_memory_type_stays_with_its_entry_wherever_that_goes() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let start = map(&space, &mut task, size, 3, false);
        let (here, length) = (VirtAddr::new(start), 3 * size.bytes());
        let pages: Vec<u64> = (start..start + length).step_by(size.bytes() as usize).collect();
        let key = foreign(paging);
        for &page in &pages {
            cpu::store(&space, &mut task, VirtAddr::new(page), 7).unwrap();
            assert_eq!(carried(&space, page, size), paging.ordinary());
            for part in (page..page + size.bytes()).step_by(size.member_bytes() as usize) {
                let word = word(&space, part, size.level());
                let member = paging.geometry().index(part, size.level()) & size.group_mask();
                let bits = word.load(Ordering::Relaxed);
                let entry = paging.decode(bits, size.level());
                word.store(paging.encode(entry, size, member as u16, key), Ordering::Relaxed);
            }
            assert_eq!(carried(&space, page, size), key, "{paging:?} has these bits");
        }
        let stay = |space: &AddressSpace, at: u64, what: &str| {
            for n in 0..3 {
                let found = carried(space, at + n * size.bytes(), size);
                assert_eq!(found, key, "{what}: {paging:?}, {size:?}, page {n}");
            }
        };
        space.mprotect(&mut task, here, length, Protection::READ).unwrap();
        stay(&space, start, "fewer rights");
        space.mprotect(&mut task, here, length, Protection::empty()).unwrap();
        stay(&space, start, "no rights");
        space.mprotect(&mut task, here, length, RW).unwrap();
        stay(&space, start, "all of them back");
        // The last page is pinned: the child has a copy of it.
        let pin = space.pin_page_fast(&task, VirtAddr::new(pages[2]), GupFlags::PIN).unwrap();
        let child = space.fork(&mut task).unwrap();
        stay(&space, start, "the parent of a fork");
        stay(&child, start, "the child");
        assert_ne!(leaf_frame(&child, pages[2], size), leaf_frame(&space, pages[2], size));
        drop(pin);
        cpu::store(&child, &mut task, here, 8).unwrap();
        assert_ne!(leaf_frame(&child, start, size), leaf_frame(&space, start, size));
        stay(&child, start, "a copy on write");
        let to = VirtAddr::new(start + 4 * size.bytes());
        space.mremap(&mut task, here, length, length, RemapTo::Fixed(to)).unwrap();
        stay(&space, to.as_u64(), "another address");
        finish(vec![child, space], &hugetlb, task);
    });
}

fn leaf_frame(space: &AddressSpace, address: u64, size: HugeSize) -> HugeFrame {
    let bits = word(space, address, size.level()).load(Ordering::Relaxed);
    match space.mm().paging().decode(bits, size.level()) {
        Entry::Leaf(leaf) => leaf.frame,
        other => panic!("{other:?} is no leaf"),
    }
}

#[test]
fn a_flush_goes_by_the_entries_of_a_group_and_not_by_the_page() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let start = map(&space, &mut task, size, 2, false);
        let here = VirtAddr::new(start);
        let flushed = |what: &str| {
            let flush = hugetlb.platform().take_flush().unwrap_or_else(|| panic!("{what} flushes"));
            assert_eq!(flush.stride, size.member_bytes(), "{what}: {paging:?}, {size:?}");
        };
        cpu::store(&space, &mut task, here, 7).unwrap();
        space.mprotect(&mut task, here, 2 * size.bytes(), Protection::READ).unwrap();
        flushed("taking rights away");
        space.mprotect(&mut task, here, 2 * size.bytes(), RW).unwrap();
        let child = space.fork(&mut task).unwrap();
        flushed("a fork");
        cpu::store(&space, &mut task, here, 8).unwrap();
        flushed("a copy");
        let frame = leaf_frame(&space, start, size);
        hugetlb.migrate(&mut task, frame).unwrap();
        flushed("a migration");
        space.madvise(&mut task, here, size.bytes(), Advice::DontNeed).unwrap();
        flushed("a zap");
        finish(vec![child, space], &hugetlb, task);
    });
}

#[test]
fn pins_hold_the_page_around_each_address() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let start = map(&space, &mut task, size, 2, false);
        cpu::store(&space, &mut task, VirtAddr::new(start), 1).unwrap();
        let frame = leaf(&space, start, size).unwrap().frame;
        for within in inside(size) {
            let address = VirtAddr::new(start + within);
            let fast = space.pin_page_fast(&task, address, GupFlags::WRITE | GupFlags::PIN).expect("mapped");
            assert_eq!((fast.frame(), fast.size()), (frame, size), "{paging:?} {size:?} {within:#x}");
            let slow = space.follow_page(&task, address, GupFlags::empty()).unwrap().expect("mapped");
            assert_eq!((slow.frame(), slow.size()), (frame, size));
        }
        // A pinned page is copied for the child at fork.
        let pin = space.pin_page_fast(&task, VirtAddr::new(start + size.bytes() - 1), GupFlags::PIN).unwrap();
        let child = space.fork(&mut task).unwrap();
        assert_eq!(
            leaf(&space, start, size).map(|leaf| (leaf.frame, leaf.is_writable())),
            Some((frame, true))
        );
        assert_ne!(leaf(&child, start, size).map(|leaf| leaf.frame), Some(frame));
        drop(pin);
        finish(vec![child, space], &hugetlb, task);
    });
}

#[test]
fn a_page_moves_to_another_frame_and_to_another_address() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let start = map(&space, &mut task, size, 2, false);
        let last = VirtAddr::new(start + size.bytes() - 1);
        cpu::store(&space, &mut task, last, 7).unwrap();
        let before = leaf(&space, start, size).unwrap();
        hugetlb.migrate(&mut task, before.frame).unwrap();
        let after = leaf(&space, start, size).unwrap();
        assert_ne!(after.frame, before.frame);
        assert!(after.is_dirty());
        assert_eq!(cpu::load(&space, &mut task, last), Ok(7));
        let to = VirtAddr::new(start + 4 * size.bytes());
        let moved =
            space.mremap(&mut task, VirtAddr::new(start), size.bytes(), size.bytes(), RemapTo::Fixed(to));
        assert_eq!(moved, Ok(to));
        assert!(members(&space, start, size).iter().all(|entry| entry.is_none()));
        assert_eq!(leaf(&space, to.as_u64(), size).map(|leaf| leaf.frame), Some(after.frame));
        assert_eq!(cpu::load(&space, &mut task, VirtAddr::new(to.as_u64() + size.bytes() - 1)), Ok(7));
        finish(vec![space], &hugetlb, task);
    });
}

#[test]
fn memory_failure_anywhere_in_a_page_takes_all_of_it() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let start = map(&space, &mut task, size, 1, false);
        cpu::store(&space, &mut task, VirtAddr::new(start), 1).unwrap();
        let frame = leaf(&space, start, size).unwrap().frame;
        hugetlb.memory_failure(&mut task, HugeFrame(frame.0 + size.frames() - 1)).unwrap();
        let all = members(&space, start, size);
        assert!(all.iter().all(|entry| *entry == Entry::Hwpoison(frame)), "{all:?}");
        for within in inside(size) {
            assert!(cpu::load(&space, &mut task, VirtAddr::new(start + within)).is_err());
        }
        space.exit(&mut task).unwrap();
        drop((space, task));
    });
}

#[test]
fn tables_are_shared_where_the_format_shares_them() {
    each_size(|paging, size| {
        let (hugetlb, mut task) = system(paging);
        let table = paging.geometry().table_bytes(size.level());
        if 2 * table > 1 << paging.geometry().user_bits {
            return;
        }
        let file: Arc<File> = HugeFile::new(&hugetlb, size, None).unwrap();
        file.truncate(&mut task, table).unwrap();
        let spaces = [(); 2].map(|()| AddressSpace::new(&hugetlb).unwrap());
        for space in &spaces {
            common::map(space, &mut task, &file, 0, table, table, MapFlags::SHARED | MapFlags::NORESERVE)
                .unwrap();
        }
        let last = VirtAddr::new(2 * table - 1);
        cpu::store(&spaces[0], &mut task, last, 5).unwrap();
        assert_eq!(cpu::load(&spaces[1], &mut task, last), Ok(5));
        let events = hugetlb.platform().take_events();
        let shares = events.iter().filter(|event| matches!(event, Event::Shared { .. })).count();
        assert_eq!(shares, usize::from(size.shares_tables()), "{paging:?} {size:?}");
        let users: Vec<_> = spaces[1].tables(&mut task).unwrap().iter().map(|table| table.users).collect();
        assert_eq!(users, [1 + shares as u64]);
        let leaves: Vec<_> = spaces[1].tables(&mut task).unwrap().iter().map(|table| table.leaves).collect();
        assert_eq!(leaves, [1]);
        spaces[1].madvise(&mut task, VirtAddr::new(table), table, Advice::DontNeed).unwrap();
        let unshared = hugetlb.platform().take_events();
        let unshares = unshared.iter().filter(|event| matches!(event, Event::Unshared { .. })).count();
        assert_eq!(unshares, shares);
        assert_eq!(cpu::load(&spaces[1], &mut task, last), Ok(5));
        for space in spaces {
            space.exit(&mut task).unwrap();
        }
        file.truncate(&mut task, 0).unwrap();
        drop(file);
        finish(Vec::new(), &hugetlb, task);
    });
}

#[test]
fn pages_of_all_sizes_lie_beside_each_other_in_one_address_space() {
    for paging in formats() {
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let mut mapped = Vec::new();
        for (value, size) in (1..).zip(hugetlb.sizes()) {
            let request = MapRequest::anonymous(size, size.bytes()).shared();
            let Ok(start) = space.mmap(&mut task, &request) else { continue };
            for within in inside(size) {
                cpu::store(&space, &mut task, VirtAddr::new(start.as_u64() + within), value).unwrap();
            }
            mapped.push((start.as_u64(), size, value));
        }
        assert!(mapped.len() >= 2, "{paging:?}");
        for &(start, size, value) in &mapped {
            assert!(leaf(&space, start, size).is_some());
            for within in inside(size) {
                assert_eq!(cpu::load(&space, &mut task, VirtAddr::new(start + within)), Ok(value));
            }
            let pin = space.pin_page_fast(&task, VirtAddr::new(start + size.bytes() - 1), GupFlags::PIN);
            assert_eq!(pin.map(|pin| pin.size()), Some(size));
        }
        let pages: u64 = mapped.iter().map(|&(_, size, _)| size.bytes()).sum();
        assert_eq!(space.mm().resident_bytes(), pages);
        finish(vec![space], &hugetlb, task);
    }
}

#[test]
fn sizes_of_other_formats_are_refused() {
    let (hugetlb, mut task) = system(Riscv64::new(Sv::Sv39).into());
    let space = AddressSpace::new(&hugetlb).unwrap();
    let foreign = Aarch64::new(Granule::K64, 48).unwrap().of_shift(29).unwrap();
    assert_eq!(hugetlb.resize_pool(foreign, 4), 0);
    assert_eq!(hugetlb.pool(foreign).counters().total, 0);
    let refused = space.mmap(&mut task, &MapRequest::anonymous(foreign, foreign.bytes()));
    assert_eq!(refused.map_err(|error| error.errno().name()), Err("EINVAL"));
    let file = HugeFile::new(&hugetlb, foreign, None);
    assert_eq!(file.map(drop).map_err(|error| error.errno().name()), Err("ENODEV"));
    let section = task.rcu_read_lock();
    assert!(huge_pte_offset(&section, space.mm(), VirtAddr::new(0), foreign).unwrap().is_none());
    drop(section);
    // Not even one of as many bytes.
    let svnapot = Riscv64::new(Sv::Sv39).with_svnapot().of_shift(21).unwrap();
    assert_eq!(hugetlb.resize_pool(svnapot, 4), 0);
    finish(vec![space], &hugetlb, task);
}

/// A table of the level of base pages is the engine's or the host's, whole.
#[test]
fn pages_of_less_than_such_a_table_and_base_pages_never_meet_in_one() {
    for paging in formats() {
        let Some(&size) = paging.leaves().iter().find(|size| size.level() == 0) else { continue };
        let (hugetlb, mut task) = system(paging);
        let space = AddressSpace::new(&hugetlb).unwrap();
        let (block, base) = (paging.geometry().table_bytes(0), paging.geometry().base_bytes());
        let at = VirtAddr::new;
        let (here, last) = (2 * block, at(3 * block - base));
        let map = |task: &mut Task, placement| {
            space.mmap(task, &MapRequest::anonymous(size, size.bytes()).placed(placement))
        };
        // Base pages first.
        assert_eq!(space.claim(&mut task, Placement::FixedNoReplace(last), base), Ok(last));
        let refused = Err(MapError::SameTable { address: last });
        assert_eq!(map(&mut task, Placement::FixedNoReplace(at(here))), refused);
        assert_eq!(map(&mut task, Placement::Fixed(at(here))), refused);
        let hinted = map(&mut task, Placement::Hint(at(here))).unwrap();
        assert!(!(here..here + block).contains(&hinted.as_u64()));
        let below = at(here - size.bytes());
        for top in [last, at(here + size.bytes())] {
            assert_eq!(map(&mut task, Placement::Below(top)), Ok(below));
            assert_eq!(
                space.mremap(&mut task, below, size.bytes(), size.bytes(), RemapTo::Fixed(at(here))),
                refused
            );
            space.munmap(&mut task, below, size.bytes()).unwrap();
        }
        // Small pages first, behind and before.
        assert_eq!(map(&mut task, Placement::FixedNoReplace(below)), Ok(below));
        let refused = Err(MapError::SameTable { address: below });
        for place in [at(here - block), at(here - size.bytes() - base)] {
            assert_eq!(space.claim(&mut task, Placement::FixedNoReplace(place), base), refused);
            assert_eq!(space.claim(&mut task, Placement::Fixed(place), base), refused);
        }
        for (top, pages) in [(below, 1), (at(here), 2), (at(here - block), 3)] {
            let found = space.claim(&mut task, Placement::Below(top), base);
            assert_eq!(found, Ok(at(here - block - pages * base)), "below {top:?}");
        }
        space.release(&mut task, last..at(here + block)).unwrap();
        assert_eq!(map(&mut task, Placement::FixedNoReplace(at(here))), Ok(at(here)));
        let refused = Err(MapError::SameTable { address: at(here) });
        assert_eq!(space.claim(&mut task, Placement::FixedNoReplace(last), base), refused);
        let behind = at(here + size.bytes());
        assert_eq!(
            space.claim(&mut task, Placement::Hint(behind), base).map(|found| found == behind),
            Ok(false)
        );
        let top = at(here + block + base);
        assert_eq!(space.claim(&mut task, Placement::Below(top), 2 * base), Ok(at(here - block - 5 * base)));
        assert_eq!(space.claim(&mut task, Placement::Below(top), base), Ok(at(here + block)));
        // In tables of their own both are used.
        for page in [below, at(here)] {
            space.fault(&mut task, page, Access::Write).unwrap();
        }
        space.release(&mut task, at(0)..at(here + 2 * block)).unwrap();
        finish(vec![space], &hugetlb, task);
    }
}
