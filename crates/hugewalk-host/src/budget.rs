//! Failures on demand: a set number of allocations succeed, and all later ones fail.

use core::sync::atomic::{AtomicU64, Ordering};

const UNLIMITED: u64 = u64::MAX;

/// How many allocations may still succeed.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

impl Budget {
    pub(crate) fn unlimited() -> Self {
        Self(AtomicU64::new(UNLIMITED))
    }

    /// Lets `allocations` more succeed; all of them if `None`.
    pub(crate) fn set(&self, allocations: Option<u64>) {
        self.0.store(allocations.map_or(UNLIMITED, |n| n.min(UNLIMITED - 1)), Ordering::Relaxed);
    }

    /// May the caller allocate?
    #[inline]
    pub(crate) fn spend(&self) -> bool {
        // Relaxed: a count, which publishes nothing.
        if self.0.load(Ordering::Relaxed) == UNLIMITED {
            return true;
        }
        let next = |left: u64| {
            if left == UNLIMITED { Some(left) } else { left.checked_sub(1) }
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_so_many_allocations_all_fail_until_the_budget_is_lifted() {
        let budget = Budget::unlimited();
        assert!(budget.spend());
        budget.set(Some(2));
        assert_eq!([(); 4].map(|()| budget.spend()), [true, true, false, false]);
        budget.set(None);
        assert!(budget.spend());
    }
}
