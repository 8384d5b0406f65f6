/* What a program may expect of the states of threads, of mounts in use, and of calls that tell what is there. Each check that fails
 * is printed; the exit status is their number.
 *
 * All of it holds on Linux too, for root and with 2 free huge pages; protection keys only on a processor without them,
 * and the configuration where a distribution installs it.
 */
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#define CACHESTAT 451

/* The first number in a stat file, and the letter. */
static char state(const char *path, int *number)
{
	char letter = '?';
	FILE *file = fopen(path, "r");
	if (!file || fscanf(file, "%d %*s %c", number, &letter) != 2)
		letter = '?';
	if (file)
		fclose(file);
	return letter;
}

/* Does it come to be in this state within some seconds? */
static int becomes(const char *path, char wanted)
{
	int number;
	for (int tries = 0; tries < 5000; tries++) {
		if (state(path, &number) == wanted)
			return 1;
		usleep(1000);
	}
	return 0;
}

static volatile int spins, tid;
static int pipes[2];

static void *sleeper(void *unused)
{
	char byte;
	tid = syscall(SYS_gettid);
	return (void *)(read(pipes[0], &byte, 1) == 1 ? NULL : unused);
}

static void *spinner(void *unused)
{
	tid = syscall(SYS_gettid);
	while (spins)
		;
	return unused;
}

static void threads(void)
{
	char path[64], line[256];
	pthread_t thread;
	int number = 0, status, seen = 0;

	CHECK(pipe(pipes) == 0);
	CHECK(state("/proc/self/stat", &number) == 'R' && number == getpid());
	pthread_create(&thread, NULL, sleeper, NULL);
	while (!tid)
		usleep(1000);
	sprintf(path, "/proc/self/task/%d/stat", tid);
	CHECK(becomes(path, 'S'));
	CHECK(state(path, &number) == 'S' && number == tid);
	sprintf(path, "/proc/%d/task/%d/status", getpid(), tid);
	FILE *file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		seen += sscanf(line, "Pid: %d", &number) == 1 && number == tid;
	CHECK(file && seen == 1);
	fclose(file);
	CHECK(write(pipes[1], "x", 1) == 1);
	pthread_join(thread, NULL);
	tid = 0;
	spins = 1;
	pthread_create(&thread, NULL, spinner, NULL);
	while (!tid)
		usleep(1000);
	sprintf(path, "/proc/self/task/%d/stat", tid);
	CHECK(state(path, &number) == 'R');
	spins = 0;
	pthread_join(thread, NULL);

	/* Another process: it spins, waits, is stopped, has ended. */
	int *go = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = fork();
	if (child == 0) {
		while (!*(volatile int *)go)
			;
		pause();
		_exit(0);
	}
	sprintf(path, "/proc/%d/stat", child);
	CHECK(becomes(path, 'R'));
	for (int looks = 0; looks < 20; looks++)
		CHECK(state(path, &number) == 'R');
	*go = 1;
	CHECK(becomes(path, 'S'));
	CHECK(kill(child, SIGSTOP) == 0 && becomes(path, 'T'));
	CHECK(kill(child, SIGKILL) == 0 && becomes(path, 'Z'));
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
	munmap(go, 4096);
}

static void mounts(void)
{
	int file;
	char *page;

	mkdir("/tmp/busy", 0755);
	CHECK(mount("none", "/tmp/busy", "hugetlbfs", 0, NULL) == 0);
	CHECK((file = open("/tmp/busy/file", O_CREAT | O_RDWR, 0600)) >= 0);
	FAILS(umount("/tmp/busy"), EBUSY);
	CHECK(unlink("/tmp/busy/file") == 0);
	FAILS(umount("/tmp/busy"), EBUSY);
	close(file);
	CHECK(umount("/tmp/busy") == 0);

	CHECK(mount("none", "/tmp/busy", "tmpfs", 0, NULL) == 0);
	CHECK(chdir("/tmp/busy") == 0);
	FAILS(umount("/tmp/busy"), EBUSY);
	FAILS(umount2("/tmp/busy", MNT_FORCE), EBUSY);
	FAILS(umount2("/tmp/busy", 0x1000), EINVAL);
	CHECK(chdir("/") == 0);
	CHECK(mkdir("/tmp/busy/inner", 0755) == 0);
	CHECK(mount("none", "/tmp/busy/inner", "hugetlbfs", 0, NULL) == 0);
	FAILS(umount("/tmp/busy"), EBUSY);
	CHECK(umount("/tmp/busy/inner") == 0);
	CHECK(mkdir("/tmp/busy/a", 0755) == 0);
	CHECK((file = open("/tmp/busy/a/file", O_CREAT | O_RDWR, 0600)) >= 0 && ftruncate(file, 4096) == 0);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	FAILS(umount("/tmp/busy"), EBUSY);
	munmap(page, 4096);
	CHECK(umount("/tmp/busy") == 0);

	CHECK(mount("none", "/tmp/busy", "hugetlbfs", 0, NULL) == 0);
	CHECK((file = open("/tmp/busy/file", O_CREAT | O_RDWR, 0600)) >= 0);
	CHECK((page = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)) != MAP_FAILED);
	close(file);
	FAILS(umount("/tmp/busy"), EBUSY);
	CHECK(umount2("/tmp/busy", MNT_DETACH) == 0);
	page[0] = 1;
	CHECK(munmap(page, HUGE) == 0);
	FAILS(umount("/tmp/busy"), EINVAL);
	CHECK(rmdir("/tmp/busy") == 0);
}

/* What a mount of huge pages was made with is shown, and kept. */
static void options(void)
{
	const char *wanted = "a\\040source /tmp/busy hugetlbfs rw,relatime,uid=5,gid=6,mode=700,nr_inodes=3,pagesize=2M,"
			     "size=4194304,min_size=2097152 0 0\n";
	char line[512];
	struct stat about;
	struct statfs whole;
	int seen = 0;

	mkdir("/tmp/busy", 0755);
	CHECK(mount("a source", "/tmp/busy", "hugetlbfs", 0, "size=4M,min_size=2M,mode=700,uid=5,gid=6,nr_inodes=3") == 0);
	FILE *file = fopen("/proc/mounts", "r");
	while (file && fgets(line, sizeof(line), file))
		seen += !strcmp(line, wanted);
	CHECK(file && seen == 1);
	fclose(file);
	CHECK(stat("/tmp/busy", &about) == 0 && about.st_mode == (S_IFDIR | 0700) && about.st_uid == 5 && about.st_gid == 6);
	CHECK(about.st_nlink == 2);
	CHECK(statfs("/tmp/busy", &whole) == 0 && whole.f_blocks == 2 && whole.f_bfree == 2);
	CHECK(whole.f_files == 3 && whole.f_ffree == 2);
	CHECK(mkdir("/tmp/busy/folder", 0755) == 0 && stat("/tmp/busy", &about) == 0 && about.st_nlink == 3);
	CHECK(mknod("/tmp/busy/file", S_IFREG | 0600, 0) == 0);
	FAILS(mknod("/tmp/busy/other", S_IFREG | 0600, 0), ENOSPC);
	FAILS(mkdir("/tmp/busy/other", 0700), ENOSPC);
	CHECK(unlink("/tmp/busy/file") == 0 && mkdir("/tmp/busy/other", 0700) == 0);
	CHECK(umount("/tmp/busy") == 0);
	CHECK(mount(NULL, "/tmp/busy", "hugetlbfs", 0, "min_size=2M") == 0);
	CHECK(statfs("/tmp/busy", &whole) == 0 && whole.f_blocks == -1 && whole.f_bavail == -1 && whole.f_files == -1);
	CHECK(stat("/tmp/busy", &about) == 0 && about.st_mode == (S_IFDIR | 0755));
	CHECK(umount("/tmp/busy") == 0 && rmdir("/tmp/busy") == 0);
}

static void telling(void)
{
	unsigned long range[2] = { 0, 0 }, found[5];
	char buffer[12288] = { 0 }, path[256], line[256];
	struct utsname name;
	int seen = 0;
	int file = memfd_create("file", 0), huge = memfd_create("huge", MFD_HUGETLB);

	CHECK(ftruncate(file, 1 << 20) == 0 && pwrite(file, buffer, sizeof(buffer), 4096) == sizeof(buffer));
	memset(found, 0xff, sizeof(found));
	CHECK(syscall(CACHESTAT, file, range, found, 0) == 0 && found[0] == 3 && !found[2] && !found[3] && !found[4]);
	range[0] = 8192 + 5, range[1] = 1;
	CHECK(syscall(CACHESTAT, file, range, found, 0) == 0 && found[0] == 1);
	range[0] = 0, range[1] = 4097;
	CHECK(syscall(CACHESTAT, file, range, found, 0) == 0 && found[0] == 1);
	FAILS(syscall(CACHESTAT, -1, range, found, 0), EBADF);
	FAILS(syscall(CACHESTAT, file, NULL, found, 0), EFAULT);
	FAILS(syscall(CACHESTAT, file, range, NULL, 0), EFAULT);
	FAILS(syscall(CACHESTAT, file, range, found, 1), EINVAL);
	FAILS(syscall(CACHESTAT, huge, range, found, 0), EOPNOTSUPP);

	CHECK(posix_fadvise(huge, 0, HUGE, POSIX_FADV_WILLNEED) == 0);
	CHECK(posix_fadvise(file, 0, 0, 77) == EINVAL && posix_fadvise(file, 0, -1, POSIX_FADV_NORMAL) == EINVAL);
	CHECK(posix_fadvise(pipes[0], 0, 0, POSIX_FADV_NORMAL) == ESPIPE && posix_fadvise(-1, 0, 0, 0) == EBADF);
	close(file);
	close(huge);

	if (pkey_alloc(0, 0) == -1) {
		char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		FAILS(pkey_alloc(0, 0), ENOSPC);
		FAILS(pkey_alloc(1, 0), EINVAL);
		FAILS(pkey_alloc(0, 4), EINVAL);
		FAILS(pkey_free(1), EINVAL);
		CHECK(syscall(SYS_pkey_mprotect, page, 4096, PROT_READ | PROT_WRITE, -1) == 0);
		page[0] = 1;
		FAILS(syscall(SYS_pkey_mprotect, page, 4096, PROT_READ, 3), EINVAL);
		munmap(page, 4096);
	}

	uname(&name);
	sprintf(path, "/boot/config-%s", name.release);
	FILE *configuration = fopen(path, "r");
	while (configuration && fgets(line, sizeof(line), configuration))
		seen += strcmp(line, "CONFIG_HUGETLBFS=y\n") == 0;
	CHECK(configuration && seen == 1);
	if (configuration)
		fclose(configuration);
}

/* Folders may lie deeper than a stack of the kernel's reaches; some stay for the end of the run. */
static void deep(void)
{
	int depth = 0;

	mkdir("/tmp/deep", 0755);
	CHECK(mount("none", "/tmp/deep", "tmpfs", 0, NULL) == 0);
	CHECK(chdir("/tmp/deep") == 0);
	while (depth < 5000 && mkdir("d", 0755) == 0 && chdir("d") == 0)
		depth++;
	CHECK(depth == 5000);
	CHECK(chdir("/") == 0);
	CHECK(umount("/tmp/deep") == 0);
	CHECK(chdir("/tmp/deep") == 0);
	if (geteuid() == 0 && getppid() == 1) {
		for (depth = 0; depth < 5000 && mkdir("d", 0755) == 0 && chdir("d") == 0; depth++)
			;
		CHECK(depth == 5000);
	}
	CHECK(chdir("/") == 0);
	/* More than there is; whether it is refused is the kernel's affair. */
	if (mount("none", "/tmp/deep", "hugetlbfs", 0, "size=18446744073709551615%") == 0)
		CHECK(umount("/tmp/deep") == 0);
	if (mount("none", "/tmp/deep", "hugetlbfs", 0, "size=18446744073709551615G") == 0)
		CHECK(umount("/tmp/deep") == 0);
}

int main(void)
{
	threads();
	mounts();
	options();
	deep();
	telling();
	return report();
}
