//! Page faults: base pages here, huge pages by the engine.

use alloc::sync::Arc;

use hugewalk::addr::VirtAddr;
use hugewalk::fault::{Access, Fault, FaultError};

use super::Space;
use super::area::{Area, Backing, Rights};
use super::root::bits;
use crate::errno::Errno;
use crate::memory::page::BasePage;
use crate::memory::{PAGE, USER_END};
use crate::report::{self, COUNTERS};
use crate::task::current;
use crate::uffd::Handler;

/// Why an access cannot go on: the signal that the program gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing is mapped there: `SIGSEGV`, `SEGV_MAPERR`.
    NotMapped,
    /// The mapping does not allow it: `SIGSEGV`, `SEGV_ACCERR`.
    Protection,
    /// There is no page for it: `SIGBUS`, `BUS_ADRERR`.
    NoPage,
    /// The page has a hardware error: `SIGBUS`, `BUS_MCEERR_AR`, with the logarithm of the page's size.
    Hwpoison(u32),
    /// There is no memory: `SIGKILL`.
    OutOfMemory,
}

impl Refused {
    /// What a system call returns that needed the access.
    pub fn errno(self) -> Errno {
        match self {
            Self::OutOfMemory => Errno::ENOMEM,
            Self::Hwpoison(_) => Errno::EHWPOISON,
            _ => Errno::EFAULT,
        }
    }
}

impl From<FaultError> for Refused {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::NotMapped { .. } => Self::NotMapped,
            FaultError::Protection { .. } => Self::Protection,
            FaultError::OutOfMemory(_) => Self::OutOfMemory,
            FaultError::Hwpoison { size, .. } => Self::Hwpoison(size.shift()),
            _ => Self::NoPage,
        }
    }
}

/// What a fault on a base page came to.
enum Tried {
    Done(Result<(), Refused>),
    /// A page is missing, and somebody handles that.
    Missing(Arc<Handler>),
}

impl Space {
    /// Resolves a fault of a program, or of the kernel on its behalf. Sleeps.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the program gets a signal, or the system call an error.
    pub fn fault(self: &Arc<Self>, address: u64, access: Access) -> Result<(), Refused> {
        COUNTERS.faults.add(1);
        if address >= USER_END {
            return Err(Refused::NotMapped);
        }
        if let Some(done) = self.base_fault(address, access) {
            return done;
        }
        let at = VirtAddr::new(address);
        let mut task = current().task().map_err(|_| Refused::OutOfMemory)?;
        let outcome = self.engine().fault(&mut task, at, access);
        drop(task);
        match outcome {
            Ok(fault) => {
                if fault != Fault::Present {
                    report::sample();
                }
                // With no memory for a table of the hardware's, the access faults again, and again: that is no loop for ever,
                // for others give memory back, or the program is ended.
                self.root().follow(address & !(PAGE - 1), address | (PAGE - 1));
                report::sample_tables();
                Ok(())
            }
            Err(error) => self.grow_stack(address, error.into(), access),
        }
    }

    /// A fault just below the stack makes it larger.
    fn grow_stack(self: &Arc<Self>, address: u64, refused: Refused, access: Access) -> Result<(), Refused> {
        if refused != Refused::NotMapped {
            return Err(refused);
        }
        {
            let mut areas = self.areas().write();
            let Some(stack) =
                areas.above(address).filter(|area| area.stack && address + super::STACK_LIMIT > area.end)
            else {
                return Err(refused);
            };
            let mut grown = stack.clone();
            grown.end = stack.start;
            grown.start = address & !(PAGE - 1);
            areas.insert(grown);
        }
        self.base_fault(address, access).unwrap_or(Err(refused))
    }

    /// As [`fault`](Self::fault), if the address lies in an area of base pages.
    fn base_fault(&self, address: u64, access: Access) -> Option<Result<(), Refused>> {
        loop {
            match self.try_base_fault(address, access)? {
                Tried::Done(done) => return Some(done),
                Tried::Missing(handler) => {
                    if let Err(refused) = handler.missing(address, access) {
                        return Some(Err(refused));
                    }
                }
            }
        }
    }

    fn try_base_fault(&self, address: u64, access: Access) -> Option<Tried> {
        let areas = self.areas().read();
        let area = areas.find(address)?;
        let page_at = address & !(PAGE - 1);
        if let Some(handler) = area.handler.as_ref().filter(|handler| handler.is_open())
            && self.root().base(page_at) & (bits::PRESENT | bits::KEPT) == 0
            && area.is_missing(page_at)
        {
            return Some(Tried::Missing(handler.clone()));
        }
        self.fault_in_area(area, address, access).map(Tried::Done)
    }

    /// Puts a page where one is missing in an area, for a handler of faults.
    pub fn install_missing(&self, area: &Area, at: u64, page: BasePage) -> crate::errno::Result<()> {
        if self.root().base(at) & (bits::PRESENT | bits::KEPT) != 0 || !area.is_missing(at) {
            return Err(Errno::EEXIST);
        }
        if area.shared
            && let Backing::Source { source, index } = &area.backing
        {
            // The fault that waits finds it there.
            return source.install(index + (at - area.start) / PAGE, page);
        }
        let entry = page.address() | area.rights.entry(true) | bits::ACCESSED;
        if self.root().replace(at, 0, entry) {
            // INVARIANT: the entry keeps the reference.
            page.into_address();
            return Ok(());
        }
        Err(if self.root().base(at) == 0 { Errno::ENOMEM } else { Errno::EEXIST })
    }

    /// A fault in an area, whose lock the caller holds.
    fn fault_in_area(&self, area: &Area, address: u64, access: Access) -> Option<Result<(), Refused>> {
        let allowed = match access {
            Access::Read => !area.rights.is_empty(),
            Access::Write => area.rights.contains(Rights::WRITE),
            Access::Execute => area.rights.contains(Rights::EXECUTE),
        };
        if !allowed {
            return Some(Err(Refused::Protection));
        }
        let write = access == Access::Write;
        let page_at = address & !(PAGE - 1);
        // Under the lock of the areas in read, only faults on the same page come in between.
        loop {
            let old = self.root().base(page_at);
            if old & bits::PRESENT != 0 && (!write || old & bits::WRITE != 0) {
                return Some(Ok(()));
            }
            let page = match self.page_for(area, page_at, old, write) {
                Ok(page) => page,
                Err(Errno::ENXIO) => return Some(Err(Refused::NoPage)),
                Err(_) => return Some(Err(Refused::OutOfMemory)),
            };
            let Some((page, writable)) = page else {
                // The only one: it becomes writable where it is.
                if self.root().replace(page_at, old, old | bits::WRITE | bits::DIRTY | bits::ACCESSED) {
                    self.root().change(page_at, page_at, |_, entry| entry);
                    return Some(Ok(()));
                }
                continue;
            };
            let new = page.address() | area.rights.entry(writable) | bits::ACCESSED;
            if self.root().replace(page_at, old, new) {
                // INVARIANT: the entry keeps the reference.
                page.into_address();
                if old & bits::KEPT != 0 {
                    // Other processors may still read the old page.
                    self.root().change(page_at, page_at, |_, entry| entry);
                    // SAFETY: the entry that kept the reference is replaced, and no processor uses it any more.
                    drop(unsafe { BasePage::from_address(old & bits::FRAME) });
                }
                return Some(Ok(()));
            }
            if self.root().base(page_at) == old {
                return Some(Err(Refused::OutOfMemory));
            }
        }
    }

    /// The page to map, and whether stores are allowed; `None` if the mapped one only has to become writable.
    fn page_for(
        &self,
        area: &Area,
        at: u64,
        old: u64,
        write: bool,
    ) -> crate::errno::Result<Option<(BasePage, bool)>> {
        if old & bits::KEPT != 0 {
            if area.shared {
                if let Backing::Source { source, index } = &area.backing {
                    source.page(index + (at - area.start) / PAGE, true)?;
                }
                return Ok(None);
            }
            // SAFETY: the entry keeps the reference; the lock of the areas keeps the entry, but for faults, which `replace`
            // finds out about.
            let mapped = core::mem::ManuallyDrop::new(unsafe { BasePage::from_address(old & bits::FRAME) });
            if mapped.references() == 1 {
                return Ok(None);
            }
            return Ok(Some((mapped.copied()?, true)));
        }
        match &area.backing {
            Backing::Anonymous => Ok(Some((BasePage::zeroed()?, true))),
            Backing::Source { source, index } => {
                let index = index + (at - area.start) / PAGE;
                if area.shared {
                    return Ok(Some((source.page(index, write)?, write)));
                }
                let page = source.page(index, false)?;
                Ok(Some(if write { (page.copied()?, true) } else { (page, false) }))
            }
        }
    }
}

impl Space {
    /// Writes into base pages that are mapped already, whatever their rights: for a program that is loaded, or a debugger.
    ///
    /// # Errors
    ///
    /// `EFAULT` where no base page is mapped, `ENOMEM`.
    pub fn write_fresh(&self, start: u64, bytes: &[u8]) -> crate::errno::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = start + done as u64;
            let page_at = at & !(PAGE - 1);
            let entry = self.base_entry(page_at)?;
            // SAFETY: the entry keeps the reference, and the caller the entry: nobody else knows the address space, or its
            // threads have stopped.
            let page = core::mem::ManuallyDrop::new(unsafe { BasePage::from_address(entry & bits::FRAME) });
            done += page.write((at - page_at) as usize, &bytes[done..]);
        }
        Ok(())
    }

    /// The entry of a base page, made if there is none, of an area that is not shared.
    fn base_entry(&self, page_at: u64) -> crate::errno::Result<u64> {
        let areas = self.areas().read();
        let area = areas.find(page_at).ok_or(Errno::EFAULT)?;
        let old = self.root().base(page_at);
        match self.page_for(area, page_at, old, true)? {
            None => Ok(old),
            Some((page, writable)) => {
                let new = page.address() | area.rights.entry(writable);
                if !self.root().replace(page_at, old, new) {
                    return Err(Errno::ENOMEM);
                }
                // INVARIANT: the entry keeps the reference.
                page.into_address();
                if old & bits::KEPT != 0 {
                    self.root().change(page_at, page_at, |_, entry| entry);
                    // SAFETY: the entry that kept the reference is replaced, and no processor uses it any more.
                    drop(unsafe { BasePage::from_address(old & bits::FRAME) });
                }
                Ok(new)
            }
        }
    }
}
