//! The registers that a signal's handler sees and may set, on each processor that explorations run on.
//!
//! `stack_pointer` reads one; `go_on` sets all that the coroutine is to go on with once the handler returns.

#[cfg(target_arch = "x86_64")]
mod processor {
    use corosensei::trap::TrapHandlerRegs;

    pub(crate) fn stack_pointer(registers: &libc::mcontext_t) -> usize {
        registers.gregs[libc::REG_RSP as usize] as usize
    }

    pub(crate) fn go_on(registers: &mut libc::mcontext_t, from: TrapHandlerRegs) {
        let TrapHandlerRegs { rip, rsp, rbp, rdi, rsi } = from;
        for (register, value) in [
            (libc::REG_RIP, rip),
            (libc::REG_RSP, rsp),
            (libc::REG_RBP, rbp),
            (libc::REG_RDI, rdi),
            (libc::REG_RSI, rsi),
        ] {
            registers.gregs[register as usize] = value.cast_signed();
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod processor {
    use corosensei::trap::TrapHandlerRegs;

    pub(crate) fn stack_pointer(registers: &libc::mcontext_t) -> usize {
        registers.sp as usize
    }

    pub(crate) fn go_on(registers: &mut libc::mcontext_t, from: TrapHandlerRegs) {
        let TrapHandlerRegs { pc, sp, x0, x1, x29, lr } = from;
        (registers.pc, registers.sp) = (pc, sp);
        for (register, value) in [(0, x0), (1, x1), (29, x29), (30, lr)] {
            registers.regs[register] = value;
        }
    }
}

#[cfg(target_arch = "riscv64")]
mod processor {
    use corosensei::trap::TrapHandlerRegs;

    // Where the system keeps them: `struct user_regs_struct`, in `asm/ptrace.h`.
    const PC: usize = 0;
    const RA: usize = 1;
    const SP: usize = 2;
    const S0: usize = 8;
    const A0: usize = 10;
    const A1: usize = 11;

    pub(crate) fn stack_pointer(registers: &libc::mcontext_t) -> usize {
        registers.__gregs[SP] as usize
    }

    pub(crate) fn go_on(registers: &mut libc::mcontext_t, from: TrapHandlerRegs) {
        let TrapHandlerRegs { pc, ra, sp, a0, a1, s0 } = from;
        for (register, value) in [(PC, pc), (RA, ra), (SP, sp), (S0, s0), (A0, a0), (A1, a1)] {
            registers.__gregs[register] = value as libc::c_ulong;
        }
    }
}

pub(super) use processor::{go_on, stack_pointer};
