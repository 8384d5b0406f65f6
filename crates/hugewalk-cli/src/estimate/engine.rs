//! The engine at work on a program that was made up: one process maps memory and forks the others, and each touches its pages.

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{PMD_SIZE, X86_64};
use hugewalk::error::OutOfMemory;
use hugewalk::fault::{Access, FaultError};
use hugewalk::mm::{Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::platform::Event;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig, HostError, TaskError, Tracing};
use serde::Serialize;

use crate::gigabyte::{GIB, whole_ranges};
use crate::replay::Counting;
use crate::replay::plan::Space;
use crate::report::Unshare;

/// Where the mapping begins, but for its place in the gigabyte.
const START: u64 = 1 << 40;

/// What is mapped, and what is touched of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) bytes: u64,
    pub(super) size: HugeSize,
    /// How far behind a 1 GiB boundary it begins.
    pub(super) begins: u64,
    /// What each process touches of the pages, in per cent: the same ones, evenly spread.
    pub(super) touched: f64,
}

/// What the engine counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counted {
    /// Tables that hold huge-page entries, when all processes are there.
    pub(super) tables: u64,
    /// How often they are used: as many as there would be if none were shared.
    pub(super) uses: u64,
    /// Faults that were taken; to take up a shared table is one.
    pub(super) faults: u64,
    /// Pages that processes reach: as many faults as there would be if no table were shared.
    pub(super) reached: u64,
    /// Faults of the process that came last.
    pub(super) faults_of_one: u64,
    /// Pages that it reaches.
    pub(super) reached_by_one: u64,
    /// Its tables that nobody else uses, and all that it uses.
    pub(super) tables_of_one: u64,
    pub(super) uses_of_one: u64,
    /// TLB flushes of its fork.
    pub(super) flushes_of_fork: u64,
    /// Tables unshared by its fork.
    pub(super) unshared_by_fork: u64,
    /// What its exit gives up while all others are there; and what the exit does that leaves one process.
    pub(super) exit: Gives,
    pub(super) last_exit: Gives,
}

/// What an exit gives up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Gives {
    pub(super) tables: u64,
    /// Of these, left with one user.
    pub(super) last_sharers: u64,
    pub(super) flushes: u64,
    /// Of these, for a table left with one user.
    pub(super) last_flushes: u64,
}

/// Why the engine could not do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The host refuses.
    #[error("the engine cannot be set up: {0}; give a smaller --shared")]
    Host(#[from] HostError),
    /// There is no memory for the engine.
    #[error("the engine ran out of memory: {0}; give fewer --processes")]
    Memory(#[from] OutOfMemory),
    /// The thread got no task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A mapping could not be made.
    #[error("the engine cannot map as much: {0}; give a smaller --shared")]
    Map(#[from] MapError),
    /// A page could not be touched.
    #[error("the engine cannot reach a page: {0}; give a smaller --shared")]
    Fault(#[from] FaultError),
}

impl Program {
    fn start(&self) -> u64 {
        START + self.begins
    }

    fn pages(&self) -> u64 {
        self.bytes.div_ceil(self.size.bytes())
    }

    /// Aligned 1 GiB ranges that it covers whole, if their tables can be shared.
    pub(super) fn whole(&self) -> u64 {
        if self.size == X86_64::SIZE_2M { self.whole_ranges().count() as u64 } else { 0 }
    }

    fn whole_ranges(&self) -> std::ops::Range<u64> {
        whole_ranges(&(self.start()..self.start() + self.bytes))
    }

    /// The same with fewer whole ranges: what lies at its edges stays.
    pub(super) fn with_whole(self, whole: u64) -> Self {
        Self { bytes: self.bytes - (self.whole() - whole) * GIB, ..self }
    }

    /// Pages at its edges, which no two processes have in one table.
    fn at_edges(&self) -> u64 {
        self.pages() - self.whole() * (GIB / PMD_SIZE)
    }

    /// Touches of so many processes.
    pub(super) fn work(&self, processes: u64) -> u64 {
        self.pages() + processes.saturating_mul(self.at_edges() + 2 * self.whole())
    }

    /// Is the page of this number touched?
    fn touches(&self, page: u64) -> bool {
        let before = |pages: u64| (pages as f64 * self.touched / 100.0).ceil();
        before(page + 1) > before(page) || page == 0
    }

    /// The pages whose touch is a fault in a process that comes after others have touched theirs: all at the edges; where the
    /// table is shared, the first one, which takes the table up.
    fn touched_by_a_child(&self) -> Vec<u64> {
        let whole = self.whole_ranges();
        let shares = self.size == X86_64::SIZE_2M;
        let mut taken_up = None;
        let is_fault = |page: &u64| {
            let range = (self.start() + page * self.size.bytes()) / GIB;
            if !self.touches(*page) {
                return false;
            }
            if !shares || !whole.contains(&range) {
                return true;
            }
            taken_up.replace(range) != Some(range)
        };
        (0..self.pages()).filter(is_fault).collect()
    }

    /// Runs so many processes.
    pub(super) fn run(&self, processes: u64) -> Result<Counted, EngineError> {
        let pool = self.pages();
        let tables = (self.whole() + 4 + pool / (1 << 18))
            .saturating_add(processes.saturating_mul(self.whole() / 512 + 16));
        let config = HostConfig::new()
            .huge_bytes((pool * self.size.bytes()).next_multiple_of(GIB))
            .max_tables(tables.saturating_mul(2).max(1 << 16))
            .contents(Contents::Nothing)
            .tracing(Tracing::Record);
        let hugetlb = Hugetlb::new(Host::new(&config)?)?;
        if hugetlb.resize_pool(self.size, pool) != pool {
            return Err(EngineError::Memory(OutOfMemory));
        }
        let mut task = hugewalk_host::task(&hugetlb)?;
        let parent = AddressSpace::new(&hugetlb)?;
        let request = MapRequest {
            placement: Placement::Fixed(VirtAddr::new(self.start())),
            length: pool * self.size.bytes(),
            protection: Protection::READ | Protection::WRITE,
            flags: MapFlags::SHARED,
            backing: Backing::Anonymous(self.size),
        };
        parent.mmap(&mut task, &request)?;
        for page in (0..pool).filter(|page| self.touches(*page)) {
            self.touch(&parent, &mut task, page)?;
        }
        let pages = self.touched_by_a_child();
        let by_parent = (0..pool).filter(|page| self.touches(*page)).count() as u64;
        let by_child = pages.len() as u64;
        let mut counted = Counted {
            faults: by_parent + (processes - 1) * by_child,
            faults_of_one: if processes > 1 { by_child } else { by_parent },
            ..Counted::default()
        };
        let mut spaces = vec![parent];
        for _ in 1..processes {
            let _ = hugetlb.platform().take_events();
            let child = spaces[0].fork(&mut task)?;
            let by_fork = events(&hugetlb);
            for &page in &pages {
                self.touch(&child, &mut task, page)?;
            }
            let flushed = |event: &&Event| matches!(event, Event::Flushed { .. });
            counted.flushes_of_fork = by_fork.iter().filter(flushed).count() as u64;
            counted.unshared_by_fork = gives(&by_fork).tables;
            spaces.push(child);
        }
        counted.all(&spaces, &mut task);
        counted.one(spaces.last(), &mut task);
        let mut exits = Vec::new();
        while spaces.len() > 1 {
            let _ = hugetlb.platform().take_events();
            if let Some(ending) = spaces.pop() {
                ending.exit(&mut task).map_err(MapError::from)?;
            }
            exits.push(gives(&events(&hugetlb)));
        }
        counted.exit = exits.first().copied().unwrap_or_default();
        counted.last_exit = exits.last().copied().unwrap_or_default();
        Ok(counted)
    }

    fn touch(
        &self,
        space: &Arc<AddressSpace<Host>>,
        task: &mut Task<Host>,
        page: u64,
    ) -> Result<(), FaultError> {
        let address = VirtAddr::new(self.start() + page * self.size.bytes());
        space.fault(task, address, Access::Write).map(drop)
    }
}

fn events(hugetlb: &Arc<Hugetlb<Host>>) -> Vec<Event> {
    hugetlb.platform().take_events()
}

fn gives(events: &[Event]) -> Gives {
    let mut counted = Unshare::default();
    counted.count(events);
    let Unshare { tables, last_sharers, flushes, last_flushes, .. } = counted;
    Gives { tables, last_sharers, flushes, last_flushes }
}

impl Counted {
    fn all(&mut self, spaces: &[Arc<AddressSpace<Host>>], task: &mut Task<Host>) {
        let mut counting = Counting::default();
        for space in spaces {
            counting.add(Space(0), space, task, false);
        }
        let tables = counting.finish().tables;
        (self.tables, self.uses) = (tables.tables, tables.uses);
        self.reached = tables.pages_faulted + tables.faults_saved;
    }

    fn one(&mut self, space: Option<&Arc<AddressSpace<Host>>>, task: &mut Task<Host>) {
        let Some(space) = space else { return };
        let mut counting = Counting::default();
        counting.add(Space(0), space, task, true);
        let snapshot = counting.finish();
        self.reached_by_one = snapshot.tables.pages_faulted + snapshot.tables.faults_saved;
        self.uses_of_one = snapshot.tables.uses;
        self.tables_of_one = snapshot.uses.iter().filter(|table| table.users == 1).count() as u64;
    }
}
