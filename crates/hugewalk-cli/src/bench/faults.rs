//! What faults, fork and unshare cost.

use std::time::{Duration, Instant};

use hugewalk::addr::{HugeSize, PMD_SIZE, PUD_SIZE, VirtAddr};
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Cpu, Host, HostConfig};

use super::sample::{Case, Effort, measure};
use super::{BenchError, Group};

/// Pages of the mapping that is forked: 2 GiB, as in the figures of Linux that the design compares with.
const PAGES: u64 = 1024;

struct Setting {
    hugetlb: Arc<Hugetlb<Host>>,
    task: Task<Host>,
}

impl Setting {
    fn new(contents: Contents) -> Result<Self, BenchError> {
        let config = HostConfig::new().huge_bytes(3 * PUD_SIZE).contents(contents);
        let hugetlb = Hugetlb::new(Host::new(&config)?)?;
        hugetlb.resize_pool(HugeSize::Size2M, PAGES + 16);
        let task = Task::new(&hugetlb)?;
        Ok(Self { hugetlb, task })
    }

    fn map(
        &mut self,
        start: u64,
        pages: u64,
        flags: MapFlags,
    ) -> Result<Arc<AddressSpace<Host>>, BenchError> {
        let space = AddressSpace::new(&self.hugetlb)?;
        let request = MapRequest {
            placement: Placement::Fixed(VirtAddr::new(start)),
            length: pages * PMD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags,
            backing: Backing::Anonymous(HugeSize::Size2M),
        };
        space.mmap(&mut self.task, &request)?;
        Ok(space)
    }
}

/// Faults a fresh page in and drops it again, so many times; the faults alone are timed.
fn fault_fresh(setting: &mut Setting, space: &AddressSpace<Host>, iterations: u64) -> Duration {
    let mut took = Duration::ZERO;
    let start = VirtAddr::new(PUD_SIZE);
    for _ in 0..iterations {
        let began = Instant::now();
        let _ = space.fault(&mut setting.task, start, Access::Write);
        took += began.elapsed();
        let _ = space.madvise(&mut setting.task, start, PMD_SIZE, Advice::DontNeed);
    }
    took
}

/// fork, a load from every page, exit: what a database pays for each connection.
fn fork_touch_exit(task: &mut Task<Host>, parent: &AddressSpace<Host>, start: u64) -> Result<(), BenchError> {
    let child = parent.fork(task)?;
    let mut cpu = Cpu::new(&child)?;
    for page in 0..PAGES {
        cpu.touch(task, VirtAddr::new(start + page * PMD_SIZE), Access::Read)?;
    }
    drop(cpu);
    child.exit(task);
    Ok(())
}

/// Takes a table up and gives it away again, so many times; the giving away alone is timed.
fn unshare(task: &mut Task<Host>, child: &AddressSpace<Host>, iterations: u64) -> Duration {
    let mut took = Duration::ZERO;
    let start = VirtAddr::new(4 * PUD_SIZE);
    for _ in 0..iterations {
        let _ = child.fault(task, start, Access::Read);
        let began = Instant::now();
        let _ = child.madvise(task, start, PMD_SIZE, Advice::DontNeed);
        took += began.elapsed();
    }
    took
}

pub(super) fn groups(effort: &Effort) -> Result<Vec<Group>, BenchError> {
    Ok(vec![fresh_faults(effort)?, forks(effort)?, unshares(effort)?])
}

fn fresh_faults(effort: &Effort) -> Result<Group, BenchError> {
    let (mut real, mut empty) = (Setting::new(Contents::Memory)?, Setting::new(Contents::Nothing)?);
    let real_space = real.map(PUD_SIZE, 1, MapFlags::empty())?;
    let empty_space = empty.map(PUD_SIZE, 1, MapFlags::empty())?;
    let mut page = vec![0u8; PMD_SIZE as usize];
    let cases = vec![
        Case::new("filling 2 MiB with zeroes", |iterations| {
            for _ in 0..iterations {
                page.fill(std::hint::black_box(0));
                std::hint::black_box(&mut page);
            }
        }),
        Case::timed("fault of a 2 MiB page", |n| fault_fresh(&mut real, &real_space, n)),
        Case::timed("the same without contents", |n| fault_fresh(&mut empty, &empty_space, n)),
    ];
    let cases = measure(effort, cases);
    Ok(Group {
        title: "One fault of a fresh page".into(),
        baseline: "filling 2 MiB with zeroes".into(),
        cases,
    })
}

fn forks(effort: &Effort) -> Result<Group, BenchError> {
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    let (mut one, mut other) = (Setting::new(Contents::Nothing)?, Setting::new(Contents::Nothing)?);
    let aligned = 4 * PUD_SIZE;
    let shared = one.map(aligned, PAGES, flags)?;
    let unshared = map_in_halves(&mut other, aligned)?;
    fork_touch_exit(&mut one.task, &shared, aligned)?;
    fork_touch_exit(&mut other.task, &unshared, aligned)?;
    let cases = vec![
        Case::new("tables shared", |iterations| {
            for _ in 0..iterations {
                let _ = fork_touch_exit(&mut one.task, &shared, aligned);
            }
        }),
        Case::new("tables not shared", |iterations| {
            for _ in 0..iterations {
                let _ = fork_touch_exit(&mut other.task, &unshared, aligned);
            }
        }),
    ];
    let cases = measure(effort, cases);
    Ok(Group {
        title: "fork, load from each page of 2 GiB, exit".into(),
        baseline: "tables shared".into(),
        cases,
    })
}

/// 2 GiB in four mappings of half a gigabyte: none covers what a table covers, so none can share.
fn map_in_halves(setting: &mut Setting, start: u64) -> Result<Arc<AddressSpace<Host>>, BenchError> {
    let space = AddressSpace::new(&setting.hugetlb)?;
    let half = PAGES / 4;
    for part in 0..4 {
        let request = MapRequest {
            placement: Placement::Fixed(VirtAddr::new(start + part * half * PMD_SIZE)),
            length: half * PMD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: MapFlags::SHARED | MapFlags::POPULATE,
            backing: Backing::Anonymous(HugeSize::Size2M),
        };
        space.mmap(&mut setting.task, &request)?;
    }
    Ok(space)
}

fn unshares(effort: &Effort) -> Result<Group, BenchError> {
    let mut setting = Setting::new(Contents::Nothing)?;
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    let parent = setting.map(4 * PUD_SIZE, 512, flags)?;
    let child = parent.fork(&mut setting.task)?;
    let alone = setting.map(4 * PUD_SIZE, 1, flags)?;
    let (mut one, mut other) = (Task::new(&setting.hugetlb)?, Task::new(&setting.hugetlb)?);
    let cases = vec![
        Case::timed("unshare a table (MADV_DONTNEED)", |n| unshare(&mut one, &child, n)),
        Case::timed("drop one page of an unshared table", |n| unshare(&mut other, &alone, n)),
    ];
    let cases = measure(effort, cases);
    let baseline = "drop one page of an unshared table".into();
    Ok(Group { title: "Giving up".into(), baseline, cases })
}
