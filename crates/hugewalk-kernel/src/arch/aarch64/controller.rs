//! The GIC, version 3: interrupts to other processors, and the timer.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::clock;
use crate::memory::direct;

/// What another processor is interrupted for, by the number of the interrupt. `entry.s` has the handlers.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Interrupt {
    /// To pass a full barrier. Flushes need none: they are broadcast.
    Flush = 1,
    /// To look whether another thread should run.
    Reschedule = 2,
}

/// The virtual timer's.
pub(super) const TIMER: u32 = 27;

const DISTRIBUTOR: u64 = 0x0800_0000;
const REDISTRIBUTORS: u64 = 0x080a_0000;
/// Bytes of a redistributor: two frames of 64 KiB.
const STRIDE: u64 = 0x2_0000;

/// Timer ticks in 10 ms. `entry.s` reads it.
#[unsafe(no_mangle)]
static TICKS: AtomicU64 = AtomicU64::new(0);

fn read(register: u64) -> u32 {
    // SAFETY: a register of the GIC, in the direct map, which is not used otherwise there.
    unsafe { direct::<u32>(register).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as in `read`; none of the registers in use touches memory.
    unsafe { direct::<u32>(register).write_volatile(value) };
}

/// The calling processor's redistributor: the one whose GICR_TYPER has its affinity.
fn redistributor() -> Option<u64> {
    let own = id();
    for index in 0..crate::cpu::MAX as u64 {
        let at = REDISTRIBUTORS + index * STRIDE;
        if read(at + 0xc) == own {
            return Some(at);
        }
        // The last one.
        if read(at + 8) & 1 << 4 != 0 {
            break;
        }
    }
    None
}

/// Enables the calling processor's interrupts and its timer.
pub fn enable() {
    // GICD_CTLR: affinity routing, group 1.
    write(DISTRIBUTOR, 1 << 4 | 1 << 1);
    let own = redistributor().expect("a redistributor for each processor");
    // GICR_WAKER: awake, and its children too.
    write(own + 0x14, read(own + 0x14) & !2);
    while read(own + 0x14) & 4 != 0 {
        core::hint::spin_loop();
    }
    let private = own + 0x1_0000;
    // GICR_IGROUPR0, GICR_IPRIORITYR, GICR_ISENABLER0.
    write(private + 0x80, u32::MAX);
    for register in 0..8 {
        write(private + 0x400 + 4 * register, 0xa0a0_a0a0);
    }
    write(private + 0x100, 1 << Interrupt::Flush as u32 | 1 << Interrupt::Reschedule as u32 | 1 << TIMER);
    let ticks = (clock::frequency() / 100).max(1);
    TICKS.store(ticks, Ordering::Relaxed);
    // SAFETY: the interface's registers (ICC_SRE_EL1, ICC_PMR_EL1, ICC_CTLR_EL1, ICC_IGRPEN1_EL1): all priorities, one step to the end of an interrupt,
    // group 1. Interrupts are still off.
    unsafe {
        asm!(
            "msr s3_0_c12_c12_5, {one}", "isb",
            "msr s3_0_c4_c6_0, {all}", "msr s3_0_c12_c12_4, xzr", "msr s3_0_c12_c12_7, {one}", "isb",
            one = in(reg) 1_u64, all = in(reg) 0xff_u64, options(nostack, preserves_flags),
        );
    }
    // SAFETY: the virtual timer, whose interrupt sets it again.
    unsafe {
        asm!("msr cntv_tval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) ticks, in(reg) 1_u64,
            options(nostack, preserves_flags));
    }
}

/// The calling processor's affinity, its four bytes in one word.
pub fn id() -> u32 {
    let affinity: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) affinity, options(nomem, nostack, preserves_flags)) };
    (affinity & 0xff_ffff) as u32 | (affinity >> 8 & 0xff00_0000) as u32
}

/// Interrupts one processor.
pub fn send(id: u32, interrupt: Interrupt) {
    let [lowest, low, middle, high] = id.to_le_bytes().map(u64::from);
    let target = high << 48 | (lowest >> 4) << 44 | middle << 32 | low << 16 | 1 << (lowest & 15);
    // SAFETY: ICC_SGI1R_EL1. What was stored before is seen by the handler.
    unsafe {
        asm!("dsb ish", "msr s3_0_c12_c11_5, {}", "isb", in(reg) target | (interrupt as u64) << 24,
            options(nostack, preserves_flags));
    }
}
