//! A platform for the engine that an explorer can hold still before every access.
//!
//! # What is modelled
//!
//! - Memory: sequentially consistent. The machine hands no table and no page out twice within a run, but for the start of a page
//!   of 1 GiB, which comes again as one of 2 MiB; a late access to a table or to its lock is a violation (`ground`). The engine's pool does hand pages out again: each time is another life of the page.
//! - Locks: spinning ones, and sleeping ones in which writers queue (`locks.rs`). The engine's own lock, whose readers mark
//!   themselves, has scenarios of its own, and is in use in no others.
//! - RCU: grace periods end as early as they may (`rcu.rs`). Interrupts off are a section too, and the only one that holds a
//!   broadcast up.
//! - Processors with a TLB and a paging-structure cache that keep what they have until it is flushed. They load and store, and set
//!   accessed and dirty bits at any moment (`cpu.rs`).
//! - Machines with a flaw, for scenarios that show what the engine relies on (`ground/flaws.rs`).
//! - The protocols of other times and of other people: what walkers hold, when table locks die, whom unsharing waits
//!   for (`protocol.rs`).
//!
//! What holds whenever `i_mmap` is free is looked at in the step that lets it go (`judge/audit.rs`): by nobody, so the reduction of the
//! unbounded stage does not go out of its way to find a moment for it.
//!
//! # What is no scheduling point
//!
//! The engine's reference counts ([`hugewalk::sync::Arc`]) announce nothing. (What keeps a system alive when its handles are gone
//! is counted in a word, and is announced.) They need not: a count is only looked at by who
//! lets a reference go, to see whether it was the last one, and by who comes back to a file from one of its pages. Processes,
//! files and the system are kept until the threads have ended (`scenario/bench.rs`), so nobody fails to come back; and what a
//! thread can be the last to let go of, a mapping or what belongs to it, takes nothing along that is shared: its memory is
//! freed, and that is not handed out again in the run. (Scenarios about who uses a mapping too late make a step of its end:
//! `judge/quarantine.rs`.) So the counts can change in any order, and each interleaving ends as
//! one does in which they change with the step before. A test of `check.rs` looks whether any thread touches something shared
//! because it let a last reference go; what would happen then, in whichever thread it is, is not explored.
//!
//! Contents of pages are names: where they came from, and what was stored to them (`ground/contents.rs`). That they change is a
//! step in scenarios that are judged by it.

// From the ground up: a room uses those above it in this list. What has no line here stands on all of them.
mod property;
mod settings;
mod define;
mod ground;
pub(crate) mod trace;
mod judge;
mod memory;
mod word;
mod locks;
mod rcu;
mod notify;
mod cpu;
mod secondary;
mod protocol;
mod walker;
mod report;
mod speculate;

use std::ops::Range;
use std::ptr::NonNull;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::{Aarch64, Entry};
use hugewalk::error::{MemoryError, OutOfMemory};
use hugewalk::platform::{
    Barriers, Contents, Event, Flush, Invalidation, Limits, Locks, Notify, PageRecord, Pages, Platform,
    TableRecord, Tables, Tlb, Trace,
};
use hugewalk::protocol::Step;

pub(crate) use self::cpu::Context;
pub use self::cpu::Cpu;
#[cfg(test)]
pub(crate) use self::cpu::{Use, translate};
pub use self::define::NotAProtocol;
pub use self::ground::{Flaw, Format, Lab};
pub(crate) use self::judge::audit::Audit;
pub(crate) use self::judge::reserved::Reserved;
pub use self::locks::{SleepMutex, SleepRwLock, SpinLock, Token};
pub use self::property::Property;
#[cfg(test)]
pub(crate) use self::rcu::set_interrupts_off;
pub use self::rcu::{LabRcu, LabReader};
pub use self::report::Report;
pub use self::secondary::SecondaryMmu;
pub use self::settings::{Broadcast, Settings, Walkers};
pub use self::speculate::Speculator;
pub use self::trace::has_line_tables;
pub(crate) use self::trace::{end_run, tell};
pub use self::walker::Walker;
pub use self::word::Word;

use self::ground::{FLAGS, FREE, Fill, POISONED, world};
use self::judge::quarantine::quarantine;
use crate::explore::{Machine, asking};

/// The machine, for who sets its runs back.
pub(crate) const MACHINE: Machine = Machine {
    wipe: || begin_run(Settings::HUGEWALK),
    pieces: |each| {
        world().pieces(each);
        judge::pieces(each);
    },
};

fn begin_run(settings: Settings) {
    world().begin_run(settings);
    judge::begin_run();
}

impl Lab {
    /// A fresh machine, on which this protocol is followed and these properties are checked.
    #[must_use]
    pub(crate) fn new(settings: Settings, judged: &[Property]) -> Self {
        begin_run(settings);
        world().judge_by(judged);
        trace::begin_run();
        Self::follow(settings);
        Self::of_this_run()
    }

    /// The pages of a system that has none any more are those of another one, whose tables have groups.
    #[must_use]
    pub(crate) fn with_groups() -> Lab<Aarch64> {
        world().set_groups();
        Lab::of_this_run()
    }

    /// From now on this protocol is followed in place of the one the run began with.
    pub(crate) fn follow(settings: Settings) {
        world().settings.set(settings);
        protocol::select(&settings);
        if settings.loses_vmas() {
            Self::keep_vmas();
        }
    }

    /// From now on VMAs are kept beyond their last reference, and whoever uses one then is seen.
    pub(crate) fn keep_vmas() {
        quarantine().begin();
    }

    /// From now on the machine has this flaw.
    pub(crate) fn flawed(flaw: Flaw) {
        world().flaws.add(flaw);
    }

    /// From now on rmap does not wait for VMA locks that are busy.
    pub(crate) fn in_place_at_once() {
        world().in_place_at_once.set(true);
    }

    /// The thread has ended: what it has dropped is gone.
    pub(crate) fn end_thread() {
        judge::thread_ends();
    }

    /// Says whether there is memory for tables from now on, and on a heap that fails. A step.
    pub(crate) fn set_memory(there_is: bool) {
        memory::set_memory(there_is);
    }

    /// Does something of the engine's, in which memory on the heap can run out as that for tables can
    /// ([`set_memory`](Self::set_memory)). What the lab does meanwhile has memory.
    pub(crate) fn with_failing_heap<R>(work: impl FnOnce() -> R) -> R {
        world().let_heap_fail();
        asking(memory::has_memory, work)
    }

    /// The protocol that is followed.
    pub(crate) fn followed() -> Settings {
        world().settings.get()
    }

    /// Nothing is under way: references of pages are right (I14). The files' caches have so many pages.
    pub(crate) fn check_pages(roots: &[TableFrame], cached: u64) {
        judge::pages::Pages::check(roots, cached);
    }

    /// Nothing is under way: what was written to files is in a page (I13).
    pub(crate) fn check_written() {
        judge::contents::Contents::check_written();
    }

    /// Nothing is under way: has a handler said that what lies at this address is lost?
    #[must_use]
    pub(crate) fn is_poisoned(space: &hugewalk::AddressSpace<Self>, address: VirtAddr) -> bool {
        let (root, address) = (space.mm().root_frame(), address.as_u64());
        let pud = world().peek(root, address >> 39);
        let table = pud.and_then(|pud| world().peek(pud, address >> 30));
        table.is_some_and(|table| world().peek_raw(table, address >> 21).decode() == Entry::Poison)
    }

    /// Pages that say that they are in the list of their pool.
    #[must_use]
    pub(crate) fn free_pages() -> u64 {
        let is_free = |&page: &HugeFrame| world().peek_page(page, FLAGS) & (FREE | POISONED) != 0;
        world().pages().filter(is_free).count() as u64
    }

    /// Tables and huge pages in use.
    #[must_use]
    pub(crate) fn in_use() -> (usize, usize) {
        (world().tables_in_use(), world().live_pages.get())
    }

    /// Gives a process its number in traces: the first is P1.
    pub(crate) fn name(space: &hugewalk::AddressSpace<Self>) {
        Self::name_process(space);
    }
}

impl<F: Format> Lab<F> {
    fn of_this_run() -> Self {
        Self {
            run: world().run.get(),
            rcu: std::cell::Cell::new(std::ptr::null()),
            format: std::marker::PhantomData,
        }
    }

    /// Nothing is under way: what was stored in an address space is there (I13), wherever `fault` finds a page.
    pub(crate) fn check_stores(space: &hugewalk::AddressSpace<Self>, fault: impl FnMut(VirtAddr) -> bool) {
        judge::contents::Contents::check(space.mm().root_frame(), fault);
    }

    /// Makes the domain known that broadcasts wait for.
    pub(crate) fn attach(&self, rcu: &LabRcu) {
        self.rcu.set(std::ptr::from_ref(rcu).cast());
    }

    /// Gives a process its number in traces.
    pub(crate) fn name_process(space: &hugewalk::AddressSpace<Self>) {
        world().add_process(space.mm().root_frame());
        let start = std::ptr::from_ref(space).addr();
        let context = std::ptr::from_ref(space.mm().context()).addr();
        trace::process(space.mm().root_frame(), start..start + size_of_val(space), context);
    }

    /// Does something with the domain that broadcasts wait for, if it is known already.
    fn with_rcu(&self, work: impl FnOnce(&LabRcu)) {
        self.machine();
        // SAFETY: set by `attach` to the domain of the system that owns this platform; null before.
        if let Some(rcu) = unsafe { self.rcu.get().cast::<LabRcu>().as_ref() } {
            work(rcu);
        }
    }
}

// SAFETY: one thread moves at a time and memory is sequentially consistent, so there is nothing for barriers to do.
unsafe impl<F: Format> Barriers for Lab<F> {
    type Word = Word;
    type SpinLock = SpinLock;
    fn light(&self) {}
    fn heavy(&self) {}
    unsafe fn pause(&self) {}
}

// SAFETY: frames, records and pages are handed out once in a run; `flush_tlb` empties the caches of all processors, and
// waits for those that are in the middle of an access; the locks are locks.
unsafe impl<F: Format> Tables for Lab<F> {
    type Paging = F;
    fn paging(&self) -> F {
        F::FORMAT
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        let _lab = world().at_work();
        self.machine();
        if memory::has_memory() { memory::alloc_table() } else { None }
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        let _lab = world().at_work();
        self.machine();
        memory::free_table(frame);
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<Word> {
        self.machine().entries(frame).cast()
    }
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        self.machine().record(frame).cast()
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl<F: Format> Pages for Lab<F> {
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        let _lab = world().at_work();
        self.machine().alloc_page(size)
    }
    unsafe fn free_huge(&self, frame: HugeFrame, _: HugeSize) {
        self.machine().free_page(frame);
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        self.machine().was_allocated(frame)
    }
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        self.machine().page_record(frame).cast()
    }
}

// SAFETY: the address is that of the page.
unsafe impl<F: Format> Contents for Lab<F> {
    unsafe fn zero_huge(&self, frame: HugeFrame, _: HugeSize) {
        let _lab = world().at_work();
        self.machine();
        memory::fill(frame, Fill::Zero);
    }
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, _: HugeSize) -> Result<(), MemoryError> {
        let _lab = world().at_work();
        self.machine();
        memory::fill(to, Fill::Copy(from));
        Ok(())
    }
    unsafe fn read_huge(&self, frame: HugeFrame, _: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let _lab = world().at_work();
        self.machine();
        memory::read(frame);
        into.fill(0);
        Ok(())
    }
    unsafe fn write_huge(&self, frame: HugeFrame, _: u64, from: &[u8]) {
        let _lab = world().at_work();
        self.machine();
        // No bytes fill nothing.
        if !from.is_empty() {
            memory::fill(frame, Fill::Write);
        }
    }
    unsafe fn clear_huge(&self, frame: HugeFrame, _: u64, length: u64) {
        let _lab = world().at_work();
        self.machine();
        // A part of a page: what is beside it stays.
        if length > 0 {
            memory::fill(frame, Fill::Write);
        }
    }
    unsafe fn huge_bytes(&self, _: HugeFrame) -> Option<NonNull<u8>> {
        None
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl<F: Format> Locks for Lab<F> {
    type TableLock = SpinLock;
    type SleepMutex = SleepMutex;
    type SleepRwLock = SleepRwLock;
    type Parker = Token;
    type Rcu = LabRcu;
    fn reader_bias() -> bool {
        world().settings.get().biased_readers
    }
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl<F: Format> Tlb for Lab<F> {
    type MmContext = Context;
    fn new_context(&self) -> Result<Context, OutOfMemory> {
        Ok(Context::new())
    }
    fn flush_tlb(&self, context: &Context, flush: Flush) {
        let _lab = world().at_work();
        self.machine();
        cpu::flush(context, &flush.range, flush.stride, flush.tables);
        let of = std::ptr::from_ref(context).addr();
        match world().settings.get().broadcast {
            Broadcast::Implied => self.with_rcu(|rcu| rcu.interrupt_for_flush(of)),
            Broadcast::Targeted => world().set_flushed(of),
            _ => {}
        }
    }
}

impl<F: Format> Notify for Lab<F> {
    fn has_secondary_mmus(&self, context: &Context) -> bool {
        context.notices.attached.get()
    }
    fn invalidate_range_start(&self, context: &Context, range: &Range<VirtAddr>, _: Invalidation, _: bool) {
        let _lab = world().at_work();
        context.notices.start(std::ptr::from_ref(context).addr(), range);
    }
    fn invalidate_range_end(&self, context: &Context, _: &Range<VirtAddr>, _: Invalidation) {
        let _lab = world().at_work();
        context.notices.end();
    }
}

impl<F: Format> Trace for Lab<F> {
    fn trace(&self, event: Event) {
        let _lab = world().at_work();
        let broadcast = world().settings.get().broadcast;
        match event {
            Event::Unshared { .. } if broadcast == Broadcast::Each => self.with_rcu(LabRcu::broadcast),
            Event::Flushed { last, .. } => {
                match broadcast {
                    Broadcast::Last if last > 0 => self.with_rcu(LabRcu::broadcast),
                    Broadcast::GracePeriod if last > 0 => self.with_rcu(LabRcu::wait_for_sections),
                    Broadcast::Targeted if last > 0 => {
                        self.with_rcu(|rcu| rcu.interrupt_walkers(world().flushed()));
                    }
                    _ => {}
                }
                judge::flushed();
            }
            _ => {}
        }
    }
}

impl<F: Format> Limits for Lab<F> {
    type Charge = core::convert::Infallible;
}

// SAFETY: the parts above are those of one machine. Steps may be left out: memory of tables and page records is never used for
// anything else, VMAs are kept that somebody does without a reference to, and one thread runs at a time.
unsafe impl<F: Format> Platform for Lab<F> {
    fn keeps(step: Step) -> bool {
        protocol::keeps(step)
    }
}

const _: () = assert!(size_of::<TableRecord>() <= ground::RECORD_BYTES && align_of::<TableRecord>() <= 64);
const _: () = assert!(size_of::<PageRecord>() <= ground::RECORD_BYTES && align_of::<PageRecord>() <= 64);
const _: () = assert!(size_of::<Word>() == 8);
