//! Poison: accesses that fail because a handler has said so.

use hugewalk::arch::{Entry, X86_64};
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::pagewalk::{PageMap, Scan};
use hugewalk::uffd::{ContinueMode, CopyMode, Features, Message, Modes, Operations, PoisonMode, ProtectMode};
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Task};
use hugewalk_host::{Cpu, Host};

use crate::setup::{
    BASE, GIB, KINDS, MIB2, Space, World, at, errno, load, map_at, page_of, read_fault, store,
};

const NOW: PoisonMode = PoisonMode::empty();

fn entry(task: &Task<Host>, space: &Space, page: u64) -> Entry {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, space.mm(), at(page, 0), X86_64::SIZE_2M).unwrap();
    slot.map_or(Entry::None, |slot| slot.read().unwrap())
}

fn gone<T>(page: u64) -> Result<T, FaultError> {
    Err(FaultError::Hwpoison { address: at(page, 0), size: X86_64::SIZE_2M })
}

#[test]
fn accesses_to_poison_fail_until_the_handler_brings_a_page() {
    for kind in KINDS {
        let mut world = World::new(4, kind, Features::POISON);
        let can = world.uffd.register(&mut world.task, BASE, 4 * MIB2, Modes::MISSING).unwrap();
        assert!(can.contains(Operations::POISON));
        world.uffd.poison(&mut world.task, at(1, 0), 2 * MIB2, NOW).unwrap();
        let mut cpu = world.cpu();
        for page in [1, 2] {
            assert_eq!(load(&mut cpu, &mut world.task, page), gone(page));
            assert_eq!(store(&mut cpu, &mut world.task, page, 1), gone(page));
        }
        assert!(!world.uffd.poll(), "the handler was asked");
        let map = world.space.pagemap(&mut world.task, at(1, 0)..at(2, 0)).unwrap();
        assert_eq!(map, [(at(1, 0), PageMap::empty())]);
        assert!(!world.space.mincore(&mut world.task, at(1, 0)..at(2, 0)).unwrap()[0].1);
        world.uffd.copy(&mut world.task, at(1, 0), &page_of(9), CopyMode::empty()).unwrap();
        assert_eq!(load(&mut cpu, &mut world.task, 1), Ok(9));
        assert_eq!(load(&mut cpu, &mut world.task, 2), gone(2));
        drop(cpu);
        world.end();
    }
}

#[test]
fn poison_goes_where_nothing_is_and_nowhere_else() {
    let mut world = World::registered(5, MapFlags::SHARED, Modes::MISSING | Modes::WP);
    world.uffd.copy(&mut world.task, BASE, &page_of(1), CopyMode::empty()).unwrap();
    world.uffd.write_protect(&mut world.task, at(1, 0), MIB2, ProtectMode::WP).unwrap();
    world.uffd.poison(&mut world.task, at(2, 0), MIB2, NOW).unwrap();
    for page in 0..3 {
        let refused = world.uffd.poison(&mut world.task, at(page, 0), MIB2, NOW).unwrap_err();
        assert_eq!((refused.errno(), refused.done), (Errno::EEXIST, 0), "page {page}");
    }
    // Two pages can be poisoned, the third is: what was done stays.
    world.uffd.copy(&mut world.task, at(4, 0), &page_of(1), CopyMode::empty()).unwrap();
    let stopped = world.uffd.poison(&mut world.task, at(3, 0), 2 * MIB2, NOW).unwrap_err();
    assert_eq!((stopped.done, stopped.errno()), (MIB2, Errno::EAGAIN));
    let unknown = PoisonMode::from_bits_retain(2);
    let refused = world.uffd.poison(&mut world.task, at(3, 0), MIB2, unknown).unwrap_err();
    assert_eq!(refused.errno(), Errno::EINVAL);
    // Protecting says nothing about a page that is lost.
    world.uffd.write_protect(&mut world.task, BASE, 5 * MIB2, ProtectMode::WP).unwrap();
    assert_eq!(entry(&world.task, &world.space, 2), Entry::Poison);
    world.end();
}

#[test]
fn a_fault_that_waits_finds_out_that_its_page_is_lost() {
    let mut world = World::registered(1, MapFlags::SHARED, Modes::MISSING);
    let (loaded, ()) = world.beside(
        |cpu, task| load(cpu, task, 0),
        |task, uffd| {
            let fault = read_fault(uffd, task);
            uffd.poison(task, fault.address, MIB2, NOW).unwrap();
        },
    );
    assert_eq!(loaded, gone(0));
    world.end();
}

#[test]
fn poison_goes_with_its_entry() {
    for kind in KINDS {
        let mut world = World::registered(3, kind, Modes::MISSING);
        let mut cpu = world.cpu();
        world.uffd.poison(&mut world.task, BASE, 3 * MIB2, NOW).unwrap();
        // mprotect leaves it.
        for rights in [Protection::READ, Protection::READ | Protection::WRITE] {
            world.space.mprotect(&mut world.task, BASE, 3 * MIB2, rights).unwrap();
        }
        assert_eq!(load(&mut cpu, &mut world.task, 0), gone(0));
        world.space.madvise(&mut world.task, BASE, MIB2, Advice::DontNeed).unwrap();
        world.file.punch_hole(&mut world.task, MIB2, MIB2).unwrap();
        // So does unregistering.
        world.uffd.unregister(&mut world.task, BASE, 3 * MIB2).unwrap();
        assert_eq!([0, 1].map(|page| load(&mut cpu, &mut world.task, page)), [Ok(0), Ok(0)]);
        assert_eq!(load(&mut cpu, &mut world.task, 2), gone(2));
        drop(cpu);
        world.end();
    }
}

#[test]
fn a_page_of_the_file_can_be_mapped_over_poison() {
    let mut world = World::registered(1, MapFlags::SHARED, Modes::MINOR);
    world.file.write_at(&mut world.task, 0, &[5; 10]).unwrap();
    world.uffd.poison(&mut world.task, BASE, MIB2, NOW).unwrap();
    let mut cpu = world.cpu();
    assert_eq!(load(&mut cpu, &mut world.task, 0), gone(0));
    world.uffd.continue_range(&mut world.task, BASE, MIB2, ContinueMode::empty()).unwrap();
    assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(5));
    drop(cpu);
    world.end();
}

#[test]
fn a_page_of_the_file_can_be_mapped_protected() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::MINOR | Modes::WP);
    world.file.write_at(&mut world.task, 0, &[5; 10]).unwrap();
    world.uffd.continue_range(&mut world.task, BASE, MIB2, ContinueMode::WP).unwrap();
    assert!(matches!(entry(&world.task, &world.space, 0), Entry::Leaf(leaf) if leaf.is_protected()));
    world.end();
    let mut world = World::registered(1, MapFlags::SHARED, Modes::MINOR);
    world.file.write_at(&mut world.task, 0, &[5; 10]).unwrap();
    let refused = world.uffd.continue_range(&mut world.task, BASE, MIB2, ContinueMode::WP).unwrap_err();
    assert_eq!(refused.errno(), Errno::EINVAL);
    world.end();
}

#[test]
fn a_child_has_the_poison_of_a_private_mapping() {
    let mut world = World::registered(2, MapFlags::empty(), Modes::MISSING);
    let mut cpu = world.cpu();
    world.uffd.copy(&mut world.task, BASE, &page_of(1), CopyMode::empty()).unwrap();
    world.uffd.poison(&mut world.task, at(1, 0), MIB2, NOW).unwrap();
    let child = world.space.fork(&mut world.task).unwrap();
    assert_eq!(load(&mut Cpu::new(&child).unwrap(), &mut world.task, 1), gone(1));
    assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(1));
    child.exit(&mut world.task).unwrap();
    drop(cpu);
    world.end();
}

/// Poison is an entry, and what shares a table shares its entries. Registering both for write protection keeps them apart.
#[test]
fn processes_that_share_a_table_share_its_poison() {
    for modes in [Modes::MISSING, Modes::MISSING | Modes::WP] {
        let mut world = World::registered(GIB / MIB2, MapFlags::SHARED, modes);
        let other = AddressSpace::new(&world.hugetlb).unwrap();
        map_at(&other, &mut world.task, &world.file.clone(), BASE, MapFlags::SHARED);
        let handler = hugewalk::uffd::Userfault::new(&other, Features::SIGBUS).unwrap();
        handler.register(&mut world.task, BASE, GIB, modes).unwrap();
        let mut cpu = Cpu::new(&other).unwrap();
        world.uffd.copy(&mut world.task, BASE, &page_of(1), CopyMode::empty()).unwrap();
        assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(1));
        world.uffd.poison(&mut world.task, at(1, 0), MIB2, NOW).unwrap();
        let shares = modes == Modes::MISSING;
        let expected = if shares { gone(1) } else { Err(FaultError::Userfault { address: at(1, 0) }) };
        assert_eq!(load(&mut cpu, &mut world.task, 1), expected);
        drop(cpu);
        other.exit(&mut world.task).unwrap();
        drop((handler, other));
        world.end();
    }
}

#[test]
fn a_scan_finds_poison_written_each_time() {
    let mut world = World::new(1, MapFlags::SHARED, Features::WP_ASYNC);
    world.register(Modes::WP);
    world.uffd.poison(&mut world.task, BASE, MIB2, NOW).unwrap();
    let scan = Scan {
        flags: hugewalk::pagewalk::ScanFlags::WP_MATCHING,
        mask: hugewalk::pagewalk::Categories::WRITTEN,
        ..Scan::new(BASE..at(1, 0))
    };
    for _ in 0..2 {
        assert_eq!(world.space.scan_pages(&mut world.task, &scan).unwrap().regions.len(), 1);
    }
    assert_eq!(errno(world.uffd.write_protect(&mut world.task, BASE, 4096, ProtectMode::WP)), Errno::EINVAL);
    assert!(!matches!(world.uffd.try_read_event(), Some(Message::Pagefault(_))));
    world.end();
}
