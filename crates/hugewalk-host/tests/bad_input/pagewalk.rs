//! Walks over ranges, and the reports built on them.

use std::ops::Range;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::Entry;
use hugewalk::error::Errno::{self, EINVAL, ENOMEM};
use hugewalk::pagewalk::{Found, Next, Resched, SleepingVisitor, Visitor};
use hugewalk::vma::Vma;
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use crate::pages::page;
use crate::{Case, HOLE, World, errno};

/// Is never called.
struct Nobody;

impl Visitor<Host> for Nobody {
    fn entry(&mut self, found: &Found<'_, Host>) {
        panic!("{:?} is visited", found.address());
    }
}

impl SleepingVisitor<Host> for Nobody {
    fn entry(&mut self, _: &mut Resched<'_, Host>, _: &Vma<Host>, address: VirtAddr, _: Entry) -> Next {
        panic!("{address:?} is visited");
    }
}

/// The same mistake in each walk but mincore: they agree on the error, which comes back.
fn everywhere(space: &AddressSpace<Host>, task: &mut Task<Host>, range: &Range<VirtAddr>) -> Option<Errno> {
    let errors = [
        errno!(space.walk_range(task, range.clone(), &mut Nobody)),
        errno!(space.walk_range_sleeping(task, range.clone(), &mut Nobody)),
        errno!(space.pagemap(task, range.clone())),
        errno!(space.sample_accessed(task, range.clone())),
        errno!(space.numa_maps(task, range.clone())),
    ];
    assert_eq!(errors, [errors[0]; 5]);
    errors[0]
}

fn mincore(world: &mut World, range: Range<VirtAddr>) -> Option<Errno> {
    errno!(world.space.mincore(&mut world.task, range))
}

fn odd(number: u64) -> VirtAddr {
    page(number).checked_add(1).unwrap()
}

pub(crate) const CASES: &[Case] = &[
    ("an unaligned start", EINVAL, |world| everywhere(&world.space, &mut world.task, &(odd(0)..page(2)))),
    ("an unaligned end", EINVAL, |world| everywhere(&world.space, &mut world.task, &(page(0)..odd(1)))),
    ("a range that wraps", EINVAL, |world| everywhere(&world.space, &mut world.task, &(page(1)..page(0)))),
    ("a task of another system", EINVAL, |world| {
        everywhere(&world.space, &mut world.foreign.task, &(page(0)..page(2)))
    }),
    ("mincore, an unaligned start", EINVAL, |world| mincore(world, odd(0)..page(2))),
    ("mincore, a hole", ENOMEM, |world| mincore(world, page(0)..page(HOLE + 1))),
    ("mincore, nothing but a hole", ENOMEM, |world| mincore(world, page(HOLE)..page(HOLE + 1))),
    ("mincore, a range that wraps", ENOMEM, |world| mincore(world, page(1)..page(0))),
    ("mincore, up to the last address", ENOMEM, |world| mincore(world, page(0)..VirtAddr::new(u64::MAX))),
    ("mincore, all addresses", ENOMEM, |world| mincore(world, VirtAddr::new(0)..VirtAddr::new(u64::MAX))),
    ("mincore, a task of another system", EINVAL, |world| {
        errno!(world.space.mincore(&mut world.foreign.task, page(0)..page(2)))
    }),
];
