//! The memory management unit of a soft CPU: from an address to memory, by the TLB or by a walk.
//!
//! # Protocol
//!
//! An access is made between the two marks that a TLB flush waits for (see `context.rs`); inside, the processor finds its
//! translation in the TLB or walks, under RCU, to an entry that it reads confirmed, and then touches memory. That entry
//! or translation was the address space's own after the access began, and whoever takes it away flushes before the page
//! goes elsewhere, so the flush waits until the access is over: no load or store ever reaches a page that has been given
//! to somebody else.
//!
//! Inside an access the processor must wait for nobody, since the one who flushes may hold the very lock. It sets the
//! accessed and dirty bits as real processors do: in passing, by compare-and-swap, without the table lock, and at any moment.
//! If the entry has changed since it was read, the exchange fails, nothing is written, and the processor walks again. So
//! whatever changes an entry meets bits here that appear under its hands, as on a real machine.
//!
//! The table may be unshared between the read and the exchange. The entry that gets the bits is then another address space's,
//! and it says the same: it maps the page that is accessed. Unsharing flushes before anything else can become of the page
//! or the table, and the flush waits for the access.
//!
//! An entry that is not there or does not allow the access is a fault. It is resolved outside: it sleeps.

use core::fmt;

use core::sync::atomic::{AtomicU64, Ordering};

use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Entry, Leaf, LeafFlags, Level, RawEntry};
use hugewalk::error::OutOfMemory;
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::{AddressSpace, Mm};
use hugewalk::platform::{ENTRIES, Levels, Platform};
use hugewalk::sync::Arc;
use hugewalk::task::Task;
use hugewalk::walk::leaf_offset;

use crate::Host;
use crate::contents::Memory;
use crate::context::Attachment;
use crate::cpu::CpuStats;
use crate::tlb::{Rights, Tlb, Translation};

/// A processor's way to the memory of one address space, to which it is attached until it is dropped.
pub(crate) struct Mmu {
    space: Arc<AddressSpace<Host>>,
    attachment: Attachment,
    tlb: Tlb,
    stats: CpuStats,
}

/// Where in a page an access goes.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) frame: HugeFrame,
    pub(crate) offset: u64,
}

impl Place {
    #[inline]
    fn new(address: VirtAddr, translation: Translation) -> Self {
        let offset = address.as_u64() & (translation.size.bytes() - 1);
        Self { frame: translation.frame, offset }
    }
}

/// How a walk for an access ended.
enum Walk<R> {
    Done(R),
    /// The entry changed before its accessed or dirty bit was set.
    Changed,
    Fault,
    /// The table was taken away meanwhile.
    Retry,
}

impl Mmu {
    pub(crate) fn attach(space: &Arc<AddressSpace<Host>>) -> Result<Self, OutOfMemory> {
        let attachment = space.mm().context().attach()?;
        Ok(Self { space: space.clone(), attachment, tlb: Tlb::new(), stats: CpuStats::default() })
    }

    pub(crate) fn address_space(&self) -> &Arc<AddressSpace<Host>> {
        &self.space
    }

    pub(crate) fn stats(&self) -> CpuStats {
        self.stats
    }

    /// Does `work` at the place of `address` in memory, as one access, once that is allowed. `work` takes no lock and
    /// waits for nobody.
    #[inline]
    pub(crate) fn access<R>(
        &mut self,
        task: &mut Task<Host>,
        address: VirtAddr,
        access: Access,
        mut work: impl FnMut(&Memory, Place) -> R,
    ) -> Result<R, FaultError> {
        let mm = self.space.mm();
        let host = mm.hugetlb().platform();
        let inside = self.attachment.enter(mm.context(), host);
        if let Some(translation) = self.tlb.lookup(address, inside.generation(), access) {
            self.stats.hits += 1;
            return Ok(work(host.memory(), Place::new(address, translation)));
        }
        drop(inside);
        self.miss(task, address, access, &mut work)
    }

    #[cold]
    fn miss<R>(
        &mut self,
        task: &mut Task<Host>,
        address: VirtAddr,
        access: Access,
        work: &mut dyn FnMut(&Memory, Place) -> R,
    ) -> Result<R, FaultError> {
        self.stats.misses += 1;
        loop {
            match self.walk(task, address, access, work) {
                Walk::Done(result) => return Ok(result),
                Walk::Changed => {}
                Walk::Retry => self.stats.retries += 1,
                Walk::Fault => {
                    self.stats.faults += 1;
                    if self.space.fault(task, address, access)? == Fault::Raced {
                        task.pause();
                    }
                }
            }
        }
    }

    /// Walks, remembers the translation, and makes the access.
    fn walk<R>(
        &mut self,
        task: &Task<Host>,
        address: VirtAddr,
        access: Access,
        work: &mut dyn FnMut(&Memory, Place) -> R,
    ) -> Walk<R> {
        let mm = self.space.mm();
        let host = mm.hugetlb().platform();
        let section = task.rcu_read_lock();
        // After the section, and so left before it: leaving a section may run callbacks, which take locks.
        let inside = self.attachment.enter(mm.context(), host);
        let found = leaf_offset(&section, mm, address).expect("the task belongs to another system");
        let Some((slot, size)) = found else {
            return Walk::Fault;
        };
        let leaf = match slot.read() {
            Ok(Entry::Leaf(leaf)) => leaf,
            // A table took the place of a leaf, or of nothing, since the walk looked.
            Ok(Entry::Table(_)) | Err(_) => return Walk::Retry,
            Ok(Entry::None | Entry::Migration(_) | Entry::Hwpoison(_) | Entry::Marker) => return Walk::Fault,
        };
        if !leaf.is_accessible() || !rights(leaf).allow(access) {
            return Walk::Fault;
        }
        let mut seen = LeafFlags::ACCESSED;
        seen.set(LeafFlags::DIRTY, access == Access::Write);
        if !leaf.flags.contains(seen) && !set_bits(mm, address, size, leaf, seen) {
            return Walk::Changed;
        }
        let leaf = leaf.with(seen);
        // A translation may be used for stores only if that needs no more marking: the dirty bit is set already.
        let dirty = leaf.flags.contains(LeafFlags::DIRTY);
        let rights = Rights { write: rights(leaf).write && dirty, ..rights(leaf) };
        let translation = Translation { frame: leaf.frame, size, rights };
        if let Memory::File(file) = host.memory()
            && rights.write
        {
            file.expose(leaf.frame, size);
        }
        self.tlb.insert(address, inside.generation(), translation);
        Walk::Done(work(host.memory(), Place::new(address, translation)))
    }
}

impl Drop for Mmu {
    fn drop(&mut self) {
        self.space.mm().context().detach(&self.attachment);
    }
}

impl fmt::Debug for Mmu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mmu").field("space", &self.space).field("stats", &self.stats).finish_non_exhaustive()
    }
}

fn rights(leaf: Leaf) -> Rights {
    Rights { write: leaf.is_writable(), execute: !leaf.flags.contains(LeafFlags::NO_EXECUTE) }
}

/// Sets bits of the entry, if it still is the one that was read. Waits for nobody. The caller is in a read section, so the
/// tables on the way stay, and inside an access.
fn set_bits(mm: &Mm<Host>, address: VirtAddr, size: HugeSize, leaf: Leaf, bits: LeafFlags) -> bool {
    let (read, wanted) = (RawEntry::from(Entry::Leaf(leaf)), RawEntry::from(Entry::Leaf(leaf.with(bits))));
    // Release: whoever reads the bits knows that the page was used, by what came before on this processor.
    word(mm, address, size).is_some_and(|word| {
        word.compare_exchange(read.bits(), wanted.bits(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    })
}

/// The word of the entry for an address, found by loads alone, from the root on.
fn word(mm: &Mm<Host>, address: VirtAddr, size: HugeSize) -> Option<&AtomicU64> {
    let host = mm.hugetlb().platform();
    let above: &[Level] = match mm.levels() {
        Levels::Four => &[Level::P4d, Level::Pud, Level::Pmd],
        Levels::Five => &[Level::Pgd, Level::P4d, Level::Pud, Level::Pmd],
    };
    let mut frame = mm.root_frame();
    for &level in above {
        // SAFETY: a root, or a table that an entry pointed to in the caller's read section: allocated.
        let table = unsafe { host.table_entries(frame) };
        // SAFETY: as above, and it stays so as long as the section; its entries are atomics.
        let table: &[AtomicU64; ENTRIES] = unsafe { table.as_ref() };
        let word = &table[(address.as_u64() >> level.shift()) as usize % ENTRIES];
        if level == Level::of_leaf(size) {
            return Some(word);
        }
        frame = RawEntry::from_bits(word.load(Ordering::Acquire)).table()?;
    }
    None
}
