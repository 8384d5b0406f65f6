//! A process: an address space with five mappings, and what is known of each.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use hugewalk::addr::VirtAddr;
use hugewalk::sync::Arc as EngineArc;
use hugewalk::{AddressSpace, Task};

use crate::ledger::{Ledger, Zap, Zapped};
use crate::tag::PAGES;
use crate::world::{BIG, File, GIB, Host, MIB2, MOUNTED, SMALL, World};

/// The mappings of a process, by their number.
pub(crate) const REGIONS: usize = 5;
pub(crate) const SHARED: usize = 0;
pub(crate) const ON_MOUNT: usize = 1;
pub(crate) const ANONYMOUS: usize = 2;
pub(crate) const COPY: usize = 3;
pub(crate) const ALIAS: usize = 4;

/// Where a mapping lies at first, and where else it may move. Those that can share are aligned to 1 GiB, at one of their
/// places at least; the small ones straddle the boundary of a table.
const PLACES: [[u64; 2]; REGIONS] = [
    [4 * GIB, 6 * GIB],
    [8 * GIB, 12 * GIB],
    [17 * GIB - 3 * MIB2, 19 * GIB - 5 * MIB2],
    [21 * GIB - 4 * MIB2, 23 * GIB + 100 * MIB2],
    [30 * GIB, 34 * GIB + MIB2],
];

pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) space: EngineArc<AddressSpace<Host>>,
    /// Those it was forked from, directly or not.
    pub(crate) ancestors: Vec<u32>,
    pub(crate) regions: [Region; REGIONS],
}

/// One mapping. Who changes it holds `lock`; who accesses it looks at the state before and after.
pub(crate) struct Region {
    lock: Mutex<()>,
    /// Odd while it is being changed.
    version: AtomicU64,
    base: AtomicU64,
    flags: AtomicU64,
    /// A bit for each page whose reservation was not used and thrown away.
    reserved: AtomicU64,
    /// Threads that are throwing pages away.
    throwing: AtomicU64,
    /// What was stored to a private mapping.
    pub(crate) ledger: Option<Ledger>,
}

/// What is known of a mapping at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) base: u64,
    pub(crate) mapped: bool,
    /// The process made the mapping itself, with reservations.
    pub(crate) owner: bool,
    /// A bit for each page.
    pub(crate) writable: u8,
}

impl State {
    fn pack(self) -> u64 {
        u64::from(self.mapped) | u64::from(self.owner) << 1 | u64::from(self.writable) << 8
    }

    fn unpack(base: u64, flags: u64) -> Self {
        Self { base, mapped: flags & 1 != 0, owner: flags & 2 != 0, writable: (flags >> 8) as u8 }
    }

    pub(crate) fn is_writable(&self, page: usize) -> bool {
        self.writable >> page & 1 != 0
    }
}

/// A look at a mapping: the state, and whether it was at rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    version: u64,
    pub(crate) state: State,
}

/// A mapping that is being changed.
pub(crate) struct Changing<'r> {
    region: &'r Region,
    _lock: MutexGuard<'r, ()>,
}

impl Region {
    fn new(number: usize, ledger: Option<Ledger>) -> Self {
        Self {
            lock: Mutex::default(),
            version: AtomicU64::new(0),
            base: AtomicU64::new(PLACES[number][0]),
            flags: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            throwing: AtomicU64::new(0),
            ledger,
        }
    }

    pub(crate) fn view(&self) -> View {
        let version = self.version.load(SeqCst);
        View { version, state: self.state() }
    }

    fn state(&self) -> State {
        State::unpack(self.base.load(SeqCst), self.flags.load(SeqCst))
    }

    /// Has the mapping been at rest since the look, and is the state what it was?
    pub(crate) fn unchanged(&self, since: &View) -> bool {
        since.version.is_multiple_of(2) && self.version.load(SeqCst) == since.version
    }

    /// Keeps it as it is.
    pub(crate) fn keep(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn change(&self) -> Changing<'_> {
        let _lock = self.keep();
        self.version.fetch_add(1, SeqCst);
        Changing { region: self, _lock }
    }

    /// Does `work`, which may throw these pages away and with them their reservations.
    pub(crate) fn throwing<R>(&self, pages: core::ops::Range<usize>, work: impl FnOnce() -> R) -> R {
        self.throwing.fetch_add(1, SeqCst);
        let result = work();
        // Afterwards: the mapping may have been made anew since the beginning.
        for page in pages {
            self.reserved.fetch_and(!(1 << page), SeqCst);
        }
        self.throwing.fetch_sub(1, SeqCst);
        result
    }

    /// Does the mapping, which is at rest, have a reservation for the page?
    pub(crate) fn is_reserved(&self, page: usize) -> bool {
        self.throwing.load(SeqCst) == 0 && self.reserved.load(SeqCst) >> page & 1 != 0
    }

    /// What is stored to a private mapping is about to go.
    pub(crate) fn zap<'r>(&'r self, world: &World, pages: impl Iterator<Item = usize>) -> Option<Zap<'r>> {
        self.ledger.as_ref().map(|ledger| ledger.zap(pages, &world.finished))
    }
}

impl Changing<'_> {
    pub(crate) fn state(&self) -> State {
        self.region.state()
    }

    /// The mapping is about to be made, with reservations for all its pages, or for none. To be called before: others throw
    /// pages away as soon as they are there.
    pub(crate) fn reserve(&self, reserved: bool) {
        self.region.reserved.store(if reserved { u64::MAX } else { 0 }, SeqCst);
    }

    pub(crate) fn set(&self, state: State) {
        self.region.base.store(state.base, SeqCst);
        self.region.flags.store(state.pack(), SeqCst);
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.region.version.fetch_add(1, SeqCst);
    }
}

/// The file behind a mapping, unless it is anonymous.
pub(crate) fn file_of(world: &World, region: usize) -> Option<&File> {
    match region {
        SHARED | ALIAS => Some(&world.files[BIG]),
        ON_MOUNT => Some(&world.files[MOUNTED]),
        COPY => Some(&world.files[SMALL]),
        _ => None,
    }
}

/// Where page `page` of a mapping lies behind its start.
pub(crate) fn offset(world: &World, region: usize, page: usize) -> u64 {
    file_of(world, region).map_or(page as u64, |file| file.offsets[page]) * MIB2
}

pub(crate) fn length(region: usize) -> u64 {
    match region {
        SHARED | ALIAS => GIB,
        ON_MOUNT => 2 * GIB,
        _ => PAGES as u64 * MIB2,
    }
}

/// The place where the mapping is not.
pub(crate) fn other_place(region: usize, base: u64) -> u64 {
    let [one, other] = PLACES[region];
    if base == one { other } else { one }
}

impl Process {
    pub(crate) fn new(world: &World) -> Self {
        let regions = core::array::from_fn(|number| {
            let ledger = match number {
                ANONYMOUS => Some(Ledger::new(None)),
                COPY => Some(Ledger::new(Some(world.files[SMALL].ledger.clone()))),
                _ => None,
            };
            Region::new(number, ledger)
        });
        let space = AddressSpace::new(&world.hugetlb).unwrap();
        Self { id: world.fresh_process(), space, ancestors: Vec::new(), regions }
    }

    /// Forks, with the layout held still meanwhile.
    pub(crate) fn fork(&self, world: &World, task: &mut Task<Host>) -> Self {
        let _keep: Vec<_> = self.regions.iter().map(Region::keep).collect();
        let before = |region: &Region| region.ledger.as_ref().map(Ledger::before_fork);
        let before: Vec<_> = self.regions.iter().map(before).collect();
        let space = self.space.fork(task);
        let exited = self.regions.iter().all(|region| !region.state().mapped);
        let space = match space {
            Ok(space) => space,
            Err(hugewalk::mm::MapError::Exited) if exited => AddressSpace::new(&world.hugetlb).unwrap(),
            Err(error) => panic!("fork: {error}"),
        };
        let regions = core::array::from_fn(|number| {
            let parent = &self.regions[number];
            let ledger = parent.ledger.as_ref().zip(before[number].as_ref());
            let region = Region::new(number, ledger.map(|(ledger, before)| ledger.child(before)));
            // The child's reservations stay with the parent.
            region.change().set(State { owner: false, ..parent.state() });
            region
        });
        let mut ancestors = self.ancestors.clone();
        ancestors.push(self.id);
        Self { id: world.fresh_process(), space, ancestors, regions }
    }

    /// Exits, whoever runs it.
    pub(crate) fn exit(&self, task: &mut Task<Host>) {
        let changing: Vec<_> = self.regions.iter().map(Region::change).collect();
        self.space.exit(task).unwrap();
        for change in &changing {
            change.set(State { mapped: false, ..change.state() });
        }
    }
}

pub(crate) fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

/// The end of a zap of a private mapping, if there was one.
pub(crate) fn end_zap(zap: Option<Zap<'_>>, how: Zapped) {
    if let Some(zap) = zap {
        zap.end(how);
    }
}

/// Processes that a list holds, by reference.
pub(crate) type Processes = Vec<Arc<Process>>;
