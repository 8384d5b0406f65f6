//! Programs: lists of steps that mean something in any state, so that they can be shortened.

use core::fmt;

use hugewalk::fault::Access;
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::vma::Protection;
use proptest::prelude::*;

use super::Call;
use super::format::Format;
use super::state::{FILES, MOUNTS, PROCESSES};

#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) format: Format,
    /// Pages of the small size and of the other one in the pools.
    pub(crate) pools: (u64, u64),
    pub(crate) overcommit: u64,
    /// The first file lies on a mount with this maximum and minimum.
    pub(crate) mount: Option<(Option<u64>, Option<u64>)>,
    pub(crate) steps: Vec<Step>,
}

impl Program {
    /// What comes before the steps: pools, a process, a file. If there is a mount in slot 0 that works, the file is on
    /// it.
    pub(crate) fn opening(&self) -> Vec<Call> {
        let small = self.format.small;
        let mut calls = vec![
            Call::Resize { size: small, pages: self.pools.0 },
            Call::Resize { size: self.format.giant, pages: self.pools.1 },
            Call::Overcommit { size: small, pages: self.overcommit },
            Call::NewProcess { process: 0 },
        ];
        let mut mount = None;
        if let Some((max, min)) = self.mount {
            calls.push(Call::NewMount { slot: 0, max, min });
            let refused = matches!((max, min), (Some(max), Some(min)) if min > max);
            let reserved = min.unwrap_or(0) <= self.pools.0 + self.overcommit;
            mount = (reserved && !refused).then_some(0);
        }
        calls.push(Call::NewFile { slot: 0, size: small, mount });
        calls
    }
}

impl fmt::Debug for Program {
    /// One line a step, however it is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:?}, pools {:?}, overcommit {}, mount {:?}",
            self.format, self.pools, self.overcommit, self.mount
        )?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    NewMount { slot: usize, max: Option<u64>, min: Option<u64> },
    NewFile { slot: usize, giant: bool, mount: Option<usize> },
    Close { slot: usize },
    CloseMount { slot: usize },
    NewProcess,
    Fork { from: usize },
    Exit { process: usize },
    Map { process: usize, map: MapStep },
    Unmap { process: usize, part: Part },
    Protect { process: usize, part: Part, rights: Protection },
    Remap { process: usize, part: Part, kept: u64, to: Where },
    Advise { process: usize, part: Part, advice: Advice },
    Load { process: usize, spot: Spot, access: Access },
    Store { process: usize, spot: Spot, value: u8 },
    Truncate { slot: usize, size: Extent },
    Allocate { slot: usize, from: Extent, length: Extent, keep_size: bool },
    Punch { slot: usize, from: Extent, length: Extent },
    Read { slot: usize, from: Extent, length: usize },
    Write { slot: usize, from: Extent, bytes: Vec<u8> },
    Resize { giant: bool, pages: u64 },
    Overcommit { giant: bool, pages: u64 },
}

#[derive(Clone, Debug)]
pub(crate) struct MapStep {
    /// A slot with a file, or none for fresh pages.
    pub(crate) file: Option<usize>,
    pub(crate) giant: bool,
    pub(crate) offset: Extent,
    pub(crate) place: Where,
    pub(crate) pages: Pages,
    pub(crate) skew: i64,
    pub(crate) rights: Protection,
    pub(crate) flags: MapFlags,
}

/// How many pages to map.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pages {
    Few(u64),
    /// So many GiB, and a few pages more.
    Gibs(u64, u64),
}

/// Where to map or to move to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Where {
    Anywhere,
    Hint(u64, u64),
    /// The window (of 1 GiB), and the page in it.
    Fixed(u64, u64),
    FixedNoReplace(u64, u64),
    /// Off a page's boundary.
    Unaligned(u64, u64),
    InPlace,
}

/// A part of a mapping, or of several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) pick: usize,
    pub(crate) from: Place,
    pub(crate) pages: u64,
    /// Bytes that the start is off a page's boundary.
    pub(crate) skew: u64,
    /// Bytes that the end is off.
    pub(crate) end_skew: i64,
}

/// A page of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    FromStart(u64),
    FromEnd(u64),
    /// So many pages after the first 1 GiB boundary in it.
    FromGib(u64),
    /// So many pages before its start.
    Before(u64),
}

/// A byte of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub(crate) pick: usize,
    pub(crate) place: Place,
    pub(crate) probe: usize,
}

/// A number of bytes: pages, and a probe's offset more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) pages: u64,
    pub(crate) probe: usize,
}

fn process() -> impl Strategy<Value = usize> {
    0..PROCESSES
}

fn slot() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0), 2 => 0..FILES]
}

fn rights() -> impl Strategy<Value = Protection> {
    let read = Protection::READ;
    prop_oneof![
        8 => Just(read | Protection::WRITE),
        3 => Just(read),
        1 => Just(Protection::empty()),
        1 => Just(read | Protection::EXECUTE),
        1 => Just(Protection::WRITE),
        1 => Just(Protection::EXECUTE),
        1 => Just(Protection::all()),
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![4 => Just(Access::Read), 1 => Just(Access::Execute)]
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        4 => (0u64..5).prop_map(Place::FromStart),
        2 => (1u64..4).prop_map(Place::FromEnd),
        2 => (0u64..4).prop_map(Place::FromGib),
        1 => (1u64..3).prop_map(Place::Before),
    ]
}

fn part() -> BoxedStrategy<Part> {
    let pages =
        prop_oneof![6 => 1u64..5, 2 => Just(512u64), 1 => 508u64..516, 1 => Just(1024u64), 1 => Just(0u64)];
    let skew = prop_oneof![20 => Just(0u64), 1 => Just(0x1000u64), 1 => Just(1u64)];
    let end_skew =
        prop_oneof![20 => Just(0i64), 1 => Just(0x1000i64), 1 => Just(-0x1000i64), 1 => Just(-1i64)];
    (0usize..4, place(), pages, skew, end_skew)
        .prop_map(|(pick, from, pages, skew, end_skew)| Part { pick, from, pages, skew, end_skew })
        .boxed()
}

fn spot() -> BoxedStrategy<Spot> {
    (0usize..4, place(), 0usize..5).prop_map(|(pick, place, probe)| Spot { pick, place, probe }).boxed()
}

fn extent(aligned: u32) -> impl Strategy<Value = Extent> {
    let pages = prop_oneof![12 => 0u64..6, 1 => 508u64..514, 1 => 1020u64..1026];
    let probe = prop_oneof![aligned => Just(0usize), 1 => 0usize..5];
    (pages, probe).prop_map(|(pages, probe)| Extent { pages, probe })
}

fn window_page() -> impl Strategy<Value = (u64, u64)> {
    (0u64..5, prop_oneof![5 => Just(0u64), 3 => 0u64..6, 1 => 506u64..512])
}

fn target() -> impl Strategy<Value = Where> {
    prop_oneof![
        10 => window_page().prop_map(|(window, page)| Where::Fixed(window, page)),
        2 => window_page().prop_map(|(window, page)| Where::FixedNoReplace(window, page)),
        2 => window_page().prop_map(|(window, page)| Where::Hint(window, page)),
        1 => window_page().prop_map(|(window, page)| Where::Unaligned(window, page)),
        1 => Just(Where::Anywhere),
    ]
}

fn flags() -> impl Strategy<Value = MapFlags> {
    let rare = |flag: MapFlags, of: u32| prop_oneof![of => Just(MapFlags::empty()), 1 => Just(flag)];
    let shared = prop_oneof![2 => Just(MapFlags::SHARED), 1 => Just(MapFlags::empty())];
    (shared, rare(MapFlags::NORESERVE, 3), rare(MapFlags::POPULATE, 9), rare(MapFlags::LOCKED, 9))
        .prop_map(|(shared, noreserve, populate, locked)| shared | noreserve | populate | locked)
}

fn map() -> BoxedStrategy<MapStep> {
    let pages = prop_oneof![
        6 => (0u64..6).prop_map(Pages::Few),
        6 => (1u64..3, prop_oneof![3 => Just(0u64), 1 => 0u64..4]).prop_map(|(gibs, pages)| Pages::Gibs(gibs, pages)),
    ];
    let file = prop_oneof![6 => slot().prop_map(Some), 1 => Just(None)];
    let offset = prop_oneof![3 => Just(Extent { pages: 0, probe: 0 }), 2 => extent(30)];
    let skew = prop_oneof![15 => Just(0i64), 1 => Just(1i64), 1 => Just(-1i64)];
    (file, prop::bool::weighted(0.1), offset, target(), pages, skew, rights(), flags())
        .prop_map(|(file, giant, offset, place, pages, skew, rights, flags)| MapStep {
            file,
            giant,
            offset,
            place,
            pages,
            skew,
            rights,
            flags,
        })
        .boxed()
}

/// A mapping whose tables can be shared with others of its kind.
fn shareable() -> impl Strategy<Value = MapStep> {
    let rights = prop_oneof![5 => Just(Protection::READ | Protection::WRITE), 1 => Just(Protection::READ)];
    let offset = prop_oneof![4 => Just(0u64), 1 => Just(512)].prop_map(|pages| Extent { pages, probe: 0 });
    (offset, 0u64..5, 1u64..3, rights, any::<bool>()).prop_map(|(offset, window, gibs, rights, noreserve)| {
        MapStep {
            file: Some(0),
            giant: false,
            offset,
            place: Where::Fixed(window, 0),
            pages: Pages::Gibs(gibs, 0),
            skew: 0,
            rights,
            flags: if noreserve { MapFlags::SHARED | MapFlags::NORESERVE } else { MapFlags::SHARED },
        }
    })
}

/// A small private mapping: what is copied at stores, and taken from children.
fn small_private() -> impl Strategy<Value = MapStep> {
    let file = prop_oneof![2 => Just(Some(0)), 1 => Just(None)];
    (file, window_page(), 1u64..5, any::<bool>()).prop_map(|(file, (window, page), pages, write)| MapStep {
        file,
        giant: false,
        offset: Extent { pages: 0, probe: 0 },
        place: Where::Fixed(window, page),
        pages: Pages::Few(pages),
        skew: 0,
        rights: if write { Protection::READ | Protection::WRITE } else { Protection::READ },
        flags: MapFlags::empty(),
    })
}

fn advice() -> impl Strategy<Value = Advice> {
    prop_oneof![
        3 => Just(Advice::DontNeed),
        2 => Just(Advice::Remove),
        2 => Just(Advice::PopulateRead),
        2 => Just(Advice::PopulateWrite),
    ]
}

fn remap_target() -> impl Strategy<Value = Where> {
    prop_oneof![
        5 => window_page().prop_map(|(window, page)| Where::Fixed(window, page)),
        1 => Just(Where::InPlace),
        1 => Just(Where::Anywhere),
        1 => window_page().prop_map(|(window, page)| Where::Unaligned(window, page)),
    ]
}

fn memory_step() -> BoxedStrategy<Step> {
    prop_oneof![
        4 => (process(), map()).prop_map(|(process, map)| Step::Map { process, map }),
        3 => (process(), shareable()).prop_map(|(process, map)| Step::Map { process, map }),
        2 => (process(), small_private()).prop_map(|(process, map)| Step::Map { process, map }),
        3 => (process(), part()).prop_map(|(process, part)| Step::Unmap { process, part }),
        3 => (process(), part(), rights())
            .prop_map(|(process, part, rights)| Step::Protect { process, part, rights }),
        3 => (process(), part(), 0u64..6, remap_target())
            .prop_map(|(process, part, kept, to)| Step::Remap { process, part, kept, to }),
        4 => (process(), part(), advice()).prop_map(|(process, part, advice)| Step::Advise { process, part, advice }),
        12 => (process(), spot(), access()).prop_map(|(process, spot, access)| Step::Load { process, spot, access }),
        16 => (process(), spot(), any::<u8>())
            .prop_map(|(process, spot, value)| Step::Store { process, spot, value }),
    ]
        .boxed()
}

fn file_step() -> BoxedStrategy<Step> {
    prop_oneof![
        3 => (slot(), extent(9)).prop_map(|(slot, size)| Step::Truncate { slot, size }),
        3 => (slot(), extent(3), extent(2), any::<bool>())
            .prop_map(|(slot, from, length, keep_size)| Step::Allocate { slot, from, length, keep_size }),
        3 => (slot(), extent(2), extent(2)).prop_map(|(slot, from, length)| Step::Punch { slot, from, length }),
        2 => (slot(), extent(1), 1usize..8).prop_map(|(slot, from, length)| Step::Read { slot, from, length }),
        2 => (slot(), extent(1), prop::collection::vec(any::<u8>(), 1..4))
            .prop_map(|(slot, from, bytes)| Step::Write { slot, from, bytes }),
    ]
        .boxed()
}

fn pool_pages() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0u64..12, 1 => Just(600u64), 3 => Just(1400u64)]
}

fn life_step() -> BoxedStrategy<Step> {
    let mount = prop_oneof![2 => Just(None), 1 => (0..MOUNTS).prop_map(Some)];
    prop_oneof![
        2 => (slot(), prop::bool::weighted(0.15), mount)
            .prop_map(|(slot, giant, mount)| Step::NewFile { slot, giant, mount }),
        1 => slot().prop_map(|slot| Step::Close { slot }),
        2 => (0..MOUNTS, limit(), limit()).prop_map(|(slot, max, min)| Step::NewMount { slot, max, min }),
        1 => (0..MOUNTS).prop_map(|slot| Step::CloseMount { slot }),
        2 => Just(Step::NewProcess),
        6 => process().prop_map(|from| Step::Fork { from }),
        1 => process().prop_map(|process| Step::Exit { process }),
        1 => (prop::bool::weighted(0.2), pool_pages()).prop_map(|(giant, pages)| Step::Resize { giant, pages }),
        1 => (prop::bool::weighted(0.2), 0u64..4).prop_map(|(giant, pages)| Step::Overcommit { giant, pages }),
    ]
        .boxed()
}

fn limit() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 2 => (0u64..6).prop_map(Some)]
}

/// A program. Pools are small (so that they run out), or large (so that whole GiB can be reserved).
pub(crate) fn program(formats: Vec<Format>, steps: usize) -> impl Strategy<Value = Program> {
    let step = prop_oneof![12 => memory_step(), 3 => file_step(), 2 => life_step()];
    let mount = prop_oneof![3 => Just(None), 1 => (limit(), limit()).prop_map(Some)];
    let pools = (pool_pages(), 0u64..4);
    let format = prop::sample::select(formats);
    (format, pools, 0u64..4, mount, prop::collection::vec(step, 1..=steps)).prop_map(
        |(format, pools, overcommit, mount, steps)| Program { format, pools, overcommit, mount, steps },
    )
}
