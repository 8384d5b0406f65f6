// arm64: all registers of vectors survive a system call, a page fault, and a signal whose handler changes them all.
#include "check.h"

#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>

static char *page;
static int handled;

// Changes all registers of vectors and the rounding mode, and allows the store.
static void on_fault(int number, siginfo_t *info, void *context) {
    ucontext_t *frame = context;
    uint32_t magic;
    memcpy(&magic, frame->uc_mcontext.__reserved, 4);
    check(number == SIGSEGV && info->si_code == SEGV_ACCERR && (char *)info->si_addr == page, "what the handler is told");
    check(magic == 0x46508001 && (char *)frame->uc_mcontext.fault_address == page, "the frame's records");
    handled++;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    static const char noise[512] = {[0 ... 511] = 0x5a};
    const char *from = noise;
    __asm__ volatile(
        "ld1 {v0.16b-v3.16b}, [%0], #64\n ld1 {v4.16b-v7.16b}, [%0], #64\n ld1 {v8.16b-v11.16b}, [%0], #64\n"
        "ld1 {v12.16b-v15.16b}, [%0], #64\n ld1 {v16.16b-v19.16b}, [%0], #64\n ld1 {v20.16b-v23.16b}, [%0], #64\n"
        "ld1 {v24.16b-v27.16b}, [%0], #64\n ld1 {v28.16b-v31.16b}, [%0], #64\n msr fpcr, xzr\n"
        // The compiler is not told: no register of vectors is its own to restore, so that the kernel has to.
        : "+r"(from)
        :
        : "memory");
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
    page = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(page + 4096, 4096, PROT_READ | PROT_WRITE);
    static unsigned char before[512], after[512];
    for (int at = 0; at < 512; at++)
        before[at] = at * 7 + 3;
    const unsigned char *from = before;
    unsigned char *to = after;
    uint64_t rounding = 0xc00000, found, pid;
    __asm__ volatile(
        "msr fpcr, %[rounding]\n"
        "ld1 {v0.16b-v3.16b}, [%[from]], #64\n ld1 {v4.16b-v7.16b}, [%[from]], #64\n"
        "ld1 {v8.16b-v11.16b}, [%[from]], #64\n ld1 {v12.16b-v15.16b}, [%[from]], #64\n"
        "ld1 {v16.16b-v19.16b}, [%[from]], #64\n ld1 {v20.16b-v23.16b}, [%[from]], #64\n"
        "ld1 {v24.16b-v27.16b}, [%[from]], #64\n ld1 {v28.16b-v31.16b}, [%[from]], #64\n"
        "mov x8, #172\n svc #0\n mov %[pid], x0\n"
        "str xzr, [%[page], #4096]\n"
        "str xzr, [%[page]]\n"
        "mrs %[found], fpcr\n"
        "st1 {v0.16b-v3.16b}, [%[to]], #64\n st1 {v4.16b-v7.16b}, [%[to]], #64\n"
        "st1 {v8.16b-v11.16b}, [%[to]], #64\n st1 {v12.16b-v15.16b}, [%[to]], #64\n"
        "st1 {v16.16b-v19.16b}, [%[to]], #64\n st1 {v20.16b-v23.16b}, [%[to]], #64\n"
        "st1 {v24.16b-v27.16b}, [%[to]], #64\n st1 {v28.16b-v31.16b}, [%[to]], #64\n"
        "msr fpcr, xzr\n"
        : [from] "+r"(from), [to] "+r"(to), [found] "=&r"(found), [pid] "=&r"(pid)
        : [rounding] "r"(rounding), [page] "r"(page)
        : "x0", "x8", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",
          "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
    check(handled >= 1, "the store was handled");
    check(memcmp(before, after, 512) == 0, "the registers of vectors");
    check(found == rounding, "the rounding mode");
    check((pid_t)pid == getpid(), "the result of the system call");
    return report();
}
