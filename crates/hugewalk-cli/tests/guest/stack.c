// The stack: it grows where the program has unmapped a part of it, in a child too, and not over a huge page that lies below it.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB 1024ul
#define HUGE (2048 * KIB)

static void check(int holds, const char *what)
{
    if (!holds) {
        printf("not so: %s\n", what);
        fflush(stdout);
        _exit(1);
    }
}

// Stores to each page of as much stack, and reads it back.
static __attribute__((noinline)) int deep(size_t bytes)
{
    volatile char *room = __builtin_alloca(bytes);
    for (size_t at = bytes; at >= 4096; at -= 4096)
        room[at - 1] = (char)(at / 4096);
    int right = 1;
    for (size_t at = bytes; at >= 4096; at -= 4096)
        right &= room[at - 1] == (char)(at / 4096);
    return right;
}

static char *below(size_t bytes)
{
    char here;
    return (char *)(((unsigned long)&here - bytes) & ~4095ul);
}

int main(void)
{
    check(deep(512 * KIB), "512 KiB of stack");
    // Out of the middle of what is there.
    check(munmap(below(256 * KIB), 128 * KIB) == 0, "a part of the stack is unmapped");
    check(deep(512 * KIB), "and grows again");
    pid_t child = fork();
    if (child == 0) {
        check(munmap(below(256 * KIB), 128 * KIB) == 0, "also in a child");
        check(deep(512 * KIB), "where it grows again");
        _exit(0);
    }
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "the child ends well");

    // A huge page between the stack and where it could grow to.
    char *huge = (char *)((unsigned long)below(3 * HUGE) & ~(HUGE - 1));
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED;
    check(mmap(huge, HUGE, PROT_READ | PROT_WRITE, flags, -1, 0) == huge, "a huge page below the stack");
    huge[HUGE - 1] = 'h';
    child = fork();
    if (child == 0) {
        check(huge[HUGE - 1] == 'h', "a child has the huge page");
        check(deep(512 * KIB), "and a stack that grows");
        deep(7 * HUGE / 2);
        _exit(0);
    }
    check(waitpid(child, &status, 0) == child, "the child ends");
    check(WIFSIGNALED(status) && WTERMSIG(status) == 11, "the stack does not grow over the huge page");
    check(huge[HUGE - 1] == 'h', "which is as it was");
    printf("0 checks failed\n");
    return 0;
}
