//! What a thread has of the processor beside the registers that each way into the kernel saves.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// FPCR and FPSR. The vector registers are in the frame.
#[derive(Clone)]
pub struct Fpu {
    pub(super) control: u64,
    pub(super) status: u64,
}

impl Fpu {
    /// The state in which a program begins.
    pub const fn new() -> Self {
        Self { control: 0, status: 0 }
    }

    /// Takes the processor's state.
    pub fn save(&mut self) {
        // SAFETY: reads registers.
        unsafe {
            asm!("mrs {}, fpcr", "mrs {}, fpsr", out(reg) self.control, out(reg) self.status,
                options(nomem, nostack, preserves_flags));
        }
    }

    /// Gives it to the processor.
    pub fn load(&self) {
        // SAFETY: the kernel does no floating-point arithmetic, which these change.
        unsafe {
            asm!("msr fpcr, {}", "msr fpsr, {}", in(reg) self.control, in(reg) self.status,
                options(nomem, nostack, preserves_flags));
        }
    }
}

/// Registers that a program changes by itself, and that the kernel leaves alone: TPIDR_EL0.
pub struct UserRegisters {
    pub(super) thread_pointer: AtomicU64,
    /// MDSCR_EL1: bit 0 makes instructions of the program trap one by one.
    debug: AtomicU64,
}

fn thread_pointer() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

impl UserRegisters {
    /// Of a program that begins.
    pub const fn new() -> Self {
        Self { thread_pointer: AtomicU64::new(0), debug: AtomicU64::new(0) }
    }

    /// Takes the processor's.
    pub fn save(&self) {
        self.thread_pointer.store(thread_pointer(), Relaxed);
    }

    /// Gives them to the processor.
    pub fn load(&self) {
        let value = self.thread_pointer.load(Relaxed);
        // SAFETY: the register is the program's.
        unsafe { asm!("msr tpidr_el0, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
        self.load_debug();
    }

    fn load_debug(&self) {
        let value = self.debug.load(Relaxed);
        if value != 0 {
            // The processor begins with the OS lock, which keeps debug exceptions off.
            // SAFETY: nothing else looks at the lock.
            unsafe { asm!("msr oslar_el1, xzr", options(nomem, nostack, preserves_flags)) };
        }
        // SAFETY: debug exceptions are masked in the kernel, so it concerns the program alone.
        unsafe { asm!("msr mdscr_el1, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
    }

    /// The running thread, whose registers these are, traps after one instruction of its program, or no more.
    pub(super) fn set_step(&self, step: bool) {
        if self.debug.swap(u64::from(step), Relaxed) != u64::from(step) {
            self.load_debug();
        }
    }

    /// A program begins in the running thread, whose registers these are.
    pub fn reset(&self) {
        self.thread_pointer.store(0, Relaxed);
        self.load();
    }

    /// The running thread, whose registers are `maker`, has made the thread that these are of, with a thread pointer of its own
    /// or without.
    pub fn inherit(&self, maker: &Self, pointer: Option<u64>) {
        maker.save();
        self.thread_pointer.store(pointer.unwrap_or_else(|| maker.thread_pointer.load(Relaxed)), Relaxed);
    }
}
