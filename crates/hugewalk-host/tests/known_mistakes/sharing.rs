//! Sharing with a mapping that is about to go, or to be registered: S20, S22.

use std::sync::Mutex;

use hugewalk::arch::PUD_SIZE;
use hugewalk::fault::{Access, Fault};
use hugewalk::uffd::{Features, Modes, Userfault};
use hugewalk_host::Contents;

use crate::stepped::{Steps, interrupt, steps_of};
use crate::world::{BASE, World, users};

/// Of so many steps those at which the others have their turn: the last ones, where locks are let go, and some of the
/// others, which are the entries of a table, one like the other.
fn turns(steps: u64) -> impl Iterator<Item = u64> {
    (0..=steps).filter(move |number| number + 60 > steps || number % 32 == 0)
}

/// S20. One process registers a gigabyte, which unshares its table; at each step the other faults, and shares with it if it
/// may. Once the registration shows nobody may; and nobody does, since the new flags stand in the file's tree before anybody
/// can look there again.
#[test]
fn nobody_shares_with_a_mapping_once_registering_it_has_unshared_it() {
    let register = |world: &mut World| {
        let uffd = Userfault::new(&world.one, Features::empty()).unwrap();
        uffd.register(&mut world.task, BASE, PUD_SIZE, Modes::WP).unwrap();
        uffd
    };
    let steps = {
        let mut world = World::new(Contents::Nothing, false);
        steps_of(Steps::WordsAndLocks, || drop(register(&mut world)))
    };
    for number in turns(steps) {
        // The other has no table yet.
        let mut world = World::new(Contents::Nothing, false);
        let (hugetlb, two) = (world.hugetlb.clone(), world.two.clone());
        let turn = || {
            two.fault(&mut hugewalk_host::task(&hugetlb).unwrap(), BASE, Access::Read).unwrap();
        };
        let (uffd, _) = interrupt(number, Steps::WordsAndLocks, turn, || register(&mut world));
        let one = world.one.clone();
        // None, if the other was there first: then it has the table, and this one does not.
        assert!(world.users(&one) < 2, "shared after the registration, at step {number}");
        drop((uffd, one, two));
        world.end(number);
    }
}

/// S22. One process unmaps a gigabyte; at each step the other faults. It may share with the mapping as long as that is whole:
/// then the page is there already. Once the unmapping has emptied the table, the mapping is in no tree any more.
#[test]
fn nobody_shares_with_a_mapping_that_dies_once_it_is_empty() {
    let unmap = |world: &mut World| world.one.munmap(&mut world.task, BASE, PUD_SIZE).unwrap();
    let steps = {
        let mut world = World::new(Contents::Nothing, false);
        steps_of(Steps::WordsAndLocks, || unmap(&mut world))
    };
    let mut alone = 0;
    for number in turns(steps) {
        let mut world = World::new(Contents::Nothing, false);
        let (hugetlb, two) = (world.hugetlb.clone(), world.two.clone());
        let seen = Mutex::new(None);
        let turn = || {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            let fault = two.fault(&mut task, BASE, Access::Read).unwrap();
            *seen.lock().unwrap() = Some((fault, users(&two, &mut task)));
        };
        let ((), interrupted) = interrupt(number, Steps::WordsAndLocks, turn, || unmap(&mut world));
        match seen.into_inner().unwrap() {
            // It found the page in the table: that was the other's, when it was whole.
            Some((Fault::Present, _)) => {}
            // It mapped the page itself: then in a table that nobody else has.
            Some((Fault::Mapped, users)) => {
                assert_eq!(users, 1, "shared with a mapping that dies, at step {number}");
                alone += 1;
            }
            None if !interrupted => {}
            other => panic!("{other:?} at step {number}"),
        }
        drop(two);
        world.end(number);
    }
    assert!(alone > 5, "{alone}");
}
