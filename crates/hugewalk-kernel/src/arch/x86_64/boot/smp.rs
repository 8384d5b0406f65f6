//! Starting the other processors, one after the other.

use core::sync::atomic::{AtomicU64, Ordering};

use super::super::controller;
use crate::cpu::{self, clock};
use crate::memory::{direct, stack};
use crate::task;

/// Where a processor starts: below 1 MiB, at a multiple of 4 KiB. `pvh.s` is linked for it.
const TRAMPOLINE: u64 = 0x8000;

/// The stack of the processor that starts next.
#[unsafe(no_mangle)]
static ap_stack: AtomicU64 = AtomicU64::new(0);
/// Its number.
#[unsafe(no_mangle)]
static ap_number: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
}

/// Starts the processors with these APIC ids, the calling one left out, up to [`cpu::MAX`] together.
pub fn start_others(ids: &[u32]) {
    let own = controller::id();
    let start = &raw const trampoline;
    let length = (&raw const trampoline_end).addr() - start.addr();
    // SAFETY: the frame allocator leaves the first MiB alone; the code ends below the next frame.
    unsafe { direct::<u8>(TRAMPOLINE).copy_from_nonoverlapping(start, length) };
    for &id in ids.iter().filter(|id| **id != own).take(cpu::MAX - 1) {
        let number = cpu::count();
        let Some(stack) = stack::KernelStack::new() else { return };
        ap_stack.store(stack.top(), Ordering::SeqCst);
        ap_number.store(number as u64, Ordering::SeqCst);
        cpu::set_hardware_id(number, id);
        // The stack is the idle thread's, for ever.
        core::mem::forget(stack);
        controller::init(id);
        super::super::clock::spin(10_000_000);
        controller::start(id, TRAMPOLINE);
        // A processor that does not come within 10 s is left out.
        let deadline = clock::now() + 10_000_000_000;
        while cpu::count() == number {
            if clock::now() > deadline {
                return;
            }
            core::hint::spin_loop();
        }
    }
}

/// Where a processor comes to from the trampoline.
#[unsafe(no_mangle)]
extern "C" fn start_ap(number: u64) -> ! {
    cpu::set_up(number as usize);
    controller::enable();
    task::idle()
}
