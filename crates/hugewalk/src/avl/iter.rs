//! Visiting the elements of a tree in order.

use super::{Node, Sorted, Tree};

/// The height that an iterator copes with: a tree of this height has more than two to the 33 elements.
const HEIGHT: usize = 48;

/// The elements of a tree in order, without the subtrees that were left out.
pub(crate) struct Iter<'t, E: Sorted, W> {
    /// The nodes on the way down whose element comes after what was visited, the next one last.
    stack: [Option<&'t Node<E>>; HEIGHT],
    depth: usize,
    wanted: W,
}

impl<E: Sorted> Tree<E> {
    /// All elements, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &E> {
        self.iter_where(|_| true)
    }

    /// The elements in order, without the subtrees whose summary is not `wanted`. An element that is visited may not be
    /// wanted by itself.
    pub(crate) fn iter_where<W: Fn(&E::Summary) -> bool>(&self, wanted: W) -> Iter<'_, E, W> {
        let mut iter = Iter { stack: [None; HEIGHT], depth: 0, wanted };
        iter.go_left(self.root.as_deref());
        iter
    }
}

impl<'t, E: Sorted, W: Fn(&E::Summary) -> bool> Iter<'t, E, W> {
    /// Goes down to the first element of a subtree.
    fn go_left(&mut self, mut from: Option<&'t Node<E>>) {
        while let Some(node) = from.filter(|node| (self.wanted)(&node.summary)) {
            debug_assert!(self.depth < HEIGHT, "more elements than memory holds");
            if let Some(place) = self.stack.get_mut(self.depth) {
                *place = Some(node);
                self.depth += 1;
            }
            from = node.left.as_deref();
        }
    }
}

impl<'t, E: Sorted, W: Fn(&E::Summary) -> bool> Iterator for Iter<'t, E, W> {
    type Item = &'t E;

    fn next(&mut self) -> Option<&'t E> {
        self.depth = self.depth.checked_sub(1)?;
        let node = self.stack.get(self.depth).copied().flatten()?;
        self.go_left(node.right.as_deref());
        Some(&node.element)
    }
}
