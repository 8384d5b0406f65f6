//! Files: made, truncated, punched, preallocated, written.

use hugewalk::addr::HugeSize;
use hugewalk::arch::{PMD_SIZE, X86_64};
use hugewalk::error::Errno::{self, EFBIG, EINVAL, ENOMEM};
use hugewalk::file::HugeFile;
use hugewalk::reserve::SubPool;

use crate::pages::{SMALL, System};
use crate::{Case, World, errno};

const LARGEST: u64 = i64::MAX as u64;

fn on_a_mount_of(world: &World, system: &System, size: HugeSize) -> Option<Errno> {
    let mount = SubPool::new(system, size, Some(4), None).unwrap();
    errno!(HugeFile::new(&world.hugetlb, SMALL, Some(&mount)))
}

pub(crate) const CASES: &[Case] = &[
    ("truncating to part of a page", EINVAL, |world| {
        errno!(world.file.truncate(&mut world.task, PMD_SIZE + 1))
    }),
    ("truncating to more than there can be", EINVAL, |world| {
        errno!(world.file.truncate(&mut world.task, !(PMD_SIZE - 1)))
    }),
    ("truncating by a task of another system", EINVAL, |world| {
        errno!(world.file.truncate(&mut world.foreign.task, 0))
    }),
    ("punching nothing", EINVAL, |world| errno!(world.file.punch_hole(&mut world.task, 0, 0))),
    ("punching a range that wraps", EINVAL, |world| {
        errno!(world.file.punch_hole(&mut world.task, PMD_SIZE, u64::MAX))
    }),
    ("punching past the largest file", EFBIG, |world| {
        errno!(world.file.punch_hole(&mut world.task, 1, LARGEST))
    }),
    ("punching by a task of another system", EINVAL, |world| {
        errno!(world.file.punch_hole(&mut world.foreign.task, 0, PMD_SIZE))
    }),
    ("allocating nothing", EINVAL, |world| errno!(world.file.allocate(&mut world.task, 0, 0, false))),
    ("allocating a range that wraps", EINVAL, |world| {
        errno!(world.file.allocate(&mut world.task, u64::MAX, 2, false))
    }),
    ("allocating past the largest file", EFBIG, |world| {
        errno!(world.file.allocate(&mut world.task, PMD_SIZE, LARGEST, true))
    }),
    ("allocating by a task of another system", EINVAL, |world| {
        errno!(world.file.allocate(&mut world.foreign.task, 0, 1, false))
    }),
    ("reserving nothing", EINVAL, |world| errno!(world.file.reserve(&mut world.task, 0, 0))),
    ("reserving a range that wraps", EINVAL, |world| {
        errno!(world.file.reserve(&mut world.task, PMD_SIZE, u64::MAX))
    }),
    ("reserving more than there is", ENOMEM, |world| {
        errno!(world.file.reserve(&mut world.task, 0, 100 * PMD_SIZE))
    }),
    ("reserving by a task of another system", EINVAL, |world| {
        errno!(world.file.reserve(&mut world.foreign.task, 0, PMD_SIZE))
    }),
    ("giving nothing back", EINVAL, |world| errno!(world.file.unreserve(&mut world.task, 0, 0))),
    ("giving back a range that wraps", EINVAL, |world| {
        errno!(world.file.unreserve(&mut world.task, 1, u64::MAX))
    }),
    ("giving back by a task of another system", EINVAL, |world| {
        errno!(world.file.unreserve(&mut world.foreign.task, 0, PMD_SIZE))
    }),
    ("writing past the largest file", EFBIG, |world| {
        errno!(world.file.write_at(&mut world.task, LARGEST, &[1]))
    }),
    ("writing by a task of another system", EINVAL, |world| {
        errno!(world.file.write_at(&mut world.foreign.task, 0, &[1]))
    }),
    ("a file on a mount of another system", EINVAL, |world| {
        on_a_mount_of(world, &world.foreign.hugetlb, SMALL)
    }),
    ("a file on a mount of other pages", EINVAL, |world| {
        on_a_mount_of(world, &world.hugetlb, X86_64::SIZE_1G)
    }),
];
