//! What /proc tells of a process.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use crate::observe::Mapping;
use crate::program::{Bytes, Modes, PAGE, Rights};

/// The mappings in the window, and the huge pages that the process has mapped itself.
pub(super) fn mappings(pid: i32) -> io::Result<(Vec<Mapping>, u64)> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let huge = status.lines().find_map(|line| kilobytes(line, "HugetlbPages:"));
    Ok((parse(&smaps), huge.unwrap_or(0)))
}

/// What programs need beyond the pool, with the kernel's numbers: segments and locked memory, other processes' memory and
/// userfaultfd, mounts and namespaces.
const NEEDED: [(u32, &str); 3] = [(14, "CAP_IPC_LOCK"), (19, "CAP_SYS_PTRACE"), (21, "CAP_SYS_ADMIN")];

/// One of those that this process does not have.
pub(super) fn lacking_capability() -> Option<&'static str> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    lacking(&status)
}

fn lacking(status: &str) -> Option<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    NEEDED.into_iter().find(|(number, _)| effective >> number & 1 == 0).map(|(_, name)| name)
}

/// Does a page that was just written say so?
pub(super) fn tracks_soft_dirty() -> bool {
    let written = std::hint::black_box(Box::new(1u8));
    let at = std::ptr::from_ref(&*written).addr() as u64 / 4096 * 8;
    let mut entry = [0; 8];
    let read = fs::File::open("/proc/self/pagemap").and_then(|file| file.read_exact_at(&mut entry, at));
    read.is_ok() && u64::from_ne_bytes(entry) >> 55 & 1 != 0
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    let mut inside = false;
    for line in smaps.lines() {
        // Figures start with a capital letter, ranges with a digit of base 16 in small letters.
        if !line.starts_with(|first: char| first.is_ascii_uppercase()) {
            let mapping = header(line);
            inside = mapping.is_some();
            found.extend(mapping);
        } else if let (true, Some(mapping)) = (inside, found.last_mut()) {
            if let Some(pages) = kilobytes(line, "Shared_Hugetlb:") {
                mapping.shared_pages = pages;
            } else if let Some(pages) = kilobytes(line, "Private_Hugetlb:") {
                mapping.private_pages = pages;
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                mapping.handled = handled(flags);
            }
        }
    }
    found
}

/// The line a mapping starts with, if it lies in the window.
fn header(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let start = Bytes::of_address(address(start)?)?;
    let flags = words.next()?;
    let offset = address(words.next()?)?;
    let mut rights = Rights::empty();
    rights.set(Rights::READ, flags.contains('r'));
    rights.set(Rights::WRITE, flags.contains('w'));
    rights.set(Rights::EXECUTE, flags.contains('x'));
    Some(Mapping {
        start,
        end: Bytes(address(end)?.checked_sub(crate::program::WINDOW)?),
        rights,
        shared: flags.ends_with('s'),
        offset: Bytes(offset),
        handled: Modes::empty(),
        shared_pages: 0,
        private_pages: 0,
    })
}

/// Linux: Documentation/filesystems/proc.rst
fn handled(flags: &str) -> Modes {
    let mode = |flag| match flag {
        "um" => Modes::MISSING,
        "uw" => Modes::WP,
        "ui" => Modes::MINOR,
        _ => Modes::empty(),
    };
    flags.split_ascii_whitespace().map(mode).collect()
}

/// A figure in KiB, in huge pages. Who clears entries of a table it came to share did not count them when they were made: so
/// `HugetlbPages` can fall below zero, and is printed wrapped around then. The engine says 0, and so does this.
fn kilobytes(line: &str, name: &str) -> Option<u64> {
    let figure = line.strip_prefix(name)?.trim().strip_suffix("kB")?;
    figure
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kilobytes| kilobytes.cast_signed().max(0).cast_unsigned() / (PAGE / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_below_zero_counts_as_zero() {
        let line = "HugetlbPages:\t18446744073709549568 kB";
        assert_eq!(kilobytes(line, "HugetlbPages:"), Some(0));
        assert_eq!(kilobytes("HugetlbPages:\t    4096 kB", "HugetlbPages:"), Some(2));
    }

    #[test]
    fn what_root_lacks_is_named() {
        assert_eq!(lacking("Uid:\t0\nCapEff:\t000001ffffffffff\n"), None);
        assert_eq!(lacking("CapEff:\t00000000a80425fb\n"), Some("CAP_IPC_LOCK"));
        assert_eq!(lacking("CapEff:\t0000000000284000\n"), None);
    }

    #[test]
    fn mappings_of_the_window_are_found_with_their_figures() {
        let smaps = "\
555500000000-555500001000 r--p 00000000 fe:00 12 /bin/x
Size:                  4 kB
Shared_Hugetlb:       0 kB
200040000000-200040400000 rw-s 00200000 00:0f 77 /memfd:conform (deleted)
Size:               4096 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    4096 kB
VmFlags: rd wr sh um uw
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
Shared_Hugetlb:     6144 kB
";
        let expected = Mapping {
            start: Bytes(1 << 30),
            end: Bytes((1 << 30) + 2 * PAGE),
            rights: Rights::READ | Rights::WRITE,
            shared: true,
            offset: Bytes(PAGE),
            handled: Modes::MISSING | Modes::WP,
            shared_pages: 1,
            private_pages: 2,
        };
        assert_eq!(parse(smaps), [expected]);
    }
}
