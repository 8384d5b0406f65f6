//! The interrupt descriptor table: each exception has a gate to its own sixteen bytes of `boot.s`.
//!
//! Intel SDM volume 3, "64-Bit Mode IDT".

use core::arch::asm;
use core::ptr;

const EXCEPTIONS: usize = 32;

#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// To be called once, before anything may raise an exception that is answered.
pub(crate) fn set_up() {
    unsafe extern "C" {
        static exceptions: [[u8; 16]; EXCEPTIONS];
    }
    static mut TABLE: [Gate; EXCEPTIONS] = [Gate { low: 0, high: 0 }; EXCEPTIONS];

    let table = (&raw mut TABLE).cast::<Gate>();
    for number in 0..EXCEPTIONS {
        let at = ((&raw const exceptions).addr() + number * 16) as u64;
        // Code segment 8; present, ring 0, a 64-bit interrupt gate.
        let low = at & 0xffff | 8 << 16 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48;
        // SAFETY: an element of the table, which the processor does not use yet.
        unsafe { table.wrapping_add(number).write(Gate { low, high: at >> 32 }) };
    }
    let limit = (EXCEPTIONS * size_of::<Gate>() - 1) as u16;
    let pointer = Pointer { limit, base: table.addr() as u64 };
    // SAFETY: the table is whole, and nobody writes to it again.
    unsafe { asm!("lidt [{}]", in(reg) ptr::from_ref(&pointer), options(nostack, preserves_flags)) };
}
