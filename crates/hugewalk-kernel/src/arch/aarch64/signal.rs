//! The frame that a handler of a signal finds on its stack, and the return from it.
//!
//! Source of facts: the arm64 ABI of Linux, `struct rt_sigframe`, `struct ucontext`, `struct sigcontext`, `struct fpsimd_context`
//! (arch/arm64/include/uapi/asm/sigcontext.h, ucontext.h; arch/arm64/kernel/signal.c).

use super::{Fpu, Frame};
use crate::errno::Result;
use crate::memory::user;
use crate::process::signal::{self, Action, Info};
use crate::space::STACK_TOP;
use crate::task::current;

/// What lies above the stack: where a handler returns to that was set without a place of its own, as C libraries do. In Linux
/// it is part of the vDSO.
pub const TRAMPOLINE: Option<&[u8]> = Some(&[
    0x68, 0x11, 0x80, 0xd2, // mov x8, #139: rt_sigreturn
    0x01, 0x00, 0x00, 0xd4, // svc #0
]);

/// Where in the frame its parts begin: what the handler is told, the context, the mask in it, the registers, the vectors.
const CONTEXT: usize = 128;
const MASK: usize = CONTEXT + 40;
const REGISTERS: usize = CONTEXT + 176;
const RESERVED: usize = REGISTERS + 288;
/// Bytes of the frame; above it come X29 and X30, linked like the frame of a function.
const SIZE: usize = RESERVED + 4096;

/// `FPSIMD_MAGIC`, and the bytes of `struct fpsimd_context`.
const VECTORS: [u32; 2] = [0x4650_8001, 528];
/// The bits of PSTATE that a program may change: NZCV.
const FLAGS: u64 = 0xf000_0000;
/// `SA_RESTORER`.
const RESTORER: u64 = 0x0400_0000;

/// Pushes a frame and makes the program go on in the handler.
///
/// # Errors
///
/// `EFAULT` if the stack cannot be written.
pub fn push(registers: &mut Frame, info: &Info, action: &Action, mask: u64) -> Result<()> {
    let (top, stack) = signal::handler_stack(registers.stack(), 0, action);
    let record = (top & !15).wrapping_sub(16);
    let at = record.wrapping_sub(SIZE as u64);
    let fpu = current().fpu();

    let mut bytes = [0_u8; RESERVED + 528 + 8];
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    for (index, word) in stack.into_iter().enumerate() {
        put(CONTEXT + 16 + 8 * index, word);
    }
    put(MASK, mask);
    put(REGISTERS, info.fields[0]);
    for (index, word) in registers.x.into_iter().enumerate() {
        put(REGISTERS + 8 + 8 * index, word);
    }
    put(REGISTERS + 256, registers.sp);
    put(REGISTERS + 264, registers.pc);
    put(REGISTERS + 272, registers.pstate);
    put(RESERVED, u64::from(VECTORS[0]) | u64::from(VECTORS[1]) << 32);
    put(RESERVED + 8, fpu.status | fpu.control << 32);
    for (index, vector) in registers.vectors.iter().enumerate() {
        bytes[RESERVED + 16 + 16 * index..][..16].copy_from_slice(vector);
    }
    bytes[..CONTEXT].copy_from_slice(&info.bytes());
    user::write(at, &bytes)?;
    user::put(record, &[registers.x[29], registers.x[30]])?;

    registers.x[0] = u64::from(info.signal);
    registers.x[1] = at;
    registers.x[2] = at + CONTEXT as u64;
    registers.x[29] = record;
    registers.x[30] = if action.flags & RESTORER != 0 { action.restorer } else { STACK_TOP };
    registers.sp = at;
    registers.pc = action.handler;
    registers.pstate = 0;
    Ok(())
}

/// `rt_sigreturn`: takes everything from the frame at the stack pointer.
///
/// # Errors
///
/// `EFAULT` if the frame cannot be read.
pub fn pop(registers: &mut Frame) -> Result<()> {
    let at = registers.sp;
    let mask: u64 = user::get(at + MASK as u64)?;
    let words: [u64; 35] = user::get(at + REGISTERS as u64)?;
    pop_vectors(registers, at + RESERVED as u64)?;
    registers.x.copy_from_slice(&words[1..32]);
    registers.sp = words[32];
    registers.pc = words[33];
    registers.pstate = words[34] & FLAGS;
    signal::set_mask(mask);
    Ok(())
}

/// Finds the vectors in the list of records, if the program has left them there.
fn pop_vectors(registers: &mut Frame, list: u64) -> Result<()> {
    let mut at = list;
    while at + 8 <= list + 4096 {
        let [magic, size]: [u32; 2] = user::get(at)?;
        if [magic, size] == VECTORS {
            let [status, control]: [u32; 2] = user::get(at + 8)?;
            Fpu { control: u64::from(control), status: u64::from(status) }.load();
            for (index, vector) in registers.vectors.iter_mut().enumerate() {
                *vector = user::get(at + 16 + 16 * index as u64)?;
            }
            return Ok(());
        }
        if magic == 0 || size == 0 {
            break;
        }
        at += u64::from(size);
    }
    Ok(())
}
