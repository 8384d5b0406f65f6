# From the PVH entry to long mode.
#
# A PVH loader enters in 32-bit protected mode: flat segments, paging off, interrupts off, no stack. (Xen, "x86/HVM direct
# boot ABI", docs/misc/pvh.pandoc.) What follows is the sequence of the Intel SDM volume 3, "Initializing IA-32e Mode".

    .section .note.pvh, "a", @note
    .balign 4
    .long 4                             # bytes of the name
    .long 8                             # bytes of the address
    .long 18                            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.boot, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld

    # The first GiB at its own address, in leaves of 2 MiB.
    movl $boot_pd, %edi
    movl $0x83, %eax                    # present, writable, leaf
    movl $512, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $boot_pd + 0x03, boot_pdpt     # present, writable
    movl $boot_pdpt + 0x03, boot_pml4
    movl $boot_pdpt + 0x03, boot_pml4 + 256 * 8     # once more in the upper half: mmu.rs
    movl $boot_pml4, %eax
    movl %eax, %cr3

    movl %cr4, %eax
    orl $0x620, %eax                    # PAE, OSFXSR, OSXMMEXCPT: Rust code uses SSE
    movl %eax, %cr4

    movl $0xc0000080, %ecx              # EFER
    rdmsr
    orl $0x900, %eax                    # LME, NXE
    wrmsr

    movl %cr0, %eax
    andl $~0x04, %eax                   # no EM: SSE again
    orl $0x80010002, %eax               # PG, WP, MP
    movl %eax, %cr0

    lgdt boot_gdt_pointer
    ljmp $0x08, $long_mode

    .code64
long_mode:
    movl $0x10, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp                     # the outermost frame
    call start
    ud2

    .section .rodata.boot, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08: code, 64 bits, ring 0
    .quad 0x00cf93000000ffff            # 0x10: data, ring 0
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4096
boot_stack:
    .skip 0x40000
boot_stack_top:
