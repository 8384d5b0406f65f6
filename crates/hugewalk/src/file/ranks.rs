//! Numbers that keep things in order, with room between any two for another one.
//!
//! Bender and others, "Two simplified algorithms for maintaining order in a list".

use core::ops::RangeInclusive;

/// The distance between the ranks of two neighbours, so that others fit in.
const GAP: u64 = 1 << 32;

/// A free rank behind this one, if there is one. The next one that is taken is `behind`.
pub(super) fn free_between(rank: u64, behind: Option<u64>) -> Option<u64> {
    let free = match behind {
        None => rank.checked_add(GAP).unwrap_or_else(|| rank.midpoint(u64::MAX)),
        Some(behind) => rank.midpoint(behind),
    };
    Some(free).filter(|&free| free > rank)
}

/// A range of ranks that get other numbers of the range, the same distance apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spread {
    ranks: RangeInclusive<u64>,
    step: u64,
}

impl Spread {
    /// The range that makes room around a rank: the smallest aligned one that is not crowded. The larger the range, the fewer of its
    /// ranks may be taken. So the cost of each insertion, the changes before it included, is on average in proportion to the
    /// logarithm of the number of elements. `taken` says how many ranks of a range are.
    pub(super) fn around(rank: u64, taken: impl Fn(&RangeInclusive<u64>) -> u64) -> Self {
        // A range twice as large may hold 4/3 as many.
        let (mut size, mut most) = (1_u64, 1_u64);
        loop {
            (size, most) = (size.saturating_mul(2), most + most.div_ceil(3));
            let is_all = size == u64::MAX;
            let first = if is_all { 0 } else { rank & !(size - 1) };
            let ranks = first..=if is_all { u64::MAX } else { first + (size - 1) };
            let taken = taken(&ranks);
            if is_all || taken < most && taken < size / 4 {
                return Self { ranks, step: size / (taken + 1) };
            }
        }
    }

    pub(super) fn ranks(&self) -> &RangeInclusive<u64> {
        &self.ranks
    }

    /// The new numbers of those that are taken, in their order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let (first, step) = (*self.ranks.start(), self.step);
        (1..).map(move |place: u64| first + place * step)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn a_free_rank_lies_behind_one_and_before_the_next() {
        assert_eq!(free_between(0, None), Some(GAP));
        assert_eq!(free_between(7, Some(9)), Some(8));
        assert_eq!(free_between(7, Some(8)), None);
        let last = u64::MAX - GAP;
        assert_eq!(free_between(last, None), Some(u64::MAX));
        assert_eq!(free_between(last + 3, None), Some(last + 3 + (GAP - 3) / 2));
        assert_eq!(free_between(u64::MAX - 1, None), None);
        assert_eq!(free_between(u64::MAX, None), None);
    }

    #[test]
    fn the_smallest_range_that_is_not_crowded_is_spread() {
        // So many are taken in each range around it: how large is the one that is spread?
        for (taken, size) in [
            (0, 4),
            (1, 8),
            (2, 16),
            (3, 16),
            (4, 32),
            (7, 32),
            (8, 64),
            (10, 64),
            (11, 128),
            (14, 128),
            (15, 256),
            (19, 256),
            (20, 512),
        ] {
            let rank = 5 * 512 + 300;
            let first = rank / size * size;
            let spread = Spread { ranks: first..=first + size - 1, step: size / (taken + 1) };
            assert_eq!(Spread::around(rank, |_| taken), spread, "{taken}");
        }
        let all = Spread { ranks: 0..=u64::MAX, step: u64::MAX / ((1 << 40) + 1) };
        assert_eq!(Spread::around(3, |ranks| (ranks.end() - ranks.start()).min(1 << 40)), all);
    }

    #[test]
    fn the_new_numbers_lie_in_the_range_and_leave_room_behind_each() {
        for taken in [0, 1, 2, 3, 7, 8, 100, 1 << 40] {
            let spread = Spread::around(1 << 20, |_| taken);
            let numbers: Vec<u64> = spread.numbers().take(taken.min(100) as usize).collect();
            let (mut before, last) = (*spread.ranks().start(), *spread.ranks().end());
            for number in numbers {
                assert!(before + 2 <= number && number < last, "{spread:?}: {number}");
                before = number;
            }
        }
    }

    /// Puts elements into a list, each behind the one at a place. Returns how many ranks were changed for it.
    fn put(list: &mut Vec<u64>, place: impl Fn(usize) -> usize, count: usize) -> usize {
        let mut changed = 0;
        for _ in 0..count {
            let at = place(list.len());
            let free = |list: &[u64]| free_between(list[at], list.get(at + 1).copied());
            let rank = free(list).unwrap_or_else(|| {
                let within =
                    |ranks: &RangeInclusive<u64>| list.iter().filter(|rank| ranks.contains(rank)).count();
                let spread = Spread::around(list[at], |ranks| within(ranks) as u64);
                changed += within(spread.ranks());
                let first = list.partition_point(|rank| rank < spread.ranks().start());
                let all = within(spread.ranks());
                list[first..first + all].iter_mut().zip(spread.numbers()).for_each(|(rank, new)| *rank = new);
                free(list).expect("there is room now")
            });
            list.insert(at + 1, rank);
        }
        assert!(list.is_sorted_by(|one, next| one < next));
        changed
    }

    #[test]
    fn an_element_costs_few_changes_wherever_they_go() {
        let first = || Vec::from([GAP]);
        assert_eq!(put(&mut first(), |len| len - 1, 2000), 0, "behind all others");
        // The logarithm of 2000 is 11.
        for place in [|_: usize| 0, |len: usize| len / 2, |len: usize| len.saturating_sub(2)] {
            let changed = put(&mut first(), place, 2000);
            assert!(changed < 2000 * 11, "{changed}");
            assert!(changed > 0);
        }
    }
}
