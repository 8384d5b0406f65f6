//! A page is filled before anybody can come to it (I12), and what a processor has stored is there when it loads, or another
//! processor of its address space (I13).
//!
//! What truncation, a hole, `DONTNEED` of a private page or memory failure may take away is not told apart: scenarios with those
//! are not judged by I13.

use hugewalk::addr::{HugeFrame, TableFrame, VirtAddr};
use hugewalk::arch::Entry;

use super::{Access, Judge, PageUse};
use crate::explore::{in_thread, violation};
use crate::lab::ground::{Origin, Place, REFERENCES, RawEntry, world};
use crate::lab::property::{Property, in_words};

pub(in crate::lab) struct Contents;

impl Judge for Contents {
    fn accesses(access: &Access) {
        let Place::Entry(table, index) = access.place else { return };
        if !access.writes || !world().judges(Property::I12) {
            return;
        }
        if let Entry::Leaf(leaf) = RawEntry::from_bits(access.after).decode()
            && leaf.is_accessible()
            && world().contents.of(leaf.frame).origin == Origin::Nobody
        {
            let (entry, page) = (world().name_of(table, index), leaf.frame.0 >> 9);
            let text = format!("{entry} maps page {page}, which has not been filled");
            world().violated(Property::I12, &text);
        }
    }

    fn uses_page(used: &PageUse) {
        let page = used.page.frame;
        let (who, number) = (in_words(in_thread()), page.0 >> 9);
        if world().contents.of(page).origin == Origin::Nobody {
            let text = format!("{who} comes to page {number}, which has not been filled");
            world().violated(Property::I12, &text);
        }
        if let Some(lost) = world().contents.lost(page, used.root, used.address)
            && !used.stores
        {
            let by = in_words(lost.cpu);
            let text = format!("{who} loads from page {number}, and does not find what {by} has stored");
            world().violated(Property::I13, &text);
        }
    }
}

impl Contents {
    /// A page is read from the file's side.
    pub(in crate::lab) fn is_read(page: HugeFrame) {
        if world().contents.of(page).origin == Origin::Nobody {
            let text =
                format!("{} reads page {}, which has not been filled", in_words(in_thread()), page.0 >> 9);
            world().violated(Property::I12, &text);
        }
    }

    /// Nothing is under way: what was written to files is in a page that somebody has.
    pub(in crate::lab) fn check_written() {
        if !world().judges(Property::I13) {
            return;
        }
        for write in world().contents.stores().into_iter().filter(|store| store.is_of_file()) {
            let has = |page: HugeFrame| {
                world().peek_page(page, REFERENCES) != 0 && world().contents.has(page, &write)
            };
            if !world().pages().any(has) {
                let text = format!("I13: no page has what {} has written to a file", in_words(write.cpu));
                return violation(text, Property::I13);
            }
        }
    }

    /// Nothing is under way: what was stored in this address space is there, wherever `fault` finds a page.
    pub(in crate::lab) fn check(root: TableFrame, mut fault: impl FnMut(VirtAddr) -> bool) {
        if !world().judges(Property::I13) {
            return;
        }
        for store in world().contents.stores().into_iter().filter(|store| store.root == root) {
            let address = VirtAddr::new(store.address);
            if !fault(address) {
                continue;
            }
            let pud = world().peek(root, store.address >> 39);
            let table = pud.and_then(|pud| world().peek(pud, store.address >> 30));
            let entry = table.map(|table| world().peek_raw(table, store.address >> 21).decode());
            if let Some(Entry::Leaf(leaf)) = entry
                && let Some(lost) = world().contents.lost(leaf.frame, root, store.address)
            {
                let (by, page) = (in_words(lost.cpu), leaf.frame.0 >> 9);
                violation(format!("I13: page {page} has not what {by} has stored"), Property::I13);
            }
        }
    }
}
