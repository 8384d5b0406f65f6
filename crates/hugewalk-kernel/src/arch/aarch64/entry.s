// Ways into the kernel and back. `frame.rs` has the layout of what lies on the stack.
//
// Rust code uses the vector registers, so every way in that calls it saves all 32. In EL1 the stack pointer is that of the
// running thread's kernel stack, and at its top whenever the program runs.
//
// An interrupt that arrives in EL1 comes on that stack too: nothing lies below the stack pointer. It takes no lock and calls no
// Rust. Offsets from TPIDR_EL1 are those of `cpu::PerCpu`: 16 and 24 scratch, 32 "another thread may be due", 48 the number.

    .equ FRAME, 800

.macro save_frame
    sub sp, sp, #FRAME
    stp x0, x1, [sp]
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x19, [sp, #144]
    stp x20, x21, [sp, #160]
    stp x22, x23, [sp, #176]
    stp x24, x25, [sp, #192]
    stp x26, x27, [sp, #208]
    stp x28, x29, [sp, #224]
    mrs x9, sp_el0
    stp x30, x9, [sp, #240]
    mrs x10, elr_el1
    mrs x11, spsr_el1
    stp x10, x11, [sp, #256]
    mrs x12, esr_el1
    stp x12, x0, [sp, #272]
    stp q0, q1, [sp, #288]
    stp q2, q3, [sp, #320]
    stp q4, q5, [sp, #352]
    stp q6, q7, [sp, #384]
    stp q8, q9, [sp, #416]
    stp q10, q11, [sp, #448]
    stp q12, q13, [sp, #480]
    stp q14, q15, [sp, #512]
    stp q16, q17, [sp, #544]
    stp q18, q19, [sp, #576]
    stp q20, q21, [sp, #608]
    stp q22, q23, [sp, #640]
    stp q24, q25, [sp, #672]
    stp q26, q27, [sp, #704]
    stp q28, q29, [sp, #736]
    stp q30, q31, [sp, #768]
.endm

// What a handler may overwrite before it knows what it is for.
.macro save_few
    stp x0, x1, [sp, #-48]!
    stp x2, x3, [sp, #16]
    stp x4, x30, [sp, #32]
.endm
.macro restore_few
    ldp x4, x30, [sp, #32]
    ldp x2, x3, [sp, #16]
    ldp x0, x1, [sp], #48
.endm

    .section .text.vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    .macro vector target
    .balign 128
    b \target
    .endm
    // EL1 with the stack pointer of EL0: never.
    vector el1_sync
    vector el1_sync
    vector el1_sync
    vector el1_sync
    // EL1.
    vector el1_sync
    vector el1_interrupt
    vector el1_sync
    vector el1_sync
    // EL0.
    vector el0_sync
    vector el0_interrupt
    vector el1_sync
    vector el1_sync
    // EL0 in 32 bits: no program is.
    vector el1_sync
    vector el1_sync
    vector el1_sync
    vector el1_sync
    .balign 128

    .text
el0_sync:
    save_frame
    mov x29, #0
    mov x0, sp
    lsr w1, w12, #26
    cmp w1, #0x15                   // ESR_EL1.EC: a system call
    b.ne 1f
    msr daifclr, #2
    bl trap_syscall
    b return_to_user
1:  cmp w1, #0x24                   // an abort of a load or a store, or (0x20) of a fetch
    b.eq 2f
    cmp w1, #0x20
    b.eq 2f
    msr daifclr, #2
    bl trap_exception
    b return_to_user
2:  mrs x1, far_el1
    msr daifclr, #2
    bl trap_abort

// The rest returns to EL0 from a frame. Interrupts are off.
    .global return_to_user
return_to_user:
    ldp x10, x11, [sp, #256]
    msr elr_el1, x10
    msr spsr_el1, x11
    ldp x30, x9, [sp, #240]
    msr sp_el0, x9
    ldp q0, q1, [sp, #288]
    ldp q2, q3, [sp, #320]
    ldp q4, q5, [sp, #352]
    ldp q6, q7, [sp, #384]
    ldp q8, q9, [sp, #416]
    ldp q10, q11, [sp, #448]
    ldp q12, q13, [sp, #480]
    ldp q14, q15, [sp, #512]
    ldp q16, q17, [sp, #544]
    ldp q18, q19, [sp, #576]
    ldp q20, q21, [sp, #608]
    ldp q22, q23, [sp, #640]
    ldp q24, q25, [sp, #672]
    ldp q26, q27, [sp, #704]
    ldp q28, q29, [sp, #736]
    ldp q30, q31, [sp, #768]
    ldp x0, x1, [sp]
    ldp x2, x3, [sp, #16]
    ldp x4, x5, [sp, #32]
    ldp x6, x7, [sp, #48]
    ldp x8, x9, [sp, #64]
    ldp x10, x11, [sp, #80]
    ldp x12, x13, [sp, #96]
    ldp x14, x15, [sp, #112]
    ldp x16, x17, [sp, #128]
    ldp x18, x19, [sp, #144]
    ldp x20, x21, [sp, #160]
    ldp x22, x23, [sp, #176]
    ldp x24, x25, [sp, #192]
    ldp x26, x27, [sp, #208]
    ldp x28, x29, [sp, #224]
    add sp, sp, #FRAME
    eret

// Takes an interrupt, and says what it was: 0 nothing, 1 "look whether another thread should run", 2 a barrier, which is done.
// Overwrites x0 to x4.
interrupt:
    mrs x0, s3_0_c12_c12_0          // ICC_IAR1_EL1
    dsb sy
    cmp w0, #1020
    b.hs 4f
    cmp w0, #{flush}
    b.eq 2f
    cmp w0, #{timer}
    b.ne 1f
    adrp x1, TICKS
    ldr x1, [x1, :lo12:TICKS]
    msr cntv_tval_el0, x1
    isb
1:  msr s3_0_c12_c12_1, x0          // ICC_EOIR1_EL1
    isb
    mov w0, #1
    ret
2:  msr s3_0_c12_c12_1, x0
    isb
    dmb ish
    adrp x1, UNANSWERED
    add x1, x1, :lo12:UNANSWERED
3:  ldaxr x2, [x1]
    sub x2, x2, #1
    stlxr w3, x2, [x1]
    cbnz w3, 3b
    mov w0, #2
    ret
4:  mov w0, #0
    ret

el1_interrupt:
    save_few
    bl interrupt
    cmp w0, #1
    b.ne 1f
    mrs x1, tpidr_el1
    strb w0, [x1, #32]
1:  restore_few
    eret

el0_interrupt:
    save_few
    bl interrupt
    cmp w0, #1
    b.eq 2f
    cbz w0, 1f
    adrp x1, DISTURBED
    add x1, x1, :lo12:DISTURBED
3:  ldxr x2, [x1]
    add x2, x2, #1
    stxr w3, x2, [x1]
    cbnz w3, 3b
1:  restore_few
    eret
2:  restore_few
    save_frame
    mov x29, #0
    mov x0, sp
    msr daifclr, #2
    bl trap_interrupt
    b return_to_user

// An exception in EL1. The copies to and from programs may have one: they go on at `user_copy_failed`. Any other is a fault of
// ours, told on a stack of its own, since the running one may have run into its guard page.
el1_sync:
    msr tpidrro_el0, x0
    mrs x0, tpidr_el1
    str x1, [x0, #16]
    str x2, [x0, #24]
    mrs x1, elr_el1
    ldr x2, =user_copy
    cmp x1, x2
    b.lo 1f
    ldr x2, =user_copy_end
    cmp x1, x2
    b.hs 1f
    ldr x2, =user_copy_failed
    msr elr_el1, x2
    ldr x1, [x0, #16]
    ldr x2, [x0, #24]
    mrs x0, tpidrro_el0
    eret
1:  mov x1, sp
    ldr x2, [x0, #48]
    add x2, x2, #1
    lsl x2, x2, #14
    ldr x0, =FAULT_STACKS
    add x2, x2, x0
    mov sp, x2
    mrs x0, tpidr_el1
    ldr x2, [x0, #24]
    str x1, [x0, #24]
    ldr x1, [x0, #16]
    mrs x0, tpidrro_el0
    save_frame
    mrs x9, tpidr_el1
    ldr x9, [x9, #24]
    str x9, [sp, #248]
    mov x0, sp
    bl trap_kernel
    brk #0

// Copies x2 bytes from x1 to x0. Returns how many are left.
    .global user_copy
    .global user_copy_end
user_copy:
1:  cmp x2, #8
    b.lo 2f
    ldr x3, [x1]
    str x3, [x0]
    add x0, x0, #8
    add x1, x1, #8
    sub x2, x2, #8
    b 1b
2:  cbz x2, 4f
3:  ldrb w3, [x1], #1
    strb w3, [x0], #1
    subs x2, x2, #1
    b.ne 3b
4:  mov x0, #0
    ret
// Exchanges w1 at x0 for w2. Returns 0, 1 if there was something else, 2 after a fault.
    .global user_exchange
user_exchange:
    mov x3, x2
    mov x2, #2
5:  ldaxr w4, [x0]
    cmp w4, w1
    b.ne 6f
    stlxr w5, w3, [x0]
    cbnz w5, 5b
    mov x0, #0
    ret
6:  clrex
    mov x0, #1
    ret
user_copy_end:
user_copy_failed:
    mov x0, x2
    ret

// switch_stacks(&mut old, new): saves what a call must preserve, and goes on where `new` stopped.
    .global switch_stacks
switch_stacks:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret

// Where a new thread begins. That of a program has its frame at the stack pointer.
    .global begin_user_thread
begin_user_thread:
    mov x0, sp
    msr daifclr, #2
    bl trap_begin
    b return_to_user
    .global begin_kernel_thread
begin_kernel_thread:
    msr daifclr, #2
    mov x0, x20
    mov x1, x19
    bl trap_begin_kernel
    brk #0
