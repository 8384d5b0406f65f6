/* What /proc calls files that are mapped, where they have moved, lost their names and were closed; what their mount is told;
 * and the limits of a process. Each check that fails is printed; the exit status is their number.
 *
 * All of it holds on Linux too, for root and with 4 free huge pages.
 */
#include "check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>

/* The rest of the line of a file in /proc/self that begins with this address, from a column on. */
static const char *line_of(const char *name, const void *address, int column)
{
	static char line[512];
	char *rest;
	FILE *file = fopen(name, "r");

	while (file && fgets(line, sizeof(line), file))
		if (strtoul(line, &rest, 16) == (unsigned long)address) {
			fclose(file);
			line[strcspn(line, "\n")] = 0;
			return strlen(line) < column ? "" : column ? line + column : rest;
		}
	if (file)
		fclose(file);
	return "nothing";
}

/* Is this the name of what is mapped there, in maps and in numa_maps, where blanks are written as \040? */
static int is_called(const void *address, const char *name, const char *escaped)
{
	char wanted[256];

	if (strcmp(line_of("/proc/self/maps", address, 73), name)) {
		printf("maps: %s\n", line_of("/proc/self/maps", address, 73));
		return 0;
	}
	snprintf(wanted, sizeof(wanted), " default file=%s", escaped);
	const char *found = line_of("/proc/self/numa_maps", address, 0);
	if (!strncmp(found, wanted, strlen(wanted)) && strchr(" ", found[strlen(wanted)]))
		return 1;
	printf("numa_maps: %s\n", found);
	return 0;
}

/* A file of base or huge pages, from its first name to the end of its mount. */
static void moving(const char *kind, long size)
{
	char link[64], path[256] = { 0 };
	unsigned long number = 0;
	struct stat about;
	int file;
	char *page;

	CHECK(mkdir("/tmp/called", 0755) == 0);
	CHECK(mount("none", "/tmp/called", kind, 0, NULL) == 0);
	CHECK((file = open("/tmp/called/a", O_CREAT | O_RDWR, 0600)) >= 0 && ftruncate(file, size) == 0);
	CHECK((page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)) != MAP_FAILED);
	CHECK(is_called(page, "/tmp/called/a", "/tmp/called/a"));
	CHECK(fstat(file, &about) == 0);
	unsigned int major = ~0, minor = ~0;
	sscanf(line_of("/proc/self/maps", page, 0), "-%*lx %*s %*lx %x:%x %lu", &major, &minor, &number);
	CHECK(number == about.st_ino && (major << 8 | minor) == about.st_dev);
	CHECK(rename("/tmp/called/a", "/tmp/called/b") == 0);
	CHECK(is_called(page, "/tmp/called/b", "/tmp/called/b"));
	CHECK(mkdir("/tmp/called/c", 0755) == 0 && rename("/tmp/called/b", "/tmp/called/c/b") == 0);
	CHECK(rename("/tmp/called/c", "/tmp/called/d e") == 0);
	CHECK(is_called(page, "/tmp/called/d e/b", "/tmp/called/d\\040e/b"));
	sprintf(link, "/proc/self/fd/%d", file);
	CHECK(readlink(link, path, sizeof(path)) == 17 && !strcmp(path, "/tmp/called/d e/b"));
	CHECK(unlink("/tmp/called/d e/b") == 0);
	CHECK(readlink(link, path, sizeof(path)) == 27 && !strcmp(path, "/tmp/called/d e/b (deleted)"));
	CHECK(close(file) == 0);
	page[0] = 1;
	CHECK(is_called(page, "/tmp/called/d e/b (deleted)", "/tmp/called/d\\040e/b\\040(deleted)"));
	/* It has neither a name nor a descriptor, and yet the mount is in use. */
	FAILS(umount("/tmp/called"), EBUSY);
	CHILD({
		CHECK(munmap(page, size) == 0);
		FAILS(umount("/tmp/called"), EBUSY);
	});
	CHECK(munmap(page, size) == 0);
	CHECK(umount("/tmp/called") == 0);
	CHECK(rmdir("/tmp/called") == 0);
}

static void nameless(void)
{
	int shared = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB;
	int file = memfd_create("mem", MFD_HUGETLB | MFD_ALLOW_SEALING);
	char *page, *other;

	CHECK(ftruncate(file, HUGE) == 0 && fcntl(file, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
	CHECK((page = mmap(NULL, HUGE, PROT_READ, MAP_SHARED, file, 0)) != MAP_FAILED);
	CHECK(close(file) == 0);
	CHECK(is_called(page, "/memfd:mem (deleted)", "/memfd:mem\\040(deleted)"));
	/* A seal outlives the last descriptor. */
	FAILS(mprotect(page, HUGE, PROT_READ | PROT_WRITE), EACCES);
	CHECK(munmap(page, HUGE) == 0);

	CHECK((page = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, shared, -1, 0)) != MAP_FAILED);
	CHECK(is_called(page, "/anon_hugepage (deleted)", "/anon_hugepage\\040(deleted)"));
	CHECK(!strcmp(line_of("/proc/self/numa_maps", page, 0), " default file=/anon_hugepage\\040(deleted) huge"));
	page[0] = 1;
	CHECK(strstr(line_of("/proc/self/numa_maps", page, 0), " huge dirty=1 N0=1 kernelpagesize_kB=2048"));
	CHECK(munmap(page, HUGE) == 0);

	int segment = shmget(0x12345678, HUGE, IPC_CREAT | SHM_HUGETLB | 0600);
	CHECK((page = shmat(segment, NULL, 0)) != (char *)-1);
	CHECK(is_called(page, "/SYSV12345678 (deleted)", "/SYSV12345678\\040(deleted)"));
	CHECK(shmctl(segment, IPC_RMID, NULL) == 0);
	CHECK(is_called(page, "/SYSV12345678 (deleted)", "/SYSV12345678\\040(deleted)"));
	CHECK(shmdt(page) == 0);

	other = sbrk(0);
	CHECK(sbrk(8192) == other);
	unsigned long start = 0, end = 0;
	char line[256];
	FILE *maps = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof(line), maps) && !strstr(line, "[heap]\n"))
		;
	sscanf(line, "%lx-%lx", &start, &end);
	CHECK(start <= (unsigned long)other && end >= (unsigned long)other + 8192);
	fclose(maps);
}

static void limits(void)
{
	struct rlimit limit = { 12345, RLIM_INFINITY };
	char line[256];
	int lines = 0;

	CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
	FILE *file = fopen("/proc/self/limits", "r");
	CHECK(fgets(line, sizeof(line), file));
	CHECK(!strcmp(line, "Limit                     Soft Limit           Hard Limit           Units     \n"));
	while (fgets(line, sizeof(line), file)) {
		lines++;
		if (lines == 4)
			CHECK(!strcmp(line, "Max stack size            12345                unlimited            bytes     \n"));
		if (lines == 14)
			CHECK(!strcmp(line, "Max nice priority         0                    0                    \n"));
		if (lines == 16)
			CHECK(!strcmp(line, "Max realtime timeout      unlimited            unlimited            us        \n"));
	}
	CHECK(lines == 16);
	fclose(file);
}

int main(void)
{
	moving("hugetlbfs", HUGE);
	moving("tmpfs", 4096);
	nameless();
	limits();
	return report();
}
