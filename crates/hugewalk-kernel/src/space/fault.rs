//! Page faults: base pages here, huge pages by the engine.

use alloc::sync::Arc;

use hugewalk::addr::VirtAddr;
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::Placement;

use super::Space;
use super::area::{Area, Backing, Rights};
use super::base::NotReplaced;
use super::root::bits;
use crate::arch;
use crate::errno::Errno;
use crate::memory::page::BasePage;
use crate::memory::{PAGE, USER_END, direct};
use crate::report::{self, COUNTERS};
use crate::task::current;
use crate::uffd::{Handler, Reason};

/// How far a stack that grows stays away from what lies below it: 1 MiB. Linux: `stack_guard_gap` in mm/mmap.c.
const STACK_GAP: u64 = 1 << 20;

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
    /// The thread is to end, and its fault would have to wait.
    Killed,
}

impl Refused {
    /// What a system call returns that needed the access.
    pub fn errno(self) -> Errno {
        match self {
            Self::OutOfMemory => Errno::ENOMEM,
            Self::Killed => Errno::EINTR,
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
            FaultError::Interrupted(_) => Self::Killed,
            FaultError::Hwpoison { size, .. } => Self::Hwpoison(size.shift()),
            _ => Self::NoPage,
        }
    }
}

/// What a fault on a base page came to.
enum Tried {
    Done(Result<(), Refused>),
    /// Somebody handles that.
    Handled(Arc<Handler>, Reason),
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
            // Unless another thread was faster.
            if areas.find(address).is_none() {
                let stack =
                    areas.above(address).filter(|area| area.stack && address + super::STACK_LIMIT > area.end);
                let mut grown = stack.cloned().ok_or(refused)?;
                grown.end = grown.start;
                grown.start = address & !(PAGE - 1);
                let gap = grown.start.saturating_sub(STACK_GAP)..grown.start;
                let is_near = |area: &Area| !area.stack && !area.rights.is_empty();
                if areas.overlapping(gap.start, gap.end).any(is_near) {
                    return Err(refused);
                }
                self.claim_for_stack(&grown)?;
                areas.insert(grown);
            }
        }
        self.base_fault(address, access).unwrap_or(Err(refused))
    }

    /// Claims addresses that the stack grows to. Most are claimed from the start; a program may have unmapped some.
    fn claim_for_stack(&self, grown: &Area) -> Result<(), Refused> {
        let mut task = current().task().map_err(|_| Refused::OutOfMemory)?;
        let range = VirtAddr::new(grown.start)..VirtAddr::new(grown.end);
        let with_gap = VirtAddr::new(grown.start.saturating_sub(STACK_GAP))..range.end;
        // A stack grows neither over huge pages nor close to them.
        if self.engine().mmap_read(&mut task).overlapping(&with_gap).next().is_some() {
            return Err(Refused::NotMapped);
        }
        let claimed = self.engine().claim(&mut task, Placement::Fixed(range.start), grown.end - grown.start);
        claimed.map(drop).map_err(|_| Refused::OutOfMemory)
    }

    /// As [`fault`](Self::fault), if the address lies in an area of base pages.
    fn base_fault(&self, address: u64, access: Access) -> Option<Result<(), Refused>> {
        loop {
            match self.try_base_fault(address, access)? {
                Tried::Done(done) => return Some(done),
                Tried::Handled(handler, reason) => {
                    if let Err(refused) = handler.fault(address, access, reason) {
                        return Some(Err(refused));
                    }
                }
            }
        }
    }

    fn try_base_fault(&self, address: u64, access: Access) -> Option<Tried> {
        let areas = self.areas().read();
        let area = areas.find(address)?;
        let allowed = match access {
            Access::Read => !area.rights.is_empty(),
            Access::Write => area.rights.contains(Rights::WRITE),
            Access::Execute => area.rights.contains(Rights::EXECUTE),
        };
        if !allowed {
            return Some(Tried::Done(Err(Refused::Protection)));
        }
        let write = access == Access::Write;
        let page_at = address & !(PAGE - 1);
        // Under the lock of the areas in read, other faults on the same page come in between, and its handler.
        loop {
            let old = self.base(page_at);
            if old == bits::POISONED {
                return Some(Tried::Done(Err(Refused::Hwpoison(PAGE.ilog2()))));
            }
            if let Some(registration) = area.registered()
                && let Some(reason) = registration.reason(area, page_at, old, write)
            {
                return Some(Tried::Handled(registration.handler.clone(), reason));
            }
            if let Some(done) = self.resolve(area, page_at, old, write) {
                return Some(Tried::Done(done));
            }
        }
    }

    /// Resolves a fault that is nobody's in an area, whose lock the caller holds. `None` if the entry has changed meanwhile.
    fn resolve(&self, area: &Area, page_at: u64, old: u64, write: bool) -> Option<Result<(), Refused>> {
        if old & bits::PRESENT != 0 && (!write || old & bits::WRITE != 0) {
            return Some(Ok(()));
        }
        let page = match self.page_for(area, page_at, old, write) {
            Ok(page) => page,
            Err(Errno::ENXIO) => return Some(Err(Refused::NoPage)),
            Err(_) => return Some(Err(Refused::OutOfMemory)),
        };
        let kept = protection_that_stays(area, old, write);
        let Some((page, writable)) = page else {
            // The only one: it becomes writable where it is.
            let new = old & !bits::PROTECTED | bits::WRITE | bits::DIRTY | bits::ACCESSED;
            return match self.replace(page_at, old, new) {
                Ok(()) => {
                    self.flush(page_at);
                    Some(Ok(()))
                }
                Err(NotReplaced::Changed) => None,
                Err(NotReplaced::OutOfMemory) => Some(Err(Refused::OutOfMemory)),
            };
        };
        let new = page.address() | area.rights.entry(writable && kept == 0) | bits::ACCESSED | kept;
        match self.replace(page_at, old, new) {
            Ok(()) => {}
            Err(NotReplaced::Changed) => return None,
            Err(NotReplaced::OutOfMemory) => return Some(Err(Refused::OutOfMemory)),
        }
        // INVARIANT: the entry keeps the reference.
        page.into_address();
        if old & bits::KEPT != 0 {
            // Other processors may still read the old page.
            self.flush(page_at);
            // SAFETY: the entry that kept the reference is replaced, and no processor uses it any more.
            drop(unsafe { BasePage::from_address(old & bits::FRAME) });
        }
        Some(Ok(()))
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

/// The protection that a handler of page faults keeps when the fault on this entry is resolved: none if a page is stored to. On a
/// marker a store gets a page that is protected, and asks the handler the next time.
fn protection_that_stays(area: &Area, old: u64, write: bool) -> u64 {
    let stays = area.protects() && (!write || old & bits::KEPT == 0);
    if stays { old & bits::PROTECTED } else { 0 }
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
            let count = page.write((at - page_at) as usize, &bytes[done..]);
            arch::mmu::code_stored(direct(page.address() + (at - page_at)), count);
            done += count;
        }
        Ok(())
    }

    /// As [`write_fresh`](Self::write_fresh), in an address space that is in use: not in shared areas, nor where the program has
    /// nothing at all. The threads of the program have stopped, or take the bytes as they come.
    ///
    /// # Errors
    ///
    /// `EFAULT`, `ENOMEM`.
    pub fn write_by_force(self: &Arc<Self>, start: u64, bytes: &[u8]) -> crate::errno::Result<()> {
        {
            let areas = self.areas().read();
            let last = start.checked_add(bytes.len() as u64 - 1).ok_or(Errno::EFAULT)?;
            for at in [start, last] {
                if areas.find(at).is_none_or(|area| area.shared) {
                    return Err(Errno::EFAULT);
                }
            }
        }
        self.write_fresh(start, bytes)
    }

    /// The entry of a base page, made if there is none, of an area that is not shared.
    fn base_entry(&self, page_at: u64) -> crate::errno::Result<u64> {
        let areas = self.areas().read();
        let area = areas.find(page_at).ok_or(Errno::EFAULT)?;
        let old = self.base(page_at);
        match self.page_for(area, page_at, old, true)? {
            None => Ok(old),
            Some((page, writable)) => {
                let new = page.address() | area.rights.entry(writable);
                if self.replace(page_at, old, new).is_err() {
                    return Err(Errno::ENOMEM);
                }
                // INVARIANT: the entry keeps the reference.
                page.into_address();
                if old & bits::KEPT != 0 {
                    self.flush(page_at);
                    // SAFETY: the entry that kept the reference is replaced, and no processor uses it any more.
                    drop(unsafe { BasePage::from_address(old & bits::FRAME) });
                }
                Ok(new)
            }
        }
    }
}
