//! What a debugger sees of a program that has stopped.
//!
//! Source of facts: `struct user_regs_struct`, `struct user_fpregs_struct` and `struct user` of Linux (arch/x86/include/asm/user_64.h),
//! arch/x86/kernel/ptrace.c.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::elf_uapi::{NT_PRFPREG, NT_PRSTATUS};

use super::{Fpu, Frame};
use crate::errno::{Errno, Result};
use crate::task::Thread;

/// Words of `struct user_regs_struct`, and where in it the number of the system call is.
const WORDS: usize = 27;
const CALL: usize = 15;
/// Flags that a debugger may change.
const FLAGS: u64 = 0x4_0dd5;
/// The selectors that Linux has: debuggers know a program of 64 bits by them.
const USER_CODE: u64 = 0x33;
const USER_DATA: u64 = 0x2b;
/// No system call.
const NONE: u64 = u64::MAX;

/// `si_code` of the signal after a single step.
pub const TRAP_OF_STEP: i32 = linux_raw_sys::general::TRAP_TRACE.cast_signed();
/// What `PTRACE_GET_SYSCALL_INFO` calls the architecture.
pub const AUDIT: u32 = 0xc000_003e;

/// The registers of a thread that has stopped.
pub struct Registers {
    frame: Frame,
    fpu: Fpu,
    fs_base: u64,
    gs_base: u64,
    /// The system call that the thread is in, or [`NONE`].
    call: u64,
    /// At the start of a call: its number goes where the processor had it.
    begins: bool,
}

impl Frame {
    /// Does the program come from a system call?
    pub const fn is_call(&self) -> bool {
        self.vector == 0x100
    }

    /// Sets the number of a system call.
    pub const fn set_number(&mut self, number: u64) {
        self.rax = number;
    }

    /// A debugger that looks at the start of a call finds this as its result.
    pub const fn call_began(&mut self) {
        self.rax = Errno::ENOSYS.as_result();
    }

    /// Makes the processor trap after one instruction, or no more.
    pub const fn set_step(&mut self, _: &super::UserRegisters, step: bool) {
        const TRAP: u64 = 1 << 8;
        self.rflags = self.rflags & !TRAP | if step { TRAP } else { 0 };
    }
}

impl Registers {
    /// Those of the running thread, in the system call `call`, at its start or later.
    pub fn take(frame: &Frame, thread: &Thread, call: Option<u64>, begins: bool) -> Self {
        let own = if frame.is_call() { thread.call.load(Relaxed) } else { NONE };
        let mut fpu = Fpu::new();
        fpu.save();
        for (index, vector) in frame.vectors.iter().enumerate() {
            fpu.0[160 + 16 * index..][..16].copy_from_slice(vector);
        }
        let (fs_base, gs_base) =
            (thread.registers.fs_base.load(Relaxed), thread.registers.gs_base.load(Relaxed));
        Self { frame: frame.clone(), fpu, fs_base, gs_base, call: call.unwrap_or(own), begins }
    }

    /// Gives them to the running thread.
    pub fn give(mut self, frame: &mut Frame, thread: &Thread) {
        self.fpu.mend();
        self.fpu.load();
        for (index, vector) in self.frame.vectors.iter_mut().enumerate() {
            vector.copy_from_slice(&self.fpu.0[160 + 16 * index..][..16]);
        }
        thread.registers.fs_base.store(self.fs_base, Relaxed);
        thread.registers.gs_base.store(self.gs_base, Relaxed);
        thread.registers.load();
        *frame = self.frame;
        // The number has 32 bits, and is none if it is negative.
        let none = (self.call as i32) < 0;
        if self.begins && !none {
            frame.rax = self.call;
        }
        if none {
            // A call that was interrupted is not made again.
            thread.signals.lock().restart = None;
        }
    }

    /// The instruction pointer and the stack pointer.
    pub const fn places(&self) -> (u64, u64) {
        (self.frame.rip, self.frame.rsp)
    }

    /// The system call, and its arguments.
    pub const fn call(&self) -> (u64, [u64; 6]) {
        (self.call, self.frame.arguments())
    }

    /// What a system call returns.
    pub const fn result(&self) -> u64 {
        self.frame.rax
    }

    fn words(&self) -> [u64; WORDS] {
        let at = &self.frame;
        [
            at.r15,
            at.r14,
            at.r13,
            at.r12,
            at.rbp,
            at.rbx,
            at.r11,
            at.r10,
            at.r9,
            at.r8,
            at.rax,
            at.rcx,
            at.rdx,
            at.rsi,
            at.rdi,
            self.call,
            at.rip,
            USER_CODE,
            at.rflags,
            at.rsp,
            USER_DATA,
            self.fs_base,
            self.gs_base,
            0,
            0,
            0,
            0,
        ]
    }

    /// # Errors
    ///
    /// `EIO` for what no program can have.
    fn set_words(&mut self, words: &[u64; WORDS]) -> Result<()> {
        let (rip, fs_base, gs_base) = (words[16], words[21], words[22]);
        let end = crate::memory::USER_END;
        if fs_base >= end || gs_base >= end {
            return Err(Errno::EIO);
        }
        let at = &mut self.frame;
        [at.r15, at.r14, at.r13, at.r12, at.rbp, at.rbx, at.r11, at.r10] =
            [words[0], words[1], words[2], words[3], words[4], words[5], words[6], words[7]];
        [at.r9, at.r8, at.rax, at.rcx, at.rdx, at.rsi, at.rdi] =
            [words[8], words[9], words[10], words[11], words[12], words[13], words[14]];
        self.call = words[CALL];
        // What is not a program's address would fault in ring 0 on the way back.
        at.rip = rip & 0x7fff_ffff_ffff;
        at.rflags = at.rflags & !FLAGS | words[18] & FLAGS | 0x202;
        at.rsp = words[19];
        (self.fs_base, self.gs_base) = (fs_base, gs_base);
        // All of them: the way back from a system call loses two.
        at.vector = Frame::INTERRUPT;
        Ok(())
    }

    /// A set of registers, as `PTRACE_GETREGSET` returns it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a set that there is not.
    pub fn set(&self, kind: u32) -> Result<Vec<u8>> {
        match kind {
            NT_PRSTATUS => Ok(self.words().iter().flat_map(|word| word.to_ne_bytes()).collect()),
            NT_PRFPREG => Ok(self.fpu.0.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Changes the beginning of a set of registers, or all of it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a set that there is not, or half a register; `EIO` for what no program can have.
    pub fn change(&mut self, kind: u32, bytes: &[u8]) -> Result<()> {
        if !bytes.len().is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        match kind {
            NT_PRSTATUS => {
                let mut words = self.words();
                for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                    *word = u64::from_ne_bytes(bytes.try_into().map_err(|_| Errno::EINVAL)?);
                }
                self.set_words(&words)
            }
            NT_PRFPREG => {
                let count = bytes.len().min(self.fpu.0.len());
                self.fpu.0[..count].copy_from_slice(&bytes[..count]);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// A word of `struct user`: the registers, and zeroes. Debug registers there are none.
    ///
    /// # Errors
    ///
    /// `EIO` outside of it.
    pub fn word(&self, offset: u64) -> Result<u64> {
        match usize::try_from(offset / 8) {
            Ok(_) if !offset.is_multiple_of(8) || offset >= 928 => Err(Errno::EIO),
            Ok(index) => Ok(self.words().get(index).copied().unwrap_or(0)),
            Err(_) => Err(Errno::EIO),
        }
    }

    /// Changes a word of `struct user` that is a register.
    ///
    /// # Errors
    ///
    /// `EIO` for any other.
    pub fn change_word(&mut self, offset: u64, value: u64) -> Result<()> {
        let mut words = self.words();
        let at = usize::try_from(offset / 8).ok().filter(|_| offset.is_multiple_of(8));
        *at.and_then(|at| words.get_mut(at)).ok_or(Errno::EIO)? = value;
        self.set_words(&words)
    }

    /// Sets of registers that have requests of their own here: which, and whether the request changes it.
    pub const fn of_request(request: u32) -> Option<(u32, bool)> {
        use linux_raw_sys::ptrace::{PTRACE_GETFPREGS, PTRACE_GETREGS, PTRACE_SETFPREGS, PTRACE_SETREGS};
        match request {
            PTRACE_GETREGS => Some((NT_PRSTATUS, false)),
            PTRACE_SETREGS => Some((NT_PRSTATUS, true)),
            PTRACE_GETFPREGS => Some((NT_PRFPREG, false)),
            PTRACE_SETFPREGS => Some((NT_PRFPREG, true)),
            _ => None,
        }
    }
}
