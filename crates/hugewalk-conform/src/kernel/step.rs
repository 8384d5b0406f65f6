//! Steps, as requests to the processes.

use super::answer::{accessed, error_name, outcome};
use super::look::residency;
use super::process::KEEPER;
use super::wire::{FILE_FD, MOUNT_FD, NONE, op};
use super::{Kernel, KernelError};
use crate::observe::{Outcome, Region};
use crate::program::{Advice, Bytes, Call, FileKind, Map, MapFlags, PAGE, Rights, Step, To, WINDOW};

impl Kernel {
    /// Carries a step out. What it came to, and the minor faults of an access.
    ///
    /// # Errors
    ///
    /// [`KernelError`], after which nothing more can be done but to drop this.
    pub fn step(&mut self, step: &Step) -> Result<(Outcome, Option<u64>), KernelError> {
        let file_fd = |file: usize| (FILE_FD + file as i32) as u64;
        let mount_fd = |mount: usize| (MOUNT_FD + mount as i32) as u64;
        let none = |pages: Option<u64>| pages.unwrap_or(NONE);
        let asked = match *step {
            Step::Pool { pages } => {
                let size = self.pool.resize(pages)?;
                self.kept.note(size);
                if size >= pages && pages > 0 {
                    // It was not there at first, and was found in the end.
                    self.failed_allocations = super::pool::failed_allocations();
                }
                return Ok((Outcome::Number(size), None));
            }
            Step::Overcommit { pages } => {
                self.pool.set_overcommit(pages)?;
                return Ok((Outcome::Done, None));
            }
            Step::In { process, ref call } => return self.call(process, call),
            Step::Mount { mount, size, min } => {
                self.ask(KEEPER, op::MOUNT, &[mount_fd(mount), none(size), none(min)])?
            }
            Step::Unmount { mount } => self.ask(KEEPER, op::CLOSE, &[mount_fd(mount)])?,
            Step::Open { file, kind: FileKind::Segment { length, reserve } } => {
                let huge = libc::SHM_HUGETLB | libc::MAP_HUGE_2MB | 0o600;
                let flags = if reserve { huge } else { huge | libc::SHM_NORESERVE };
                let made = self.ask(KEEPER, op::SEGMENT, &[length.0, flags as u64])?;
                self.segments[file] = u64::try_from(made.value).ok();
                made
            }
            Step::Open { file, kind } => {
                let made = match kind {
                    FileKind::Memory | FileKind::Segment { .. } => {
                        self.ask(KEEPER, op::MEMFD, &[file_fd(file)])?
                    }
                    FileKind::On { mount } => {
                        self.ask(KEEPER, op::CREATE, &[file_fd(file), mount_fd(mount)])?
                    }
                };
                self.open[file] = made.value == 0;
                made
            }
            Step::Close { file } if self.segments[file].is_some() => {
                let segment = self.segments[file].take().unwrap_or(NONE);
                self.ask(KEEPER, op::REMOVE, &[segment])?
            }
            Step::Close { file } => {
                self.open[file] = false;
                self.ask(KEEPER, op::CLOSE, &[file_fd(file)])?
            }
            Step::Truncate { file, size } => self.ask(KEEPER, op::TRUNCATE, &[file_fd(file), size.0])?,
            Step::Allocate { file, from, length, keep } => {
                let mode = if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                self.ask(KEEPER, op::ALLOCATE, &[file_fd(file), mode as u64, from.0, length.0])?
            }
            Step::Punch { file, from, length } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                self.ask(KEEPER, op::ALLOCATE, &[file_fd(file), mode as u64, from.0, length.0])?
            }
            Step::Write { file, at, value } => {
                self.ask(KEEPER, op::WRITE, &[file_fd(file), at.0, u64::from(value)])?
            }
            Step::Read { file, from, length } => {
                let read = self.ask(KEEPER, op::READ, &[file_fd(file), from.0, length])?;
                let bytes = read.more.iter().map(|&byte| byte as u8).collect();
                return Ok((if read.value < 0 { outcome(read.value) } else { Outcome::Bytes(bytes) }, None));
            }
        };
        Ok((outcome(asked.value), None))
    }

    fn call(&mut self, process: usize, call: &Call) -> Result<(Outcome, Option<u64>), KernelError> {
        let asked = match *call {
            Call::Fork { child } => return Ok((self.fork(process, child)?, None)),
            Call::Exit => return Ok((self.exit(process)?, None)),
            Call::Map(ref map) => return Ok((self.map(process, map)?, None)),
            Call::Attach { file, at, replace } => {
                let flags = if replace { libc::SHM_REMAP } else { 0 };
                let segment = self.segments[file].unwrap_or(NONE);
                self.ask(process, op::ATTACH, &[segment, at.address(), flags as u64])?
            }
            Call::Detach { at } => self.ask(process, op::DETACH, &[at.address()])?,
            Call::Unmap { at, length } => self.ask(process, op::UNMAP, &[at.address(), length.0])?,
            Call::Protect { at, length, rights } => {
                self.ask(process, op::PROTECT, &[at.address(), length.0, protection(rights)])?
            }
            Call::Remap { at, length, kept, to } => {
                let (flags, new) = match to {
                    To::InPlace => (0, 0),
                    To::Anywhere => (libc::MREMAP_MAYMOVE, 0),
                    To::Fixed(to) => (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to.address()),
                };
                let arguments = [at.address(), length.0, kept.0, flags as u64, new];
                let asked = self.ask(process, op::REMAP, &arguments)?;
                return Ok((if asked.value < 0 { outcome(asked.value) } else { Outcome::Done }, None));
            }
            Call::Advise { at, length, advice } => {
                let advice = match advice {
                    Advice::DontNeed => libc::MADV_DONTNEED,
                    Advice::Remove => libc::MADV_REMOVE,
                    Advice::PopulateRead => libc::MADV_POPULATE_READ,
                    Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
                    Advice::DontDump => libc::MADV_DONTDUMP,
                    Advice::DoDump => libc::MADV_DODUMP,
                    Advice::DontFork => libc::MADV_DONTFORK,
                    Advice::DoFork => libc::MADV_DOFORK,
                    Advice::Normal => libc::MADV_NORMAL,
                    Advice::Random => libc::MADV_RANDOM,
                    Advice::Sequential => libc::MADV_SEQUENTIAL,
                    Advice::WillNeed => libc::MADV_WILLNEED,
                    Advice::Cold => libc::MADV_COLD,
                    Advice::PageOut => libc::MADV_PAGEOUT,
                    Advice::Free => libc::MADV_FREE,
                    Advice::WipeOnFork => libc::MADV_WIPEONFORK,
                    Advice::KeepOnFork => libc::MADV_KEEPONFORK,
                };
                self.ask(process, op::ADVISE, &[at.address(), length.0, advice as u64])?
            }
            Call::Load { at } => {
                let asked = self.ask(process, op::LOAD, &[at.address()])?;
                return Ok((
                    accessed(&asked, Outcome::Number(asked.value.cast_unsigned())),
                    Some(asked.faults),
                ));
            }
            Call::Store { at, value } => {
                let asked = self.ask(process, op::STORE, &[at.address(), u64::from(value)])?;
                return Ok((accessed(&asked, Outcome::Done), Some(asked.faults)));
            }
            Call::Sweep { at, length } => {
                let (from, to) = (at.address(), at.address().wrapping_add(length.0));
                let asked = self.ask(process, op::SWEEP, &[from, to, PAGE])?;
                return Ok((
                    accessed(&asked, Outcome::Number(asked.value.cast_unsigned())),
                    Some(asked.faults),
                ));
            }
            Call::Peek { of, at, length } => {
                let asked = self.ask(process, op::PEEK, &[self.number(of), at.address(), length])?;
                let bytes = asked.more.iter().map(|&byte| byte as u8).collect();
                return Ok((
                    if asked.value < 0 { outcome(asked.value) } else { Outcome::Bytes(bytes) },
                    None,
                ));
            }
            Call::Poke { of, at, length, value } => {
                let arguments = [self.number(of), at.address(), length, u64::from(value)];
                let asked = self.ask(process, op::POKE, &arguments)?;
                let written = Outcome::Number(asked.value.cast_unsigned());
                return Ok((if asked.value < 0 { outcome(asked.value) } else { written }, None));
            }
            Call::Mincore { at, length } => {
                let asked = self.ask(process, op::MINCORE, &[at.address(), length.0])?;
                if asked.value == 0 {
                    return Ok((
                        Outcome::Resident(asked.more.iter().map(|&word| residency(word)).collect()),
                        None,
                    ));
                }
                asked
            }
            Call::Nodes { at, length, moved } => {
                let asked = self.ask(process, op::NODES, &[at.address(), length.0, u64::from(moved)])?;
                let node = |&word: &u64| {
                    let status = word.cast_signed();
                    u64::try_from(status).map_err(|_| error_name(-status))
                };
                let nodes = Outcome::Nodes(asked.more.iter().map(node).collect());
                return Ok((if asked.value < 0 { outcome(asked.value) } else { nodes }, None));
            }
            Call::Scan { .. } => return Ok((self.scan(process, call)?, None)),
            Call::Lock { at, length, on_fault } => {
                self.ask(process, op::LOCK, &[at.address(), length.0, u64::from(on_fault)])?
            }
            Call::Unlock { at, length } => self.ask(process, op::LOCK, &[at.address(), length.0, 2])?,
            Call::LockNew { on_fault } => {
                let flags = if on_fault { libc::MCL_FUTURE | libc::MCL_ONFAULT } else { libc::MCL_FUTURE };
                self.ask(process, op::LOCK_ALL, &[flags as u64])?
            }
            Call::UnlockAll => self.ask(process, op::LOCK_ALL, &[0])?,
            Call::Bind { at, length, policy } => {
                let arguments = [at.address(), length.0, policy.mode as u64, u64::from(policy.nodes)];
                self.ask(process, op::BIND, &arguments)?
            }
            Call::Userfault { handler, ref handling } => {
                return Ok((self.handle(process, handler, handling)?, None));
            }
        };
        Ok((outcome(asked.value), None))
    }

    /// The number of a process. Of one that is not there, a number that none can have: one that has exited may be somebody
    /// else's by now.
    fn number(&self, process: usize) -> u64 {
        self.running[process].as_ref().map_or(i32::MAX, |running| running.pid) as u64
    }

    /// As [`step`](Self::step), for the end of a program: what is not there on this side is no error.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn close(&mut self, step: &Step) -> Result<(), KernelError> {
        match *step {
            Step::In { process, .. } if self.running[process].is_none() => Ok(()),
            _ => self.step(step).map(|_| ()),
        }
    }

    fn scan(&mut self, process: usize, call: &Call) -> Result<Outcome, KernelError> {
        let Call::Scan { at, length, written, protect, check } = *call else { return Ok(Outcome::Done) };
        let end = Bytes(at.0.wrapping_add(length.0)).address();
        // PAGE_IS_WRITTEN; PM_SCAN_WP_MATCHING and PM_SCAN_CHECK_WPASYNC.
        let (mask, flags) = (u64::from(written) << 1, u64::from(protect) | u64::from(check) << 1);
        let asked = self.ask(process, op::SCAN, &[at.address(), end, mask, flags])?;
        if asked.value < 0 {
            return Ok(outcome(asked.value));
        }
        let place = |address: u64| Bytes(address.wrapping_sub(WINDOW));
        let (reached, regions) = asked.more.split_first().unwrap_or((&end, &[]));
        let region = |words: &[u64]| match *words {
            [start, end, categories] => Some(Region { start: place(start), end: place(end), categories }),
            _ => None,
        };
        let regions = regions.chunks_exact(3).filter_map(region).collect();
        Ok(Outcome::Scanned { regions, end: (*reached < end).then(|| place(*reached)) })
    }

    fn map(&mut self, process: usize, map: &Map) -> Result<Outcome, KernelError> {
        let mut flags = libc::MAP_HUGETLB;
        flags |= if map.flags.contains(MapFlags::SHARED) { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        for (flag, linux) in [
            (MapFlags::FIXED, libc::MAP_FIXED),
            (MapFlags::NO_REPLACE, libc::MAP_FIXED_NOREPLACE),
            (MapFlags::NO_RESERVE, libc::MAP_NORESERVE),
            (MapFlags::POPULATE, libc::MAP_POPULATE),
            (MapFlags::LOCKED, libc::MAP_LOCKED),
        ] {
            flags |= if map.flags.contains(flag) { linux } else { 0 };
        }
        let (fd, offset) = match map.file {
            Some((file, offset)) => (i64::from(FILE_FD) + file as i64, offset.0),
            None => {
                flags |= libc::MAP_ANONYMOUS | libc::MAP_HUGE_2MB;
                (-1, 0)
            }
        };
        let (at, length) = (map.at.address(), map.length.0);
        let arguments = [at, length, protection(map.rights), flags as u64, fd.cast_unsigned(), offset];
        let mapped = self.ask(process, op::MAP, &arguments)?;
        if mapped.value < 0 {
            return Ok(outcome(mapped.value));
        }
        if mapped.value.cast_unsigned() == map.at.as_hint() {
            return Ok(Outcome::Done);
        }
        let away = [mapped.value.cast_unsigned(), length.next_multiple_of(PAGE)];
        self.ask(process, op::UNMAP, &away)?;
        Ok(Outcome::Elsewhere)
    }
}

fn protection(rights: Rights) -> u64 {
    let bits = [
        (Rights::READ, libc::PROT_READ),
        (Rights::WRITE, libc::PROT_WRITE),
        (Rights::EXECUTE, libc::PROT_EXEC),
    ];
    let set = bits.into_iter().filter(|(right, _)| rights.contains(*right));
    set.fold(0, |all, (_, bit)| all | bit as u64)
}
