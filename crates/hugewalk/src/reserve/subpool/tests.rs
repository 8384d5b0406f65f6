extern crate std;

use super::*;
use proptest::prelude::*;
use std::string::ToString;

#[derive(Clone, Copy, Debug)]
enum Op {
    Take(u64),
    Give(u64),
}
use Op::{Give, Take};

/// One step, what the global pool is told (`Err` is what was left), and the account after it: used, reserved.
type Step = (Op, Result<u64, u64>, u64, u64);

fn follow(max: Option<u64>, min: Option<u64>, steps: &[Step]) {
    let mut account = SubPoolAccount::new(max, min);
    for (n, &(op, answer, used, reserved)) in steps.iter().enumerate() {
        let got = match op {
            Take(pages) => account.take(pages).map_err(|full| {
                assert_eq!(full.asked, pages);
                full.left
            }),
            Give(pages) => Ok(account.give_back(pages)),
        };
        assert_eq!(
            (got, account.used(), account.reserved()),
            (answer, used, reserved),
            "step {n}, {op:?}, of a mount with {max:?} and {min:?}"
        );
    }
}

#[test]
fn without_limits_every_page_is_global() {
    follow(
        None,
        None,
        &[(Take(5), Ok(5), 5, 0), (Give(2), Ok(2), 3, 0), (Take(0), Ok(0), 3, 0), (Give(3), Ok(3), 0, 0)],
    );
}

#[test]
fn a_maximum_refuses_the_whole_request_that_exceeds_it() {
    follow(
        Some(4),
        None,
        &[
            (Take(3), Ok(3), 3, 0),
            (Take(2), Err(1), 3, 0),
            (Take(1), Ok(1), 4, 0),
            (Take(1), Err(0), 4, 0),
            (Take(0), Ok(0), 4, 0),
            (Give(2), Ok(2), 2, 0),
            (Take(2), Ok(2), 4, 0),
            (Give(4), Ok(4), 0, 0),
        ],
    );
    follow(Some(0), None, &[(Take(0), Ok(0), 0, 0), (Take(1), Err(0), 0, 0)]);
}

#[test]
fn a_minimum_covers_the_first_pages() {
    follow(
        Some(10),
        Some(3),
        &[(Take(2), Ok(0), 2, 1), (Take(2), Ok(1), 4, 0), (Take(2), Ok(2), 6, 0), (Take(5), Err(4), 6, 0)],
    );
    follow(Some(3), Some(3), &[(Take(3), Ok(0), 3, 0), (Take(1), Err(0), 3, 0), (Give(3), Ok(0), 0, 3)]);
    follow(Some(3), Some(0), &[(Take(3), Ok(3), 3, 0), (Give(3), Ok(3), 0, 0)]);
    follow(None, Some(0), &[(Take(3), Ok(3), 3, 0), (Give(3), Ok(3), 0, 0)]);
}

#[test]
fn with_a_maximum_the_reserve_is_filled_by_the_return_that_goes_below_the_minimum() {
    // One by one: 5 -> 3 and 3 -> 2 leave the minimum of 2 in use, so all is dropped; the rest is kept.
    follow(
        Some(10),
        Some(2),
        &[
            (Take(5), Ok(3), 5, 0),
            (Give(2), Ok(2), 3, 0),
            (Give(1), Ok(1), 2, 0),
            (Give(1), Ok(0), 1, 1),
            (Give(1), Ok(0), 0, 2),
        ],
    );
    // At once from 5 to 1: two are kept although one is in use; the surplus one goes with the last page.
    follow(
        Some(10),
        Some(2),
        &[
            (Take(5), Ok(3), 5, 0),
            (Give(4), Ok(2), 1, 2),
            (Take(1), Ok(0), 2, 1),
            (Give(1), Ok(0), 1, 2),
            (Give(1), Ok(1), 0, 2),
        ],
    );
    // All at once.
    follow(Some(10), Some(2), &[(Take(5), Ok(3), 5, 0), (Give(5), Ok(3), 0, 2)]);
}

#[test]
fn a_take_that_is_given_back_at_once_need_not_drop_what_it_asked_for() {
    // The take asked for one; the give keeps both, since one page in use is below the minimum of 2.
    follow(
        Some(10),
        Some(2),
        &[(Take(1), Ok(0), 1, 1), (Take(2), Ok(1), 3, 0), (Give(2), Ok(0), 1, 2), (Give(1), Ok(1), 0, 2)],
    );
}

#[test]
fn a_take_that_the_pool_refuses_leaves_no_trace() {
    let mut account = SubPoolAccount::new(Some(10), Some(2));
    assert_eq!(account.take(1), Ok(0));
    assert_eq!(account.take(2), Ok(1));
    assert_eq!(account.cancel(2, 1), 0);
    assert_eq!((account.used(), account.reserved()), (1, 1));
}

#[test]
fn a_refused_take_drops_what_no_longer_fits_the_reserve() {
    let mut account = SubPoolAccount::new(None, Some(2));
    assert_eq!(account.take(1), Ok(0));
    assert_eq!(account.take(4), Ok(3));
    assert_eq!(account.give_back(1), 0);
    assert_eq!((account.used(), account.reserved()), (4, 1));
    // One of the four was covered, and there is room for it in the reserve.
    assert_eq!(account.cancel(4, 3), 0);
    assert_eq!((account.used(), account.reserved()), (0, 2));

    assert_eq!(account.take(2), Ok(0));
    assert_eq!(account.take(2), Ok(2));
    assert_eq!(account.give_back(2), 0);
    assert_eq!(account.take(1), Ok(0));
    assert_eq!(account.take(3), Ok(2));
    assert_eq!(account.give_back(1), 0);
    assert_eq!(account.give_back(2), 1);
    assert_eq!((account.used(), account.reserved()), (3, 2));
    assert_eq!(account.cancel(3, 2), 1);
    assert_eq!((account.used(), account.reserved()), (0, 2));
}

#[test]
fn without_a_maximum_the_first_pages_back_fill_the_reserve() {
    follow(
        None,
        Some(2),
        &[
            (Take(5), Ok(3), 5, 0),
            (Give(1), Ok(0), 4, 1),
            (Give(2), Ok(1), 2, 2),
            (Take(1), Ok(0), 3, 1),
            (Give(3), Ok(2), 0, 2),
        ],
    );
}

#[test]
fn what_was_never_taken_is_not_given_back() {
    follow(
        Some(10),
        Some(2),
        &[(Give(7), Ok(0), 0, 2), (Take(3), Ok(1), 3, 0), (Give(u64::MAX), Ok(1), 0, 2)],
    );
    follow(None, None, &[(Give(1), Ok(0), 0, 0)]);
    let mut account = SubPoolAccount::new(None, Some(2));
    assert_eq!((account.cancel(7, 3), account.cancel(3, 7)), (0, 0));
    assert_eq!((account.used(), account.reserved()), (0, 2));
}

#[test]
fn the_counter_is_the_limit_of_a_mount_without_one() {
    follow(
        None,
        Some(u64::MAX),
        &[
            (Take(u64::MAX - 1), Ok(0), u64::MAX - 1, 1),
            (Take(2), Err(1), u64::MAX - 1, 1),
            (Give(u64::MAX), Ok(0), 0, u64::MAX),
        ],
    );
}

#[test]
fn the_error_says_what_was_asked_and_what_is_left() {
    let full = SubPoolAccount::new(Some(4), None).take(6).unwrap_err();
    assert_eq!(full, SubPoolFull { asked: 6, left: 4 });
    assert_eq!(full.to_string(), "6 huge pages asked for, but the mount has 4 left");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore)]
    fn global_reservations_are_what_is_used_and_reserved(
        max in prop::option::of(0..24u64),
        min in prop::option::of(0..24u64),
        ops in prop::collection::vec(prop_oneof![(0..12u64).prop_map(Take), (0..12u64).prop_map(Give)], 0..60),
        probe in 0..12u64,
    ) {
        let floor = min.unwrap_or(0);
        let ceiling = max.unwrap_or(u64::MAX);
        let mut account = SubPoolAccount::new(max, min);
        let mut global = floor;
        let mut used = 0;
        for op in ops {
            match op {
                Take(pages) => match account.take(pages) {
                    Ok(more) => {
                        prop_assert!(more <= pages);
                        used += pages;
                        global += more;
                    }
                    Err(full) => {
                        prop_assert_eq!(full, SubPoolFull { asked: pages, left: ceiling - used });
                        prop_assert!(full.left < pages);
                    }
                },
                Give(pages) => {
                    let pages = pages.min(used);
                    let fewer = account.give_back(pages);
                    prop_assert!(fewer <= pages);
                    used -= pages;
                    global -= fewer;
                }
            }
            prop_assert_eq!(account.used(), used);
            prop_assert!(account.used() <= ceiling);
            prop_assert!(account.reserved() <= floor);
            prop_assert_eq!(global, account.used() + account.reserved());
            prop_assert!(global >= floor);

            let before = (account.used(), account.reserved());
            if let Ok(more) = account.take(probe) {
                prop_assert_eq!(account.cancel(probe, more), 0);
                prop_assert_eq!((account.used(), account.reserved()), before);
            }
        }
        global -= account.give_back(used);
        prop_assert_eq!((global, account.used(), account.reserved()), (floor, 0, floor));
    }

    /// Each `take` is refused or granted only after the next operation has run.
    #[test]
    #[cfg_attr(miri, ignore)]
    fn refusals_that_come_late_keep_the_sum_right(
        max in prop::option::of(0..24u64),
        min in prop::option::of(0..24u64),
        ops in prop::collection::vec((0..12u64, 0..12u64, any::<bool>()), 0..60),
    ) {
        let mut account = SubPoolAccount::new(max, min);
        let mut global = min.unwrap_or(0);
        let mut used = 0;
        for (taken, given, refused) in ops {
            let Ok(more) = account.take(taken) else { continue };
            let given = given.min(used);
            global -= account.give_back(given);
            used -= given;
            if refused {
                global -= account.cancel(taken, more);
            } else {
                global += more;
                used += taken;
            }
            prop_assert_eq!(account.used(), used);
            prop_assert!(account.reserved() <= min.unwrap_or(0));
            prop_assert_eq!(global, account.used() + account.reserved());
        }
    }
}
