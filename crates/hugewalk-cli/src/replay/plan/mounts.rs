//! Where hugetlbfs is mounted.

/// A directory on which hugetlbfs is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory, without a slash at the end.
    pub directory: String,
    /// The size of its pages, as a power of two.
    pub page_shift: u32,
}

/// All mounts that are known, the last one on a directory being the one that is seen.
#[derive(Debug)]
pub(super) struct Mounts {
    mounts: Vec<Mount>,
    default_shift: u32,
}

impl Mounts {
    pub(super) fn new(mounts: Vec<Mount>, default_shift: u32) -> Self {
        Self { mounts, default_shift }
    }

    /// A hugetlbfs was mounted.
    pub(super) fn mount(&mut self, directory: &str, options: &str) {
        let page_shift = options.split(',').find_map(|option| option.strip_prefix("pagesize=")).map_or(
            self.default_shift,
            |size| {
                if size.starts_with("1G") || size == "1048576K" { 30 } else { 21 }
            },
        );
        self.mounts.push(Mount { directory: directory.trim_end_matches('/').to_owned(), page_shift });
    }

    /// The size of the pages of what lies at `path`, as a power of two, if they are huge.
    pub(super) fn at(&self, path: &str) -> Option<u32> {
        let under = |directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        if let Some(mount) = self.mounts.iter().rev().find(|mount| under(&mount.directory)) {
            return Some(mount.page_shift);
        }
        let customary = under("/dev/hugepages")
            || under("/run/hugepages")
            || path.strip_prefix("/mnt/huge").is_some_and(|rest| rest.contains('/'));
        customary.then_some(self.default_shift)
    }
}

/// The directory that is likely to be the mount of a file, for advice: the one that is named after huge pages, or else the
/// file's own.
pub(super) fn likely_mount(path: &str) -> &str {
    let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
    let mut end = 0;
    for part in parent.split('/') {
        end += part.len();
        if part.contains("huge") {
            return &path[..end];
        }
        end += 1;
    }
    if parent.is_empty() { "/" } else { parent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likely_mount_is_named_after_huge_pages_or_holds_the_file() {
        assert_eq!(likely_mount("/dev/hugepages1G/libvirt/qemu/mem0"), "/dev/hugepages1G");
        assert_eq!(likely_mount("/srv/rec/ht/dpdkmap_0"), "/srv/rec/ht");
        assert_eq!(likely_mount("/huge"), "/");
    }
}
