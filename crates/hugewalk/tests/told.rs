//! Secondary MMUs are told of all that changes under them.
//!
//! Each address space has one that looks up what it can, inside every call of the engine's to the platform that has to do with
//! pages and translations. Whatever it has must be what the tables say, at each of those moments: a change that was not told of
//! shows there, and so does an end that is told too early. After each call an end was told for each start, whatever the call
//! came to.

mod common;
mod model;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{File, GIB, Hugetlb, M2, Task, at, cpu, inject, map, secondary, small, system};
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::fault::{Access, Fault};
use hugewalk::gather::Gather;
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::pagewalk::{Categories, Scan, ScanFlags};
use hugewalk::platform::Invalidation::{self, Clear, ProtectionVma, SoftDirty, Unmap};
use hugewalk::share::{Unsharing, huge_pmd_unshare};
use hugewalk::sync::Arc;
use hugewalk::uffd::{Features, Modes, ProtectMode, Userfault};
use hugewalk::vma::Protection;
use model::format::Format;
use model::program::{Program, program};
use model::{Engine, Model};
use proptest::prelude::*;
use proptest::test_runner::Config;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

type Space = common::AddressSpace;

/// Every mapped page of an address space.
fn addresses(space: &Space, task: &mut Task) -> Vec<VirtAddr> {
    let mut found = Vec::new();
    let ranges: Vec<_> =
        space.mmap_read(task).vmas().map(|vma| (vma.start(), vma.pages(), vma.size().bytes())).collect();
    for (start, pages, bytes) in ranges {
        let page = |index: u64| at(start.as_u64() + index * bytes);
        found.extend((0..pages).map(page).filter(|&page| cpu::peek(space, task, page).is_some()));
    }
    found
}

/// Watches the processes of an engine.
fn watch(engine: &mut Engine) {
    secondary::unwatch();
    let mut watched = Vec::new();
    for space in engine.processes.clone().iter().flatten() {
        watched.push((space.mm().clone(), addresses(space, &mut engine.task)));
    }
    secondary::watch(common::task(&engine.hugetlb), watched);
}

/// Looks once more, and checks that what has begun is over.
fn check(engine: &Engine) -> usize {
    secondary::look();
    let spaces = engine.processes.iter().flatten();
    spaces.map(|space| told(space).len()).sum()
}

fn told(space: &Space) -> Vec<Invalidation> {
    space.mm().context().secondary.take_told()
}

/// Watches nothing any more when it is dropped, also if a test fails.
struct Unwatch;

impl Drop for Unwatch {
    fn drop(&mut self) {
        secondary::unwatch();
    }
}

/// Runs a program. If an allocation fails in a call, it ends with that.
fn run(program: &Program) -> usize {
    let (mut engine, mut model) = (Engine::new(program.format), Model::new(program.format));
    let (mut told, _unwatch) = (0, Unwatch);
    let opening = program.opening().into_iter().map(Ok);
    for step in opening.chain(program.steps.iter().map(Err)) {
        let call = match step {
            Ok(call) => Some(call),
            Err(step) => model.resolve(step),
        };
        let Some(call) = call else { continue };
        inject::exempt(|| watch(&mut engine));
        let outcome = engine.apply(&call);
        told += inject::exempt(|| check(&engine));
        if inject::has_failed() {
            break;
        }
        inject::exempt(|| {
            assert_eq!(outcome, model.apply(&call), "{call:x?}: engine, model");
            engine.compare(&model);
        });
    }
    secondary::unwatch();
    if !inject::has_failed() {
        engine.finish(&model);
    }
    told
}

fn config(cases: u32) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn no_translation_survives_a_change_that_was_not_told_of(
        program in program([Format::x86(), Format::others()].concat(), 60),
    ) {
        run(&program);
    }

    #[test]
    fn an_end_is_told_for_each_start_also_if_memory_runs_out(
        program in program(Format::x86(), 40),
        allowed in 0u64..200,
    ) {
        inject::arm(allowed);
        run(&program);
        inject::disarm();
    }
}

const START: u64 = 4 * GIB;

/// Two processes that share a table, of which two pages are touched, and a parent and a child with private pages.
struct World {
    task: Task,
    hugetlb: Arc<Hugetlb>,
    file: Arc<File>,
    one: Arc<Space>,
    other: Arc<Space>,
    parent: Arc<Space>,
    child: Arc<Space>,
}

impl World {
    fn new() -> Self {
        let (hugetlb, mut task) = system(16);
        let file = File::new(&hugetlb, small(), None).unwrap();
        file.truncate(&mut task, GIB).unwrap();
        let [one, other, parent] = [(); 3].map(|()| Space::new(&hugetlb).unwrap());
        for space in [&one, &other] {
            map(space, &mut task, &file, 0, START, GIB, MapFlags::SHARED | MapFlags::NORESERVE).unwrap();
            for page in 0..2 {
                space.fault(&mut task, at(START + page * M2), Access::Write).unwrap();
            }
        }
        assert_eq!(one.tables(&mut task).unwrap()[0].users, 2);
        map(&parent, &mut task, &file, 0, START, 4 * M2, MapFlags::NORESERVE).unwrap();
        for page in 0..2 {
            cpu::store(&parent, &mut task, at(START + page * M2), 1).unwrap();
        }
        let child = parent.fork(&mut task).unwrap();
        Self { task, hugetlb, file, one, other, parent, child }
    }

    fn spaces(&self) -> [Arc<Space>; 4] {
        [self.one.clone(), self.other.clone(), self.parent.clone(), self.child.clone()]
    }

    /// Does something, and returns what the four were told of, and how many translations each has kept.
    fn after(mut self, work: impl FnOnce(&mut Self)) -> ([Vec<Invalidation>; 4], [usize; 4]) {
        let _unwatch = Unwatch;
        let watched = self.spaces().map(|space| (space.mm().clone(), addresses(&space, &mut self.task)));
        secondary::watch(common::task(&self.hugetlb), watched.into());
        assert_eq!(self.spaces().map(|space| space.mm().context().secondary.kept()), [2; 4]);
        // Nothing is looked up meanwhile: what is kept was kept before.
        common::interrupt::watch(None);
        work(&mut self);
        let kept = self.spaces().map(|space| space.mm().context().secondary.kept());
        secondary::look();
        let told = self.spaces().map(|space| {
            let mut told = told(&space);
            told.dedup();
            told
        });
        secondary::unwatch();
        (told, kept)
    }

    fn frame(&self, space: &Space) -> HugeFrame {
        cpu::peek(space, &self.task, at(START)).unwrap().0.frame
    }

    fn handler(&mut self) -> Userfault<common::Bench> {
        let handler = Userfault::new(&self.one, Features::WP_ASYNC).unwrap();
        handler.register(&mut self.task, at(START), GIB, Modes::WP).unwrap();
        handler
    }
}

/// What an operation does, what the process and the sharer of its table, a parent and its child are told of then, and how many of
/// their two translations each keeps.
type Case = (&'static str, fn(&mut World), [&'static [Invalidation]; 4], [usize; 4]);

const CASES: &[Case] = &[
    (
        "a fault where nothing is",
        |world| {
            let fault = world.one.fault(&mut world.task, at(START + 5 * M2), Access::Write);
            assert_eq!(fault, Ok(Fault::Fresh));
        },
        [&[], &[], &[], &[]],
        [2; 4],
    ),
    (
        // The table is unshared: the page beside goes too.
        "MADV_DONTNEED",
        |world| world.one.madvise(&mut world.task, at(START), M2, Advice::DontNeed).unwrap(),
        [&[Clear], &[], &[], &[]],
        [0, 2, 2, 2],
    ),
    (
        "MADV_DONTNEED of a private page",
        |world| world.child.madvise(&mut world.task, at(START), M2, Advice::DontNeed).unwrap(),
        [&[], &[], &[], &[Clear]],
        [2, 2, 2, 1],
    ),
    (
        // Cut first, which unshares.
        "munmap",
        |world| world.one.munmap(&mut world.task, at(START + M2), M2).unwrap(),
        [&[Clear, Unmap], &[], &[], &[]],
        [0, 2, 2, 2],
    ),
    ("exit", |world| world.one.exit(&mut world.task).unwrap(), [&[Unmap], &[], &[], &[]], [0, 2, 2, 2]),
    (
        "mprotect",
        |world| world.one.mprotect(&mut world.task, at(START), GIB, Protection::READ).unwrap(),
        [&[ProtectionVma], &[], &[], &[]],
        [0, 2, 2, 2],
    ),
    (
        "mremap",
        |world| {
            let to = RemapTo::Fixed(at(START + 2 * GIB));
            world.parent.mremap(&mut world.task, at(START), 4 * M2, 4 * M2, to).unwrap();
        },
        [&[], &[], &[Clear], &[]],
        [2, 2, 0, 2],
    ),
    (
        "fork of a private mapping",
        |world| drop(world.child.fork(&mut world.task).unwrap()),
        [&[], &[], &[], &[Clear]],
        [2, 2, 2, 0],
    ),
    (
        "fork of a shared mapping",
        |world| drop(world.one.fork(&mut world.task).unwrap()),
        [&[], &[], &[], &[]],
        [2; 4],
    ),
    (
        "copy-on-write",
        |world| cpu::store(&world.child, &mut world.task, at(START), 2).unwrap(),
        [&[], &[], &[], &[Clear]],
        [2, 2, 2, 1],
    ),
    (
        "a store to a page that is left alone",
        |world| {
            world.parent.munmap(&mut world.task, at(START), 4 * M2).unwrap();
            cpu::store(&world.child, &mut world.task, at(START), 2).unwrap();
        },
        [&[], &[], &[Unmap], &[]],
        [2, 2, 0, 2],
    ),
    (
        "truncation",
        |world| world.file.truncate(&mut world.task, M2).unwrap(),
        [&[Clear], &[Clear], &[Clear], &[Clear]],
        [0, 0, 1, 1],
    ),
    (
        "hole punch",
        |world| world.file.punch_hole(&mut world.task, 0, M2).unwrap(),
        [&[Clear], &[Clear], &[Clear], &[Clear]],
        [0, 0, 1, 1],
    ),
    (
        // The first is unshared, and loses the whole table. The second is alone then.
        "rmap",
        |world| {
            let frame = world.frame(&world.one);
            world.hugetlb.unmap_page(&mut world.task, frame).unwrap();
        },
        [&[Clear], &[Clear], &[], &[]],
        [0, 0, 2, 2],
    ),
    (
        "migration",
        |world| {
            let frame = world.frame(&world.child);
            world.hugetlb.migrate(&mut world.task, frame).unwrap();
        },
        [&[], &[], &[Clear], &[Clear]],
        [2, 2, 1, 1],
    ),
    (
        "memory failure",
        |world| {
            let frame = world.frame(&world.child);
            world.hugetlb.memory_failure(&mut world.task, frame).unwrap();
        },
        [&[], &[], &[Clear], &[Clear]],
        [2, 2, 1, 1],
    ),
    (
        "MADV_SOFT_OFFLINE",
        |world| world.child.madvise(&mut world.task, at(START), M2, Advice::SoftOffline).unwrap(),
        [&[], &[], &[Clear], &[Clear]],
        [2, 2, 1, 1],
    ),
    (
        "soft-dirty is cleared",
        |world| world.one.clear_soft_dirty(&mut world.task).unwrap(),
        [&[SoftDirty], &[], &[], &[]],
        [0, 2, 2, 2],
    ),
    ("userfaultfd registers", |world| drop(world.handler()), [&[ProtectionVma], &[], &[], &[]], [0, 2, 2, 2]),
    (
        "userfaultfd write-protects, and leaves",
        |world| {
            let handler = world.handler();
            world.one.fault(&mut world.task, at(START), Access::Write).unwrap();
            assert_eq!(told(&world.one), [ProtectionVma]);
            handler.write_protect(&mut world.task, at(START), M2, ProtectMode::WP).unwrap();
            assert_eq!(told(&world.one), [ProtectionVma]);
            handler.unregister(&mut world.task, at(START), GIB).unwrap();
        },
        [&[ProtectionVma], &[], &[], &[]],
        [0, 2, 2, 2],
    ),
    (
        "PAGEMAP_SCAN protects",
        |world| {
            let _handler = world.handler();
            world.one.fault(&mut world.task, at(START), Access::Write).unwrap();
            assert_eq!(told(&world.one), [ProtectionVma]);
            let range = at(START)..at(START + GIB);
            let flags = ScanFlags::WP_MATCHING;
            let (mask, report) = (Categories::WRITTEN, Categories::WRITTEN);
            let scan = Scan { flags, mask, report, ..Scan::new(range) };
            world.one.scan_pages(&mut world.task, &scan).unwrap();
        },
        [&[ProtectionVma], &[], &[], &[]],
        [0, 2, 2, 2],
    ),
    ("settling", |world| world.one.settle(&mut world.task).unwrap(), [&[], &[], &[], &[]], [2; 4]),
];

#[test]
fn each_operation_tells_of_what_it_changes_and_of_no_more() {
    for &(name, work, expected, kept) in CASES {
        let found = World::new().after(work);
        assert_eq!(found, (expected.map(Vec::from), kept), "{name}");
    }
}

#[test]
fn an_unshare_by_hand_tells_without_sleeping_and_of_the_end_with_the_gather() {
    let mut world = World::new();
    world.one.mm().context().secondary.attach();
    let mmap = world.one.mmap_read(&mut world.task);
    let vma = mmap.find(at(START)).unwrap();
    let mut locked = mmap.lock_vma_write(vma, &mut world.task).unwrap();
    let mut i_mmap = world.file.i_mmap_write(&mut world.task);
    secondary::must_not_block(true);
    let unshared = Gather::scope(world.one.mm(), &mut i_mmap, |gather| {
        let unshared = huge_pmd_unshare(&mut locked, at(START), gather, &world.task);
        assert!(world.one.mm().context().secondary.is_under_way(at(START)..at(START + GIB)));
        unshared
    });
    secondary::must_not_block(false);
    assert_eq!(unshared, Ok(Unsharing::Unshared));
    assert_eq!(told(&world.one), [Clear]);
}

/// The locks of these tests panic where a thread would wait.
#[test]
fn settling_waits_for_changes_that_come_from_the_mapping_and_from_the_file() {
    let ways: [(&str, fn(&mut World)); 3] = [
        ("MADV_DONTNEED", |world| {
            world.one.madvise(&mut world.task, at(START), M2, Advice::DontNeed).unwrap();
        }),
        ("truncation", |world| world.file.truncate(&mut world.task, 0).unwrap()),
        ("copy-on-write", |world| {
            cpu::store(&world.child, &mut world.task, at(START), 2).unwrap();
        }),
    ];
    for (name, change) in ways {
        let mut world = World::new();
        let space = if name == "copy-on-write" { world.child.clone() } else { world.one.clone() };
        let mut other = common::task(&world.hugetlb);
        let waited = std::rc::Rc::new(std::cell::Cell::new(false));
        let waits = waited.clone();
        common::interrupt::before_next_flush(move || {
            let settled = catch_unwind(AssertUnwindSafe(|| space.settle(&mut other)));
            waits.set(settled.is_err());
        });
        change(&mut world);
        assert!(waited.get(), "{name}");
        world.one.settle(&mut world.task).unwrap();
    }
}

#[test]
fn a_change_up_to_the_end_of_a_table_is_not_told_of_the_next_table() {
    let mut world = World::new();
    let space = Space::new(&world.hugetlb).unwrap();
    let flags = MapFlags::SHARED | MapFlags::NORESERVE;
    map(&space, &mut world.task, &world.file, 0, START, 2 * GIB, flags).unwrap();
    let last = START + GIB - M2;
    space.fault(&mut world.task, at(last), Access::Write).unwrap();
    let context = space.clone();
    context.mm().context().secondary.attach();
    common::interrupt::before_next_flush(move || {
        let secondary = &context.mm().context().secondary;
        assert!(secondary.is_under_way(at(START)..at(START + GIB)));
        assert!(!secondary.is_under_way(at(START)..at(START + 2 * GIB)));
    });
    space.madvise(&mut world.task, at(last), M2, Advice::DontNeed).unwrap();
    assert!(!common::interrupt::is_pending());
}
