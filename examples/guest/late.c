/*
 * A fault stores to a table that was freed under it, if nothing but the mmap lock keeps the table, as in Linux up to 6.0.
 *
 *     gcc -static -O2 -o late late.c
 *     hugewalk run --pool 128 ./late                          nothing is late
 *     hugewalk run --pool 128 --protocol legacy ./late        the report counts tables that were stored to after they were freed
 *
 * Two processes share a table. The first one faults on a page that is not there yet, so a fresh page is cleared between the walk
 * to the entry and the store to it. Meanwhile the second one takes another page out of the file, for which the first one's use of
 * the table is given up, and unmaps the file, which frees the table.
 *
 * The argument is how often: 100 times if there is none. A page whose entry is lost stays in use, so the pool has to have that many.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE (2UL << 20)
#define GIB (1UL << 30)
#define OTHER (start + 5 * HUGE)
#define FRESH (start + 3 * HUGE)

/* What each process has done, by the number of the round. */
struct state {
    atomic_int shares, takes, faults, unmapped;
};

static struct state *state;
static char *const start = (char *)(8 * GIB);
static int file, rounds;

static void wait_for(atomic_int *counter, int round)
{
    while (atomic_load(counter) < round)
        ;
}

static int map(void)
{
    int flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE;
    return mmap(start, GIB, PROT_READ | PROT_WRITE, flags, file, 0) == start;
}

static int second_process(void)
{
    for (int round = 1; round <= rounds; round++) {
        wait_for(&state->shares, round);
        if (!map())
            return 4;
        /* A load takes the table over. */
        (void)*(volatile char *)start;
        atomic_store(&state->takes, round);
        wait_for(&state->faults, round);
        if (madvise(OTHER, HUGE, MADV_REMOVE) || munmap(start, GIB))
            return 5;
        atomic_store(&state->unmapped, round);
    }
    return 0;
}

int main(int count, char **arguments)
{
    int status;
    rounds = count > 1 ? atoi(arguments[1]) : 100;
    state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    file = memfd_create("late", MFD_HUGETLB);
    if (state == MAP_FAILED || file < 0 || ftruncate(file, GIB))
        return perror("late"), 1;
    pid_t pid = fork();
    if (pid < 0)
        return perror("fork"), 1;
    if (pid == 0)
        _exit(second_process());
    if (!map())
        return perror("mmap"), 1;
    for (int round = 1; round <= rounds; round++) {
        if (madvise(FRESH, HUGE, MADV_REMOVE))
            return perror("MADV_REMOVE"), 2;
        *(volatile char *)start = *(volatile char *)OTHER = 1;
        atomic_store(&state->shares, round);
        wait_for(&state->takes, round);
        atomic_store(&state->faults, round);
        *(volatile char *)FRESH = round;
        wait_for(&state->unmapped, round);
        if (*(volatile char *)FRESH != (char)round)
            return printf("round %d: the page holds something else\n", round), 6;
    }
    waitpid(pid, &status, 0);
    printf("%d rounds\n", rounds);
    return status != 0;
}
