//! VMAs that outlast their last reference, so that whoever uses one then is seen, as by the quarantine of KASAN.
//!
//! # Protocol
//!
//! It is there for scenarios that ask for it, and where a reference is left out of the protocol. A VMA is kept from when
//! `i_mmap` of its file is let go with it in the tree: before that nobody meets it but its maker. Nobody is told when a
//! reference is dropped; so each thread looks, before whatever it does next that others can see, whether a VMA is kept by
//! nobody else any more. Then this thread dropped the last reference just now, and it says so: a step of its own. Whoever uses
//! the lock in a VMA does a step that depends on it.

use std::cell::{Cell, RefCell};

use hugewalk::file::HugeFile;
use hugewalk::sync::Arc;
use hugewalk::task::Task;
use hugewalk::vma::Vma;

use super::Judge;
use crate::explore::{Object, Op, in_thread, is_moving};
use crate::lab::ground::{TABLES, settle, world};
use crate::lab::property::{Property, in_words};
use crate::lab::{Lab, trace};
use crate::story::StepKind;

/// VMAs that can be kept in a run.
const KEPT: usize = 32;

/// What has become of a VMA.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Alive,
    /// A thread has dropped the last reference, and is about to say so.
    LetGo,
    /// This thread did.
    Gone(u8),
}

/// What is kept.
#[derive(Default)]
pub(in crate::lab) struct Quarantine {
    on: Cell<bool>,
    kept: RefCell<[Option<Arc<Vma<Lab>>>; KEPT]>,
    fates: RefCell<[Fate; KEPT]>,
    /// Threads whose last lock in write is one under which VMAs are kept.
    looking: Cell<u8>,
}

thread_local! {
    static QUARANTINE: &'static Quarantine = Box::leak(Box::default());
}

/// What is kept in this run.
pub(in crate::lab) fn quarantine() -> &'static Quarantine {
    QUARANTINE.with(|quarantine| *quarantine)
}

impl Judge for Quarantine {
    fn begin_run() {
        quarantine().forget();
    }

    fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(quarantine()).cast_mut().cast(), size_of::<Self>());
    }

    fn uses(lock: usize) {
        settle();
        quarantine().check(lock);
    }

    fn thread_ends() {
        settle();
    }
}

impl Quarantine {
    /// Forgets the run before, whose VMAs may be in use on stacks that were abandoned.
    fn forget(&self) {
        self.on.set(false);
        self.looking.set(0);
        *self.fates.borrow_mut() = [Fate::Alive; KEPT];
        for vma in self.kept.borrow_mut().iter_mut() {
            std::mem::forget(vma.take());
        }
    }

    /// From now on VMAs are kept.
    pub(in crate::lab) fn begin(&self) {
        self.on.set(true);
        world().before_access.set(Some(say_what_went));
    }

    /// Not any more: those that are gone go now.
    pub(in crate::lab) fn end(&self) {
        self.on.set(false);
        world().before_access.set(None);
        let kept = std::mem::take(&mut *self.kept.borrow_mut());
        drop(kept);
    }

    pub(in crate::lab) fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Keeps the VMAs of a file, whose `i_mmap` is held by the caller or by nobody.
    pub(in crate::lab) fn keep(&self, file: &HugeFile<Lab>, task: &mut Task<Lab>) {
        if !self.is_on() {
            return;
        }
        // In write: it is free, and a writer may be queued, behind whom no reader gets in.
        let i_mmap = file.i_mmap_write(task);
        for proof in i_mmap.vmas(0..u64::MAX) {
            let mut kept = self.kept.borrow_mut();
            if kept.iter().flatten().all(|known| !Arc::ptr_eq(known, proof.vma())) {
                let free = kept.iter_mut().find(|place| place.is_none()).expect("fewer VMAs in a run");
                *free = Some(proof.vma().clone());
            }
        }
    }

    /// The thread has taken a lock in write: does it look at VMAs under it that are kept?
    pub(in crate::lab) fn looks(&self, at_vmas: bool) {
        if let Some(thread) = in_thread() {
            let this = 1 << thread;
            self.looking.set(self.looking.get() & !this | if at_vmas { this } else { 0 });
        }
    }

    /// May the thread do without a reference to a VMA that it meets now?
    pub(in crate::lab) fn keeps_what_is_met(&self) -> bool {
        self.is_on() && in_thread().is_some_and(|thread| self.looking.get() & 1 << thread != 0)
    }

    /// What the thread has let go just now, as the last one.
    fn let_go(&self, slot: usize) -> Option<(Object, String)> {
        let (kept, fate) = (self.kept.borrow(), &mut self.fates.borrow_mut()[slot]);
        let vma = kept[slot].as_ref().filter(|vma| *fate == Fate::Alive && Arc::strong_count(vma) == 1)?;
        *fate = Fate::LetGo;
        Some((life_of(vma, slot), name_of(vma)))
    }

    /// The thread uses the lock at this address: if it is that of a VMA, the VMA must not be gone (I1).
    pub(in crate::lab) fn check(&self, address: usize) {
        if !self.is_on() || !is_moving() {
            return;
        }
        let Some((slot, life, name)) = self.find(address) else { return };
        crate::explore::access(&Op::read(life));
        if let Fate::Gone(by) = self.fates.borrow()[slot]
            && let Some(thread) = in_thread()
        {
            trace::is_about_vma(slot);
            trace::event(Some(life), StepKind::Lock, || {
                let call = format!("hugetlb_vma_lock({name})");
                [name.clone(), format!("uses the lock in a {name}"), call]
            });
            let (user, by) = (in_words(Some(thread)), in_words(Some(by.into())));
            let text = format!("use after free: {user} uses the lock in a {name}, freed by {by}");
            world().violated(Property::I1, &text);
        }
    }

    fn find(&self, address: usize) -> Option<(usize, Object, String)> {
        let kept = self.kept.borrow();
        let is_in =
            |vma: &Arc<Vma<Lab>>| address.wrapping_sub(Arc::as_ptr(vma).addr()) < size_of::<Vma<Lab>>();
        let slot = kept.iter().position(|vma| vma.as_ref().is_some_and(is_in))?;
        let vma = kept[slot].as_ref()?;
        Some((slot, life_of(vma, slot), name_of(vma)))
    }
}

/// What changes when a VMA goes.
fn life_of(vma: &Arc<Vma<Lab>>, slot: usize) -> Object {
    // An address of its own: nothing lies at an odd half of a word. A name that no table and no page record has.
    Object { address: Arc::as_ptr(vma).addr() + 2, name: Some((TABLES as u32 + 1) << 10 | slot as u32) }
}

fn name_of(vma: &Vma<Lab>) -> String {
    let root = vma.mm().root_frame();
    let number = world().roots().position(|other| other == root);
    number.map_or_else(|| "VMA".to_owned(), |number| format!("VMA of P{}", number + 1))
}

/// The thread is about to do something: what it dropped before is gone first.
fn say_what_went() {
    let Some(thread) = in_thread().filter(|_| is_moving()) else { return };
    for slot in 0..KEPT {
        let Some((life, name)) = quarantine().let_go(slot) else { continue };
        crate::explore::access(&Op::write(life));
        quarantine().fates.borrow_mut()[slot] = Fate::Gone(thread as u8);
        trace::vma_freed(slot, &name);
        trace::event(Some(life), StepKind::Free, || {
            let call = format!("vm_area_free({name})");
            [name.clone(), format!("frees a {name}"), call]
        });
    }
}
