//! Which process is to fault which page in, so that every counter comes out as the kernel has it.
//!
//! `HugetlbPages` counts what a process has faulted in for itself. In a table of its own that is what is mapped there. A page of
//! a table that several processes use was counted for one of them, and nothing tells which: only the sums are known. So the pages
//! are dealt out until every counter is used up. What is left over then was faulted in by processes that have ended, whose tables
//! live on with the others. Such a process is put back: it maps the same, faults the rest in, and ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::state::{FileKey, State};
use crate::gigabyte::GIB;

/// Linux: `PID_MAX_LIMIT`. No process has this number or a higher one.
const FIRST_ENDED: u32 = 4 << 20;

/// Faults, and the processes that have ended and take part in them.
#[derive(Debug, Default)]
pub(super) struct Faulted {
    /// Process and address, in order.
    pub(super) list: Vec<(u32, u64)>,
    /// By the process whose mappings it has, and whose pages.
    pub(super) ended: Vec<Ended>,
    /// Pages of 2 MiB that a process's counter has, and that are mapped nowhere it reaches.
    pub(super) not_found: BTreeMap<u32, u64>,
}

/// A process that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// A number that no process has.
    pub(super) pid: u32,
    /// It has the mappings of this one.
    pub(super) like: u32,
    /// Which of them, by address.
    pub(super) starts: BTreeSet<u64>,
    /// How many pages it faults in.
    pub(super) pages: u64,
}

/// A place of a file that a table covers.
type Place = (FileKey, u64);

/// A page of a shared table: who reaches it, in which mapping, and at which address.
type Reach = BTreeMap<u32, (u64, u64)>;

/// Pages of one table that the same processes reach.
struct Group {
    pages: Vec<Reach>,
    /// What each process has of it; of those that reach it only.
    given: BTreeMap<u32, usize>,
}

impl Group {
    fn open(&self) -> usize {
        self.pages.len() - self.given.values().sum::<usize>()
    }
}

/// Deals the pages out.
pub(super) fn deal(state: &State) -> Faulted {
    let mut faulted = Faulted::default();
    let mut left: BTreeMap<u32, usize> = BTreeMap::new();
    let mut tables: BTreeMap<Place, BTreeMap<u64, Reach>> = BTreeMap::new();
    for process in &state.processes {
        let mut own_kb = 0;
        for touched in &process.mappings {
            let mapping = &touched.mapping;
            for &address in &touched.present {
                let start = address / GIB * GIB;
                let covered = start >= mapping.range.start && start + GIB <= mapping.range.end;
                if !(mapping.shared && mapping.page_kb == 2048 && covered) {
                    own_kb += mapping.page_kb;
                    faulted.list.push((process.pid, address));
                    continue;
                }
                let place = (touched.key(), start - mapping.range.start + mapping.offset);
                let page = tables.entry(place).or_default().entry(address - start).or_default();
                page.insert(process.pid, (mapping.range.start, address));
            }
        }
        let of_tables = process.hugetlb_kb.saturating_sub(own_kb) / 2048;
        left.insert(process.pid, usize::try_from(of_tables).unwrap_or(usize::MAX));
    }
    let mut groups = groups(tables.values());
    for number in 0..groups.len() {
        while groups[number].open() > 0 && give(&mut groups, number, &mut left) {}
    }
    for group in &groups {
        list_group(group, &mut faulted);
    }
    // Whoever faulted none of a table in has reached one that was there.
    let has_faulted: BTreeSet<(u32, u64)> =
        faulted.list.iter().map(|&(pid, address)| (pid, address / GIB)).collect();
    let mut reached = BTreeSet::new();
    for (&pid, &(_, address)) in groups.iter().flat_map(|group| &group.pages).flatten() {
        if !has_faulted.contains(&(pid, address / GIB)) && reached.insert((pid, address / GIB)) {
            faulted.list.push((pid, address));
        }
    }
    let not_found = left.into_iter().filter(|(_, pages)| *pages > 0);
    faulted.not_found = not_found.map(|(pid, pages)| (pid, pages as u64)).collect();
    faulted
}

/// The pages of each table, by the processes that reach them: mostly all that use it.
fn groups<'t>(tables: impl Iterator<Item = &'t BTreeMap<u64, Reach>>) -> Vec<Group> {
    let mut groups = Vec::new();
    for table in tables {
        let mut by_users: BTreeMap<Vec<u32>, Vec<Reach>> = BTreeMap::new();
        for page in table.values() {
            by_users.entry(page.keys().copied().collect()).or_default().push(page.clone());
        }
        groups.extend(by_users.into_values().map(|pages| Group { pages, given: BTreeMap::new() }));
    }
    groups
}

/// Gives pages of a group to a process whose counter has room, if need be by way of pages of other groups that change hands.
/// False if no such counter can be reached.
fn give(groups: &mut [Group], first: usize, left: &mut BTreeMap<u32, usize>) -> bool {
    // Of which group a process would get more, and which process would hand its pages of a group on for that.
    let mut gets: BTreeMap<u32, usize> = BTreeMap::new();
    let mut hands_on: BTreeMap<usize, u32> = BTreeMap::new();
    let mut waiting = VecDeque::from([first]);
    while let Some(group) = waiting.pop_front() {
        let users = groups[group].pages.first().into_iter().flat_map(BTreeMap::keys);
        for pid in users.copied().collect::<Vec<_>>() {
            if gets.contains_key(&pid) {
                continue;
            }
            gets.insert(pid, group);
            if left.get(&pid).is_some_and(|left| *left > 0) {
                pass_on(groups, first, pid, &gets, &hands_on, left);
                return true;
            }
            for other in (0..groups.len()).filter(|&other| other != first) {
                let has_some = groups[other].given.get(&pid).is_some_and(|given| *given > 0);
                if has_some && !hands_on.contains_key(&other) {
                    hands_on.insert(other, pid);
                    waiting.push_back(other);
                }
            }
        }
    }
    false
}

/// Gives `last` as many pages as can be, along the way that was found.
fn pass_on(
    groups: &mut [Group],
    first: usize,
    last: u32,
    gets: &BTreeMap<u32, usize>,
    hands_on: &BTreeMap<usize, u32>,
    left: &mut BTreeMap<u32, usize>,
) {
    // A group, who gets pages of it, and who hands them on; nobody where it is the first, which has some to give.
    let mut way = Vec::new();
    let (mut taker, mut group) = (last, gets[&last]);
    while group != first {
        let holder = hands_on[&group];
        way.push((group, taker, Some(holder)));
        (taker, group) = (holder, gets[&holder]);
    }
    way.push((first, taker, None));
    let given = |&(group, _, holder): &(usize, u32, Option<u32>)| match holder {
        Some(holder) => groups[group].given[&holder],
        None => groups[group].open(),
    };
    let pages = way.iter().map(given).chain([left[&last]]).min().unwrap_or(0);
    for (group, taker, holder) in way {
        let of_group = &mut groups[group].given;
        *of_group.entry(taker).or_default() += pages;
        if let Some(holder) = holder {
            *of_group.entry(holder).or_default() -= pages;
        }
    }
    *left.entry(last).or_default() -= pages;
}

/// Lists the faults of a group: what was given, and the rest for processes that have ended.
fn list_group(group: &Group, faulted: &mut Faulted) {
    let mut takers = group.given.iter().flat_map(|(&pid, &pages)| std::iter::repeat_n(pid, pages));
    for page in &group.pages {
        if let Some(pid) = takers.next() {
            faulted.list.push((pid, page[&pid].1));
        } else if let Some((&like, &(start, address))) = page.first_key_value() {
            let ended = ended(&mut faulted.ended, like);
            ended.starts.insert(start);
            ended.pages += 1;
            faulted.list.push((ended.pid, address));
        }
    }
}

fn ended(all: &mut Vec<Ended>, like: u32) -> &mut Ended {
    let place = all.iter().position(|ended| ended.like == like).unwrap_or_else(|| {
        let pid = FIRST_ENDED + u32::try_from(all.len()).unwrap_or(0);
        all.push(Ended { pid, like, starts: BTreeSet::new(), pages: 0 });
        all.len() - 1
    });
    &mut all[place]
}

#[cfg(test)]
mod tests {
    use super::super::state::{Running, Touched};
    use super::*;
    use crate::proc::Mapping;

    /// A process that maps a file at a GiB of its own each, with the pages of it that are there.
    fn process(pid: u32, counted: u64, files: &[(u64, u64)]) -> Running {
        let touched = |&(inode, pages): &(u64, u64)| {
            let start = GIB * (inode + 1);
            let mapping = Mapping {
                range: start..start + GIB,
                rights: "rw-".to_owned(),
                shared: true,
                offset: 0,
                device: "00:11".to_owned(),
                inode,
                name: "/anon_hugepage (deleted)".to_owned(),
                page_kb: 2048,
                private_kb: 0,
                shared_kb: 0,
                flags: "rd wr ht".to_owned(),
                filled: Vec::new(),
            };
            Touched { mapping, present: (0..pages).map(|page| start + (page << 21)).collect() }
        };
        Running {
            pid,
            parent: 1,
            program: "/bin/true".to_owned(),
            threads: Vec::new(),
            hugetlb_kb: counted * 2048,
            mappings: files.iter().map(touched).collect(),
            descriptors: Vec::new(),
            has_userfaultfd: false,
        }
    }

    fn dealt(processes: Vec<Running>) -> Faulted {
        deal(&State { processes, files: BTreeMap::new() })
    }

    /// How many pages each process has faulted in. A page that was there already does not count.
    fn counters(faulted: &Faulted) -> BTreeMap<u32, u64> {
        let mut here = BTreeSet::new();
        let mut counters = BTreeMap::new();
        for &(pid, address) in &faulted.list {
            if here.insert(address) {
                *counters.entry(pid).or_default() += 1;
            }
        }
        counters
    }

    #[test]
    fn pages_that_no_counter_has_are_those_of_a_process_that_has_ended() {
        let faulted = dealt(vec![process(10, 1, &[(1, 5)]), process(11, 1, &[(1, 5)])]);
        assert_eq!(counters(&faulted), [(10, 1), (11, 1), (FIRST_ENDED, 3)].into());
        assert_eq!((faulted.ended[0].like, faulted.ended[0].pages), (10, 3));
        assert!(faulted.not_found.is_empty());
    }

    #[test]
    fn a_process_without_pages_of_its_own_reaches_one_of_the_others_when_all_are_there() {
        let faulted = dealt(vec![process(10, 3, &[(1, 3)]), process(11, 0, &[(1, 3)])]);
        assert_eq!(counters(&faulted), [(10, 3)].into());
        assert_eq!(faulted.list.last(), Some(&(11, 2 * GIB)));
        assert!(faulted.ended.is_empty());
    }

    #[test]
    fn who_reaches_one_table_alone_does_not_go_without_for_those_who_reach_two() {
        // In the order of the files, 10 gets the first and 11 the second. The third is for 10 alone: 10 hands the first on to 11
        // for it, and 11 the second to 12.
        let faulted = dealt(vec![
            process(10, 4, &[(1, 4), (3, 4)]),
            process(11, 4, &[(1, 4), (2, 4)]),
            process(12, 4, &[(2, 4)]),
        ]);
        assert_eq!(counters(&faulted), [(10, 4), (11, 4), (12, 4)].into(), "{faulted:?}");
        assert!(faulted.ended.is_empty() && faulted.not_found.is_empty(), "{faulted:?}");
    }

    #[test]
    fn what_a_counter_has_and_no_table_shows_is_said() {
        let faulted = dealt(vec![process(10, 4, &[(1, 3)])]);
        assert_eq!(counters(&faulted), [(10, 3)].into());
        assert_eq!(faulted.not_found, [(10, 1)].into());
    }
}
