//! Address spaces on the processor: TTBR0_EL1. All translations have ASID 0.
//!
//! Arm ARM (DDI 0487): TCR_EL1, ESR_EL1, "TLB maintenance instructions".

use core::arch::asm;
use core::ops::Range;

use bare::{Access, Flush, Machine, Mmu, Trap};
use hugewalk::arch::{Aarch64, Barrier, Paging};

use super::Bare;

/// TCR_EL1.
pub(crate) struct Tcr(pub(crate) u64);

impl Tcr {
    /// 39 bits of addresses in both halves, 4 KiB granule.
    pub(crate) const BOOT: Self = Self::of(12, 39);

    /// The upper half as `boot.s` made it, and a lower half of this granule and width.
    const fn of(granule_shift: u32, address_bits: u32) -> Self {
        /// Walks go through the caches, inner shareable.
        const CACHED: u64 = 3 << 4 | 1 << 2 | 1;
        let tg0 = match granule_shift {
            16 => 1,
            14 => 2,
            _ => 0,
        };
        Self(
            (64 - address_bits as u64) | CACHED << 8 | tg0 << 14
                | 25 << 16 | CACHED << 24 | 2 << 30 // the upper half: 39 bits, 4 KiB granule
                | 2 << 32 // 40 bits of physical addresses
                | 1 << 39 | 1 << 40, // HA, HD: the processor sets the accessed flag and the dirty state
        )
    }
}

pub(crate) struct Processor;

/// # Safety
///
/// `root` is the root of tables that `tcr` describes, and they map the lower half as the program expects it.
unsafe fn switch(root: u64, tcr: &Tcr) {
    // SAFETY: the program runs in the upper half, whose fields of TCR_EL1 stay; the caller answers for the lower half.
    unsafe {
        asm!(
            "dsb ishst",
            "msr ttbr0_el1, {root}",
            "msr tcr_el1, {tcr}",
            "isb",
            "tlbi vmalle1is",
            "dsb ish",
            "isb",
            root = in(reg) root,
            tcr = in(reg) tcr.0,
            options(nostack, preserves_flags),
        );
    }
}

impl Mmu<Aarch64> for Processor {
    unsafe fn enter(&self, paging: &Aarch64, root: u64) {
        let geometry = paging.geometry();
        // SAFETY: passed on to the caller.
        unsafe { switch(root, &Tcr::of(geometry.base_shift, geometry.address_bits)) };
    }

    fn leave(&self) {
        unsafe extern "C" {
            static boot_root: [u64; 512];
        }
        let root = (&raw const boot_root).addr() as u64 - Bare::LINEAR;
        // SAFETY: the tables of `boot.s`, whose lower half nobody uses.
        unsafe { switch(root, &Tcr::BOOT) };
    }

    // The upper half has a root of its own.
    unsafe fn init_root(&self, _: &Aarch64, _: u64) {}

    fn load(&self, address: u64) -> Result<u64, Trap> {
        super::super::load(address).map_err(|cause| trap(cause, Access::Load))
    }

    unsafe fn store(&self, address: u64, value: u64) -> Result<(), Trap> {
        // SAFETY: passed on to the caller.
        unsafe { super::super::store(address, value) }.map_err(|cause| trap(cause, Access::Store))
    }

    fn barrier(&self, barrier: Barrier, address: u64) {
        match barrier {
            Barrier::Nothing => {}
            // SAFETY: orders accesses, and no more.
            Barrier::Store => unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) },
            Barrier::LookAgain => self.flush(address..address + 1, 1, Flush::Leaves),
        }
    }

    fn flush_all(&self) {
        // SAFETY: translations are looked up again, and no more.
        unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
    }

    fn flush(&self, range: Range<u64>, stride: u64, what: Flush) {
        // SAFETY: orders accesses, and no more.
        unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
        for address in range.step_by(stride as usize) {
            // Bits 0 to 43 are bits 12 to 55 of the address, whatever the granule is.
            let page = address >> 12 & ((1 << 44) - 1);
            match what {
                // SAFETY: translations are looked up again, and no more.
                Flush::Leaves => unsafe {
                    asm!("tlbi vaale1is, {}", in(reg) page, options(nostack, preserves_flags));
                },
                // SAFETY: likewise.
                Flush::LeavesAndTables => unsafe {
                    asm!("tlbi vaae1is, {}", in(reg) page, options(nostack, preserves_flags));
                },
            }
        }
        // SAFETY: waits until the flushes are done.
        unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
    }
}

/// ESR_EL1 of a data abort.
fn trap(syndrome: u64, access: Access) -> Trap {
    let (class, writes, status) = (syndrome >> 26 & 0x3f, syndrome >> 6 & 1 != 0, syndrome & 0x3f);
    assert!(
        class == 0x25 && writes == (access == Access::Store),
        "a data abort of this access: {syndrome:#x}"
    );
    match status {
        0x04..=0x07 => Trap::Missing,
        0x08..=0x0b => Trap::NotAccessed,
        0x0c..=0x0f => Trap::Denied,
        _ => panic!("a data abort with status {status:#x}"),
    }
}
