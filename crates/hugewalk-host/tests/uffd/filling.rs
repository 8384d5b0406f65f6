//! What a handler's operations leave in an entry, whom they wake, and what they refuse.

use std::sync::atomic::{AtomicBool, Ordering};

use hugewalk::Task;
use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Entry, Leaf, LeafFlags, X86_64};
use hugewalk::fault::{Access, FaultError};
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::rmap::Recovery;
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Modes, PoisonMode, ProtectMode, Userfault, UserfaultError,
};
use hugewalk::vma::VmaFlags;
use hugewalk::walk::huge_pte_offset;
use hugewalk_host::{Cpu, Host};

use crate::setup::{BASE, KINDS, MIB2, World, a_while, at, load, map_at, page_of, read_fault, store, until};

const NONE: CopyMode = CopyMode::empty();
const SIZE: HugeSize = X86_64::SIZE_2M;

fn leaf(world: &World, page: u64) -> Leaf {
    let section = world.task.rcu_read_lock();
    let slot = huge_pte_offset(&section, world.space.mm(), at(page, 0), SIZE).unwrap().unwrap();
    match slot.read().unwrap() {
        Entry::Leaf(leaf) => leaf,
        other => panic!("nothing is mapped: {other:?}"),
    }
}

/// The frame of a page that is in the file and not mapped.
fn frame_in_file(world: &mut World) -> HugeFrame {
    world.space.fault(&mut world.task, BASE, Access::Read).unwrap();
    let frame = leaf(world, 0).frame;
    world.space.madvise(&mut world.task, BASE, MIB2, Advice::DontNeed).unwrap();
    assert_eq!(world.file.pages(), 1);
    frame
}

#[test]
fn what_the_handler_brings_is_written_from_the_start_and_can_be_written_if_it_is_not_the_files() {
    for kind in KINDS {
        let mut world = World::new(2, kind, Features::empty());
        world.file.write_at(&mut world.task, MIB2, &[1]).unwrap();
        world.register(Modes::MISSING | Modes::MINOR);
        world.uffd.copy(&mut world.task, BASE, &page_of(7), NONE).unwrap();
        world.uffd.continue_range(&mut world.task, at(1, 0), MIB2, ContinueMode::empty()).unwrap();
        for (page, writable) in [(0, true), (1, kind == MapFlags::SHARED)] {
            let leaf = leaf(&world, page);
            assert!(leaf.flags.contains(LeafFlags::DIRTY), "{kind:?}, {page}");
            assert_eq!(leaf.is_writable(), writable, "{kind:?}, {page}");
        }
        world.end();
    }
}

#[test]
fn a_private_mapping_goes_on_beyond_the_end_of_the_file() {
    let mut world = World::registered(4, MapFlags::empty(), Modes::MISSING);
    world.file.truncate(&mut world.task, 2 * MIB2).unwrap();
    world.uffd.copy(&mut world.task, at(2, 0), &page_of(6), NONE).unwrap();
    let mut cpu = world.cpu();
    assert_eq!(load(&mut cpu, &mut world.task, 2), Ok(6));
    drop(cpu);
    world.end();
}

#[test]
fn what_is_mapped_is_found_without_a_page_to_put_there() {
    for kind in KINDS {
        let mut world = World::registered(1, kind | MapFlags::NORESERVE, Modes::MISSING);
        assert_eq!(world.hugetlb.resize_pool(SIZE, 1), 1);
        world.uffd.copy(&mut world.task, BASE, &page_of(6), NONE).unwrap();
        let stopped = world.uffd.copy(&mut world.task, BASE, &page_of(7), NONE).unwrap_err();
        assert_eq!(stopped.error, UserfaultError::Exists { address: BASE });
        world.end();
    }
}

#[test]
fn a_page_of_the_file_that_memory_failure_has_hit_is_not_mapped() {
    for kind in KINDS {
        let mut world = World::new(1, MapFlags::SHARED, Features::empty());
        let bad = frame_in_file(&mut world);
        assert_eq!(world.hugetlb.memory_failure(&mut world.task, bad), Ok(Recovery::File));
        map_at(&world.space, &mut world.task, &world.file, BASE, kind | MapFlags::NORESERVE);
        world.register(Modes::MINOR);
        let mode = ContinueMode::empty();
        let stopped = world.uffd.continue_range(&mut world.task, BASE, MIB2, mode).unwrap_err();
        assert_eq!(stopped.error, UserfaultError::Hwpoison { address: BASE });
        assert_eq!(world.space.mm().resident(), 0);
        world.file.punch_hole(&mut world.task, 0, MIB2).unwrap();
        world.end();
    }
}

/// An access waits while `resolve` runs, which wakes nobody, and for a while after that.
fn sleeps_on<R: Send>(
    world: &mut World,
    access: impl FnOnce(&mut Cpu, &mut Task<Host>) -> R + Send,
    resolve: impl FnOnce(&mut Task<Host>, &Userfault<Host>),
) -> R {
    let woken = AtomicBool::new(false);
    let (seen, ()) = world.beside(
        |cpu, task| {
            let seen = access(cpu, task);
            woken.store(true, Ordering::Release);
            seen
        },
        |task, uffd| {
            read_fault(uffd, task);
            resolve(task, uffd);
            a_while();
            assert!(!woken.load(Ordering::Acquire), "it was woken");
            uffd.wake(BASE, MIB2).unwrap();
        },
    );
    seen
}

#[test]
fn each_operation_can_leave_the_waking_to_another_call() {
    let mut world = World::registered(1, MapFlags::SHARED, Modes::MISSING);
    let seen = sleeps_on(
        &mut world,
        |cpu, task| load(cpu, task, 0),
        |task, uffd| uffd.poison(task, BASE, MIB2, PoisonMode::DONTWAKE).unwrap(),
    );
    assert_eq!(seen, Err(FaultError::Hwpoison { address: BASE, size: SIZE }));
    world.end();

    let mut world = World::new(1, MapFlags::SHARED, Features::empty());
    world.file.write_at(&mut world.task, 5, &[9]).unwrap();
    world.register(Modes::MINOR | Modes::WP);
    let seen = sleeps_on(
        &mut world,
        |cpu, task| load(cpu, task, 0),
        |task, uffd| uffd.continue_range(task, BASE, MIB2, ContinueMode::DONTWAKE).unwrap(),
    );
    assert_eq!(seen, Ok(9));
    world.uffd.write_protect(&mut world.task, BASE, MIB2, ProtectMode::WP).unwrap();
    let seen = sleeps_on(
        &mut world,
        |cpu, task| store(cpu, task, 0, 3),
        |task, uffd| uffd.write_protect(task, BASE, MIB2, ProtectMode::DONTWAKE).unwrap(),
    );
    assert_eq!(seen, Ok(()));
    world.end();
}

#[test]
fn a_missing_page_is_the_handlers_also_if_stores_to_protected_ones_are_not() {
    let mut world = World::new(1, MapFlags::SHARED, Features::WP_ASYNC);
    world.register(Modes::MISSING | Modes::WP);
    let (seen, ()) = world.beside(
        |cpu, task| load(cpu, task, 0),
        |task, uffd| {
            until(|| uffd.poll());
            let fault = read_fault(uffd, task);
            uffd.copy(task, fault.address, &page_of(7), NONE).unwrap();
        },
    );
    assert_eq!(seen, Ok(7));
    world.end();
}

#[test]
fn what_is_refused_says_which_mistake_it_was() {
    let mut world = World::registered(4, MapFlags::SHARED, Modes::MISSING | Modes::MINOR);
    let (uffd, task) = (&world.uffd, &mut world.task);
    let unknown = uffd.continue_range(task, BASE, MIB2, ContinueMode::from_bits_retain(1 << 2));
    assert_eq!(unknown.unwrap_err().error, UserfaultError::UnknownFlags);
    let zeroes = uffd.zero(task, at(0, 4096), MIB2);
    assert_eq!(zeroes.unwrap_err().error, UserfaultError::Unsupported);
    // The end is that of a page, the start is not.
    let unaligned = UserfaultError::Unaligned { value: at(0, 4096).as_u64(), size: SIZE };
    let middle = uffd.continue_range(task, at(0, 4096), MIB2 - 4096, ContinueMode::empty());
    assert_eq!(middle.unwrap_err().error, unaligned);
    world.end();
}

#[test]
fn a_range_may_end_in_a_hole_and_a_mapping_of_another_handler_comes_before_a_wrong_end() {
    let mut world = World::new(4, MapFlags::SHARED, Features::empty());
    let other = Userfault::new(&world.space, Features::empty()).unwrap();
    let (uffd, task) = (&world.uffd, &mut world.task);
    let modes = Modes::MISSING;
    uffd.register(task, BASE, 4 * MIB2 + 4096, modes).unwrap();
    uffd.unregister(task, BASE, 4 * MIB2 + 4096).unwrap();

    other.register(task, at(1, 0), MIB2, modes).unwrap();
    let busy = UserfaultError::Busy { address: at(1, 0) };
    let unaligned = |end: VirtAddr| UserfaultError::Unaligned { value: end.as_u64(), size: SIZE };
    for (length, refused) in [(MIB2 + 4096, unaligned(at(1, 4096))), (2 * MIB2 + 4096, busy)] {
        assert_eq!(uffd.register(task, BASE, length, modes), Err(refused), "{length:#x}");
    }
    drop(other);
    world.end();
}

#[test]
fn a_handler_that_registers_again_keeps_its_protections() {
    for kind in KINDS {
        let mut world = World::registered(1, kind, Modes::WP);
        world.space.fault(&mut world.task, BASE, Access::Write).unwrap();
        world.uffd.write_protect(&mut world.task, BASE, MIB2, ProtectMode::WP).unwrap();
        world.register(Modes::WP | Modes::MISSING);
        assert!(leaf(&world, 0).is_protected());
        world.end();
    }
}

#[test]
fn a_private_mapping_gets_a_page_of_its_own_where_the_file_has_one() {
    let mut world = World::new(1, MapFlags::empty(), Features::empty());
    world.file.write_at(&mut world.task, 5, &[1]).unwrap();
    world.register(Modes::MISSING);
    world.uffd.copy(&mut world.task, BASE, &page_of(7), NONE).unwrap();
    let (mut cpu, mut byte) = (world.cpu(), [0]);
    world.file.read_at(5, &mut byte).unwrap();
    assert_eq!((load(&mut cpu, &mut world.task, 0), byte), (Ok(7), [1]));
    drop(cpu);
    world.end();
}

#[test]
fn other_modes_replace_those_before_and_a_start_in_a_hole_is_that_of_a_page_too() {
    let mut world = World::registered(1, MapFlags::SHARED, Modes::MISSING);
    world.register(Modes::WP);
    let modes = world.space.mmap_read(&mut world.task).find(BASE).unwrap().flags() & VmaFlags::UFFD;
    assert_eq!(modes, VmaFlags::UFFD_WP);
    let start = BASE.as_u64() - 4096;
    let refused = world.uffd.register(&mut world.task, VirtAddr::new(start), MIB2 + 4096, Modes::WP);
    assert_eq!(refused, Err(UserfaultError::Unaligned { value: start, size: SIZE }));
    world.end();
}
