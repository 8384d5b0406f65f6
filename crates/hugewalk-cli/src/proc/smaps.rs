//! Mappings of huge pages, from `/proc/PID/smaps`.

use std::ops::Range;

use super::first_number;
use super::pagemap::Filled;

/// The smallest huge page there is; each mapping of huge pages begins and ends on such a boundary.
const SMALLEST: u64 = 2 << 20;

/// A mapping of huge pages.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    /// As in `rw-`.
    pub(crate) rights: String,
    pub(crate) shared: bool,
    /// Where in the file it begins, in bytes.
    pub(crate) offset: u64,
    /// The device of the file, as in `00:11`.
    pub(crate) device: String,
    pub(crate) inode: u64,
    pub(crate) name: String,
    pub(crate) page_kb: u64,
    /// `Private_Hugetlb`: pages that its tables map, and nobody else's.
    pub(crate) private_kb: u64,
    /// `Shared_Hugetlb`: pages that its tables map, and others may map.
    pub(crate) shared_kb: u64,
    /// All of `VmFlags`, but for whether the memory is locked: the kernel does not ask for that.
    pub(crate) flags: String,
    /// Which of the aligned gigabytes it touches have pages in them, by address. Empty for pages of 1 GiB.
    pub(crate) filled: Vec<Filled>,
}

impl Mapping {
    /// The size of its pages as a power of two.
    pub(crate) fn shift(&self) -> u32 {
        self.page_kb.trailing_zeros() + 10
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// What its tables map.
    pub(crate) fn resident_kb(&self) -> u64 {
        self.private_kb.saturating_add(self.shared_kb)
    }

    /// Is `flag` among `VmFlags`?
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.split(' ').any(|other| other == flag)
    }
}

/// Can there be huge pages among these lines of `/proc/PID/maps`? That file does not tell the size of pages, but it costs the
/// process nothing.
pub(crate) fn may_hold_huge_pages(maps: &str) -> bool {
    maps.lines().filter_map(header).any(|mapping| {
        let Range { start, end } = mapping.range;
        // Huge pages always belong to a file of a file system without a disk.
        (start | end | mapping.offset).is_multiple_of(SMALLEST)
            && mapping.inode != 0
            && mapping.device.starts_with("00:")
    })
}

/// The mappings of huge pages, by address.
///
/// # Errors
///
/// The number of the first line that cannot be read.
pub(crate) fn huge_mappings(smaps: &str) -> Result<Vec<Mapping>, usize> {
    let mut huge = Vec::new();
    let mut current: Option<Mapping> = None;
    let mut keep = |mapping: Option<Mapping>| huge.extend(mapping.filter(|mapping| mapping.has("ht")));
    for (number, line) in smaps.lines().enumerate() {
        let damaged = number + 1;
        let field = line.split_once(':').filter(|(name, _)| {
            name.starts_with(|first: char| first.is_ascii_uppercase()) && !name.contains([' ', '-'])
        });
        let Some((name, value)) = field else {
            keep(current.take());
            current = Some(header(line).ok_or(damaged)?);
            continue;
        };
        let mapping = current.as_mut().ok_or(damaged)?;
        let kb = || first_number(value).ok_or(damaged);
        match name {
            "KernelPageSize" => mapping.page_kb = kb()?,
            "Private_Hugetlb" => mapping.private_kb = kb()?,
            "Shared_Hugetlb" => mapping.shared_kb = kb()?,
            "VmFlags" => {
                let flags = value.split_whitespace().filter(|flag| !["lo", "lf"].contains(flag));
                mapping.flags = flags.collect::<Vec<_>>().join(" ");
                if mapping.has("ht") && (mapping.page_kb < 4 || !mapping.page_kb.is_power_of_two()) {
                    return Err(damaged);
                }
            }
            _ => {}
        }
    }
    keep(current);
    Ok(huge)
}

/// The first line of a mapping: `7f836e400000-7f8376400000 rw-s 00000000 00:11 507340   /anon_hugepage (deleted)`.
fn header(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = behind.trim_start();
        (!word.is_empty()).then_some(word)
    };
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = word()?.split_once('-')?;
    let range = hex(start)?..hex(end)?;
    let rights = word()?;
    let (offset, device, inode) = (hex(word()?)?, word()?.to_owned(), word()?.parse().ok()?);
    (range.start < range.end && rights.len() == 4 && rights.is_ascii()).then(|| Mapping {
        range,
        rights: rights[..3].to_owned(),
        shared: rights.ends_with('s'),
        offset,
        device,
        inode,
        name: rest.to_owned(),
        page_kb: 0,
        private_kb: 0,
        shared_kb: 0,
        flags: String::new(),
        filled: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55b308333000-55b308334000 r--p 00000000 fe:00 18504                      /usr/bin/a: b
Size:                  4 kB
KernelPageSize:        4 kB
VmFlags: rd mr mw me
7f836e400000-7f8376400000 rw-s 00200000 00:11 507340                     /anon_hugepage (deleted)
Size:             131072 kB
KernelPageSize:     2048 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:   10240 kB
VmFlags: rd wr sh mr mw me ms lo de ht 
";

    #[test]
    fn huge_mappings_are_found_with_their_figures_and_their_flags_but_mlock() {
        let found = huge_mappings(SMAPS).expect("sound");
        let [mapping] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(mapping.range, 0x7f83_6e40_0000..0x7f83_7640_0000);
        assert_eq!((mapping.offset, mapping.shift(), mapping.resident_kb()), (0x20_0000, 21, 12_288));
        assert_eq!((mapping.rights.as_str(), mapping.shared), ("rw-", true));
        assert_eq!(mapping.name, "/anon_hugepage (deleted)");
        assert_eq!(mapping.flags, "rd wr sh mr mw me ms de ht");
    }

    #[test]
    fn a_damaged_line_is_named_by_its_number() {
        let damage = |from: &str, to: &str| huge_mappings(&SMAPS.replace(from, to)).err();
        assert_eq!(damage("7f836e400000-", "7f836e400000 "), Some(5));
        assert_eq!(damage("Private_Hugetlb:   10240", "Private_Hugetlb:   many"), Some(9));
        assert_eq!(damage("KernelPageSize:     2048", "KernelPageSize:     2047"), Some(10));
        assert_eq!(huge_mappings("Size: 4 kB\n").err(), Some(1));
    }

    #[test]
    fn a_process_without_an_aligned_mapping_is_not_asked_for_more() {
        let line = "7f836e400000-7f8376400000 rw-s 00200000 00:11 507340    /anon_hugepage (deleted)\n";
        assert!(may_hold_huge_pages(line));
        assert!(!may_hold_huge_pages(&line.replace("00:11", "fe:00")));
        assert!(!may_hold_huge_pages(&line.replace("7f8376400000", "7f8376401000")));
        assert!(!may_hold_huge_pages(&line.replace("507340", "0")));
    }
}
