//! What a thread has of the processor beside the registers that each way into the kernel saves.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ::x86_64::VirtAddr;
use ::x86_64::registers::model_specific::{FsBase, KernelGsBase};

/// The x87 state, MXCSR and the vector registers, as `fxsave64` writes them.
#[derive(Clone)]
#[repr(C, align(16))]
pub struct Fpu(pub [u8; 512]);

impl Fpu {
    /// The state in which a program begins.
    pub const fn new() -> Self {
        let mut bytes = [0; 512];
        // The control word 0x37f and MXCSR 0x1f80: all exceptions masked.
        bytes[0] = 0x7f;
        bytes[1] = 0x03;
        bytes[24] = 0x80;
        bytes[25] = 0x1f;
        Self(bytes)
    }

    /// Takes the processor's state.
    pub fn save(&mut self) {
        // SAFETY: 512 bytes, aligned to 16.
        unsafe { asm!("fxsave64 [{}]", in(reg) self.0.as_mut_ptr(), options(nostack)) };
    }

    /// Gives it to the processor.
    ///
    /// The bytes came from [`save`](Self::save), or their reserved bits were cleared by [`mend`](Self::mend).
    pub fn load(&self) {
        // SAFETY: as above. The vector registers hold nothing that Rust keeps across this.
        unsafe {
            asm!("fxrstor64 [{}]", in(reg) self.0.as_ptr(), options(nostack),
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
                out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
                out("xmm13") _, out("xmm14") _, out("xmm15") _);
        };
    }

    /// Clears the bits of MXCSR that may not be set: a program can have written anything into a signal frame.
    pub(super) fn mend(&mut self) {
        self.0[26] = 0;
        self.0[27] = 0;
    }
}

/// Registers that a program changes by system calls alone: the bases of FS and GS.
pub struct UserRegisters {
    pub(super) fs_base: AtomicU64,
    pub(super) gs_base: AtomicU64,
}

impl UserRegisters {
    /// Of a program that begins.
    pub const fn new() -> Self {
        Self { fs_base: AtomicU64::new(0), gs_base: AtomicU64::new(0) }
    }

    /// Takes the processor's: it has no others than these.
    pub fn save(&self) {}

    /// Gives them to the processor. In the kernel, the program's base of GS is in the other register.
    pub fn load(&self) {
        FsBase::write(VirtAddr::new_truncate(self.fs_base.load(Relaxed)));
        KernelGsBase::write(VirtAddr::new_truncate(self.gs_base.load(Relaxed)));
    }

    /// A program begins in the running thread, whose registers these are.
    pub fn reset(&self) {
        self.fs_base.store(0, Relaxed);
        self.gs_base.store(0, Relaxed);
        self.load();
    }

    /// The running thread, whose registers are `maker`, has made the thread that these are of, with a thread pointer of its own
    /// or without.
    pub fn inherit(&self, maker: &Self, thread_pointer: Option<u64>) {
        self.fs_base.store(thread_pointer.unwrap_or_else(|| maker.fs_base.load(Relaxed)), Relaxed);
        self.gs_base.store(maker.gs_base.load(Relaxed), Relaxed);
    }
}
