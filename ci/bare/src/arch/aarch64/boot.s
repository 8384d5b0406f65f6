// From QEMU's loader to the upper half: `virt` starts an ELF file at EL1, translation off, at its physical address.
//
// Tables of the upper half: TTBR1_EL1, 4 KiB granule, 39 bits, blocks of 1 GiB. The lower half (TTBR0_EL1) starts out with
// the same ones, and belongs to address spaces from then on.

    .equ LINEAR, 0xffffff8000000000

    .section .text.boot, "ax"
    .global boot
boot:
    msr daifset, #15
    mov x0, #(3 << 20)              // CPACR_EL1.FPEN: the compiler uses SIMD registers
    msr cpacr_el1, x0

    // The first GiB has the devices, all others are memory.
    adrp x1, boot_root              // where it is now: the address is relative to the program counter
    ldr x2, =0x60000000000405       // valid, attribute 1, accessed; never executed
    str x2, [x1]
    ldr x2, =0x40000040000701       // valid, attribute 0, inner shareable, accessed; not executed by user space
    mov x3, #1
    mov x4, #0x40000000             // 1 GiB
1:  str x2, [x1, x3, lsl #3]
    add x2, x2, x4
    add x3, x3, #1
    cmp x3, #8
    b.lo 1b

    mov x0, #0x00ff                 // attribute 0: write-back; 1: device
    msr mair_el1, x0
    ldr x0, ={tcr}
    msr tcr_el1, x0
    msr ttbr0_el1, x1
    msr ttbr1_el1, x1
    dsb ish
    tlbi vmalle1
    dsb ish
    isb
    mrs x0, sctlr_el1
    mov x1, #0x1005                 // I, C, M
    orr x0, x0, x1
    msr sctlr_el1, x0
    isb
    ldr x0, =upper
    br x0

upper:
    ldr x0, =boot_stack_top
    mov sp, x0
    ldr x0, =vectors
    msr vbar_el1, x0
    isb
    mov x29, #0                     // the outermost frame
    mov x30, #0
    bl start
    brk #0

    .section .text.traps, "ax"
    .balign 2048
vectors:
    .rept 16
    b exception
    .balign 128
    .endr

// Registers that a call may overwrite are free: either nobody goes on, or `try_load` and `try_store` return.
exception:
    mrs x1, elr_el1
    ldr x2, =try_load
    cmp x1, x2
    b.eq 1f
    ldr x2, =try_store
    cmp x1, x2
    b.eq 1f
    mrs x0, esr_el1
    mrs x2, far_el1
    b unexpected
1:  mrs x0, esr_el1
    mov x1, #1
    msr elr_el1, x30
    eret

    .global try_load
try_load:
    ldr x0, [x0]
    mov x1, #0
    ret

    .global try_store
try_store:
    str x1, [x0]
    mov x1, #0
    ret

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .global boot_root
boot_root:
    .skip 4096
boot_stack:
    .skip 0x40000
boot_stack_top:
