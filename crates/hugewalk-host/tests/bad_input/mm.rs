//! Address spaces: mmap and what changes mappings, advice, faults.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, X86_64};
use hugewalk::error::Errno::{self, EACCES, EEXIST, EFAULT, EINVAL, ENOMEM, EPERM};
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, Backing, LockAll, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::vma::{Nodes, Policy, Protection};

use crate::pages::{RW, page};
use crate::{Case, HANDLED, HOLE, READ_ONLY, UNTOUCHABLE, World, errno};

pub(crate) const ADVICE: [Advice; 13] = [
    Advice::DontNeed,
    Advice::Remove,
    Advice::PopulateRead,
    Advice::PopulateWrite,
    Advice::Hwpoison,
    Advice::SoftOffline,
    Advice::DontDump,
    Advice::DoDump,
    Advice::DontFork,
    Advice::DoFork,
    Advice::Normal,
    Advice::Random,
    Advice::Sequential,
];

/// The ways to unmap or change a range.
fn change(world: &mut World, start: VirtAddr, length: u64) -> Option<Errno> {
    let World { space, task, .. } = world;
    let errors = [
        errno!(space.munmap(task, start, length)),
        errno!(space.mprotect(task, start, length, Protection::READ)),
    ];
    assert_eq!(errors[0], errors[1]);
    errors[0]
}

fn advise(world: &mut World, start: VirtAddr, length: u64) -> Option<Errno> {
    let errors = ADVICE.map(|advice| errno!(world.space.madvise(&mut world.task, start, length, advice)));
    assert_eq!(errors, [errors[0]; ADVICE.len()]);
    errors[0]
}

fn one(world: &mut World, start: VirtAddr, length: u64, advice: Advice) -> Option<Errno> {
    errno!(world.space.madvise(&mut world.task, start, length, advice))
}

/// Locks a range, or lets go of it.
fn lock(world: &mut World, start: VirtAddr, length: u64) -> Option<Errno> {
    let World { space, task, .. } = world;
    let errors = [errno!(space.mlock(task, start, length)), errno!(space.munlock(task, start, length))];
    assert_eq!(errors[0], errors[1]);
    errors[0]
}

const BIND: Policy = Policy::Bind(Nodes::PRESENT);

fn bind(world: &mut World, start: VirtAddr, length: u64, policy: Policy) -> Option<Errno> {
    errno!(world.space.mbind(&mut world.task, start, length, policy))
}

fn map(world: &mut World, placement: Placement, length: u64, offset: u64) -> Option<Errno> {
    let backing = Backing::File { file: &world.file, offset };
    let request = MapRequest { placement, length, protection: RW, flags: MapFlags::SHARED, backing };
    errno!(world.space.mmap(&mut world.task, &request))
}

fn remap(world: &mut World, old: VirtAddr, length: u64, new_length: u64, to: RemapTo) -> Option<Errno> {
    errno!(world.space.mremap(&mut world.task, old, length, new_length, to))
}

fn odd(number: u64, by: u64) -> VirtAddr {
    page(number).checked_add(by).unwrap()
}

const ANYWHERE: Placement = Placement::Anywhere;

pub(crate) const CASES: &[Case] = &[
    ("changing from an odd start", EINVAL, |world| change(world, odd(0, 1), PMD_SIZE)),
    ("changing part of a page", EINVAL, |world| change(world, page(0), 4096)),
    ("changing the end of a page", EINVAL, |world| change(world, odd(0, 4096), PMD_SIZE - 4096)),
    ("changing a range that wraps", EINVAL, |world| change(world, page(0), !4095)),
    ("unmapping nothing", EINVAL, |world| errno!(world.space.munmap(&mut world.task, page(0), 0))),
    ("protecting a hole", ENOMEM, |world| {
        errno!(world.space.mprotect(&mut world.task, page(HOLE), PMD_SIZE, RW))
    }),
    ("unknown rights", EINVAL, |world| {
        let rights = RW | Protection::from_bits_retain(1 << 7);
        errno!(world.space.mprotect(&mut world.task, page(0), PMD_SIZE, rights))
    }),
    ("advice from an odd start", EINVAL, |world| advise(world, odd(0, 1), PMD_SIZE)),
    ("advice for a range that wraps", EINVAL, |world| advise(world, page(0), !4095)),
    ("dropping from inside a page", EINVAL, |world| one(world, odd(0, 4096), PMD_SIZE, Advice::DontNeed)),
    ("dropping a hole", ENOMEM, |world| one(world, page(HOLE), PMD_SIZE, Advice::DontNeed)),
    ("leaving a hole out of forks", ENOMEM, |world| one(world, page(HOLE), PMD_SIZE, Advice::DontFork)),
    ("leaving part of a page out of dumps", EINVAL, |world| one(world, page(0), 4096, Advice::DontDump)),
    ("sealing a hole", ENOMEM, |world| errno!(world.space.mseal(&mut world.task, page(HOLE), PMD_SIZE))),
    ("sealing part of a page", EINVAL, |world| errno!(world.space.mseal(&mut world.task, page(0), 4096))),
    ("sealing from an odd start", EINVAL, |world| {
        errno!(world.space.mseal(&mut world.task, odd(0, 1), PMD_SIZE))
    }),
    ("removing a hole", ENOMEM, |world| one(world, page(HOLE), PMD_SIZE, Advice::Remove)),
    ("removing what is private", EACCES, |world| one(world, page(READ_ONLY), PMD_SIZE, Advice::Remove)),
    ("populating a hole", ENOMEM, |world| one(world, page(HOLE), PMD_SIZE, Advice::PopulateRead)),
    ("populating what may not be read", EINVAL, |world| {
        one(world, page(UNTOUCHABLE), PMD_SIZE, Advice::PopulateRead)
    }),
    ("populating what may not be written", EINVAL, |world| {
        one(world, page(READ_ONLY), PMD_SIZE, Advice::PopulateWrite)
    }),
    ("failing a hole", EFAULT, |world| one(world, page(HOLE), PMD_SIZE, Advice::Hwpoison)),
    ("failing what may not be read", EFAULT, |world| {
        one(world, page(UNTOUCHABLE), PMD_SIZE, Advice::SoftOffline)
    }),
    ("locking a range that wraps", EINVAL, |world| lock(world, odd(0, 1), !4094)),
    ("locking a hole", ENOMEM, |world| lock(world, page(1), 2 * PMD_SIZE)),
    ("locking what may not be touched", ENOMEM, |world| {
        errno!(world.space.mlock(&mut world.task, page(UNTOUCHABLE), PMD_SIZE))
    }),
    ("locking neither what is nor what will be mapped", EINVAL, |world| {
        errno!(world.space.mlockall(&mut world.task, LockAll::ONFAULT))
    }),
    ("locking by an unknown flag", EINVAL, |world| {
        let what = LockAll::FUTURE | LockAll::from_bits_retain(1 << 7);
        errno!(world.space.mlockall(&mut world.task, what))
    }),
    ("a policy from an odd start", EINVAL, |world| bind(world, odd(0, 1), PMD_SIZE, BIND)),
    ("a policy for a range that wraps", EINVAL, |world| bind(world, page(0), !4095, BIND)),
    ("a policy for a part of a page", EINVAL, |world| bind(world, page(0), 4096, BIND)),
    ("a policy for a hole", EFAULT, |world| bind(world, page(HOLE), PMD_SIZE, BIND)),
    ("a policy across a hole", EFAULT, |world| bind(world, page(1), 3 * PMD_SIZE, BIND)),
    ("no policy for a hole", EFAULT, |world| bind(world, page(HOLE), PMD_SIZE, Policy::Default)),
    ("a policy without nodes", EINVAL, |world| {
        let none = Nodes::empty();
        let errors = [Policy::Bind(none), Policy::Interleave(none), Policy::PreferredMany(none)]
            .map(|policy| bind(world, page(0), PMD_SIZE, policy));
        assert_eq!(errors, [errors[0]; 3]);
        errors[0]
    }),
    ("a policy for nodes that are not there", EINVAL, |world| {
        let other = Nodes::from_bits_retain(2);
        bind(world, page(0), PMD_SIZE, Policy::Preferred(other))
    }),
    ("mapping nothing", EINVAL, |world| map(world, ANYWHERE, 0, 0)),
    ("mapping from inside a page of the file", EINVAL, |world| map(world, ANYWHERE, PMD_SIZE, 4096)),
    ("mapping at an odd address", EINVAL, |world| map(world, Placement::Fixed(odd(20, 1)), PMD_SIZE, 0)),
    ("mapping the null page", EPERM, |world| map(world, Placement::Fixed(VirtAddr::new(0)), PMD_SIZE, 0)),
    ("moving to the null page", EPERM, |world| {
        remap(world, page(0), PMD_SIZE, PMD_SIZE, RemapTo::Fixed(VirtAddr::new(0)))
    }),
    ("advice about reclaim", EINVAL, |world| one(world, page(0), PMD_SIZE, Advice::PageOut)),
    ("mapping inside a huge page", EINVAL, |world| map(world, Placement::Fixed(odd(20, 4096)), PMD_SIZE, 0)),
    ("mapping where something is", EEXIST, |world| {
        map(world, Placement::FixedNoReplace(page(1)), PMD_SIZE, 0)
    }),
    ("mapping beyond user addresses", ENOMEM, |world| {
        map(world, Placement::Fixed(VirtAddr::new(1 << 47)), PMD_SIZE, 0)
    }),
    ("mapping more than there are addresses", ENOMEM, |world| map(world, ANYWHERE, 1 << 60, 0)),
    ("mapping a length that wraps", EINVAL, |world| map(world, ANYWHERE, u64::MAX, 0)),
    ("mapping a file of another system", EINVAL, |world| {
        let backing = Backing::File { file: &world.foreign.file, offset: 0 };
        let flags = MapFlags::SHARED;
        let request = MapRequest { placement: ANYWHERE, length: PMD_SIZE, protection: RW, flags, backing };
        errno!(world.space.mmap(&mut world.task, &request))
    }),
    ("moving from an odd address", EINVAL, |world| {
        remap(world, odd(0, 1), PMD_SIZE, PMD_SIZE, RemapTo::Fixed(page(20)))
    }),
    ("moving to an odd address", EINVAL, |world| {
        remap(world, page(0), PMD_SIZE, PMD_SIZE, RemapTo::Fixed(odd(20, 4096)))
    }),
    ("moving a hole", EFAULT, |world| remap(world, page(HOLE), PMD_SIZE, PMD_SIZE, RemapTo::Fixed(page(20)))),
    ("shrinking to more than is mapped", EFAULT, |world| {
        remap(world, page(0), 4 * PMD_SIZE, 3 * PMD_SIZE, RemapTo::Fixed(page(20)))
    }),
    ("moving a mapping with a handler and another", EFAULT, |world| {
        let pages = HANDLED + 2 - UNTOUCHABLE;
        // The first moves, for the handler of the second is met only then.
        let moved =
            remap(world, page(UNTOUCHABLE), pages * PMD_SIZE, pages * PMD_SIZE, RemapTo::Fixed(page(20)));
        remap(world, page(20), PMD_SIZE, PMD_SIZE, RemapTo::Fixed(page(UNTOUCHABLE)));
        moved
    }),
    ("growing", EINVAL, |world| remap(world, page(0), PMD_SIZE, 2 * PMD_SIZE, RemapTo::Anywhere)),
    ("shrinking to nothing", EINVAL, |world| remap(world, page(0), PMD_SIZE, 0, RemapTo::InPlace)),
    ("moving onto itself", EINVAL, |world| {
        remap(world, page(0), 2 * PMD_SIZE, 2 * PMD_SIZE, RemapTo::Fixed(page(1)))
    }),
    ("moving a range that wraps", EINVAL, |world| {
        remap(world, page(0), u64::MAX, PMD_SIZE, RemapTo::Fixed(page(20)))
    }),
    ("moving beyond user addresses", EINVAL, |world| {
        remap(world, page(0), PMD_SIZE, PMD_SIZE, RemapTo::Fixed(VirtAddr::new(1 << 47)))
    }),
    ("a fault in a hole", EFAULT, |world| {
        errno!(world.space.fault(&mut world.task, page(HOLE), Access::Read))
    }),
    ("a store to what is read only", EFAULT, |world| {
        errno!(world.space.fault(&mut world.task, page(READ_ONLY), Access::Write))
    }),
    ("a fetch from what cannot be executed", EFAULT, |world| {
        errno!(world.space.fault(&mut world.task, page(0), Access::Execute))
    }),
    ("a task of another system", EINVAL, |world| {
        let (space, task) = (&world.space, &mut world.foreign.task);
        let backing = Backing::Anonymous(X86_64::SIZE_2M);
        let flags = MapFlags::SHARED;
        let request = MapRequest { placement: ANYWHERE, length: PMD_SIZE, protection: RW, flags, backing };
        let errors = [
            errno!(space.mmap(task, &request)),
            errno!(space.munmap(task, page(0), PMD_SIZE)),
            errno!(space.mprotect(task, page(0), PMD_SIZE, Protection::READ)),
            errno!(space.mremap(task, page(0), PMD_SIZE, PMD_SIZE, RemapTo::InPlace)),
            errno!(space.fork(task)),
            errno!(space.fault(task, page(1), Access::Write)),
            errno!(space.mlock(task, page(1), PMD_SIZE)),
            errno!(space.munlock(task, page(1), PMD_SIZE)),
            errno!(space.mlockall(task, LockAll::FUTURE)),
            errno!(space.munlockall(task)),
            errno!(space.mbind(task, page(0), PMD_SIZE, BIND)),
        ];
        assert_eq!(errors, [errors[0]; 11]);
        let advised = ADVICE.map(|advice| errno!(space.madvise(task, page(0), PMD_SIZE, advice)));
        assert_eq!(advised, [errors[0]; ADVICE.len()]);
        errors[0]
    }),
];
