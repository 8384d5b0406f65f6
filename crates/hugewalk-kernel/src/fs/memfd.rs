//! Memory files: `memfd_create`. Linux: mm/memfd.c.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use hugewalk::addr::HugeSize;
use linux_raw_sys::general::{F_SEAL_SEAL, MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_HUGETLB, O_RDWR};

use super::base_file::BaseFile;
use super::file::Opened;
use super::huge_file::HugeNode;
use super::inode::{Inode, Kind};
use super::mounts::{Contents, Filesystem, HUGETLBFS};
use super::seals::{F_SEAL_EXEC, Seals};
use crate::arch;
use crate::errno::{Errno, Result};
use crate::platform;

/// `/proc/sys/vm/memfd_noexec`: 0 as ever, 1 without the right to execute unless asked for, 2 never with it.
pub static NOEXEC: AtomicU32 = AtomicU32::new(0);

const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 0x10;
const SIZE_SHIFT: u32 = 26;
const SIZE_MASK: u32 = 0x3f;

/// The longest name: 255 bytes less the prefix `memfd:`.
const LONGEST: usize = 249;

/// The size of huge pages that is coded in the highest bits of the flags of `memfd_create`, `mmap` and `shmget`.
///
/// # Errors
///
/// `ENODEV` if there are no pages of that size.
pub fn size_of_flags(flags: u32) -> Result<HugeSize> {
    match flags >> SIZE_SHIFT & SIZE_MASK {
        0 => Ok(arch::SIZE_2M),
        shift => platform::sizes().find(|size| size.shift() == shift).ok_or(Errno::ENODEV),
    }
}

/// Makes a memory file, and says whether its descriptor goes away in `execve`.
///
/// # Errors
///
/// `EINVAL` for unknown flags or a long name, `ENODEV` for a size of pages that there is not, `EACCES` if the right to execute is
/// forbidden, `ENOMEM`.
pub fn create(name: &[u8], flags: u32) -> Result<(Arc<Opened>, bool)> {
    let mut known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_NOEXEC_SEAL | MFD_EXEC;
    if flags & MFD_HUGETLB != 0 {
        known |= SIZE_MASK << SIZE_SHIFT;
    }
    if flags & !known != 0 || flags & MFD_EXEC != 0 && flags & MFD_NOEXEC_SEAL != 0 || name.len() > LONGEST {
        return Err(Errno::EINVAL);
    }
    let noexec = NOEXEC.load(Ordering::Relaxed);
    let asked = flags & (MFD_EXEC | MFD_NOEXEC_SEAL);
    let without_execution = match (asked, noexec) {
        (0, 0) | (MFD_EXEC, 0 | 1) => false,
        (MFD_EXEC, _) => return Err(Errno::EACCES),
        _ => true,
    };
    // A file that can be sealed begins without seals; the right to execute is sealed where it is denied, which makes the file
    // one that can be sealed.
    let seals = if without_execution && (flags & MFD_NOEXEC_SEAL != 0 || asked == 0) {
        F_SEAL_EXEC
    } else if flags & MFD_ALLOW_SEALING != 0 {
        0
    } else {
        F_SEAL_SEAL
    };
    let permissions = if without_execution { 0o666 } else { 0o777 };
    let shown = format!("/memfd:{} (deleted)", String::from_utf8_lossy(name));
    let kind = if flags & MFD_HUGETLB != 0 {
        Kind::Huge(HugeNode::new(&shown, size_of_flags(flags)?, None, Seals::with(seals))?)
    } else {
        Kind::Base(BaseFile::new(&shown, Seals::with(seals)))
    };
    let filesystem = filesystem(&kind);
    let inode = Inode::new(&filesystem, kind, permissions);
    Ok((inode.open(shown.into_bytes(), O_RDWR)?, flags & MFD_CLOEXEC != 0))
}

/// Where memory files are: `fstatfs` tells those of huge pages by it.
fn filesystem(kind: &Kind) -> Arc<Filesystem> {
    use spin::Once;
    static BASE: Once<Arc<Filesystem>> = Once::new();
    match kind {
        Kind::Huge(node) => {
            let contents = Contents::Huge { size: node.file.size_class(), subpool: None };
            Filesystem::new("hugetlbfs", HUGETLBFS, contents)
        }
        _ => BASE.call_once(|| Filesystem::new("tmpfs", 0x0102_1994, Contents::Base)).clone(),
    }
}
