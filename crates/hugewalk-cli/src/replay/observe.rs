//! What the engine holds at one moment.

use std::collections::{BTreeMap, HashMap};

use hugewalk::addr::HugeSize;

use super::machine::Machine;
use super::plan::{Plan, Space};
use super::pools::Choice;
use crate::report::{Pool, Process, Resident, Tables, range_text};

/// Bytes of a page table.
const TABLE: u64 = 4096;

/// The page tables of one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// As the report has them.
    pub(super) tables: Tables,
    /// The tables that nobody shares, by the address space and the address they begin at, over all copies.
    pub(super) unshared_at: HashMap<(Space, u64), Alone>,
}

/// Tables of the copies of a process that begin at one address and are not shared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Alone {
    /// How many there are.
    pub(super) tables: u64,
    /// Pages in all of them.
    pub(super) pages: u64,
    /// Pages in the fullest.
    pub(super) most: u64,
}

/// Looks at all address spaces of all copies.
pub(super) fn snapshot(machine: &mut Machine, copies: u32) -> Snapshot {
    let mut snapshot = Snapshot::default();
    // Leaves of the shared tables, counted once.
    let mut leaves: HashMap<u64, u64> = HashMap::new();
    for copy in 0..copies {
        let (spaces, task) = machine.spaces(copy);
        for (number, space) in (0..).map(Space).zip(spaces) {
            let Some(space) = space else { continue };
            let counted =
                space.tables_counting(task, |identity, users| users == 1 || !leaves.contains_key(&identity));
            // Without memory for a list there is nothing to say.
            let Ok(found) = counted else { continue };
            snapshot.tables.processes += 1;
            let mut reached = 0;
            for table in found {
                let shared = table.users > 1;
                let first = !shared || !leaves.contains_key(&table.identity);
                if first {
                    snapshot.tables.tables += 1;
                    *snapshot.tables.by_users.entry(table.users).or_default() += 1;
                }
                snapshot.tables.uses += 1;
                if shared {
                    reached += *leaves.entry(table.identity).or_insert(table.leaves);
                } else {
                    reached += table.leaves;
                    if table.size == HugeSize::Size2M {
                        let alone = snapshot.unshared_at.entry((number, table.start.as_u64())).or_default();
                        alone.tables += 1;
                        alone.pages += table.leaves;
                        alone.most = alone.most.max(table.leaves);
                    }
                }
            }
            let own = space.mm().resident();
            snapshot.tables.pages_faulted += own;
            snapshot.tables.faults_saved += reached.saturating_sub(own);
        }
    }
    snapshot.tables.bytes = snapshot.tables.tables * TABLE;
    snapshot.tables.bytes_unshared = snapshot.tables.uses * TABLE;
    snapshot
}

/// The processes of the first copy that are alive.
pub(super) fn processes(machine: &mut Machine, plan: &Plan) -> Vec<Process> {
    let mut processes = BTreeMap::new();
    for (pid, space) in &plan.living {
        let (spaces, task) = machine.spaces(0);
        let Some(space) = spaces.get(space.0 as usize).and_then(Option::as_ref) else {
            continue;
        };
        let mut mappings = Vec::new();
        space
            .residency(task, |vma, residency| {
                let kilobytes = |pages: u64| pages * (vma.size().bytes() >> 10);
                mappings.push(Resident {
                    range: range_text(&(vma.start().as_u64()..vma.end().as_u64())),
                    shared_hugetlb_kb: kilobytes(residency.shared),
                    private_hugetlb_kb: kilobytes(residency.private),
                });
            })
            .expect("its own task");
        // As Linux prints it, which knows no sign there: see `doubts`.
        let hugetlb_pages_kb = (space.mm().resident_balance() / 1024).cast_unsigned();
        processes.insert(*pid, Process { pid: *pid, hugetlb_pages_kb, mappings });
    }
    processes.into_values().collect()
}

/// The pools.
pub(super) fn pools(machine: &Machine, choice: &Choice) -> Vec<Pool> {
    let of = |size: HugeSize| {
        let counters = machine.hugetlb().pool(size).counters();
        Pool {
            huge_page_kb: size.bytes() >> 10,
            total: counters.total,
            free: counters.free,
            reserved: counters.reserved,
            surplus: counters.surplus,
            guessed: choice.is_guess(size.shift()),
        }
    };
    HugeSize::ALL.map(of).into()
}
