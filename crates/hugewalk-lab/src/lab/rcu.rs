//! RCU whose grace periods end as early as they may: a callback runs in the very call that ends the last section that was
//! open when it was queued.
//!
//! An earlier end would break the contract, and a later one shows no more: memory is never handed out again within a run,
//! so what matters is only that it is dead as soon as it may be.

use std::cell::{RefCell, RefMut};
use std::ptr::NonNull;

use hugewalk::error::OutOfMemory;
use hugewalk::rcu::{Rcu, RcuHead};

use super::cpu::Context;
use super::ground::{Format, Lab, access, world};
use super::trace::Section;
use super::{memory, trace};
use crate::explore::{Kind, Object, Op, Wait, in_thread};
use crate::story::StepKind;

/// A domain. It panics when it is used after its run, or on another OS thread.
#[derive(Debug)]
pub struct LabRcu {
    run: u64,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    readers: u32,
    /// A bit for each reader that is in a section.
    open: u64,
    /// Those of them with interrupts off.
    interrupts_off: u64,
    /// The address space that each reader runs while it has interrupts off.
    runs: Vec<usize>,
    /// What waits, and for which sections.
    waiting: Vec<(u64, Option<NonNull<RcuHead>>)>,
}

// SAFETY: `state` is reached through `LabRcu::state` alone, which panics on another OS thread.
unsafe impl Sync for LabRcu {}
// SAFETY: as above; what waits in it is the engine's, which may be run on any thread.
unsafe impl Send for LabRcu {}

/// A reader of a [`LabRcu`].
#[derive(Debug)]
pub struct LabReader {
    number: u32,
    nesting: std::cell::Cell<u32>,
    dud: std::cell::Cell<bool>,
}

/// The sections that this thread enters from now on are with interrupts off (or are not, again).
pub(crate) fn set_interrupts_off(off: bool) {
    if let Some(thread) = in_thread() {
        let threads = &world().interrupts_off;
        threads.set(threads.get() & !(1 << thread) | u8::from(off) << thread);
    }
}

/// The thread runs this address space from now on, or none that matters.
pub(super) fn runs(context: Option<&Context>) {
    if let Some(thread) = in_thread() {
        world().runs[thread].set(context.map_or(0, |context| std::ptr::from_ref(context).addr()));
    }
}

/// Whom somebody waits for.
#[derive(Clone, Copy, Debug)]
enum Whom {
    /// Processors that have interrupts off.
    Everybody,
    /// Those of them that run the address space of this context.
    Runs(usize),
    /// Sections of any kind.
    Sections,
}

/// The sections that this thread enters from now on are none (or are, again): those of a walker that is in none, in a
/// protocol that does not ask for one.
pub(super) fn set_dud(dud: bool) {
    if let Some(thread) = in_thread() {
        let duds = &world().dud;
        duds.set(duds.get() & !(1 << thread) | u8::from(dud) << thread);
    }
}

impl LabRcu {
    fn state(&self) -> RefMut<'_, State> {
        assert_eq!(
            world().run.get(),
            self.run,
            "a domain of the lab is used after its run, or on another OS thread"
        );
        self.state.borrow_mut()
    }

    /// Who enters does so at one object, who leaves at another, and who starts to wait at both.
    fn entrance(&self) -> Object {
        Object::at(&raw const self.state)
    }

    fn exit(&self) -> Object {
        Object { address: self.entrance().address + 8, name: None }
    }

    fn waits(&self) -> Op {
        Op::write(self.entrance()).and(self.exit(), Kind::Write)
    }

    fn dud() -> bool {
        in_thread().is_some_and(|thread| world().dud.get() & 1 << thread != 0)
    }

    /// Waits for all processors that have interrupts off.
    pub(crate) fn broadcast(&self) {
        self.wait_for(Whom::Everybody, |_| {
            ["all CPUs", "waits for all CPUs", "tlb_remove_table_sync_one()"].map(str::to_owned)
        });
    }

    /// The same of those that say that they walk the address space whose context has this address.
    pub(super) fn interrupt_walkers(&self, context: usize) {
        self.wait_for(Whom::Runs(context), |of| {
            let [object, call] = [format!("CPUs that walk {of}"), format!("tlb_remove_table_sync_mm({of})")];
            [object.clone(), format!("waits for the {object}"), call]
        });
    }

    /// The same of those that run the address space whose context has this address: the interrupt that a flush of it is.
    pub(super) fn interrupt_for_flush(&self, context: usize) {
        self.wait_for(Whom::Runs(context), |of| {
            let [object, call] = [format!("CPUs that run {of}"), format!("flush_tlb_multi({of})")];
            [object.clone(), format!("waits until the {object} have taken the interrupt"), call]
        });
    }

    /// Waits for all sections that are open.
    pub(super) fn wait_for_sections(&self) {
        self.wait_for(Whom::Sections, |_| {
            ["all CPUs", "waits for a grace period", "synchronize_rcu()"].map(str::to_owned)
        });
    }

    fn wait_for(&self, whom: Whom, told: fn(&str) -> [String; 3]) {
        access(&self.waits());
        let context = if let Whom::Runs(context) = whom { context } else { 0 };
        trace::waits_for(self.exit(), context, told);
        let mut state = self.state();
        let open = match whom {
            Whom::Everybody => state.interrupts_off,
            Whom::Sections => state.open,
            Whom::Runs(context) => {
                let runs = |number: &u32| state.runs[*number as usize] == context;
                (0..state.readers).filter(runs).fold(0, |all, number| all | 1 << number)
                    & state.interrupts_off
            }
        };
        if open == 0 {
            return;
        }
        let at = state.waiting.len();
        state.waiting.push((open, None));
        drop(state);
        let wait = (self, at);
        access(&Op::write(self.exit()).waits(Wait::until(Self::is_over, std::ptr::from_ref(&wait).cast())));
    }

    fn is_over(wait: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `wait_for_sections`, on whose stack it lies.
        let &(rcu, at) = unsafe { &*wait.cast::<(&Self, usize)>() };
        rcu.state().waiting[at].0 == 0
    }

    /// Runs what waits for nobody any more.
    fn run(&self) {
        loop {
            let mut state = self.state();
            let ready = state.waiting.iter_mut().find_map(|(open, head)| head.take_if(|_| *open == 0));
            drop(state);
            let Some(head) = ready else { return };
            // SAFETY: every section that was open when it was queued has been left, and it was taken out just now.
            unsafe { RcuHead::invoke(head) };
        }
    }
}

// SAFETY: `call` notes which sections are open, and a callback runs when all of them have been left.
unsafe impl<F: Format> Rcu<Lab<F>> for LabRcu {
    type Reader = LabReader;

    fn new(_: &Lab<F>) -> Result<Self, OutOfMemory> {
        Ok(Self { run: world().run.get(), state: RefCell::default() })
    }

    fn register(&self, _: &Lab<F>) -> Result<LabReader, OutOfMemory> {
        let _lab = world().at_work();
        let mut state = self.state();
        let number = state.readers;
        assert!(number < 64, "more than 64 readers in one run");
        state.readers += 1;
        state.runs.push(0);
        Ok(LabReader { number, nesting: Default::default(), dud: Default::default() })
    }

    unsafe fn unregister(&self, _: &Lab<F>, _: LabReader) {}

    unsafe fn read_lock(&self, _: &Lab<F>, reader: &LabReader) {
        let _lab = world().at_work();
        reader.nesting.set(reader.nesting.get() + 1);
        if reader.nesting.get() > 1 {
            return;
        }
        reader.dud.set(Self::dud());
        if reader.dud.get() {
            return;
        }
        access(&Op::read(self.entrance()));
        let off = in_thread().is_some_and(|thread| world().interrupts_off.get() & 1 << thread != 0);
        trace::section(self.entrance(), if off { Section::InterruptsOff } else { Section::Read }, true);
        let mut state = self.state();
        state.open |= 1 << reader.number;
        state.interrupts_off |= u64::from(off) << reader.number;
        state.runs[reader.number as usize] = in_thread().map_or(0, |thread| world().runs[thread].get());
        drop(state);
        if let Some(thread) = in_thread() {
            world().atomic.borrow_mut()[thread] += 1;
        }
    }

    unsafe fn read_unlock(&self, _: &Lab<F>, reader: &LabReader) {
        let _lab = world().at_work();
        reader.nesting.set(reader.nesting.get() - 1);
        if reader.nesting.get() > 0 || reader.dud.get() {
            return;
        }
        access(&Op::write(self.exit()).releases());
        let off = self.state().interrupts_off & 1 << reader.number != 0;
        trace::section(self.exit(), if off { Section::InterruptsOff } else { Section::Read }, false);
        let mut state = self.state();
        state.open &= !(1 << reader.number);
        state.interrupts_off &= !(1 << reader.number);
        for (open, _) in &mut state.waiting {
            *open &= !(1 << reader.number);
        }
        drop(state);
        if let Some(thread) = in_thread() {
            world().atomic.borrow_mut()[thread] -= 1;
        }
        self.run();
    }

    unsafe fn call(&self, _: &Lab<F>, head: NonNull<RcuHead>) {
        let _lab = world().at_work();
        let settings = world().settings.get();
        let frame = world().frame_of(head.as_ptr().cast());
        if settings.lock_dies_at_once {
            memory::kill_lock(frame);
        }
        access(&self.waits());
        trace::event(Some(self.entrance()), StepKind::CallRcu, || {
            let (table, call) = (format!("T{}", frame.0), format!("call_rcu(T{})", frame.0));
            [table, call.clone(), call]
        });
        trace::retired(frame);
        let mut state = self.state();
        let open = if settings.freed_at_once { state.interrupts_off } else { state.open };
        state.waiting.push((open, Some(head)));
        drop(state);
        self.run();
    }

    unsafe fn synchronize(&self, _: &Lab<F>) {
        let _lab = world().at_work();
        self.wait_for_sections();
    }

    unsafe fn barrier(&self, _: &Lab<F>) {
        let _lab = world().at_work();
        self.wait_for_sections();
    }

    fn pending(&self) -> u64 {
        self.state().waiting.iter().filter(|(_, head)| head.is_some()).count() as u64
    }
}
