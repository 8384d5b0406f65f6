// arm64: pages of 64 KiB and of 32 MiB, each a group of 16 entries: mapped, shared, copied on write, given back. Those of 64 KiB
// also as files, segments, and beside base pages.
#include "check.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define SMALL (64L << 10)
#define SMALL_PAGES (MAP_ANONYMOUS | MAP_HUGETLB | 16 << 26)

static FILE *file_of(long page, const char *name, const char *mode) {
    char path[96];
    snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%ldkB/%s", page >> 10, name);
    return fopen(path, mode);
}

static long number(long page, const char *name) {
    long value = -1;
    FILE *file = file_of(page, name, "r");
    if (file) {
        fscanf(file, "%ld", &value);
        fclose(file);
    }
    return value;
}

static void fill(long page, int pages) {
    FILE *file = file_of(page, "nr_hugepages", "w");
    check(file && fprintf(file, "%d", pages) > 0 && fclose(file) == 0, "the pool takes a number");
    check(number(page, "nr_hugepages") == pages && number(page, "free_hugepages") == pages, "so many pages");
}

static void group(long page, int shift) {
    const long step = page / 32;
    check(number(page, "nr_hugepages") == 0, "a pool is empty until it is filled");
    fill(page, 4);
    int flags = MAP_ANONYMOUS | MAP_HUGETLB | shift << 26;
    char *shared = mmap(0, page, PROT_READ | PROT_WRITE, MAP_SHARED | flags, -1, 0);
    char *own = mmap(0, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, -1, 0);
    check(shared != MAP_FAILED && own != MAP_FAILED, "mapped");
    if (failed)
        exit(1);
    check((long)shared % page == 0 && (long)own % page == 0, "aligned");
    for (long at = 0; at < page; at += step)
        shared[at] = own[at] = at / step;
    check(number(page, "free_hugepages") == 2, "two pages in use");
    pid_t child = fork();
    if (child == 0) {
        int wrong = 0;
        for (long at = 0; at < page; at += step) {
            wrong += shared[at] != at / step || own[at] != at / step;
            shared[at] = own[at] = 100;
        }
        // Copied once, and all its parts with it.
        wrong += number(page, "free_hugepages") != 1;
        for (long at = 0; at < page; at += step)
            wrong += own[at] != 100 || own[at + 1] != 0;
        _exit(wrong != 0);
    }
    int status;
    waitpid(child, &status, 0);
    check(status == 0, "the child saw all parts, and copied");
    int wrong = 0;
    for (long at = 0; at < page; at += step)
        wrong += shared[at] != 100 || own[at] != at / step;
    check(wrong == 0, "the parent sees stores to what is shared alone");
    munmap(own, page);
    munmap(shared, page);
    check(number(page, "free_hugepages") == 4, "given back");
    fill(page, 0);
}

// More than a block of 2 MiB holds, each page with contents of its own.
static void many(void) {
    const int pages = 80;
    fill(SMALL, pages);
    char *all = mmap(0, pages * SMALL, PROT_READ | PROT_WRITE, MAP_SHARED | SMALL_PAGES, -1, 0);
    check(all != MAP_FAILED, "80 pages are mapped");
    for (int at = 0; at < pages; at++)
        memset(all + at * SMALL, at + 1, SMALL);
    int wrong = 0;
    for (long at = 0; at < pages * SMALL; at++)
        wrong += all[at] != at / SMALL + 1;
    check(wrong == 0, "each page is its own");
    unsigned char here[80 * 16];
    madvise(all + 3 * SMALL, SMALL, MADV_REMOVE);
    check(mincore(all, pages * SMALL, here) == 0, "mincore");
    for (int at = 0; at < pages * 16; at++)
        wrong += here[at] != (at / 16 != 3);
    check(wrong == 0 && all[3 * SMALL] == 0, "the page that was removed is not there, and its neighbours are");
    uint64_t words[2] = { 0 }, flags[2] = { 0 };
    int map = open("/proc/self/pagemap", O_RDONLY), kinds = open("/proc/kpageflags", O_RDONLY);
    pread(map, words, sizeof words, (intptr_t)(all + 5 * SMALL) / 4096 * 8);
    check(words[0] >> 63 && words[1] == words[0] + 1, "the page map has each part");
    pread(kinds, flags, sizeof flags, (words[0] & ((1UL << 55) - 1)) * 8);
    check(flags[0] >> 15 == 5 && flags[1] >> 15 == 6, "the first part is the head, the others are tails");
    check(munmap(all + 7 * SMALL, SMALL) == 0, "one of them is unmapped");
    munmap(all, pages * SMALL);
    close(map);
    close(kinds);
    fill(SMALL, 0);
}

static void files(void) {
    struct statfs about;
    struct stat file;
    fill(SMALL, 8);
    mkdir("/small", 0700);
    check(mount("none", "/small", "hugetlbfs", 0, "pagesize=64K") == 0, "mounted");
    check(statfs("/small", &about) == 0 && about.f_bsize == SMALL, "its blocks are the pages");
    int first = open("/small/file", O_RDWR | O_CREAT, 0600), second = memfd_create("x", MFD_HUGETLB | 16 << 26);
    check(first >= 0 && second >= 0 && ftruncate(first, 2 * SMALL) == 0 && ftruncate(second, 2 * SMALL) == 0, "files");
    check(fstat(second, &file) == 0 && file.st_blksize == SMALL, "the blocks of a memory file");
    int segment = shmget(IPC_PRIVATE, SMALL + 1, IPC_CREAT | 0600 | SHM_HUGETLB | 16 << 26);
    check(segment >= 0, "a segment");
    char *at[] = { mmap(0, 2 * SMALL, PROT_READ | PROT_WRITE, MAP_SHARED, first, 0),
                   mmap(0, 2 * SMALL, PROT_READ | PROT_WRITE, MAP_SHARED, second, 0), shmat(segment, 0, 0) };
    for (int which = 0; which < 3; which++) {
        check(at[which] != MAP_FAILED, "mapped");
        at[which][0] = at[which][2 * SMALL - 1] = which + 1;
    }
    check(number(SMALL, "free_hugepages") == 2, "six pages in use");
    char byte = 0;
    check(pread(first, &byte, 1, 2 * SMALL - 1) == 1 && byte == 1, "read from the file");
    munmap(at[0], 2 * SMALL);
    munmap(at[1], 2 * SMALL);
    shmdt(at[2]);
    shmctl(segment, IPC_RMID, 0);
    close(first);
    close(second);
    unlink("/small/file");
    check(umount("/small") == 0, "unmounted");
    check(number(SMALL, "free_hugepages") == 8, "given back");
    fill(SMALL, 0);
}

// Base pages and pages of 64 KiB have entries in the same kind of table, and never in the same one.
static void beside_base_pages(void) {
    const long block = 2L << 20;
    fill(SMALL, 4);
    char *room = mmap(0, 3 * block, PROT_NONE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_NORESERVE, -1, 0);
    char *middle = (char *)(((long)room + 2 * block - 1) & -block);
    munmap(room, 3 * block);
    int fixed = MAP_FIXED_NOREPLACE | MAP_PRIVATE;
    char *base = mmap(middle, 4096, PROT_READ | PROT_WRITE, fixed | MAP_ANONYMOUS, -1, 0);
    check(base == middle, "a base page");
    *base = 1;
    check(mmap(middle + SMALL, SMALL, PROT_READ | PROT_WRITE, fixed | SMALL_PAGES, -1, 0) == MAP_FAILED && errno == ENOMEM,
          "beside it there is no place for a page of 64 KiB");
    char *hint = mmap(middle + SMALL, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | SMALL_PAGES, -1, 0);
    check(hint != MAP_FAILED && (long)hint / block != (long)middle / block, "but somewhere else there is");
    *hint = 2;
    check(mmap(hint - 4096, 4096, PROT_READ | PROT_WRITE, fixed | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM,
          "nor is there one for a base page beside that");
    check(mremap(hint, SMALL, SMALL, MREMAP_MAYMOVE | MREMAP_FIXED, middle + SMALL) == MAP_FAILED && errno == ENOMEM,
          "nor is it moved there");
    char *other = mmap(hint - 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(other != MAP_FAILED, "a base page somewhere else");
    *other = 3;
    check(*base == 1 && *hint == 2, "both are what they were");
    munmap(base, 4096);
    char *now = mmap(middle, SMALL, PROT_READ | PROT_WRITE, fixed | SMALL_PAGES, -1, 0);
    check(now == middle, "once the base page is gone there is a place");
    *now = 4;
    munmap(now, SMALL);
    munmap(hint, SMALL);
    munmap(other, 4096);
    fill(SMALL, 0);
}

int main(void) {
    group(SMALL, 16);
    group(32L << 20, 25);
    many();
    files();
    beside_base_pages();
    return report();
}
