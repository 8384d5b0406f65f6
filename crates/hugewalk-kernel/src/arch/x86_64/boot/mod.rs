//! The start: from the PVH entry to [`boot::begin`](crate::boot::begin).

mod acpi;
mod info;
mod smp;

use core::arch::global_asm;

use self::info::Info;
use super::port;
use crate::boot::{Found, Range, announce, begin, refuse};
use crate::cpu;
use crate::memory::{direct, frames};

global_asm!(include_str!("pvh.s"), options(att_syntax));

unsafe extern "C" {
    static kernel_end: u8;
    static boot_pdpt: u8;
}

/// Bytes of physical memory that the start code has mapped.
pub const MAPPED: u64 = 4 << 30;
/// How an archive is given.
pub const ARCHIVE_HINT: &str = "give one by -initrd";

/// Where the start code comes to, with the physical address of the start info.
#[unsafe(no_mangle)]
extern "C" fn start(info: u64) -> ! {
    announce();
    mask_old_interrupts();
    cpu::set_up(0);
    // SAFETY: what the PVH entry found in EBX.
    let Some(info) = (unsafe { Info::new(info) }) else {
        refuse(format_args!("the boot loader left no start info"))
    };
    let kernel = Range { start: 1 << 20, end: (&raw const kernel_end).addr() as u64 - 0xffff_ffff_8000_0000 };
    begin(Found {
        memory: info.memory(),
        taken: [kernel, info.archive_range().unwrap_or(kernel)],
        archive: || info.archive(),
        others: || smp::start_others(&acpi::processors(info.rsdp())),
    })
}

/// Programs the two old interrupt controllers to be silent: the timer behind them would arrive as an exception.
fn mask_old_interrupts() {
    for controller in [0x21, 0xa1] {
        // SAFETY: the controllers touch no memory.
        unsafe { port::write8(controller, 0xff) };
    }
}

/// Maps the memory above what the start code has mapped, with leaves of 2 MiB. Called once, with one processor.
pub fn map_all(end: u64) {
    for gib in MAPPED >> 30..end.div_ceil(1 << 30) {
        let table = frames::allocate(frames::Kind::Kernel).expect("memory at the start");
        for index in 0..512 {
            let entry = direct::<u64>(table + 8 * index);
            // SAFETY: inside the frame that was just allocated, which is mapped.
            unsafe { entry.write_volatile(gib << 30 | index << 21 | 0x83) };
        }
        let entry = direct::<u64>((&raw const boot_pdpt).addr() as u64 + 8 * gib);
        // SAFETY: an entry of the kernel's own table that is empty.
        unsafe { entry.write_volatile(table | 3) };
    }
}
