// Start code: from QEMU's loader, or from PSCI on the other processors, to Rust in the upper half.
//
// `virt` starts an ELF file at EL1, translation off, at its physical address. The upper half (TTBR1_EL1) has the direct map at
// 0xffff800000000000, in blocks of 1 GiB: the first is devices, the next four are memory, and that of PCI's configuration space
// is devices. The kernel is linked inside the direct map. The lower half (TTBR0_EL1) has the same table until translation is on.

    .equ DIRECT, 0xffff800000000000

    .section .text.boot, "ax"
    .global boot
boot:
    msr daifset, #15
    adrp x1, boot_root
    adrp x2, boot_gigabytes
    adrp x3, boot_low
    add x4, x2, #3                  // a table
    str x4, [x1, #256 * 8]
    str x4, [x3]
    ldr x4, =0x60000000000405       // a block: attribute 1, accessed; never executed
    str x4, [x2]
    ldr x5, =0x4000000000
    orr x4, x4, x5
    str x4, [x2, #256 * 8]
    ldr x4, ={memory_block}
    mov x6, #1
    lsl x5, x6, #30                 // 1 GiB
1:  add x7, x4, x6, lsl #30
    str x7, [x2, x6, lsl #3]
    add x6, x6, #1
    cmp x6, #{mapped_gib}
    b.lo 1b
    dsb sy
    mov x19, #0
    ldr x20, =boot_stack_top
    ldr x21, =start
    b translate

    .global boot_other
boot_other:
    msr daifset, #15
    mov x19, x0                     // its number
    adrp x20, other_stack
    ldr x20, [x20, :lo12:other_stack]
    ldr x21, =start_other

// Turns translation on, and goes on at x21 in the upper half with the stack x20 and the argument x19.
translate:
    adrp x1, boot_root
    adrp x3, boot_low
    mov x0, #(3 << 20)              // CPACR_EL1: vector registers; SVE is trapped
    msr cpacr_el1, x0
    mov x0, #3                      // CNTKCTL_EL1: programs may read the counters
    msr cntkctl_el1, x0
    mov x0, #0x00ff                 // MAIR_EL1: attribute 0 write-back, 1 device
    msr mair_el1, x0
    ldr x0, ={tcr}
    msr tcr_el1, x0
    msr ttbr0_el1, x3
    msr ttbr1_el1, x1
    dsb ish
    tlbi vmalle1
    dsb ish
    ic iallu
    dsb ish
    isb
    ldr x0, ={sctlr}
    msr sctlr_el1, x0
    isb
    ldr x0, =upper
    br x0
upper:
    adrp x3, boot_empty
    ldr x0, =DIRECT
    sub x3, x3, x0
    msr ttbr0_el1, x3
    isb
    tlbi vmalle1
    dsb nsh
    ldr x0, =vectors
    msr vbar_el1, x0
    isb
    msr spsel, #1
    mov sp, x20
    mov x29, #0                     // the outermost frame
    mov x30, #0
    mov x0, x19
    blr x21
    brk #0

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .global boot_root
    .global boot_gigabytes
    .global boot_empty
boot_root: .skip 4096
boot_gigabytes: .skip 4096
boot_low: .skip 4096
boot_empty: .skip 4096
boot_stack: .skip 0x10000
    .global boot_stack_top
boot_stack_top:
