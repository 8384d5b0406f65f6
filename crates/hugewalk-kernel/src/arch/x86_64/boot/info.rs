//! What the boot loader says: memory, the archive, ACPI's root pointer.
//!
//! Source of facts: Xen's public/arch-x86/hvm/start_info.h, version 1.

use core::slice;

use crate::boot::Range;
use crate::memory::{direct, direct_slice};

const MAGIC: u32 = 0x336e_c578;

/// The start info.
pub struct Info {
    words: &'static [u32],
}

impl Info {
    /// Reads the start info at a physical address. `None` if there is none.
    ///
    /// # Safety
    ///
    /// `address` is what the PVH entry found in EBX, and the memory that it leads to is not used for anything else yet.
    pub unsafe fn new(address: u64) -> Option<Self> {
        // SAFETY: the loader put 56 bytes there; memory below 4 GiB is in the direct map.
        let words = unsafe { slice::from_raw_parts(direct::<u32>(address), 14) };
        (words[0] == MAGIC && words[1] >= 1).then_some(Self { words })
    }

    fn quad(&self, index: usize) -> u64 {
        u64::from(self.words[index]) | u64::from(self.words[index + 1]) << 32
    }

    /// The archive that `-initrd` named.
    pub fn archive(&self) -> Option<&'static [u8]> {
        if self.words[3] == 0 {
            return None;
        }
        // SAFETY: `nr_modules` is not 0, so a module's four words are at `modlist_paddr`.
        let module = unsafe { slice::from_raw_parts(direct::<u64>(self.quad(4)), 4) };
        // SAFETY: the loader put the module there, and the frame allocator leaves it alone.
        Some(unsafe { direct_slice(module[0], module[1] as usize) })
    }

    /// Where the archive lies.
    pub fn archive_range(&self) -> Option<Range> {
        let archive = self.archive()?;
        let start = crate::memory::physical(archive.as_ptr());
        Some(Range { start, end: start + archive.len() as u64 })
    }

    /// ACPI's root system description pointer.
    pub fn rsdp(&self) -> u64 {
        self.quad(8)
    }

    /// Usable memory, in no particular order.
    pub fn memory(&self) -> impl Iterator<Item = Range> + '_ {
        // SAFETY: `memmap_entries` entries of three words lie at `memmap_paddr`.
        let map = unsafe { slice::from_raw_parts(direct::<u64>(self.quad(10)), 3 * self.words[12] as usize) };
        map.chunks_exact(3)
            .filter(|entry| entry[2] & 0xffff_ffff == 1)
            .map(|entry| Range { start: entry[0], end: entry[0] + entry[1] })
    }
}
