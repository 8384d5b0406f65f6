//! How processors use an entry: the manuals' algorithms, with the names that other crates give to the bits. Nothing in here
//! comes from the crate under test but the levels' shifts.

use aarch64_paging::descriptor::El1Attributes as A64;
use hugewalk::arch::{Aarch64, Paging, Riscv64, X86_64};
use x86_64::structures::paging::PageTableFlags as X64;

use crate::{Access, Fault, Processor, Used};

const fn below(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl Processor for X86_64 {
    fn last_address(&self) -> u64 {
        // An encryption bit takes one of the 52.
        if *self == X86_64::FOUR_LEVELS.encrypted(51).unwrap() { below(51) } else { below(52) }
    }

    fn may_carry(&self) -> u64 {
        let (pat, key) = (1 << 12, 0xf << 59);
        (X64::WRITE_THROUGH | X64::NO_CACHE).bits() | pat | key
    }

    fn ignored_in_tables(&self) -> u64 {
        // Intel SDM volume 3A, "4-Level Paging and 5-Level Paging": the formats of entries that reference a table.
        (X64::BIT_9 | X64::BIT_10).bits() | 0x7ff << 52
    }

    fn use_leaf(&self, bits: u64, level: u8, address: u64, access: Access, _: bool) -> Result<Used, Fault> {
        let mut flags = X64::from_bits_retain(bits);
        if !flags.contains(X64::PRESENT) {
            return Err(Fault::NotValid);
        }
        let allowed = match access {
            Access::Load => true,
            Access::Store => flags.contains(X64::WRITABLE),
            Access::Fetch => !flags.contains(X64::NO_EXECUTE),
        };
        if !flags.contains(X64::USER_ACCESSIBLE | X64::HUGE_PAGE) || !allowed {
            return Err(Fault::NotAllowed);
        }
        flags |= X64::ACCESSED;
        if access == Access::Store {
            flags |= X64::DIRTY;
        }
        let within = below(12 + 9 * u32::from(level));
        // PAT is not part of the address, though it lies in the field.
        let base = bits & self.last_address() & !within;
        Ok(Used { physical: base | address & within, entry: flags.bits() })
    }
}

impl<const GRANULE: u32> Processor for Aarch64<GRANULE> {
    fn last_address(&self) -> u64 {
        // With the 64 KiB granule there are 52 bits of physical address, without FEAT_LPA2 else 48.
        if self.geometry().base_shift == 16 { below(52) } else { below(48) }
    }

    fn may_carry(&self) -> u64 {
        (A64::ATTRIBUTE_INDEX_MASK | A64::GP).bits() as u64
    }

    fn ignored_in_tables(&self) -> u64 {
        // "VMSAv8-64 Table descriptor fields".
        0xff << 51
    }

    fn use_leaf(
        &self,
        bits: u64,
        level: u8,
        address: u64,
        access: Access,
        sets_bits: bool,
    ) -> Result<Used, Fault> {
        let mut flags = A64::from_bits_retain(bits as usize);
        if !flags.contains(A64::VALID) || flags.contains(A64::TABLE_OR_PAGE) != (level == 0) {
            return Err(Fault::NotValid);
        }
        let executable = !flags.contains(A64::UXN);
        // A store to a leaf that is read-only and has DBM is allowed if the processor manages the dirty state.
        let turns_dirty = flags.contains(A64::READ_ONLY | A64::DBM);
        let allowed = match access {
            Access::Load => true,
            Access::Store => !flags.contains(A64::READ_ONLY) || turns_dirty,
            Access::Fetch => executable,
        };
        if !flags.contains(A64::USER) || !allowed {
            return Err(Fault::NotAllowed);
        }
        let bit = !flags.contains(A64::ACCESSED) || access == Access::Store && turns_dirty;
        if bit && !sets_bits {
            return Err(Fault::Bit);
        }
        flags |= A64::ACCESSED;
        if access == Access::Store {
            flags -= A64::READ_ONLY;
        }
        let base_shift = self.geometry().base_shift;
        let within = below(base_shift + u32::from(level) * (base_shift - 3));
        let mut base = bits & below(48) & !within;
        if base_shift == 16 {
            base |= (bits >> 12 & 0xf) << 48;
        }
        Ok(Used { physical: base | address & within, entry: flags.bits() as u64 })
    }
}

impl Processor for Riscv64 {
    fn last_address(&self) -> u64 {
        // The entries have 56, the engine's frames 52.
        below(52)
    }

    fn may_carry(&self) -> u64 {
        // PBMT; 3 is reserved.
        3 << 61
    }

    fn ignored_in_tables(&self) -> u64 {
        // RSW.
        3 << 8
    }

    /// "Virtual Address Translation Process", steps 3 to 10; and for N, the chapter on Svnapot.
    fn use_leaf(
        &self,
        bits: u64,
        level: u8,
        address: u64,
        access: Access,
        sets_bits: bool,
    ) -> Result<Used, Fault> {
        let bit = |at: u32| bits >> at & 1 != 0;
        let (v, r, w, x, u, a, d, n) = (bit(0), bit(1), bit(2), bit(3), bit(4), bit(6), bit(7), bit(63));
        let reserved = bits >> 54 & 0x7f != 0;
        if !v || !r && w || reserved || !r && !x {
            return Err(Fault::NotValid);
        }
        let number = bits >> 10 & below(44);
        let mut within = below(12 + 9 * u32::from(level));
        let mut base = number << 12;
        if n {
            // "pte.ppn[0] bits 3 to 0 are 1000 for 64 KiB; all else is reserved."
            if level != 0 || number & 0xf != 0b1000 {
                return Err(Fault::NotValid);
            }
            base = (number & !0xf) << 12;
            within = below(16);
        }
        let allowed = match access {
            Access::Load => r,
            Access::Store => w,
            Access::Fetch => x,
        };
        if !u || !allowed {
            return Err(Fault::NotAllowed);
        }
        if base & within != 0 {
            // A superpage that is not aligned.
            return Err(Fault::NotValid);
        }
        let store = access == Access::Store;
        if (!a || store && !d) && !sets_bits {
            return Err(Fault::Bit);
        }
        let entry = bits | 1 << 6 | u64::from(store) << 7;
        Ok(Used { physical: base | address & within, entry })
    }
}
