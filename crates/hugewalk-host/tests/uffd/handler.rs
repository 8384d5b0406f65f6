//! Handlers that die, and processes that do.

use hugewalk::addr::VirtAddr;
use hugewalk::fault::FaultError;
use hugewalk::mm::{MapFlags, RemapTo};
use hugewalk::uffd::{Features, Modes, ProtectMode, Userfault};
use hugewalk::vma::VmaFlags;

use crate::setup::{BASE, KINDS, MIB2, World, at, load, read_fault, store, until};

fn is_registered(world: &mut World, address: VirtAddr) -> bool {
    let mmap = world.space.mmap_read(&mut world.task);
    mmap.find(address).unwrap().flags().intersects(VmaFlags::UFFD)
}

#[test]
fn faults_go_on_without_a_handler_that_has_died() {
    for closes in [false, true] {
        for kind in KINDS {
            let mut world = World::new(2, kind, Features::empty());
            let doomed = Userfault::new(&world.space, Features::empty()).unwrap();
            let modes = Modes::MISSING | Modes::WP | Modes::MINOR;
            doomed.register(&mut world.task, BASE, 2 * MIB2, modes).unwrap();
            let (seen, ()) = world.beside(
                |cpu, task| (load(cpu, task, 0), store(cpu, task, 1, 4)),
                |task, _| {
                    read_fault(&doomed, task);
                    if closes {
                        doomed.close(task).unwrap();
                    } else {
                        drop(doomed);
                    }
                },
            );
            assert_eq!(seen, (Ok(0), Ok(())));
            assert!(!is_registered(&mut world, BASE));
            world.end();
        }
    }
}

#[test]
fn protections_of_a_handler_that_has_died_mean_nothing() {
    for kind in KINDS {
        let mut world = World::new(3, kind, Features::empty());
        let doomed = Userfault::new(&world.space, Features::empty()).unwrap();
        doomed.register(&mut world.task, BASE, 3 * MIB2, Modes::WP).unwrap();
        let mut cpu = world.cpu();
        store(&mut cpu, &mut world.task, 0, 1).unwrap();
        doomed.write_protect(&mut world.task, BASE, 2 * MIB2, ProtectMode::WP).unwrap();
        drop(doomed);
        for page in 0..3 {
            store(&mut cpu, &mut world.task, page, 2).unwrap();
        }
        assert!(!is_registered(&mut world, BASE));
        drop(cpu);
        world.end();
    }
}

#[test]
fn a_move_after_the_handler_has_died_leaves_the_mapping_to_nobody() {
    let mut world = World::new(2, MapFlags::SHARED, Features::empty());
    let doomed = Userfault::new(&world.space, Features::EVENT_REMAP).unwrap();
    doomed.register(&mut world.task, BASE, 2 * MIB2, Modes::MISSING).unwrap();
    drop(doomed);
    let there = at(600, 0);
    world.space.mremap(&mut world.task, BASE, 2 * MIB2, 2 * MIB2, RemapTo::Fixed(there)).unwrap();
    assert!(!is_registered(&mut world, there));
    world.end();
}

#[test]
fn what_a_dead_handler_had_another_can_have() {
    let mut world = World::new(2, MapFlags::SHARED, Features::empty());
    let doomed = Userfault::new(&world.space, Features::empty()).unwrap();
    doomed.register(&mut world.task, BASE, 2 * MIB2, Modes::WP).unwrap();
    doomed.write_protect(&mut world.task, BASE, 2 * MIB2, ProtectMode::WP).unwrap();
    drop(doomed);
    world.register(Modes::WP);
    let mut cpu = world.cpu();
    // The protections were those of the other.
    store(&mut cpu, &mut world.task, 0, 1).unwrap();
    assert!(!world.uffd.poll());
    // Those that come are the new one's.
    world.uffd.write_protect(&mut world.task, BASE, MIB2, ProtectMode::WP).unwrap();
    let (stored, ()) = world.beside(
        |cpu, task| store(cpu, task, 0, 2),
        |task, uffd| {
            until(|| uffd.poll());
            read_fault(uffd, task);
            uffd.write_protect(task, BASE, MIB2, ProtectMode::empty()).unwrap();
        },
    );
    assert_eq!(stored, Ok(()));
    drop(cpu);
    world.end();
}

#[test]
fn a_fault_that_waits_ends_when_its_mapping_or_its_process_does() {
    for exits in [false, true] {
        let mut world = World::registered(2, MapFlags::SHARED, Modes::MISSING);
        let space = world.space.clone();
        let (seen, ()) = world.beside(
            |cpu, task| load(cpu, task, 0),
            |task, uffd| {
                read_fault(uffd, task);
                if exits {
                    space.exit(task).unwrap();
                } else {
                    space.munmap(task, BASE, MIB2).unwrap();
                }
            },
        );
        let address = BASE.checked_add(5).unwrap();
        assert_eq!(seen, Err(FaultError::NotMapped { address }));
        drop(space);
        world.end();
    }
}

#[test]
fn the_end_of_the_process_ends_the_reading() {
    let mut world = World::registered(2, MapFlags::SHARED, Modes::MISSING);
    let space = world.space.clone();
    let ((), ended) =
        world.beside(|_, task| space.exit(task).unwrap(), |task, uffd| uffd.read_event(task).is_err());
    assert!(ended);
    drop(space);
    world.end();
}

#[test]
fn a_fault_that_waits_is_woken_when_the_range_is_unregistered() {
    for modes in [Modes::MISSING, Modes::MINOR] {
        let mut world = World::registered(2, MapFlags::SHARED, modes);
        if modes == Modes::MINOR {
            world.file.write_at(&mut world.task, 0, &[0; 8]).unwrap();
        }
        let (seen, ()) = world.beside(
            |cpu, task| load(cpu, task, 0),
            |task, uffd| {
                read_fault(uffd, task);
                uffd.unregister(task, BASE, 2 * MIB2).unwrap();
            },
        );
        assert_eq!(seen, Ok(0));
        world.end();
    }
}
