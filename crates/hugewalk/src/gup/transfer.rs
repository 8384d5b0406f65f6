//! Reads and writes the memory of an address space from outside: process_vm_readv and
//! process_vm_writev.

use super::{GupError, GupFlags, PinnedPage, SystemRef, TransferError};
use crate::addr::VirtAddr;
use crate::error::MemoryError;
use crate::platform::Platform;
use crate::space::AddressSpace;
use crate::task::Task;

impl<P: Platform> AddressSpace<P> {
    /// Copies bytes out of the address space, from `address` on, and returns how many. That is
    /// fewer than asked for if it comes to an address that cannot be read, or to a page whose memory fails. Missing pages are
    /// faulted in. Sleeps.
    ///
    /// Each page is pinned meanwhile. So a page of a private mapping that is shared copy-on-write
    /// is copied first, as in Linux. Takes the locks that [`pin_pages`](Self::pin_pages) takes.
    ///
    /// Linux: `process_vm_readv(2)`, `process_vm_rw_single_vec()` in mm/process_vm_access.c.
    ///
    /// # Errors
    ///
    /// [`TransferError`], if there was not even a first byte.
    pub fn read_bytes(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        into: &mut [u8],
    ) -> Result<usize, TransferError> {
        let length = into.len();
        self.transfer(task, address, length, GupFlags::PIN, |page, offset, done| {
            into.get_mut(done..).map_or(Ok(0), |rest| page.read(offset, rest))
        })
    }

    /// Copies bytes into the address space, from `address` on, and returns how many. That is fewer
    /// than asked for if it comes to an address that cannot be written. Missing pages are faulted
    /// in, and pages that are shared copy-on-write are copied. Sleeps.
    ///
    /// Takes the locks that [`pin_pages`](Self::pin_pages) takes.
    ///
    /// Linux: `process_vm_writev(2)`.
    ///
    /// # Errors
    ///
    /// [`TransferError`], if there was not even a first byte.
    pub fn write_bytes(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        from: &[u8],
    ) -> Result<usize, TransferError> {
        let flags = GupFlags::PIN | GupFlags::WRITE;
        self.transfer(task, address, from.len(), flags, |page, offset, done| {
            // Pinned for writing, so this cannot fail.
            Ok(from.get(done..).map_or(0, |rest| page.write(offset, rest).unwrap_or(0)))
        })
    }

    fn transfer(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: usize,
        flags: GupFlags,
        mut copy: impl FnMut(&PinnedPage<P, SystemRef<'_, P>>, u64, usize) -> Result<usize, MemoryError>,
    ) -> Result<usize, TransferError> {
        self.check(task, flags).map_err(TransferError::NoPage)?;
        let system = SystemRef::of(self);
        let mut done = 0;
        while done < length {
            let page = match address.checked_add(done as u64) {
                Some(at) => self.pin_page(task, system, at, flags).map(|page| (page, at)),
                None => Err(GupError::NotMapped { address }),
            };
            match page {
                Ok((page, at)) => {
                    let offset = at.as_u64() & (page.size().bytes() - 1);
                    match copy(&page, offset, done) {
                        Ok(count) => done += count,
                        Err(MemoryError) if done > 0 => break,
                        Err(MemoryError) => return Err(TransferError::Memory { address }),
                    }
                }
                Err(_) if done > 0 => break,
                Err(_) if self.has_exited(task) == Ok(true) => return Err(TransferError::Exited),
                Err(error) => return Err(TransferError::NoPage(error)),
            }
        }
        Ok(done)
    }
}
