//! A hugetlbfs of its own that is nowhere in the tree of files: it goes when its last file does.

use std::ffi::CStr;
use std::os::fd::IntoRawFd;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::wire::NONE;
use crate::program::PAGE;

/// Mounts, with limits in huge pages or [`NONE`]. The descriptor, or an error number below 0. Does not allocate.
pub(super) fn mount(size: u64, min: u64) -> Result<i32, i64> {
    let mount = || {
        let context = fsopen(c"hugetlbfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, c"pagesize", c"2M")?;
        for (name, pages) in [(c"size", size), (c"min_size", min)] {
            if pages != NONE {
                let mut digits = [0; 24];
                fsconfig_set_string(&context, name, decimal(pages.saturating_mul(PAGE), &mut digits))?;
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    mount().map(IntoRawFd::into_raw_fd).map_err(|error: Errno| -i64::from(error.raw_os_error()))
}

/// A number as a string of C, written from the end of the buffer on.
fn decimal(mut number: u64, digits: &mut [u8; 24]) -> &CStr {
    let mut at = digits.len() - 1;
    digits[at] = 0;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    CStr::from_bytes_with_nul(&digits[at..]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_memory() {
        for number in [0, 7, 4_194_304, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 24]).to_str(), Ok(&*number.to_string()));
        }
    }
}
