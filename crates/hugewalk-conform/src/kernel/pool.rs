//! The kernel's pool of huge pages of 2 MiB.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::KernelError;
use crate::observe::Pool;

/// Where its size is written to.
pub(super) const SIZE_PATH: &CStr = c"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
/// And its limit of surplus pages.
pub(super) const OVERCOMMIT_PATH: &CStr =
    c"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";
/// How often the kernel is asked for so many pages.
const TRIES: u32 = 5;
const DIRECTORY: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// What the pool was before it was touched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saved {
    pub(super) size: u64,
    pub(super) overcommit: u64,
}

impl Saved {
    /// As it is to be written back, without blanks at the end.
    pub(super) fn as_text(self) -> (Vec<u8>, Vec<u8>) {
        (self.size.to_string().into_bytes(), self.overcommit.to_string().into_bytes())
    }
}

/// Files that tell and set what the pool is.
pub(super) struct PoolFiles {
    /// Total, free, reserved, surplus.
    counters: [File; 4],
    overcommit: File,
}

impl PoolFiles {
    pub(super) fn open() -> Result<Self, KernelError> {
        let open = |name: &str, write| {
            File::options().read(true).write(write).open(format!("{DIRECTORY}/{name}")).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::NotFound => KernelError::NoHugePages,
                    io::ErrorKind::PermissionDenied => KernelError::NotRoot,
                    io::ErrorKind::ReadOnlyFilesystem => KernelError::ReadOnly,
                    _ => KernelError::Pool(error),
                }
            })
        };
        Ok(Self {
            counters: [
                open("nr_hugepages", true)?,
                open("free_hugepages", false)?,
                open("resv_hugepages", false)?,
                open("surplus_hugepages", false)?,
            ],
            overcommit: open("nr_overcommit_hugepages", true)?,
        })
    }

    /// What it is, for the warden.
    pub(super) fn save(&self) -> Result<Saved, KernelError> {
        let Pool { total, free, reserved, surplus } = self.counters()?;
        if free != total || reserved != 0 || surplus != 0 {
            return Err(KernelError::InUse { used: total - free, reserved });
        }
        Ok(Saved { size: total, overcommit: number(&self.overcommit)? })
    }

    /// Puts the pool back to what it was.
    pub(super) fn restore(&self, saved: Saved) -> Result<(), KernelError> {
        set(&self.counters[0], saved.size)?;
        set(&self.overcommit, saved.overcommit)
    }

    pub(super) fn counters(&self) -> Result<Pool, KernelError> {
        let [total, free, reserved, surplus] = &self.counters;
        Ok(Pool {
            total: number(total)?,
            free: number(free)?,
            reserved: number(reserved)?,
            surplus: number(surplus)?,
        })
    }

    /// Sets the size; what it came to. The kernel gives up when it finds no page at once, and finds some the next time: looking
    /// makes room.
    pub(super) fn resize(&self, pages: u64) -> Result<u64, KernelError> {
        let mut size = 0;
        for _ in 0..TRIES {
            set(&self.counters[0], pages)?;
            let Pool { total, surplus, .. } = self.counters()?;
            size = total.saturating_sub(surplus);
            if size >= pages {
                break;
            }
        }
        Ok(size)
    }

    pub(super) fn set_overcommit(&self, pages: u64) -> Result<(), KernelError> {
        set(&self.overcommit, pages)
    }
}

/// How often the kernel has looked for memory for a huge page since it was started, and found none in one piece. None if it does
/// not say.
pub(super) fn failed_allocations() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("htlb_buddy_alloc_fail "))?.trim().parse().ok()
}

fn number(file: &File) -> Result<u64, KernelError> {
    let mut text = [0; 32];
    let length = file.read_at(&mut text, 0).map_err(KernelError::Pool)?;
    let digits = text[..length].trim_ascii();
    let parsed = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    parsed.ok_or_else(|| KernelError::Pool(io::ErrorKind::InvalidData.into()))
}

fn set(file: &File, pages: u64) -> Result<(), KernelError> {
    file.write_all_at(pages.to_string().as_bytes(), 0).map_err(KernelError::Pool)
}
