//! Entries of tables: what the kernel calls the bits of those of base pages ([`bits`]), as the
//! processor has them.

use core::arch::asm;

use crate::memory::{PAGE, direct};
use crate::space::root::bits;

const VALID: u64 = 1 << 0;
/// A table above the last level, a page there.
const TABLE_OR_PAGE: u64 = 1 << 1;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const KERNEL_EXECUTE_NEVER: u64 = 1 << 53;
const USER_EXECUTE_NEVER: u64 = 1 << 54;
/// Bits 55 to 58 are software's.
const KEPT: u64 = 1 << 55;
const DIRTY: u64 = 1 << 56;
const POISONED: u64 = 1 << 57;
const PROTECTED: u64 = 1 << 58;
const FRAME: u64 = 0x0000_ffff_ffff_f000;

/// Pairs: the kernel's bit, the processor's.
const SAME: [(u64, u64); 8] = [
    (bits::PRESENT, VALID),
    (bits::USER, USER),
    (bits::ACCESSED, ACCESSED),
    (bits::DIRTY, DIRTY),
    (bits::KEPT, KEPT),
    (bits::POISONED, POISONED),
    (bits::PROTECTED, PROTECTED),
    (bits::NO_EXECUTE, USER_EXECUTE_NEVER),
];

/// What an entry of a base page says.
pub fn decode(entry: u64) -> u64 {
    if entry == 0 {
        return 0;
    }
    let write = if entry & READ_ONLY == 0 { bits::WRITE } else { 0 };
    let set = SAME.iter().filter(|(_, processor)| entry & processor != 0);
    set.fold(entry & FRAME | write, |value, (kernel, _)| value | kernel)
}

fn encode(value: u64) -> u64 {
    if value == 0 {
        return 0;
    }
    let read_only = if value & bits::WRITE == 0 { READ_ONLY } else { 0 };
    let fixed = TABLE_OR_PAGE | INNER_SHAREABLE | NOT_GLOBAL | KERNEL_EXECUTE_NEVER;
    let set = SAME.iter().filter(|(kernel, _)| value & kernel != 0);
    set.fold(value & FRAME | read_only | fixed, |entry, (_, processor)| entry | processor)
}

/// Stores the entry of a base page, which maps `address`. An entry that leads to another page than before is not valid for a moment
/// ("break before make"): whoever faults then waits for the lock of the entries.
///
/// # Safety
///
/// It is one of a table of the kernel's, under the lock of the entries.
pub unsafe fn store(entry: *mut u64, address: u64, value: u64) {
    // SAFETY: passed on to the caller.
    let old = unsafe { entry.read_volatile() };
    let new = encode(value);
    if old & new & VALID != 0 && (old ^ new) & FRAME != 0 {
        // SAFETY: passed on to the caller.
        unsafe { entry.write_volatile(0) };
        super::mmu::flush_page(address);
    }
    const EXECUTED: u64 = FRAME | VALID | USER_EXECUTE_NEVER;
    if new & (VALID | USER_EXECUTE_NEVER) == VALID && (old ^ new) & EXECUTED != 0 {
        super::mmu::code_stored(direct(new & FRAME), PAGE as usize);
    }
    // SAFETY: passed on to the caller. The processor sees it whole.
    unsafe { entry.write_volatile(new) };
    // SAFETY: orders accesses. An entry that has become valid is seen by the walks that come after.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}

/// The table that an entry above the last level leads to.
pub const fn table(entry: u64) -> Option<u64> {
    if entry & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE { Some(entry & FRAME) } else { None }
}

/// The entry of a page of the kernel's.
pub const fn kernel_page(frame: u64) -> u64 {
    frame | VALID | TABLE_OR_PAGE | INNER_SHAREABLE | ACCESSED | KERNEL_EXECUTE_NEVER | USER_EXECUTE_NEVER
}

/// The entry that leads to a table of the kernel's.
pub const fn kernel_table(frame: u64) -> u64 {
    frame | VALID | TABLE_OR_PAGE
}

/// The entry of a block of ordinary memory in the direct map: the kernel lies there, so it is executed.
pub(super) const fn kernel_block(address: u64) -> u64 {
    address | VALID | INNER_SHAREABLE | ACCESSED | USER_EXECUTE_NEVER
}
