# From QEMU's reset vector to the upper half. `virt` without firmware starts in M-mode, at the physical address.
#
# The kernel's tables: pages of 1 GiB, in entries 256 to 511 of a table of level 2. That table is the root with Sv39, and what
# the last entry of the root leads to with Sv48 and Sv57, so the program's addresses are the same in all three.

    .equ LINEAR, 0xffffffc000000000

    .section .text.boot, "ax"
    .global boot
boot:
    csrr t0, mhartid
    bnez t0, 9f                     # one processor

    # Pages of 1 GiB: readable, writable, executable, accessed, dirty, global.
    lla t0, boot_root
    li t1, 2048
    add t0, t0, t1
    li t1, 0xef
    li t2, 8
    li t3, 1 << 28                  # 1 GiB, as an entry has it
1:  sd t1, 0(t0)
    add t1, t1, t3
    addi t0, t0, 8
    addi t2, t2, -1
    bnez t2, 1b

    # Memory is S-mode's, and so are its exceptions.
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    li t0, 0xb1ff
    csrw medeleg, t0
    lla t0, machine_exception
    csrw mtvec, t0

    li s0, LINEAR
    lla t0, supervisor_exception
    add t0, t0, s0
    csrw stvec, t0
    lla t0, boot_root
    srli t0, t0, 12
    li t1, 8 << 60                  # Sv39
    or t0, t0, t1
    csrw satp, t0
    sfence.vma

    li t0, 0x1800                   # MPP
    csrc mstatus, t0
    li t0, 0x42800                  # MPP = S; the FPU is on; SUM: S-mode may access what user space may
    csrs mstatus, t0
    lla t0, upper
    add t0, t0, s0
    csrw mepc, t0
    mret

upper:
    lla sp, boot_stack_top
    li s0, 0                        # the outermost frame
    li ra, 0
    call start
    unimp

9:  wfi
    j 9b

    .section .text.traps, "ax"
    .balign 4
machine_exception:
    # Nothing works here but to stop: the exit device, with a code of its own.
    li t0, 0x100000
    li t1, 0x33333
    sw t1, 0(t0)
1:  j 1b

# Registers that a call may overwrite are free: either nobody goes on, or `try_load` and `try_store` return.
    .balign 4
supervisor_exception:
    csrr a1, sepc
    lla t0, try_load
    beq a1, t0, 1f
    lla t0, try_store
    beq a1, t0, 1f
    csrr a0, scause
    csrr a2, stval
    j unexpected
1:  csrr a0, scause
    li a1, 1
    csrw sepc, ra
    sret

    .global try_load
try_load:
    ld a0, 0(a0)
    li a1, 0
    ret

    .global try_store
try_store:
    sd a1, 0(a0)
    li a1, 0
    ret

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .global boot_root
boot_root:
    .skip 4096
boot_stack:
    .skip 0x40000
boot_stack_top:
