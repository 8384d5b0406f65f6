//! Sorted elements in a balanced tree, whose nodes are allocated before they go in.
//!
//! An element goes in by a [`Node`] of its own, which is made beforehand and comes out again with it. So a change cannot
//! fail, neither allocates nor frees, and may be made under any lock. No two nodes share memory: however many elements
//! there are, no large piece of memory is asked for.
//!
//! The tree is an AVL tree. Each node knows a [summary](Sorted::Summary) of the elements below it, so that a search leaves
//! out whole subtrees: those that end before the range that is asked for, or have no gap of the length. Finding, inserting
//! and removing one element takes time in proportion to the height, which is at most 1.45 times the binary logarithm of
//! their number. Changes recurse as deep.

mod iter;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use core::cmp::Ordering;
use core::ops::RangeInclusive;

use crate::error::OutOfMemory;
use crate::sync::try_box;

/// An element of a [`Tree`].
pub(crate) trait Sorted {
    /// The elements' order. Two elements of a tree never have the same key.
    type Key: Copy + Ord;
    /// What is known of a run of elements without looking at each.
    type Summary: Copy;

    fn key(&self) -> Self::Key;
    /// The summary of this element alone.
    fn summary(&self) -> Self::Summary;
    /// The summary of two runs, the second of which follows the first at once.
    fn join(first: Self::Summary, second: Self::Summary) -> Self::Summary;
}

/// Elements, sorted by their keys.
///
/// # Invariants
///
/// Of each node: the elements on its left have smaller keys, those on its right larger ones; the heights of its two sides
/// differ by at most one; `height` and `summary` are those of the subtree.
pub(crate) struct Tree<E: Sorted> {
    root: Option<Box<Node<E>>>,
}

/// The place of an element in a tree. Outside a tree it has nothing below it.
pub(crate) struct Node<E: Sorted> {
    element: E,
    summary: E::Summary,
    height: u8,
    left: Option<Box<Self>>,
    right: Option<Box<Self>>,
}

impl<E: Sorted> Node<E> {
    /// A node for an element.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; the element is dropped.
    pub(crate) fn new(element: E) -> Result<Box<Self>, OutOfMemory> {
        let summary = element.summary();
        try_box(Self { element, summary, height: 1, left: None, right: None })
    }

    pub(crate) fn element(&self) -> &E {
        &self.element
    }

    /// What is known of the node's element and those below it.
    pub(crate) fn summary(&self) -> E::Summary {
        self.summary
    }

    /// The node of the elements before it, of those below it.
    pub(crate) fn left(&self) -> Option<&Self> {
        self.left.as_deref()
    }

    /// The node of the elements after it, of those below it.
    pub(crate) fn right(&self) -> Option<&Self> {
        self.right.as_deref()
    }

    /// The element of a node that is in no tree.
    pub(crate) fn element_mut(&mut self) -> &mut E {
        debug_assert!(self.left.is_none() && self.right.is_none(), "a node of a tree");
        &mut self.element
    }

    /// Brings height and summary in line with what is below.
    fn note(&mut self) {
        let own = self.element.summary();
        let with_left = self.left.as_ref().map_or(own, |left| E::join(left.summary, own));
        self.summary = self.right.as_ref().map_or(with_left, |right| E::join(with_left, right.summary));
        self.height = height(&self.left).max(height(&self.right)).saturating_add(1);
    }
}

impl<E: Sorted> Tree<E> {
    pub(crate) const fn new() -> Self {
        Self { root: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// The node that all others lie below, for searches by the summaries.
    pub(crate) fn root(&self) -> Option<&Node<E>> {
        self.root.as_deref()
    }

    /// The element with this key.
    pub(crate) fn find(&self, key: E::Key) -> Option<&E> {
        self.at_or_below(key).filter(|found| found.key() == key)
    }

    /// The element with this key, to be changed in what neither its key nor its summary is about.
    pub(crate) fn find_mut(&mut self, key: E::Key) -> Option<&mut E> {
        let mut next = self.root.as_deref_mut();
        while let Some(node) = next {
            next = match key.cmp(&node.element.key()) {
                Ordering::Less => node.left.as_deref_mut(),
                Ordering::Greater => node.right.as_deref_mut(),
                Ordering::Equal => return Some(&mut node.element),
            };
        }
        None
    }

    /// The last element whose key is at most this.
    pub(crate) fn at_or_below(&self, key: E::Key) -> Option<&E> {
        let (mut found, mut next) = (None, self.root.as_deref());
        while let Some(node) = next {
            next = if node.element.key() <= key {
                found = Some(&node.element);
                node.right.as_deref()
            } else {
                node.left.as_deref()
            };
        }
        found
    }

    /// The first element whose key is larger.
    pub(crate) fn above(&self, key: E::Key) -> Option<&E> {
        let (mut found, mut next) = (None, self.root.as_deref());
        while let Some(node) = next {
            next = if node.element.key() > key {
                found = Some(&node.element);
                node.left.as_deref()
            } else {
                node.right.as_deref()
            };
        }
        found
    }

    /// Puts an element in. There is none with its key.
    pub(crate) fn insert(&mut self, mut node: Box<Node<E>>) {
        node.note();
        insert(&mut self.root, node);
    }

    /// Takes an element out, with its node.
    pub(crate) fn remove(&mut self, key: E::Key) -> Option<Box<Node<E>>> {
        let mut node = remove(&mut self.root, key)?;
        node.note();
        Some(node)
    }

    /// Takes the first element out.
    pub(crate) fn pop_first(&mut self) -> Option<Box<Node<E>>> {
        let mut node = remove_first(&mut self.root)?;
        node.note();
        Some(node)
    }

    /// Takes the last element out.
    pub(crate) fn pop_last(&mut self) -> Option<Box<Node<E>>> {
        let mut node = remove_last(&mut self.root)?;
        node.note();
        Some(node)
    }

    /// How many elements have keys in a range.
    pub(crate) fn count(&self, keys: &RangeInclusive<E::Key>) -> usize {
        count(&self.root, keys)
    }

    /// Changes the keys of all elements in a range of keys, in order, in a way that keeps their order among all.
    pub(crate) fn rename(&mut self, keys: &RangeInclusive<E::Key>, mut change: impl FnMut(&mut E)) {
        rename(&mut self.root, keys, &mut change);
    }
}

/// Nodes in no tree, which wait to be used.
pub(crate) struct Spares<E: Sorted> {
    /// Each has the next one on its left.
    first: Option<Box<Node<E>>>,
    len: usize,
}

impl<E: Sorted> Spares<E> {
    pub(crate) const fn new() -> Self {
        Self { first: None, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, mut node: Box<Node<E>>) {
        node.left = self.first.take();
        self.first = Some(node);
        self.len += 1;
    }

    /// A node, with an element that does not matter.
    pub(crate) fn pop(&mut self) -> Option<Box<Node<E>>> {
        let mut node = self.first.take()?;
        self.first = node.left.take();
        self.len -= 1;
        Some(node)
    }
}

impl<E: Sorted> Drop for Spares<E> {
    fn drop(&mut self) {
        // One by one: a list that drops itself recurses as deep as it is long.
        while self.pop().is_some() {}
    }
}

fn height<E: Sorted>(link: &Option<Box<Node<E>>>) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

fn insert<E: Sorted>(link: &mut Option<Box<Node<E>>>, node: Box<Node<E>>) {
    match link {
        None => *link = Some(node),
        Some(root) => {
            let is_before = node.element.key() < root.element.key();
            insert(if is_before { &mut root.left } else { &mut root.right }, node);
            settle(link);
        }
    }
}

fn remove<E: Sorted>(link: &mut Option<Box<Node<E>>>, key: E::Key) -> Option<Box<Node<E>>> {
    let root = link.as_mut()?;
    let removed = match key.cmp(&root.element.key()) {
        Ordering::Less => remove(&mut root.left, key)?,
        Ordering::Greater => remove(&mut root.right, key)?,
        Ordering::Equal => {
            let mut removed = link.take()?;
            let (left, mut right) = (removed.left.take(), removed.right.take());
            *link = match remove_first(&mut right) {
                Some(mut next) => {
                    (next.left, next.right) = (left, right);
                    Some(next)
                }
                None => left,
            };
            removed
        }
    };
    settle(link);
    Some(removed)
}

/// Takes the first node of a subtree out.
fn remove_first<E: Sorted>(link: &mut Option<Box<Node<E>>>) -> Option<Box<Node<E>>> {
    let root = link.as_mut()?;
    if root.left.is_some() {
        let first = remove_first(&mut root.left);
        settle(link);
        return first;
    }
    let mut first = link.take()?;
    *link = first.right.take();
    Some(first)
}

/// Takes the last node of a subtree out.
fn remove_last<E: Sorted>(link: &mut Option<Box<Node<E>>>) -> Option<Box<Node<E>>> {
    let root = link.as_mut()?;
    if root.right.is_some() {
        let last = remove_last(&mut root.right);
        settle(link);
        return last;
    }
    let mut last = link.take()?;
    *link = last.left.take();
    Some(last)
}

fn count<E: Sorted>(link: &Option<Box<Node<E>>>, keys: &RangeInclusive<E::Key>) -> usize {
    let Some(node) = link else { return 0 };
    let key = node.element.key();
    let mut found = usize::from(keys.contains(&key));
    if *keys.start() < key {
        found += count(&node.left, keys);
    }
    if key < *keys.end() {
        found += count(&node.right, keys);
    }
    found
}

fn rename<E: Sorted>(
    link: &mut Option<Box<Node<E>>>,
    keys: &RangeInclusive<E::Key>,
    change: &mut impl FnMut(&mut E),
) {
    let Some(node) = link else { return };
    let key = node.element.key();
    if *keys.start() < key {
        rename(&mut node.left, keys, change);
    }
    if keys.contains(&key) {
        change(&mut node.element);
    }
    if key < *keys.end() {
        rename(&mut node.right, keys, change);
    }
    node.note();
}

/// Restores the invariants of a subtree's root after one of its sides has grown or shrunk by one.
fn settle<E: Sorted>(link: &mut Option<Box<Node<E>>>) {
    let Some(root) = link else { return };
    let (left, right) = (height(&root.left), height(&root.right));
    if left > right.saturating_add(1) {
        if root.left.as_ref().is_some_and(|left| height(&left.left) < height(&left.right)) {
            rotate_left(&mut root.left);
        }
        rotate_right(link);
    } else if right > left.saturating_add(1) {
        if root.right.as_ref().is_some_and(|right| height(&right.right) < height(&right.left)) {
            rotate_right(&mut root.right);
        }
        rotate_left(link);
    } else {
        root.note();
    }
}

/// Makes the left child the root.
fn rotate_right<E: Sorted>(link: &mut Option<Box<Node<E>>>) {
    let Some(mut down) = link.take() else { return };
    let Some(mut up) = down.left.take() else {
        *link = Some(down);
        return;
    };
    down.left = up.right.take();
    down.note();
    up.right = Some(down);
    up.note();
    *link = Some(up);
}

/// Makes the right child the root.
fn rotate_left<E: Sorted>(link: &mut Option<Box<Node<E>>>) {
    let Some(mut down) = link.take() else { return };
    let Some(mut up) = down.right.take() else {
        *link = Some(down);
        return;
    };
    down.right = up.left.take();
    down.note();
    up.left = Some(down);
    up.note();
    *link = Some(up);
}
