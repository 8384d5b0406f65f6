//! The PL011 for the report, and two serial ports on PCI for the program. The end is PSCI's.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::memory::direct;

/// A way out.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Channel {
    /// The first port of `pci-serial-2x`.
    Output = 0,
    /// The second.
    Errors = 8,
    /// The PL011, whose queue QEMU empties before the next byte.
    Report = 0x0900_0000,
}

/// PCI's configuration space on `virt`: 32 KiB for each device of the first bus.
const CONFIGURATION: u64 = 0x40_1000_0000;
/// Where PCI's ports lie.
const PORTS: u64 = 0x3eff_0000;
/// The first port that the device gets. Nothing else has one.
const FIRST: u32 = 0x1000;
/// `pci-serial-2x`: docs/specs/pci-serial.txt of QEMU.
const PCI_SERIAL_2X: u32 = 0x0003_1b36;
/// Bytes that a serial port takes at once.
const QUEUE: usize = 16;

/// Where the registers of the two ports begin, or 0.
static SERIAL: AtomicU64 = AtomicU64::new(0);

fn read8(register: u64) -> u8 {
    // SAFETY: a register of a serial port, in the direct map; it touches no memory.
    unsafe { direct::<u8>(register).read_volatile() }
}

fn write8(register: u64, value: u8) {
    // SAFETY: as in `read8`.
    unsafe { direct::<u8>(register).write_volatile(value) };
}

/// Finds the serial ports and gives them addresses. False if there are none.
pub(super) fn set_up() -> bool {
    for device in 0..32_u64 {
        let at = |register: u64| direct::<u32>(CONFIGURATION + (device << 15) + register);
        // SAFETY: the configuration space of the first bus; where there is no device, all bits are set.
        if unsafe { at(0).read_volatile() } != PCI_SERIAL_2X {
            continue;
        }
        // SAFETY: the device's first base address register.
        unsafe { at(0x10).write_volatile(FIRST) };
        // SAFETY: the device's command register: it answers to ports.
        unsafe { at(0x04).write_volatile(1) };
        SERIAL.store(PORTS + u64::from(FIRST), Ordering::Relaxed);
        return true;
    }
    false
}

/// Writes bytes. For one processor at a time, each channel.
pub fn write(channel: Channel, bytes: &[u8]) {
    if channel == Channel::Report {
        for byte in bytes {
            // SAFETY: the data register, in the direct map; it touches no memory.
            unsafe { direct::<u32>(channel as u64).write_volatile(u32::from(*byte)) };
        }
        return;
    }
    let port = SERIAL.load(Ordering::Relaxed) + channel as u64;
    for bytes in bytes.chunks(QUEUE) {
        wait(port);
        for byte in bytes {
            write8(port, *byte);
        }
    }
}

/// Waits until a serial port's queue is empty. A byte that comes too early is lost: QEMU keeps a full queue while nobody reads
/// at the other end.
fn wait(port: u64) {
    // The register that switches the queue on, and the one that says how the line is doing: bit 5, the queue is empty.
    write8(port + 2, 1);
    while read8(port + 5) & 0x20 == 0 {
        core::hint::spin_loop();
    }
}

/// Ends QEMU, when what was written is out.
pub fn end() -> ! {
    let serial = SERIAL.load(Ordering::Relaxed);
    for port in [serial, serial + Channel::Errors as u64].into_iter().filter(|_| serial != 0) {
        // Bit 6: the line is idle. Not for ever: nobody may be at the other end any more.
        for _ in 0..1 << 24 {
            if read8(port + 5) & 0x40 != 0 {
                break;
            }
            core::hint::spin_loop();
        }
    }
    loop {
        // SAFETY: SYSTEM_OFF of PSCI 0.2, which QEMU does for the machine.
        unsafe { asm!("hvc #0", inout("x0") 0x8400_0008_u64 => _, clobber_abi("C"), options(nostack)) };
        super::interrupts::wait();
    }
}
