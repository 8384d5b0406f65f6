//! What a way into the kernel leaves on the stack: the registers of the program.

/// A vector register.
pub type Vector = [u8; 16];

/// The registers of a program, in the order in which `entry.s` pushes them.
#[derive(Clone)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct Frame {
    pub vectors: [Vector; 16],
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Which way it came in: an exception's number, [`Self::INTERRUPT`], or 0x100 for a system call, which
    /// returns by `sysretq`: RCX and R11 are lost.
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Frame {
    /// An interrupt, or anything else that returns by `iretq`.
    pub const INTERRUPT: u64 = 0x40;

    const USER_CODE: u64 = 0x23;
    const USER_DATA: u64 = 0x1b;

    /// A program that begins at an address with a stack, all other registers zero.
    pub const fn begin(rip: u64, rsp: u64) -> Self {
        Self {
            vectors: [[0; 16]; 16],
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            vector: Self::INTERRUPT,
            error: 0,
            rip,
            cs: Self::USER_CODE,
            rflags: 0x202,
            rsp,
            ss: Self::USER_DATA,
        }
    }

    /// The number of a system call.
    pub const fn number(&self) -> u64 {
        self.rax
    }

    /// What a system call returns, or, after a return from a handler, what the interrupted program had in that register.
    pub const fn result(&self) -> u64 {
        self.rax
    }

    /// Sets what a system call returns.
    pub const fn set_result(&mut self, result: u64) {
        self.rax = result;
    }

    /// The stack pointer.
    pub const fn stack(&self) -> u64 {
        self.rsp
    }

    /// The registers of a thread that the program of these has made, with a stack of its own or with the same.
    pub fn child(&self, stack: Option<u64>) -> Self {
        let mut child = self.clone();
        child.rax = 0;
        child.vector = Self::INTERRUPT;
        child.rsp = stack.unwrap_or(self.rsp);
        child
    }

    /// Makes the program make its system call again.
    pub const fn call_again(&mut self, number: u64) {
        // The instruction has two bytes.
        self.rip -= 2;
        self.rax = number;
        self.vector = Self::INTERRUPT;
    }

    /// The arguments of a system call.
    pub const fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
}
