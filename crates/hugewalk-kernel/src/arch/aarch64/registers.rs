//! What a debugger sees of a program that has stopped.
//!
//! Source of facts: `struct user_pt_regs` and `struct user_fpsimd_state` of Linux (arch/arm64/include/uapi/asm/ptrace.h),
//! arch/arm64/kernel/ptrace.c.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::elf_uapi::{NT_ARM_SYSTEM_CALL, NT_ARM_TLS, NT_PRFPREG, NT_PRSTATUS};

use super::{Fpu, Frame, UserRegisters};
use crate::errno::{Errno, Result};
use crate::task::Thread;

/// Words of `struct user_pt_regs`.
const WORDS: usize = 34;
/// The condition flags, which are all that a debugger may change.
const FLAGS: u64 = 0xf000_0000;
/// No system call.
const NONE: u64 = u64::MAX;

/// `si_code` of the signal after a single step.
pub const TRAP_OF_STEP: i32 = linux_raw_sys::general::TRAP_TRACE.cast_signed();
/// What `PTRACE_GET_SYSCALL_INFO` calls the architecture.
pub const AUDIT: u32 = 0xc000_00b7;

/// The registers of a thread that has stopped.
pub struct Registers {
    frame: Frame,
    fpu: Fpu,
    thread_pointer: u64,
    /// The system call that the thread is in, or [`NONE`].
    call: u64,
    /// It begins.
    begins: bool,
}

impl Frame {
    /// Does the program come from a system call?
    pub const fn is_call(&self) -> bool {
        self.syndrome >> 26 & 0x3f == 0x15
    }

    /// Sets the number of a system call.
    pub const fn set_number(&mut self, number: u64) {
        self.x[8] = number;
    }

    /// A debugger that looks at the start of a call finds its first argument where the result will be.
    pub const fn call_began(&mut self) {}

    /// Makes the processor trap after one instruction, or no more: PSTATE.SS, and MDSCR_EL1.SS on whatever processor the thread
    /// runs.
    pub fn set_step(&mut self, registers: &UserRegisters, step: bool) {
        const ONE: u64 = 1 << 21;
        self.pstate = self.pstate & !ONE | if step { ONE } else { 0 };
        registers.set_step(step);
    }
}

impl Registers {
    /// Those of the running thread, in the system call `call`, at its start or later.
    pub fn take(frame: &Frame, thread: &Thread, call: Option<u64>, begins: bool) -> Self {
        let own = if frame.is_call() { thread.call.load(Relaxed) } else { NONE };
        let mut fpu = Fpu::new();
        fpu.save();
        thread.registers.save();
        let thread_pointer = thread.registers.thread_pointer.load(Relaxed);
        Self { frame: frame.clone(), fpu, thread_pointer, call: call.unwrap_or(own), begins }
    }

    /// Gives them to the running thread.
    pub fn give(self, frame: &mut Frame, thread: &Thread) {
        self.fpu.load();
        thread.registers.thread_pointer.store(self.thread_pointer, Relaxed);
        thread.registers.load();
        *frame = self.frame;
        if self.begins {
            frame.x[8] = self.call;
        }
        if self.call == NONE {
            // A call that was interrupted is not made again.
            thread.signals.lock().restart = None;
        }
    }

    /// The instruction pointer and the stack pointer.
    pub const fn places(&self) -> (u64, u64) {
        (self.frame.pc, self.frame.sp)
    }

    /// The system call, and its arguments.
    pub const fn call(&self) -> (u64, [u64; 6]) {
        (self.call, self.frame.arguments())
    }

    /// What a system call returns.
    pub const fn result(&self) -> u64 {
        self.frame.x[0]
    }

    fn words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[..31].copy_from_slice(&self.frame.x);
        words[31..].copy_from_slice(&[self.frame.sp, self.frame.pc, self.frame.pstate]);
        words
    }

    /// A set of registers, as `PTRACE_GETREGSET` returns it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a set that there is not.
    pub fn set(&self, kind: u32) -> Result<Vec<u8>> {
        match kind {
            NT_PRSTATUS => Ok(self.words().iter().flat_map(|word| word.to_ne_bytes()).collect()),
            NT_PRFPREG => {
                let mut bytes = self.frame.vectors.as_flattened().to_vec();
                for word in [self.fpu.status, self.fpu.control] {
                    bytes.extend_from_slice(&(word as u32).to_ne_bytes());
                }
                bytes.extend_from_slice(&[0; 8]);
                Ok(bytes)
            }
            NT_ARM_TLS => Ok(self.thread_pointer.to_ne_bytes().to_vec()),
            NT_ARM_SYSTEM_CALL => Ok((self.call as u32).to_ne_bytes().to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Changes the beginning of a set of registers, or all of it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a set that there is not, or half a register.
    pub fn change(&mut self, kind: u32, bytes: &[u8]) -> Result<()> {
        let mut all = self.set(kind)?;
        let unit = if matches!(kind, NT_PRSTATUS | NT_ARM_TLS) { 8 } else { 4 };
        if !bytes.len().is_multiple_of(unit) {
            return Err(Errno::EINVAL);
        }
        let count = bytes.len().min(all.len());
        all[..count].copy_from_slice(&bytes[..count]);
        let word = |at: usize| {
            let mut word = [0; 8];
            let here = all.len().saturating_sub(at).min(8);
            word[..here].copy_from_slice(&all[at..at + here]);
            u64::from_ne_bytes(word)
        };
        match kind {
            NT_PRSTATUS => {
                for (index, register) in self.frame.x.iter_mut().enumerate() {
                    *register = word(8 * index);
                }
                self.frame.sp = word(8 * 31);
                self.frame.pc = word(8 * 32);
                self.frame.pstate = self.frame.pstate & !FLAGS | word(8 * 33) & FLAGS;
            }
            NT_PRFPREG => {
                self.frame.vectors.as_flattened_mut().copy_from_slice(&all[..512]);
                let both = word(512);
                (self.fpu.status, self.fpu.control) = (both & 0xffff_ffff, both >> 32);
            }
            NT_ARM_TLS => self.thread_pointer = word(0),
            // Of 32 bits, of which -1 says that there is none.
            _ => self.call = i64::from(word(0) as i32).cast_unsigned(),
        }
        Ok(())
    }

    /// A word of `struct user`: there is none.
    ///
    /// # Errors
    ///
    /// `EIO`.
    pub const fn word(&self, _: u64) -> Result<u64> {
        Err(Errno::EIO)
    }

    /// As [`word`](Self::word).
    ///
    /// # Errors
    ///
    /// `EIO`.
    pub const fn change_word(&mut self, _: u64, _: u64) -> Result<()> {
        Err(Errno::EIO)
    }

    /// Sets of registers that have requests of their own: there are none here.
    pub const fn of_request(_: u32) -> Option<(u32, bool)> {
        None
    }
}
