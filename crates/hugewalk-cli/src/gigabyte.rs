//! What of a mapping cannot share its page tables, whatever others map.
//!
//! The kernel shares a table if the pages are of 2 MiB, the mapping is shared, it covers the whole aligned 1 GiB range, and no
//! userfaultfd mode works on its single entries. The partner must map the same file, at the same place in the gigabyte,
//! with the same flags.
//!
//! Linux: `want_pmd_share()` and `page_table_shareable()` in `mm/hugetlb.c`.

use std::ops::Range;

use crate::report::{Unsharable, range_text};

/// What one table of 2 MiB entries covers.
pub(crate) const GIB: u64 = 1 << 30;

/// What is said of two mappings of a file whose addresses do not agree modulo 1 GiB.
pub(crate) const ANOTHER_PLACE: &str = "the same page lies at another place in its gigabyte";

/// The aligned 1 GiB ranges that lie in `range` whole, counted in GiB from address 0.
pub(crate) fn whole_ranges(range: &Range<u64>) -> Range<u64> {
    let (first, last) = (range.start.div_ceil(GIB), range.end / GIB);
    first..last.max(first)
}

/// What of a mapping of `range`, with pages of 1 << `shift` bytes, cannot share, and why.
pub(crate) fn unsharable(range: &Range<u64>, shift: u32, shared: bool) -> Vec<Unsharable> {
    let part = |range: Range<u64>, why: &str| {
        (!range.is_empty()).then(|| Unsharable {
            bytes: range.end - range.start,
            range: range_text(&range),
            why: why.to_owned(),
        })
    };
    let all = |why: &str| part(range.clone(), why).into_iter().collect();
    if shift != 21 {
        return all("pages of 1 GiB have no table below them that could be shared");
    }
    if !shared {
        return all("private: what a process stores is its own, and so are its tables");
    }
    let whole = whole_ranges(range);
    if whole.is_empty() {
        return all(if range.end - range.start < GIB {
            "smaller than the 1 GiB that a table covers"
        } else {
            "covers no aligned 1 GiB range as a whole"
        });
    }
    [
        part(range.start..whole.start.saturating_mul(GIB), "lies before the first 1 GiB boundary"),
        part(whole.end.saturating_mul(GIB)..range.end, "lies behind the last 1 GiB boundary"),
    ]
    .into_iter()
    .flatten()
    .collect()
}
