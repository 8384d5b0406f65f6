//! `qemu-system-aarch64 -M virt -cpu max`, at EL1.

mod mmu;

use core::arch::{asm, global_asm};
use core::hint::spin_loop;
use core::ops::Range;

use bare::{Machine, Mmu, Outcome};
use hugewalk::arch::{Aarch64, Granule};

use self::mmu::Tcr;

global_asm!(include_str!("boot.s"), tcr = const Tcr::BOOT.0);

/// The PL011 of `virt`. PrimeCell UART (PL011) TRM: the data register is the first; QEMU takes every byte at once.
const SERIAL: u64 = 0x0900_0000;

const fn tables(granule: Granule, address_bits: u32) -> Aarch64 {
    Aarch64::new(granule, address_bits).expect("a width that the granule has")
}

pub(crate) struct Bare;

impl Machine for Bare {
    type Paging = Aarch64;

    const LINEAR: u64 = 0xffff_ff80_0000_0000;

    fn formats() -> &'static [(&'static str, Aarch64)] {
        const {
            &[
                ("4 KiB granule, 39 bits", tables(Granule::K4, 39)),
                ("4 KiB granule, 48 bits", tables(Granule::K4, 48)),
                ("16 KiB granule, 36 bits", tables(Granule::K16, 36)),
                ("16 KiB granule, 47 bits", tables(Granule::K16, 47)),
                ("16 KiB granule, 48 bits", tables(Granule::K16, 48)),
                ("64 KiB granule, 42 bits", tables(Granule::K64, 42)),
                ("64 KiB granule, 48 bits", tables(Granule::K64, 48)),
                ("64 KiB granule, 52 bits", tables(Granule::K64, 52)),
            ]
        }
    }

    // RAM begins at 1 GiB, and the program lies in its first 512 MiB.
    fn memory() -> [Range<u64>; 2] {
        [0x6000_0000..0x1_0000_0000, 0..0]
    }

    fn print(bytes: &[u8]) {
        for &byte in bytes {
            let data = (Self::LINEAR + SERIAL) as *mut u32;
            // SAFETY: the device's register, which `boot.s` mapped.
            unsafe { data.write_volatile(byte.into()) };
        }
    }

    fn mmu() -> Option<&'static dyn Mmu<Aarch64>> {
        Some(&mmu::Processor)
    }

    fn exit(outcome: Outcome) -> ! {
        // Arm Semihosting for AArch32 and AArch64: SYS_EXIT with ADP_Stopped_ApplicationExit.
        let block = [0x2_0026_u64, u64::from(outcome == Outcome::Failed)];
        loop {
            // SAFETY: ends the machine; without semihosting it is an exception, which prints a line and comes here again.
            unsafe { asm!("hlt #0xf000", in("x0") 0x18, in("x1") &raw const block) };
            spin_loop();
        }
    }
}

/// Nothing is left to set up.
pub(crate) fn set_up() {}
