//! The lock of a VMA, held.

use core::fmt;

use super::Vma;
use crate::addr::VirtAddr;
use crate::file::IMmapWriteGuard;
use crate::platform::Platform;
use crate::protocol::{self, Step, keeps};
use crate::root::Mm;
use crate::sleep::{BiasedReadSem, BiasedWriteSem};
use crate::table::Stable;
use crate::task::Task;
use crate::walk::{Proof, sealed};

/// What has to be held to take the lock of a VMA, since the VMA may turn out to have none: the mmap lock,
/// in read or write, or `i_mmap` in write with the VMA in its tree.
pub(crate) mod held {
    use crate::platform::Platform;
    use crate::vma::Vma;

    /// The VMA cannot be replaced or unmapped while this is held.
    pub(crate) trait KeepsVma<P: Platform> {
        fn keeps(&self, vma: &Vma<P>) -> bool;
    }
}

/// The lock of a VMA, held in read. A proof that the tables of its range are *stable*; see [`walk`](crate::walk).
///
/// # Invariants
///
/// The lock of `vma` is held in read, or `vma` has none and the mmap lock of its address space is held for `'v`.
pub struct VmaReadGuard<'v, P: Platform> {
    vma: &'v Vma<P>,
    _semaphore: Option<BiasedReadSem<'v, P, ()>>,
}

impl<'v, P: Platform> VmaReadGuard<'v, P> {
    /// Takes the lock of `vma` in read. Sleeps. `None` if `holder` is not what keeps this VMA.
    pub(crate) fn lock<H: held::KeepsVma<P>>(
        holder: &'v H,
        vma: &'v Vma<P>,
        task: &mut Task<P>,
    ) -> Option<Self> {
        // INVARIANT: taken here, or `holder` keeps the VMA for `'v`.
        holder.keeps(vma).then(|| {
            let lock = vma.semaphore().filter(|_| keeps::<P>(Step::VmaLock));
            Self { vma, _semaphore: lock.map(|lock| lock.read(task)) }
        })
    }

    /// What a walker holds besides its read section. Nothing, except in a weaker protocol that takes the
    /// VMA lock there; sleeps then.
    pub(crate) fn beside_section<H: held::KeepsVma<P>>(
        holder: &'v H,
        vma: &'v Vma<P>,
        task: &mut Task<P>,
    ) -> Option<Self> {
        if !keeps::<P>(Step::WalkUnlocked) { Self::lock(holder, vma, task) } else { None }
    }

    /// The VMA.
    #[must_use]
    pub fn vma(&self) -> &'v Vma<P> {
        self.vma
    }
}

/// The lock of a VMA, held in write: its tables may be unshared, given `i_mmap` in write as well.
///
/// A proof that they are *stable*: no other task unshares them. The holder may, by borrowing the guard
/// mutably ([`huge_pmd_unshare`](crate::share::huge_pmd_unshare)); then no slot is left that was found
/// under the guard.
///
/// # Invariants
///
/// The lock of `vma` is held in write, or `vma` has none and the mmap lock of its address space, or `i_mmap` with the
/// VMA in its tree, is held for `'v`.
pub struct VmaWriteGuard<'v, P: Platform> {
    vma: &'v Vma<P>,
    _semaphore: Option<BiasedWriteSem<'v, P, ()>>,
}

impl<'v, P: Platform> VmaWriteGuard<'v, P> {
    /// Takes the lock of `vma` in write. Sleeps. `None` if `holder` is not what keeps this VMA.
    pub(crate) fn lock<H: held::KeepsVma<P>>(
        holder: &'v H,
        vma: &'v Vma<P>,
        task: &mut Task<P>,
    ) -> Option<Self> {
        // INVARIANT: taken here, or `holder` keeps the VMA for `'v`.
        holder.keeps(vma).then(|| Self { vma, _semaphore: vma.semaphore().map(|lock| lock.write(task)) })
    }

    /// Takes the lock in write if that needs no waiting. For callers that come from the file or the page
    /// with `i_mmap` held, which is against the lock order.
    pub(crate) fn try_lock<H: held::KeepsVma<P>>(holder: &'v H, vma: &'v Vma<P>) -> Option<Self> {
        let _semaphore = match vma.semaphore() {
            Some(lock) if keeps::<P>(Step::TryVmaLock) => Some(lock.try_write()?),
            Some(lock) => Some(lock.write_against_the_order()),
            None => None,
        };
        // INVARIANT: as for `lock`.
        holder.keeps(vma).then_some(Self { vma, _semaphore })
    }

    /// The VMA.
    #[must_use]
    pub fn vma(&self) -> &'v Vma<P> {
        self.vma
    }

    /// Joins a VMA lock that the caller waited for without `i_mmap` to the `i_mmap` that it has taken
    /// since. `None` if the VMA has left the file's tree meanwhile. `_semaphore` is the lock of `vma`, and
    /// stays the caller's.
    pub(crate) fn joined<H: held::KeepsVma<P>>(
        holder: &'v H,
        vma: &'v Vma<P>,
        _semaphore: &'v BiasedWriteSem<'_, P, ()>,
    ) -> Option<Self> {
        // INVARIANT: the caller holds the lock of `vma` in write for `'v`, and `holder` keeps the VMA.
        let keeps = !keeps::<P>(Step::LookAgain) || holder.keeps(vma);
        keeps.then_some(Self { vma, _semaphore: None })
    }
}

impl<P: Platform> held::KeepsVma<P> for IMmapWriteGuard<'_, P> {
    fn keeps(&self, vma: &Vma<P>) -> bool {
        self.has(vma)
    }
}

impl<P: Platform> sealed::Sealed for VmaReadGuard<'_, P> {}
impl<P: Platform> Proof<P> for VmaReadGuard<'_, P> {
    type Kind = Stable;
    #[inline]
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool {
        core::ptr::eq::<Mm<P>>(&**self.vma().mm(), mm) && self.vma().contains(address)
    }
}

impl<P: Platform> sealed::Sealed for VmaWriteGuard<'_, P> {}
impl<P: Platform> Proof<P> for VmaWriteGuard<'_, P> {
    type Kind = Stable;
    #[inline]
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool {
        core::ptr::eq::<Mm<P>>(&**self.vma().mm(), mm) && self.vma().contains(address)
    }
}

/// A VMA whose lock a task waits for while nothing keeps the VMA. It may be unmapped before the task has
/// the lock, so the task holds a reference.
pub(crate) type Awaited<P> = protocol::Awaited<Vma<P>>;

impl<P: Platform> fmt::Debug for VmaReadGuard<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VmaReadGuard").field(self.vma).finish()
    }
}

impl<P: Platform> fmt::Debug for VmaWriteGuard<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VmaWriteGuard").field(self.vma).finish()
    }
}
