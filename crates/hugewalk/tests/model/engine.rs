//! The engine's side of a program.

use std::fmt::Debug;

use super::format::Format;
use hugewalk::error::Errno;
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::FileError;
use hugewalk::mm::{Backing, MapError, MapRequest};
use hugewalk::reserve::{NoPage, SubPool, SubPoolError};
use hugewalk::sync::Arc;

use super::state::{FILES, MOUNTS, PROCESSES};
use super::{Call, Map, Outcome, Refused, What, Why};
use crate::common::inject::{exempt, inside};
use crate::common::{AddressSpace, Bench, File, Hugetlb, PAYER, Task, at, cpu, task};

pub(crate) struct Engine {
    pub(crate) processes: [Option<Arc<AddressSpace>>; PROCESSES],
    pub(crate) files: [Option<Arc<File>>; FILES],
    pub(crate) mounts: [Option<Arc<SubPool<Bench>>>; MOUNTS],
    pub(crate) task: Task,
    pub(crate) hugetlb: Arc<Hugetlb>,
    format: Format,
    /// Has a table been shared so far?
    pub(super) has_shared: bool,
}

impl Engine {
    pub(crate) fn new(format: Format) -> Self {
        let hugetlb = Hugetlb::new(Bench::with_paging(format.paging)).unwrap();
        Self {
            processes: Default::default(),
            files: Default::default(),
            mounts: Default::default(),
            task: task(&hugetlb),
            hugetlb,
            format,
            has_shared: false,
        }
    }

    /// Carries a call out. The group of its process pays.
    pub(crate) fn apply(&mut self, call: &Call) -> Outcome {
        let call = call.clone();
        PAYER.set(Some(call.payer()));
        let outcome = inside(|| self.carry_out(&call));
        PAYER.set(None);
        outcome
    }

    fn carry_out(&mut self, call: &Call) -> Outcome {
        match *call {
            Call::NewMount { slot, max, min } => {
                let mount = SubPool::new(&self.hugetlb, self.format.small, max, min);
                done(mount.map(|mount| self.mounts[slot] = Some(mount)), of_mount)
            }
            Call::CloseMount { slot } => {
                self.mounts[slot] = None;
                Outcome::Done
            }
            Call::NewFile { slot, size, mount } => {
                let mount = mount.and_then(|slot| self.mounts[slot].as_ref());
                made(&mut self.files[slot], File::new(&self.hugetlb, size, mount))
            }
            Call::Close { slot } => {
                self.files[slot] = None;
                Outcome::Done
            }
            Call::NewProcess { process } => {
                made(&mut self.processes[process], AddressSpace::new(&self.hugetlb))
            }
            Call::Fork { from, to } => {
                let child = self.process(from).fork(&mut self.task);
                made(&mut self.processes[to], child)
            }
            Call::Exit { process } => {
                self.process(process).exit(&mut self.task).unwrap();
                self.processes[process] = None;
                Outcome::Done
            }
            Call::Map { process, ref map } => self.map(process, map),
            Call::Unmap { process, address, length } => {
                done(self.process(process).munmap(&mut self.task, at(address), length), of_map)
            }
            Call::Protect { process, address, length, rights } => {
                done(self.process(process).mprotect(&mut self.task, at(address), length, rights), of_map)
            }
            Call::Remap { process, old, old_length, new_length, to } => {
                let moved = self.process(process).mremap(&mut self.task, at(old), old_length, new_length, to);
                number(moved.map(|address| address.as_u64()), of_map)
            }
            Call::Advise { process, address, length, advice } => {
                done(self.process(process).madvise(&mut self.task, at(address), length, advice), of_map)
            }
            Call::Load { process, address, access } => self.load(process, address, access),
            Call::Store { process, address, value } => {
                let space = self.process(process);
                done(cpu::store(&space, &mut self.task, at(address), value), of_fault)
            }
            Call::Truncate { slot, size } => done(self.file(slot).truncate(&mut self.task, size), of_file),
            Call::Allocate { slot, offset, length, keep_size } => {
                done(self.file(slot).allocate(&mut self.task, offset, length, keep_size), of_file)
            }
            Call::Punch { slot, offset, length } => {
                done(self.file(slot).punch_hole(&mut self.task, offset, length), of_file)
            }
            Call::Read { slot, offset, length } => {
                let mut bytes = exempt(|| vec![0x77; length]);
                let count = self.file(slot).read_at(offset, &mut bytes).unwrap();
                bytes.truncate(count);
                Outcome::Bytes(bytes)
            }
            Call::Write { slot, offset, ref bytes } => {
                done(self.file(slot).write_at(&mut self.task, offset, bytes), of_file)
            }
            Call::Resize { size, pages } => Outcome::Number(self.hugetlb.resize_pool(size, pages)),
            Call::Overcommit { size, pages } => {
                self.hugetlb.pool(size).set_overcommit(pages);
                Outcome::Done
            }
        }
    }

    pub(crate) fn process(&self, process: usize) -> Arc<AddressSpace> {
        self.processes[process].clone().expect("calls name processes that live")
    }

    pub(crate) fn file(&self, slot: usize) -> Arc<File> {
        self.files[slot].clone().expect("calls name files that are open")
    }

    fn map(&mut self, process: usize, map: &Map) -> Outcome {
        let file;
        let backing = match map.what {
            What::File { slot, offset } => {
                file = self.file(slot);
                Backing::File { file: &file, offset }
            }
            What::Anonymous(size) => Backing::Anonymous(size),
        };
        let request = MapRequest {
            placement: map.placement,
            length: map.length,
            protection: map.rights,
            flags: map.flags,
            backing,
        };
        let mapped = self.process(process).mmap(&mut self.task, &request);
        number(mapped.map(|address| address.as_u64()), of_map)
    }

    fn load(&mut self, process: usize, address: u64, access: Access) -> Outcome {
        let (space, mut faults) = (self.process(process), Vec::new());
        let place = cpu::translate(&space, &mut self.task, at(address), access, &mut faults);
        let byte = place.map(|(frame, offset)| u64::from(self.hugetlb.platform().byte(frame, offset)));
        number(byte, of_fault)
    }
}

/// What is made without arguments that could be wrong fails for want of memory alone.
fn made<T, E: Into<MapError>>(place: &mut Option<Arc<T>>, made: Result<Arc<T>, E>) -> Outcome {
    done(made.map(|made| *place = Some(made)).map_err(Into::into), of_map)
}

fn done<E>(result: Result<(), E>, refused: fn(&E) -> Refused) -> Outcome {
    result.map_err(|error| refused(&error)).into()
}

fn number<E>(result: Result<u64, E>, refused: fn(&E) -> Refused) -> Outcome {
    result.map_err(|error| refused(&error)).into()
}

fn refused(errno: Errno, why: Why, error: &impl Debug) -> Refused {
    assert!(why != Why::Other, "not expected here: {error:?}");
    Refused(errno.name(), why)
}

fn of_mount(error: &SubPoolError) -> Refused {
    let why = match error {
        SubPoolError::MinAboveMax { .. } => Why::MinAboveMax,
        SubPoolError::NoSuchSize { .. } => Why::Other,
        SubPoolError::PoolEmpty(_) => Why::PoolEmpty,
        SubPoolError::OutOfMemory(_) => Why::OutOfMemory,
    };
    refused(error.errno(), why, error)
}

fn of_fault(error: &FaultError) -> Refused {
    let why = match error {
        FaultError::NotMapped { .. } => Why::NotMapped,
        FaultError::Protection { .. } => Why::Protection,
        FaultError::BeyondEof { .. } => Why::BeyondEof,
        FaultError::PoolEmpty(_) => Why::PoolEmpty,
        FaultError::SubPoolFull(_) => Why::SubPoolFull,
        FaultError::LimitReached(_) => Why::LimitReached,
        FaultError::TakenAway { .. } => Why::TakenAway,
        FaultError::OutOfMemory(_) => Why::OutOfMemory,
        _ => Why::Other,
    };
    assert_eq!(
        error.is_bus_error(),
        !matches!(why, Why::NotMapped | Why::Protection | Why::OutOfMemory),
        "{error:?}"
    );
    refused(error.errno(), why, error)
}

fn of_file(error: &FileError) -> Refused {
    let why = match error {
        FileError::Unaligned { .. } => Why::Unaligned,
        FileError::ZeroLength => Why::ZeroLength,
        FileError::OutOfMemory(_) => Why::OutOfMemory,
        FileError::PoolEmpty(_) => Why::PoolEmpty,
        FileError::SubPoolFull(_) => Why::SubPoolFull,
        FileError::LimitReached(_) => Why::LimitReached,
        _ => Why::Other,
    };
    refused(error.errno(), why, error)
}

fn of_map(error: &MapError) -> Refused {
    let why = match error {
        MapError::ZeroLength => Why::ZeroLength,
        MapError::Unaligned { .. } => Why::Unaligned,
        MapError::UnalignedAddress { .. } => Why::UnalignedAddress,
        MapError::NoRoom { .. } => Why::NoRoom,
        MapError::TooLow { .. } => Why::TooLow,
        MapError::Overflow => Why::Overflow,
        MapError::Exists { .. } => Why::Exists,
        MapError::NotMapped { .. } => Why::NotMapped,
        MapError::BadAddress { .. } => Why::BadAddress,
        MapError::Grows => Why::Grows,
        MapError::OutOfMemory(_) | MapError::NoPage(NoPage::OutOfMemory(_)) => Why::OutOfMemory,
        MapError::Overlaps => Why::Overlaps,
        MapError::NotAllowed => Why::NotAllowed,
        MapError::AccessDenied => Why::AccessDenied,
        MapError::NoPage(NoPage::PoolEmpty(_)) => Why::PoolEmpty,
        MapError::NoPage(NoPage::SubPoolFull(_)) => Why::SubPoolFull,
        MapError::NoPage(NoPage::LimitReached(_)) => Why::LimitReached,
        MapError::Fault(error) => of_fault(error).1,
        MapError::File(error) => of_file(error).1,
        _ => Why::Other,
    };
    refused(error.errno(), why, error)
}
