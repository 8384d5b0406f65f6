//! The frame that a handler of a signal finds on its stack, and the return from it.
//!
//! Source of facts: the x86-64 ABI of Linux, `struct rt_sigframe`, `struct ucontext`, `struct sigcontext`
//! (arch/x86/include/uapi/asm/sigcontext.h, arch/x86/kernel/signal_64.c).

use super::{Fpu, Frame};
use crate::errno::Result;
use crate::memory::user;
use crate::process::signal::{self, Action, Info};
use crate::task::current;

/// Code above the stack that a handler returns to which was set without a place of its own: here each has one.
pub const TRAMPOLINE: Option<&[u8]> = None;

/// Words of a `ucontext`, up to the end of its mask.
const CONTEXT: usize = 38;
/// Where in it the registers begin, and the mask.
const REGISTERS: usize = 5;
const MASK: usize = 37;
/// Flags that a program may change.
const FLAGS: u64 = 0x4_0dd5;

/// Pushes a frame and makes the program go on in the handler.
pub fn push(registers: &mut Frame, info: &Info, action: &Action, mask: u64) -> Result<()> {
    // Functions may use 128 bytes below the stack pointer.
    let (top, stack) = signal::handler_stack(registers.stack(), 128, action);
    let state = top.wrapping_sub(512) & !63;
    let context_bytes = 8 * CONTEXT as u64;
    let at = (state.wrapping_sub(8 + context_bytes + 128) & !15).wrapping_sub(8);

    let mut fpu = current().fpu();
    for (index, vector) in registers.vectors.iter().enumerate() {
        fpu.0[160 + 16 * index..][..16].copy_from_slice(vector);
    }
    user::write(state, &fpu.0)?;

    let mut context = [0_u64; CONTEXT];
    context[2..5].copy_from_slice(&stack);
    context[REGISTERS..REGISTERS + 24].copy_from_slice(&[
        registers.r8,
        registers.r9,
        registers.r10,
        registers.r11,
        registers.r12,
        registers.r13,
        registers.r14,
        registers.r15,
        registers.rdi,
        registers.rsi,
        registers.rbp,
        registers.rbx,
        registers.rdx,
        registers.rax,
        registers.rcx,
        registers.rsp,
        registers.rip,
        registers.rflags,
        // CS, GS, FS, SS.
        registers.cs | registers.ss << 48,
        registers.error,
        registers.vector,
        mask,
        info.fields[0],
        state,
    ]);
    context[MASK] = mask;
    let mut bytes = [0; 8 + 8 * CONTEXT + 128];
    bytes[..8].copy_from_slice(&action.restorer.to_ne_bytes());
    for (index, word) in context.iter().enumerate() {
        bytes[8 + 8 * index..][..8].copy_from_slice(&word.to_ne_bytes());
    }
    bytes[8 + 8 * CONTEXT..].copy_from_slice(&info.bytes());
    user::write(at, &bytes)?;

    registers.rsp = at;
    registers.rip = action.handler;
    registers.rdi = u64::from(info.signal);
    registers.rsi = at + 8 + context_bytes;
    registers.rdx = at + 8;
    registers.rax = 0;
    // Direction and trap flag off, as functions expect.
    registers.rflags &= !0x500;
    registers.vector = Frame::INTERRUPT;
    Fpu::new().load();
    Ok(())
}

/// `rt_sigreturn`: takes everything from the frame that the stack pointer is just behind.
///
/// # Errors
///
/// `EFAULT` if the frame cannot be read.
pub fn pop(registers: &mut Frame) -> Result<()> {
    let context: [u64; CONTEXT] = user::get(registers.rsp)?;
    let state = context[REGISTERS + 23];
    if state != 0 {
        let mut fpu = Fpu::new();
        user::read(state, &mut fpu.0)?;
        fpu.mend();
        fpu.load();
        for (index, vector) in registers.vectors.iter_mut().enumerate() {
            vector.copy_from_slice(&fpu.0[160 + 16 * index..][..16]);
        }
    }
    let words = &context[REGISTERS..];
    registers.r8 = words[0];
    registers.r9 = words[1];
    registers.r10 = words[2];
    registers.r11 = words[3];
    registers.r12 = words[4];
    registers.r13 = words[5];
    registers.r14 = words[6];
    registers.r15 = words[7];
    registers.rdi = words[8];
    registers.rsi = words[9];
    registers.rbp = words[10];
    registers.rbx = words[11];
    registers.rdx = words[12];
    registers.rax = words[13];
    registers.rcx = words[14];
    registers.rsp = words[15];
    // What is not a program's address would fault in ring 0 on the way back.
    registers.rip = words[16] & 0x7fff_ffff_ffff;
    registers.rflags = registers.rflags & !FLAGS | words[17] & FLAGS | 0x202;
    registers.vector = Frame::INTERRUPT;
    signal::set_mask(context[MASK]);
    Ok(())
}
