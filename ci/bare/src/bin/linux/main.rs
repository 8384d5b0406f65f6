//! The proof as a Linux process that brings its own start and speaks to the kernel by `syscall` alone.

#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::ops::Range;
use core::panic::PanicInfo;

use bare::{Machine, Outcome};
use hugewalk::arch::X86_64;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("a process of Linux on x86-64");

// Linux: arch/x86/entry/syscalls/syscall_64.tbl.
const WRITE: usize = 1;
const EXIT_GROUP: usize = 231;

const STDOUT: usize = 1;

#[repr(C, align(0x20_0000))]
struct Memory(UnsafeCell<[u8; SIZE]>);

// SAFETY: nothing here reads or writes the bytes; whoever is given the frames decides who may.
unsafe impl Sync for Memory {}

/// Room for sixteen pages of 2 MiB.
const SIZE: usize = 32 << 20;

static MEMORY: Memory = Memory(UnsafeCell::new([0; SIZE]));

struct Process;

impl Machine for Process {
    type Paging = X86_64;

    // A process has no physical addresses: it takes its own for them.
    const LINEAR: u64 = 0;

    fn formats() -> &'static [(&'static str, X86_64)] {
        &[("4 levels", X86_64::FOUR_LEVELS)]
    }

    fn memory() -> [Range<u64>; 2] {
        let start = MEMORY.0.get().expose_provenance() as u64;
        [start..start + SIZE as u64, 0..0]
    }

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
