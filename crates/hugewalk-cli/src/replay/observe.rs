//! What the engine holds at one moment.

use std::collections::{BTreeMap, HashMap};

use hugewalk::addr::HugeSize;
use hugewalk::arch::X86_64;
use hugewalk::sync::Arc;
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use super::machine::Machine;
use super::plan::{Plan, Space};
use super::pools::Choice;
use crate::report::{Pool, Process, Resident, Tables, range_text};

/// Bytes of a page table.
const TABLE: u64 = 4096;

/// The page tables of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// As the report has them.
    pub(crate) tables: Tables,
    /// Each use of a table by the first copy.
    pub(crate) uses: Vec<Use>,
}

/// A table as one address space uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    /// Who.
    pub(crate) space: Space,
    /// Where the range begins that it covers.
    pub(crate) start: u64,
    /// The size of its leaves.
    pub(crate) size: HugeSize,
    /// How many use it.
    pub(crate) users: u64,
    /// Leaves in it.
    pub(crate) leaves: u64,
}

/// Looks at all address spaces of all copies.
pub(super) fn snapshot(machine: &mut Machine, copies: u32) -> Snapshot {
    let mut counting = Counting::default();
    for copy in 0..copies {
        let (spaces, task) = machine.spaces(copy);
        for (number, space) in (0..).map(Space).zip(spaces) {
            if let Some(space) = space {
                counting.add(number, space, task, copy == 0);
            }
        }
    }
    counting.finish()
}

/// Address spaces whose tables are being counted.
#[derive(Default)]
pub(crate) struct Counting {
    snapshot: Snapshot,
    /// Leaves of the shared tables, counted once.
    leaves: HashMap<u64, u64>,
}

impl Counting {
    /// Counts those of one address space; the uses of the first copy are listed.
    pub(crate) fn add(
        &mut self,
        number: Space,
        space: &Arc<AddressSpace<Host>>,
        task: &mut Task<Host>,
        listed: bool,
    ) {
        let Self { snapshot, leaves } = self;
        let counted =
            space.tables_counting(task, |identity, users| users == 1 || !leaves.contains_key(&identity));
        // Without memory for a list there is nothing to say.
        let Ok(found) = counted else { return };
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
            let present =
                if shared { *leaves.entry(table.identity).or_insert(table.leaves) } else { table.leaves };
            reached += present;
            if listed {
                let (start, size, users) = (table.start.as_u64(), table.size, table.users);
                snapshot.uses.push(Use { space: number, start, size, users, leaves: present });
            }
        }
        let own = space.mm().resident();
        snapshot.tables.pages_faulted += own;
        snapshot.tables.faults_saved += reached.saturating_sub(own);
    }

    /// What came of it.
    pub(crate) fn finish(mut self) -> Snapshot {
        let tables = &mut self.snapshot.tables;
        tables.bytes = tables.tables * TABLE;
        tables.bytes_unshared = tables.uses * TABLE;
        self.snapshot
    }
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
    X86_64::SIZES.map(of).into()
}
