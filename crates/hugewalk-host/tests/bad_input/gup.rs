//! get_user_pages, process_vm_readv and process_vm_writev.

use hugewalk::addr::VirtAddr;
use hugewalk::error::Errno::{EFAULT, EINVAL, ESRCH};
use hugewalk::gup::GupFlags;
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use crate::pages::page;
use crate::{Case, HOLE, READ_ONLY, UNTOUCHABLE, World, errno};

pub(crate) const PIN: GupFlags = GupFlags::PIN;
const WRITE: GupFlags = GupFlags::PIN.union(GupFlags::WRITE);
const UNKNOWN: GupFlags = GupFlags::from_bits_retain(1 << 30);
const HIGHEST: VirtAddr = VirtAddr::new(u64::MAX);
const TOP: VirtAddr = VirtAddr::new(1 << 47);

/// The same mistake in each way to get pages: they agree on the error, which comes back.
fn everywhere(
    world: &mut World,
    at: VirtAddr,
    length: u64,
    flags: GupFlags,
) -> Option<hugewalk::error::Errno> {
    let World { space, task, .. } = world;
    let errors = [
        errno!(space.pin_pages(task, at, length, flags)),
        errno!(space.pin_pages_fast(task, at, length, flags)),
        errno!(space.pin_pages_nowait(task, at, length, flags)),
    ];
    assert_eq!(errors, [errors[0]; 3]);
    errors[0]
}

fn by_a_foreign_task(world: &mut World, at: VirtAddr) -> Option<hugewalk::error::Errno> {
    let (space, task): (&AddressSpace<Host>, &mut Task<Host>) = (&world.space, &mut world.foreign.task);
    let errors = [
        errno!(space.pin_pages(task, at, 1, PIN)),
        errno!(space.pin_pages_fast(task, at, 1, PIN)),
        errno!(space.pin_pages_nowait(task, at, 1, PIN)),
        errno!(space.follow_page(task, at, PIN)),
        errno!(space.read_bytes(task, at, &mut [0])),
        errno!(space.write_bytes(task, at, &[0])),
    ];
    assert!(space.pin_page_fast(task, at, PIN).is_none());
    assert_eq!(errors, [errors[0]; 6]);
    errors[0]
}

pub(crate) const CASES: &[Case] = &[
    ("a hole", EFAULT, |world| everywhere(world, page(HOLE), 1, PIN)),
    ("a range that wraps", EFAULT, |world| everywhere(world, HIGHEST, u64::MAX, PIN)),
    ("beyond user addresses", EFAULT, |world| everywhere(world, TOP, 1, PIN)),
    ("for writing, read only", EFAULT, |world| everywhere(world, page(READ_ONLY), 1, WRITE)),
    ("no rights at all", EFAULT, |world| everywhere(world, page(UNTOUCHABLE), 1, PIN)),
    ("an unknown flag", EINVAL, |world| everywhere(world, page(0), 1, PIN | UNKNOWN)),
    ("LONGTERM without PIN", EINVAL, |world| everywhere(world, page(0), 1, GupFlags::LONGTERM)),
    ("unknown, of no length", EINVAL, |world| everywhere(world, page(0), 0, UNKNOWN)),
    ("fast, for a core dump", EINVAL, |world| {
        errno!(world.space.pin_pages_fast(&mut world.task, page(0), 1, GupFlags::DUMP))
    }),
    ("follow_page, an unknown flag", EINVAL, |world| {
        errno!(world.space.follow_page(&world.task, page(0), UNKNOWN))
    }),
    ("a task of another system", EINVAL, |world| by_a_foreign_task(world, page(0))),
    ("the same, in a hole", EINVAL, |world| by_a_foreign_task(world, page(HOLE))),
    ("reading a hole", EFAULT, |world| {
        errno!(world.space.read_bytes(&mut world.task, page(HOLE), &mut [0; 8]))
    }),
    ("reading past the last address", EFAULT, |world| {
        errno!(world.space.read_bytes(&mut world.task, HIGHEST, &mut [0; 8]))
    }),
    ("reading what has no rights", EFAULT, |world| {
        errno!(world.space.read_bytes(&mut world.task, page(UNTOUCHABLE), &mut [0; 8]))
    }),
    ("writing what is read only", EFAULT, |world| {
        errno!(world.space.write_bytes(&mut world.task, page(READ_ONLY), &[1]))
    }),
    ("writing to a hole", EFAULT, |world| errno!(world.space.write_bytes(&mut world.task, page(HOLE), &[1]))),
    ("reading a process that has exited", ESRCH, |world| {
        let gone = AddressSpace::new(&world.hugetlb).unwrap();
        gone.exit(&mut world.task).unwrap();
        errno!(gone.read_bytes(&mut world.task, page(0), &mut [0; 8]))
    }),
];
