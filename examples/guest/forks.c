/*
 * Processes that share one page table fork and exit: what does giving the table up cost?
 *
 *     gcc -static -O2 -o forks forks.c
 *     hugewalk run --accel icount --cpus 4 --pool 8 ./forks 100 turns      one child after the other
 *     hugewalk run --accel icount --cpus 4 --pool 8 ./forks 100 together   all live at once, then all exit
 *
 * The clock of --accel icount counts instructions: what is printed is how many all processors together executed, those that
 * wait in a loop included.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HUGE (2UL << 20)
#define GIB (1UL << 30)
#define PAGES 8

static char *const start = (char *)(8 * GIB);

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

int main(int count, char **arguments)
{
    int children = count > 1 ? atoi(arguments[1]) : 100;
    int together = count > 2 && strcmp(arguments[2], "together") == 0;
    int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE | MAP_FIXED;
    int ready[2], go[2];
    char byte;
    if (mmap(start, GIB, PROT_READ | PROT_WRITE, flags, -1, 0) != start || pipe(ready) || pipe(go))
        return perror("forks"), 1;
    for (int page = 0; page < PAGES; page++)
        start[page * HUGE] = page;
    long begin = now();
    for (int i = 0; i < children; i++) {
        pid_t pid = fork();
        if (pid < 0)
            return perror("fork"), 2;
        if (pid == 0) {
            /* A load takes the parent's table over. */
            int found = *(volatile char *)(start + i % PAGES * HUGE);
            if (together) {
                close(go[1]);
                write(ready[1], "r", 1);
                read(go[0], &byte, 1);
            }
            _exit(found != i % PAGES);
        }
        if (together)
            read(ready[0], &byte, 1);
        else {
            int status;
            if (waitpid(pid, &status, 0) != pid || status)
                return printf("a child ended with %#x\n", status), 3;
        }
    }
    if (together) {
        close(go[1]);
        for (int i = 0; i < children; i++) {
            int status;
            if (wait(&status) < 0 || status)
                return printf("a child ended with %#x\n", status), 3;
        }
    }
    printf("%d children %s: %ld instructions\n", children, together ? "together" : "in turns", now() - begin);
    return 0;
}
