# Ways into the kernel and back, in Intel syntax. `frame.rs` has the layout of what lies on the stack.
#
# Rust code uses the vector registers, so every way in that calls it saves all sixteen. `movups` is ten times cheaper under
# emulation than `fxsave`; the x87 state and MXCSR stay in the processor until a context switch.
#
# Interrupts that can arrive in ring 0 come on a stack of their own (IST 1): `core` was compiled with a red zone. From ring 0
# they touch no vector register, take no lock and call nothing. Offsets from GS are those of `cpu::PerCpu`: 8 the
# kernel stack, 16 and 24 scratch, 32 "another thread may be due".

.macro save_registers
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 256
    movups [rsp], xmm0
    movups [rsp + 16], xmm1
    movups [rsp + 32], xmm2
    movups [rsp + 48], xmm3
    movups [rsp + 64], xmm4
    movups [rsp + 80], xmm5
    movups [rsp + 96], xmm6
    movups [rsp + 112], xmm7
    movups [rsp + 128], xmm8
    movups [rsp + 144], xmm9
    movups [rsp + 160], xmm10
    movups [rsp + 176], xmm11
    movups [rsp + 192], xmm12
    movups [rsp + 208], xmm13
    movups [rsp + 224], xmm14
    movups [rsp + 240], xmm15
    cld
    xor ebp, ebp
.endm

.macro restore_registers
    movups xmm0, [rsp]
    movups xmm1, [rsp + 16]
    movups xmm2, [rsp + 32]
    movups xmm3, [rsp + 48]
    movups xmm4, [rsp + 64]
    movups xmm5, [rsp + 80]
    movups xmm6, [rsp + 96]
    movups xmm7, [rsp + 112]
    movups xmm8, [rsp + 128]
    movups xmm9, [rsp + 144]
    movups xmm10, [rsp + 160]
    movups xmm11, [rsp + 176]
    movups xmm12, [rsp + 192]
    movups xmm13, [rsp + 208]
    movups xmm14, [rsp + 224]
    movups xmm15, [rsp + 240]
    add rsp, 256
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
.endm

    .text

# A system call. SFMASK has cleared IF.
    .globl entry_syscall
entry_syscall:
    swapgs
    mov gs:[16], rsp
    mov rsp, gs:[8]
    push 0x1b
    push qword ptr gs:[16]
    push r11
    push 0x23
    push rcx
    push 0
    push 0x100
    save_registers
    mov rdi, rsp
    sti
    call trap_syscall
# The rest returns to ring 3 from a frame. Interrupts are off.
    .globl return_to_user
return_to_user:
    restore_registers
    cmp dword ptr [rsp], 0x100
    jne 1f
    # Straight back from a system call: RCX and R11 are the instruction pointer and the flags.
    mov rcx, [rsp + 16]
    mov r11, [rsp + 32]
    mov rsp, [rsp + 40]
    swapgs
    sysretq
1:  add rsp, 16
    swapgs
    iretq

# Exceptions: vector_N pushes an error code if the processor does not, and the number.
.macro exception number
    .globl vector_\number
vector_\number:
    push 0
    push \number
    jmp exception_common
.endm
.macro exception_with_code number
    .globl vector_\number
vector_\number:
    push \number
    jmp exception_common
.endm
exception 0
exception 1
exception 3
exception 4
exception 5
exception 6
exception 7
exception_with_code 10
exception_with_code 11
exception_with_code 12
exception_with_code 13
exception 16
exception_with_code 17
exception 19

exception_common:
    test byte ptr [rsp + 24], 3
    jz kernel_exception
    swapgs
    save_registers
    mov rdi, rsp
    sti
    call trap_exception
    jmp return_to_user

kernel_exception:
    save_registers
    # The chain of frame pointers begins where the exception came from.
    mov rbp, [rsp + 256 + 4 * 8]
    mov rdi, rsp
    call trap_kernel
    ud2

# A page fault. In ring 0 only the copies to and from programs may have one: they go on at `user_copy_failed`.
    .globl vector_14
vector_14:
    test byte ptr [rsp + 16], 3
    jz 1f
    swapgs
    push 14
    save_registers
    mov rdi, rsp
    mov rsi, cr2
    sti
    call trap_page_fault
    jmp return_to_user
1:  push rax
    lea rax, [rip + user_copy]
    cmp [rsp + 16], rax
    jb 2f
    lea rax, [rip + user_copy_end]
    cmp [rsp + 16], rax
    jae 2f
    lea rax, [rip + user_copy_failed]
    mov [rsp + 16], rax
    pop rax
    add rsp, 8
    iretq
2:  pop rax
    push 14
    jmp kernel_exception

# A double fault: a kernel stack has run into its guard page, on IST 2. And NMI: nothing sends one.
    .globl vector_8
vector_8:
    push 8
    jmp kernel_exception
    .globl vector_2
vector_2:
    push 0
    push 2
    jmp kernel_exception

# Copies rcx bytes from rsi to rdi. Returns how many are left.
    .globl user_copy
    .globl user_copy_end
user_copy:
    mov rcx, rdx
    cmp rcx, 64
    jb 2f
    # Eight bytes at a time. A fault leaves rsi and rdi at the place where it happened.
1:  mov rax, [rsi]
    mov [rdi], rax
    add rsi, 8
    add rdi, 8
    sub rcx, 8
    cmp rcx, 8
    jae 1b
2:  test rcx, rcx
    jz 4f
3:  mov al, [rsi]
    mov [rdi], al
    inc rsi
    inc rdi
    dec rcx
    jnz 3b
4:  xor eax, eax
    ret
# Exchanges esi at rdi for edx. Returns 0, 1 if there was something else, 2 after a fault.
    .globl user_exchange
user_exchange:
    mov ecx, 2
    mov eax, esi
    lock cmpxchg [rdi], edx
    setne al
    movzx eax, al
    ret
user_copy_end:
user_copy_failed:
    mov rax, rcx
    ret

# End of interrupt, for handlers: clobbers rax, rcx, rdx, which they have saved.
.macro end_of_interrupt
    cmp byte ptr [rip + X2APIC], 0
    jne 8f
    mov rax, 0xffff8000fee000b0
    mov dword ptr [rax], 0
    jmp 9f
8:  mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
9:
.endm

# Another processor wants this one to drop its translations, or to pass a full barrier. From any ring.
    .globl vector_flush
vector_flush:
    push rax
    push rcx
    push rdx
    mov rax, cr3
    mov cr3, rax
    test byte ptr [rsp + 32], 3
    jz 1f
    lock inc qword ptr [rip + DISTURBED]
1:  lock dec qword ptr [rip + UNANSWERED]
    end_of_interrupt
    pop rdx
    pop rcx
    pop rax
    iretq

# The timer, and another processor that has put a thread into the queue: "look whether another thread should run".
    .globl vector_timer
vector_timer:
    .globl vector_reschedule
vector_reschedule:
    test byte ptr [rsp + 8], 3
    jnz 1f
    mov byte ptr gs:[32], 1
    push rax
    push rcx
    push rdx
    end_of_interrupt
    pop rdx
    pop rcx
    pop rax
    iretq
1:  swapgs
    mov gs:[24], rax
    mov rax, rsp
    mov rsp, gs:[8]
    push qword ptr [rax + 32]
    push qword ptr [rax + 24]
    push qword ptr [rax + 16]
    push qword ptr [rax + 8]
    push qword ptr [rax]
    push 0
    push 0x40
    mov rax, gs:[24]
    save_registers
    end_of_interrupt
    mov rdi, rsp
    sti
    call trap_interrupt
    jmp return_to_user

    .globl vector_spurious
vector_spurious:
    iretq

# switch_stacks(&mut old, new): saves what a call must preserve, and goes on where `new` stopped.
    .globl switch_stacks
switch_stacks:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# Where a new thread begins: below the return address lies its frame.
    .globl begin_user_thread
begin_user_thread:
    mov rdi, rsp
    sti
    call trap_begin
    jmp return_to_user
    .globl begin_kernel_thread
begin_kernel_thread:
    sti
    mov rdi, r12
    mov rsi, r13
    call trap_begin_kernel
    ud2
