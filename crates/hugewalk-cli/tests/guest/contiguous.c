// arm64: pages of 32 MiB, each a group of 16 entries: mapped, shared, copied on write, given back.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed;

static void check(int good, const char *what) {
    if (!good) {
        failed++;
        printf("failed: %s\n", what);
    }
}

static long number(const char *name) {
    char path[96];
    long value = -1;
    snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-32768kB/%s", name);
    FILE *file = fopen(path, "r");
    if (file) {
        fscanf(file, "%ld", &value);
        fclose(file);
    }
    return value;
}

int main(void) {
    const long page = 32L << 20;
    FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-32768kB/nr_hugepages", "w");
    check(file && fputs("4", file) >= 0 && fclose(file) == 0, "the pool takes a number");
    check(number("nr_hugepages") == 4 && number("free_hugepages") == 4, "four pages");
    int flags = MAP_ANONYMOUS | MAP_HUGETLB | 25 << 26;
    char *shared = mmap(0, page, PROT_READ | PROT_WRITE, MAP_SHARED | flags, -1, 0);
    char *own = mmap(0, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, -1, 0);
    check(shared != MAP_FAILED && own != MAP_FAILED, "mapped");
    if (failed)
        return 1;
    check((long)shared % page == 0 && (long)own % page == 0, "aligned");
    for (long at = 0; at < page; at += 1 << 20) {
        shared[at] = at >> 20;
        own[at] = at >> 20;
    }
    check(number("free_hugepages") == 2, "two pages in use");
    pid_t child = fork();
    if (child == 0) {
        int wrong = 0;
        for (long at = 0; at < page; at += 1 << 20) {
            wrong += shared[at] != at >> 20 || own[at] != at >> 20;
            shared[at] = own[at] = 100;
        }
        // Copied once, and all its parts with it.
        wrong += number("free_hugepages") != 1;
        for (long at = 0; at < page; at += 1 << 20)
            wrong += own[at] != 100 || own[at + 1] != 0;
        _exit(wrong != 0);
    }
    int status;
    waitpid(child, &status, 0);
    check(status == 0, "the child saw all parts, and copied");
    int wrong = 0;
    for (long at = 0; at < page; at += 1 << 20)
        wrong += shared[at] != 100 || own[at] != at >> 20;
    check(wrong == 0, "the parent sees stores to what is shared alone");
    munmap(own, page);
    munmap(shared, page);
    check(number("free_hugepages") == 4, "given back");
    printf("%d checks failed\n", failed);
    return failed != 0;
}
