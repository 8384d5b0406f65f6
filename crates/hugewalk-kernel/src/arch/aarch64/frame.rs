//! What a way into the kernel leaves on the stack: the registers of the program.

/// A vector register.
pub type Vector = [u8; 16];

/// The registers of a program, as `entry.s` lays them out.
#[derive(Clone)]
#[repr(C, align(16))]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct Frame {
    pub x: [u64; 31],
    pub sp: u64,
    pub pc: u64,
    pub pstate: u64,
    /// ESR_EL1: which way it came in, if that was no interrupt.
    pub syndrome: u64,
    /// X0 as it came in: the first argument of a system call, whose result takes its place.
    pub first: u64,
    pub vectors: [Vector; 32],
}

const _: () = assert!(size_of::<Frame>() == 800 && core::mem::offset_of!(Frame, vectors) == 288);

impl Frame {
    /// A program that begins at an address with a stack, all other registers zero.
    pub const fn begin(pc: u64, sp: u64) -> Self {
        Self { x: [0; 31], sp, pc, pstate: 0, syndrome: 0, first: 0, vectors: [[0; 16]; 32] }
    }

    /// The number of a system call.
    pub const fn number(&self) -> u64 {
        self.x[8]
    }

    /// What a system call returns, or, after a return from a handler, what the interrupted program had in that register.
    pub const fn result(&self) -> u64 {
        self.x[0]
    }

    /// Sets what a system call returns.
    pub const fn set_result(&mut self, result: u64) {
        self.x[0] = result;
    }

    /// The stack pointer.
    pub const fn stack(&self) -> u64 {
        self.sp
    }

    /// The registers of a thread that the program of these has made, with a stack of its own or with the same.
    pub fn child(&self, stack: Option<u64>) -> Self {
        let mut child = self.clone();
        child.x[0] = 0;
        child.sp = stack.unwrap_or(self.sp);
        child
    }

    /// Makes the program make its system call again.
    pub const fn call_again(&mut self, number: u64) {
        self.pc -= 4;
        self.x[0] = self.first;
        self.x[8] = number;
    }

    /// The arguments of a system call.
    pub const fn arguments(&self) -> [u64; 6] {
        [self.x[0], self.x[1], self.x[2], self.x[3], self.x[4], self.x[5]]
    }
}
