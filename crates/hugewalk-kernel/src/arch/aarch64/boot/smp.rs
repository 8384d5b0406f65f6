//! Starting the other processors, one after the other, by PSCI.

use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::super::controller;
use crate::cpu::{self, clock};
use crate::memory::{physical, stack};
use crate::task;

/// The stack of the processor that starts next.
#[unsafe(no_mangle)]
static other_stack: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static boot_other: u8;
}

/// Starts the processors with these affinities, the calling one left out, up to [`cpu::MAX`] together.
pub fn start_others(affinities: Vec<u64>) {
    let packed = |affinity: u64| (affinity & 0xff_ffff) as u32 | (affinity >> 8 & 0xff00_0000) as u32;
    let own = controller::id();
    let others = affinities.into_iter().filter(|affinity| packed(*affinity) != own);
    for affinity in others.take(cpu::MAX - 1) {
        let number = cpu::count();
        let Some(stack) = stack::KernelStack::new() else { return };
        other_stack.store(stack.top(), Ordering::SeqCst);
        cpu::set_hardware_id(number, packed(affinity));
        // The stack is the idle thread's, for ever.
        core::mem::forget(stack);
        let begin = physical(&raw const boot_other);
        let mut answer = 0xc400_0003_u64;
        // SAFETY: CPU_ON of PSCI 0.2: the processor begins at `boot_other`, with its number. What was stored before is seen there.
        unsafe {
            asm!("dsb sy", "hvc #0", inout("x0") answer, inout("x1") affinity => _, inout("x2") begin => _,
                inout("x3") number as u64 => _, clobber_abi("C"), options(nostack));
        }
        // A processor that does not come within 10 s is left out.
        let deadline = clock::now() + 10_000_000_000;
        while cpu::count() == number {
            if answer != 0 || clock::now() > deadline {
                return;
            }
            core::hint::spin_loop();
        }
    }
}

/// Where a processor comes to from the start code.
#[unsafe(no_mangle)]
extern "C" fn start_other(number: u64) -> ! {
    cpu::set_up(number as usize);
    controller::enable();
    task::idle()
}
