//! The root register, and translations of the calling processor.

use core::arch::asm;
use core::ops::Range;
use core::ptr;

use hugewalk::arch::Barrier;

use crate::memory::direct;

unsafe extern "C" {
    static boot_pml4: u8;
}

/// The kernel's own root table, whose upper half all roots share.
pub fn kernel_root() -> u64 {
    (&raw const boot_pml4).addr() as u64
}

/// What a processor loads that runs no program.
pub fn idle_root() -> u64 {
    kernel_root()
}

/// Loads a root table, which drops all translations.
///
/// # Safety
///
/// It maps the kernel's half as every root does, and lives until another one is loaded.
pub unsafe fn load(root: u64) {
    // SAFETY: passed on to the caller.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Drops all translations of this processor, whose root is this one already.
pub fn flush_own(root: u64) {
    // SAFETY: the root that is loaded already.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Does a flush of this processor's reach the others? Here each is interrupted for one.
pub const FLUSHES_ARE_BROADCAST: bool = false;

/// Drops the translations of a range on all processors: not here.
pub fn flush_all_processors(_: Range<u64>, _: u64, _: bool) {
    unreachable!("no flush reaches another processor by itself");
}

/// An entry was stored that has become valid, or allows more: the walks that come after see it.
pub fn entry_stored(_: Range<u64>, _: Barrier) {}

/// Code was stored in memory that programs will execute: fetches see it.
pub fn code_stored(_: *const u8, _: usize) {}

/// Copies the kernel's half into a root that the engine has made.
///
/// # Safety
///
/// It is the physical address of a root that nothing reaches yet.
pub unsafe fn fill_kernel_half(root: u64) {
    // SAFETY: both are whole tables; the kernel's half of the kernel's root is complete before the first other root.
    unsafe { ptr::copy_nonoverlapping(direct::<u64>(kernel_root() + 2048), direct::<u64>(root + 2048), 256) };
}
