//! What is one processor's own: a room for each architecture, all behind the same names.
//!
//! | name | subject |
//! |---|---|
//! | `Frame` | the registers of a program, as a way into the kernel leaves them |
//! | `Fpu`, `UserRegisters` | what else a thread has of the processor, saved when another one runs |
//! | `Paging`, `PAGING`, `SIZE_2M` ... | the engine's format of tables |
//! | `entry` | entries of base pages, and of the kernel's own tables |
//! | `mmu` | root registers, and how translations are dropped |
//! | `interrupts` | on, off, and waiting for one |
//! | `controller` | interrupts to other processors, and the timer |
//! | `clock` | the time |
//! | `console` | the ways out, and the end of the machine |
//! | `processor` | what each processor sets up for itself, and how it finds what it has of its own |
//! | `switch` | the stack of a thread that has not run yet |
//! | `signal` | the frame on a program's stack, and the return from it |
//! | `Registers` | what a debugger sees of a program that has stopped |
//! | `numbers`, `name` | numbers of system calls and flags, and their names; `call`: calls of this architecture alone |
//! | `auxv` | what a program is told of the processor |
//!
//! Its start code calls [`boot::begin`](crate::boot::begin); its ways in call `trap_*` of [`cpu::trap`](crate::cpu::trap).

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use self::aarch64::*;

#[cfg(target_arch = "x86_64")]
pub use self::x86_64::*;
