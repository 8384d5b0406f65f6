//! What faults, fork and unshare cost.

use std::time::{Duration, Instant};

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Cpu, Host, HostConfig};

use super::crowd::together;
use super::sample::{Case, Effort, measure};
use super::{BenchError, Group};

/// Pages of the mapping that is forked: 2 GiB, as in the figures of Linux that the design compares with.
const PAGES: u64 = 1024;

struct Setting {
    hugetlb: Arc<Hugetlb<Host>>,
}

impl Setting {
    fn new(contents: Contents) -> Result<Self, BenchError> {
        let config = HostConfig::new().huge_bytes(3 * PUD_SIZE).contents(contents);
        let hugetlb = Hugetlb::new(Host::new(&config)?)?;
        hugetlb.resize_pool(X86_64::SIZE_2M, PAGES + 16);
        Ok(Self { hugetlb })
    }

    /// This thread's task, for as long as it is needed: there are several systems, and a thread has one task.
    fn task(&self) -> Result<Task<Host>, BenchError> {
        Ok(hugewalk_host::task(&self.hugetlb)?)
    }

    fn map(&self, start: u64, pages: u64, flags: MapFlags) -> Result<Arc<AddressSpace<Host>>, BenchError> {
        let space = AddressSpace::new(&self.hugetlb)?;
        let request = MapRequest {
            placement: Placement::Fixed(VirtAddr::new(start)),
            length: pages * PMD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags,
            backing: Backing::Anonymous(X86_64::SIZE_2M),
        };
        space.mmap(&mut self.task()?, &request)?;
        Ok(space)
    }
}

/// Faults a fresh page in and drops it again, so many times; the faults alone are timed.
fn fault_fresh(task: &mut Task<Host>, space: &AddressSpace<Host>, iterations: u64) -> Duration {
    let mut took = Duration::ZERO;
    let start = VirtAddr::new(PUD_SIZE);
    for _ in 0..iterations {
        let began = Instant::now();
        let _ = space.fault(task, start, Access::Write);
        took += began.elapsed();
        let _ = space.madvise(task, start, PMD_SIZE, Advice::DontNeed);
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
    Ok(child.exit(task).map_err(MapError::from)?)
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

/// Each group for one thread and for two at once.
pub(super) fn groups(effort: &Effort) -> Result<Vec<Group>, BenchError> {
    let mut groups = Vec::new();
    for threads in [1, 2] {
        groups.push(fresh_faults(effort, threads)?);
        groups.push(forks(effort, threads)?);
        groups.push(unshares(effort, threads)?);
    }
    Ok(groups)
}

fn title(what: &str, threads: usize) -> String {
    if threads == 1 { format!("{what}, 1 thread") } else { format!("{what}, {threads} threads at once") }
}

fn fresh_faults(effort: &Effort, threads: usize) -> Result<Group, BenchError> {
    let (real, empty) = (Setting::new(Contents::Memory)?, Setting::new(Contents::Nothing)?);
    let (mut real_spaces, mut empty_spaces) = (Vec::new(), Vec::new());
    for _ in 0..threads {
        real_spaces.push(real.map(PUD_SIZE, 1, MapFlags::empty())?);
        empty_spaces.push(empty.map(PUD_SIZE, 1, MapFlags::empty())?);
    }
    let baseline = "filling 2 MiB with zeroes";
    let cases = vec![
        Case::timed(baseline, |n| together(&real.hugetlb, threads, |_, _| fill(n))),
        Case::timed("fault of a 2 MiB page", |n| {
            together(&real.hugetlb, threads, |task, thread| fault_fresh(task, &real_spaces[thread], n))
        }),
        Case::timed("the same without contents", |n| {
            together(&empty.hugetlb, threads, |task, thread| fault_fresh(task, &empty_spaces[thread], n))
        }),
    ];
    let cases = measure(effort, cases);
    Ok(Group {
        title: title("One fault of a fresh page", threads),
        note: None,
        baseline: baseline.into(),
        cases,
    })
}

fn fill(iterations: u64) -> Duration {
    let mut page = vec![0u8; PMD_SIZE as usize];
    let began = Instant::now();
    for _ in 0..iterations {
        page.fill(std::hint::black_box(0));
        std::hint::black_box(&mut page);
    }
    began.elapsed()
}

fn forks(effort: &Effort, threads: usize) -> Result<Group, BenchError> {
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    let (one, other) = (Setting::new(Contents::Nothing)?, Setting::new(Contents::Nothing)?);
    let aligned = 4 * PUD_SIZE;
    let shared = one.map(aligned, PAGES, flags)?;
    let unshared = map_in_halves(&other, aligned)?;
    // Once before, so that what cannot work is said and not measured.
    fork_touch_exit(&mut one.task()?, &shared, aligned)?;
    fork_touch_exit(&mut other.task()?, &unshared, aligned)?;
    let many = |task: &mut Task<Host>, parent: &AddressSpace<Host>, iterations| {
        let began = Instant::now();
        for _ in 0..iterations {
            let _ = fork_touch_exit(task, parent, aligned);
        }
        began.elapsed()
    };
    let cases = vec![
        Case::timed("tables shared", |n| together(&one.hugetlb, threads, |task, _| many(task, &shared, n))),
        Case::timed("tables not shared", |n| {
            together(&other.hugetlb, threads, |task, _| many(task, &unshared, n))
        }),
    ];
    let cases = measure(effort, cases);
    let title = title("fork, load from each page of 2 GiB, exit", threads);
    Ok(Group { title, note: None, baseline: "tables shared".into(), cases })
}

/// 2 GiB in four mappings of half a gigabyte: none covers what a table covers, so none can share.
fn map_in_halves(setting: &Setting, start: u64) -> Result<Arc<AddressSpace<Host>>, BenchError> {
    let space = AddressSpace::new(&setting.hugetlb)?;
    let half = PAGES / 4;
    for part in 0..4 {
        let request = MapRequest {
            placement: Placement::Fixed(VirtAddr::new(start + part * half * PMD_SIZE)),
            length: half * PMD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: MapFlags::SHARED | MapFlags::POPULATE,
            backing: Backing::Anonymous(X86_64::SIZE_2M),
        };
        space.mmap(&mut setting.task()?, &request)?;
    }
    Ok(space)
}

/// A page dropped, by processes that share a table and by others that have tables of their own.
pub(super) struct GivingUp {
    setting: Setting,
    _parent: Arc<AddressSpace<Host>>,
    children: Vec<Arc<AddressSpace<Host>>>,
    alone: Vec<Arc<AddressSpace<Host>>>,
}

const DROP: &str = "drop one page of an unshared table";

impl GivingUp {
    /// For so many threads.
    pub(super) fn new(threads: usize) -> Result<Self, BenchError> {
        let setting = Setting::new(Contents::Nothing)?;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        let parent = setting.map(4 * PUD_SIZE, 512, flags)?;
        let (mut children, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            children.push(parent.fork(&mut setting.task()?)?);
            alone.push(setting.map(4 * PUD_SIZE, 1, flags)?);
        }
        Ok(Self { setting, _parent: parent, children, alone })
    }

    pub(super) fn cases<'a>(&'a self) -> [Case<'a>; 2] {
        let case = |name, spaces: &'a [Arc<AddressSpace<Host>>]| {
            Case::timed(name, move |n| {
                together(&self.setting.hugetlb, spaces.len(), |task, thread| {
                    unshare(task, &spaces[thread], n)
                })
            })
        };
        [case("unshare a table (MADV_DONTNEED)", &self.children), case(DROP, &self.alone)]
    }
}

fn unshares(effort: &Effort, threads: usize) -> Result<Group, BenchError> {
    let giving_up = GivingUp::new(threads)?;
    let cases = measure(effort, giving_up.cases().into());
    Ok(Group { title: title("Giving up", threads), note: None, baseline: DROP.into(), cases })
}
