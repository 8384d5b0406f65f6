//! The engine at work on a plan: its address spaces and files, for each copy of the processes.

use std::collections::HashMap;
use std::sync::mpsc::channel;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::error::OutOfMemory;
use hugewalk::fault::FaultError;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapError, MapFlags, MapRequest, RemapTo};
use hugewalk::platform::Event;
use hugewalk::sync::Arc;
use hugewalk::uffd::Userfault;
use hugewalk::vma::{Policy, Protection};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig, HostError, TaskError, Tracing};

use super::got::Got;
use super::handlers::{Handlers, Performed};
use super::handling::fault_in;
use super::plan::{Act, Change, FileAct, FileId, Map, MappingId, MoveTo, Plan, Space};
use crate::report::text::size as size_text;
use crate::trace::flags::Prot;

const GIB: u64 = 1 << 30;
/// The memory that Linux takes on x86-64 with tables of four levels: 64 TiB, `MAX_PHYSMEM_BITS`.
const MOST: u64 = 1 << 46;

/// The engine, with what a plan made on it so far.
pub struct Machine {
    // Before the system, which waits for what these hand to RCU.
    spaces: Vec<Vec<Option<Arc<AddressSpace<Host>>>>>,
    files: HashMap<FileId, Arc<HugeFile<Host>>>,
    /// 1 GiB ranges of each mapping that the engine would share, as soon as somebody has the same.
    sharable: HashMap<MappingId, u64>,
    copies: u32,
    /// Files to let go of when all copies have got as far.
    forgotten: Vec<FileId>,
    pub(super) handlers: Handlers,
    /// Handlers of forked children, and whose child it is each.
    pub(super) born: Vec<(FileId, Userfault<Host>)>,
    pub(super) task: Task<Host>,
    pub(super) hugetlb: Arc<Hugetlb<Host>>,
}

/// Why the engine could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The host refuses.
    #[error("{0}; ask for fewer pages with --pool, or fewer --clones")]
    Host(#[from] HostError),
    /// More than any machine has; the records of so many pages would take all memory of this one.
    #[error(
        "the mappings need {} of huge pages, and no machine has more than {}; say with --pool how many there were",
        size_text(*bytes),
        size_text(MOST)
    )]
    TooLarge {
        /// Huge pages of all sizes, in bytes.
        bytes: u64,
    },
    /// No memory for the engine itself.
    #[error("not enough memory for the engine: {0}")]
    Memory(#[from] OutOfMemory),
    /// The thread got no task.
    #[error("the engine cannot be used here: {0}")]
    Task(#[from] TaskError),
    /// A pool of that size cannot be had.
    #[error(
        "a pool of {asked} huge pages of {kib} KiB cannot be made, only one of {got}; give fewer with --pool"
    )]
    Pool {
        /// Pages asked for.
        asked: u64,
        /// The size of a page.
        kib: u64,
        /// Pages there are.
        got: u64,
    },
}

/// The pool of one size at the start.
#[derive(Clone, Copy, Debug)]
pub struct PoolSize {
    /// The size of its pages.
    pub size: HugeSize,
    /// How many.
    pub pages: u64,
    /// How many more it may take from the system.
    pub overcommit: u64,
}

impl Machine {
    /// A machine for a plan, with pools of these sizes and pages that have no contents: a recording does not hold any.
    ///
    /// # Errors
    ///
    /// [`MachineError`].
    pub fn new(plan: &Plan, pools: &[PoolSize], copies: u32) -> Result<Self, MachineError> {
        let bytes = |pool: &PoolSize| {
            let pages = pool.pages.saturating_add(pool.overcommit);
            pages.saturating_mul(pool.size.bytes()).checked_next_multiple_of(GIB).unwrap_or(u64::MAX)
        };
        let huge_bytes = pools.iter().map(bytes).fold(0, u64::saturating_add);
        if huge_bytes > MOST {
            return Err(MachineError::TooLarge { bytes: huge_bytes });
        }
        let config = HostConfig::new()
            .huge_bytes(huge_bytes)
            .max_tables(tables(plan, copies))
            .contents(Contents::Nothing)
            .tracing(Tracing::Record);
        let hugetlb = Hugetlb::new(Host::new(&config)?)?;
        // The large pages first: the small ones would take their blocks.
        for pool in pools.iter().rev() {
            hugetlb.pool(pool.size).set_overcommit(pool.overcommit);
            let got = hugetlb.resize_pool(pool.size, pool.pages);
            if got != pool.pages {
                return Err(MachineError::Pool { asked: pool.pages, kib: pool.size.bytes() >> 10, got });
            }
        }
        Ok(Self {
            spaces: (0..copies).map(|_| vec![None; plan.spaces as usize]).collect(),
            files: HashMap::new(),
            sharable: HashMap::new(),
            copies,
            forgotten: Vec::new(),
            handlers: Handlers::default(),
            born: Vec::new(),
            task: hugewalk_host::task(&hugetlb)?,
            hugetlb,
        })
    }

    /// The system.
    #[must_use]
    pub fn hugetlb(&self) -> &Arc<Hugetlb<Host>> {
        &self.hugetlb
    }

    /// How many copies of the processes run.
    #[must_use]
    pub fn copies(&self) -> u32 {
        self.copies
    }

    /// What the engine has reported since it was asked last.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.hugetlb.platform().take_events()
    }

    /// 1 GiB ranges of a mapping that may share, as the engine sees it.
    #[must_use]
    pub fn sharable(&self, mapping: MappingId) -> u64 {
        self.sharable.get(&mapping).copied().unwrap_or_default()
    }

    /// An address space of one copy, if it is there.
    #[must_use]
    pub fn space(&self, copy: u32, space: Space) -> Option<&Arc<AddressSpace<Host>>> {
        self.spaces.get(copy as usize)?.get(space.0 as usize)?.as_ref()
    }

    /// All address spaces of a copy, and the task to look at them with.
    pub fn spaces(&mut self, copy: u32) -> (&[Option<Arc<AddressSpace<Host>>>], &mut Task<Host>) {
        let spaces = self.spaces.get(copy as usize).map(Vec::as_slice).unwrap_or_default();
        (spaces, &mut self.task)
    }

    /// All copies have got to the same place: files that nobody can map any more go away.
    pub fn settle(&mut self) {
        for file in self.forgotten.drain(..) {
            self.files.remove(&file);
        }
    }

    /// Performs one operation for one copy.
    pub fn perform(&mut self, copy: u32, act: &Act) -> Performed {
        self.try_perform(copy, act).unwrap_or_else(|error| Performed::Done(Some(error.into())))
    }

    fn try_perform(&mut self, copy: u32, act: &Act) -> Result<Performed, OutOfMemory> {
        let done = match act {
            Act::Map(map) => Some(self.map(copy, map)?),
            Act::Unmap { space, at } => {
                let (of, at) = ((copy, *space), at.clone());
                let range = at.clone();
                let performed = self.work(of, None, move |space, task| {
                    Some(space.munmap(task, VirtAddr::new(at.start), at.end - at.start).into())
                });
                self.handlers.woken(copy, *space, &range);
                return performed;
            }
            Act::Protect { space, parts, prot } => {
                let (parts, prot) = (parts.clone(), protection(*prot));
                return self.work((copy, *space), None, move |space, task| {
                    Some(each(&parts, |at, length| space.mprotect(task, at, length, prot)))
                });
            }
            Act::Split { space, at } => {
                let at = at.clone();
                return self.work((copy, *space), None, move |space, task| {
                    // Two policies cannot be one mapping, and mappings of huge pages never grow together again.
                    for policy in [Policy::Local, Policy::Default] {
                        let _ = space.mbind(task, VirtAddr::new(at.start), at.end - at.start, policy);
                    }
                    None
                });
            }
            Act::Seal { space, parts } => {
                let parts = parts.clone();
                return self.work((copy, *space), None, move |space, task| {
                    Some(each(&parts, |at, length| space.mseal(task, at, length)))
                });
            }
            Act::Remap { space, address, old_length, new_length, to } => {
                let to = match to {
                    MoveTo::Stay => RemapTo::InPlace,
                    MoveTo::Anywhere => RemapTo::Anywhere,
                    MoveTo::Here(address) => RemapTo::Fixed(VirtAddr::new(*address)),
                };
                let (address, old, new) = (VirtAddr::new(*address), *old_length, *new_length);
                return self.work((copy, *space), None, move |space, task| {
                    Some(space.mremap(task, address, old, new, to).into())
                });
            }
            Act::Advise { space, parts, advice } => {
                let (parts, advice) = (parts.clone(), *advice);
                return self.work((copy, *space), None, move |space, task| {
                    Some(each(&parts, |at, length| space.madvise(task, at, length, advice)))
                });
            }
            Act::Populate { space, parts } => {
                let parts = parts.clone();
                return self.work((copy, *space), None, move |space, task| {
                    for (part, step, access) in &parts {
                        let mut address = part.start;
                        while address < part.end && fault_in(space, task, address, *access).is_ok() {
                            address += step;
                        }
                    }
                    None
                });
            }
            Act::Fork { parent, child, handlers } => return self.fork(copy, (*parent, *child), handlers),
            Act::End { space } => {
                if let Some(ending) = self.space(copy, *space).cloned() {
                    ending.exit(&mut self.task).expect("its own task");
                    self.handlers.woken(copy, *space, &(0..u64::MAX));
                }
                self.put(copy, *space, None);
                None
            }
            Act::Fault { space, address, access } => {
                let (address, access) = (*address, *access);
                if self.space(copy, *space).is_none() {
                    let error = FaultError::NotMapped { address: VirtAddr::new(address) };
                    return Ok(Performed::Done(Some(error.into())));
                }
                return self.work((copy, *space), Some(address), move |space, task| {
                    fault_in(space, task, address, access).err().map(Got::from)
                });
            }
            Act::Transfer { space, write, parts } => return self.transfer(copy, *space, *write, parts),
            Act::Handler(act) => self.handle(copy, act)?,
            // Copies run on the same files: what is done to one is done once.
            Act::File(act) if copy == 0 => self.change(act)?,
            Act::File(_) => None,
        };
        Ok(Performed::Done(done))
    }

    /// An address space, made if it has not held anything before, and the task to work on it with.
    pub(super) fn made(
        &mut self,
        copy: u32,
        space: Space,
    ) -> Result<(Arc<AddressSpace<Host>>, &mut Task<Host>), OutOfMemory> {
        if self.space(copy, space).is_none() {
            self.put(copy, space, Some(AddressSpace::new(&self.hugetlb)?));
        }
        let made = self.space(copy, space).ok_or(OutOfMemory)?.clone();
        Ok((made, &mut self.task))
    }

    pub(super) fn put(&mut self, copy: u32, space: Space, value: Option<Arc<AddressSpace<Host>>>) {
        if let Some(place) = self.spaces.get_mut(copy as usize).and_then(|all| all.get_mut(space.0 as usize))
        {
            *place = value;
        }
    }

    fn map(&mut self, copy: u32, map: &Map) -> Result<Got, OutOfMemory> {
        let size = page_size(map.shift);
        let shared = map.flags.contains(MapFlags::SHARED);
        let file = if !map.anonymous {
            Some(self.file(map.file, map.shift)?)
        } else if shared && self.copies > 1 {
            // Anonymous memory of the first copy is that of all.
            let file = self.file(map.file, map.shift)?;
            let _ = file.truncate(&mut self.task, size.round_up(map.length).unwrap_or(map.length));
            self.forgotten.push(map.file);
            Some(file)
        } else {
            None
        };
        let in_vain = map.mapping.is_none();
        let traces = if in_vain { self.before_in_vain(map) } else { None };
        let (placement, length, prot, mut flags) = (map.place, map.length, protection(map.prot), map.flags);
        // That comes when the mapping is there, and decides nothing.
        flags.set(MapFlags::POPULATE, !in_vain && flags.contains(MapFlags::POPULATE));
        flags.set(MapFlags::LOCKED, !in_vain && flags.contains(MapFlags::LOCKED));
        let offset = map.offset;
        let (give, take) = channel();
        // What it replaces may have a handler who wants to know. It faults nothing in that has one.
        self.work((copy, map.space), None, move |space, task| {
            let backing = match &file {
                Some(file) => Backing::File { file, offset },
                None => Backing::Anonymous(size),
            };
            let request = MapRequest { placement, length, protection: prot, flags, backing };
            // The one who takes it waits for this to end.
            let _ = give.send(space.mmap(task, &request));
            None
        })?;
        let result = take.try_recv().map_err(|_| OutOfMemory)?;
        let (space, task) = self.made(copy, map.space)?;
        match (result, map.mapping) {
            (Ok(start), Some(mapping)) if copy == 0 => {
                let sharable = sharable_ranges(&space, task, start, map.length);
                self.sharable.insert(mapping, sharable);
            }
            // It failed when it was recorded, and left nothing behind.
            (Ok(start), None) => {
                let _ = space.munmap(task, start, size.round_up(map.length).unwrap_or(map.length));
                traces.into_iter().for_each(|traces| self.undo(traces));
            }
            _ => {}
        }
        Ok(result.into())
    }

    pub(super) fn file(&mut self, id: FileId, shift: u32) -> Result<Arc<HugeFile<Host>>, OutOfMemory> {
        if let Some(file) = self.files.get(&id) {
            return Ok(file.clone());
        }
        // Of no mount, so there is nothing else that it can fail of.
        let file = HugeFile::new(&self.hugetlb, page_size(shift), None).map_err(|_| OutOfMemory)?;
        self.files.insert(id, file.clone());
        Ok(file)
    }

    fn change(&mut self, act: &FileAct) -> Result<Option<Got>, OutOfMemory> {
        let file = self.file(act.file, act.shift)?;
        Ok(Some(match act.change {
            Change::Truncate { length } => file.truncate(&mut self.task, length).into(),
            Change::Allocate { offset, length, keep_size } => {
                file.allocate(&mut self.task, offset, length, keep_size).into()
            }
            Change::PunchHole { offset, length } => file.punch_hole(&mut self.task, offset, length).into(),
            Change::Segment { length, reserved } => self.segment(&file, length, reserved),
            Change::Forget => {
                self.forgotten.push(act.file);
                return Ok(None);
            }
        }))
    }

    /// A segment reserves its pages when it is made.
    fn segment(&mut self, file: &Arc<HugeFile<Host>>, length: u64, reserved: bool) -> Got {
        if let Err(error) = file.truncate(&mut self.task, length) {
            return Err::<(), _>(error).into();
        }
        if !reserved {
            return Got::Value(0);
        }
        file.reserve(&mut self.task, 0, length).into()
    }
}

/// How many page tables there can be at most: address space is reserved for them, not memory.
fn tables(plan: &Plan, copies: u32) -> u64 {
    const FEWEST: u64 = 1 << 16;
    const MOST: u64 = 1 << 26;
    let of_mapping = |made: &super::plan::Made| {
        let gigabytes = (made.range.end - made.range.start).div_ceil(GIB) + 1;
        (gigabytes + 3 + gigabytes / 512).saturating_mul(made.processes)
    };
    let most = plan.mappings.iter().map(of_mapping).fold(u64::from(plan.spaces), u64::saturating_add);
    most.saturating_mul(2).saturating_mul(copies.into()).clamp(FEWEST, MOST)
}

pub(super) fn page_size(shift: u32) -> HugeSize {
    if shift == 30 { X86_64::SIZE_1G } else { X86_64::SIZE_2M }
}

fn protection(prot: Prot) -> Protection {
    Protection::from_bits_truncate(u8::try_from(prot.bits() & 7).unwrap_or_default())
}

/// One call for each part, until one fails.
fn each(parts: &[std::ops::Range<u64>], mut call: impl FnMut(VirtAddr, u64) -> Result<(), MapError>) -> Got {
    parts.iter().try_for_each(|part| call(VirtAddr::new(part.start), part.end - part.start)).into()
}

fn sharable_ranges(
    space: &Arc<AddressSpace<Host>>,
    task: &mut Task<Host>,
    start: VirtAddr,
    length: u64,
) -> u64 {
    let mmap = space.mmap_read(task);
    let Some(vma) = mmap.find(start) else { return 0 };
    let gigabytes = start.as_u64().div_ceil(GIB)..start.as_u64().saturating_add(length) / GIB;
    gigabytes.filter(|gigabyte| vma.may_share_at(VirtAddr::new(gigabyte * GIB))).count() as u64
}
