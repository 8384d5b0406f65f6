//! What is done to a page wherever it is mapped. Pages are named by their frames.

use hugewalk::addr::HugeFrame;
use hugewalk::error::Errno::{self, EBUSY, EINVAL, ENOENT, ENXIO};
use hugewalk::{Hugetlb, Task};
use hugewalk_host::Host;

use crate::{Case, READ_ONLY, errno};

/// Each operation that makes use of a task.
fn everywhere(hugetlb: &Hugetlb<Host>, task: &mut Task<Host>, frame: HugeFrame) -> Option<Errno> {
    let errors = [
        errno!(hugetlb.unmap_page(task, frame)),
        errno!(hugetlb.migrate(task, frame)),
        errno!(hugetlb.memory_failure(task, frame)),
        errno!(hugetlb.soft_offline(task, frame)),
        errno!(hugetlb.referenced(task, frame)),
    ];
    assert_eq!(errors, [errors[0]; 5]);
    errors[0]
}

const NOWHERE: HugeFrame = HugeFrame(u64::MAX >> 12);

pub(crate) const CASES: &[Case] = &[
    ("a frame that no pool has", ENXIO, |world| everywhere(&world.hugetlb, &mut world.task, NOWHERE)),
    ("a task of another system", EINVAL, |world| {
        let frame = world.frame(0);
        everywhere(&world.hugetlb, &mut world.foreign.task, frame)
    }),
    ("a page of another system, which has none there", ENXIO, |world| {
        // The pool was filled from the first frame on, and the last of the host's is in neither pool.
        let frame = HugeFrame(world.frame(0).0 | 63 << 9);
        everywhere(&world.foreign.hugetlb, &mut world.foreign.task, frame)
    }),
    ("unmapping a free page", ENOENT, |world| errno!(world.hugetlb.unmap_page(&mut world.task, world.free))),
    ("moving a free page", ENOENT, |world| errno!(world.hugetlb.migrate(&mut world.task, world.free))),
    ("asking for the use of a free page", ENOENT, |world| {
        errno!(world.hugetlb.referenced(&mut world.task, world.free))
    }),
    ("unmapping what has no other copy", EINVAL, |world| {
        let frame = world.frame(READ_ONLY);
        errno!(world.hugetlb.unmap_page(&mut world.task, frame))
    }),
    ("finding a page sound that is", EBUSY, |world| errno!(world.hugetlb.unpoison(world.frame(0)))),
    ("finding a page sound that nobody has", ENXIO, |world| errno!(world.hugetlb.unpoison(NOWHERE))),
];
