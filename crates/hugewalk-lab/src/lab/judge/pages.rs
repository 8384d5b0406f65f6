//! References of a page (I14): nobody takes one to a page that nobody holds, a page that is given back has none left, and when
//! nothing is under way they are its mappings and that of the page cache. By then a page knows whose it is: one that is mapped
//! is a file's or belongs to private mappings, and as many are files' as files have. And nobody can come to one that has failed
//! (I12).

use hugewalk::addr::{HugeFrame, TableFrame};
use hugewalk::arch::{Aarch64, Entry, X86_64};

use super::{Access, Judge};
use crate::explore::violation;
use crate::lab::ground::{
    ANON, FLAGS, FREE, Format as _, HWPOISON, MAPPINGS, OWNER, Place, RECORD, REFERENCES, world,
};
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
        let page = world().page_of(word / RECORD);
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
        let mut tables: Vec<TableFrame> = Vec::new();
        for pud in roots.iter().filter_map(|&root| world().peek(root, 0)) {
            tables.extend((0..X86_64::ENTRIES as u64).filter_map(|index| world().peek(pud, index)));
        }
        tables.sort_unstable();
        tables.dedup();
        let entries = tables.iter().flat_map(|&table| {
            (0..X86_64::ENTRIES as u64).map(move |index| world().peek_raw(table, index).decode())
        });
        // The members of a group are one mapping. The tables of all of them begin with the first member of a group.
        let group = if world().groups() { Aarch64::size().group() } else { 1 };
        let entries = entries.step_by(group.into());
        let leaf = |entry| if let Entry::Leaf(leaf) = entry { Some(leaf.frame) } else { None };
        let frames: Vec<HugeFrame> = entries.filter_map(leaf).collect();
        if let Some(failed) = frames.iter().find(|&&page| world().peek_page(page, FLAGS) & HWPOISON != 0) {
            world().violated(Property::I12, &format!("page {} is mapped, and has failed", failed.0 >> 9));
        }
        if !world().judges(Property::I14) {
            return;
        }
        let (mut left, mut owned) = (0, 0);
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
            if references == 0 {
                continue;
            }
            let has_owner = world().peek_page(page, OWNER) != 0;
            if mapped > 0 && !has_owner {
                let text = format!("I14: page {} is mapped, and nothing says whose it is", page.0 >> 9);
                return violation(text, Property::I14);
            }
            owned += u64::from(has_owner && world().peek_page(page, FLAGS) & ANON == 0);
        }
        if owned != cached {
            let text = format!("I14: {owned} pages say that they are a file's, and files have {cached}");
            return violation(text, Property::I14);
        }
        if left != cached {
            let text =
                format!("I14: pages have {left} references besides mappings, and files have {cached} pages");
            violation(text, Property::I14);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::lab::Settings;
    use crate::scenario::Scenario;

    #[test]
    fn a_page_that_has_failed_and_is_mapped_at_the_end_is_found() {
        let scenario = Scenario {
            id: "failed",
            what: "a page fails, and nobody takes it out of the entry that maps it",
            judged: &[Property::I12],
            build: |bench| {
                let file = bench.file();
                let process = bench.process(&file, &[0]);
                let frame = bench.frame(&process, 0);
                bench.cpu("fail", move |_| {
                    let flags = world().page_record(frame).cast::<AtomicU64>().as_ptr().wrapping_add(FLAGS);
                    // SAFETY: the record is there as long as the world, and its flags are an atomic.
                    unsafe { (*flags).fetch_or(HWPOISON, Ordering::Relaxed) };
                });
            },
        };
        let verdict = crate::check(&scenario, Settings::HUGEWALK, &Default::default());
        let found = verdict.report.counterexample.as_ref().map_or("nothing", |found| &found.text);
        assert!(
            found.starts_with("I12: page ") && found.ends_with(" is mapped, and has failed"),
            "{verdict}"
        );
    }
}
