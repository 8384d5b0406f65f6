use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// A range, by its start; the summary of a run is its first start, its largest end, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    start: u32,
    end: u32,
    mark: u32,
}

impl Sorted for Span {
    type Key = u32;
    type Summary = (u32, u32, usize);

    fn key(&self) -> u32 {
        self.start
    }

    fn summary(&self) -> (u32, u32, usize) {
        (self.start, self.end, 1)
    }

    fn join(first: (u32, u32, usize), second: (u32, u32, usize)) -> (u32, u32, usize) {
        assert!(first.0 < second.0, "not in order");
        (first.0, first.1.max(second.1), first.2 + second.2)
    }
}

/// Checks the invariants of a subtree, and returns its elements.
fn checked(link: &Option<Box<Node<Span>>>) -> Vec<Span> {
    let Some(node) = link else { return Vec::new() };
    let (mut left, right) = (checked(&node.left), checked(&node.right));
    let (on_left, on_right) = (height(&node.left), height(&node.right));
    assert!(on_left.abs_diff(on_right) <= 1, "{on_left} on the left, {on_right} on the right");
    assert_eq!(node.height, on_left.max(on_right) + 1);
    left.push(node.element);
    left.extend(right);
    assert!(left.is_sorted_by(|one, next| one.start < next.start));
    let end = left.iter().map(|span| span.end).max().unwrap();
    assert_eq!(node.summary, (left[0].start, end, left.len()));
    left
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Insert(Span),
    Remove(u32),
    /// Changes what neither the key nor the summary is about.
    Mark(u32),
    PopFirst,
    PopLast,
    /// Moves the starts of a range up by one, where no two meet.
    Rename(u32, u32),
}

fn span() -> impl Strategy<Value = Span> {
    (0..200_u32, 1..60_u32).prop_map(|(start, length)| Span {
        start: start * 2,
        end: start * 2 + length,
        mark: 0,
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => span().prop_map(Change::Insert),
        4 => (0..200_u32).prop_map(|start| Change::Remove(start * 2)),
        1 => (0..200_u32).prop_map(|start| Change::Mark(start * 2)),
        1 => Just(Change::PopFirst),
        1 => Just(Change::PopLast),
        1 => (0..200_u32, 0..80_u32).prop_map(|(from, length)| Change::Rename(from * 2, from * 2 + length)),
    ]
}

proptest! {
    #[test]
    fn a_tree_is_what_a_map_would_be(
        changes in prop::collection::vec(change(), 0..300),
        asked in span(),
    ) {
        let (mut tree, mut model) = (Tree::new(), BTreeMap::new());
        for change in changes {
            match change {
                Change::Insert(span) => {
                    if tree.find(span.start).is_none() {
                        tree.insert(Node::new(span).unwrap());
                        model.insert(span.start, span);
                    }
                }
                Change::Remove(start) => {
                    let removed = tree.remove(start);
                    prop_assert!(removed.as_ref().is_none_or(|node| node.left.is_none() && node.right.is_none()));
                    prop_assert_eq!(removed.map(|node| *node.element()), model.remove(&start));
                }
                Change::Mark(start) => {
                    let found = tree.find_mut(start);
                    prop_assert_eq!(found.as_deref(), model.get(&start));
                    for span in found.into_iter().chain(model.get_mut(&start)) {
                        span.mark += 1;
                    }
                }
                Change::PopFirst => {
                    prop_assert_eq!(tree.pop_first().map(|node| *node.element()), model.pop_first().map(|(_, span)| span));
                }
                Change::PopLast => {
                    prop_assert_eq!(tree.pop_last().map(|node| *node.element()), model.pop_last().map(|(_, span)| span));
                }
                Change::Rename(from, to) => {
                    // All keys are even between two changes: so the next key is free, and the one before is given back.
                    let keys = from..=to;
                    prop_assert_eq!(tree.count(&keys), model.range(keys.clone()).count());
                    let mut seen = Vec::new();
                    tree.rename(&keys, |span| { seen.push(*span); span.start += 1; });
                    prop_assert_eq!(&seen, &model.range(keys).map(|(_, span)| *span).collect::<Vec<_>>());
                    checked(&tree.root);
                    tree.rename(&(0..=u32::MAX), |span| span.start &= !1);
                }
            }
            prop_assert_eq!(checked(&tree.root), model.values().copied().collect::<Vec<_>>());
        }
        prop_assert_eq!(tree.is_empty(), model.is_empty());
        prop_assert!(tree.iter().eq(model.values()));
        for key in 0..402 {
            prop_assert_eq!(tree.find(key), model.get(&key));
            prop_assert_eq!(tree.at_or_below(key), model.range(..=key).next_back().map(|(_, span)| span));
            prop_assert_eq!(tree.above(key), model.range(key + 1..).next().map(|(_, span)| span));
        }
        let found: Vec<_> = tree
            .iter_where(|&(_, end, _)| end > asked.start)
            .take_while(|span| span.start < asked.end)
            .filter(|span| span.end > asked.start)
            .collect();
        let overlaps = |span: &&Span| span.start < asked.end && span.end > asked.start;
        prop_assert_eq!(found, model.values().filter(overlaps).collect::<Vec<_>>());
    }
}

#[test]
fn a_tree_grown_in_order_is_flat_and_a_search_leaves_most_of_it_out() {
    let mut tree = Tree::new();
    for start in 0..65_530 {
        tree.insert(Node::new(Span { start, end: start + 1, mark: 0 }).unwrap());
    }
    assert!(height(&tree.root) <= 17, "{}", height(&tree.root));
    assert_eq!(tree.root().map(Node::summary), Some((0, 65_530, 65_530)));
    let asked = core::cell::Cell::new(0);
    let found = tree.iter_where(|&(_, end, _)| {
        asked.set(asked.get() + 1);
        end > 40_000
    });
    assert_eq!({ found }.find(|span| span.end > 40_000).map(|span| span.start), Some(40_000));
    assert!(asked.get() < 40, "{} subtrees were asked", asked.get());
}
