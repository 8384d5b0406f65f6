//! Handlers of page faults: what one leaves behind.

use super::World;
use super::common::{AddressSpace, M2, Task, at, small};
use hugewalk::arch::Entry;
use hugewalk::mm::MapFlags;
use hugewalk::uffd::{Features, Modes, ProtectMode, Userfault};
use hugewalk::walk::huge_pte_offset;

const HERE: u64 = 1 << 32;

fn entry(space: &AddressSpace, task: &Task) -> Entry {
    let section = task.rcu_read_lock();
    huge_pte_offset(&section, space.mm(), at(HERE), small()).unwrap().unwrap().read().unwrap()
}

#[test]
fn a_handler_does_not_inherit_the_protections_of_one_that_has_left() {
    for kind in [MapFlags::SHARED, MapFlags::empty()] {
        let mut world = World::new(1);
        let (file, space) = (world.file(), world.process());
        world.map(&space, &file, HERE, M2, kind);
        world.store(&space, HERE, 1);
        let [left, next] = [(); 2].map(|()| Userfault::new(&space, Features::empty()).unwrap());
        left.register(&mut world.task, at(HERE), M2, Modes::WP).unwrap();
        left.write_protect(&mut world.task, at(HERE), M2, ProtectMode::WP).unwrap();
        assert!(matches!(entry(&space, &world.task), Entry::Leaf(leaf) if leaf.is_protected()));
        drop(left);
        next.register(&mut world.task, at(HERE), M2, Modes::WP).unwrap();
        assert!(matches!(entry(&space, &world.task), Entry::Leaf(leaf) if !leaf.is_protected()));
        world.store(&space, HERE, 2);
        assert!(!next.poll());
        drop((next, space, file));
        world.task.finish_drops();
        world.finish();
    }
}
