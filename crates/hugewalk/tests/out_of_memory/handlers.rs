//! Handlers of page faults, and memory that runs out in the operations of their process: what these leave with a handler.

use core::ops::Range;
use std::sync::Arc as StdArc;

use hugewalk::addr::VirtAddr;
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::{Advice, MapError, MapFlags, Placement, RemapTo};
use hugewalk::sync::Arc;
use hugewalk::uffd::{Features, Message, Modes, ProtectMode, Userfault};
use hugewalk::vma::VmaFlags;
use parking_lot::Mutex;

use crate::common::interrupt::{At, before_next, forget};
use crate::common::{
    AddressSpace, Bench, File, GIB, Hugetlb, M2, SMALL, Task, at, heap, inject, map, system, task,
};

/// Four pages of a file, two for each handler.
const HERE: u64 = 4 * GIB;
/// Two pages that have the first handler.
const THERE: u64 = 8 * GIB;
/// Nothing is mapped there.
const ELSEWHERE: u64 = 12 * GIB;
const EVENTS: Features = Features::EVENT_FORK
    .union(Features::EVENT_REMAP)
    .union(Features::EVENT_REMOVE)
    .union(Features::EVENT_UNMAP);

/// A process with two handlers that asked to be told of everything.
struct World {
    hugetlb: Arc<Hugetlb>,
    file: Arc<File>,
    space: Arc<AddressSpace>,
    handlers: StdArc<[Userfault<Bench>; 2]>,
}

impl World {
    fn new() -> Self {
        let (hugetlb, mut task) = system(4);
        let file = File::new(&hugetlb, SMALL, None).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        map(&space, &mut task, &file, 0, HERE, 4 * M2, flags).unwrap();
        map(&space, &mut task, &file, 0, THERE, 2 * M2, flags).unwrap();
        let handlers = [(); 2].map(|()| Userfault::new(&space, EVENTS).unwrap());
        for (handler, start) in [(0, HERE), (1, HERE + 2 * M2), (0, THERE)] {
            handlers[handler].register(&mut task, at(start), 2 * M2, Modes::MISSING).unwrap();
        }
        Self { hugetlb, file, space, handlers: StdArc::new(handlers) }
    }

    /// Each mapping's ends.
    fn mappings(&self, task: &mut Task) -> Vec<Range<VirtAddr>> {
        self.space.mmap_read(task).vmas().map(|vma| vma.start()..vma.end()).collect()
    }

    /// Runs an operation by a task of its own, which tells the handlers what it has to. Says whether there was the memory.
    fn run(&self, operation: Operation, allowed: u64) -> bool {
        let mut task = task(&self.hugetlb);
        let before = self.mappings(&mut task);
        let told = StdArc::new(Mutex::new(Vec::new()));
        for _ in 0..8 {
            let (handlers, told) = (self.handlers.clone(), told.clone());
            before_next(At::HandlerCalled, move || {
                told.lock().extend(handlers.iter().filter_map(Userfault::try_read_event));
            });
        }
        inject::arm(allowed);
        let done = inject::inside(|| operation(self, &mut task));
        inject::disarm();
        forget();
        let told = std::mem::take(&mut *told.lock());
        let after = self.mappings(&mut task);
        match done {
            Ok(()) => assert!(!told.is_empty()),
            Err(error) => {
                assert!(matches!(error, MapError::OutOfMemory(_)), "{error:?}");
                // What was unmapped before the failure, and what was about to be dropped, is all that can be told of.
                let mut unmaps = 0;
                for message in &told {
                    match *message {
                        Message::Unmap { start, end } => {
                            unmaps += 1;
                            let is_there =
                                |mapping: &Range<VirtAddr>| start < mapping.end && mapping.start < end;
                            assert!(!after.iter().any(is_there), "{start:?} is mapped: {after:x?}");
                        }
                        Message::Remove { .. } => {}
                        _ => panic!("a handler was told of what has not happened"),
                    }
                }
                assert_eq!(unmaps, usize::from(before != after), "{before:x?}, then {after:x?}");
            }
        }
        assert!(self.handlers.iter().all(|handler| !handler.poll()));
        task.rcu_barrier();
        done.is_ok()
    }
}

type Operation = fn(&World, &mut Task) -> Result<(), MapError>;

const OPERATIONS: &[(&str, Operation)] = &[
    ("munmap", |world, task| world.space.munmap(task, at(HERE + M2), 2 * M2)),
    ("mmap", |world, task| {
        map(&world.space, task, &world.file, 0, HERE, 4 * M2, MapFlags::SHARED | MapFlags::NORESERVE)
            .map(drop)
    }),
    ("claim", |world, task| world.space.claim(task, Placement::Fixed(at(HERE)), 4 * M2).map(drop)),
    ("mremap of a part", |world, task| {
        world.space.mremap(task, at(HERE), 2 * M2, M2, RemapTo::Fixed(at(ELSEWHERE))).map(drop)
    }),
    ("mremap onto another", |world, task| {
        world.space.mremap(task, at(HERE), M2, M2, RemapTo::Fixed(at(THERE))).map(drop)
    }),
    ("fork", |world, task| world.space.fork(task).map(|child| child.exit(task).unwrap())),
    ("madvise", |world, task| world.space.madvise(task, at(HERE), 4 * M2, Advice::DontNeed)),
    ("punching a hole", |world, task| world.space.madvise(task, at(HERE), 4 * M2, Advice::Remove)),
];

#[test]
fn an_operation_that_fails_tells_of_what_it_did_and_leaves_nothing_else_with_the_handlers() {
    for &(name, operation) in OPERATIONS {
        let mut refusals = 0;
        'all: for allowed in 0.. {
            // A handler keeps the room that the first failure has made with it. So the later ones come further with as many
            // allocations, and meet the very next one with none.
            for (later, first) in [(allowed, 3), (0, 0)] {
                let world = World::new();
                let fails = |allowed| !world.run(operation, allowed);
                if !fails(allowed) {
                    break 'all;
                }
                if !(0..first).all(|_| fails(later)) {
                    continue;
                }
                let live = heap::live();
                if (0..8).all(|_| fails(later)) {
                    assert_eq!(
                        heap::live(),
                        live,
                        "{name} leaves something, with allocation {allowed}, then {later} refused"
                    );
                    refusals += 1;
                }
            }
        }
        assert!(refusals > 0, "{name} needs no memory");
    }
}

#[test]
fn a_fault_goes_on_without_its_handler_if_that_has_left_and_there_is_no_memory_to_unregister() {
    let (hugetlb, mut task) = system(2);
    let file = File::new(&hugetlb, SMALL, None).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, 0, HERE, 2 * M2, MapFlags::SHARED).unwrap();
    file.write_at(&mut task, M2 - 1, &[1, 2]).unwrap();
    space.fault(&mut task, at(HERE), Access::Read).unwrap();
    let handler = Userfault::new(&space, Features::empty()).unwrap();
    handler.register(&mut task, at(HERE), 2 * M2, Modes::WP | Modes::MINOR).unwrap();
    handler.write_protect(&mut task, at(HERE), M2, ProtectMode::WP).unwrap();
    drop(handler);
    inject::arm_for_good();
    let protected = inject::inside(|| space.fault(&mut task, at(HERE), Access::Write));
    let unmapped = inject::inside(|| space.fault(&mut task, at(HERE + M2), Access::Read));
    inject::disarm();
    assert!(inject::has_failed());
    assert!(
        matches!((protected, unmapped), (Ok(Fault::Present | Fault::Reused), Ok(Fault::Mapped))),
        "{protected:?}, {unmapped:?}"
    );
    assert!(space.mmap_read(&mut task).vmas().all(|vma| vma.flags().intersects(VmaFlags::UFFD)));
    space.exit(&mut task).unwrap();
}
