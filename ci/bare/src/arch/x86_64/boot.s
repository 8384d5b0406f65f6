# From the PVH entry to long mode, in the upper half.
#
# A PVH loader enters in 32-bit protected mode: flat segments, paging off, interrupts off, no stack. (Xen, "x86/HVM direct
# boot ABI", docs/misc/pvh.pandoc.) What follows is the sequence of the Intel SDM volume 3, "Initializing IA-32e Mode".
#
# Tables have four levels, or five if the command line begins with an `l` (`-append la57`).

    .set LINEAR, 0xffff800000000000

    .section .note.pvh, "a", @note
    .balign 4
    .long 4                             # bytes of the name
    .long 8                             # bytes of the address
    .long 18                            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad boot - LINEAR

    .section .text.boot, "ax", @progbits
    .code32
    .globl boot
boot:
    cli
    cld

    # The first 8 GiB in leaves of 1 GiB: at their own addresses, and in the upper half, which belongs to the kernel.
    movl $boot_pdpt - LINEAR, %edi
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $30, %eax
    orl $0x83, %eax                     # present, writable, leaf
    movl %eax, (%edi, %ecx, 8)
    movl %ecx, %eax
    shrl $2, %eax
    movl %eax, 4(%edi, %ecx, 8)
    incl %ecx
    cmpl $8, %ecx
    jne 1b
    movl $boot_pdpt - LINEAR + 0x03, boot_pml4 - LINEAR     # present, writable
    movl $boot_pdpt - LINEAR + 0x03, boot_pml4 - LINEAR + 256 * 8
    movl $boot_pml4 - LINEAR, %eax
    movl $0x620, %edx                   # PAE, OSFXSR, OSXMMEXCPT: Rust code uses SSE
    movl 24(%ebx), %ecx                 # hvm_start_info: the command line
    testl %ecx, %ecx
    jz 2f
    cmpb $'l', (%ecx)
    jne 2f
    leal 0x03(%eax), %ecx
    movl %ecx, boot_pml5 - LINEAR
    movl %ecx, boot_pml5 - LINEAR + 511 * 8
    movl $boot_pml5 - LINEAR, %eax
    orl $0x1000, %edx                   # LA57
2:  movl %eax, %cr3
    movl %cr4, %eax
    orl %edx, %eax
    movl %eax, %cr4

    movl $0xc0000080, %ecx              # EFER
    rdmsr
    orl $0x900, %eax                    # LME, NXE
    wrmsr

    movl %cr0, %eax
    andl $~0x04, %eax                   # no EM: SSE again
    orl $0x80010002, %eax               # PG, WP, MP
    movl %eax, %cr0

    lgdt boot_gdt_pointer - LINEAR
    ljmp $0x08, $long_mode - LINEAR

    .code64
long_mode:
    movabsq $upper, %rax
    jmp *%rax
upper:
    lgdt boot_gdt_upper_pointer(%rip)   # exceptions read it while an address space has the lower half
    movl $0x10, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    leaq boot_stack_top(%rip), %rsp
    xorl %ebp, %ebp                     # the outermost frame
    call start
    ud2

    # One way in for each exception: those without an error code push a zero.
    .section .text.traps, "ax", @progbits
    .balign 16
    .globl exceptions
exceptions:
    .set number, 0
    .rept 32
    .balign 16
    .if number == 8 || (number >= 10 && number <= 14) || number == 17 || number == 21 || number == 29 || number == 30
    .else
    pushq $0
    .endif
    pushq $number
    jmp exception
    .set number, number + 1
    .endr

# On the stack: number, error code, rip, cs, flags, rsp, ss. Registers that a call may overwrite are free: either nobody goes
# on, or `try_load` and `try_store` return.
exception:
    movq 16(%rsp), %rsi                 # where it happened
    leaq try_load(%rip), %rax
    cmpq %rax, %rsi
    je 1f
    leaq try_store(%rip), %rax
    cmpq %rax, %rsi
    je 1f
2:  popq %rdi
    popq %rcx
    shlq $32, %rcx
    orq %rcx, %rdi                      # the number, and above it the error code
    movq %cr2, %rdx
    andq $-16, %rsp
    call unexpected
    ud2
1:  cmpq $14, (%rsp)                    # a page fault
    jne 2b
    movq 8(%rsp), %rax
    movl $1, %edx
    addq $16, %rsp
    movq 24(%rsp), %rcx
    movq (%rcx), %rcx                   # where the call returns to
    movq %rcx, (%rsp)
    addq $8, 24(%rsp)
    iretq

    .globl try_load
try_load:
    movq (%rdi), %rax
    xorl %edx, %edx
    ret

    .globl try_store
try_store:
    movq %rsi, (%rdi)
    xorl %edx, %edx
    ret

    .section .rodata.boot, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08: code, 64 bits, ring 0
    .quad 0x00cf93000000ffff            # 0x10: data, ring 0
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt - LINEAR
boot_gdt_upper_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .globl boot_pml5
boot_pml5:
    .skip 4096
    .globl boot_pml4
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_stack:
    .skip 0x40000
boot_stack_top:
