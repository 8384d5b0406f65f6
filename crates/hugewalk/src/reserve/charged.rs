//! Charges for pages that are about to be taken or reserved.

use core::marker::PhantomData;

use crate::addr::HugeSize;
use crate::error::{LimitReached, NoPage, OutOfMemory, PoolEmpty};
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::pool::{Short, Supply};

/// What a group pays for.
pub(super) trait Kind {
    fn try_charge<P: Platform>(
        platform: &P,
        size: HugeSize,
        pages: u64,
    ) -> Result<Option<P::Charge>, LimitReached>;

    fn uncharge<P: Platform>(platform: &P, charge: P::Charge, size: HugeSize, pages: u64);
}

/// Pages in use.
pub(super) enum InUse {}

impl Kind for InUse {
    #[inline(always)]
    fn try_charge<P: Platform>(
        platform: &P,
        size: HugeSize,
        pages: u64,
    ) -> Result<Option<P::Charge>, LimitReached> {
        platform.try_charge(size, pages)
    }

    #[inline(always)]
    fn uncharge<P: Platform>(platform: &P, charge: P::Charge, size: HugeSize, pages: u64) {
        platform.uncharge(charge, size, pages);
    }
}

/// Reservations, and pages that are taken without one.
pub(super) enum Reserved {}

impl Kind for Reserved {
    #[inline(always)]
    fn try_charge<P: Platform>(
        platform: &P,
        size: HugeSize,
        pages: u64,
    ) -> Result<Option<P::Charge>, LimitReached> {
        platform.try_charge_reserved(size, pages)
    }

    #[inline(always)]
    fn uncharge<P: Platform>(platform: &P, charge: P::Charge, size: HugeSize, pages: u64) {
        platform.uncharge_reserved(charge, size, pages);
    }
}

/// Pages that a group has paid for, and that have not been taken or reserved yet. Dropping it gives back what was not
/// [spent](Self::spend).
pub(super) struct Charged<'h, P: Platform, K: Kind> {
    hugetlb: &'h Hugetlb<P>,
    size: HugeSize,
    pages: u64,
    charge: Option<P::Charge>,
    kind: PhantomData<K>,
}

impl<'h, P: Platform, K: Kind> Charged<'h, P, K> {
    /// Nothing is charged.
    #[inline]
    pub(super) fn none(hugetlb: &'h Hugetlb<P>, size: HugeSize) -> Self {
        Self { hugetlb, size, pages: 0, charge: None, kind: PhantomData }
    }

    /// Charges pages to the group of the calling thread. May sleep.
    #[inline]
    pub(super) fn try_new(hugetlb: &'h Hugetlb<P>, size: HugeSize, pages: u64) -> Result<Self, LimitReached> {
        let charge = K::try_charge(hugetlb.platform(), size, pages)?;
        Ok(Self { hugetlb, size, pages, charge, kind: PhantomData })
    }

    /// So many of the pages were taken. Returns what to note for each; the rest is given back when the value is dropped.
    #[inline]
    pub(super) fn spend(&mut self, pages: u64) -> Option<P::Charge> {
        self.pages -= pages.min(self.pages);
        self.charge.clone()
    }
}

impl<P: Platform, K: Kind> Drop for Charged<'_, P, K> {
    #[inline]
    fn drop(&mut self) {
        if self.pages > 0
            && let Some(charge) = self.charge.take()
        {
            K::uncharge(self.hugetlb.platform(), charge, self.size, self.pages);
        }
    }
}

/// Why an attempt was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It failed.
    NoPage(NoPage),
    /// It succeeds once so many pages were charged as reserved.
    Unpaid(u64),
}

impl<'h, P: Platform> Charged<'h, P, Reserved> {
    /// Makes attempts until one succeeds or is refused, as [`Supply::retry`] does. In between it charges pages as reserved: as
    /// many as the attempt finds to be [necessary](Self::cover) under its locks. Charging may sleep, so the locks are given up
    /// first, and another attempt finds out whether so many are enough. What is charged beyond that is given back.
    #[inline]
    pub(super) fn retry<T>(
        hugetlb: &'h Hugetlb<P>,
        size: HugeSize,
        mut attempt: impl FnMut(&mut Supply<'_, P>, &mut Self) -> Result<T, Short<Stop>>,
    ) -> Result<T, NoPage> {
        let mut charged = Self::none(hugetlb, size);
        loop {
            match Supply::retry(hugetlb, size, |supply| attempt(supply, &mut charged)) {
                Ok(done) => return Ok(done),
                Err(Stop::NoPage(error)) => return Err(error),
                Err(Stop::Unpaid(pages)) => charged.raise_to(pages)?,
            }
        }
    }

    /// Charges so many pages, and gives back those that were charged before. May sleep.
    #[cold]
    fn raise_to(&mut self, pages: u64) -> Result<(), LimitReached> {
        // Not only the difference: the thread may have come to another group meanwhile.
        drop(core::mem::replace(self, Self::none(self.hugetlb, self.size)));
        *self = Self::try_new(self.hugetlb, self.size, pages)?;
        Ok(())
    }

    /// Stops the attempt if fewer pages than these are charged.
    #[inline]
    pub(super) fn cover(&self, pages: u64) -> Result<(), Stop> {
        // Where there can be no charge, the compiler removes this.
        if size_of::<Option<P::Charge>>() > 0 && pages > self.pages {
            Err(Stop::Unpaid(pages))
        } else {
            Ok(())
        }
    }

    /// Who pays.
    #[inline]
    pub(super) fn payer(&self) -> &Option<P::Charge> {
        &self.charge
    }
}

impl From<NoPage> for Stop {
    fn from(error: NoPage) -> Self {
        Self::NoPage(error)
    }
}

impl From<PoolEmpty> for Stop {
    fn from(error: PoolEmpty) -> Self {
        Self::NoPage(error.into())
    }
}

impl From<Stop> for Short<Stop> {
    fn from(stop: Stop) -> Self {
        Self::Refused(stop)
    }
}

impl From<OutOfMemory> for Short<Stop> {
    fn from(error: OutOfMemory) -> Self {
        Self::Refused(Stop::NoPage(error.into()))
    }
}

impl From<Short<NoPage>> for Short<Stop> {
    fn from(short: Short<NoPage>) -> Self {
        match short {
            Short::Refused(error) => Self::Refused(error.into()),
            Short::Lacks(pages, error) => Self::Lacks(pages, error),
        }
    }
}

impl From<Short<PoolEmpty>> for Short<Stop> {
    fn from(short: Short<PoolEmpty>) -> Self {
        Short::<NoPage>::from(short).into()
    }
}
