//! Who else is told.

use super::Tlb;

/// Who else is told of what happens to an address space. All of it has defaults.
pub trait Notify: Tlb {
    /// A handler of page faults of this address space has a message to read, or another one. A host
    /// whose programs wait for several things at once (`poll`) wakes those that wait for a handler
    /// of it; [`Userfault::poll`](crate::uffd::Userfault::poll) tells them which. Threads in
    /// [`Userfault::read_event`](crate::uffd::Userfault::read_event) are woken without it. Does
    /// nothing by default. Called with sleeping locks held, so it must be quick, and must neither
    /// sleep nor call back.
    ///
    /// Linux: `wake_up_poll(&ctx->fd_wqh, EPOLLIN)` in fs/userfaultfd.c.
    #[inline(always)]
    fn handler_called(&self, context: &Self::MmContext) {
        let _ = context;
    }
}
