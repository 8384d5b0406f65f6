//! The running kernel as the judge of [`hugewalk`].
//!
//! The engine's specification is Linux's behaviour. So the same random [programs](program) run on the engine and, as real
//! processes with real mappings, on the kernel of this machine, and whatever a program can observe has to be equal after
//! every step: results and error numbers, bytes, signals and their addresses, minor faults, mincore, pagemap, smaps, the
//! sizes of files, and the counters of the pool. What differs is [shrunk](program::shrink) to a shortest program.
//!
//! The kernel is a guest. One process moves at a time; what some kernels are known to mishandle is kept from them by
//! [guards](guard); every step has to be answered in time; and a process apart from all others puts the pool back whatever
//! becomes of the run.
//!
//! # Where to read on
//!
//! [`program`] is what a program is, [`observe`] what is compared; [`kernel`] and [`engine`] carry programs out, [`run`]
//! on both sides at once.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("the kernel's side is written for Linux on x86-64");

pub mod c_program;
pub mod compare;
pub mod coverage;
pub mod engine;
pub mod guard;
pub mod kernel;
pub mod known;
pub mod observe;
pub mod program;
pub mod run;
pub mod table;
