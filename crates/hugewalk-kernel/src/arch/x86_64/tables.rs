//! Segments, vectors, and the way in for system calls.
//!
//! Segments: 0x08 kernel code, 0x10 kernel data, 0x1b user data, 0x23 user code (in the order that `sysretq` wants), and the
//! TSS. Stacks: exceptions from ring 3 come on the running thread's stack (RSP0); interrupts on IST 1, since they may arrive
//! in ring 0; double faults and NMI on IST 2.

use core::cell::UnsafeCell;

use ::x86_64::registers::model_specific::{LStar, SFMask, Star};
use ::x86_64::registers::rflags::RFlags;
use ::x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use ::x86_64::structures::idt::InterruptDescriptorTable;
use ::x86_64::structures::tss::TaskStateSegment;
use ::x86_64::{PrivilegeLevel, VirtAddr};

use super::controller::{FLUSH, RESCHEDULE, SPURIOUS, TIMER};
use crate::cpu::MAX;

const STACK: usize = 16 << 10;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);

/// What a processor's segment registers lead to.
struct Tables {
    gdt: UnsafeCell<GlobalDescriptorTable<8>>,
    tss: UnsafeCell<TaskStateSegment>,
    interrupts: Stack,
    faults: Stack,
}

// SAFETY: each element of `TABLES` is written by its processor alone, before it is loaded (RSP0: by the same processor, in
// `set_kernel_stack`).
unsafe impl Sync for Tables {}

static TABLES: [Tables; MAX] = [const {
    Tables {
        gdt: UnsafeCell::new(GlobalDescriptorTable::<8>::empty()),
        tss: UnsafeCell::new(TaskStateSegment::new()),
        interrupts: Stack(UnsafeCell::new([0; STACK])),
        faults: Stack(UnsafeCell::new([0; STACK])),
    }
}; MAX];

struct Vectors(UnsafeCell<InterruptDescriptorTable>);

// SAFETY: written once, by the first processor, before any other is started.
unsafe impl Sync for Vectors {}

static VECTORS: Vectors = Vectors(UnsafeCell::new(InterruptDescriptorTable::new()));

macro_rules! handlers {
    ($($name:ident)*) => {
        unsafe extern "C" { $(fn $name();)* }
    };
}
handlers!(entry_syscall vector_0 vector_1 vector_2 vector_3 vector_4 vector_5 vector_6 vector_7 vector_8 vector_10 vector_11
    vector_12 vector_13 vector_14 vector_16 vector_17 vector_19 vector_flush vector_reschedule vector_timer vector_spurious);

fn address(handler: unsafe extern "C" fn()) -> VirtAddr {
    VirtAddr::new(handler as usize as u64)
}

fn top(stack: &Stack) -> VirtAddr {
    VirtAddr::from_ptr(stack.0.get()) + STACK as u64
}

/// Fills the vectors. Called once, before [`load`].
pub(super) fn fill_vectors() {
    // SAFETY: the first processor, before any other is started.
    let idt = unsafe { &mut *VECTORS.0.get() };
    // SAFETY: every handler is one of `entry.s`, made for its vector. Breakpoint and overflow are for programs to raise.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one reason for all: see above")]
    unsafe {
        idt.divide_error.set_handler_addr(address(vector_0));
        idt.debug.set_handler_addr(address(vector_1));
        idt.non_maskable_interrupt.set_handler_addr(address(vector_2)).set_stack_index(1);
        idt.breakpoint.set_handler_addr(address(vector_3)).set_privilege_level(PrivilegeLevel::Ring3);
        idt.overflow.set_handler_addr(address(vector_4)).set_privilege_level(PrivilegeLevel::Ring3);
        idt.bound_range_exceeded.set_handler_addr(address(vector_5));
        idt.invalid_opcode.set_handler_addr(address(vector_6));
        idt.device_not_available.set_handler_addr(address(vector_7));
        idt.double_fault.set_handler_addr(address(vector_8)).set_stack_index(1);
        idt.invalid_tss.set_handler_addr(address(vector_10));
        idt.segment_not_present.set_handler_addr(address(vector_11));
        idt.stack_segment_fault.set_handler_addr(address(vector_12));
        idt.general_protection_fault.set_handler_addr(address(vector_13));
        idt.page_fault.set_handler_addr(address(vector_14));
        idt.x87_floating_point.set_handler_addr(address(vector_16));
        idt.alignment_check.set_handler_addr(address(vector_17));
        idt.simd_floating_point.set_handler_addr(address(vector_19));
        idt[FLUSH].set_handler_addr(address(vector_flush)).set_stack_index(0);
        idt[RESCHEDULE].set_handler_addr(address(vector_reschedule)).set_stack_index(0);
        idt[TIMER].set_handler_addr(address(vector_timer)).set_stack_index(0);
        idt[SPURIOUS].set_handler_addr(address(vector_spurious)).set_stack_index(0);
    }
}

/// Loads the tables of the calling processor.
pub(super) fn load(number: usize) {
    use ::x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};

    if number == 0 {
        fill_vectors();
    }
    let tables = &TABLES[number];
    let tss = tables.tss.get();
    // SAFETY: this processor's own, not loaded yet.
    let tss = unsafe { &mut *tss };
    tss.interrupt_stack_table[0] = top(&tables.interrupts);
    tss.interrupt_stack_table[1] = top(&tables.faults);
    // SAFETY: as above.
    let gdt = unsafe { &mut *tables.gdt.get() };
    gdt.append(Descriptor::kernel_code_segment());
    gdt.append(Descriptor::kernel_data_segment());
    gdt.append(Descriptor::user_data_segment());
    gdt.append(Descriptor::user_code_segment());
    // SAFETY: the TSS is a static.
    let task = gdt.append(unsafe { Descriptor::tss_segment_unchecked(tss) });
    gdt.load();
    // SAFETY: the selectors of the table that was just loaded.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one reason for all: see above")]
    unsafe {
        CS::set_reg(SegmentSelector(0x08));
        SS::set_reg(SegmentSelector(0x10));
        DS::set_reg(SegmentSelector(0));
        ES::set_reg(SegmentSelector(0));
        ::x86_64::instructions::tables::load_tss(task);
    }
    // SAFETY: filled, and a static.
    unsafe { (*VECTORS.0.get()).load() };
    Star::write_raw_for(0x10, 0x08);
    LStar::write(address(entry_syscall));
    // Trap, interrupt, direction, nested task, alignment check: off in the kernel.
    SFMask::write(RFlags::from_bits_truncate(0x4_4700));
}

/// Sets the stack for exceptions from ring 3, on the calling processor.
pub fn set_kernel_stack(number: usize, top: u64) {
    // SAFETY: this processor's own. The processor reads the field when it enters ring 0, never meanwhile.
    unsafe { (*TABLES[number].tss.get()).privilege_stack_table[0] = VirtAddr::new(top) };
}

trait StarExt {
    fn write_raw_for(sysret: u16, syscall: u16);
}

impl StarExt for Star {
    fn write_raw_for(sysret: u16, syscall: u16) {
        // SAFETY: the selectors of `load`.
        unsafe { Self::write_raw(sysret, syscall) };
    }
}
