//! The flag words of the calls, by the names and numbers of Linux on x86-64.
//!
//! A name that is not here is one that changes nothing for huge pages; it counts as zero.

use bitflags::bitflags;

/// A flag word that can be read from its printed names.
pub(crate) trait FlagWord: Sized {
    /// The value of one name, zero for one that does not matter here.
    fn by_name(name: &str) -> u64;
    /// The word with these bits, unknown ones kept.
    fn from_word(bits: u64) -> Self;
}

macro_rules! flag_words {
    ($($(#[$doc:meta])* $word:ident: $bits:ty { $($name:ident = $value:expr;)* } $(, shift = $shift:literal)?)*) => {$(
        bitflags! {
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $word: $bits {
                $(
                    #[doc = concat!("`", stringify!($name), "`")]
                    const $name = $value;
                )*
                // Bits of no name are kept: some words carry a number as well (a page size, a mode).
                const _ = !0;
            }
        }

        impl FlagWord for $word {
            fn by_name(name: &str) -> u64 {
                $(if name == $shift { return u64::from(HUGE_SHIFT); })?
                Self::from_name(name).map_or(0, |flag| u64::from(flag.bits()))
            }

            fn from_word(bits: u64) -> Self {
                // Words are printed in their own width; what is above it would be a misprint.
                #[allow(clippy::cast_possible_truncation, clippy::allow_attributes, trivial_numeric_casts)]
                Self::from_bits_retain(bits as $bits)
            }
        }
    )*};
}

/// Where mmap, memfd_create and shmget keep the page size's logarithm.
const HUGE_SHIFT: u32 = 26;

flag_words! {
    /// Protection of a mapping.
    Prot: u32 { PROT_READ = 1; PROT_WRITE = 2; PROT_EXEC = 4; }
    /// Flags of `mmap`.
    MapFlags: u32 {
        MAP_SHARED = 1; MAP_PRIVATE = 2; MAP_SHARED_VALIDATE = 3; MAP_FIXED = 0x10; MAP_ANONYMOUS = 0x20; MAP_LOCKED = 0x2000;
        MAP_NORESERVE = 0x4000; MAP_POPULATE = 0x8000; MAP_HUGETLB = 0x4_0000; MAP_FIXED_NOREPLACE = 0x10_0000;
        MAP_HUGE_2MB = 21 << HUGE_SHIFT; MAP_HUGE_1GB = 30 << HUGE_SHIFT;
    }, shift = "MAP_HUGE_SHIFT"
    /// Flags of `mremap`.
    MremapFlags: u32 { MREMAP_MAYMOVE = 1; MREMAP_FIXED = 2; MREMAP_DONTUNMAP = 4; }
    /// Flags of `clone`; `fork` has none of them.
    CloneFlags: u64 {
        CLONE_VM = 0x100; CLONE_FS = 0x200; CLONE_FILES = 0x400; CLONE_VFORK = 0x4000; CLONE_THREAD = 0x1_0000;
    }
    /// Flags of `open`.
    OpenFlags: u32 { O_CREAT = 0o100; O_DIRECTORY = 0o200_000; O_EXCL = 0o200; O_TRUNC = 0o1000; O_CLOEXEC = 0o2_000_000;
        O_TMPFILE = 0o20_000_000;
    }
    /// Flags of `memfd_create`.
    MemfdFlags: u32 {
        MFD_CLOEXEC = 1; MFD_HUGETLB = 4; MFD_HUGE_2MB = 21 << HUGE_SHIFT; MFD_HUGE_1GB = 30 << HUGE_SHIFT;
    }, shift = "MFD_HUGE_SHIFT"
    /// Flags of `shmget`.
    ShmFlags: u32 {
        IPC_CREAT = 0o1000; IPC_EXCL = 0o2000; SHM_HUGETLB = 0o4000; SHM_NORESERVE = 0o10000;
        SHM_HUGE_2MB = 21 << HUGE_SHIFT; SHM_HUGE_1GB = 30 << HUGE_SHIFT;
    }, shift = "SHM_HUGE_SHIFT"
    /// Flags of `shmat`.
    ShmatFlags: u32 { SHM_RDONLY = 0o10000; SHM_RND = 0o20000; SHM_REMAP = 0o40000; SHM_EXEC = 0o100_000; }
    /// Modes of `fallocate`.
    FallocateFlags: u32 {
        FALLOC_FL_KEEP_SIZE = 1; FALLOC_FL_PUNCH_HOLE = 2; FALLOC_FL_COLLAPSE_RANGE = 8; FALLOC_FL_ZERO_RANGE = 0x10;
        FALLOC_FL_INSERT_RANGE = 0x20; FALLOC_FL_UNSHARE_RANGE = 0x40;
    }
    /// Modes in which a range is registered with userfaultfd.
    UffdModes: u64 {
        UFFDIO_REGISTER_MODE_MISSING = 1; UFFDIO_REGISTER_MODE_WP = 2; UFFDIO_REGISTER_MODE_MINOR = 4;
    }
    /// What a userfaultfd is asked to do besides; what concerns other memory than huge pages is left out.
    UffdFeatures: u64 {
        UFFD_FEATURE_EVENT_FORK = 1 << 1; UFFD_FEATURE_EVENT_REMAP = 1 << 2; UFFD_FEATURE_EVENT_REMOVE = 1 << 3;
        UFFD_FEATURE_EVENT_UNMAP = 1 << 6; UFFD_FEATURE_SIGBUS = 1 << 7; UFFD_FEATURE_THREAD_ID = 1 << 8;
        UFFD_FEATURE_EXACT_ADDRESS = 1 << 11;
    }
    /// Modes of `UFFDIO_COPY`.
    UffdCopyMode: u64 { UFFDIO_COPY_MODE_DONTWAKE = 1; UFFDIO_COPY_MODE_WP = 2; }
    /// Modes of `UFFDIO_CONTINUE`.
    UffdContinueMode: u64 { UFFDIO_CONTINUE_MODE_DONTWAKE = 1; UFFDIO_CONTINUE_MODE_WP = 2; }
    /// Modes of `UFFDIO_WRITEPROTECT`.
    UffdProtectMode: u64 { UFFDIO_WRITEPROTECT_MODE_WP = 1; UFFDIO_WRITEPROTECT_MODE_DONTWAKE = 2; }
    /// Flags of `mlockall`.
    MlockallFlags: u32 { MCL_CURRENT = 1; MCL_FUTURE = 2; MCL_ONFAULT = 4; }
}

/// The page size that a flag word asks for, as a power of two; none for the system's default.
fn page_shift(bits: u32) -> Option<u32> {
    let shift = bits >> HUGE_SHIFT & 0x3f;
    (shift != 0).then_some(shift)
}

impl MapFlags {
    /// The page size asked for, as a power of two; none for the default.
    #[must_use]
    pub fn page_shift(self) -> Option<u32> {
        page_shift(self.bits())
    }

    /// Whether stores are seen by others.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self.bits() & 3 != Self::MAP_PRIVATE.bits()
    }
}

impl MemfdFlags {
    /// The page size asked for, as a power of two; none for the default.
    #[must_use]
    pub fn page_shift(self) -> Option<u32> {
        page_shift(self.bits())
    }
}

impl ShmFlags {
    /// The page size asked for, as a power of two; none for the default.
    #[must_use]
    pub fn page_shift(self) -> Option<u32> {
        page_shift(self.bits())
    }
}
