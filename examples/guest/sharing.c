/* Two processes share a table of huge-page entries, one of them gives it up, and both print what they see.
 *
 *     gcc -static -O2 -o sharing examples/guest/sharing.c && hugewalk run sharing
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GIB = 1 << 30, HUGE = 2 << 20, PAGES = 8 };

/* Where the table is: a whole gigabyte, which is what can be shared. */
static char *const at = (char *)(64L << 30);

/* Counts the pages that are mapped. The page map shows them without touching them. */
static void say(const char *what)
{
	int count = 0, map = open("/proc/self/pagemap", O_RDONLY);

	for (int page = 0; page < PAGES; page++) {
		uint64_t entry = 0;
		pread(map, &entry, sizeof(entry), ((uintptr_t)at + (uintptr_t)page * HUGE) / 4096 * 8);
		count += entry >> 63;
	}
	close(map);
	printf("%s: %d of %d pages mapped\n", what, count, PAGES);
	fflush(stdout);
}

int main(void)
{
	int status, file = memfd_create("table", MFD_HUGETLB);

	if (file < 0 || ftruncate(file, GIB) ||
	    mmap(at, GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, 0) != at)
		return perror("sharing"), 1;
	for (int page = 0; page < PAGES; page++)
		at[(long)page * HUGE] = page;
	say("parent, after a store to each page");
	if (fork() == 0) {
		say("child, before it touches any");
		int value = *(volatile char *)at;
		say("child, after a load from the first"); /* all: the parent's table is now its own, too */
		madvise(at, GIB, MADV_DONTNEED);
		say("child, after it gave the table up");
		return value;
	}
	wait(&status);
	say("parent, after all that"); /* as before: only the child's way to the table is gone */
	return status != 0;
}
