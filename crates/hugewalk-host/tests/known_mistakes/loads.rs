//! What a walk loads on its way: S28.

use hugewalk::addr::HugeFrame;
use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, Backing, MapFlags};
use hugewalk::walk::huge_pte_offset;
use hugewalk_host::Contents;

use crate::stepped::{Steps, interrupt};
use crate::world::{AddressSpace, BASE, MIB2, Task, World, at, map};

/// The page that is looked at.
const HERE: u64 = 400;

fn look(space: &AddressSpace, task: &Task) -> Option<HugeFrame> {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, space.mm(), at(HERE), X86_64::SIZE_2M).unwrap()?;
    match slot.read() {
        Ok(Entry::Leaf(leaf)) => Some(leaf.frame),
        Ok(Entry::None) | Err(_) => None,
        Ok(other) => panic!("{other:?}"),
    }
}

/// At each step of a look without locks, the process loses its table to the other, who puts a foreign page there, and gets
/// another table. A walk that took the table from one load of the parent entry, and what it confirms by from a second load,
/// would find the second table confirmed, and return what the first one holds.
#[test]
fn a_read_is_never_of_a_table_that_another_load_of_the_parent_led_to() {
    let (mut found, mut nothing) = (0, 0);
    for number in 0.. {
        let mut world = World::new(Contents::Nothing, true);
        let (one, two, hugetlb) = (world.one.clone(), world.two.clone(), world.hugetlb.clone());
        one.fault(&mut world.task, at(HERE), Access::Read).unwrap();
        let own = look(&one, &world.task).unwrap();
        let turn = || {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            one.madvise(&mut task, BASE, PUD_SIZE, Advice::DontNeed).unwrap();
            two.munmap(&mut task, at(256), 256 * MIB2).unwrap();
            let foreign = Backing::Anonymous(X86_64::SIZE_2M);
            map(&two, &mut task, at(HERE), MIB2, MapFlags::empty(), foreign);
            two.fault(&mut task, at(HERE), Access::Write).unwrap();
            one.fault(&mut task, at(HERE), Access::Read).unwrap();
        };
        let (seen, interrupted) = interrupt(number, Steps::Words, turn, || look(&one, &world.task));
        match seen {
            Some(frame) => {
                assert_eq!(frame, own, "another process's page, at step {number}");
                found += 1;
            }
            None => nothing += 1,
        }
        drop((one, two));
        world.end(number);
        if !interrupted {
            break;
        }
    }
    assert!(found > 1 && nothing > 1, "{found} {nothing}");
}
