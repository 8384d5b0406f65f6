//! `qemu-system-riscv64 -M virt -bios none`, in S-mode.

mod mmu;

use core::arch::global_asm;
use core::hint::spin_loop;
use core::ops::Range;

use bare::{Machine, Mmu, Outcome};
use hugewalk::arch::{Paging, Riscv64, Sv};

global_asm!(include_str!("boot.s"));

/// The 16550 of `virt`; QEMU takes every byte at once.
const SERIAL: u64 = 0x1000_0000;

/// The exit device, `sifive_test`.
const EXIT: u64 = 0x10_0000;

const fn tables(mode: Sv) -> Riscv64 {
    Riscv64::new(mode).with_svnapot()
}

pub(crate) struct Bare;

impl Machine for Bare {
    type Paging = Riscv64;

    const LINEAR: u64 = 0xffff_ffc0_0000_0000;

    fn formats() -> &'static [(&'static str, Riscv64)] {
        const { &[("Sv39", tables(Sv::Sv39)), ("Sv48", tables(Sv::Sv48)), ("Sv57", tables(Sv::Sv57))] }
    }

    fn without_groups(format: &Riscv64) -> Riscv64 {
        Riscv64::new(match format.geometry().levels {
            3 => Sv::Sv39,
            4 => Sv::Sv48,
            _ => Sv::Sv57,
        })
    }

    // RAM begins at 2 GiB, and the program lies in its first 512 MiB.
    fn memory() -> [Range<u64>; 2] {
        [0xa000_0000..0x1_4000_0000, 0..0]
    }

    fn print(bytes: &[u8]) {
        for &byte in bytes {
            let data = (Self::LINEAR + SERIAL) as *mut u8;
            // SAFETY: the device's register, which `boot.s` mapped.
            unsafe { data.write_volatile(byte) };
        }
    }

    fn mmu() -> Option<&'static dyn Mmu<Riscv64>> {
        Some(&mmu::Processor)
    }

    fn exit(outcome: Outcome) -> ! {
        let code = match outcome {
            Outcome::Proved => 0x5555,
            Outcome::Failed => 0x1_3333,
        };
        loop {
            let device = (Self::LINEAR + EXIT) as *mut u32;
            // SAFETY: the device's register, which `boot.s` mapped.
            unsafe { device.write_volatile(code) };
            spin_loop();
        }
    }
}

/// Nothing is left to set up.
pub(crate) fn set_up() {}
