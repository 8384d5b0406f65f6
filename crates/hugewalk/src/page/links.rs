//! A page's place in a list of its pool.

use crate::addr::HugeFrame;

/// A page's links in its list. All zeroes in a page that is in none.
#[derive(Clone, Copy, Default)]
pub(crate) struct Links {
    pub(crate) next: Link,
    pub(crate) before: Link,
}

/// A page or none. None is all zeroes: the number is the frame's and one.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Link(u64);

impl Link {
    /// No page.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn to(frame: HugeFrame) -> Self {
        Self(frame.0.wrapping_add(1))
    }

    pub(crate) fn frame(self) -> Option<HugeFrame> {
        (self.0 != 0).then(|| HugeFrame(self.0.wrapping_sub(1)))
    }
}
