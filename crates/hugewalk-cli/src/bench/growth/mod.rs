//! How costs grow: with the mappings of a file, with the processes that share a table, with the pages of a file, with threads.
//!
//! The sizes of a group are measured in turn, each in a system of its own state, so the ratios say how a cost grows.

mod mappings;
mod pages;
mod processes;
mod threads;

use std::cell::{Cell, RefCell};
use std::fmt::Display;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig};

use super::sample::{Case, Effort, measure};
use super::{BenchError, Group};

/// Groups that [`groups`] measures.
pub(super) const GROUPS: u64 = 13;

const PAGE: u64 = X86_64::SIZE_2M.bytes();
const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE);
const RW: Protection = Protection::READ.union(Protection::WRITE);

/// How large what grows is made.
pub(super) struct Sizes<'a> {
    pub(super) mappings: &'a [u64],
    pub(super) processes: &'a [u64],
    pub(super) pages: &'a [u64],
    pub(super) threads: &'a [u64],
}

impl Sizes<'_> {
    /// As many mappings as Linux allows a process; and other numbers that a machine of today has.
    pub(super) const ALL: Self = Self {
        mappings: &[1, 64, 1024, 16_384, 65_530],
        processes: &[1, 10, 100, 1000, 10_000],
        pages: &[512, 512 * 8, 512 * 64, 512 * 512],
        threads: &[1, 2, 4, 8],
    };
}

pub(super) fn groups(effort: &Effort, sizes: &Sizes<'_>) -> Result<Vec<Group>, BenchError> {
    let mut groups = mappings::groups(effort, sizes.mappings)?;
    groups.extend(processes::groups(effort, sizes.processes)?);
    groups.extend(pages::groups(effort, sizes.pages)?);
    groups.extend(threads::groups(effort, sizes.threads)?);
    Ok(groups)
}

/// A system without contents, with so many pages, and the task of this thread.
struct System {
    hugetlb: Arc<Hugetlb<Host>>,
    task: RefCell<Task<Host>>,
}

impl System {
    fn new(pages: u64) -> Result<Self, BenchError> {
        let bytes = (pages * PAGE).next_multiple_of(PUD_SIZE);
        let config = HostConfig::new().huge_bytes(bytes).contents(Contents::Nothing);
        let hugetlb = Hugetlb::new(Host::new(&config)?)?;
        if hugetlb.resize_pool(X86_64::SIZE_2M, pages) < pages {
            return Err(BenchError::Pages(pages));
        }
        let task = RefCell::new(hugewalk_host::task(&hugetlb)?);
        Ok(Self { hugetlb, task })
    }

    fn file(&self) -> Result<Arc<HugeFile<Host>>, BenchError> {
        Ok(HugeFile::new(&self.hugetlb, X86_64::SIZE_2M, None)?)
    }
}

/// Maps so many bytes of a file, shared, behind an offset.
fn map(
    space: &AddressSpace<Host>,
    task: &mut Task<Host>,
    file: &Arc<HugeFile<Host>>,
    placement: Placement,
    (offset, length): (u64, u64),
) -> Result<VirtAddr, BenchError> {
    let (flags, backing) = (MapFlags::SHARED | MapFlags::NORESERVE, Backing::File { file, offset });
    Ok(space.mmap(task, &MapRequest { placement, length, protection: RW, flags, backing })?)
}

/// Numbers below another, spread over all of them, in an order that no cache could follow.
struct Spread(Cell<u64>);

impl Spread {
    fn new() -> Self {
        Self(Cell::new(0))
    }

    fn below(&self, number: u64) -> u64 {
        let turn = self.0.get();
        self.0.set(turn.wrapping_add(1));
        // The high bits are the good ones.
        let part = u128::from(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        ((part * u128::from(number)) >> 64) as u64
    }
}

/// What is done, with something of each size; in turn. `work` does it so many times.
fn grow<'a, T: 'a>(
    effort: &Effort,
    title: &str,
    (one, many): (&str, &str),
    sizes: &'a [(u64, T)],
    case: impl Fn(&str, u64, &'a T) -> Case<'a>,
) -> Group {
    let name = |size: u64| counted(size, if size == 1 { one } else { many });
    let cases = sizes.iter().map(|(size, grown)| case(&name(*size), *size, grown)).collect();
    Group {
        title: title.to_owned(),
        note: None,
        baseline: sizes.first().map(|(size, _)| name(*size)).unwrap_or_default(),
        cases: measure(effort, cases),
    }
}

fn counted(number: impl Display, what: &str) -> String {
    format!("{number} {what}")
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressBar;

    use super::*;

    const FEW: Sizes<'_> =
        Sizes { mappings: &[1, 9], processes: &[1, 3], pages: &[8, 512], threads: &[1, 2] };

    #[test]
    fn each_operation_is_measured_at_each_size() {
        let effort = Effort { samples: 1, seconds: 1e-4, bar: ProgressBar::hidden() };
        let groups = groups(&effort, &FEW).unwrap();
        assert_eq!(groups.len() as u64, GROUPS);
        for group in &groups {
            assert_eq!(group.cases.len(), 2, "{}", group.title);
            assert_eq!(group.baseline, group.cases[0].name, "{}", group.title);
            assert!(group.cases.iter().all(|case| case.median_ns > 0.0), "{group:?}");
        }
        assert_eq!(groups[0].cases[1].name, "9 mappings");
    }

    #[test]
    fn numbers_are_spread_and_below_what_they_are_to_be() {
        let spread = Spread::new();
        let met: std::collections::BTreeSet<u64> = (0..400).map(|_| spread.below(100)).collect();
        assert!(met.len() > 90 && met.iter().all(|&number| number < 100), "{met:?}");
    }
}
