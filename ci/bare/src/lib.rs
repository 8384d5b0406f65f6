//! Proof that `hugewalk` needs no operating system, no C library and no `std`.
//!
//! Two programs run the same [`proof`]: `linux` is a process with its own `_start` that speaks to the kernel by `syscall`
//! alone; `machine` boots on a bare x86-64, arm64 or riscv64 machine and prints over the serial port. Neither links anything
//! but what cargo compiled, and each must print what its file in `expected/` says.
//!
//! What an embedder has to bring is here, each in its own file: a heap, huge frames, the handful of symbols the compiler
//! expects of every program, and the [`platform`] that `hugewalk` sits on. What it gets is in `engine.rs`, and
//! how it has base pages of its own beside that, in `base_pages.rs`. Where there is a
//! processor to be had, `formats.rs` shows it each entry of each format.

#![no_std]

extern crate alloc;

#[cfg(target_arch = "x86_64")]
mod base_pages;
mod engine;
mod formats;
mod frames;
mod heap;
pub mod machine;
mod platform;
mod proof;
#[cfg(target_arch = "x86_64")]
mod runtime;

use core::fmt::{self, Write};
use core::panic::PanicInfo;

pub use machine::{Access, Flush, Machine, Mmu, Outcome, Trap};

/// A sleeping or spinning lock: one processor and one thread, so nobody ever waits.
pub type Mutex<T> = lock_api::Mutex<spin::Mutex<()>, T>;

/// Runs the proof on machine `M` and ends the program.
///
/// To be called once, by the start code.
pub fn run<M: Machine>() -> ! {
    proof::run::<M>(&mut Console::<M>::new());
    M::exit(Outcome::Proved)
}

/// What a panic does: say where and why, and end the program.
pub fn panic<M: Machine>(info: &PanicInfo<'_>) -> ! {
    // A console that cannot be written to leaves nobody to tell.
    let _ = writeln!(Console::<M>::new(), "{info}");
    M::exit(Outcome::Failed)
}

/// The machine's output as [`fmt::Write`].
struct Console<M>(core::marker::PhantomData<M>);

impl<M: Machine> Console<M> {
    fn new() -> Self {
        Self(core::marker::PhantomData)
    }
}

impl<M: Machine> Write for Console<M> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        M::print(text.as_bytes());
        Ok(())
    }
}
