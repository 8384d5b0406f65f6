#![allow(clippy::single_range_in_vec_init, reason = "a map of one range is meant")]

extern crate std;

use super::*;
use alloc::vec::Vec;
use core::convert::Infallible;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn map_of<const N: usize>(ranges: [Range<u64>; N]) -> RegionMap {
    let mut map = RegionMap::new();
    for r in ranges {
        map.add(r.start, r.end).unwrap();
    }
    map
}

fn ranges(map: &RegionMap) -> Vec<Range<u64>> {
    map.iter().collect()
}

/// A map of ranges that carry something.
fn carrying<const N: usize>(ranges: [(Range<u64>, u8); N]) -> RegionMap<u8> {
    let mut map = RegionMap::default();
    for (r, carried) in ranges {
        map.add_with(r.start, r.end, &carried).unwrap();
    }
    map
}

fn carried(map: &RegionMap<u8>) -> Vec<(Range<u64>, u8)> {
    map.iter_with().map(|(range, carried)| (range, *carried)).collect()
}

/// From here on the map has no room to spare and gets none.
fn starve<T>(map: &mut RegionMap<T>) {
    map.spares = Spares::new();
    map.starved = true;
}

#[test]
fn ranges_that_touch_become_one() {
    let mut map = map_of([0..2, 4..6]);
    assert_eq!(ranges(&map), [0..2, 4..6]);
    assert_eq!(map.add(2, 4), Ok(2));
    assert_eq!(ranges(&map), [0..6]);
}

#[test]
fn only_a_hole_in_the_middle_needs_room() {
    let mut map = map_of([0..4, 8..12]);
    starve(&mut map);
    assert!(!map.has_room(), "there is room to spare");
    // At an end of a range, on both sides of a gap, and over a whole range.
    assert_eq!(map.del_in_place(3, 4), Ok(1));
    assert_eq!(map.del_in_place(8, 9), Ok(1));
    assert_eq!(map.del_in_place(2, 10), Ok(2));
    assert_eq!(ranges(&map), [0..2, 10..12]);
    assert_eq!(map.add(2, 3), Ok(1));
    assert_eq!(map.del_in_place(1, 2), Err(OutOfMemory));
    assert_eq!(ranges(&map), [0..3, 10..12]);
}

#[test]
fn a_range_added_over_others_counts_only_the_holes() {
    let mut map = map_of([2..4, 6..7, 9..20]);
    assert_eq!(map.missing(0, 10), 6);
    assert_eq!(map.count(0, 10), 4);
    assert_eq!(map.add(0, 10), Ok(6));
    assert_eq!(ranges(&map), [0..20]);
    assert_eq!(map.add(3, 12), Ok(0));
}

#[test]
fn a_deletion_inside_a_range_splits_it() {
    let mut map = map_of([0..10]);
    assert_eq!(map.del(3, 5), Ok(2));
    assert_eq!(ranges(&map), [0..3, 5..10]);
    assert_eq!([2, 3, 4, 5].map(|page| map.contains(page)), [true, false, false, true]);
}

#[test]
fn a_deletion_over_many_ranges_keeps_the_head_of_the_first_and_the_tail_of_the_last() {
    let mut map = map_of([0..4, 6..8, 10..14]);
    assert_eq!(map.del(3, 11), Ok(1 + 2 + 1));
    assert_eq!(ranges(&map), [0..3, 11..14]);
    assert_eq!(map.del_to_end(2), 1 + 3);
    assert_eq!(ranges(&map), [0..2]);
    assert_eq!(map.del_to_end(0), 2);
    assert!(map.is_empty());
}

#[test]
fn the_whole_offset_space_is_one_range() {
    let mut map = RegionMap::new();
    assert_eq!(map.missing(0, u64::MAX), u64::MAX);
    assert_eq!(map.add(0, u64::MAX), Ok(u64::MAX));
    assert_eq!(map.count(0, u64::MAX), u64::MAX);
    assert!(map.contains(u64::MAX - 1) && !map.contains(u64::MAX));
    assert_eq!(map.del_to_end(u64::MAX), 0);
    assert_eq!(map.del(u64::MAX - 1, u64::MAX), Ok(1));
    assert_eq!(map.del_to_end(1), u64::MAX - 2);
    assert_eq!(ranges(&map), [0..1]);
}

#[test]
fn an_empty_or_reversed_range_is_nothing() {
    let mut map = map_of([0..10]);
    for (from, to) in [(5, 5), (7, 3), (u64::MAX, 0), (0, 0)] {
        assert_eq!((map.missing(from, to), map.count(from, to)), (0, 0));
        assert_eq!((map.add(from, to), map.del(from, to)), (Ok(0), Ok(0)));
    }
    // Nor does it need room.
    starve(&mut map);
    for (from, to) in [(5, 5), (7, 3)] {
        assert!(!map.del_splits(from, to));
        assert_eq!(map.del_in_place(from, to), Ok(0));
    }
    assert_eq!(ranges(&map), [0..10]);
}

#[test]
fn without_memory_a_change_fails_only_if_it_needs_an_element() {
    let mut map = map_of([0..4, 8..12]);
    starve(&mut map);
    assert_eq!(map.prepare(1), Err(OutOfMemory));
    assert_eq!(map.add(5, 7), Err(OutOfMemory));
    assert_eq!(map.del(1, 3), Err(OutOfMemory));
    assert_eq!(ranges(&map), [0..4, 8..12]);
    assert_eq!(map.add(4, 5), Ok(1));
    assert_eq!(map.del(0, 1), Ok(1));
    assert_eq!(map.add(5, 8), Ok(3));
    assert_eq!(ranges(&map), [1..12]);
}

#[test]
fn room_that_no_machine_has_is_refused() {
    let mut map = map_of([1..2]);
    assert_eq!(map.prepare(usize::MAX), Err(OutOfMemory));
    assert_eq!(ranges(&map), [1..2]);
}

#[test]
fn ranges_that_meet_stay_apart_if_they_carry_different_values() {
    let mut map = carrying([(0..2, 7), (2..4, 8), (6..9, 7)]);
    assert_eq!(carried(&map), [(0..2, 7), (2..4, 8), (6..9, 7)]);
    assert_eq!((map.missing(0, 10), map.count(1, 8)), (3, 5));
    // What is there keeps its value; the rest becomes one with the neighbour that carries the same.
    assert_eq!(map.add_with(1, 10, &7), Ok(3));
    assert_eq!(carried(&map), [(0..2, 7), (2..4, 8), (4..10, 7)]);
    assert_eq!(map.del(3, 5), Ok(2));
    assert_eq!(map.add_with(3, 5, &8), Ok(2));
    assert_eq!(carried(&map), [(0..2, 7), (2..5, 8), (5..10, 7)]);
}

#[test]
fn a_deletion_tells_of_each_value_how_many_pages_lost_it() {
    let mut map = carrying([(0..4, 7), (4..6, 8), (8..20, 9)]);
    let mut gone = Vec::new();
    assert_eq!(map.del_with(2, 10, |carried, pages| gone.push((*carried, pages))), Ok(2 + 2 + 2));
    assert_eq!(gone, [(7, 2), (8, 2), (9, 2)]);
    gone.clear();
    // Out of the middle: both halves still carry it.
    assert_eq!(map.del_with(12, 13, |carried, pages| gone.push((*carried, pages))), Ok(1));
    assert_eq!(carried(&map), [(0..2, 7), (10..12, 9), (13..20, 9)]);
    assert_eq!(map.del_to_end_with(1, |carried, pages| gone.push((*carried, pages))), 10);
    assert_eq!(gone, [(9, 1), (7, 1), (9, 2), (9, 7)]);
}

#[test]
fn a_range_over_several_gaps_is_added_whole_or_not_at_all() {
    let mut map = carrying([(2..3, 7), (5..6, 8), (8..9, 8)]);
    let before = carried(&map);
    assert_eq!(map.elements_for(0, 10, &9), 4);
    assert_eq!(map.elements_for(0, 10, &8), 1, "all but the first gap have a neighbour");
    map.spares = Spares::new();
    map.prepare(3).unwrap();
    map.starved = true;
    assert_eq!(map.add_with(0, 10, &9), Err(OutOfMemory));
    assert_eq!(carried(&map), before);
    assert_eq!(map.add_with(0, 10, &8), Ok(7));
    assert_eq!(carried(&map), [(0..2, 8), (2..3, 7), (3..10, 8)]);
}

#[test]
fn a_value_that_there_is_none_of_takes_no_room() {
    assert_eq!(size_of::<Region<()>>(), size_of::<Range<u64>>());
    assert_eq!(size_of::<Region<Option<Infallible>>>(), size_of::<Region<()>>());
    assert_eq!(size_of::<RegionMap<Option<Infallible>>>(), size_of::<RegionMap>());
}

/// Offsets the model knows: `0..SPAN`, and in the map from a base on.
const SPAN: u64 = 40;

#[derive(Clone, Debug)]
enum Op {
    Add(u64, u64),
    Del(u64, u64),
    DelToEnd(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..=SPAN, 0..=SPAN).prop_map(|(from, to)| Op::Add(from, to)),
        4 => (0..SPAN, 0..6u64).prop_map(|(from, n)| Op::Add(from, (from + n).min(SPAN))),
        4 => (0..SPAN, 0..6u64).prop_map(|(from, n)| Op::Del(from, (from + n).min(SPAN))),
        2 => (0..=SPAN, 0..=SPAN).prop_map(|(from, to)| Op::Del(from, to)),
        1 => (0..=SPAN).prop_map(Op::DelToEnd),
    ]
}

/// The model's pages as ranges, at `base`.
fn runs(model: &BTreeSet<u64>, base: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for page in model.iter().map(|page| base + page) {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

/// The model's pages as ranges that carry the same.
fn carried_runs(model: &BTreeMap<u64, u8>) -> Vec<(Range<u64>, u8)> {
    let mut runs: Vec<(Range<u64>, u8)> = Vec::new();
    for (&page, &carried) in model {
        match runs.last_mut() {
            Some((run, same)) if run.end == page && *same == carried => run.end += 1,
            _ => runs.push((page..page + 1, carried)),
        }
    }
    runs
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore)]
    fn each_page_carries_what_it_was_added_with(
        ops in prop::collection::vec((op(), 0..3u8, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let mut map = RegionMap::<u8>::default();
        let mut model = BTreeMap::new();
        for (op, value, prepared, memory) in ops {
            let before = carried_runs(&model);
            let needed = match op {
                Op::Add(from, to) => map.elements_for(from, to, &value),
                _ => 1,
            };
            map.starved = false;
            map.spares = Spares::new();
            if prepared {
                map.prepare(needed).unwrap();
            }
            map.starved = !memory;

            let mut after = model.clone();
            let mut lost = BTreeMap::<u8, u64>::new();
            let gone = |carried: &u8, pages| *lost.entry(*carried).or_default() += pages;
            let answer = match op {
                Op::Add(from, to) => {
                    (from..to).for_each(|page| _ = after.entry(page).or_insert(value));
                    map.add_with(from, to, &value)
                }
                Op::Del(from, to) => {
                    after.retain(|page, _| !(from..to).contains(page));
                    map.del_with(from, to, gone)
                }
                Op::DelToEnd(from) => {
                    after.split_off(&from);
                    Ok(map.del_to_end_with(from, gone))
                }
            };
            match answer {
                Ok(pages) => {
                    prop_assert_eq!(pages, after.len().abs_diff(model.len()) as u64);
                    for carried in 0..3 {
                        let count = |model: &BTreeMap<u64, u8>| model.values().filter(|&&it| it == carried).count() as u64;
                        let expected = count(&model).saturating_sub(count(&after));
                        prop_assert_eq!(lost.get(&carried).copied().unwrap_or(0), expected);
                    }
                    model = after;
                }
                Err(OutOfMemory) => {
                    prop_assert!(!memory && !prepared);
                    // Of several gaps, the first may need an element that the next would set free.
                    prop_assert!(needed > 0 && (after.len() > model.len() || carried_runs(&after).len() > before.len()));
                }
            }
            prop_assert_eq!(carried(&map), carried_runs(&model));
            prop_assert_eq!(map.count(0, SPAN), model.len() as u64);
            for page in 0..SPAN {
                prop_assert_eq!(map.contains(page), model.contains_key(&page));
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn the_map_is_a_set_of_pages(
        base in prop_oneof![Just(0), Just(1 << 40), Just(u64::MAX - SPAN)],
        ops in prop::collection::vec((op(), any::<bool>(), any::<bool>()), 1..60),
    ) {
        let mut map = RegionMap::new();
        let mut model = BTreeSet::new();
        for (op, prepared, memory) in ops {
            let before = runs(&model, base);
            map.starved = false;
            map.spares = Spares::new();
            if prepared {
                map.prepare(1).unwrap();
            }
            map.starved = !memory;

            let mut after = model.clone();
            let (answer, predicted) = match op {
                Op::Add(from, to) => {
                    let missing = map.missing(base + from, base + to);
                    after.extend(from..to);
                    (map.add(base + from, base + to), missing)
                }
                Op::Del(from, to) => {
                    let present = map.count(base + from, base + to);
                    after.retain(|page| !(from..to).contains(page));
                    (map.del(base + from, base + to), present)
                }
                Op::DelToEnd(from) => {
                    let present = map.count(base + from, u64::MAX);
                    after.retain(|page| *page < from);
                    (Ok(map.del_to_end(base + from)), present)
                }
            };
            match answer {
                Ok(pages) => {
                    prop_assert_eq!(pages, after.len().abs_diff(model.len()) as u64);
                    prop_assert_eq!(pages, predicted);
                    model = after;
                }
                Err(OutOfMemory) => {
                    prop_assert!(!memory && !prepared);
                    prop_assert!(runs(&after, base).len() > before.len());
                }
            }
            prop_assert_eq!(ranges(&map), runs(&model, base));
            prop_assert_eq!(map.is_empty(), model.is_empty());
            for page in 0..SPAN {
                prop_assert_eq!(map.contains(base + page), model.contains(&page));
            }
        }
    }
}
