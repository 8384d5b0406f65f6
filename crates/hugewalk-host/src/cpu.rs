//! A soft CPU: loads and stores through the page tables, with a TLB.
//!
//! # Protocol
//!
//! An access is made between the two marks that a TLB flush waits for (see `context.rs`); inside, the processor finds its
//! translation in the TLB or walks, under RCU, to an entry that it reads confirmed, and then touches memory. That entry
//! or translation was the address space's own after the access began, and whoever takes it away flushes before the page
//! goes elsewhere, so the flush waits until the access is over: no load or store ever reaches a page that has been given
//! to somebody else.
//!
//! Inside an access the processor must wait for nobody, since the one who flushes may hold the very lock. So the accessed
//! and dirty bits, which real processors set in passing, are set before, under the table lock, which is revalidated. The
//! access itself then only accepts an entry that has them.
//!
//! An entry that is not there or does not allow the access is a fault. It is resolved outside: it sleeps.

use core::fmt;
use core::sync::atomic::Ordering;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, Leaf, LeafFlags};
use hugewalk::error::OutOfMemory;
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::AddressSpace;
use hugewalk::platform::Barriers;
use hugewalk::sync::Arc;
use hugewalk::task::Task;
use hugewalk::walk::leaf_offset;

use crate::Host;
use crate::contents::Memory;
use crate::context::Attachment;
use crate::tlb::{Rights, Tlb, Translation};

/// So many bytes are copied in one access: whoever flushes waits for no more than that.
const CHUNK: u64 = 4096;

/// A processor that runs one address space, on the thread that made it.
///
/// Every thread may have one; they see each other's stores as the threads of an x86-64 process do. Whatever may fault takes
/// a `&mut Task`, because a fault may sleep.
///
/// # Panics
///
/// Accesses panic if the task belongs to another system than the address space.
pub struct Cpu {
    space: Arc<AddressSpace<Host>>,
    attachment: Attachment,
    tlb: Tlb,
    stats: CpuStats,
}

/// How the accesses of a processor went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Accesses whose translation was in the TLB.
    pub hits: u64,
    /// Accesses that needed a walk.
    pub misses: u64,
    /// Faults taken on the way.
    pub faults: u64,
    /// Walks that started over, because the table was unshared meanwhile.
    pub retries: u64,
}

/// How a walk for an access ended.
enum Walk<R> {
    Done(R),
    /// The entry would do, but for its accessed or dirty bit.
    Unmarked,
    Fault,
    /// The table was taken away meanwhile.
    Retry,
}

impl Cpu {
    /// Attaches a processor to an address space. It is detached when it is dropped.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(space: &Arc<AddressSpace<Host>>) -> Result<Self, OutOfMemory> {
        let attachment = space.mm().context().attach()?;
        Ok(Self { space: space.clone(), attachment, tlb: Tlb::new(), stats: CpuStats::default() })
    }

    /// The address space it runs.
    #[must_use]
    pub fn address_space(&self) -> &Arc<AddressSpace<Host>> {
        &self.space
    }

    /// How its accesses went so far.
    #[must_use]
    pub fn stats(&self) -> CpuStats {
        self.stats
    }

    /// Loads a byte.
    ///
    /// # Errors
    ///
    /// The fault that could not be resolved.
    #[inline]
    pub fn load(&mut self, task: &mut Task<Host>, address: VirtAddr) -> Result<u8, FaultError> {
        self.access(task, address, Access::Read, |memory, place| match memory {
            Memory::File(file) => file.byte(place.frame, place.offset).load(Ordering::Acquire),
            Memory::Nothing => 0,
        })
    }

    /// Stores a byte.
    ///
    /// # Errors
    ///
    /// The fault that could not be resolved; nothing was stored then.
    #[inline]
    pub fn store(&mut self, task: &mut Task<Host>, address: VirtAddr, value: u8) -> Result<(), FaultError> {
        self.access(task, address, Access::Write, |memory, place| {
            if let Memory::File(file) = memory {
                file.byte(place.frame, place.offset).store(value, Ordering::Release);
            }
        })
    }

    /// Loads an aligned word, in one piece.
    ///
    /// # Errors
    ///
    /// The fault that could not be resolved.
    ///
    /// # Panics
    ///
    /// If the address is not a multiple of 8.
    #[inline]
    pub fn load_u64(&mut self, task: &mut Task<Host>, address: VirtAddr) -> Result<u64, FaultError> {
        assert_aligned(address);
        self.access(task, address, Access::Read, |memory, place| match memory {
            Memory::File(file) => file.word(place.frame, place.offset).load(Ordering::Acquire),
            Memory::Nothing => 0,
        })
    }

    /// Stores an aligned word, in one piece.
    ///
    /// # Errors
    ///
    /// The fault that could not be resolved; nothing was stored then.
    ///
    /// # Panics
    ///
    /// If the address is not a multiple of 8.
    #[inline]
    pub fn store_u64(
        &mut self,
        task: &mut Task<Host>,
        address: VirtAddr,
        value: u64,
    ) -> Result<(), FaultError> {
        assert_aligned(address);
        self.access(task, address, Access::Write, |memory, place| {
            if let Memory::File(file) = memory {
                file.word(place.frame, place.offset).store(value, Ordering::Release);
            }
        })
    }

    /// Loads bytes one after the other.
    ///
    /// # Errors
    ///
    /// The first fault that could not be resolved; the bytes before it have been loaded.
    pub fn read_bytes(
        &mut self,
        task: &mut Task<Host>,
        address: VirtAddr,
        into: &mut [u8],
    ) -> Result<(), FaultError> {
        let (mut at, mut rest) = (address, into);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at_mut(chunk_length(at, rest.len()));
            let length = chunk.len();
            self.access(task, at, Access::Read, |memory, place| match memory {
                Memory::File(file) => file.read(place.frame, place.offset, chunk),
                Memory::Nothing => chunk.fill(0),
            })?;
            (at, rest) = (next(at, length)?, after);
        }
        Ok(())
    }

    /// Stores bytes one after the other.
    ///
    /// # Errors
    ///
    /// The first fault that could not be resolved; the bytes before it have been stored.
    pub fn write_bytes(
        &mut self,
        task: &mut Task<Host>,
        address: VirtAddr,
        from: &[u8],
    ) -> Result<(), FaultError> {
        let (mut at, mut rest) = (address, from);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_length(at, rest.len()));
            self.access(task, at, Access::Write, |memory, place| {
                if let Memory::File(file) = memory {
                    file.write(place.frame, place.offset, chunk);
                }
            })?;
            (at, rest) = (next(at, chunk.len())?, after);
        }
        Ok(())
    }

    /// Does what an access does, but for the access: translates, and faults where that is needed.
    ///
    /// # Errors
    ///
    /// The fault that could not be resolved.
    #[inline]
    pub fn touch(
        &mut self,
        task: &mut Task<Host>,
        address: VirtAddr,
        access: Access,
    ) -> Result<(), FaultError> {
        self.access(task, address, access, |_, _| ())
    }

    #[inline]
    fn access<R>(
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
                Walk::Unmarked => self.mark_used(task, address, access),
                Walk::Retry => self.stats.retries += 1,
                Walk::Fault => {
                    self.stats.faults += 1;
                    if self.space.fault(task, address, access)? == Fault::Raced {
                        self.space.mm().hugetlb().platform().pause();
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
        // A translation may be used for stores only if that needs no more marking: the dirty bit is set already.
        let dirty = leaf.flags.contains(LeafFlags::DIRTY);
        if !leaf.flags.contains(LeafFlags::ACCESSED) || (access == Access::Write && !dirty) {
            return Walk::Unmarked;
        }
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

    /// Sets the accessed bit of the entry, and the dirty bit for a store. If the entry has changed meanwhile nothing
    /// happens, and the next walk sees it.
    fn mark_used(&self, task: &Task<Host>, address: VirtAddr, access: Access) {
        let section = task.rcu_read_lock();
        let found =
            leaf_offset(&section, self.space.mm(), address).expect("the task belongs to another system");
        if let Some((slot, _)) = found
            && let Ok(locked) = slot.lock()
        {
            locked.mark_used(access == Access::Write);
        }
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.space.mm().context().detach(&self.attachment);
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("space", &self.space).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// Where in a page an access goes.
#[derive(Clone, Copy)]
struct Place {
    frame: hugewalk::addr::HugeFrame,
    offset: u64,
}

impl Place {
    #[inline]
    fn new(address: VirtAddr, translation: Translation) -> Self {
        let offset = address.as_u64() & (translation.size.bytes() - 1);
        Self { frame: translation.frame, offset }
    }
}

fn rights(leaf: Leaf) -> Rights {
    Rights { write: leaf.is_writable(), execute: !leaf.flags.contains(LeafFlags::NO_EXECUTE) }
}

fn chunk_length(at: VirtAddr, rest: usize) -> usize {
    rest.min((CHUNK - at.as_u64() % CHUNK) as usize)
}

/// The address after a chunk; past the last one, whatever lies there is not mapped.
fn next(at: VirtAddr, length: usize) -> Result<VirtAddr, FaultError> {
    at.checked_add(length as u64).ok_or(FaultError::NotMapped { address: at })
}

#[inline]
fn assert_aligned(address: VirtAddr) {
    assert!(address.as_u64().is_multiple_of(8), "{address:?} is not a multiple of 8");
}
