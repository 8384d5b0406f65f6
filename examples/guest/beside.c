/*
 * Three things to do with a gigabyte or two of huge pages, timed: for this kernel beside Linux's (ci/beside-linux.sh).
 *
 *     gcc -static -O2 -o beside beside.c
 *     hugewalk run --pool 1040 ./beside 10
 *
 * fork: a child touches 2 GiB that its parent has, and exits. unmap: a child that has touched 1 GiB unmaps it. faults: 511 pages
 * of a file are touched for the first time, while a child has the file mapped too. Each with tables that can be shared, and with a
 * mapping that begins 2 MiB off, so that they cannot. A line says what was done, the median in nanoseconds, and how
 * many interrupts other processors got, from /proc/interrupts: function calls, TLB shootdowns, wakeups.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HUGE (2L << 20)
#define GIB (1L << 30)
#define MOST 101

static long times[MOST], interrupts[3];
static volatile char *start;
static long *result; /* what a child has measured */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

/* Adds, or takes away, what /proc/interrupts counts. */
static void count(long sign)
{
    static const char *const names[] = { "CAL:", "TLB:", "RES:" };
    static char text[1 << 16];
    int file = open("/proc/interrupts", O_RDONLY);
    long length = 0, got;
    while (file >= 0 && (got = read(file, text + length, sizeof(text) - 1 - length)) > 0)
        length += got;
    text[length] = 0;
    close(file);
    for (int i = 0; i < 3; i++) {
        char *at = strstr(text, names[i]), *end;
        for (at = at ? at + 4 : text + length; ; at = end) {
            long number = strtol(at, &end, 10);
            if (end == at)
                break;
            interrupts[i] += sign * number;
        }
    }
}

static void touch(long pages)
{
    for (long page = 0; page < pages; page++)
        (void)start[page * HUGE];
}

static void map(int file, long bytes, int off)
{
    char *at = (char *)(64 * GIB) + (off ? HUGE : 0);
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) != at)
        die("mmap");
    start = at;
}

static void join(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child || status)
        die("a child");
}

static long forks(void)
{
    long begin = now();
    pid_t child = fork();
    if (child == 0) {
        touch(2 * GIB / HUGE);
        _exit(0);
    }
    join(child);
    return now() - begin;
}

static long unmap(void)
{
    pid_t child = fork();
    if (child == 0) {
        touch(GIB / HUGE);
        long begin = now();
        munmap((void *)start, GIB);
        *result = now() - begin;
        _exit(0);
    }
    join(child);
    return *result;
}

static long faults(void)
{
    int ready[2], done[2];
    char byte;
    /* Table and mapping anew; the pages stay in the file. */
    if (madvise((void *)start, GIB, MADV_DONTNEED) || pipe(ready) || pipe(done))
        die("faults");
    touch(1);
    pid_t child = fork();
    if (child == 0) {
        close(done[1]);
        touch(1);
        write(ready[1], "r", 1);
        read(done[0], &byte, 1);
        _exit(0);
    }
    read(ready[0], &byte, 1);
    long begin = now();
    touch(GIB / HUGE);
    begin = now() - begin;
    close(done[1]);
    join(child);
    close(done[0]), close(ready[0]), close(ready[1]);
    return begin;
}

static int compare(const void *one, const void *other)
{
    long difference = *(const long *)one - *(const long *)other;
    return (difference > 0) - (difference < 0);
}

int main(int arguments, char **argument)
{
    static const struct {
        const char *name;
        long bytes;
        long (*once)(void);
    } programs[] = { { "fork", 2 * GIB, forks }, { "unmap", GIB, unmap }, { "faults", GIB, faults } };
    int rounds = arguments > 1 ? atoi(argument[1]) : 10;
    if (rounds < 1 || rounds > MOST)
        rounds = MOST;
    result = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int file = memfd_create("pages", MFD_HUGETLB);
    if (result == MAP_FAILED || file < 0 || ftruncate(file, 2 * GIB))
        die("memfd_create");
    map(file, 2 * GIB, 1);
    touch(2 * GIB / HUGE);
    munmap((void *)start, 2 * GIB);
    for (int i = 0; i < 3; i++)
        for (int off = 0; off < 2; off++) {
            memset(interrupts, 0, sizeof(interrupts));
            map(file, programs[i].bytes, off);
            touch(programs[i].bytes / HUGE);
            programs[i].once();
            count(-1);
            for (int round = 0; round < rounds; round++)
                times[round] = programs[i].once();
            count(1);
            munmap((void *)start, programs[i].bytes);
            qsort(times, rounds, sizeof(*times), compare);
            printf("beside: %s %s %ld %ld %ld %ld %d\n", programs[i].name, off ? "own" : "shared", times[rounds / 2],
                   interrupts[0], interrupts[1], interrupts[2], rounds);
        }
    return 0;
}
