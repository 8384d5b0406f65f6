//! Lists of pages that are not in use, linked through the pages' own records. So a free page needs
//! no memory of its own, and is found in its list without a search.

use crate::addr::HugeFrame;
use crate::hugetlb::Hugetlb;
use crate::page::{Link, Links, Listed};
use crate::platform::Platform;

/// A list of pages. The page put in last comes out first, since its record may still be in a
/// processor's cache.
///
/// # Invariants
///
/// Each page in it came from the platform, has no reference, and is in this list alone; its flags
/// name the list. The owner of the list may touch the links of its pages: the pool under its lock,
/// or the caller that took the pages from the platform.
///
/// The first page's link to the one before it says nothing. So taking the first page out leaves the record of the next one alone,
/// which another processor may take soon.
pub(super) struct PageList {
    kind: Listed,
    first: Link,
    last: Link,
    len: u64,
}

impl PageList {
    pub(super) const fn new(kind: Listed) -> Self {
        Self { kind, first: Link::NONE, last: Link::NONE, len: 0 }
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Puts a page in, to come out first.
    ///
    /// # Safety
    ///
    /// The page came from the platform, has no reference and is in no list, and the caller has
    /// exclusive access to it.
    pub(super) unsafe fn push<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        // SAFETY: the caller has the page to itself, and hands it over.
        unsafe { self.insert(hugetlb, frame, Links { next: self.first, before: Link::NONE }) };
    }

    /// Puts a page in, to come out last.
    ///
    /// # Safety
    ///
    /// As for [`push`](Self::push).
    pub(super) unsafe fn push_last<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        // SAFETY: the caller has the page to itself, and hands it over.
        unsafe { self.insert(hugetlb, frame, Links { next: Link::NONE, before: self.last }) };
    }

    /// Puts a page between two neighbours.
    ///
    /// # Safety
    ///
    /// As for [`push`](Self::push).
    unsafe fn insert<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, frame: HugeFrame, links: Links) {
        // SAFETY: the caller has exclusive access to the page.
        unsafe { *hugetlb.page(frame).links() = links };
        self.join(hugetlb, links.before, Link::to(frame));
        self.join(hugetlb, Link::to(frame), links.next);
        hugetlb.page(frame).set_listed(self.kind);
        self.len += 1;
    }

    /// Takes out the page at the front.
    pub(super) fn pop<P: Platform>(&mut self, hugetlb: &Hugetlb<P>) -> Option<HugeFrame> {
        let frame = self.first.frame()?;
        // SAFETY: the first page of the list is in the list.
        unsafe { self.remove(hugetlb, frame) };
        Some(frame)
    }

    /// Takes a page out. The caller has exclusive access to it then.
    ///
    /// # Safety
    ///
    /// It is in this list.
    pub(super) unsafe fn remove<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        let page = hugetlb.page(frame);
        // SAFETY: by the type invariants the links of a page in the list are ours.
        let Links { next, before } = unsafe { core::mem::take(&mut *page.links()) };
        let before = if self.first == Link::to(frame) { Link::NONE } else { before };
        page.set_listed(Listed::None);
        self.join(hugetlb, before, next);
        self.len -= 1;
    }

    /// Makes two pages neighbours. If one of them is none, the other becomes that end of the list.
    fn join<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, before: Link, next: Link) {
        match before.frame() {
            // SAFETY: by the type invariants the links of a page in the list are ours.
            Some(frame) => unsafe { (*hugetlb.page(frame).links()).next = next },
            None => self.first = next,
        }
        match next.frame() {
            // It becomes the first one.
            Some(_) if before == Link::NONE => {}
            // SAFETY: as above.
            Some(frame) => unsafe { (*hugetlb.page(frame).links()).before = before },
            None => self.last = before,
        }
    }
}
