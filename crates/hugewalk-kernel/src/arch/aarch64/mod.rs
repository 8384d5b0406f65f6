//! arm64: `qemu-system-aarch64 -machine virt,gic-version=3`, at EL1, with the 4 KiB granule.
//!
//! Source of facts: Arm ARM (DDI 0487); GIC architecture 3 (IHI 0069); PSCI (DEN 0022); QEMU's documentation of `virt` and of
//! fw_cfg.

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
pub mod numbers;
pub mod processor;
mod registers;
pub mod signal;
pub mod switch;
mod trap;

use core::arch::{asm, global_asm};

use hugewalk::addr::HugeSize;
use hugewalk::arch::Aarch64;

pub use self::fpu::{Fpu, UserRegisters};
pub use self::frame::Frame;
pub use self::names::name;
pub use self::registers::{AUDIT, Registers, TRAP_OF_STEP};
use crate::syscall::{Answer, Arguments};

global_asm!(include_str!("entry.s"), flush = const controller::Interrupt::Flush as u32, timer = const controller::TIMER);

/// The engine's format of tables: the 4 KiB granule.
pub type Paging = Aarch64<12>;
/// As this kernel uses it: four levels.
pub const PAGING: Paging = Paging::of(48).expect("a width that the granule has");
/// The usual huge page.
pub const SIZE_2M: HugeSize = SIZES[1];
/// All sizes: those of 64 KiB and 32 MiB are groups of 16 entries.
pub const SIZES: [HugeSize; 4] = Paging::SIZES;

/// What `uname` says.
pub const MACHINE: &str = "aarch64";
/// As in a refusal.
pub const TITLE: &str = "arm64";
/// The machine in a program's header.
pub const ELF_MACHINE: object::elf::Machine = object::elf::EM_AARCH64;

/// Serves a system call of this architecture alone: there is none.
pub fn call(_: u32, _: &Arguments) -> Answer {
    None
}

/// The last two arguments of `clone`: the thread pointer, and where the child finds its number.
pub const fn clone_arguments(arguments: &[u64; 6]) -> (u64, u64) {
    (arguments[3], arguments[4])
}

/// Where the caller's frame is linked from, for a backtrace.
pub fn frame_pointer() -> u64 {
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, x29", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}
