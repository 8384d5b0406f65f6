//! The pools of huge pages, from `/sys/kernel/mm/hugepages`, or else from `/proc/meminfo`.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{field, first_number, read};

/// What belongs to no process.
pub(crate) struct Machine {
    /// `PageTables` of meminfo: all page tables of all processes. Each shared table counts once.
    pub(crate) page_tables_kb: u64,
    /// The size of huge pages where nobody names one.
    pub(crate) default_page_kb: u64,
    /// By the size of their pages.
    pub(crate) pools: Vec<Pool>,
}

/// The pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// The size of a page.
    pub huge_page_kb: u64,
    /// Pages there are.
    pub total: u64,
    /// Those of them that hold nothing.
    pub free: u64,
    /// Free pages that a mapping or a file has reserved.
    pub reserved: u64,
    /// Free pages that are not reserved.
    pub unreserved: u64,
    /// Those of `total` that overcommit has added; they go back to the system once they are free.
    pub surplus: u64,
    /// The most that `surplus` may come to; null if nothing says so.
    pub overcommit: Option<u64>,
}

pub(crate) fn machine(meminfo: &str, proc: &Path, sys: &Path) -> Machine {
    let figure = |name: &str| field(meminfo, name).and_then(first_number);
    let default_page_kb = figure("Hugepagesize:").unwrap_or(0);
    let mut pools = in_sys(&sys.join("kernel/mm/hugepages"));
    let in_meminfo = figure("HugePages_Total:").filter(|_| default_page_kb > 0);
    if let Some(total) = in_meminfo.filter(|_| pools.is_empty()) {
        let pages = |name| figure(name).unwrap_or(0);
        pools.push(Pool {
            huge_page_kb: default_page_kb,
            total,
            free: pages("HugePages_Free:"),
            reserved: pages("HugePages_Rsvd:"),
            unreserved: pages("HugePages_Free:").saturating_sub(pages("HugePages_Rsvd:")),
            surplus: pages("HugePages_Surp:"),
            overcommit: number(&proc.join("sys/vm/nr_overcommit_hugepages")),
        });
    }
    Machine { page_tables_kb: figure("PageTables:").unwrap_or(0), default_page_kb, pools }
}

fn in_sys(directory: &Path) -> Vec<Pool> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let pool = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        let huge_page_kb = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let (free, reserved) = (number(&path.join("free_hugepages"))?, number(&path.join("resv_hugepages"))?);
        Some(Pool {
            huge_page_kb,
            total: number(&path.join("nr_hugepages"))?,
            free,
            reserved,
            unreserved: free.saturating_sub(reserved),
            surplus: number(&path.join("surplus_hugepages"))?,
            overcommit: number(&path.join("nr_overcommit_hugepages")),
        })
    };
    let mut pools: Vec<Pool> = entries.flatten().filter_map(|entry| pool(&entry.path())).collect();
    pools.sort_unstable_by_key(|pool| pool.huge_page_kb);
    pools
}

fn number(path: &Path) -> Option<u64> {
    first_number(&read(path).ok()?)
}
