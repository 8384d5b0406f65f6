//! Roots that processors have loaded.

use core::fmt;
use core::mem::ManuallyDrop;

use super::Mm;
use crate::addr::TableFrame;
use crate::platform::Platform;
use crate::sync::Arc;

/// The address space whose root a processor has loaded: one of these for each processor. Linux: `active_mm`, and the reference
/// that `mmgrab_lazy_tlb()` takes.
///
/// It is a reference to the address space, made before the root is loaded and given up after another root has been. So the root
/// is not freed while a processor walks it, also not while the processor runs a task without an address space and keeps the
/// root that it has (lazy TLB).
///
/// ```
/// # use hugewalk::{Arc, mm::{ActiveMm, Mm}, platform::Platform};
/// # unsafe fn load_root(_physical: u64) {}
/// # fn switch<P: Platform>(loaded: &mut Option<ActiveMm<P>>, next: Option<&Arc<Mm<P>>>) {
/// // A thread of the kernel runs on whatever is loaded.
/// let Some(next) = next else { return };
/// if loaded.as_ref().is_some_and(|loaded| loaded.is(next)) {
///     return;
/// }
/// let next = ActiveMm::new(next);
/// // SAFETY: the root stays as long as `next`, which is given up after another root was loaded.
/// unsafe { load_root(next.root_frame().0 << 12) };
/// if let Some(before) = loaded.replace(next) {
///     // SAFETY: this processor has just loaded another root, without what it had cached of this one.
///     unsafe { before.deactivate() };
/// }
/// # }
/// ```
///
/// # Dropping
///
/// Only [`deactivate`](Self::deactivate) gives the reference up. Dropping the value keeps it for ever: nothing says that the
/// processor has left the root.
#[must_use = "the address space is never freed if this is dropped; call `deactivate` once another root is loaded"]
pub struct ActiveMm<P: Platform> {
    mm: ManuallyDrop<Arc<Mm<P>>>,
}

impl<P: Platform> ActiveMm<P> {
    /// The calling processor is about to load the root of `mm`.
    pub fn new(mm: &Arc<Mm<P>>) -> Self {
        Self { mm: ManuallyDrop::new(mm.clone()) }
    }

    /// The root, for the processor's base register.
    #[must_use]
    pub fn root_frame(&self) -> TableFrame {
        self.mm.root_frame()
    }

    /// The address space.
    #[must_use]
    pub fn mm(&self) -> &Arc<Mm<P>> {
        &self.mm
    }

    /// Is it the root of `mm` that is loaded?
    #[must_use]
    pub fn is(&self, mm: &Arc<Mm<P>>) -> bool {
        Arc::ptr_eq(&self.mm, mm)
    }

    /// The processor has left the root. If this was the last reference to the address space, its root is freed here. Takes no
    /// lock and does not sleep.
    ///
    /// # Safety
    ///
    /// The processor that this was made for has loaded another root since, or never loaded this one. It uses nothing that it
    /// has cached of this one. (Where translations carry an identifier of the address space, they may stay until the
    /// identifier is used again.)
    pub unsafe fn deactivate(self) {
        drop(ManuallyDrop::into_inner(self.mm));
    }
}

impl<P: Platform> fmt::Debug for ActiveMm<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActiveMm").field(&self.mm.id()).finish()
    }
}
