//! `/proc/PID/maps`, `smaps` and `numa_maps`. Linux: fs/proc/task_mmu.c.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use hugewalk::vma::VmaFlags;

use crate::errno::Result;
use crate::memory::PAGE;
use crate::process::Process;
use crate::space::Space;
use crate::space::area::Rights;
use crate::space::observe::Shown;

/// Totals over an address space, in bytes.
#[derive(Default)]
pub(super) struct Sizes {
    /// Mapped.
    pub(super) mapped: u64,
    /// Base pages in memory.
    pub(super) resident: u64,
    /// Huge pages in memory.
    pub(super) huge: u64,
    /// Tables.
    pub(super) tables: u64,
}

impl Sizes {
    /// Adds up. Sleeps.
    pub(super) fn of(space: &Space) -> Result<Self> {
        let mut sizes = Self::default();
        for shown in space.shown()? {
            sizes.mapped += shown.end - shown.start;
            let bytes = shown.private_bytes + shown.shared_bytes;
            *(if shown.huge.is_some() { &mut sizes.huge } else { &mut sizes.resident }) += bytes;
        }
        space.middle_tables(|_| sizes.tables += PAGE);
        Ok(sizes)
    }
}

fn line(shown: &Shown) -> String {
    let letter = |right, letter| if shown.rights.contains(right) { letter } else { '-' };
    let (name, (device, inode)) = (&shown.name, shown.place);
    let head = format!(
        "{:x}-{:x} {}{}{}{} {:08x} 00:{device:02x} {inode} ",
        shown.start,
        shown.end,
        letter(Rights::READ, 'r'),
        letter(Rights::WRITE, 'w'),
        letter(Rights::EXECUTE, 'x'),
        if shown.shared { 's' } else { 'p' },
        shown.offset,
    );
    if name.is_empty() { format!("{head}\n") } else { format!("{head:<73}{name}\n") }
}

/// `maps`.
pub(super) fn maps(process: &Arc<Process>) -> Result<String> {
    Ok(process.space()?.shown()?.iter().map(line).collect())
}

/// `smaps`.
pub(super) fn smaps(process: &Arc<Process>) -> Result<String> {
    let mut text = String::new();
    for shown in process.space()?.shown()? {
        text += &line(&shown);
        let page = shown.huge.map_or(PAGE, |size| size.bytes());
        let huge = shown.huge.is_some();
        // Huge pages are counted in lines of their own only.
        let (private, shared) = if huge { (0, 0) } else { (shown.private_bytes, shown.shared_bytes) };
        let (private_huge, shared_huge) =
            if huge { (shown.private_bytes, shown.shared_bytes) } else { (0, 0) };
        for (name, bytes) in [
            ("Size", shown.end - shown.start),
            ("KernelPageSize", page),
            ("MMUPageSize", page),
            ("Rss", private + shared),
            ("Pss", private + shared / 2),
            ("Pss_Dirty", private + shared / 2),
            ("Shared_Clean", 0),
            ("Shared_Dirty", shared),
            ("Private_Clean", 0),
            ("Private_Dirty", private),
            ("Referenced", private + shared),
            ("Anonymous", if shown.shared { 0 } else { private + shared }),
            ("LazyFree", 0),
            ("AnonHugePages", 0),
            ("ShmemPmdMapped", 0),
            ("FilePmdMapped", 0),
            ("Shared_Hugetlb", shared_huge),
            ("Private_Hugetlb", private_huge),
            ("Swap", 0),
            ("SwapPss", 0),
            ("Locked", 0),
        ] {
            text += &format!("{:<16}{:>8} kB\n", format!("{name}:"), bytes >> 10);
        }
        text += "THPeligible:           0\nVmFlags:";
        for (has, flag) in [
            (shown.rights.contains(Rights::READ), "rd"),
            (shown.rights.contains(Rights::WRITE), "wr"),
            (shown.rights.contains(Rights::EXECUTE), "ex"),
            (shown.shared, "sh"),
            (true, "mr"),
            (true, "mw"),
            (true, "me"),
            (shown.shared, "ms"),
            (huge, "de"),
            (huge, "ht"),
            (shown.handled.contains(VmaFlags::UFFD_MISSING), "um"),
            (shown.handled.contains(VmaFlags::UFFD_WP), "uw"),
            (shown.handled.contains(VmaFlags::UFFD_MINOR), "ui"),
        ] {
            if has {
                text = text + " " + flag;
            }
        }
        text += " \n";
    }
    Ok(text)
}

/// `numa_maps`: the huge pages, and the names of the rest. Linux: `show_numa_map()` in fs/proc/task_mmu.c.
pub(super) fn numa_maps(process: &Arc<Process>) -> Result<String> {
    let space = process.space()?;
    let mut text = String::new();
    for shown in space.shown()? {
        text += &format!("{:x} default", shown.start);
        match shown.name.as_str() {
            "" => {}
            "[stack]" => text += " stack",
            "[heap]" => text += " heap",
            name => text += &format!(" file={}", name.replace('\\', "\\134").replace(' ', "\\040")),
        }
        if let Some(size) = shown.huge {
            text += " huge";
            let found = space.totals(shown.start, shown.end)?;
            for (name, pages) in [("anon", found.anon), ("dirty", found.dirty)] {
                if pages > 0 {
                    text += &format!(" {name}={pages}");
                }
            }
            if found.pages != found.anon && found.pages != found.dirty {
                text += &format!(" mapped={}", found.pages);
            }
            if found.mapmax > 1 {
                text += &format!(" mapmax={}", found.mapmax);
            }
            if found.pages > 0 {
                text += &format!(" N0={} kernelpagesize_kB={}", found.pages, size.bytes() >> 10);
            }
        }
        text.push('\n');
    }
    Ok(text)
}
