//! The start: from `start.s` to [`boot::begin`](crate::boot::begin).

mod device_tree;
mod fw_cfg;
mod smp;

use core::arch::global_asm;

use hugewalk::arch::Barrier;

use self::device_tree::Tree;
use super::{console, entry, mmu};
use crate::boot::{Found, Range, announce, begin, refuse};
use crate::cpu;
use crate::memory::{direct, physical};

global_asm!(
    include_str!("start.s"),
    tcr = const mmu::TCR,
    sctlr = const mmu::SCTLR,
    memory_block = const entry::kernel_block(0),
    mapped_gib = const MAPPED >> 30,
);

unsafe extern "C" {
    static kernel_end: u8;
    static boot_gigabytes: u8;
}

/// Where memory begins. QEMU puts the device tree there for an ELF file.
const MEMORY: u64 = 1 << 30;
/// Bytes of physical addresses that the start code has mapped: the first GiB is devices.
pub const MAPPED: u64 = 5 << 30;
/// Behind these addresses lie devices again.
const LAST: u64 = 256 << 30;
/// How an archive is given.
pub const ARCHIVE_HINT: &str = "give one by -fw_cfg name=opt/hugewalk/archive,file=";

/// Where the start code comes to on the first processor.
#[unsafe(no_mangle)]
extern "C" fn start(_: u64) -> ! {
    announce();
    cpu::set_up(0);
    if !console::set_up() {
        refuse(format_args!(
            "the machine has no serial ports for the program; give it -device pci-serial-2x"
        ));
    }
    // SAFETY: memory begins there, and nothing has written it since QEMU did.
    let Some(tree) = (unsafe { Tree::new(MEMORY) }) else {
        refuse(format_args!("the machine has left no device tree; use -machine virt"))
    };
    let kernel = Range { start: MEMORY, end: physical(&raw const kernel_end) };
    begin(Found {
        memory: tree.memory(),
        taken: [kernel, kernel],
        archive: fw_cfg::archive,
        others: || smp::start_others(tree.processors()),
    })
}

/// Maps the memory above what the start code has mapped, in blocks of 1 GiB. Called once, with one processor.
pub fn map_all(end: u64) {
    for gib in MAPPED >> 30..end.min(LAST).div_ceil(1 << 30) {
        let block = direct::<u64>(physical(&raw const boot_gigabytes) + 8 * gib);
        // SAFETY: an entry of the kernel's own table that is empty.
        unsafe { block.write_volatile(entry::kernel_block(gib << 30)) };
    }
    mmu::entry_stored(0..0, Barrier::Store);
}
