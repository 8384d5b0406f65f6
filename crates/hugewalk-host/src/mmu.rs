//! The memory management unit of a soft CPU: finds memory for an address, by the TLB or by a walk.
//!
//! # Protocol
//!
//! An access is made between the two marks that a TLB flush waits for (see `context.rs`). Inside,
//! the processor finds its translation in the TLB, or walks under RCU to an entry, reads it and
//! confirms the read. Then it accesses memory.
//!
//! That entry or translation belonged to the address space after the access began. An operation
//! that takes it away flushes before the page is reused, and the flush waits until the access is
//! over. So no load or store reaches a page that belongs to another user by then.
//!
//! Inside an access the processor must not wait, since the flushing thread may hold any lock. It
//! sets the accessed and dirty bits as real processors do: by compare-and-swap, without the table
//! lock, at any moment. If the entry has changed since it was read, the exchange fails, nothing is
//! written, and the processor walks again. So code that changes an entry must expect these bits to
//! change at any moment, as on a real machine.
//!
//! The table may be unshared between the read and the exchange. The entry that gets the bits then
//! belongs to another address space, and it maps the same page. Unsharing flushes before the page
//! or the table is reused, and the flush waits for the access.
//!
//! A missing entry, or one that does not allow the access, is a fault. It is resolved outside the
//! access, since resolving it sleeps.

use core::fmt;

use core::sync::atomic::{AtomicU64, Ordering};

use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Entry, Leaf, LeafFlags, Paging};
use hugewalk::error::OutOfMemory;
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::{AddressSpace, Mm};
use hugewalk::platform::Tables as _;
use hugewalk::sync::Arc;
use hugewalk::task::Task;
use hugewalk::walk::leaf_offset;

use crate::Host;
use crate::contents::Memory;
use crate::context::Attachment;
use crate::cpu::CpuStats;
use crate::tlb::{Rights, Tlb, Translation};

/// Gives a processor access to the memory of one address space. The processor is attached until
/// this is dropped.
pub(crate) struct Mmu<F: Paging> {
    space: Arc<AddressSpace<Host<F>>>,
    attachment: Attachment,
    tlb: Tlb,
    stats: CpuStats,
}

/// The place in a page that an access goes to.
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
    /// The table was unshared or detached meanwhile.
    Retry,
}

impl<F: Paging> Mmu<F> {
    pub(crate) fn attach(space: &Arc<AddressSpace<Host<F>>>) -> Result<Self, OutOfMemory> {
        let attachment = space.mm().context().attach()?;
        Ok(Self { space: space.clone(), attachment, tlb: Tlb::new(), stats: CpuStats::default() })
    }

    pub(crate) fn address_space(&self) -> &Arc<AddressSpace<Host<F>>> {
        &self.space
    }

    pub(crate) fn stats(&self) -> CpuStats {
        self.stats
    }

    /// Runs `work` on the memory at `address`, as one access, once the access is allowed. `work`
    /// takes no lock and does not wait.
    #[inline]
    pub(crate) fn access<R>(
        &mut self,
        task: &mut Task<Host<F>>,
        address: VirtAddr,
        access: Access,
        mut work: impl FnMut(&Memory, Place) -> R,
    ) -> Result<R, FaultError> {
        let mm = self.space.mm();
        let host = mm.hugetlb().platform();
        let inside = self.attachment.enter(mm.context(), host);
        if let Some(translation) = self.tlb.lookup(mm.paging().leaves(), address, inside.generation(), access)
        {
            self.stats.hits += 1;
            return Ok(work(host.memory(), Place::new(address, translation)));
        }
        drop(inside);
        self.miss(task, address, access, &mut work)
    }

    #[cold]
    fn miss<R>(
        &mut self,
        task: &mut Task<Host<F>>,
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
        task: &Task<Host<F>>,
        address: VirtAddr,
        access: Access,
        work: &mut dyn FnMut(&Memory, Place) -> R,
    ) -> Walk<R> {
        let mm = self.space.mm();
        let host = mm.hugetlb().platform();
        let section = task.rcu_read_lock();
        // Declared after the section, so the access ends first: leaving a section may run
        // callbacks, which take locks.
        let inside = self.attachment.enter(mm.context(), host);
        let found = leaf_offset(&section, mm, address).expect("the task belongs to another system");
        let Some((slot, size)) = found else {
            return Walk::Fault;
        };
        // Where sizes share a level, the entry says which of them it is.
        let Ok(seen) = slot.peek() else { return Walk::Retry };
        let size = seen.leaf_size().unwrap_or(size);
        let leaf = match seen.confirm() {
            Ok(Entry::Leaf(leaf)) => leaf,
            // A table replaced a leaf, or an empty entry, since the walk.
            Ok(Entry::Table(_)) | Err(_) => return Walk::Retry,
            // There is no memory behind a table of the host's here: the fault finds nothing mapped.
            Ok(
                Entry::None
                | Entry::HostTable(_)
                | Entry::Migration(_)
                | Entry::Hwpoison(_)
                | Entry::Marker
                | Entry::Poison,
            ) => {
                return Walk::Fault;
            }
        };
        if !leaf.is_accessible() || !rights(leaf).allow(access) {
            return Walk::Fault;
        }
        let mut seen = LeafFlags::ACCESSED;
        seen.set(LeafFlags::DIRTY, access == Access::Write);
        if !leaf.flags.contains(seen) {
            if !host.notes_use() {
                return Walk::Fault;
            }
            if !set_bits(mm, address, size, leaf, seen) {
                return Walk::Changed;
            }
        }
        let leaf = leaf.with(seen);
        // A translation may be used for stores only if the dirty bit is already set.
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

impl<F: Paging> Drop for Mmu<F> {
    fn drop(&mut self) {
        self.space.mm().context().detach(&self.attachment);
    }
}

impl<F: Paging> fmt::Debug for Mmu<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mmu").field("space", &self.space).field("stats", &self.stats).finish_non_exhaustive()
    }
}

fn rights(leaf: Leaf) -> Rights {
    Rights { write: leaf.is_writable(), execute: !leaf.flags.contains(LeafFlags::NO_EXECUTE) }
}

/// Sets bits of the entry, if the entry has not changed since it was read. Does not wait. The
/// caller is inside an access, and in a read section, which keeps the tables on the way.
fn set_bits<F: Paging>(
    mm: &Mm<Host<F>>,
    address: VirtAddr,
    size: HugeSize,
    leaf: Leaf,
    bits: LeafFlags,
) -> bool {
    let (paging, level) = (mm.paging(), size.level());
    let index = paging.geometry().index(address.as_u64(), level);
    word(mm, address, level).is_some_and(|word| {
        let now = word.load(Ordering::Relaxed);
        let unchanged =
            paging.decode(now, level) == Entry::Leaf(leaf) && paging.leaf_size(now, level) == Some(size);
        let wanted = paging.change_flags(now, level, index, |flags| flags | bits);
        // Release: a reader of the bits comes after this processor's earlier uses of the page.
        unchanged && word.compare_exchange(now, wanted, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    })
}

/// The word of the entry for an address, in its table of `level`, found by loads alone, from the root on.
fn word<F: Paging>(mm: &Mm<Host<F>>, address: VirtAddr, level: u8) -> Option<&AtomicU64> {
    let (host, paging) = (mm.hugetlb().platform(), mm.paging());
    let geometry = paging.geometry();
    let mut frame = mm.root_frame();
    for at in (level..geometry.levels).rev() {
        // SAFETY: the frame is that of a root, or of a table that an entry pointed to in the
        // caller's read section, so it is allocated. The index is one of a table.
        let entry = unsafe { host.table_entry(frame, geometry.index(address.as_u64(), at)) };
        // SAFETY: as above, and it stays allocated as long as the section. Entries are atomics.
        let word: &AtomicU64 = unsafe { entry.as_ref() };
        if at == level {
            return Some(word);
        }
        frame = paging.next_table(word.load(Ordering::Acquire), at)?;
    }
    None
}
