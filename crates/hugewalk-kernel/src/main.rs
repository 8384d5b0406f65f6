//! A small multi-processor kernel that embeds `hugewalk` and runs unmodified static Linux programs.
//!
//! It shows the engine where it belongs: under a real MMU, with several processors that fault, unshare and flush at once.
//! docs/kernel.md explains it in one page.
//!
//! | room | subject |
//! |---|---|
//! | [`arch`] | **what is one processor's own**: start code, ways in and out, entries and roots, interrupts, frames |
//! | [`boot`] | the start and the end of a run: settings, the first program, the report |
//! | [`cpu`] | what each processor has, ways in from programs, interrupts to other processors, time |
//! | [`memory`] | frames, the heap, kernel stacks, copies to and from programs |
//! | [`platform`] | **all that the engine asks of a kernel** |
//! | [`space`] | address spaces: base pages beside the engine's, and the hardware's tables |
//! | [`task`] | threads, the scheduler, sleeping locks, futexes, alarms |
//! | [`process`] | processes, exec, signals |
//! | [`fs`] | files |
//! | [`uffd`] | userfaultfd, over the engine's |
//! | [`syscall`] | the table of system calls |
//! | [`trace`] | system calls as strace prints them |
//! | [`report`], [`console`], [`mod@panic`] | what comes out |
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod boot;
mod console;
mod cpu;
mod errno;
mod fs;
mod ipc;
mod memory;
mod panic;
mod platform;
mod process;
mod random;
mod report;
mod space;
mod syscall;
mod task;
mod trace;
mod uffd;
