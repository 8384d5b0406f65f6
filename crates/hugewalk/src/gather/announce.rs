//! What a gather tells secondary MMUs: see [`notice`](crate::notice).

use core::ops::Range;

use super::Gather;
use crate::addr::VirtAddr;
use crate::notice::Notice;
use crate::platform::{Invalidation, Platform};
use crate::protocol::{Step, keeps};
use crate::task::Task;
use crate::vma::Vma;

impl<P: Platform> Gather<'_, P> {
    /// Tells secondary MMUs that entries of a range of `vma` are about to change, and the rest of a table with them if it is
    /// shared. They are told of the end once this gather has flushed for the last time. May sleep. No table is locked.
    #[inline]
    pub(crate) fn announce(
        &mut self,
        vma: &Vma<P>,
        range: &Range<VirtAddr>,
        why: Invalidation,
        task: &mut Task<P>,
    ) {
        let range = self.begin_anew(vma, range);
        if let Some(range) = range {
            self.notice = Some(Notice::start(self.mm, range, why, task));
        }
    }

    /// As [`announce`](Self::announce), without sleeping.
    #[inline]
    pub(crate) fn announce_at_once(&mut self, vma: &Vma<P>, range: &Range<VirtAddr>, why: Invalidation) {
        let range = self.begin_anew(vma, range);
        if let Some(range) = range {
            self.notice = Some(Notice::start_at_once(self.mm, range, why));
        }
    }

    /// What is to be announced for a change of a range, if it has not been. What was announced before is over then: it is flushed.
    #[inline]
    fn begin_anew(&mut self, vma: &Vma<P>, range: &Range<VirtAddr>) -> Option<Range<VirtAddr>> {
        debug_assert!(self.is_for(vma), "the gather is for another VMA");
        let reach = vma.reach_of(range);
        if self.notice.as_ref().is_some_and(|notice| notice.covers(&reach)) {
            return None;
        }
        if self.notice.is_some() {
            self.flush();
            self.notice = None;
        }
        Some(reach)
    }

    /// Were secondary MMUs told of a change of this range? Where no `i_mmap` is held, tables go that have no entry any more, or
    /// they are the host's.
    pub(super) fn is_announced(&self, range: &Range<VirtAddr>) -> bool {
        let weaker = !keeps::<P>(Step::NotifyEndLast) || !keeps::<P>(Step::NotifyWholeTable);
        self.i_mmap.is_none() || weaker || self.notice.as_ref().is_some_and(|notice| notice.covers(range))
    }
}
