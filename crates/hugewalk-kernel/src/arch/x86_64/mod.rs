//! x86-64: `qemu-system-x86_64 -machine q35` or `pc`, by its PVH entry.

pub mod auxv;
pub mod boot;
pub mod clock;
pub mod console;
pub mod controller;
pub mod entry;
mod fpu;
mod frame;
pub mod interrupts;
pub mod mmu;
mod names;
mod port;
mod prctl;
pub mod processor;
mod registers;
pub mod signal;
pub mod switch;
mod symbols;
mod tables;
mod trap;

use core::arch::global_asm;

use hugewalk::addr::HugeSize;
use hugewalk::arch::X86_64;

pub use self::fpu::{Fpu, UserRegisters};
pub use self::frame::Frame;
pub use self::names::name;
pub use self::prctl::call;
pub use self::registers::{AUDIT, Registers, TRAP_OF_STEP};

global_asm!(include_str!("entry.s"));

/// The engine's format of tables.
pub type Paging = X86_64;
/// As this kernel uses it.
pub const PAGING: Paging = X86_64::FOUR_LEVELS;
/// The usual huge page.
pub const SIZE_2M: HugeSize = X86_64::SIZE_2M;
/// All sizes.
pub const SIZES: [HugeSize; 2] = X86_64::SIZES;

/// What `uname` says.
pub const MACHINE: &str = "x86_64";
/// As in a refusal.
pub const TITLE: &str = "x86-64";
/// The machine in a program's header.
pub const ELF_MACHINE: object::elf::Machine = object::elf::EM_X86_64;

/// Numbers of system calls, flags and structures.
pub mod numbers {
    pub use linux_raw_sys::general::*;

    /// No call has this number or a larger one.
    pub const END: u64 = u64::MAX;
}

/// The last two arguments of `clone`: the thread pointer, and where the child finds its number.
pub const fn clone_arguments(arguments: &[u64; 6]) -> (u64, u64) {
    (arguments[4], arguments[3])
}

/// Where the caller's frame is linked from, for a backtrace.
pub fn frame_pointer() -> u64 {
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}
