//! What each processor sets up for itself.

use core::arch::asm;

use ::x86_64::VirtAddr;
use ::x86_64::registers::model_specific::{GsBase, KernelGsBase};

use super::tables;
use crate::cpu::PerCpu;

pub use super::tables::set_kernel_stack;

/// Gives the calling processor its segments, vectors and way in for system calls; GS leads to what it has of its own.
pub fn set_up(number: usize, own: &'static PerCpu) {
    tables::load(number);
    GsBase::write(VirtAddr::from_ptr(own));
    KernelGsBase::write(VirtAddr::zero());
}

/// What the calling processor has of its own.
pub fn own() -> *const PerCpu {
    let own: *const PerCpu;
    // SAFETY: GS leads to a `PerCpu`, from `set_up` on, whose first field is its address.
    unsafe { asm!("mov {}, gs:[0]", out(reg) own, options(nostack, pure, readonly, preserves_flags)) };
    own
}
