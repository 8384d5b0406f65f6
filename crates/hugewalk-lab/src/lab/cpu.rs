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
use hugewalk::platform::ENTRIES;
use hugewalk::sync::Word as _;

use super::ground::{Cached, Lab, To, access, world};
use super::property::Property;
use super::trace;
use super::word::Word;
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

/// Takes what was cached of a range back.
pub(super) fn flush(context: &Context, range: &Range<VirtAddr>) {
    let wait = Wait::until(Context::is_idle, std::ptr::from_ref(context).cast());
    access(&Op::write(context.object()).waits(wait));
    let of = std::ptr::from_ref(context).addr();
    trace::flush(context.object(), of, range);
    world().cached.flush(|cached| {
        let kept = cached.range();
        cached.context == of && kept.end > range.start.as_u64() && kept.start < range.end.as_u64()
    });
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
            let page = unsafe { world().page_record(frame).cast::<Page<Lab>>().as_ref() };
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
        let fits = |cached: &Cached| {
            (cached.cpu, cached.context, cached.start) == (cpu, context, start)
                && matches!(cached.to, To::Page(..)) == page
        };
        world().cached.find(fits).map(|cached| cached.to)
    };
    let keep = |start: u64, to: To| world().cached.keep(Cached { cpu, context, root, start, to });
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
    let words = unsafe { world().entries(table).cast::<[Word; ENTRIES]>().as_ref() };
    RawEntry::from_bits(words[index as usize & 511].load(std::sync::atomic::Ordering::Acquire))
}
