//! What holds whenever `i_mmap` of a file is free: the counts of users are right (I4), who shares a table may (I5), and no
//! processor reaches a table that was unshared (I6).
//!
//! Looked at in the very step that lets the lock go, by nobody: it is no step of its own, and takes part in no race.

use std::cell::RefCell;
use std::rc::Rc;

use hugewalk::Task;
use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::arch::PUD_SIZE;
use hugewalk::file::HugeFile;
use hugewalk::sync::Arc;

use super::Judge;
use super::caches::Caches;
use super::quarantine::quarantine;
use crate::explore::{is_judged, is_moving, quietly, violation};
use crate::lab::Lab;
use crate::lab::ground::{USERS, world};
use crate::lab::property::Property;

/// The gigabytes that scenarios map.
const MAPPED: std::ops::Range<u64> = 4..9;

/// The files whose locks are looked at, and a task to look with.
pub(crate) struct Audit {
    pub(crate) task: RefCell<Task<Lab>>,
    pub(crate) files: RefCell<Vec<Arc<HugeFile<Lab>>>>,
}

/// Who looks in this run.
#[derive(Default)]
struct Auditor(RefCell<Option<Rc<Audit>>>);

thread_local! {
    static AUDITOR: &'static Auditor = Box::leak(Box::default());
}

fn auditor() -> &'static Auditor {
    AUDITOR.with(|auditor| *auditor)
}

impl Judge for Audit {
    fn begin_run() {
        // What a run that was given up has left behind is in use on a stack that was abandoned.
        std::mem::forget(auditor().0.take());
    }

    fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(auditor()).cast_mut().cast(), size_of::<Auditor>());
    }

    fn took_in_write(lock: usize) {
        if quarantine().is_on() {
            quarantine().looks(is_of_file(lock));
        }
    }

    fn is_free(lock: usize) {
        let Some(audit) = auditor().0.borrow().clone() else { return };
        let files = audit.files.borrow();
        let Some(file) = file_around(&files, lock) else { return };
        if quarantine().is_on() && is_moving() {
            quietly(|| quarantine().keep(file, &mut audit.task.borrow_mut()));
        }
        if is_judged() {
            look(file, &mut audit.task.borrow_mut());
            Caches::check();
        }
    }
}

impl Audit {
    /// From now on the files are looked at whenever their locks are let go.
    pub(crate) fn begin(self) {
        for file in self.files.borrow().iter() {
            quarantine().keep(file, &mut self.task.borrow_mut());
        }
        let before = auditor().0.replace(Some(Rc::new(self)));
        assert!(before.is_none(), "a run has one audit");
    }

    /// Not any more.
    pub(crate) fn end() {
        drop(auditor().0.take());
        quarantine().end();
    }
}

/// The file that the lock at this address lies in.
fn file_around(files: &[Arc<HugeFile<Lab>>], address: usize) -> Option<&Arc<HugeFile<Lab>>> {
    files.iter().find(|file| address.wrapping_sub(Arc::as_ptr(file).addr()) < size_of::<HugeFile<Lab>>())
}

/// Is the lock at this address the `i_mmap` of a file that is looked at?
fn is_of_file(address: usize) -> bool {
    let audit = auditor().0.borrow();
    audit.as_ref().is_some_and(|audit| file_around(&audit.files.borrow(), address).is_some())
}

/// An entry that points to a table of leaves.
#[derive(Clone, Copy)]
struct Use {
    root: TableFrame,
    gigabyte: u64,
    table: TableFrame,
}

fn uses() -> Vec<Use> {
    let mut uses = Vec::new();
    for root in world().roots() {
        let Some(pud) = world().peek(root, 0) else { continue };
        for gigabyte in MAPPED {
            let table = world().peek(pud, gigabyte);
            uses.extend(table.map(|table| Use { root, gigabyte, table }));
        }
    }
    uses
}

fn look(file: &HugeFile<Lab>, task: &mut Task<Lab>) {
    let uses = uses();
    let found = quietly(|| {
        // In write: it is free, and a writer may be queued, behind whom no reader gets in.
        let i_mmap = file.i_mmap_write(task);
        // Whether a mapping in the tree accounts for this entry, and if so, whether it may share.
        let may_share = |this: &Use| {
            let address = VirtAddr::new(this.gigabyte * PUD_SIZE);
            let mut vmas = i_mmap.vmas(0..u64::MAX);
            vmas.find(|proof| {
                let vma = proof.vma();
                vma.mm().root_frame() == this.root
                    && vma.start() < VirtAddr::new(address.as_u64() + PUD_SIZE)
                    && address < vma.end()
            })
            .map(|proof| proof.vma().may_share_at(address))
        };
        // A table that no mapping in the tree leads to is another file's, or nobody's any more.
        let of_file = |table| uses.iter().any(|other| other.table == table && may_share(other).is_some());
        uses.iter().filter(|this| of_file(this.table)).find_map(|this| {
            let entries = uses.iter().filter(|other| other.table == this.table).count() as u64;
            let (users, table) = (world().peek_record(this.table, USERS) + 1, this.table.0);
            if entries != users {
                let point = if entries == 1 { "entry points" } else { "entries point" };
                let text = format!("I4: {entries} {point} to T{table}, and its count says {users}");
                return Some((text, Property::I4));
            }
            let refused = users > 1 && may_share(this) != Some(true);
            let whose = world().roots().position(|root| root == this.root).map_or(0, |at| at + 1);
            refused.then(|| {
                let text = format!("I5: P{whose} shares T{table}, and has no mapping that may");
                (text, Property::I5)
            })
        })
    });
    if let Some((text, property)) = found {
        violation(text, property);
    }
}
