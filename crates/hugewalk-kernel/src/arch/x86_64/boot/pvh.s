# Start code, in AT&T syntax: from the 32-bit PVH entry into long mode, and from an application processor's real mode.
#
# The first 4 GiB are mapped three times with 2 MiB leaves: at 0 (so that this code goes on after paging is on), at
# 0xffff800000000000 (the direct map), and, the first GiB, at 0xffffffff80000000 (where the kernel is linked).

    .section .note.pvh, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .boot.text, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    movl %ebx, %esi                 # the start info, kept for `start`
    movl $boot_pd, %edi
    movl $0x83, %eax                # present, writable, 2 MiB
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $boot_pd + 0x0003, boot_pdpt
    movl $boot_pd + 0x1003, boot_pdpt + 8
    movl $boot_pd + 0x2003, boot_pdpt + 16
    movl $boot_pd + 0x3003, boot_pdpt + 24
    movl $boot_pd + 0x0003, boot_pdpt_high + 510 * 8
    movl $boot_pdpt + 3, boot_pml4
    movl $boot_pdpt + 3, boot_pml4 + 256 * 8
    movl $boot_pdpt_high + 3, boot_pml4 + 511 * 8
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax                # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER: SCE, LME, NXE
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl %cr0, %eax
    andl $~0x04, %eax               # no emulated FPU
    orl $0x80010002, %eax           # paging, write protection in ring 0 too, FPU
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $0x08, $1f
    .code64
1:  movl $0x10, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movabsq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %esi, %edi
    movabsq $start, %rax
    call *%rax
    ud2

    .section .boot.data, "aw", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 64-bit code
    .quad 0x00cf93000000ffff        # data
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt

    .section .boot.bss, "aw", @nobits
    .balign 4096
    .globl boot_pml4
    .globl boot_pdpt
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pdpt_high: .skip 4096
boot_pd: .skip 4 * 4096

    .section .bss.boot_stack, "aw", @nobits
    .balign 4096
    .globl boot_stack_top
    .skip 0x10000
boot_stack_top:

# What an application processor runs first, copied to 0x8000. It finds its stack in `ap_stack` and its number in `ap_number`:
# one processor starts at a time.
    .section .rodata.trampoline, "a", @progbits
    .balign 16
    .globl trampoline
    .globl trampoline_end
    .code16
trampoline:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline + 0x8000
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl %cr0, %eax
    andl $~0x60000004, %eax         # caches on, no emulated FPU
    orl $0x80010003, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(1f - trampoline + 0x8000)
    .code64
1:  movl $0x10, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movabsq $ap_stack, %rbx
    movq (%rbx), %rsp
    movabsq $ap_number, %rbx
    movq (%rbx), %rdi
    xorl %ebp, %ebp
    movabsq $start_ap, %rax
    call *%rax
    ud2
    .balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
trampoline_gdt_pointer:
    .word 23
    .long trampoline_gdt - trampoline + 0x8000
trampoline_end:
    .text
