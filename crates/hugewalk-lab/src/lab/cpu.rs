//! Processors: a TLB, and a cache of the entries that lead to tables, both of which keep what they have until a flush.
//!
//! # Protocol
//!
//! An access is one instruction: a flush that meets a processor in the middle of one waits until it is over, as the
//! acknowledgement of an inter-processor interrupt does. Within the instruction each entry that is read is an access of
//! its own, so whatever changes tables without a flush can come between.

use std::cell::Cell;
use std::ops::Range;

use hugewalk::addr::{HugeFrame, TableFrame, VirtAddr};
use hugewalk::arch::{Entry, RawEntry};
use hugewalk::mm::AddressSpace;
use hugewalk::page::Page;
use hugewalk::sync::Word as _;

use super::Lab;
use super::quarantine::access;
use super::trace;
use super::world::{Property, world};
use crate::explore::{Object, Op, Wait, in_thread};
use crate::story::StepKind;

/// What the lab keeps for each address space.
#[derive(Debug)]
pub struct Context {
    /// Processors in the middle of an access.
    busy: Cell<u32>,
}

// SAFETY: used by `Lab::flush_tlb` and `Cpu::load`, which panic on another OS thread.
unsafe impl Sync for Context {}
// SAFETY: as above.
unsafe impl Send for Context {}

impl Context {
    pub(super) fn new() -> Self {
        Self { busy: Cell::new(0) }
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

/// Something a processor has cached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    /// Whose cache it is in: a thread is a processor. Another one's would be something shared, and a look into it a step.
    cpu: Option<usize>,
    context: usize,
    root: TableFrame,
    /// Start of the range: of 1 GiB if it leads to a table, of 2 MiB if to a page.
    start: u64,
    to: To,
}

#[derive(Clone, Copy, Debug)]
enum To {
    Table(TableFrame),
    /// With the table that the entry lies in.
    Page(HugeFrame, TableFrame),
}

/// Something that a processor keeps, in words.
pub(super) struct Kept {
    pub(super) context: usize,
    pub(super) range: Range<u64>,
    pub(super) to: String,
}

/// What processors keep.
pub(super) fn kept() -> Vec<Kept> {
    let words = |cached: &Cached| {
        let (size, to) = match cached.to {
            To::Table(table) => (1 << 30, format!("T{}", table.0)),
            To::Page(frame, _) => (1 << 21, format!("page {}", frame.0 >> 9)),
        };
        Kept { context: cached.context, range: cached.start..cached.start + size, to }
    };
    world().cached.borrow().iter().flatten().map(words).collect()
}

/// Takes what was cached of a range back.
pub(super) fn flush(context: &Context, range: &Range<VirtAddr>) {
    let wait = Wait::until(Context::is_idle, std::ptr::from_ref(context).cast());
    access(&Op::write(context.object()).waits(wait));
    let of = std::ptr::from_ref(context).addr();
    trace::flush(context.object(), of, range);
    for place in world().cached.borrow_mut().iter_mut() {
        place.take_if(|cached| {
            let size = if matches!(cached.to, To::Table(_)) { 1 << 30 } else { 1 << 21 };
            cached.context == of
                && cached.start + size > range.start.as_u64()
                && cached.start < range.end.as_u64()
        });
    }
}

/// After a gather has flushed, and when `i_mmap` is released, no processor reaches a table that its address space has no entry
/// for, nor a page that it found there (I6).
pub(super) fn check_caches() {
    let stale = world().cached.borrow().iter().flatten().find_map(|cached| {
        let (To::Table(table) | To::Page(_, table)) = cached.to;
        let pud = world().peek(cached.root, cached.start >> 39);
        let now = pud.and_then(|pud| world().peek(pud, cached.start >> 30));
        (now != Some(table)).then_some((table, *cached))
    });
    let Some((table, cached)) = stale else { return };
    let by = if matches!(cached.to, To::Page(..)) { "a TLB" } else { "a paging-structure cache" };
    let whose = world().roots().position(|root| root == cached.root).map_or(0, |at| at + 1);
    let text = format!("{by} still reaches T{} for P{whose}, which has no entry for it any more", table.0);
    trace::is_about(table, false);
    world().violated(Property::I6, &text);
}

/// An access to memory, in words.
fn trace_load(address: VirtAddr, how: &str) -> [String; 3] {
    let address = format!("{:x}", address.as_u64());
    let text = format!("load from {address} {how}");
    [address, text.clone(), text]
}

/// A processor that runs an address space.
#[derive(Debug)]
pub struct Cpu<'s> {
    space: &'s AddressSpace<Lab>,
}

impl<'s> Cpu<'s> {
    /// A processor that starts to run this address space, with empty caches.
    #[must_use]
    pub fn new(space: &'s AddressSpace<Lab>) -> Self {
        Self { space }
    }

    /// Loads from an address. `None`: a fault.
    pub fn load(&mut self, address: VirtAddr) -> Option<HugeFrame> {
        self.space.mm().hugetlb().platform().machine();
        let context = self.space.mm().context();
        context.begin_access();
        trace::works_in(self.space.mm().root_frame());
        trace::event(Some(context.object()), StepKind::Access, || trace_load(address, "begins"));
        let found = translate(self.space.mm().root_frame(), context, address);
        if let Some(frame) = found {
            // SAFETY: the record of a page that was mapped; its memory stays.
            let page: &Page<Lab> = unsafe { world().page_record(frame).cast().as_ref() };
            if page.references() == 0 {
                let text = format!("a processor touches huge page {:#x}, which is free", frame.0);
                world().violated(Property::I6, &text);
            }
        }
        context.end_access();
        trace::event(Some(context.object()), StepKind::Access, || {
            let found = found.map_or_else(|| "a fault".to_owned(), |frame| format!("page {}", frame.0 >> 9));
            trace_load(address, &format!("ends: {found}"))
        });
        found
    }
}

/// What this processor finds behind an address, by its caches or by the tables. It is in the middle of an access.
pub(crate) fn translate(root: TableFrame, context: &Context, address: VirtAddr) -> Option<HugeFrame> {
    let (cpu, context, at) = (in_thread(), std::ptr::from_ref(context).addr(), address.as_u64());
    let find = |start: u64, page: bool| {
        let fits = |cached: &&Cached| {
            (cached.cpu, cached.context, cached.start) == (cpu, context, start)
                && matches!(cached.to, To::Page(..)) == page
        };
        world().cached.borrow().iter().flatten().find(fits).map(|cached| cached.to)
    };
    let keep = |start: u64, to: To| {
        let mut places = world().cached.borrow_mut();
        let free = places.iter_mut().find(|place| place.is_none());
        *free.expect("fewer translations in a run") = Some(Cached { cpu, context, root, start, to });
    };
    if let Some(To::Page(frame, _)) = find(at >> 21 << 21, true) {
        return Some(frame);
    }
    let table = match find(at >> 30 << 30, false) {
        Some(To::Table(table)) => table,
        _ => {
            let pud = read(root, at >> 39).table()?;
            let table = read(pud, at >> 30).table()?;
            keep(at >> 30 << 30, To::Table(table));
            table
        }
    };
    let Entry::Leaf(leaf) = read(table, at >> 21).decode() else {
        return None;
    };
    keep(at >> 21 << 21, To::Page(leaf.frame, table));
    Some(leaf.frame)
}

/// Reads an entry, as hardware does.
fn read(table: TableFrame, index: u64) -> RawEntry {
    // SAFETY: the page is there for ever; its words are atomics.
    let words = unsafe { world().entries(table).as_ref() };
    RawEntry::from_bits(words[index as usize & 511].load(std::sync::atomic::Ordering::Acquire))
}
