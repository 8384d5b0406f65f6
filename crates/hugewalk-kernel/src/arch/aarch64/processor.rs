//! What each processor sets up for itself.

use core::arch::asm;
use core::cell::UnsafeCell;

use crate::cpu::{MAX, PerCpu};

const STACK: usize = 16 << 10;

#[repr(C, align(16))]
struct Stacks(UnsafeCell<[[u8; STACK]; MAX]>);

// SAFETY: each processor uses its own, by `entry.s` alone.
unsafe impl Sync for Stacks {}

/// Where each processor tells of a fault of ours. `entry.s` knows their size.
#[unsafe(no_mangle)]
static FAULT_STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK]; MAX]));

/// TPIDR_EL1 leads to what the calling processor has of its own. The start code has done the rest.
pub fn set_up(_: usize, own: &'static PerCpu) {
    // SAFETY: the register is the kernel's.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) core::ptr::from_ref(own), options(nostack, preserves_flags)) };
}

/// What the calling processor has of its own.
pub fn own() -> *const PerCpu {
    let own: *const PerCpu;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) own, options(nostack, nomem, preserves_flags)) };
    own
}

/// Sets the stack for ways in from EL0: it is the one that the kernel left with.
pub fn set_kernel_stack(_: usize, _: u64) {}
