//! Pages from the host, for a pool that has too few.
//!
//! A host may sleep until it has a huge page: it reclaims memory, or moves other pages out of the way. So it is asked with no
//! spinning lock held. A caller that takes or reserves pages under locks of its own, such as those of a region map and a mount,
//! tries with what there is. If that is too little, it gives up its locks, the supply gets what is missing, and it tries again.
//!
//! Linux: `gather_surplus_pages()` in mm/hugetlb.c, which releases `hugetlb_lock` and counts again.

use super::list::PageList;
use super::{HugePool, PoolEmpty};
use crate::addr::{HugeFrame, HugeSize};
use crate::error::{NoPage, OutOfMemory, SubPoolFull};
use crate::hugetlb::Hugetlb;
use crate::page::Listed;
use crate::platform::Platform;

/// Why an attempt to take or to reserve pages has failed. All is as it was before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short<E> {
    /// It stands.
    Refused(E),
    /// It succeeds once the supply has so many pages. The error is for a host that has none.
    Lacks(u64, PoolEmpty),
}

impl From<Short<PoolEmpty>> for Short<NoPage> {
    fn from(short: Short<PoolEmpty>) -> Self {
        match short {
            Short::Refused(error) => Self::Refused(error.into()),
            Short::Lacks(pages, error) => Self::Lacks(pages, error),
        }
    }
}

impl From<SubPoolFull> for Short<NoPage> {
    fn from(error: SubPoolFull) -> Self {
        Self::Refused(error.into())
    }
}

impl From<OutOfMemory> for Short<NoPage> {
    fn from(error: OutOfMemory) -> Self {
        Self::Refused(error.into())
    }
}

/// Pages from the host that the pool does not count yet. Dropping it gives back those that were not needed.
///
/// # Invariants
///
/// Each page came from [`HugePool::take_from_platform`] of `pool`.
pub(crate) struct Supply<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    pool: &'h HugePool<P>,
    pages: PageList,
}

impl<'h, P: Platform> Supply<'h, P> {
    /// Makes attempts until one succeeds or is refused, and asks the host for what is missing in between. May sleep there: the
    /// caller holds no spinning lock and is in no read section.
    #[inline]
    pub(crate) fn retry<T, E: From<PoolEmpty>>(
        hugetlb: &'h Hugetlb<P>,
        size: HugeSize,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Short<E>>,
    ) -> Result<T, E> {
        // INVARIANT: there is none.
        let mut supply = Self { hugetlb, pool: hugetlb.pool(size), pages: PageList::new(Listed::None) };
        loop {
            match attempt(&mut supply) {
                Ok(done) => return Ok(done),
                Err(Short::Refused(error)) => return Err(error),
                Err(Short::Lacks(pages, refused)) => {
                    if !supply.fill(pages) {
                        return Err(refused.into());
                    }
                }
            }
        }
    }

    /// Asks the host until there are so many pages. False if it has no more.
    #[cold]
    fn fill(&mut self, pages: u64) -> bool {
        while self.pages.len() < pages {
            let Some(frame) = self.pool.take_from_platform(self.hugetlb) else { return false };
            // SAFETY: taken from the platform just now, so this caller has exclusive access to it.
            // INVARIANT: likewise.
            unsafe { self.pages.push(self.hugetlb, frame) };
        }
        true
    }

    pub(super) fn hugetlb(&self) -> &'h Hugetlb<P> {
        self.hugetlb
    }

    /// How many pages there are.
    pub(super) fn len(&self) -> u64 {
        self.pages.len()
    }

    /// Takes one out. It came from the platform, and the caller has exclusive access to it.
    pub(super) fn pop(&mut self) -> Option<HugeFrame> {
        self.pages.pop(self.hugetlb)
    }
}

impl<P: Platform> Drop for Supply<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if self.pages.len() > 0 {
            let pages = core::mem::replace(&mut self.pages, PageList::new(Listed::None));
            self.pool.give_all_back(self.hugetlb, pages);
        }
    }
}
