//! Proof that `hugewalk` needs no operating system, no C library and no `std`.
//!
//! Two programs run the same [`proof`]: `linux` is a process with its own `_start` that speaks to the kernel by
//! `syscall` alone; `pvh` boots on a bare x86-64 machine, in long mode, and prints over the serial port. Neither links
//! anything but what cargo compiled, and both must print what `expected.txt` says.
//!
//! What an embedder has to bring is here, each in its own file: a heap, huge frames, the handful of symbols the compiler
//! expects of every program, and the [`platform`] that `hugewalk` sits on. What it gets is in `sharing.rs`.

#![no_std]

extern crate alloc;

pub mod frames;
pub mod heap;
pub mod platform;
pub mod proof;
mod runtime;
mod sharing;

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use hugewalk::addr::{TableFrame, VirtAddr};

/// A sleeping or spinning lock: one processor and one thread, so nobody ever waits.
pub type Mutex<T> = lock_api::Mutex<spin::Mutex<()>, T>;

/// What the two programs do differently.
pub trait Machine {
    /// Prints `bytes` where the person who runs the proof sees them.
    fn print(bytes: &[u8]);

    /// Loads the `u64` at `address` as a program would that runs in the address space whose root table is in `root`;
    /// `None` where there is no processor to be had for that, as in a process.
    ///
    /// # Safety
    ///
    /// `root` is the root of an address space that stays as it is meanwhile and maps `address`.
    unsafe fn load(root: TableFrame, address: VirtAddr) -> Option<u64> {
        let _ = (root, address);
        None
    }

    /// Ends the program.
    fn exit(outcome: Outcome) -> !;
}

/// How the proof ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step did what it should.
    Proved,
    /// A step failed, and said so in a panic.
    Failed,
}

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
