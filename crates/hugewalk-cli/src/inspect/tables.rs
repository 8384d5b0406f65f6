//! How many tables the mappings of some processes need, at least and at most.
//!
//! A table of 2 MiB entries covers an aligned gigabyte of one address space. `/proc` does not tell whether two processes use the
//! same one. It tells whether they could: then they do if each of them faulted after the other had a table, and they do not if
//! the kernel shares none. The truth lies between.

use std::collections::{BTreeMap, BTreeSet};

use super::report::Tables;
use crate::gigabyte::{GIB, whole_ranges};
use crate::proc::{Filled, Mapping, Process, slots};

/// What makes two mappings of a file able to share: the same file, the same place of its beginning in the gigabyte, the same
/// flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind<'a> {
    pub(super) file: FileId<'a>,
    pub(super) residue: u64,
    pub(super) flags: &'a str,
}

/// A file of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId<'a> {
    pub(super) device: &'a str,
    pub(super) inode: u64,
    pub(super) page_kb: u64,
}

impl<'a> FileId<'a> {
    pub(super) fn of(mapping: &'a Mapping) -> Self {
        Self { device: &mapping.device, inode: mapping.inode, page_kb: mapping.page_kb }
    }
}

/// What forbids a mapping to share, whatever it covers; none if nothing does.
pub(super) fn forbidden(mapping: &Mapping) -> Option<&'static str> {
    if mapping.has("uw") {
        Some("registered with userfaultfd for write protection")
    } else if mapping.has("ui") {
        Some("registered with userfaultfd for minor faults")
    } else {
        None
    }
}

/// May whole gigabytes of the mapping share their tables?
pub(super) fn may_share(mapping: &Mapping) -> bool {
    mapping.shift() == 21 && mapping.shared && forbidden(mapping).is_none()
}

/// Where the beginning of the file would lie in the gigabyte.
pub(super) fn residue(mapping: &Mapping) -> u64 {
    mapping.range.start.wrapping_sub(mapping.offset) % GIB
}

pub(super) fn kind(mapping: &Mapping) -> Kind<'_> {
    Kind { file: FileId::of(mapping), residue: residue(mapping), flags: &mapping.flags }
}

/// A table, as far as it can be told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Table<'a> {
    /// That of one gigabyte of a process.
    Own(u32, u64),
    /// That of all mappings of a kind that map the gigabyte of the file which begins there.
    Sharable(Kind<'a>, u64),
}

/// The tables of some mappings.
#[derive(Default)]
pub(super) struct Census<'a> {
    /// Each with the gigabytes of processes that may use it, and whether they do.
    tables: BTreeMap<Table<'a>, BTreeMap<(u32, u64), Filled>>,
}

impl<'a> Census<'a> {
    /// Those of all mappings of `processes` that `counts` says yes to.
    pub(super) fn of(processes: &'a [Process], counts: impl Fn(&Mapping) -> bool) -> Self {
        let mut census = Self::default();
        for process in processes {
            for mapping in process.mappings.iter().filter(|mapping| counts(mapping)) {
                census.add(process.pid, mapping);
            }
        }
        census
    }

    pub(super) fn add(&mut self, pid: u32, mapping: &'a Mapping) {
        for (slot, &filled) in slots(&mapping.range).zip(&mapping.filled) {
            let users = self.tables.entry(table(pid, mapping, slot)).or_default();
            let known = users.entry((pid, slot)).or_insert(filled);
            // Two mappings may meet in a gigabyte.
            *known = match (*known, filled) {
                (Filled::Yes, _) | (_, Filled::Yes) => Filled::Yes,
                (Filled::Unknown, _) | (_, Filled::Unknown) => Filled::Unknown,
                (Filled::No, Filled::No) => Filled::No,
            };
        }
    }

    /// All of them.
    pub(super) fn bounds(&self) -> Tables {
        bounds(self.tables.values())
    }

    /// Gigabytes of other mappings that may share a table with `mapping`, at most.
    pub(super) fn partners(&self, pid: u32, mapping: &Mapping) -> u64 {
        let users = slots(&mapping.range).filter_map(|slot| match table(pid, mapping, slot) {
            Table::Own(..) => None,
            table => self.tables.get(&table).map(|users| users.len() as u64 - 1),
        });
        users.max().unwrap_or(0)
    }

    /// The tables that `process` uses and nobody else can, and those that others may share.
    pub(super) fn of_process(&self, process: &Process) -> (Tables, Tables) {
        let mut own = BTreeMap::new();
        let mut sharable = BTreeMap::new();
        for mapping in &process.mappings {
            for slot in slots(&mapping.range).take(mapping.filled.len()) {
                let table = table(process.pid, mapping, slot);
                let Some(users) = self.tables.get(&table) else { continue };
                let Some(&filled) = users.get(&(process.pid, slot)) else { continue };
                let side = if users.len() > 1 { &mut sharable } else { &mut own };
                side.insert(slot, BTreeMap::from([((process.pid, slot), filled)]));
            }
        }
        (bounds(own.values()), bounds(sharable.values()))
    }

    /// Processes that have a table here for sure.
    pub(super) fn users(&self) -> BTreeSet<u32> {
        let users = self.tables.values().flatten();
        users.filter(|(_, filled)| **filled == Filled::Yes).map(|((pid, _), _)| *pid).collect()
    }
}

fn bounds<'t>(tables: impl Iterator<Item = &'t BTreeMap<(u32, u64), Filled>>) -> Tables {
    let (mut least, mut most) = (0, 0);
    for users in tables {
        least += u64::from(users.values().any(|filled| *filled == Filled::Yes));
        most += users.values().filter(|filled| **filled != Filled::No).count() as u64;
    }
    Tables::new(least, most)
}

fn table<'a>(pid: u32, mapping: &'a Mapping, slot: u64) -> Table<'a> {
    if may_share(mapping) && whole_ranges(&mapping.range).contains(&slot) {
        let begins = (slot * GIB - mapping.range.start).wrapping_add(mapping.offset);
        Table::Sharable(kind(mapping), begins)
    } else {
        Table::Own(pid, slot)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A mapping of file 5 that is full, at `start` GiB and `mb` MiB for `length` MiB.
    pub(in crate::inspect) fn mapping(start: u64, mb: u64, length: u64) -> Mapping {
        let start = start * GIB + (mb << 20);
        let range = start..start + (length << 20);
        let filled = slots(&range).map(|_| Filled::Yes).collect();
        Mapping {
            range,
            rights: "rw-".to_owned(),
            shared: true,
            offset: 0,
            device: "00:11".to_owned(),
            inode: 5,
            name: "/dev/hugepages/x".to_owned(),
            page_kb: 2048,
            private_kb: length << 10,
            shared_kb: 0,
            flags: "rd wr sh ms ht".to_owned(),
            filled,
        }
    }

    pub(in crate::inspect) fn process(pid: u32, mappings: Vec<Mapping>) -> Process {
        Process { pid, command: "postgres".to_owned(), hugetlb_kb: 0, page_tables_kb: 0, mappings }
    }

    fn counted(processes: &[Process]) -> (u64, u64) {
        let tables = Census::of(processes, |_| true).bounds();
        (tables.least, tables.most)
    }

    #[test]
    fn mappings_share_at_the_same_place_with_the_same_flags_and_nowhere_else() {
        let with =
            |other: Mapping| counted(&[process(1, vec![mapping(1, 0, 2048)]), process(2, vec![other])]);
        assert_eq!(with(mapping(1, 0, 2048)), (2, 4));
        // The kernel looks at the place in the gigabyte, not at the address.
        assert_eq!(with(mapping(7, 0, 2048)), (2, 4));
        assert_eq!(with(mapping(1, 2, 3072)), (2 + 4, 2 + 4));
        assert_eq!(with(Mapping { flags: "rd ms ht".to_owned(), ..mapping(1, 0, 2048) }), (4, 4));
        assert_eq!(with(Mapping { inode: 6, ..mapping(1, 0, 2048) }), (4, 4));
        assert_eq!(with(Mapping { shared: false, ..mapping(1, 0, 2048) }), (4, 4));
        // The second gigabyte of the file is common to both.
        assert_eq!(with(Mapping { offset: GIB, ..mapping(1, 0, 2048) }), (3, 4));
        for mode in ["uw", "ui"] {
            let flags = format!("rd wr sh ms ht {mode}");
            assert_eq!(with(Mapping { flags, ..mapping(1, 0, 2048) }), (4, 4));
        }
    }

    #[test]
    fn a_flag_that_forbids_sharing_does_so_even_if_all_have_it() {
        let watched = || Mapping { flags: "rd wr sh ms ht uw".to_owned(), ..mapping(1, 0, 1024) };
        assert_eq!(counted(&[process(1, vec![watched()]), process(2, vec![watched()])]), (2, 2));
        let missing = || Mapping { flags: "rd wr sh ms ht um".to_owned(), ..mapping(1, 0, 1024) };
        assert_eq!(counted(&[process(1, vec![missing()]), process(2, vec![missing()])]), (1, 2));
    }

    #[test]
    fn mappings_that_meet_in_a_gigabyte_have_one_table_there() {
        let two = vec![mapping(1, 0, 512), mapping(1, 512, 512)];
        assert_eq!(counted(&[process(1, two)]), (1, 1));
    }

    #[test]
    fn empty_gigabytes_cost_nothing_and_unknown_ones_only_at_most() {
        let with = |filled: [Filled; 2]| {
            let partly = Mapping { filled: filled.to_vec(), ..mapping(1, 0, 2048) };
            counted(&[process(1, vec![partly.clone()]), process(2, vec![partly])])
        };
        assert_eq!(with([Filled::Yes, Filled::No]), (1, 2));
        assert_eq!(with([Filled::Yes, Filled::Unknown]), (1, 4));
        assert_eq!(with([Filled::No, Filled::No]), (0, 0));
    }

    #[test]
    fn a_process_is_told_what_is_its_own_and_what_others_may_use() {
        let all = [process(1, vec![mapping(1, 512, 2048)]), process(2, vec![mapping(1, 512, 2048)])];
        let census = Census::of(&all, |_| true);
        let (own, sharable) = census.of_process(&all[0]);
        assert_eq!((own.least, sharable.most), (2, 1));
        assert_eq!(census.partners(1, &all[0].mappings[0]), 1);
        let alone = Census::of(&all[..1], |_| true);
        assert_eq!(alone.of_process(&all[0]).0.least, 3);
    }
}
