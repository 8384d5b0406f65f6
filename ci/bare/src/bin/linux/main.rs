//! The proof as a Linux process that brings its own start and speaks to the kernel by `syscall` alone.

#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};
use core::panic::PanicInfo;

use bare::{Machine, Outcome};

// Linux: arch/x86/entry/syscalls/syscall_64.tbl.
const WRITE: usize = 1;
const EXIT_GROUP: usize = 231;

const STDOUT: usize = 1;

struct Process;

impl Machine for Process {
    fn print(mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // SAFETY: `write` reads the bytes of a live slice and touches nothing else.
            let written = unsafe { syscall3(WRITE, STDOUT, bytes.as_ptr().addr(), bytes.len()) };
            match usize::try_from(written) {
                Ok(written) if written > 0 => bytes = &bytes[written..],
                // Nobody listens: going on without output makes the comparison with the expected lines fail.
                _ => return,
            }
        }
    }

    fn exit(outcome: Outcome) -> ! {
        let code = match outcome {
            Outcome::Proved => 0,
            Outcome::Failed => 1,
        };
        loop {
            // SAFETY: ends the process; it does not return.
            unsafe { syscall3(EXIT_GROUP, code, 0, 0) };
        }
    }
}

/// # Safety
///
/// What the call does to memory is what the program may do there.
unsafe fn syscall3(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result;
    // SAFETY: the caller vouches for the effects; `syscall` itself overwrites rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Where the kernel starts the process: on its stack, with no return address.
///
/// # Safety
///
/// To be entered by the kernel alone.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp", // the outermost frame
        "and rsp, -16", // as the ABI wants it before a call
        "call {run}",
        "ud2",
        run = sym run,
    )
}

extern "C" fn run() -> ! {
    bare::run::<Process>()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    bare::panic::<Process>(info)
}
