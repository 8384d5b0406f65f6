//! The engine's side of a program: the same steps on a platform in user space.

mod look;
mod outcome;
mod policy;
mod scan;
mod segment;
mod userfault;

use std::array;
use std::collections::BTreeSet;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::error::OutOfMemory;
use hugewalk::file::HugeFile;
use hugewalk::gup::TransferError;
use hugewalk::mm::{self, AddressSpace, Backing, MapRequest, Placement, RemapTo};
use hugewalk::reserve::SubPool;
use hugewalk::sync::Arc;
use hugewalk::uffd::Userfault;
use hugewalk::vma::Protection;
use hugewalk::{Hugetlb, Task};
use hugewalk_host::{Cpu, Host, HostConfig, HostError, TaskError, Tracing};

use self::outcome::{of_fault, of_file, of_map, of_mount};
use crate::observe::Outcome;
use crate::program::{
    Advice, Bytes, Call, FILES, FileKind, HANDLERS, MOUNTS, Map, MapFlags, PAGE, PROCESSES, Rights, Step, To,
};

const SIZE: HugeSize = X86_64::SIZE_2M;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The host refuses.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No memory for the engine itself.
    #[error("not enough memory for the engine: {0}")]
    Memory(#[from] OutOfMemory),
    /// The thread got no task.
    #[error("the engine cannot be used here: {0}")]
    Task(#[from] TaskError),
}

/// A process: its address space, and a processor that runs it.
pub(crate) struct Process {
    pub(crate) space: Arc<AddressSpace<Host>>,
    cpu: Cpu,
    /// The handlers of its own faults.
    pub(crate) handlers: [Option<Userfault<Host>>; HANDLERS],
}

impl Process {
    /// Counts the faults of accesses as the kernel does: one that could not be resolved is none.
    fn counted(&mut self, access: impl FnOnce(&mut Cpu) -> (Outcome, bool)) -> (Outcome, Option<u64>) {
        let before = self.cpu.stats().faults;
        let (outcome, resolved) = access(&mut self.cpu);
        let faults = self.cpu.stats().faults - before;
        (outcome, Some(faults - u64::from(!resolved)))
    }
}

/// A file and the mount it lies on.
pub(crate) struct File {
    pub(crate) file: Arc<HugeFile<Host>>,
    pub(crate) segment: bool,
}

/// The engine, with what a program made on it so far.
pub struct Engine {
    pub(crate) processes: [Option<Process>; PROCESSES],
    /// The address spaces of those that have exited: who has kept hold of one is told so.
    gone: [Option<Arc<AddressSpace<Host>>>; PROCESSES],
    pub(crate) files: [Option<File>; FILES],
    /// The files that are or were segments, for some may still be attached.
    segments: BTreeSet<u64>,
    pub(crate) mounts: [Option<Arc<SubPool<Host>>>; MOUNTS],
    pub(crate) task: Task<Host>,
    pub(crate) hugetlb: Arc<Hugetlb<Host>>,
}

impl Engine {
    /// An engine with an empty pool that can have as many huge pages as a program can ask for.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub fn new() -> Result<Self, EngineError> {
        let config = HostConfig::new().huge_bytes(8 << 30).max_tables(1 << 16).tracing(Tracing::Count);
        let hugetlb = Hugetlb::new(Host::new(&config)?)?;
        Ok(Self {
            processes: array::from_fn(|_| None),
            gone: array::from_fn(|_| None),
            files: array::from_fn(|_| None),
            segments: BTreeSet::new(),
            mounts: array::from_fn(|_| None),
            task: hugewalk_host::task(&hugetlb)?,
            hugetlb,
        })
    }

    /// Starts a program: process 0 is there.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub fn begin(&mut self) -> Result<(), EngineError> {
        self.gone = array::from_fn(|_| None);
        self.segments.clear();
        let space = AddressSpace::new(&self.hugetlb)?;
        self.processes[0] =
            Some(Process { cpu: Cpu::new(&space)?, space, handlers: [const { None }; HANDLERS] });
        Ok(())
    }

    /// How often a table was taken up from another process, and how often one was given up, since the engine was made.
    #[must_use]
    pub fn sharing(&self) -> (u64, u64) {
        let counts = self.hugetlb.platform().event_counts();
        (counts.shared, counts.unshared)
    }

    /// Tables that are in use: none once a program is over, for those that were freed have had their grace period.
    #[must_use]
    pub fn tables(&mut self) -> u64 {
        self.task.rcu_barrier();
        self.hugetlb.platform().usage().tables
    }

    /// Carries a step out. What it came to, and the faults of an access. A step that names what is not there does
    /// nothing.
    pub fn step(&mut self, step: &Step) -> (Outcome, Option<u64>) {
        let outcome = match *step {
            Step::In { process, ref call } => return self.call(process, call),
            Step::Pool { pages } => Outcome::Number(self.hugetlb.resize_pool(SIZE, pages)),
            Step::Overcommit { pages } => {
                self.hugetlb.pool(SIZE).set_overcommit(pages);
                Outcome::Done
            }
            Step::Mount { mount, size, min } => match SubPool::new(&self.hugetlb, SIZE, size, min) {
                Ok(made) => {
                    self.mounts[mount] = Some(made);
                    Outcome::Done
                }
                Err(error) => of_mount(&error),
            },
            Step::Unmount { mount } => {
                self.mounts[mount] = None;
                Outcome::Done
            }
            Step::Open { file, kind: FileKind::Segment { length, reserve } } => {
                self.make_segment(file, length, reserve)
            }
            Step::Open { file, kind } => {
                let mount = match kind {
                    FileKind::Memory | FileKind::Segment { .. } => None,
                    FileKind::On { mount } => self.mounts[mount].as_ref(),
                };
                match HugeFile::new(&self.hugetlb, SIZE, mount) {
                    Ok(made) => {
                        self.files[file] = Some(File { file: made, segment: false });
                        Outcome::Done
                    }
                    Err(error) => of_map(&error.into()),
                }
            }
            Step::Close { file } => {
                self.files[file] = None;
                Outcome::Done
            }
            Step::Truncate { file, size } => {
                self.on_file(file, |file, task| done(file.truncate(task, size.0), of_file))
            }
            Step::Allocate { file, from, length, keep } => {
                self.on_file(file, |file, task| done(file.allocate(task, from.0, length.0, keep), of_file))
            }
            Step::Punch { file, from, length } => {
                self.on_file(file, |file, task| done(file.punch_hole(task, from.0, length.0), of_file))
            }
            Step::Write { file, at, value } => {
                self.on_file(file, |file, task| done(file.write_at(task, at.0, &[value]), of_file))
            }
            // The call's mistake, before the file hears of it.
            Step::Read { from, .. } if i64::try_from(from.0).is_err() => Outcome::Error("EINVAL"),
            Step::Read { file, from, length } => self.on_file(file, |file, _| {
                let mut bytes = vec![0; length as usize];
                match file.read_at(from.0, &mut bytes) {
                    Ok(count) => bytes.truncate(count),
                    Err(error) => return of_file(&error),
                }
                Outcome::Bytes(bytes)
            }),
        };
        (outcome, None)
    }

    fn on_file(
        &mut self,
        file: usize,
        work: impl FnOnce(&HugeFile<Host>, &mut Task<Host>) -> Outcome,
    ) -> Outcome {
        self.files[file].as_ref().map_or(Outcome::Done, |file| work(&file.file, &mut self.task))
    }

    fn call(&mut self, number: usize, call: &Call) -> (Outcome, Option<u64>) {
        let Some(process) = self.processes[number].as_mut() else {
            return (Outcome::Done, None);
        };
        let (space, task) = (&process.space, &mut self.task);
        let at_address = |at: Bytes| VirtAddr::new(at.address());
        let outcome = match *call {
            Call::Map(ref map) => self.map(number, map),
            Call::Attach { file, at, replace } => self.attach(number, file, at, replace),
            Call::Detach { at } => self.detach(number, at),
            Call::Unmap { at, length } => done(space.munmap(task, at_address(at), length.0), of_map),
            Call::Protect { at, length, rights } => {
                done(space.mprotect(task, at_address(at), length.0, protection(rights)), of_map)
            }
            Call::Remap { at, length, kept, to } => {
                let to = match to {
                    To::InPlace => RemapTo::InPlace,
                    To::Anywhere => RemapTo::Anywhere,
                    To::Fixed(to) => RemapTo::Fixed(at_address(to)),
                };
                let moved = space.mremap(task, at_address(at), length.0, kept.0, to);
                done(moved.map(|_| ()), of_map)
            }
            Call::Advise { at, length, advice } => {
                let advice = match advice {
                    Advice::DontNeed => mm::Advice::DontNeed,
                    Advice::Remove => mm::Advice::Remove,
                    Advice::PopulateRead => mm::Advice::PopulateRead,
                    Advice::PopulateWrite => mm::Advice::PopulateWrite,
                    Advice::DontDump => mm::Advice::DontDump,
                    Advice::DoDump => mm::Advice::DoDump,
                    Advice::DontFork => mm::Advice::DontFork,
                    Advice::DoFork => mm::Advice::DoFork,
                    Advice::Normal => mm::Advice::Normal,
                    Advice::Random => mm::Advice::Random,
                    Advice::Sequential => mm::Advice::Sequential,
                    Advice::WillNeed => mm::Advice::WillNeed,
                    Advice::Cold => mm::Advice::Cold,
                    Advice::PageOut => mm::Advice::PageOut,
                    Advice::Free => mm::Advice::Free,
                    Advice::WipeOnFork => mm::Advice::WipeOnFork,
                    Advice::KeepOnFork => mm::Advice::KeepOnFork,
                };
                done(space.madvise(task, at_address(at), length.0, advice), of_map)
            }
            Call::Fork { child } => match space.fork(task) {
                Ok(space) => match Cpu::new(&space) {
                    Ok(cpu) => {
                        self.processes[child] =
                            Some(Process { cpu, space, handlers: [const { None }; HANDLERS] });
                        Outcome::Done
                    }
                    Err(error) => of_map(&error.into()),
                },
                Err(error) => of_map(&error),
            },
            Call::Exit => {
                space.exit(task).expect("its own task");
                self.gone[number] = self.processes[number].take().map(|process| process.space);
                Outcome::Done
            }
            // Linux looks for the process only if there is something to transfer.
            Call::Peek { length: 0, .. } => Outcome::Bytes(Vec::new()),
            Call::Poke { length: 0, .. } => Outcome::Number(0),
            Call::Peek { of, at, length } => {
                let mut bytes = vec![0; length as usize];
                self.transfer(of, |space, task| {
                    let count = space.read_bytes(task, at_address(at), &mut bytes)?;
                    bytes.truncate(count);
                    Ok(Outcome::Bytes(bytes))
                })
            }
            Call::Poke { of, at, length, value } => {
                let bytes = vec![value; length as usize];
                self.transfer(of, |space, task| {
                    let count = space.write_bytes(task, at_address(at), &bytes)?;
                    Ok(Outcome::Number(count as u64))
                })
            }
            Call::Mincore { at, length } => self.mincore(number, at, length),
            Call::Nodes { at, length, .. } => self.nodes(number, at, length),
            Call::Scan { .. } => scan::scan(space, call, task),
            Call::Lock { at, length, .. } => done(space.mlock(task, at_address(at), length.0), of_map),
            Call::Unlock { at, length } => done(space.munlock(task, at_address(at), length.0), of_map),
            Call::LockNew { on_fault } => {
                let mut what = mm::LockAll::FUTURE;
                what.set(mm::LockAll::ONFAULT, on_fault);
                done(space.mlockall(task, what), of_map)
            }
            Call::UnlockAll => done(space.munlockall(task), of_map),
            Call::Bind { at, length, policy } => {
                done(space.mbind(task, at_address(at), length.0, policy::of_program(policy)), of_map)
            }
            Call::Userfault { handler, ref handling } => userfault::handle(process, handler, handling, task),
            Call::Load { at } => {
                return process.counted(|cpu| match cpu.load(task, at_address(at)) {
                    Ok(byte) => (Outcome::Number(u64::from(byte)), true),
                    Err(error) => (of_fault(&error, at, 0), false),
                });
            }
            Call::Store { at, value } => {
                return process.counted(|cpu| match cpu.store(task, at_address(at), value) {
                    Ok(()) => (Outcome::Done, true),
                    Err(error) => (of_fault(&error, at, 0), false),
                });
            }
            Call::Sweep { at, length } => {
                return process.counted(|cpu| {
                    let mut done = 0;
                    while done * PAGE < length.0 {
                        let at = Bytes(at.0 + done * PAGE);
                        if let Err(error) = cpu.load(task, at_address(at)) {
                            return (of_fault(&error, at, done), false);
                        }
                        done += 1;
                    }
                    (Outcome::Number(done), true)
                });
            }
        };
        (outcome, None)
    }

    /// Reaches into the memory of a process, whoever asks.
    fn transfer(
        &mut self,
        of: usize,
        work: impl FnOnce(&AddressSpace<Host>, &mut Task<Host>) -> Result<Outcome, TransferError>,
    ) -> Outcome {
        let living = self.processes[of].as_ref().map(|process| &process.space);
        match living.or(self.gone[of].as_ref()) {
            Some(space) => {
                let done = work(space, &mut self.task);
                done.unwrap_or_else(|error| Outcome::Error(error.errno().name()))
            }
            None => Outcome::Error(TransferError::Exited.errno().name()),
        }
    }

    fn map(&mut self, number: usize, map: &Map) -> Outcome {
        let Some(process) = &self.processes[number] else { return Outcome::Done };
        let backing = match map.file {
            Some((file, offset)) => match &self.files[file] {
                Some(file) => Backing::File { file: &file.file, offset: offset.0 },
                None => return Outcome::Done,
            },
            None => Backing::Anonymous(SIZE),
        };
        let at = VirtAddr::new(map.at.address());
        let placement = if map.flags.contains(MapFlags::NO_REPLACE) {
            Placement::FixedNoReplace(at)
        } else if map.flags.contains(MapFlags::FIXED) {
            Placement::Fixed(at)
        } else {
            Placement::Hint(at)
        };
        let mut flags = mm::MapFlags::empty();
        for (flag, engine) in [
            (MapFlags::SHARED, mm::MapFlags::SHARED),
            (MapFlags::NO_RESERVE, mm::MapFlags::NORESERVE),
            (MapFlags::POPULATE, mm::MapFlags::POPULATE),
            (MapFlags::LOCKED, mm::MapFlags::LOCKED),
        ] {
            flags.set(engine, map.flags.contains(flag));
        }
        let length = map.length.0;
        let request = MapRequest { placement, length, protection: protection(map.rights), flags, backing };
        match process.space.mmap(&mut self.task, &request) {
            Ok(got) if got.as_u64() == map.at.as_hint() => Outcome::Done,
            Ok(got) => {
                let away = process.space.munmap(&mut self.task, got, length.next_multiple_of(PAGE));
                away.map_or_else(|error| of_map(&error), |()| Outcome::Elsewhere)
            }
            Err(error) => of_map(&error),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().filter_map(Option::take) {
            process.space.exit(&mut self.task).expect("its own task");
        }
    }
}

fn done<E>(result: Result<(), E>, refused: fn(&E) -> Outcome) -> Outcome {
    result.map_or_else(|error| refused(&error), |()| Outcome::Done)
}

fn protection(rights: Rights) -> Protection {
    let mut protection = Protection::empty();
    protection.set(Protection::READ, rights.contains(Rights::READ));
    protection.set(Protection::WRITE, rights.contains(Rights::WRITE));
    protection.set(Protection::EXECUTE, rights.contains(Rights::EXECUTE));
    protection
}
