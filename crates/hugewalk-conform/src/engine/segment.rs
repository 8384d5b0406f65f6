//! Segments of System V: unnamed files whose pages are reserved when they are made, and attached as a whole.
//!
//! Linux: `newseg()`, `do_shmat()` and `ksys_shmdt()` in ipc/shm.c.

use hugewalk::addr::VirtAddr;
use hugewalk::file::HugeFile;
use hugewalk::mm::{self, Backing, MapError, MapRequest, Placement};
use hugewalk::vma::Protection;

use super::{Engine, File, SIZE, of_file, of_map};
use crate::observe::Outcome;
use crate::program::{Bytes, PAGE};

const INVALID: Outcome = Outcome::Error("EINVAL");

impl Engine {
    /// `shmget(2)`
    pub(super) fn make_segment(&mut self, place: usize, length: Bytes, reserve: bool) -> Outcome {
        if length.0 == 0 {
            return INVALID;
        }
        let size = length.0.next_multiple_of(PAGE);
        let file = match HugeFile::new(&self.hugetlb, SIZE, None) {
            Ok(file) => file,
            Err(error) => return of_map(&error.into()),
        };
        if let Err(error) = file.truncate(&mut self.task, size) {
            return of_file(&error);
        }
        if reserve && let Err(error) = file.reserve(&mut self.task, 0, size) {
            return of_map(&error);
        }
        self.segments.insert(file.id());
        self.files[place] = Some(File { file, segment: true });
        Outcome::Done
    }

    /// `shmat(2)`
    pub(super) fn attach(&mut self, number: usize, file: usize, at: Bytes, replace: bool) -> Outcome {
        let (Some(process), Some(file)) = (&self.processes[number], &self.files[file]) else {
            return Outcome::Done;
        };
        if !at.0.is_multiple_of(4096) {
            return INVALID;
        }
        let there = VirtAddr::new(at.address());
        let request = MapRequest {
            placement: if replace { Placement::Fixed(there) } else { Placement::FixedNoReplace(there) },
            length: file.file.size(),
            protection: Protection::READ | Protection::WRITE,
            // The pages were reserved when the segment was made, or are not to be: attaching reserves none.
            flags: mm::MapFlags::SHARED | mm::MapFlags::NORESERVE,
            backing: Backing::File { file: &file.file, offset: 0 },
        };
        match process.space.mmap(&mut self.task, &request) {
            Ok(_) => Outcome::Done,
            // Where something is mapped, shmat says what it says of every place it cannot use.
            Err(MapError::Exists { .. }) => INVALID,
            Err(error) => of_map(&error),
        }
    }

    /// `shmdt(2)`: whatever is left of the first attachment at or behind this place that started here.
    pub(super) fn detach(&mut self, number: usize, at: Bytes) -> Outcome {
        let Some(process) = &self.processes[number] else { return Outcome::Done };
        if !at.0.is_multiple_of(4096) {
            return INVALID;
        }
        let mut parts = Vec::new();
        {
            let mut segment = None;
            let mmap = process.space.mmap_read(&mut self.task);
            for vma in mmap.vmas() {
                let (start, end) = (vma.start().as_u64(), vma.end().as_u64());
                let id = vma.file().id();
                let started_here = start.checked_sub(at.address()) == Some(vma.offset() * PAGE);
                if !started_here || !self.segments.contains(&id) {
                    continue;
                }
                let (first, size) = *segment.get_or_insert((id, vma.file().size()));
                if id == first && (parts.is_empty() || end - at.address() <= size) {
                    parts.push((vma.start(), end - start));
                }
            }
        }
        if parts.is_empty() {
            return INVALID;
        }
        for (start, length) in parts {
            if let Err(error) = process.space.munmap(&mut self.task, start, length) {
                return of_map(&error);
            }
        }
        Outcome::Done
    }
}
