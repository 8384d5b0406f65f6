//! The local APIC: interrupts to other processors, and the timer. xAPIC by memory, x2APIC by MSR.
//!
//! Source of facts: Intel's manual, volume 3, chapter "Advanced Programmable Interrupt Controller".

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ::x86_64::registers::model_specific::Msr;

use super::clock;
use crate::memory::direct;

/// What another processor is interrupted for, by its vector. `entry.s` has the handlers.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Interrupt {
    /// To drop translations, or to pass a full barrier.
    Flush = FLUSH,
    /// To look whether another thread should run.
    Reschedule = RESCHEDULE,
}

/// Vectors.
pub(super) const FLUSH: u8 = 0x41;
/// See [`FLUSH`].
pub(super) const RESCHEDULE: u8 = 0x42;
/// See [`FLUSH`].
pub(super) const TIMER: u8 = 0x43;
/// See [`FLUSH`].
pub(super) const SPURIOUS: u8 = 0xff;

const BASE: u64 = 0xfee0_0000;
const ID: u32 = 0x20;
const SPURIOUS_VECTOR: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const INITIAL: u32 = 0x380;
const CURRENT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

/// Does the processor have an x2APIC? `entry.s` reads it too.
#[unsafe(no_mangle)]
static X2APIC: AtomicBool = AtomicBool::new(false);
/// Timer ticks in 10 ms.
static TICKS: AtomicU32 = AtomicU32::new(0);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: a register of the x2APIC, which is enabled.
        return unsafe { Msr::new(0x800 + (register >> 4)).read() } as u32;
    }
    // SAFETY: the xAPIC's registers lie in the direct map, which is not used otherwise there.
    unsafe { direct::<u32>(BASE + u64::from(register)).read_volatile() }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: as in `read`; none of the registers in use touches memory.
        unsafe { Msr::new(0x800 + (register >> 4)).write(u64::from(value)) };
        return;
    }
    // SAFETY: as in `read`.
    unsafe { direct::<u32>(BASE + u64::from(register)).write_volatile(value) };
}

/// Enables the calling processor's APIC.
pub fn enable() {
    // CPUID.1:ECX[21].
    if core::arch::x86_64::__cpuid(1).ecx & 1 << 21 != 0 {
        const ENABLE: u64 = 3 << 10;
        let mut base = Msr::new(0x1b);
        // SAFETY: the MSR exists on every processor with an APIC.
        let value = unsafe { base.read() };
        // SAFETY: switches to x2APIC, which the processor has.
        unsafe { base.write(value | ENABLE) };
        X2APIC.store(true, Ordering::Relaxed);
    }
    write(SPURIOUS_VECTOR, 0x100 | u32::from(SPURIOUS));
    // Divide by 16.
    write(DIVIDE, 3);
    if TICKS.load(Ordering::Relaxed) == 0 {
        write(INITIAL, u32::MAX);
        clock::spin(10_000_000);
        TICKS.store((u32::MAX - read(CURRENT)).max(1), Ordering::Relaxed);
    }
    // Periodic.
    write(LVT_TIMER, 1 << 17 | u32::from(TIMER));
    write(INITIAL, TICKS.load(Ordering::Relaxed));
}

/// The calling processor's id.
pub fn id() -> u32 {
    if X2APIC.load(Ordering::Relaxed) { read(ID) } else { read(ID) >> 24 }
}

fn command(id: u32, low: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: the command register of the x2APIC; what is sent are the vectors of `entry.s`, INIT and SIPI.
        unsafe { Msr::new(0x830).write(u64::from(id) << 32 | u64::from(low)) };
        return;
    }
    // Nothing in an interrupt sends, so the two halves belong together.
    write(COMMAND_HIGH, id << 24);
    write(COMMAND, low);
    while read(COMMAND) & 1 << 12 != 0 {
        core::hint::spin_loop();
    }
}

/// Interrupts one processor.
pub fn send(id: u32, interrupt: Interrupt) {
    command(id, 0x4000 | interrupt as u32);
}

/// Resets a processor.
pub(super) fn init(id: u32) {
    command(id, 0x4500);
}

/// Starts a processor that was reset, in real mode, at an address below 1 MiB.
pub(super) fn start(id: u32, address: u64) {
    command(id, 0x4600 | (address >> 12) as u32);
}
