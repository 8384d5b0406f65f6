//! A host with a set of VMAs and an mmap lock of its own, which calls the engine for one VMA at a time.

use std::rc::Rc;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
use hugewalk::base::HostSlot;
use hugewalk::fault::{Access, Fault, FaultError, Handled, hugetlb_fault};
use hugewalk::gup::{Followed, GupFlags, follow_hugetlb_page};
use hugewalk::mm::Mm;
use hugewalk::platform::Tables;
use hugewalk::sleep::BiasedRwLock;
use hugewalk::sync::Arc;
use hugewalk::vm_ops;
use hugewalk::vma::{MmapLocked, MmapLockedForWrite, Policy, Protection, Shape, Vma, VmaFlags};
use hugewalk::walk::huge_pte_offset;

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, page};
use super::expected::{MISTAKE, OWN, Row};
use super::other::USUAL;
use crate::explore::violation;
use crate::lab::{Lab, Property};

macro_rules! row {
    ($id:literal, $what:literal, $build:ident) => {
        Row { scenario: Scenario { id: $id, what: $what, judged: USUAL, build: $build }, verdicts: OWN }
    };
    ($id:literal, $what:literal, $build:ident, without $step:literal) => {
        Row {
            scenario: Scenario {
                id: $id,
                what: $what,
                judged: USUAL,
                build: |bench| {
                    bench.without($step);
                    $build(bench);
                },
            },
            verdicts: MISTAKE,
        }
    };
}

pub(super) const ROWS: &[Row] = &[
    row!(
        "S97",
        "A walks without a lock; B, the host, unmaps under a lock of its own, and the table goes",
        walk_and_unmap
    ),
    row!(
        "S97:freed-at-once",
        "S97, and the table is freed without a grace period",
        walk_and_unmap,
        without "rcu-free"
    ),
    row!(
        "S97/fault",
        "A, of the host, faults and pins; B, of the host, unmaps, and the table goes",
        fault_and_unmap
    ),
    row!("S97/fork", "A, of the host, stores to a private page; B forks", store_and_fork),
    row!(
        "S97/unshare",
        "A, of the host, faults in a table that is shared; B drops a page there, and the process that is left with the table unmaps",
        fault_and_zap
    ),
    row!(
        "S97/unshare:no-vma-lock",
        "S97/unshare, and A does not hold the VMA lock while it has its slot",
        fault_and_zap,
        without "vma-lock"
    ),
    row!(
        "S97/put",
        "a host whose set is wrong puts a table of its own among the pages of A, while B begins to share the table above",
        put_and_share
    ),
];

/// A process of such a host: its set has one VMA at most.
#[derive(Clone)]
struct Own {
    mm: Arc<Mm<Lab>>,
    set: Rc<BiasedRwLock<Lab, Option<Arc<Vma<Lab>>>>>,
}

impl Own {
    /// A process with nothing in it. At the end, what it maps is unmapped.
    fn new(bench: &mut Bench<'_>) -> Self {
        let mm = Mm::new(bench.hugetlb()).expect("memory");
        let set = Rc::new(BiasedRwLock::new(bench.hugetlb(), None));
        let process = Self { mm, set };
        let last = process.clone();
        bench.at_end(move |task| last.unmap(task));
        process
    }

    /// A process that maps a gigabyte of the file, and has stored to page 0.
    fn with_page(bench: &mut Bench<'_>, file: &File, shared: VmaFlags) -> Self {
        let process = Self::new(bench);
        let task = bench.task();
        let (start, end) = (BASE, VirtAddr::new(BASE.as_u64() + PUD_SIZE));
        let protection = Protection::READ | Protection::WRITE;
        let flags = shared | VmaFlags::NORESERVE;
        let shape = Shape { start, end, offset: 0, protection, flags, policy: Policy::Default };
        let mut set = process.set.write(task);
        // SAFETY: the lock is held in write.
        let mut mmap = unsafe { MmapLockedForWrite::assume_held(&process.mm) };
        // SAFETY: nothing is mapped yet.
        let vma = unsafe { vm_ops::map(&mut mmap, file, shape, task) };
        *set = Some(vma.expect("memory"));
        drop(set);
        process.fault(task, 0);
        process
    }

    /// Does something with the VMA, if there is one, with the mmap lock in read.
    fn in_read(
        &self,
        task: &mut LabTask,
        work: impl FnOnce(&MmapLocked<'_, Lab>, &Arc<Vma<Lab>>, &mut LabTask),
    ) {
        let set = self.set.read(task);
        if let Some(vma) = &*set {
            // SAFETY: the lock is held in read, and writers hold it in write.
            work(&unsafe { MmapLocked::assume_held(&self.mm) }, vma, task);
        }
    }

    fn fault(&self, task: &mut LabTask, index: u64) {
        self.in_read(task, |mmap, vma, task| {
            loop {
                match hugetlb_fault(mmap, vma, page(index), Access::Write, task) {
                    Ok(Handled::Done(Fault::Raced)) => {}
                    Ok(Handled::Done(_)) => return,
                    Ok(Handled::Retry(_)) => return violation("nothing moves".to_owned(), Property::I9),
                    Err(FaultError::NotMapped { .. }) => return,
                    Err(error) => return violation(format!("a fault fails: {error}"), error),
                }
            }
        });
    }

    fn pin(&self, task: &mut LabTask, index: u64) {
        self.in_read(task, |mmap, vma, task| {
            match follow_hugetlb_page(mmap, vma, page(index), 1, GupFlags::PIN | GupFlags::WRITE, task) {
                Ok(Followed::Pages(pins)) => drop(pins),
                Ok(Followed::Retry(_)) => violation("nothing moves".to_owned(), Property::I9),
                Err(error) => violation(format!("a pin fails: {error}"), Property::I10),
            }
        });
    }

    fn zap(&self, task: &mut LabTask, index: u64) {
        self.in_read(task, |mmap, vma, task| {
            vm_ops::zap(mmap, vma, page(index)..page(index + 1), task).expect("mapped");
        });
    }

    fn unmap(&self, task: &mut LabTask) {
        let mut set = self.set.write(task);
        let Some(vma) = set.take() else { return };
        // SAFETY: the lock is held in write.
        let mut mmap = unsafe { MmapLockedForWrite::assume_held(&self.mm) };
        drop(vm_ops::unmap(&mut mmap, &vma, task).expect("mapped"));
        let all = VirtAddr::new(0)..self.mm.task_size();
        // SAFETY: there was one VMA.
        unsafe { vm_ops::free_tables(&mut mmap, vma.start()..vma.end(), all, task) }.expect("its own task");
    }

    fn fork(&self, child: &Self, task: &mut LabTask) {
        let set = self.set.write(task);
        let mut born = child.set.write(task);
        if let Some(vma) = &*set {
            // SAFETY: the lock is held in write.
            let mut mmap = unsafe { MmapLockedForWrite::assume_held(&self.mm) };
            // SAFETY: likewise.
            let mut into = unsafe { MmapLockedForWrite::assume_held(&child.mm) };
            // SAFETY: nothing is mapped in the child.
            let copied = unsafe { vm_ops::copy(&mut mmap, vma, &mut into, task) };
            *born = Some(copied.expect("memory"));
        }
    }
}

fn walk_and_unmap(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = Own::with_page(bench, &file, VmaFlags::SHARED);
    let mm = process.mm.clone();
    bench.cpu("walk", move |task| {
        let section = task.rcu_read_lock();
        if let Some(slot) = huge_pte_offset(&section, &mm, page(0), X86_64::SIZE_2M).expect("its own task")
            && let Ok(entry) = slot.read()
            && !matches!(entry, Entry::Leaf(_) | Entry::None)
        {
            violation(format!("I1: an entry of a table that is gone says {entry:?}"), Property::I1);
        }
    });
    bench.cpu("unmap", move |task| process.unmap(task));
}

fn fault_and_unmap(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = Own::with_page(bench, &file, VmaFlags::SHARED);
    let same = process.clone();
    bench.cpu("fault, pin", move |task| {
        process.fault(task, 0);
        process.pin(task, 0);
    });
    bench.cpu("unmap", move |task| same.unmap(task));
}

fn store_and_fork(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = Own::with_page(bench, &file, VmaFlags::empty());
    let child = Own::new(bench);
    let same = process.clone();
    bench.cpu("fault", move |task| process.fault(task, 0));
    bench.cpu("fork", move |task| same.fork(&child, task));
}

fn fault_and_zap(bench: &mut Bench<'_>) {
    let file = bench.file();
    let partner = Own::with_page(bench, &file, VmaFlags::SHARED);
    let process = Own::with_page(bench, &file, VmaFlags::SHARED);
    let same = process.clone();
    bench.cpu("fault", move |task| process.fault(task, 1));
    bench.cpu("zap, exit", move |task| {
        same.zap(task, 0);
        partner.unmap(task);
    });
}

fn put_and_share(bench: &mut Bench<'_>) {
    let file = bench.file();
    let wrong = Own::with_page(bench, &file, VmaFlags::SHARED);
    let process = Own::with_page(bench, &file, VmaFlags::SHARED);
    // Nothing is shared yet, and both have the table above.
    process.zap(bench.task(), 0);
    let same = process.clone();
    let last = wrong.clone();
    bench.at_end(move |task| take_table(task, &last));
    bench.cpu("put", move |task| put_table(task, &wrong));
    bench.cpu("fault", move |task| {
        process.fault(task, 0);
        let section = task.rcu_read_lock();
        let slot = huge_pte_offset(&section, &same.mm, page(1), X86_64::SIZE_2M).expect("its own task");
        if let Some(Ok(entry @ Entry::HostTable(_))) = slot.map(|slot| slot.read()) {
            violation(format!("I3: {entry:?}, which another process put there"), Property::I3);
        }
    });
}

/// The host puts a table at page 1.
fn put_table(task: &mut LabTask, wrong: &Own) {
    let table = task.hugetlb().platform().alloc_table().expect("memory");
    let free = page(1)..page(2);
    let mut put = Err(table);
    wrong.in_read(task, |mmap, _, task| {
        // SAFETY: a table of empty entries, which stays until the end of the run. The place is mapped, which is what this
        // scenario is about.
        let into = |slot: &mut HostSlot<'_, Lab>| unsafe { slot.put(table) };
        // SAFETY: likewise: it is not so that nothing is mapped in that range.
        put = unsafe { mmap.host_slot(task, page(1), &free, into) }.expect("memory");
    });
    if let Err(table) = put {
        // SAFETY: it was not put anywhere.
        unsafe { task.hugetlb().platform().free_table(table) };
    }
}

/// The host takes its table away, if it is there, and frees it.
fn take_table(task: &mut LabTask, wrong: &Own) {
    let set = wrong.set.read(task);
    // SAFETY: the lock is held in read.
    let mmap = unsafe { MmapLocked::assume_held(&wrong.mm) };
    let all = VirtAddr::new(0)..wrong.mm.task_size();
    let mut taken = None;
    // SAFETY: nothing is mapped any more.
    unsafe { mmap.host_slots(task, page(1)..page(2), &all, |slot| taken = slot.take()) }
        .expect("its own task");
    drop(set);
    if let Some(table) = taken {
        // SAFETY: taken away, and flushed.
        unsafe { task.hugetlb().platform().free_table(table) };
    }
}
