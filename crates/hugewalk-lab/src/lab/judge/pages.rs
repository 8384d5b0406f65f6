//! References of a page (I14): nobody takes one to a page that nobody holds, a page that is given back has none left, and when
//! nothing is under way they are its mappings and that of the page cache.

use hugewalk::addr::{HugeFrame, TableFrame};
use hugewalk::arch::Entry;
use hugewalk::platform::ENTRIES;

use super::{Access, Judge};
use crate::explore::violation;
use crate::lab::ground::{FLAGS, FREE, MAPPINGS, Place, RECORD, REFERENCES, world};
use crate::lab::property::Property;

pub(in crate::lab) struct Pages;

/// The lower half of a count.
const LOW: u64 = u32::MAX as u64;

impl Judge for Pages {
    fn accesses(access: &Access) {
        let Place::PageRecord(word) = access.place else { return };
        if !access.writes || !world().judges(Property::I14) {
            return;
        }
        let (number, before, after) = (word / RECORD + 1, access.before, access.after);
        let page = HugeFrame((number as u64) << 9);
        let left = || world().peek_page(page, REFERENCES) != 0 || world().peek_page(page, MAPPINGS) != 0;
        let wrong = match word % RECORD {
            REFERENCES if access.adds && before & LOW == 0 => {
                format!("a reference is taken to page {number}, which nobody holds")
            }
            REFERENCES if access.subtracts && after > before => {
                format!("a reference to page {number} is given up, and there is none")
            }
            FLAGS if after & FREE != 0 && before & FREE == 0 && left() => {
                format!("page {number} is given back with references left, or mappings")
            }
            _ => return,
        };
        world().violated(Property::I14, &wrong);
    }
}

impl Pages {
    /// Nothing is under way, and these are the address spaces there are; the caches of all files have so many pages.
    pub(in crate::lab) fn check(roots: &[TableFrame], cached: u64) {
        if !world().judges(Property::I14) {
            return;
        }
        let mut tables: Vec<TableFrame> = Vec::new();
        for pud in roots.iter().filter_map(|&root| world().peek(root, 0)) {
            tables.extend((0..ENTRIES as u64).filter_map(|index| world().peek(pud, index)));
        }
        tables.sort_unstable();
        tables.dedup();
        let entries = tables
            .iter()
            .flat_map(|&table| (0..ENTRIES as u64).map(move |index| world().peek_raw(table, index).decode()));
        let leaf = |entry| if let Entry::Leaf(leaf) = entry { Some(leaf.frame) } else { None };
        let frames: Vec<HugeFrame> = entries.filter_map(leaf).collect();
        let mut left = 0;
        for page in world().pages() {
            let (references, mappings) =
                (world().peek_page(page, REFERENCES), world().peek_page(page, MAPPINGS));
            let mapped = frames.iter().filter(|&&frame| frame == page).count() as u64;
            let others = (references & LOW).checked_sub(mapped);
            if mappings != mapped || others.is_none_or(|others| others > 1) || references > LOW {
                let (number, references) = (page.0 >> 9, references & LOW);
                let text = format!(
                    "I14: page {number} is mapped {mapped} times, and counts {mappings} mappings and {references} references"
                );
                return violation(text, Property::I14);
            }
            left += others.unwrap_or(0);
        }
        if left != cached {
            let text =
                format!("I14: pages have {left} references besides mappings, and files have {cached} pages");
            violation(text, Property::I14);
        }
    }
}
