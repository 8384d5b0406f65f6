//! userfaultfd.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::PMD_SIZE;
use hugewalk::error::Errno::{self, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ESRCH};
use hugewalk::uffd::{ContinueMode, CopyMode, Features, Modes, ProtectMode, Userfault};
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use crate::pages::page;
use crate::{Case, HANDLED, HOLE, World, errno};

const COPY: CopyMode = CopyMode::empty();
const CONTINUE: ContinueMode = ContinueMode::empty();

/// The range in each operation on it: they agree on the error, which comes back.
fn everywhere(uffd: &Userfault<Host>, task: &mut Task<Host>, start: VirtAddr, length: u64) -> Option<Errno> {
    let errors = [
        errno!(uffd.register(task, start, length, Modes::MISSING)),
        errno!(uffd.unregister(task, start, length)),
        filling(uffd, task, start, length),
        errno!(uffd.write_protect(task, start, length, ProtectMode::WP)),
    ];
    assert_eq!(errors, [errors[0]; 4]);
    errors[0]
}

/// The same for those that need a registered range.
fn filling(uffd: &Userfault<Host>, task: &mut Task<Host>, start: VirtAddr, length: u64) -> Option<Errno> {
    let bytes = vec![1; usize::try_from(length.min(4 * PMD_SIZE)).unwrap()];
    let errors = [
        errno!(uffd.continue_range(task, start, length, CONTINUE)),
        if bytes.len() as u64 == length {
            errno!(uffd.copy(task, start, &bytes, COPY))
        } else {
            // No slice is that long.
            errno!(uffd.continue_range(task, start, length, CONTINUE))
        },
    ];
    assert_eq!(errors, [errors[0]; 2]);
    errors[0]
}

fn range(world: &mut World, start: VirtAddr, length: u64) -> Option<Errno> {
    everywhere(&world.uffd, &mut world.task, start, length)
}

fn odd(by: u64) -> VirtAddr {
    page(HANDLED).checked_add(by).unwrap()
}

pub(crate) const CASES: &[Case] = &[
    ("an unknown feature", EINVAL, |world| {
        errno!(Userfault::new(&world.space, Features::from_bits_retain(1 << 60)))
    }),
    ("a length of 0", EINVAL, |world| range(world, page(HANDLED), 0)),
    ("waking a length of 0", EINVAL, |world| errno!(world.uffd.wake(page(HANDLED), 0))),
    ("an odd start", EINVAL, |world| range(world, odd(1), PMD_SIZE)),
    ("waking from an odd start", EINVAL, |world| errno!(world.uffd.wake(odd(1), PMD_SIZE))),
    ("an odd length", EINVAL, |world| range(world, page(HANDLED), PMD_SIZE + 1)),
    ("a start inside a huge page", EINVAL, |world| {
        // Write protection asks first whether the range is registered for it.
        let task = &mut world.task;
        let registering = errno!(world.uffd.register(task, odd(4096), PMD_SIZE, Modes::MISSING));
        assert_eq!(registering, errno!(world.uffd.unregister(task, odd(4096), PMD_SIZE)));
        assert_eq!(registering, filling(&world.uffd, task, odd(4096), PMD_SIZE));
        registering
    }),
    ("an end inside a huge page", EINVAL, |world| {
        let task = &mut world.task;
        let registering = errno!(world.uffd.register(task, page(HANDLED), 4096, Modes::MISSING));
        assert_eq!(registering, errno!(world.uffd.unregister(task, page(HANDLED), 4096)));
        assert_eq!(registering, filling(&world.uffd, task, page(HANDLED), 4096));
        registering
    }),
    ("a range that wraps", EINVAL, |world| range(world, page(HANDLED), !4095)),
    ("waking a range that wraps", EINVAL, |world| errno!(world.uffd.wake(page(HANDLED), !4095))),
    ("beyond user addresses", EINVAL, |world| range(world, VirtAddr::new(1 << 47), PMD_SIZE)),
    ("registering a hole", EINVAL, |world| {
        errno!(world.uffd.register(&mut world.task, page(HOLE), PMD_SIZE, Modes::MISSING))
    }),
    ("registering above all mappings", ENOMEM, |world| {
        errno!(world.uffd.register(&mut world.task, page(100), PMD_SIZE, Modes::MISSING))
    }),
    ("unregistering a hole", EINVAL, |world| {
        errno!(world.uffd.unregister(&mut world.task, page(HOLE), PMD_SIZE))
    }),
    ("filling a hole", ENOENT, |world| filling(&world.uffd, &mut world.task, page(HOLE), PMD_SIZE)),
    ("filling what is not registered", ENOENT, |world| {
        filling(&world.uffd, &mut world.task, page(1), PMD_SIZE)
    }),
    ("filling past the mapping", ENOENT, |world| {
        filling(&world.uffd, &mut world.task, page(HANDLED + 1), 2 * PMD_SIZE)
    }),
    ("copying where a page is", EEXIST, |world| {
        errno!(world.uffd.copy(&mut world.task, page(HANDLED), &vec![9; PMD_SIZE as usize], COPY))
    }),
    ("continuing where a page is", EEXIST, |world| {
        errno!(world.uffd.continue_range(&mut world.task, page(HANDLED), PMD_SIZE, CONTINUE))
    }),
    ("continuing where the file has none", EFAULT, |world| {
        errno!(world.uffd.continue_range(&mut world.task, page(HANDLED + 1), PMD_SIZE, CONTINUE))
    }),
    ("zeroes", EINVAL, |world| errno!(world.uffd.zero(&mut world.task, page(HANDLED + 1), PMD_SIZE))),
    ("no mode", EINVAL, |world| {
        errno!(world.uffd.register(&mut world.task, page(0), PMD_SIZE, Modes::empty()))
    }),
    ("an unknown mode", EINVAL, |world| {
        let modes = Modes::MISSING | Modes::from_bits_retain(8);
        errno!(world.uffd.register(&mut world.task, page(0), PMD_SIZE, modes))
    }),
    ("an unknown way to copy", EINVAL, |world| {
        let mode = CopyMode::from_bits_retain(8);
        errno!(world.uffd.copy(&mut world.task, page(HANDLED + 1), &vec![9; PMD_SIZE as usize], mode))
    }),
    ("copying protected where that is not registered", EINVAL, |world| {
        errno!(world.uffd.copy(&mut world.task, page(HANDLED + 1), &vec![9; PMD_SIZE as usize], CopyMode::WP))
    }),
    ("an unknown way to continue", EINVAL, |world| {
        let mode = ContinueMode::from_bits_retain(2);
        errno!(world.uffd.continue_range(&mut world.task, page(HANDLED), PMD_SIZE, mode))
    }),
    ("protecting what is not registered for it", ENOENT, |world| {
        errno!(world.uffd.write_protect(&mut world.task, page(HANDLED), PMD_SIZE, ProtectMode::WP))
    }),
    ("protecting a hole", ENOENT, |world| {
        errno!(world.uffd.write_protect(&mut world.task, page(HOLE), PMD_SIZE, ProtectMode::WP))
    }),
    ("an unknown way to protect", EINVAL, |world| {
        let mode = ProtectMode::from_bits_retain(4);
        errno!(world.uffd.write_protect(&mut world.task, page(HANDLED), PMD_SIZE, mode))
    }),
    ("protecting, and not waking", EINVAL, |world| {
        errno!(world.uffd.write_protect(&mut world.task, page(HANDLED), PMD_SIZE, ProtectMode::all()))
    }),
    ("registering what another handler has", EBUSY, |world| {
        errno!(world.rival.register(&mut world.task, page(HANDLED), PMD_SIZE, Modes::MISSING))
    }),
    ("unregistering what another handler has", EINVAL, |world| {
        errno!(world.rival.unregister(&mut world.task, page(HANDLED), PMD_SIZE))
    }),
    ("the handler of another process", ENOENT, |world| {
        filling(&world.others, &mut world.task, page(0), PMD_SIZE)
    }),
    ("the same, where that process maps nothing", ENOENT, |world| {
        filling(&world.others, &mut world.task, page(HANDLED), PMD_SIZE)
    }),
    ("a task of another system", EINVAL, |world| {
        let task = &mut world.foreign.task;
        assert_eq!(errno!(world.uffd.read_event(task)), Some(EINVAL));
        assert_eq!(errno!(world.uffd.zero(task, page(HANDLED + 1), PMD_SIZE)), Some(EINVAL));
        everywhere(&world.uffd, task, page(HANDLED), 2 * PMD_SIZE)
    }),
    ("a process that has exited", ESRCH, |world| {
        let gone = AddressSpace::new(&world.hugetlb).unwrap();
        let uffd = Userfault::new(&gone, Features::empty()).unwrap();
        gone.exit(&mut world.task).unwrap();
        let task = &mut world.task;
        assert_eq!(errno!(uffd.read_event(task)), Some(ESRCH));
        assert_eq!(errno!(uffd.write_protect(task, page(0), PMD_SIZE, ProtectMode::WP)), Some(ESRCH));
        filling(&uffd, task, page(0), PMD_SIZE)
    }),
];
