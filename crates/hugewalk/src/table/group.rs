//! Groups: entries side by side that stand for one page, and so are read and replaced together.
//!
//! Under the table lock all members say the same, apart from accessed and dirty bits, which a processor sets in the member
//! that it has used. A lockless reader may see some members replaced and others not yet. It reads only the member at its
//! own address, which is whole at any moment, and confirms that one.

use core::sync::atomic::Ordering;

use super::{LockedSlot, read};
use crate::arch::{Entry, LeafFlags, Paging};
use crate::platform::Platform;
use crate::sync::Word;

impl<P: Platform> LockedSlot<'_, P> {
    /// Does a group of entries stand for the page? A constant for processors that have none.
    #[inline]
    pub(super) fn is_group(&self) -> bool {
        P::Paging::GROUPS && self.size().group() > 1
    }

    /// The members of the group, by their numbers.
    fn members(&self) -> impl Iterator<Item = (u16, &P::Word)> {
        let place = self.place();
        let first = place.table.index_of(place.word) & !self.size().group_mask();
        (0..self.size().group())
            .map(move |member| (member, place.table.entry(place.paging, first + usize::from(member))))
    }

    /// A leaf, with the accesses that processors have noted in any member.
    #[cold]
    pub(super) fn with_use_of_all(&self, entry: Entry) -> Entry {
        if !matches!(entry, Entry::Leaf(_)) {
            return entry;
        }
        let place = self.place();
        self.members()
            .fold(entry, |entry, (_, word)| with_use(entry, place.paging.decode(read(word), place.level)))
    }

    /// Replaces all members by what `next` makes of the entry, and returns what it was. Where no leaf was, the new one carries
    /// `fresh`.
    ///
    /// A new entry is a function of the old one, and the old one is known only when no processor can note an access in any
    /// member any more. So a group that processors can use becomes *busy* in all members first. Those who meet one of them
    /// wait for the table lock, as for any busy entry.
    #[cold]
    pub(super) fn replace_group(&self, next: impl Fn(Entry) -> Entry, fresh: u64) -> Entry {
        let place = self.place();
        let (paging, level, size) = (place.paging, place.level, self.size());
        let mut before = Entry::None;
        let mut carried = fresh;
        for (member, word) in self.members() {
            let mut now = read(word);
            let mut seen = paging.decode(now, level);
            while paging.is_valid(now) {
                let busy = paging.encode(seen.busy(), size, member, paging.carried(now, level));
                // As in `replace_entry`.
                match word.compare_exchange(now, busy, Ordering::SeqCst, Ordering::Acquire) {
                    Ok(_) => break,
                    Err(other) => (now, seen) = (other, paging.decode(other, level)),
                }
            }
            if member == 0 {
                before = seen;
                if matches!(seen, Entry::Leaf(_)) {
                    carried = paging.carried(now, level);
                }
            }
            debug_assert!(
                before.is_same_but_for_use(seen),
                "members of a group differ: {before:?} and {seen:?}"
            );
            before = with_use(before, seen);
        }
        let wanted = next(before);
        for (member, word) in self.members() {
            // Release: as in `LockedSlot::store`. No processor writes to the member: it cannot use it.
            word.store(paging.encode(wanted, size, member, carried), Ordering::Release);
        }
        before
    }
}

/// A leaf, with the accesses that another member has noted too.
fn with_use(entry: Entry, other: Entry) -> Entry {
    match other {
        Entry::Leaf(other) => entry.with(other.flags & (LeafFlags::ACCESSED | LeafFlags::DIRTY)),
        _ => entry,
    }
}
