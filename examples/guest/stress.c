/*
 * Several processes share one page table for a gigabyte of huge pages, and do to it what they can, for a while.
 *
 *     gcc -static -O2 -o stress stress.c -lpthread
 *     hugewalk run --cpus 4 ./stress 60 4
 *
 * The first process takes pages out of the file and writes them again in another order, so that frames change places. Its
 * children read pages and check every value; now and then they drop the whole gigabyte, fork, or map a page elsewhere. Each
 * child has two threads. A sequence number for each page, in memory that is not shared by a table, says what a page holds.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 16
#define HUGE (2UL << 20)
#define GIB (1UL << 30)

struct state {
    atomic_ulong sequence[PAGES];
    atomic_ulong reads, wrong, drops, forks;
    atomic_int stop;
};

static struct state *state;
static char *const start = (char *)(8 * GIB);

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    return *seed ^= *seed << 17;
}

static void look(uint64_t *seed)
{
    int page = next(seed) % PAGES;
    uint64_t before = atomic_load(&state->sequence[page]);
    if (before & 1)
        return;
    uint64_t found = *(volatile uint64_t *)(start + page * HUGE);
    if (atomic_load(&state->sequence[page]) != before)
        return;
    atomic_fetch_add(&state->reads, 1);
    if (found != before)
        atomic_fetch_add(&state->wrong, 1);
}

static void *child(void *argument)
{
    uint64_t seed = (uintptr_t)argument;
    while (!atomic_load(&state->stop)) {
        look(&seed);
        switch (next(&seed) % 2048) {
        case 0:
            if (madvise(start, GIB, MADV_DONTNEED))
                _exit(10);
            atomic_fetch_add(&state->drops, 1);
            break;
        case 1: {
            pid_t pid = fork();
            if (pid == 0) {
                for (int i = 0; i < 64; i++)
                    look(&seed);
                _exit(0);
            }
            int status;
            if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
                _exit(11);
            atomic_fetch_add(&state->forks, 1);
            break;
        }
        case 2: {
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE;
            char *other = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
            if (other == MAP_FAILED)
                _exit(12);
            other[next(&seed) % HUGE] = 1;
            if (munmap(other, HUGE))
                _exit(13);
            break;
        }
        }
    }
    return NULL;
}

static void parent(int seconds)
{
    uint64_t seed = 0x9e3779b97f4a7c15;
    time_t end = time(NULL) + seconds;
    while (time(NULL) < end) {
        int pages[2] = { next(&seed) % PAGES, 0 };
        pages[1] = (pages[0] + 1 + next(&seed) % (PAGES - 1)) % PAGES;
        uint64_t value[2];
        for (int i = 0; i < 2; i++)
            value[i] = atomic_fetch_add(&state->sequence[pages[i]], 1) + 2;
        for (int i = 0; i < 2; i++)
            if (madvise(start + pages[i] * HUGE, HUGE, MADV_REMOVE))
                perror("MADV_REMOVE"), exit(20);
        int first = next(&seed) & 1;
        for (int i = 0; i < 2; i++) {
            int which = i ^ first;
            *(volatile uint64_t *)(start + pages[which] * HUGE) = value[which];
        }
        for (int i = 0; i < 2; i++)
            atomic_fetch_add(&state->sequence[pages[i]], 1);
        usleep(next(&seed) % 2000);
    }
}

int main(int count, char **arguments)
{
    int seconds = count > 1 ? atoi(arguments[1]) : 10;
    int children = count > 2 ? atoi(arguments[2]) : 3;
    state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE | MAP_FIXED;
    if (state == MAP_FAILED || mmap(start, GIB, PROT_READ | PROT_WRITE, flags, -1, 0) != start)
        return perror("mmap"), 1;
    for (int page = 0; page < PAGES; page++)
        *(volatile uint64_t *)(start + page * HUGE) = 0;
    for (int i = 0; i < children; i++) {
        pid_t pid = fork();
        if (pid < 0)
            return perror("fork"), 2;
        if (pid == 0) {
            pthread_t other;
            if (pthread_create(&other, NULL, child, (void *)(uintptr_t)(1000 + i)))
                _exit(14);
            child((void *)(uintptr_t)(1 + i));
            pthread_join(other, NULL);
            _exit(0);
        }
    }
    parent(seconds);
    atomic_store(&state->stop, 1);
    int failed = 0;
    for (int i = 0; i < children; i++) {
        int status;
        if (wait(&status) < 0 || status != 0)
            failed = 1, printf("a child ended with %#x\n", status);
    }
    printf("%lu reads checked, %lu wrong; the gigabyte was dropped %lu times, %lu forks\n", atomic_load(&state->reads),
           atomic_load(&state->wrong), atomic_load(&state->drops), atomic_load(&state->forks));
    return failed || atomic_load(&state->wrong) > 0;
}
