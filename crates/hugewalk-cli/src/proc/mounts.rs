//! Where hugetlbfs is mounted, from `/proc/mounts`.

/// A mount of hugetlbfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) directory: String,
    /// The size of its pages; none if the line does not name one.
    pub(crate) page_kb: Option<u64>,
}

/// The mounts of hugetlbfs among the lines of `/proc/mounts`.
pub(crate) fn hugetlbfs(mounts: &str) -> Vec<Mounted> {
    let of = |line: &str| {
        let mut fields = line.split(' ');
        let (_, directory, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let page_kb = options.split(',').find_map(|option| kb(option.strip_prefix("pagesize=")?));
        (kind == "hugetlbfs").then(|| Mounted { directory: unescaped(directory), page_kb })
    };
    mounts.lines().filter_map(of).collect()
}

/// `2M`
fn kb(size: &str) -> Option<u64> {
    let (number, unit) = size.split_at(size.find(|digit: char| !digit.is_ascii_digit())?);
    let scale = match unit {
        "K" => 1,
        "M" => 1 << 10,
        "G" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// The kernel writes blanks, tabs, line ends and backslashes of names as three octal digits.
fn unescaped(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_hugetlbfs_are_found_with_the_size_of_their_pages() {
        let text = "\
proc /proc proc rw,nosuid 0 0
hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0
none /srv/one\\040gig hugetlbfs rw,pagesize=1024M,size=4194304K 0 0
none /old hugetlbfs rw 0 0
";
        let mounted = |directory: &str, page_kb| Mounted { directory: directory.to_owned(), page_kb };
        let expected = [
            mounted("/dev/hugepages", Some(2048)),
            mounted("/srv/one gig", Some(1 << 20)),
            mounted("/old", None),
        ];
        assert_eq!(hugetlbfs(text), expected);
    }
}
