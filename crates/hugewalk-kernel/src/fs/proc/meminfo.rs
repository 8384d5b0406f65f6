//! `/proc/meminfo`.

use alloc::format;
use alloc::string::String;

use crate::arch;
use crate::memory::frames::{self, Kind};
use crate::memory::{HUGE, PAGE};
use crate::platform::{hugetlb, sizes};

/// The text. Linux: `meminfo_proc_show()` in fs/proc/meminfo.c, `hugetlb_report_meminfo()` in mm/hugetlb.c.
pub(super) fn text() -> String {
    let pool = hugetlb().pool(arch::SIZE_2M).counters();
    let frames = |kind| frames::in_use(kind) as u64 * PAGE;
    let (total, free) = frames::totals();
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("AnonPages", frames(Kind::Base)),
        ("Slab", frames(Kind::Kernel)),
        ("PageTables", frames(Kind::Table) + frames(Kind::Engine)),
    ];
    let mut text = String::new();
    for (name, bytes) in lines {
        text += &format!("{:<15} {:>8} kB\n", format!("{name}:"), bytes >> 10);
    }
    let counts = [
        ("HugePages_Total", pool.total),
        ("HugePages_Free", pool.free),
        ("HugePages_Rsvd", pool.reserved),
        ("HugePages_Surp", pool.surplus),
    ];
    for (name, pages) in counts {
        text += &format!("{:<16}{pages:>8}\n", format!("{name}:"));
    }
    let all = sizes().map(|size| hugetlb().pool(size).counters().total * size.bytes()).sum();
    for (name, bytes) in [("Hugepagesize", HUGE), ("Hugetlb", all)] {
        text += &format!("{:<15} {:>8} kB\n", format!("{name}:"), bytes >> 10);
    }
    text
}
