//! Programs that are known, and what their operator can set to have huge pages otherwise.

/// A program, as far as it matters which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    /// None of these.
    #[default]
    Other,
    /// PostgreSQL: one anonymous shared mapping of the postmaster's, which its children inherit.
    PostgreSql,
    /// A Java virtual machine: private mappings.
    Java,
    /// QEMU: the memory of a guest, which vhost-user processes map too.
    Qemu,
}

impl Program {
    /// The program behind a path, or behind the name of a process.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        match name {
            "postgres" | "postmaster" => Self::PostgreSql,
            "java" => Self::Java,
            "qemu-kvm" | "kvm" => Self::Qemu,
            name if name.starts_with("qemu-system") => Self::Qemu,
            _ => Self::Other,
        }
    }

    /// Its name in a sentence; none if it is not known.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::PostgreSql => Some("PostgreSQL"),
            Self::Java => Some("Java"),
            Self::Qemu => Some("QEMU"),
            Self::Other => None,
        }
    }

    /// What its operator sets for pages of 1 GiB; `backing` is what it maps. None if nothing is known that does it.
    #[must_use]
    pub fn gigantic(self, backing: &str) -> Option<&'static str> {
        match self {
            Self::PostgreSql => Some("huge_page_size = 1GB"),
            Self::Java => Some("-XX:+UseLargePages -XX:LargePageSizeInBytes=1g"),
            Self::Qemu if is_memfd(backing) => Some("hugetlbsize=1G in -object memory-backend-memfd"),
            Self::Qemu if backing.starts_with('/') => {
                Some("mem-path= of -object memory-backend-file on a hugetlbfs mount with pagesize=1G")
            }
            Self::Qemu | Self::Other => None,
        }
    }

    /// What its operator sets for a mapping to begin on a 1 GiB boundary; none if nothing does.
    #[must_use]
    pub fn aligned(self, backing: &str) -> Option<&'static str> {
        // A memory-backend-memfd has no such property, and PostgreSQL and Java take what address they get.
        (self == Self::Qemu && backing.starts_with('/')).then_some("align=1G in -object memory-backend-file")
    }

    /// What makes its mapping smaller; none if it is not known.
    #[must_use]
    pub fn smaller(self) -> Option<&'static str> {
        match self {
            Self::PostgreSql => Some("shared_buffers"),
            Self::Java => Some("-Xms and -Xmx"),
            Self::Qemu => Some("size= of the memory backend"),
            Self::Other => None,
        }
    }
}

fn is_memfd(backing: &str) -> bool {
    backing.starts_with("memfd") || backing.starts_with("/memfd:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_paths_and_by_the_cut_names_of_their_processes() {
        assert_eq!(Program::of("/usr/lib/postgresql/15/bin/postgres"), Program::PostgreSql);
        assert_eq!(Program::of("qemu-system-x86"), Program::Qemu);
        assert_eq!(Program::of("/usr/bin/java"), Program::Java);
        assert_eq!(Program::of("/usr/bin/javac"), Program::Other);
        assert_eq!(Program::of(""), Program::Other);
    }

    #[test]
    fn only_options_that_the_backend_has_are_named() {
        let (file, memfd) = ("/dev/hugepages/guest", "memfd");
        assert!(Program::Qemu.aligned(file).is_some_and(|option| option.starts_with("align=1G")));
        assert_eq!(Program::Qemu.aligned(memfd), None);
        assert!(Program::Qemu.gigantic(memfd).is_some_and(|option| option.starts_with("hugetlbsize=1G")));
        assert_eq!(Program::PostgreSql.aligned("anonymous"), None);
    }
}
