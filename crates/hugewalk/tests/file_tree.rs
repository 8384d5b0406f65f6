//! The tree of the VMAs that map a file, against a plain list: what a search finds, and in which order.

mod common;

use common::{AddressSpace, File, GIB, M2, RW, SMALL, Task, at, heap, inject, map, system};
use hugewalk::mm::{MapError, MapFlags, RemapTo};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use proptest::prelude::*;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

const START: u64 = 4 * GIB;
const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);

/// A mapping of the file, in pages: the address relative to [`START`], the length, the offset.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mapping {
    space: u64,
    page: u64,
    pages: u64,
    offset: u64,
    writable: bool,
}

impl Mapping {
    fn end(&self) -> u64 {
        self.page + self.pages
    }
}

/// All mappings in the order in which the file's tree is visited.
#[derive(Clone, Debug, Default)]
struct Model(Vec<Mapping>);

impl Model {
    /// Behind all others of its offset.
    fn insert(&mut self, new: Mapping) {
        let at = self.0.partition_point(|mapping| mapping.offset <= new.offset);
        self.0.insert(at, new);
    }

    /// Those of an address space that overlap a range, by address.
    fn of(&self, space: u64, from: u64, to: u64) -> Vec<Mapping> {
        let found = self.0.iter().filter(|it| it.space == space && it.page < to && from < it.end());
        let mut found: Vec<Mapping> = found.copied().collect();
        found.sort_by_key(|mapping| mapping.page);
        found
    }

    fn remove(&mut self, mapping: &Mapping) {
        self.0.retain(|other| other != mapping);
    }

    /// Cuts what reaches across an end of the range. The parts go behind all others of their offsets.
    fn split(&mut self, space: u64, from: u64, to: u64) {
        for whole in self.of(space, from, to) {
            let points = [from, to].into_iter().filter(|&point| whole.page < point && point < whole.end());
            let mut cuts: Vec<u64> = points.chain([whole.end()]).collect();
            if cuts.len() == 1 {
                continue;
            }
            self.remove(&whole);
            let mut page = whole.page;
            for end in cuts.drain(..) {
                let offset = whole.offset + (page - whole.page);
                self.insert(Mapping { page, pages: end - page, offset, ..whole });
                page = end;
            }
        }
    }

    fn unmap(&mut self, space: u64, from: u64, to: u64) {
        self.split(space, from, to);
        self.of(space, from, to).iter().for_each(|mapping| self.remove(mapping));
    }

    fn protect(&mut self, space: u64, from: u64, to: u64, writable: bool) {
        let changes: Vec<Mapping> =
            self.of(space, from, to).into_iter().filter(|it| it.writable != writable).collect();
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return };
        let (from, to) = (first.page.max(from), last.end().min(to));
        self.split(space, from, to);
        let inside = |it: &Mapping| it.space == space && it.page < to && from < it.end();
        self.0.iter_mut().filter(|it| inside(it)).for_each(|it| it.writable = writable);
    }

    fn fork(&mut self, parent: u64, child: u64) {
        for original in self.of(parent, 0, u64::MAX) {
            let at = self.0.iter().position(|mapping| *mapping == original).unwrap();
            self.0.insert(at + 1, Mapping { space: child, ..original });
        }
    }
}

#[derive(Clone, Debug)]
enum Call {
    Map {
        space: usize,
        page: u64,
        pages: u64,
        offset: u64,
    },
    Unmap {
        space: usize,
        page: u64,
        pages: u64,
    },
    Protect {
        space: usize,
        page: u64,
        pages: u64,
        writable: bool,
    },
    /// Moves what is mapped at a page to another place, if that is free.
    Move {
        space: usize,
        page: u64,
        to: u64,
    },
    Fork {
        space: usize,
    },
    Exit {
        space: usize,
    },
}

/// The address spaces there are, and what they have mapped.
struct Engine {
    task: Task,
    file: Arc<File>,
    spaces: Vec<Arc<AddressSpace>>,
    hugetlb: Arc<common::Hugetlb>,
}

impl Engine {
    fn new() -> Self {
        let (hugetlb, task) = system(1);
        let file = File::new(&hugetlb, SMALL, None).unwrap();
        let spaces = vec![AddressSpace::new(&hugetlb).unwrap(), AddressSpace::new(&hugetlb).unwrap()];
        Self { task, file, spaces, hugetlb }
    }

    /// Makes a call. Memory may run out.
    fn apply(&mut self, call: &Call, model: &mut Model) -> Result<(), MapError> {
        let address = |page: u64| at(START + page * M2);
        let count = self.spaces.len();
        let id = |space: usize| (space % count, self.spaces[space % count].mm().id());
        let task = &mut self.task;
        match *call {
            Call::Map { space, page, pages, offset } => {
                let (at, space) = id(space);
                if model.of(space, page, page + pages).is_empty() {
                    let place = START + page * M2;
                    inject::inside(|| {
                        map(&self.spaces[at], task, &self.file, offset * M2, place, pages * M2, SHARED)
                    })?;
                    model.insert(Mapping { space, page, pages, offset, writable: true });
                }
            }
            Call::Unmap { space, page, pages } => {
                let (at, space) = id(space);
                inject::inside(|| self.spaces[at].munmap(task, address(page), pages * M2))?;
                model.unmap(space, page, page + pages);
            }
            Call::Protect { space, page, pages, writable } => {
                let (at, space) = id(space);
                let rights = if writable { RW } else { Protection::READ };
                let mapped = model.of(space, page, page + pages);
                let whole = mapped.iter().fold(page, |end, it| if it.page <= end { it.end() } else { end });
                if whole >= page + pages {
                    inject::inside(|| self.spaces[at].mprotect(task, address(page), pages * M2, rights))?;
                    model.protect(space, page, page + pages, writable);
                }
            }
            Call::Move { space, page, to } => {
                let (at, space) = id(space);
                let Some(old) = model.of(space, page, page + 1).first().copied() else { return Ok(()) };
                if model.of(space, to, to + old.pages).is_empty() {
                    let length = old.pages * M2;
                    inject::inside(|| {
                        let to = RemapTo::Fixed(address(to));
                        self.spaces[at].mremap(task, address(old.page), length, length, to)
                    })?;
                    model.remove(&old);
                    model.insert(Mapping { page: to, ..old });
                }
            }
            Call::Fork { space } => {
                let (at, parent) = id(space);
                let child = inject::inside(|| self.spaces[at].fork(task))?;
                model.fork(parent, child.mm().id());
                self.spaces.push(child);
            }
            Call::Exit { space } => {
                let (at, space) = id(space);
                if self.spaces.len() > 1 {
                    let gone = self.spaces.remove(at);
                    inject::inside(|| gone.exit(task)).unwrap();
                    model.0.retain(|mapping| mapping.space != space);
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, model: &Model, from: u64, to: u64) {
        let i_mmap = self.file.i_mmap_read(&mut self.task);
        for offsets in [from..to, 0..u64::MAX, from..from + 1] {
            let found: Vec<Mapping> = i_mmap
                .vmas(offsets.clone())
                .map(|found| {
                    let vma = found.vma();
                    Mapping {
                        space: vma.mm().id(),
                        page: (vma.start().as_u64() - START) / M2,
                        pages: vma.pages(),
                        offset: vma.offset(),
                        writable: vma.protection().contains(Protection::WRITE),
                    }
                })
                .collect();
            let overlaps = |it: &&Mapping| it.offset < offsets.end && offsets.start < it.offset + it.pages;
            let expected: Vec<Mapping> = model.0.iter().filter(overlaps).copied().collect();
            assert_eq!(found, expected, "{offsets:?}");
        }
    }

    fn finish(mut self) {
        for space in &self.spaces {
            space.exit(&mut self.task).unwrap();
        }
        let found = self.file.i_mmap_read(&mut self.task).vmas(0..u64::MAX).count();
        assert_eq!(found, 0);
        drop(self.hugetlb);
    }
}

fn call() -> impl Strategy<Value = Call> {
    let space = || 0..8_usize;
    let range = || (0..60_u64, 1..12_u64);
    prop_oneof![
        6 => (space(), range(), 0..16_u64)
            .prop_map(|(space, (page, pages), offset)| Call::Map { space, page, pages, offset }),
        3 => (space(), range()).prop_map(|(space, (page, pages))| Call::Unmap { space, page, pages }),
        3 => (space(), range(), any::<bool>())
            .prop_map(|(space, (page, pages), writable)| Call::Protect { space, page, pages, writable }),
        2 => (space(), 0..60_u64, 0..60_u64).prop_map(|(space, page, to)| Call::Move { space, page, to }),
        2 => space().prop_map(|space| Call::Fork { space }),
        1 => space().prop_map(|space| Call::Exit { space }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_search_finds_what_a_list_would_in_its_order(
        calls in prop::collection::vec((call(), 0..60_u64), 1..40),
        asked in (0..20_u64, 1..12_u64),
    ) {
        let before = heap::live();
        {
            let (mut engine, mut model) = (Engine::new(), Model::default());
            for (call, allowed) in &calls {
                // Where memory runs out, nothing has changed, and the call can be made again.
                inject::arm(*allowed);
                let outcome = engine.apply(call, &mut model);
                inject::disarm();
                if outcome.is_err() {
                    prop_assert!(inject::has_failed(), "{call:?}: {outcome:?}");
                    engine.compare(&model, asked.0, asked.0 + asked.1);
                    engine.apply(call, &mut model).unwrap();
                }
                engine.compare(&model, asked.0, asked.0 + asked.1);
            }
            drop((calls.clone(), model));
            engine.finish();
        }
        prop_assert_eq!(heap::live(), before, "memory leaked");
    }
}

/// Each copy goes between the original and the copy before: the ranks in between run out again and again.
#[test]
fn hundreds_of_copies_of_one_mapping_keep_their_order() {
    let (hugetlb, mut task) = system(1);
    let file = File::new(&hugetlb, SMALL, None).unwrap();
    let first = AddressSpace::new(&hugetlb).unwrap();
    for offset in [0, 0, 1] {
        let place = START + first.mmap_read(&mut task).vmas().count() as u64 * M2;
        map(&first, &mut task, &file, offset * M2, place, M2, SHARED).unwrap();
    }
    let (mut spaces, mut expected) = (vec![first], vec![0]);
    for number in 1..900 {
        // The first one's, and the copy's copy's copy.
        let parent = if number < 600 { 0 } else { number - 1 };
        spaces.push(spaces[parent].fork(&mut task).unwrap());
        let at = expected.iter().position(|&space| space == parent).unwrap();
        expected.insert(at + 1, number);
    }
    let number = |id: u64| spaces.iter().position(|space| space.mm().id() == id).unwrap();
    let found: Vec<usize> =
        file.i_mmap_read(&mut task).vmas(0..1).map(|found| number(found.vma().mm().id())).collect();
    assert_eq!(found, [expected.clone(), expected].concat());
}
