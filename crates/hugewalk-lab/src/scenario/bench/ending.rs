//! The end of a run: nothing is under way any more, everything is as it should be, and nothing is left.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use hugewalk::Hugetlb;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, X86_64};
use hugewalk::fault::{Access, FaultError};
use hugewalk::platform::Tables;
use hugewalk::sync::Arc;
use hugewalk::uffd::{Message, Userfault};

use super::{BASE, Bench, File, LabTask, LastLook, Mount, Nursery, Process, another};
use crate::explore::{has_found, violation};
use crate::lab::{Audit, Lab, Property, Reserved};

/// What is there when the threads have ended.
struct System {
    task: LabTask,
    hugetlb: Arc<Hugetlb<Lab>>,
    processes: Vec<Process>,
    files: Vec<File>,
    mounts: Vec<Mount>,
    handlers: Vec<Rc<Userfault<Lab>>>,
    hosts: Vec<Process>,
    born: Nursery,
    last_looks: Vec<LastLook>,
}

impl Bench<'_> {
    /// The system is complete.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn finish(self) {
        let Self { setup, task, hugetlb, processes, files, mounts, handlers, hosts, born, last_looks } = self;
        let audit = another(&hugetlb);
        Audit { task: RefCell::new(audit), files: RefCell::new(files.clone()) }.begin();
        let task_of_sum = another(&hugetlb);
        let (of, on, by) = (files.clone(), mounts.clone(), processes.clone());
        Reserved { task: task_of_sum, hugetlb: hugetlb.clone(), mounts: on, files: of, processes: by }
            .begin();
        let system = System { task, hugetlb, processes, files, mounts, handlers, hosts, born, last_looks };
        setup.finally(move |judged| {
            // Nothing of it is dropped on the way out of a check that fails: what is wrong may be in use, or in a list twice.
            let mut system = ManuallyDrop::new(system);
            Audit::end();
            let found = has_found();
            if !found {
                // As the next operation would.
                system.task.finish_drops();
            }
            Reserved::end();
            if !found {
                system.check();
                ManuallyDrop::into_inner(system).take_down(judged);
            }
        });
    }
}

impl System {
    /// Is everything as it should be?
    fn check(&mut self) {
        let Self { task, processes, files, handlers, hosts, born, last_looks, .. } = self;
        processes.append(&mut born.0.borrow_mut());
        check_counts(processes, task);
        for look in last_looks.drain(..) {
            look(task);
        }
        check_messages(handlers);
        // They leave: a fault below has nobody to ask.
        handlers.clear();
        let roots: Vec<_> = processes.iter().map(|process| process.mm().root_frame()).collect();
        Lab::check_pages(&roots, files.iter().map(|file| file.pages()).sum());
        for process in &*processes {
            let mut fault = |address| process.fault(task, address, Access::Read).is_ok();
            Lab::check_stores(process, &mut fault);
        }
        Lab::check_written();
        check_sizes(files, processes, task);
        check_holes(processes, task);
        for process in hosts.drain(..) {
            take_host_tables(&process, task);
        }
        for process in processes {
            process.exit(task).expect("its own task");
        }
    }

    /// Takes everything down. Is anything left?
    fn take_down(self, judged: bool) {
        let Self { task, hugetlb, processes, files, mounts, .. } = self;
        let (mut task, hugetlb) = (ManuallyDrop::new(task), ManuallyDrop::new(hugetlb));
        drop((processes, files, mounts));
        task.rcu_barrier();
        let counters = hugetlb.pool(X86_64::SIZE_2M).counters();
        let listed = Lab::free_pages();
        if judged && counters.free != listed {
            // A page that is in a list twice leads round in circles.
            let text =
                format!("the pool has {} free pages in its list, and {listed} are free", counters.free);
            return violation(format!("I9: left at the end: {text}"), Property::I9);
        }
        let (pages, reserved) = (counters.total.wrapping_sub(counters.free), counters.reserved);
        drop(ManuallyDrop::into_inner(task));
        drop(ManuallyDrop::into_inner(hugetlb));
        let (tables, frames) = Lab::in_use();
        if judged && (tables, frames, pages, reserved) != (0, 0, 0, 0) {
            leaked(tables, pages, reserved);
        }
    }
}

/// The host takes its tables out of the tree of a process, and frees them.
fn take_host_tables(process: &Process, task: &mut LabTask) {
    let mut taken = Vec::new();
    let mmap = process.mmap_read(task);
    let all = VirtAddr::new(0)..VirtAddr::new(u64::MAX);
    mmap.host_slots(task, all, |slot| taken.extend(slot.take())).expect("its own task");
    drop(mmap);
    for table in taken {
        // SAFETY: taken away and flushed; all threads have ended.
        unsafe { task.hugetlb().platform().free_table(table) };
    }
}

fn leaked(tables: usize, pages: u64, reserved: u64) {
    let counted = |count: u64, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{count} {what}s")),
    };
    let left = [(tables as u64, "table"), (pages, "page"), (reserved, "reservation")];
    let left: Vec<_> = left.into_iter().filter_map(|(count, what)| counted(count, what)).collect();
    let left = if left.is_empty() { "frames".to_owned() } else { left.join(", ") };
    violation(format!("I9: left at the end: {left}"), Property::I9);
}

/// I4: as many address spaces use a table as its count says.
fn check_counts(processes: &[Process], task: &mut LabTask) {
    let mut uses = Vec::new();
    for process in processes {
        uses.extend(process.tables_counting(task, |_, _| false).unwrap_or_default());
    }
    for table in &uses {
        let users = uses.iter().filter(|other| other.identity == table.identity).count() as u64;
        if users != table.users {
            let (table, count) = (table.identity, table.users);
            let point = if users == 1 { "entry points" } else { "entries point" };
            let text = format!("I4: {users} {point} to T{table}, and its count says {count}");
            violation(text, Property::I4);
        }
    }
}

/// I9: no file has pages that lie beyond its end, and where all files are empty nobody maps any.
fn check_sizes(files: &[File], processes: &[Process], task: &mut LabTask) {
    if files.iter().all(|file| file.size() == 0) {
        let tables = processes.iter().flat_map(|process| process.tables(task).unwrap_or_default());
        let leaves: u64 = tables.map(|table| table.leaves).sum();
        if leaves > 0 {
            let pages = if leaves == 1 { "page is mapped of a file" } else { "pages are mapped of files" };
            violation(format!("I9: {leaves} {pages} with nothing in it"), Property::I9);
        }
    }
    for file in files {
        let (pages, size) = (file.pages(), file.size());
        if pages * PMD_SIZE > size {
            violation(format!("I9: a file of {size} bytes has {pages} pages"), Property::I9);
        }
    }
}

/// I9: where a file has no page, no mapping remembers that there was one which failed.
fn check_holes(processes: &[Process], task: &mut LabTask) {
    for process in processes {
        let mmap = process.mmap_read(task);
        let is_hole = mmap.find(BASE).is_some_and(|vma| vma.is_shared() && vma.file().pages() == 0);
        drop(mmap);
        // What a handler has said is lost is so until something takes its place.
        let is_said = Lab::is_poisoned(process, BASE);
        if is_hole
            && !is_said
            && let Err(error @ FaultError::Hwpoison { .. }) = process.fault(task, BASE, Access::Read)
        {
            violation(format!("I9: a mapping of a file without pages says: {error}"), Property::I9);
        }
    }
}

/// I9: the threads have ended, so no fault waits, and no handler is asked for anything.
fn check_messages(handlers: &[Rc<Userfault<Lab>>]) {
    for handler in handlers {
        while let Some(message) = handler.try_read_event() {
            if let Message::Pagefault(fault) = message {
                let text =
                    format!("I9: a handler is asked for {:x}, and nobody waits", fault.address.as_u64());
                violation(text, Property::I9);
            }
        }
    }
}
