//! Which aligned gigabytes of a mapping have pages in them: each of those costs a table.
//!
//! `smaps` says how many pages a mapping has, and that is often enough. Where it is not, `/proc/PID/pagemap` is asked, page by
//! page up to the first that is there, and no more often than [`QUESTIONS`] times for a process.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::smaps::Mapping;
use crate::gigabyte::GIB;

/// How often the page map of one process is asked, at most: some 20 ms.
const QUESTIONS: u32 = 1 << 14;

/// Base pages that an entry of the page map stands for: this command runs on x86-64 only.
const BASE_SHIFT: u32 = 12;

/// Does an aligned gigabyte of a mapping have pages in it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Yes,
    No,
    /// Nobody could be asked.
    Unknown,
}

/// The aligned gigabytes that `range` touches, counted from address 0.
pub(crate) fn slots(range: &Range<u64>) -> Range<u64> {
    range.start / GIB..range.end.div_ceil(GIB)
}

/// Finds out for each mapping of pages of 2 MiB.
pub(crate) fn fill_in(mappings: &mut [Mapping], pagemap: Option<&File>) {
    let mut questions = QUESTIONS;
    let mut is_present = |address: u64| {
        questions = questions.checked_sub(1)?;
        let mut entry = [0; 8];
        pagemap?.read_exact_at(&mut entry, (address >> BASE_SHIFT) * 8).ok()?;
        Some(u64::from_ne_bytes(entry) >> 63 == 1)
    };
    for mapping in mappings.iter_mut().filter(|mapping| mapping.shift() < 30) {
        mapping.filled = filled(mapping, &mut is_present);
    }
}

fn filled(mapping: &Mapping, is_present: &mut impl FnMut(u64) -> Option<bool>) -> Vec<Filled> {
    let page = mapping.page_kb << 10;
    let absent = (mapping.bytes() >> 10).saturating_sub(mapping.resident_kb()) << 10;
    let ask = |slot: u64| {
        let from = mapping.range.start.max(slot * GIB);
        let to = mapping.range.end.min((slot + 1).saturating_mul(GIB));
        if mapping.resident_kb() == 0 {
            return Filled::No;
        }
        if absent < to - from {
            // The pages that are missing do not come to a whole gigabyte.
            return Filled::Yes;
        }
        let mut pages = (0..(to - from) / page).map(|index| is_present(from + index * page));
        match pages.find(|answer| *answer != Some(false)) {
            Some(Some(_)) => Filled::Yes,
            Some(None) => Filled::Unknown,
            None => Filled::No,
        }
    };
    slots(&mapping.range).map(ask).collect()
}

#[cfg(test)]
mod tests {
    use super::super::smaps::huge_mappings;
    use super::*;

    /// Two gigabytes and a half, from the middle of one on.
    fn mapping(resident_mb: u64) -> Mapping {
        let text = format!(
            "60000000-100000000 rw-s 0 00:11 5 /x\nKernelPageSize: 2048 kB\nPrivate_Hugetlb: {} kB\nVmFlags: ht\n",
            resident_mb << 10
        );
        huge_mappings(&text).expect("sound").remove(0)
    }

    #[test]
    fn what_smaps_tells_is_not_asked_for() {
        let mut never = |_| panic!("asked");
        assert_eq!(filled(&mapping(0), &mut never), [Filled::No; 3]);
        assert_eq!(filled(&mapping(2560), &mut never), [Filled::Yes; 3]);
        assert_eq!(filled(&mapping(2560 - 510), &mut never), [Filled::Yes; 3]);
    }

    #[test]
    fn the_page_map_is_asked_where_smaps_leaves_it_open() {
        let mut last_only = |address: u64| Some(address == 0x1_0000_0000 - (2 << 20));
        assert_eq!(filled(&mapping(2), &mut last_only), [Filled::No, Filled::No, Filled::Yes]);
        let mut nobody = |_| None;
        assert_eq!(filled(&mapping(2), &mut nobody), [Filled::Unknown; 3]);
        // All but 512 MiB are there: the two whole gigabytes have some.
        assert_eq!(filled(&mapping(2048), &mut nobody), [Filled::Unknown, Filled::Yes, Filled::Yes]);
    }

    #[test]
    fn a_process_is_asked_a_limited_number_of_times() {
        let mut mappings = vec![mapping(2); 40];
        let empty = tempfile::tempfile().expect("a file");
        empty.set_len(8 << 20).expect("long enough");
        fill_in(&mut mappings, Some(&empty));
        assert_eq!(mappings[0].filled, [Filled::No; 3]);
        assert_eq!(mappings[39].filled, [Filled::Unknown; 3]);
    }
}
