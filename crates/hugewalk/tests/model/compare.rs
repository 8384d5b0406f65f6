//! What has to be equal after each step, and what has to hold by itself.

use std::collections::BTreeMap;

use hugewalk::addr::{HugeFrame, HugeSize};
use hugewalk::mm::Residency;
use hugewalk::platform::Event;
use hugewalk::vma::VmaFlags;

use super::state::{Entry, Model, PROCESSES, Vma};
use super::{Engine, probes};
use crate::common::{AddressSpace, File, Group, at, cpu};

/// The groups that the processes of a program belong to.
const GROUPS: [Group; PROCESSES] = [Group(1), Group(2), Group(3)];

/// Who uses a table: a process, the start of the table's range.
type Users = Vec<(usize, u64)>;

impl Engine {
    /// Compares everything.
    pub(crate) fn compare(&mut self, model: &Model) {
        let events = self.hugetlb.platform().take_events();
        self.has_shared |= events.iter().any(|event| matches!(event, Event::Shared { .. }));
        for size in model.format.sizes() {
            let counters = self.hugetlb.pool(size).counters();
            assert_eq!(counters, model.counters(size), "counters of {size:?}: engine, model");
            assert!(counters.reserved <= counters.free && counters.free <= counters.total);
            let in_use = counters.total - counters.free;
            assert_eq!(self.hugetlb.platform().all_charged(size), in_use, "{size:?}: charged, in use");
            let paid: u64 = GROUPS.map(|group| self.compare_paid(model, size, group)).iter().sum();
            assert_eq!(self.hugetlb.platform().all_charged_reserved(size), paid, "{size:?}: by other groups");
        }
        for (slot, file) in self.files.iter().enumerate() {
            if let Some(file) = file {
                compare_file(file, model, model.slot(slot));
            }
        }
        for process in 0..self.processes.len() {
            if let Some(space) = self.processes[process].clone() {
                self.compare_process(&space, model, process);
            }
        }
        self.check_sharing(model);
    }

    /// Compares what a group has paid for as reserved, and returns it.
    fn compare_paid(&self, model: &Model, size: HugeSize, group: Group) -> u64 {
        let paid = self.hugetlb.platform().charged_reserved(size, group);
        assert_eq!(
            paid,
            model.paid_as_reserved(size, group),
            "reserved of {size:?}, {group:?}: engine, model"
        );
        paid
    }

    fn compare_process(&mut self, space: &AddressSpace, model: &Model, process: usize) {
        let expected = &model.processes[process].as_ref().expect("both sides have the process").vmas;
        {
            let mmap = space.mmap_read(&mut self.task);
            let vmas: Vec<_> = mmap.vmas().collect();
            assert_eq!(vmas.len(), expected.len(), "number of mappings: engine {vmas:?}");
            for (vma, expected) in vmas.iter().zip(expected.values()) {
                let bounds = (vma.start().as_u64(), vma.end().as_u64(), vma.offset());
                assert_eq!(bounds, (expected.start, expected.end, expected.offset), "bounds: engine, model");
                assert_eq!(vma.protection(), expected.rights);
                assert_eq!(vma.flags(), flags(expected));
                compare_file(vma.file(), model, expected.file);
            }
        }
        let mut residencies = BTreeMap::new();
        let mut bytes = 0;
        space
            .residency(&mut self.task, |vma, residency| {
                residencies.insert(vma.start().as_u64(), residency);
                bytes += (residency.shared + residency.private) * vma.size().bytes();
            })
            .unwrap();
        // Whose leaves they are cannot be told from the tables once one has been shared.
        if !self.has_shared {
            let reached = residencies.values().map(|residency| residency.shared + residency.private);
            assert_eq!(space.mm().resident(), reached.sum::<u64>(), "pages that the process has installed");
            assert_eq!(space.mm().resident_bytes(), bytes, "bytes that the process has installed");
        }
        for vma in expected.values() {
            self.compare_contents(space, model, process, vma, residencies[&vma.start]);
        }
    }

    /// What the tables reach of a mapping: all of what a private one has, some of what the file has for a shared one.
    fn compare_contents(
        &self,
        space: &AddressSpace,
        model: &Model,
        process: usize,
        vma: &Vma,
        residency: Residency,
    ) {
        let private = &model.processes[process].as_ref().expect("both sides have the process").private;
        let of_file =
            model.files[vma.file].pages.range(vma.offsets()).filter_map(|(&index, _)| vma.address(index));
        let pages: Vec<u64> = if vma.shared {
            of_file.collect()
        } else {
            private.range(vma.start..vma.end).map(|(&address, _)| address).collect()
        };
        let mut found = 0;
        for page in pages {
            let leaf = cpu::peek(space, &self.task, at(page));
            let Some((leaf, size)) = leaf else {
                assert!(vma.shared, "{page:#x} of a private mapping is not there");
                continue;
            };
            assert_eq!(size, vma.size);
            assert_eq!(leaf.is_accessible(), !vma.rights.is_empty(), "rights of {page:#x}");
            assert!(!leaf.is_writable() || vma.rights.contains(hugewalk::vma::Protection::WRITE));
            self.compare_bytes(model, process, vma, page, leaf.frame);
            found += 1;
        }
        assert_eq!(residency.shared + residency.private, found, "pages reached: engine, expected at most");
        let own = |entry: &Entry| matches!(entry, Entry::Own { .. });
        let mut entries = private.range(vma.start..vma.end).map(|(_, entry)| entry);
        if !vma.shared && entries.clone().all(own) {
            let shared = entries.by_ref().filter(|entry| model.is_held_by_many(entry)).count() as u64;
            assert_eq!(residency.shared, shared, "pages of a private mapping that others have too");
        }
    }

    fn compare_bytes(&self, model: &Model, process: usize, vma: &Vma, page: u64, frame: HugeFrame) {
        let (bytes, _) = model.bytes_at(process, page).expect("the model has what the engine maps");
        for offset in probes(vma.size).into_iter().chain(bytes.keys().copied()) {
            let expected = bytes.get(&offset).copied().unwrap_or(0);
            let byte = self.hugetlb.platform().byte(frame, offset);
            assert_eq!(byte, expected, "process {process}, {page:#x} + {offset:#x}: engine, model");
        }
    }

    /// I4: a table counts its users. I5: who shares may share, and maps the same pages with the same rights.
    fn check_sharing(&mut self, model: &Model) {
        let mut tables: BTreeMap<u64, (u64, Users)> = BTreeMap::new();
        for (process, space) in self.processes.iter().enumerate() {
            let Some(space) = space else { continue };
            for table in space.tables(&mut self.task).unwrap() {
                let (users, found) = tables.entry(table.identity).or_insert((table.users, Vec::new()));
                assert_eq!(*users, table.users);
                found.push((process, table.start.as_u64()));
            }
        }
        let covers = model.format.table();
        for (users, found) in tables.values() {
            assert_eq!(*users, found.len() as u64, "users counted, users found: {found:x?}");
            if let [first, others @ ..] = &found[..] {
                let maps = |&(process, start): &(usize, u64)| {
                    let vma = model.processes[process].as_ref().and_then(|process| process.find(start));
                    vma.map(|vma| (vma, vma.start <= start && start + covers <= vma.end, start))
                };
                for other in others {
                    let (Some((one, covers_one, at_one)), Some((two, covers_two, at_two))) =
                        (maps(first), maps(other))
                    else {
                        panic!("a table is shared where nothing is mapped: {found:x?}");
                    };
                    assert!(covers_one && covers_two, "a table is shared by a part: {found:x?}");
                    let what =
                        |vma: &Vma, at| (vma.file, vma.index(at), vma.rights, vma.shared, vma.noreserve);
                    assert_eq!(what(one, at_one), what(two, at_two));
                    assert!(one.shared && one.size.shares_tables());
                }
            }
        }
    }

    /// Ends everything, and looks for what is left.
    pub(crate) fn finish(mut self, model: &Model) {
        for process in &mut self.processes {
            if let Some(process) = process.take() {
                process.exit(&mut self.task).unwrap();
            }
        }
        self.files = Default::default();
        self.mounts = Default::default();
        self.task.rcu_barrier();
        assert_eq!(self.hugetlb.platform().tables_in_use(), 0, "tables leaked");
        for size in model.format.sizes() {
            let counters = self.hugetlb.pool(size).counters();
            let limit = model.counters(size).total - model.counters(size).surplus;
            let expected =
                hugewalk::pool::PoolCounters { total: limit, free: limit, reserved: 0, surplus: 0 };
            assert_eq!(counters, expected, "at the end");
            assert_eq!(self.hugetlb.platform().huge_in_use(size) as u64, limit, "huge pages leaked");
            let platform = self.hugetlb.platform();
            assert_eq!(
                (platform.all_charged(size), platform.all_charged_reserved(size)),
                (0, 0),
                "charges leaked"
            );
            self.hugetlb.resize_pool(size, 0);
            assert_eq!(self.hugetlb.platform().huge_in_use(size), 0);
        }
    }
}

fn flags(vma: &Vma) -> VmaFlags {
    let mut flags = VmaFlags::empty();
    flags.set(VmaFlags::SHARED, vma.shared);
    flags.set(VmaFlags::NORESERVE, vma.noreserve);
    flags
}

fn compare_file(file: &File, model: &Model, expected: usize) {
    let expected_file = &model.files[expected];
    assert_eq!(file.size_class(), expected_file.size_class);
    assert_eq!(file.size(), expected_file.size, "size of file {expected}: engine, model");
    assert_eq!(file.pages(), expected_file.pages.len() as u64, "pages of file {expected}: engine, model");
    let size = expected_file.size_class;
    for (&index, page) in &expected_file.pages {
        let start = index << size.shift();
        for offset in probes(size).into_iter().chain(page.bytes.keys().copied()) {
            let mut byte = [0x77];
            if file.read_at(start + offset, &mut byte) == Ok(1) {
                let expected_byte = page.bytes.get(&offset).copied().unwrap_or(0);
                assert_eq!(
                    byte[0], expected_byte,
                    "file {expected}, page {index} + {offset:#x}: engine, model"
                );
            }
        }
    }
}

impl Model {
    fn is_held_by_many(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Own { frame, .. } => self.frames[frame].holders > 1,
            Entry::OfFile => false,
        }
    }
}
