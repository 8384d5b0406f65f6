//! Processors: a TLB, and a cache of the entries that lead to tables, both of which keep what they have until a flush.
//!
//! # Protocol
//!
//! An access is one instruction: a flush that meets a processor in the middle of one waits until it is over, as the
//! acknowledgement of an inter-processor interrupt does. Within the instruction each entry that is read is an access of
//! its own, so whatever changes tables without a flush can come between.
//!
//! A walk sets the accessed bit of the leaf it ends at, and a store the dirty bit: by compare-and-swap, without the lock of the
//! table, and only if the bit is not set yet. A translation that was dirty when it was cached serves stores without a walk. One
//! that does not allow an access is dropped, and the access faults.

use std::cell::Cell;
use std::ops::Range;

use hugewalk::addr::{HugeFrame, TableFrame, VirtAddr};
use hugewalk::arch::{Entry, Leaf, LeafFlags, X86_64};
use hugewalk::mm::AddressSpace;
use hugewalk::page::Page;
use hugewalk::sync::Word as _;

use super::ground::{Cached, Flaw, Flush, Format, Lab, RawEntry, To, Translation, access, world};
use super::judge::{self, PageUse};
use super::notify::{Notices, is_kept};
use super::property::Property;
use super::trace;
use super::word::Word;
use crate::explore::{Kind, Object, Op, Wait, in_thread};
use crate::story::StepKind;

/// What the lab keeps for each address space.
#[derive(Debug)]
pub struct Context {
    /// Processors in the middle of an access.
    busy: Cell<u32>,
    /// What its secondary MMU is told.
    pub(super) notices: Notices,
}

// SAFETY: used by `Lab::flush_tlb` and `Cpu::load`, which panic on another OS thread.
unsafe impl Sync for Context {}
// SAFETY: as above.
unsafe impl Send for Context {}

impl Context {
    pub(super) fn new() -> Self {
        Self { busy: Cell::new(0), notices: Notices::default() }
    }

    fn object(&self) -> Object {
        Object::at(self)
    }

    /// A processor begins an access.
    pub(crate) fn begin_access(&self) {
        access(&Op::write(self.object()));
        self.busy.set(self.busy.get() + 1);
    }

    /// A processor is done with its access.
    pub(crate) fn end_access(&self) {
        access(&Op::write(self.object()).releases());
        self.busy.set(self.busy.get() - 1);
    }

    fn is_idle(this: *const ()) -> bool {
        // SAFETY: asked while a flush waits, which borrows the context.
        unsafe { (*this.cast::<Self>()).busy.get() == 0 }
    }
}

/// Takes what was cached of a range back, address by address with the stride in between: translations, and with `tables` the
/// entries that lead to tables.
pub(super) fn flush(context: &Context, range: &Range<VirtAddr>, stride: u64, tables: bool) {
    if let Some(thread) = in_thread() {
        if world().flaws.has(Flaw::NoFlush) {
            return;
        }
        if world().flaws.has(Flaw::LateFlush) {
            let context = std::ptr::from_ref(context).expose_provenance();
            let (start, end) = (range.start.as_u64(), range.end.as_u64());
            let flush = Flush { context, start, end, stride, tables };
            return world().flaws.put_off_flush(thread, flush);
        }
    }
    flush_now(context, range, stride, tables);
}

/// The thread has released a sleeping lock: what it has put off, on a machine that does, it does now.
pub(super) fn catch_up() {
    if let Some(thread) = in_thread()
        && let Some(flush) = world().flaws.flush_put_off(thread)
    {
        // SAFETY: the context of an address space, which is kept until the threads have ended.
        let context = unsafe { &*std::ptr::with_exposed_provenance::<Context>(flush.context) };
        let range = VirtAddr::new(flush.start)..VirtAddr::new(flush.end);
        flush_now(context, &range, flush.stride, flush.tables);
    }
}

/// A processor may forget more than it has to. This one does not: if no table went, it keeps what leads to tables, as one may
/// that is told of the last level alone (arm64: `tlbi vale1is`).
fn flush_now(context: &Context, range: &Range<VirtAddr>, stride: u64, tables: bool) {
    let wait = Wait::until(Context::is_idle, std::ptr::from_ref(context).cast());
    access(&Op::write(context.object()).waits(wait));
    let of = std::ptr::from_ref(context).addr();
    trace::flush(context.object(), of, range);
    world().cached.flush(|cached| {
        let is_meant = tables || matches!(cached.to, To::Page(_));
        let addresses = range.start.as_u64()..range.end.as_u64();
        is_meant
            && cached.context == of
            && !is_kept(cached, of)
            && is_hit(&cached.range(), &addresses, stride)
    });
}

/// Does one of the addresses, with the stride in between, lie in what is kept? A processor is told of addresses, one by one: it may
/// keep the other members of a group.
fn is_hit(kept: &Range<u64>, addresses: &Range<u64>, stride: u64) -> bool {
    let before = kept.start.saturating_sub(addresses.start).div_ceil(stride.max(1)) * stride;
    let first = addresses.start + before;
    first < addresses.end && first < kept.end
}

/// What an access to memory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It reads.
    Load,
    /// It writes.
    Store,
}

impl Use {
    /// Does a leaf allow it?
    fn is_allowed_by(self, leaf: Leaf) -> bool {
        leaf.is_accessible() && (self == Self::Load || leaf.is_writable())
    }

    /// The bits that it leaves in an entry.
    fn marks(self) -> LeafFlags {
        match self {
            Self::Load => LeafFlags::ACCESSED,
            Self::Store => LeafFlags::ACCESSED | LeafFlags::DIRTY,
        }
    }
}

/// An access to memory, in words.
fn in_words(what: Use, address: VirtAddr, how: &str) -> [String; 3] {
    let address = format!("{:x}", address.as_u64());
    let what = if what == Use::Load { "load from" } else { "store to" };
    let text = format!("{what} {address} {how}");
    [address, text.clone(), text]
}

/// A processor that runs an address space.
#[derive(Debug)]
pub struct Cpu<'s> {
    root: TableFrame,
    context: &'s Context,
    run: u64,
}

impl<'s> Cpu<'s> {
    /// A processor that starts to run this address space, with empty caches.
    #[must_use]
    pub fn new<F: Format>(space: &'s AddressSpace<Lab<F>>) -> Self {
        let run = space.mm().hugetlb().platform().machine().run.get();
        Self { root: space.mm().root_frame(), context: space.mm().context(), run }
    }

    /// Loads from an address. `None`: a fault.
    pub fn load(&mut self, address: VirtAddr) -> Option<HugeFrame> {
        self.access(address, Use::Load)
    }

    /// Stores to an address. `None`: a fault, and nothing is stored.
    pub fn store(&mut self, address: VirtAddr) -> Option<HugeFrame> {
        self.access(address, Use::Store)
    }

    /// Walks the tables for an address, whatever it has cached, and caches what it finds: as processors do that look ahead of what they
    /// carry out. No access is made, and nothing faults.
    pub fn look_ahead(&mut self, address: VirtAddr) {
        let context = self.in_its_run();
        context.begin_access();
        trace::works_in(self.root);
        trace::event(Some(context.object()), StepKind::Access, || {
            in_words(Use::Load, address, "is foreseen")
        });
        let _ = walk(self.root, context, address, Use::Load);
        context.end_access();
    }

    fn in_its_run(&self) -> &'s Context {
        assert_eq!(world().run.get(), self.run, "a processor of the lab is used after its run");
        self.context
    }

    fn access(&mut self, address: VirtAddr, what: Use) -> Option<HugeFrame> {
        let context = self.in_its_run();
        context.begin_access();
        trace::works_in(self.root);
        trace::event(Some(context.object()), StepKind::Access, || in_words(what, address, "begins"));
        let found = translate(self.root, context, address, what);
        if let Some(page) = found {
            use_page(self.root, address, page, what);
        }
        context.end_access();
        trace::event(Some(context.object()), StepKind::Access, || {
            let found =
                found.map_or_else(|| "a fault".to_owned(), |page| format!("page {}", page.frame.0 >> 9));
            in_words(what, address, &format!("ends: {found}"))
        });
        found.map(|page| page.frame)
    }
}

/// An access by a translation: what the page contains is loaded, or is something else from now on.
pub(super) fn use_page(root: TableFrame, address: VirtAddr, page: Translation, what: Use) {
    let address = address.as_u64() >> 21 << 21;
    // SAFETY: the record of a page that was mapped; its memory stays.
    let record = unsafe { world().page_record(page.frame).cast::<Page<Lab>>().as_ref() };
    if record.references() == 0 {
        let text = format!("a processor touches huge page {:#x}, which is free", page.frame.0);
        world().violated(Property::I6, &text);
    }
    let stores = what == Use::Store;
    if let Some(object) = world().contents_of(page.frame) {
        // What is judged depends on what the entry says now, though the processor does not look.
        let entry = world().entry_object(page.table, (address >> 21 & 511) as usize);
        let op = if stores { Op::write(object) } else { Op::read(object) };
        access(&op.and(entry, Kind::Read));
    }
    judge::uses_page(&PageUse { root, address, page, stores });
    if stores {
        world().contents.store(page.frame, in_thread(), root, address);
    }
}

/// What this processor finds behind an address, by its caches or by the tables. It is in the middle of an access.
pub(crate) fn translate(root: TableFrame, of: &Context, address: VirtAddr, what: Use) -> Option<Translation> {
    let (cpu, context, at) = (in_thread(), std::ptr::from_ref(of).addr(), address.as_u64());
    let is_own = |cached: &Cached| {
        let To::Page(page) = cached.to else { return false };
        (cached.cpu, cached.context) == (cpu, context) && (cached.start ^ at) >> page.span == 0
    };
    if let Some(To::Page(page)) = world().cached.find(is_own).map(|cached| cached.to) {
        if what == Use::Load || page.dirty {
            return Some(page);
        }
        // It does not say that the entry is dirty, or it forbids the store.
        world().cached.flush(is_own);
        if !page.writable {
            return None;
        }
    }
    walk(root, of, address, what)
}

/// What a processor finds by the tables, the way to which it may have cached. It is in the middle of an access.
fn walk(root: TableFrame, context: &Context, address: VirtAddr, what: Use) -> Option<Translation> {
    let (cpu, context, at) = (in_thread(), std::ptr::from_ref(context).addr(), address.as_u64());
    let is_own = |cached: &Cached| {
        (cached.cpu, cached.context, cached.start) == (cpu, context, at >> 30 << 30)
            && matches!(cached.to, To::Table(_))
    };
    let keep = |start: u64, to: To| {
        let cached = Cached { cpu, context, root, start, to };
        judge::keeps(&cached);
        // What it knows already, it knows once.
        let is_same = |known: &Cached| {
            (known.cpu, known.context, known.start) == (cpu, context, start)
                && matches!(known.to, To::Page(_)) == matches!(to, To::Page(_))
        };
        world().cached.flush(is_same);
        world().cached.keep(cached);
    };
    let table = match world().cached.find(is_own).map(|cached| cached.to) {
        Some(To::Table(table)) => table,
        _ => {
            let pud = read(root, at >> 39).table()?;
            let table = read(pud, at >> 30).table()?;
            keep(at >> 30 << 30, To::Table(table));
            table
        }
    };
    let (leaf, span) = walk_leaf(table, at >> 21, what)?;
    let dirty = leaf.is_writable() && leaf.flags.contains(LeafFlags::DIRTY);
    let life = world().contents.of(leaf.frame).life;
    let (writable, stored) = (leaf.is_writable(), world().contents.stored());
    let page = Translation { frame: leaf.frame, table, writable, dirty, life, stored, span };
    keep(at >> 21 << 21, To::Page(page));
    Some(page)
}

/// The entry of a page, if it allows the access, marked by it; and how much the processor may keep as one translation.
fn walk_leaf(table: TableFrame, index: u64, what: Use) -> Option<(Leaf, u32)> {
    let mut seen = read(table, index);
    loop {
        let Entry::Leaf(leaf) = seen.decode() else { return None };
        if !what.is_allowed_by(leaf) {
            return None;
        }
        let marked = leaf.with(what.marks());
        let wanted = seen.used(marked, what == Use::Store);
        if wanted == seen {
            return Some((leaf, seen.span()));
        }
        match word(table, index).set_used(seen.bits(), wanted.bits()) {
            Ok(_) => return Some((marked, seen.span())),
            Err(now) => seen = RawEntry::from_bits(now),
        }
    }
}

/// Reads an entry, as hardware does.
fn read(table: TableFrame, index: u64) -> RawEntry {
    RawEntry::from_bits(word(table, index).load(std::sync::atomic::Ordering::Acquire))
}

/// An entry.
fn word(table: TableFrame, index: u64) -> &'static Word {
    // SAFETY: the page is there for ever; its words are atomics.
    let words = unsafe { world().entries(table).cast::<[Word; X86_64::ENTRIES]>().as_ref() };
    &words[index as usize & 511]
}
