//! Entries of tables. Those of base pages are what the kernel calls them ([`bits`]).

use crate::space::root::bits;

/// Of an entry above the last level: it is a leaf.
const LEAF: u64 = 1 << 7;

/// What an entry of a base page says.
pub const fn decode(entry: u64) -> u64 {
    entry
}

/// Stores the entry of a base page, which maps `address`.
///
/// # Safety
///
/// It is one of a table of the kernel's, under the lock of the entries.
pub unsafe fn store(entry: *mut u64, address: u64, value: u64) {
    let _ = address;
    // SAFETY: passed on to the caller. The processor sees it whole.
    unsafe { entry.write_volatile(value) };
}

/// The table that an entry above the last level leads to.
pub const fn table(entry: u64) -> Option<u64> {
    if entry & (bits::PRESENT | LEAF) == bits::PRESENT { Some(entry & bits::FRAME) } else { None }
}

/// The entry of a page of the kernel's.
pub const fn kernel_page(frame: u64) -> u64 {
    frame | bits::PRESENT | bits::WRITE
}

/// The entry that leads to a table of the kernel's.
pub const fn kernel_table(frame: u64) -> u64 {
    frame | bits::PRESENT | bits::WRITE
}
