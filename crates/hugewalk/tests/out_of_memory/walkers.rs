//! The walkers without memory: each allocation of each operation refused in turn. It says so and nothing has changed, or it
//! did without; then the same call succeeds, and in the end everything is where it came from.

use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::error::OutOfMemory;
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::FileError;
use hugewalk::gup::{GupError, GupFlags, TransferError};
use hugewalk::mm::{Advice, MapError, MapFlags, RemapTo};
use hugewalk::pagewalk::{Found, PageMap, Scan, ScanError, ScanFlags, Visitor};
use hugewalk::pool::PoolCounters;
use hugewalk::rmap::PageError;
use hugewalk::sync::Arc;
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Modes, PoisonMode, ProtectMode, Stopped, Userfault, UserfaultError,
};
use hugewalk::vma::{Nodes, Policy, Protection, VmaFlags};

use crate::common::{
    AddressSpace, Bench, File, GIB, Hugetlb, M2, SMALL, Task, at, cpu, heap, inject, map, system,
};

/// A gigabyte of a file, shared; its first three pages are touched, and every other one of pages 20 to 40.
const SHARED: u64 = 4 * GIB;
/// Six private pages of another file: three of its own, of which a child shares two, and three that nobody has touched.
const PRIVATE: u64 = 8 * GIB;
/// Four pages of a third file, the faults on which are a handler's. The file has the first two.
const HANDLED: u64 = 12 * GIB;

/// Shared pages of a fourth file, which nobody has touched: there is not even a table.
const UNTOUCHED: u64 = 520 * GIB;

/// Pages of the first file that nobody touches and that are left out of dumps and forks.
const LEFT_OUT: u64 = 16 * GIB;
/// The first file has reservations at every tenth index from here on, three pages at a time: so many that its
/// list of them is full.
const RESERVED: u64 = 300;

const PIN: GupFlags = GupFlags::PIN;
const WRITE: GupFlags = GupFlags::PIN.union(GupFlags::WRITE);

struct World {
    hugetlb: Arc<Hugetlb>,
    task: Task,
    shared: Arc<File>,
    handled: Arc<File>,
    space: Arc<AddressSpace>,
    child: Arc<AddressSpace>,
    uffd: Userfault<Bench>,
}

type Mapping = ((VirtAddr, u64, u64), Protection, VmaFlags, Policy);

/// What can be seen of a world.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    counters: PoolCounters,
    mappings: Vec<Mapping>,
    pages: Vec<(VirtAddr, PageMap)>,
    files: [u64; 2],
    bytes: Vec<u8>,
}

impl World {
    /// A world whose pool has no page to spare, but may get some from the host, which may refuse.
    fn tight() -> Self {
        let world = Self::new();
        world.hugetlb.pool(SMALL).set_overcommit(100);
        world.hugetlb.resize_pool(SMALL, 0);
        world
    }

    fn new() -> Self {
        let (hugetlb, mut task) = system(40);
        let [shared, private, handled, untouched] = [512, 6, 4, 600].map(|pages| {
            let file = File::new(&hugetlb, SMALL, None).unwrap();
            file.truncate(&mut task, pages * M2).unwrap();
            file
        });
        let space = AddressSpace::new(&hugetlb).unwrap();
        let noreserve = MapFlags::SHARED | MapFlags::NORESERVE;
        map(&space, &mut task, &shared, 0, SHARED, 512 * M2, noreserve).unwrap();
        map(&space, &mut task, &private, 0, PRIVATE, 6 * M2, MapFlags::empty()).unwrap();
        map(&space, &mut task, &untouched, 0, UNTOUCHED, 600 * M2, noreserve).unwrap();
        handled.write_at(&mut task, M2 - 1, &[1, 2]).unwrap();
        map(&space, &mut task, &handled, 0, HANDLED, 4 * M2, MapFlags::SHARED).unwrap();
        for page in 0..3 {
            cpu::store(&space, &mut task, at(SHARED + page * M2), page as u8 + 1).unwrap();
            cpu::store(&space, &mut task, at(PRIVATE + page * M2), page as u8 + 10).unwrap();
        }
        for page in (20..40).step_by(2) {
            cpu::store(&space, &mut task, at(SHARED + page * M2), 1).unwrap();
        }
        let child = space.fork(&mut task).unwrap();
        cpu::store(&space, &mut task, at(PRIVATE + M2), 11).unwrap();
        map(&space, &mut task, &shared, 400 * M2, LEFT_OUT, 8 * M2, noreserve).unwrap();
        for advice in [Advice::DontDump, Advice::DontFork] {
            space.madvise(&mut task, at(LEFT_OUT), 8 * M2, advice).unwrap();
        }
        for number in 0..5 {
            shared.reserve(&mut task, (RESERVED + 10 * number) * M2, 3 * M2).unwrap();
        }
        let uffd = Userfault::new(&space, Features::empty()).unwrap();
        uffd.register(&mut task, at(HANDLED), 4 * M2, Modes::all()).unwrap();
        Self { hugetlb, task, shared, handled, space, child, uffd }
    }

    fn look(&mut self) -> Look {
        let task = &mut self.task;
        let mmap = self.space.mmap_read(task);
        let shape = |vma: &Arc<hugewalk::vma::Vma<Bench>>| {
            ((vma.start(), vma.pages(), vma.offset()), vma.protection(), vma.flags(), vma.policy())
        };
        let mappings = mmap.vmas().map(shape).collect();
        drop(mmap);
        let mut pages = Vec::new();
        for start in [SHARED, PRIVATE, HANDLED, UNTOUCHED] {
            pages.extend(self.space.pagemap(task, at(start)..at(start + 6 * M2)).unwrap());
        }
        let touched =
            [SHARED, PRIVATE].into_iter().flat_map(|start| (0..3).map(move |page| start + page * M2));
        let bytes = touched
            .filter_map(|address| {
                let (leaf, _) = cpu::peek(&self.space, task, at(address))?;
                Some(self.hugetlb.platform().byte(leaf.frame, 0))
            })
            .collect();
        let counters = self.hugetlb.pool(SMALL).counters();
        Look { counters, mappings, pages, files: [self.shared.pages(), self.handled.pages()], bytes }
    }

    fn frame(&self, address: u64) -> HugeFrame {
        cpu::peek(&self.space, &self.task, at(address)).unwrap().0.frame
    }

    /// Nothing is left of it.
    fn end(self) {
        let Self { hugetlb, mut task, shared, handled, space, child, uffd } = self;
        uffd.close(&mut task).unwrap();
        space.exit(&mut task).unwrap();
        child.exit(&mut task).unwrap();
        drop((space, child, shared, handled));
        task.rcu_barrier();
        assert_eq!(hugetlb.platform().tables_in_use(), 0);
        let counters = hugetlb.pool(SMALL).counters();
        assert_eq!((counters.free, counters.reserved), (counters.total, 0));
    }
}

/// Why an operation did not do what it should: memory, and nothing else.
trait ForWantOfMemory {
    fn is_want_of_memory(&self) -> bool;
}

impl ForWantOfMemory for OutOfMemory {
    fn is_want_of_memory(&self) -> bool {
        true
    }
}
macro_rules! wants {
    ($($error:ty: $pattern:pat,)*) => {
        $(impl ForWantOfMemory for $error {
            fn is_want_of_memory(&self) -> bool {
                matches!(self, $pattern)
            }
        })*
    };
}
wants! {
    FaultError: FaultError::OutOfMemory(_) | FaultError::PoolEmpty(_),
    GupError: GupError::OutOfMemory(_) | GupError::Fault(FaultError::PoolEmpty(_)),
    TransferError: TransferError::NoPage(GupError::OutOfMemory(_) | GupError::Fault(FaultError::PoolEmpty(_))),
    MapError: MapError::OutOfMemory(_)
        | MapError::Lock(FaultError::OutOfMemory(_) | FaultError::PoolEmpty(_))
        | MapError::NoPage(_)
        | MapError::Page(PageError::PoolEmpty(_))
        | MapError::Gup(GupError::Fault(FaultError::PoolEmpty(_))),
    FileError: FileError::OutOfMemory(_),
    PageError: PageError::PoolEmpty(_),
    ScanError: ScanError::OutOfMemory(_),
    UserfaultError: UserfaultError::OutOfMemory(_) | UserfaultError::NoPage(_),
    Stopped: Stopped { error: UserfaultError::OutOfMemory(_) | UserfaultError::NoPage(_), .. },
}

/// True if it was done, false if memory was missing.
fn done<T, E: ForWantOfMemory + std::fmt::Debug>(result: Result<T, E>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) if error.is_want_of_memory() => false,
        Err(other) => panic!("{other:?}"),
    }
}

/// What a refused call may leave behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Nothing,
    /// Pages that it had faulted in.
    Pages,
}

type Operation = (&'static str, Leaves, fn(&mut World) -> bool);

/// The pages of a range; false if memory was missing for all or some of them.
fn pinned(pins: Result<hugewalk::gup::Pins<Bench>, GupError>) -> bool {
    match pins {
        Ok(pins) => match pins.stopped_by() {
            None => true,
            Some(error) => done(Err::<(), _>(error)),
        },
        Err(error) => done(Err::<(), _>(error)),
    }
}

const NEED_MEMORY: &[Operation] = &[
    ("pins of pages that are there", Leaves::Nothing, |world| {
        pinned(world.space.pin_pages(&mut world.task, at(SHARED), 3 * M2, PIN))
    }),
    ("pins of pages that are not", Leaves::Pages, |world| {
        pinned(world.space.pin_pages(&mut world.task, at(SHARED + 60 * M2), 3 * M2, WRITE))
    }),
    ("pins of pages that a child shares", Leaves::Pages, |world| {
        pinned(world.space.pin_pages(&mut world.task, at(PRIVATE), 3 * M2, PIN))
    }),
    ("pins for writing of what a child shares, by the child", Leaves::Pages, |world| {
        pinned(world.child.pin_pages(&mut world.task, at(PRIVATE), 5 * M2, WRITE))
    }),
    ("pins without sleeping", Leaves::Nothing, |world| {
        pinned(world.space.pin_pages_nowait(&world.task, at(SHARED), 3 * M2, PIN))
    }),
    ("pins without a lock", Leaves::Pages, |world| {
        let pins = world.space.pin_pages_fast(&mut world.task, at(SHARED), 4 * M2, PIN);
        match pins {
            Ok(pins) => pins.stopped_by().is_none_or(|error| done(Err::<(), _>(error))),
            Err(error) => done(Err::<(), _>(error)),
        }
    }),
    ("reading what is not there", Leaves::Pages, |world| {
        done(world.space.read_bytes(&mut world.task, at(UNTOUCHED), &mut [0; 8]))
    }),
    ("writing what is not there", Leaves::Pages, |world| {
        done(world.space.write_bytes(&mut world.task, at(UNTOUCHED + GIB), &[1]))
    }),
    ("pagemap", Leaves::Nothing, |world| done(world.space.pagemap(&mut world.task, at(SHARED)..at(HANDLED)))),
    ("mincore", Leaves::Nothing, |world| {
        done(world.space.mincore(&mut world.task, at(SHARED)..at(SHARED + 512 * M2)))
    }),
    ("the list of tables", Leaves::Nothing, |world| done(world.space.tables(&mut world.task))),
    ("moving a page to a surplus one", Leaves::Nothing, |world| {
        let frame = world.frame(SHARED);
        done(world.hugetlb.migrate(&mut world.task, frame))
    }),
    ("having a page fail that is not there yet", Leaves::Pages, |world| {
        done(world.space.madvise(&mut world.task, at(UNTOUCHED), M2, Advice::Hwpoison))
    }),
    ("taking a page out of use that is not there yet", Leaves::Pages, |world| {
        done(world.space.madvise(&mut world.task, at(UNTOUCHED), M2, Advice::SoftOffline))
    }),
    ("a hole with many pages in it", Leaves::Nothing, |world| {
        done(world.shared.punch_hole(&mut world.task, 20 * M2, 20 * M2))
    }),
    ("reserving pages of a file", Leaves::Nothing, |world| {
        done(world.shared.reserve(&mut world.task, 100 * M2, 3 * M2))
    }),
    ("giving the reservation of a page back", Leaves::Nothing, |world| {
        done(world.shared.unreserve(&mut world.task, (RESERVED + 1) * M2, M2))
    }),
    ("leaving a part out of forks", Leaves::Nothing, |world| {
        done(world.space.madvise(&mut world.task, at(SHARED + 2 * M2), 3 * M2, Advice::DontFork))
    }),
    ("leaving a part out of dumps", Leaves::Nothing, |world| {
        done(world.space.madvise(&mut world.task, at(SHARED + 2 * M2), 3 * M2, Advice::DontDump))
    }),
    ("taking a part back into forks", Leaves::Nothing, |world| {
        done(world.space.madvise(&mut world.task, at(LEFT_OUT + 2 * M2), 3 * M2, Advice::DoFork))
    }),
    ("taking a part back into dumps", Leaves::Nothing, |world| {
        done(world.space.madvise(&mut world.task, at(LEFT_OUT + 2 * M2), 3 * M2, Advice::DoDump))
    }),
    ("sealing a part", Leaves::Nothing, |world| {
        done(world.space.mseal(&mut world.task, at(SHARED + 2 * M2), 3 * M2))
    }),
    ("another policy for a part", Leaves::Nothing, |world| {
        done(world.space.mbind(&mut world.task, at(SHARED + 2 * M2), 3 * M2, Policy::Bind(Nodes::PRESENT)))
    }),
    ("locking what is not there", Leaves::Pages, |world| {
        done(world.space.mlock(&mut world.task, at(UNTOUCHED), 2 * M2))
    }),
    ("a handler's handle", Leaves::Nothing, |world| done(Userfault::new(&world.space, Features::empty()))),
    ("registering a part", Leaves::Nothing, |world| {
        done(world.uffd.register(&mut world.task, at(SHARED + 2 * M2), 3 * M2, Modes::WP))
    }),
    ("unregistering a part", Leaves::Nothing, |world| {
        done(world.uffd.unregister(&mut world.task, at(HANDLED + M2), 2 * M2))
    }),
    ("copying a page", Leaves::Nothing, |world| {
        done(world.uffd.copy(&mut world.task, at(HANDLED + 2 * M2), &page_of(7), CopyMode::empty()))
    }),
    ("continuing with the file's", Leaves::Nothing, |world| {
        done(world.uffd.continue_range(&mut world.task, at(HANDLED), 2 * M2, ContinueMode::empty()))
    }),
    ("protecting what is not there", Leaves::Nothing, |world| {
        done(world.uffd.write_protect(&mut world.task, at(HANDLED), 4 * M2, ProtectMode::WP))
    }),
    ("poisoning", Leaves::Nothing, |world| {
        done(world.uffd.poison(&mut world.task, at(HANDLED + 2 * M2), M2, PoisonMode::empty()))
    }),
    ("a scan", Leaves::Nothing, |world| {
        let scan = Scan::new(at(SHARED)..at(SHARED + 512 * M2));
        done(world.space.scan_pages(&mut world.task, &scan))
    }),
    ("a scan that protects where there is no table", Leaves::Nothing, |world| {
        let handler = inject::exempt(|| {
            let handler = Userfault::new(&world.space, Features::WP_ASYNC).unwrap();
            handler.register(&mut world.task, at(UNTOUCHED), 600 * M2, Modes::WP).unwrap();
            handler
        });
        let range = at(UNTOUCHED)..at(UNTOUCHED + 600 * M2);
        let scan = Scan { flags: ScanFlags::WP_MATCHING, max_regions: 0, ..Scan::new(range) };
        let was_done = done(world.space.scan_pages(&mut world.task, &scan));
        inject::exempt(|| handler.close(&mut world.task).unwrap());
        was_done
    }),
    ("fork with a pinned page", Leaves::Nothing, |world| {
        let pins =
            inject::exempt(|| world.space.pin_pages(&mut world.task, at(PRIVATE + M2), 1, PIN).unwrap());
        let forked = world.space.fork(&mut world.task);
        drop(pins);
        done(forked.map(|child| child.exit(&mut world.task).unwrap()))
    }),
    ("moving private pages across tables", Leaves::Nothing, |world| {
        let to = RemapTo::Fixed(at(512 * GIB - 2 * M2));
        done(world.space.mremap(&mut world.task, at(PRIVATE), 6 * M2, 6 * M2, to))
    }),
    ("new rights for a part", Leaves::Nothing, |world| {
        done(world.space.mprotect(&mut world.task, at(SHARED + 2 * M2), 3 * M2, Protection::READ))
    }),
    ("a fault", Leaves::Nothing, |world| {
        done(world.space.fault(&mut world.task, at(UNTOUCHED), Access::Write))
    }),
];

fn page_of(byte: u8) -> Vec<u8> {
    inject::exempt(|| vec![byte; M2 as usize])
}

#[test]
fn every_walker_survives_the_failure_of_each_of_its_allocations() {
    for &(name, leaves, operation) in NEED_MEMORY {
        let mut refusals = 0;
        for allowed in 0.. {
            let live = heap::live();
            let mut world = World::tight();
            let before = world.look();
            inject::arm(allowed);
            let was_done = inject::inside(|| operation(&mut world));
            inject::disarm();
            let refused = inject::has_failed();
            if !was_done {
                assert!(refused, "{name}: memory is said to be missing, and none was");
                let after = world.look();
                if leaves == Leaves::Nothing {
                    assert_eq!(after, before, "{name}, after allocation {allowed} was refused");
                }
                let used = |look: &Look| look.counters.total - look.counters.free;
                assert!(used(&after) >= used(&before) && after.mappings == before.mappings, "{name}");
                assert!(
                    inject::inside(|| operation(&mut world)),
                    "{name}: there is memory for the second try"
                );
                refusals += 1;
            }
            drop(before);
            world.end();
            assert_eq!(heap::live(), live, "{name} leaks, with allocation {allowed} refused");
            if !refused {
                break;
            }
        }
        println!("{name}: refused {refusals} times");
        assert!(refusals > 0, "{name} needs no memory");
    }
}

/// Counts what it is shown.
struct Count(u64);

impl Visitor<Bench> for Count {
    fn entry(&mut self, _: &Found<'_, Bench>) {
        self.0 += 1;
    }
}

/// Each panics if it is refused.
const NEED_NONE: &[(&str, fn(&mut World))] = &[
    ("one page without a lock", |world| {
        drop(world.space.pin_page_fast(&world.task, at(SHARED), PIN).unwrap());
    }),
    ("one page as it is mapped", |world| {
        drop(world.space.follow_page(&world.task, at(SHARED), PIN).unwrap().unwrap());
    }),
    ("a walk", |world| {
        let range = at(SHARED)..at(SHARED + 512 * M2);
        world.space.walk_range(&mut world.task, range, &mut Count(0)).unwrap();
    }),
    ("access sampling", |world| {
        world.space.sample_accessed(&mut world.task, at(SHARED)..at(SHARED + 512 * M2)).unwrap();
    }),
    ("totals", |world| {
        world.space.numa_maps(&mut world.task, at(SHARED)..at(SHARED + 512 * M2)).unwrap();
    }),
    ("residency", |world| world.space.residency(&mut world.task, |_, _| ()).unwrap()),
    ("forgetting what was written", |world| world.space.clear_soft_dirty(&mut world.task).unwrap()),
    ("unmapping a page", |world| {
        let frame = world.frame(SHARED);
        world.hugetlb.unmap_page(&mut world.task, frame).unwrap();
    }),
    ("moving a page", |world| {
        let frame = world.frame(PRIVATE);
        world.hugetlb.migrate(&mut world.task, frame).unwrap();
    }),
    ("asking for the use of a page", |world| {
        let frame = world.frame(SHARED);
        world.hugetlb.referenced(&mut world.task, frame).unwrap();
    }),
    ("a page that fails", |world| {
        let frame = world.frame(PRIVATE);
        world.hugetlb.memory_failure(&mut world.task, frame).unwrap();
        world.hugetlb.unpoison(frame).unwrap();
    }),
    ("a page that is taken out of use", |world| {
        let frame = world.frame(SHARED);
        world.hugetlb.soft_offline(&mut world.task, frame).unwrap();
        world.hugetlb.unpoison(frame).unwrap();
    }),
    ("truncation", |world| world.shared.truncate(&mut world.task, 0).unwrap()),
    ("dropping pages", |world| {
        world.space.madvise(&mut world.task, at(SHARED), 512 * M2, Advice::DontNeed).unwrap();
    }),
    ("locking what is there", |world| {
        world.space.mlock(&mut world.task, at(SHARED), 3 * M2).unwrap();
        world.space.munlock(&mut world.task, at(SHARED), 512 * M2).unwrap();
    }),
    ("waking", |world| world.uffd.wake(at(HANDLED), 4 * M2).unwrap()),
    ("reading a message", |world| assert!(world.uffd.try_read_event().is_none())),
    ("taking protections back", |world| {
        world.uffd.write_protect(&mut world.task, at(HANDLED), 4 * M2, ProtectMode::empty()).unwrap();
    }),
    ("exit", |world| world.child.exit(&mut world.task).unwrap()),
];

/// Some ask for memory, to be done in fewer steps, and do without.
#[test]
fn what_must_not_fail_for_want_of_memory_does_not() {
    for &(name, operation) in NEED_NONE {
        for allowed in 0.. {
            let live = heap::live();
            let mut world = World::new();
            inject::arm(allowed);
            inject::inside(|| operation(&mut world));
            inject::disarm();
            world.end();
            assert_eq!(heap::live(), live, "{name} leaks, with allocation {allowed} refused");
            if !inject::has_failed() {
                break;
            }
        }
    }
}
