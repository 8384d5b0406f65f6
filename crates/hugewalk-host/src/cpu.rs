//! A soft CPU: loads and stores through the page tables. How it finds memory is in `mmu.rs`.

use core::sync::atomic::Ordering;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Paging, X86_64};
use hugewalk::error::OutOfMemory;
use hugewalk::fault::{Access, FaultError};
use hugewalk::mm::AddressSpace;
use hugewalk::sync::Arc;
use hugewalk::task::Task;

use crate::Host;
use crate::contents::Memory;
use crate::mmu::Mmu;

/// How many bytes one access copies: a flush waits no longer than that.
const CHUNK: u64 = 4096;

/// A processor that runs one address space, on the thread that made it.
///
/// Every thread may have one. They see each other's stores as the threads of a process do.
/// Functions that may fault take a `&mut Task`, because a fault may sleep.
///
/// It stays on its thread, because a TLB flush skips the processors of the thread that flushes:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<hugewalk_host::Cpu>();
/// ```
///
/// # Panics
///
/// Accesses panic if the task belongs to another system than the address space.
#[derive(Debug)]
pub struct Cpu<F: Paging = X86_64> {
    mmu: Mmu<F>,
}

/// Statistics of a processor's accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Accesses whose translation was in the TLB.
    pub hits: u64,
    /// Accesses that needed a walk.
    pub misses: u64,
    /// Faults taken on the way.
    pub faults: u64,
    /// Walks that started over, because a table was unshared meanwhile.
    pub retries: u64,
}

impl<F: Paging> Cpu<F> {
    /// Attaches a processor to an address space. It is detached when it is dropped.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(space: &Arc<AddressSpace<Host<F>>>) -> Result<Self, OutOfMemory> {
        Ok(Self { mmu: Mmu::attach(space)? })
    }

    /// The address space it runs.
    #[must_use]
    pub fn address_space(&self) -> &Arc<AddressSpace<Host<F>>> {
        self.mmu.address_space()
    }

    /// Statistics of its accesses so far.
    #[must_use]
    pub fn stats(&self) -> CpuStats {
        self.mmu.stats()
    }

    /// Loads a byte.
    ///
    /// # Errors
    ///
    /// The fault that could not be resolved.
    #[inline]
    pub fn load(&mut self, task: &mut Task<Host<F>>, address: VirtAddr) -> Result<u8, FaultError> {
        self.mmu.access(task, address, Access::Read, |memory, place| match memory {
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
    pub fn store(
        &mut self,
        task: &mut Task<Host<F>>,
        address: VirtAddr,
        value: u8,
    ) -> Result<(), FaultError> {
        self.mmu.access(task, address, Access::Write, |memory, place| {
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
    pub fn load_u64(&mut self, task: &mut Task<Host<F>>, address: VirtAddr) -> Result<u64, FaultError> {
        assert_aligned(address);
        self.mmu.access(task, address, Access::Read, |memory, place| match memory {
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
        task: &mut Task<Host<F>>,
        address: VirtAddr,
        value: u64,
    ) -> Result<(), FaultError> {
        assert_aligned(address);
        self.mmu.access(task, address, Access::Write, |memory, place| {
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
        task: &mut Task<Host<F>>,
        address: VirtAddr,
        into: &mut [u8],
    ) -> Result<(), FaultError> {
        let (mut at, mut rest) = (address, into);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at_mut(chunk_length(at, rest.len()));
            let length = chunk.len();
            self.mmu.access(task, at, Access::Read, |memory, place| match memory {
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
        task: &mut Task<Host<F>>,
        address: VirtAddr,
        from: &[u8],
    ) -> Result<(), FaultError> {
        let (mut at, mut rest) = (address, from);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_length(at, rest.len()));
            self.mmu.access(task, at, Access::Write, |memory, place| {
                if let Memory::File(file) = memory {
                    file.write(place.frame, place.offset, chunk);
                }
            })?;
            (at, rest) = (next(at, chunk.len())?, after);
        }
        Ok(())
    }

    /// Does everything that an access does except the access itself: translates, and faults if
    /// needed.
    ///
    /// # Errors
    ///
    /// The fault that could not be resolved.
    #[inline]
    pub fn touch(
        &mut self,
        task: &mut Task<Host<F>>,
        address: VirtAddr,
        access: Access,
    ) -> Result<(), FaultError> {
        self.mmu.access(task, address, access, |_, _| ())
    }
}

fn chunk_length(at: VirtAddr, rest: usize) -> usize {
    rest.min((CHUNK - at.as_u64() % CHUNK) as usize)
}

/// The address after a chunk. Past the end of the number range the last address stands in, which is
/// not mapped either.
fn next(at: VirtAddr, length: usize) -> Result<VirtAddr, FaultError> {
    at.checked_add(length as u64).ok_or(FaultError::NotMapped { address: at })
}

#[inline]
fn assert_aligned(address: VirtAddr) {
    assert!(address.as_u64().is_multiple_of(8), "{address:?} is not a multiple of 8");
}
