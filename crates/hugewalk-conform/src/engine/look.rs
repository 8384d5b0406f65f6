//! What can be observed of the engine.

use std::array;

use hugewalk::addr::VirtAddr;
use hugewalk::pagewalk;
use hugewalk::vma::{Protection, VmaFlags};

use super::{Engine, SIZE, of_map};
use crate::observe::{
    FileState, Mapping, Observation, Outcome, PageMap, PageState, Pool, ProcessState, Residency,
};
use crate::program::{Bytes, Modes, PAGE, Places, Policy, Rights, WINDOW};

impl Engine {
    /// The counters of the pool.
    #[must_use]
    pub fn pool(&self) -> Pool {
        let counters = self.hugetlb.pool(SIZE).counters();
        Pool {
            total: counters.total,
            free: counters.free,
            reserved: counters.reserved,
            surplus: counters.surplus,
        }
    }

    /// Looks at everything after a step.
    pub fn observe(&mut self, places: &Places, outcome: Outcome, faults: Option<u64>) -> Observation {
        let file = |file: &super::File| FileState { size: Bytes(file.file.size()), pages: file.file.pages() };
        let files = self.files.each_ref().map(|open| open.as_ref().filter(|open| !open.segment).map(file));
        let processes = array::from_fn(|process| self.look(process, places));
        Observation { outcome, faults, pool: self.pool(), files, processes }
    }

    fn look(&mut self, number: usize, places: &Places) -> Option<ProcessState> {
        let mut mappings = Vec::new();
        let process = self.processes[number].as_ref()?;
        process
            .space
            .residency(&mut self.task, |vma, residency| {
                mappings.push(Mapping {
                    start: Bytes(vma.start().as_u64() - WINDOW),
                    end: Bytes(vma.end().as_u64() - WINDOW),
                    rights: rights(vma.protection()),
                    shared: vma.is_shared(),
                    offset: Bytes(vma.offset() * PAGE),
                    handled: handled(vma.flags()),
                    shared_pages: residency.shared,
                    private_pages: residency.private,
                });
            })
            .expect("its own task");
        let huge_pages = process.space.mm().resident();
        let pages = places.pages.iter().map(|&at| self.look_at(number, at, &places.offsets)).collect();
        Some(ProcessState { huge_pages, mappings, pages })
    }

    fn look_at(&mut self, number: usize, at: Bytes, offsets: &[u64]) -> PageState {
        let mut state = PageState {
            at,
            map: PageMap::empty(),
            residency: self.residency(number, at),
            policy: self.policy(number, at),
            bytes: vec![None; offsets.len()],
        };
        let Some(process) = self.processes[number].as_mut() else { return state };
        let address = VirtAddr::new(at.address());
        let range = address..VirtAddr::new(at.address() + PAGE);
        if let Ok(found) = process.space.pagemap(&mut self.task, range) {
            state.map = found.first().map_or(PageMap::empty(), |(_, map)| page_map(*map));
        }
        let readable = {
            let mmap = process.space.mmap_read(&mut self.task);
            mmap.find(address).is_some_and(|vma| !vma.protection().is_empty())
        };
        if readable && state.map.contains(PageMap::PRESENT) {
            for (offset, byte) in offsets.iter().zip(&mut state.bytes) {
                let place = VirtAddr::new(at.address() + offset);
                *byte = process.cpu.load(&mut self.task, place).ok();
            }
        }
        state
    }

    fn residency(&mut self, number: usize, at: Bytes) -> Residency {
        let Some(process) = &self.processes[number] else { return Residency::Unmapped };
        let range = VirtAddr::new(at.address())..VirtAddr::new(at.address() + PAGE);
        match process.space.mincore(&mut self.task, range).as_deref() {
            Ok([(_, true), ..]) => Residency::Resident,
            Ok(_) => Residency::Absent,
            Err(_) => Residency::Unmapped,
        }
    }

    fn policy(&mut self, number: usize, at: Bytes) -> Option<Policy> {
        let mmap = self.processes[number].as_ref()?.space.mmap_read(&mut self.task);
        mmap.find(VirtAddr::new(at.address())).map(|vma| super::policy::of_mapping(vma.policy()))
    }

    /// `mincore(2)`
    pub(super) fn mincore(&mut self, number: usize, at: Bytes, length: Bytes) -> Outcome {
        let Some(process) = &self.processes[number] else { return Outcome::Done };
        if !at.0.is_multiple_of(4096) {
            return Outcome::Error("EINVAL");
        }
        // The engine answers for whole huge pages. What lies before and behind them is mapped as they are.
        let end = Bytes(at.0 + length.0.next_multiple_of(4096));
        let range = VirtAddr::new(at.page().address())..VirtAddr::new(end.0.next_multiple_of(PAGE) + WINDOW);
        let found = match process.space.mincore(&mut self.task, range) {
            Ok(found) => found,
            Err(error) => return of_map(&error),
        };
        let resident = |at: u64| {
            let found = found.iter().find(|(page, _)| page.as_u64() == Bytes(at).page().address());
            found.is_some_and(|(_, resident)| *resident)
        };
        // The kernel's answer in parts of 4 KiB is put together in groups as large as a huge page, from `at` on.
        let group = |from: u64| {
            let to = (from + PAGE).min(end.0);
            match (resident(from), resident(to - 1)) {
                (true, true) => Residency::Resident,
                (false, false) => Residency::Absent,
                _ => Residency::Mixed,
            }
        };
        Outcome::Resident((at.0..end.0).step_by(PAGE as usize).map(group).collect())
    }
}

impl Engine {
    /// `move_pages(2)` where there is one node: a page is there already, whether it is asked for or is to go there.
    pub(super) fn nodes(&mut self, number: usize, at: Bytes, length: Bytes) -> Outcome {
        let Some(process) = &self.processes[number] else { return Outcome::Done };
        let node = |address: u64| {
            let address = VirtAddr::new(address);
            if process.space.mmap_read(&mut self.task).find(address).is_none() {
                return Err("EFAULT");
            }
            // What the entry allows does not count here, so this is not a page that can be had without a fault.
            let page = Bytes(address.as_u64() - WINDOW).page().address();
            let range = VirtAddr::new(page)..VirtAddr::new(page + PAGE);
            let found = process.space.pagemap(&mut self.task, range);
            let present = |map: &pagewalk::PageMap| map.contains(pagewalk::PageMap::PRESENT);
            match found.as_deref() {
                Ok([(_, map), ..]) if present(map) => Ok(0),
                _ => Err("ENOENT"),
            }
        };
        let pages = (at.address()..at.address() + length.0).step_by(PAGE as usize);
        Outcome::Nodes(pages.map(node).collect())
    }
}

fn rights(protection: Protection) -> Rights {
    let mut rights = Rights::empty();
    rights.set(Rights::READ, protection.contains(Protection::READ));
    rights.set(Rights::WRITE, protection.contains(Protection::WRITE));
    rights.set(Rights::EXECUTE, protection.contains(Protection::EXECUTE));
    rights
}

fn handled(flags: VmaFlags) -> Modes {
    let mut modes = Modes::empty();
    modes.set(Modes::MISSING, flags.contains(VmaFlags::UFFD_MISSING));
    modes.set(Modes::WP, flags.contains(VmaFlags::UFFD_WP));
    modes.set(Modes::MINOR, flags.contains(VmaFlags::UFFD_MINOR));
    modes
}

fn page_map(map: pagewalk::PageMap) -> PageMap {
    let mut found = PageMap::empty();
    for (engine, bit) in [
        (pagewalk::PageMap::PRESENT, PageMap::PRESENT),
        (pagewalk::PageMap::SOFT_DIRTY, PageMap::SOFT_DIRTY),
        (pagewalk::PageMap::EXCLUSIVE, PageMap::EXCLUSIVE),
        (pagewalk::PageMap::FILE, PageMap::FILE),
        (pagewalk::PageMap::UFFD_WP, PageMap::UFFD_WP),
        (pagewalk::PageMap::SWAP, PageMap::SWAP),
    ] {
        found.set(bit, map.contains(engine));
    }
    found
}
