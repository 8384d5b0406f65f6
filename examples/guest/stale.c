/*
 * One thread reads a page all the time. The other drops the page, after which every read has to find zeroes.
 *
 *     gcc -static -O2 -o stale stale.c -lpthread
 *     hugewalk run ./stale                         the reader sees that the page is gone
 *     hugewalk run --without flush ./stale         its processor goes on reading a page that is not mapped any more
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE (2UL << 20)

static atomic_long value, reads;
static atomic_int stop;

static void *reader(void *page)
{
    while (!atomic_load(&stop)) {
        atomic_store(&value, *(volatile long *)page);
        atomic_fetch_add(&reads, 1);
    }
    return NULL;
}

int main(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    long *page = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    pthread_t thread;
    if (page == MAP_FAILED || (*page = 42, pthread_create(&thread, NULL, reader, page)))
        return perror("stale"), 2;
    while (atomic_load(&reads) < 1000)
        ;
    if (madvise(page, HUGE, MADV_DONTNEED))
        return perror("madvise"), 2;
    /* What was read before the page was dropped is not looked at. */
    long before = atomic_load(&reads);
    while (atomic_load(&reads) < before + 2)
        ;
    long seen = atomic_load(&value);
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    printf("dropped; the other processor reads %ld: %s\n", seen, seen ? "a stale translation" : "as it should");
    return seen != 0;
}
