/* What system calls do at the edges of huge pages, and what they refuse. Each check that fails is printed; the exit status is
 * their number.
 *
 * All of it holds on Linux 6.12 too, for root and with 8 free huge pages.
 */
#include "check.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#define RW (PROT_READ | PROT_WRITE)
#define HUGE_PAGES (MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB)
#define BARRIER_GLOBAL 1
#define BARRIER_PRIVATE 8
#define BARRIER_REGISTER 16

/* Addresses for so many huge pages, where nothing is mapped. */
static char *room(long pages)
{
	char *start = mmap(NULL, (pages + 1) * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	munmap(start, (pages + 1) * HUGE);
	return (char *)(((unsigned long)start + HUGE - 1) & ~(HUGE - 1));
}

static char *map(char *at, long pages)
{
	char *mapped = mmap(at, pages * HUGE, RW, HUGE_PAGES | MAP_FIXED, -1, 0);
	CHECK(mapped == at);
	return mapped;
}

static void mapping(void)
{
	char *at = room(4), *page = map(at, 1);
	int zero = open("/dev/zero", O_RDWR), file = memfd_create("file", MFD_HUGETLB);
	char path[64];

	FAILS((long)mmap(NULL, HUGE, RW, HUGE_PAGES | MAP_GROWSDOWN, -1, 0), EINVAL);
	FAILS((long)mmap(NULL, 4096, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0), EINVAL);
	FAILS((long)mmap(NULL, HUGE, RW, HUGE_PAGES, -1, 4096), EINVAL);
	FAILS((long)mmap(NULL, HUGE, RW, MAP_PRIVATE | MAP_HUGETLB, zero, 0), EINVAL);
	CHECK(msync(page, HUGE, MS_SYNC | MS_INVALIDATE) == 0);
	FAILS(msync(page, HUGE, MS_SYNC | MS_ASYNC), EINVAL);
	FAILS(msync(page, HUGE, 8), EINVAL);
	FAILS(fcntl(file, F_SETFL, O_DIRECT), EINVAL);
	sprintf(path, "/proc/self/fd/%d", file);
	FAILS(open(path, O_RDWR | O_DIRECT), EINVAL);
	FAILS(fsetxattr(file, "user.a", "b", 1, 0), EOPNOTSUPP);
	FAILS(setxattr("/nowhere", "user.a", "b", 1, 0), ENOENT);
	munmap(page, HUGE);
	close(zero);
	close(file);
}

static void policies(void)
{
	unsigned long first = 1, second = 2, found = 0;
	void *pages[1];
	int mode, node = 0, status = 7;
	char *page = map(room(1), 1);

	page[0] = 1;
	pages[0] = page;
	CHECK(syscall(SYS_mbind, page, HUGE, MPOL_BIND, &first, 64, MPOL_MF_STRICT | MPOL_MF_MOVE) == 0);
	FAILS(syscall(SYS_mbind, page, HUGE, MPOL_BIND, &first, 64, 99), EINVAL);
	FAILS(syscall(SYS_mbind, page, HUGE, MPOL_DEFAULT, &first, 64, 0), EINVAL);
	FAILS(syscall(SYS_mbind, page, HUGE, MPOL_BIND, &second, 64, 0), EINVAL);
	CHECK(syscall(SYS_get_mempolicy, &mode, &found, 64, page, MPOL_F_ADDR) == 0 && mode == MPOL_BIND && found == 1);
	FAILS(syscall(SYS_get_mempolicy, &mode, &found, 64, page, 0), EINVAL);
	FAILS(syscall(SYS_get_mempolicy, &mode, &found, 64, NULL, 99), EINVAL);
	found = 0;
	CHECK(syscall(SYS_get_mempolicy, NULL, &found, 64, NULL, MPOL_F_MEMS_ALLOWED) == 0 && found == 1);
	FAILS(syscall(SYS_set_mempolicy, 99, &first, 64), EINVAL);
	CHECK(syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0) == 0);
	CHECK(syscall(SYS_move_pages, 0, 1, pages, &node, &status, MPOL_MF_MOVE) == 0 && status == 0);
	FAILS(syscall(SYS_move_pages, 0, 1, pages, &node, &status, 99), EINVAL);
	CHECK(syscall(SYS_migrate_pages, 0, 64, &first, &first) == 0);
	FAILS(syscall(SYS_migrate_pages, 0, 64, &first, &second), EINVAL);
	munmap(page, HUGE);
}

static long attached(int segment)
{
	struct shmid_ds about;
	return shmctl(segment, IPC_STAT, &about) == 0 ? (long)about.shm_nattch : -errno;
}

/* An attachment is a mapping: it may be split, and unmapped by any call. */
static void attachments(int flags, long page)
{
	int segment = shmget(IPC_PRIVATE, 2 * page, IPC_CREAT | flags | 0600);
	char *at = room(8);

	CHECK(segment >= 0 && shmat(segment, at, 0) == at && attached(segment) == 1);
	if (page > 4096)
		FAILS((long)shmat(segment, at + 4 * page + page / 2, SHM_RND), EINVAL);
	FAILS((long)shmat(segment, NULL, SHM_REMAP), EINVAL);
	FAILS((long)shmat(segment, at, 0), EINVAL);
	CHECK(attached(segment) == 1);
	CHECK(shmat(segment, at, SHM_REMAP) == at && attached(segment) == 1);
	CHECK(mprotect(at, page, PROT_READ) == 0 && attached(segment) == 2);
	CHECK(munmap(at, page) == 0 && attached(segment) == 1);
	CHECK(shmat(segment, at + 4 * page, SHM_RDONLY) == at + 4 * page && attached(segment) == 2);
	CHILD(CHECK(attached(segment) == 4 && munmap(at + page, page) == 0 && attached(segment) == 3));
	CHECK(attached(segment) == 2);
	CHECK(mmap(at + 4 * page, 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	CHECK(attached(segment) == 1);
	CHECK(shmctl(segment, IPC_RMID, NULL) == 0 && attached(segment) == 1);
	/* What is left of it started at `at`. */
	FAILS(shmdt(at + page), EINVAL);
	CHECK(shmdt(at) == 0 && attached(segment) == -EINVAL);
	munmap(at + 4 * page, 2 * page);
}

/* Nothing is behind the second page. */
static void edges(void)
{
	char *page = map(room(3), 2), *end = page + 2 * HUGE, bytes[100];
	int file = memfd_create("bytes", 0), huge = memfd_create("huge", MFD_HUGETLB), ends[2];
	struct iovec vector = { end - 13, 100 };

	memset(bytes, 'b', sizeof(bytes));
	memset(end - 4096, 'h', 4096);
	CHECK(write(file, end - 10, 100) == 10);
	CHECK(write(file, bytes, 100) == 100);
	CHECK(pread(file, end - 11, 100, 10) == 11 && end[-12] == 'h' && end[-11] == 'b' && end[-1] == 'b');
	FAILS(pread(file, end, 100, 10), EFAULT);
	CHECK(ftruncate(huge, HUGE) == 0);
	FAILS(sendfile(file, huge, NULL, 100), EINVAL);
	CHECK(pipe2(ends, O_NONBLOCK) == 0);
	CHECK(vmsplice(ends[1], &vector, 1, 0) == 13);
	while (read(ends[0], bytes, sizeof(bytes)) > 0)
		;
	vector.iov_len = 10;
	FAILS(vmsplice(ends[1], &vector, 1, 99), EINVAL);
	FAILS(vmsplice(file, &vector, 1, 0), EBADF);
	CHECK(write(ends[1], "out of it", 10) == 10);
	CHECK(vmsplice(ends[0], &vector, 1, 0) == 10 && !strcmp(end - 13, "out of it"));
	int memory = open("/proc/self/mem", O_RDWR);
	CHECK(pwrite(memory, "mem", 4, (long)page + HUGE - 2) == 4 && !strcmp(page + HUGE - 2, "mem"));
	CHECK(pread(memory, bytes, 3, (long)page + HUGE - 1) == 3 && !memcmp(bytes, "em", 3));
	FAILS(pread(memory, bytes, 1, (long)end), EIO);
	CHILD({
		char path[64];
		sprintf(path, "/proc/%d/mem", getppid());
		CHECK(setuid(65534) == 0);
		FAILS(open(path, O_RDONLY), EACCES);
	});
	close(memory);
	close(file);
	close(huge);
	close(ends[0]);
	close(ends[1]);
	munmap(page, 2 * HUGE);
}

static sigjmp_buf back;
static siginfo_t seen;
static char *stack_used;

static void note(int signal, siginfo_t *info, void *context)
{
	char here;
	seen = *info;
	stack_used = &here;
	if (signal == SIGSEGV)
		siglongjmp(back, 1);
	stack_t other = { &here, 0, HUGE };
	FAILS(sigaltstack(&other, NULL), signal == SIGUSR1 ? EPERM : 0);
}

static void signals(void)
{
	struct sigaction action = { .sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t stack = { map(room(1), 1), 0, HUGE }, old;
	char *start = stack.ss_sp;
	union sigval value = { .sival_int = 77 };

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(sigaltstack(&stack, NULL) == 0);
	raise(SIGUSR1);
	CHECK(seen.si_signo == SIGUSR1 && stack_used > start && stack_used < start + HUGE);
	CHECK(sigqueue(getpid(), SIGUSR1, value) == 0);
	CHECK(seen.si_code == SI_QUEUE && seen.si_value.sival_int == 77 && seen.si_pid == getpid());
	FAILS(sigqueue(getpid(), 65, value), EINVAL);
	FAILS(sigqueue(1 << 22, SIGUSR1, value), ESRCH);
	seen.si_code = SI_USER;
	FAILS(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &seen), EPERM);
	CHILD({
		CHECK(sigaltstack(NULL, &old) == 0 && old.ss_sp == start && old.ss_flags == 0);
		/* No frame fits there: another handler is told so, on its own stack. */
		action.sa_flags = SA_SIGINFO;
		CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
		CHECK(mprotect(start, HUGE, PROT_READ) == 0);
		if (!sigsetjmp(back, 1)) {
			raise(SIGUSR1);
			CHECK(!"a frame where none may be");
		}
		CHECK(seen.si_signo == SIGSEGV && seen.si_code == SI_KERNEL);
	});
	stack.ss_flags = 99;
	FAILS(sigaltstack(&stack, NULL), EINVAL);
	stack.ss_flags = SS_DISABLE;
	CHECK(sigaltstack(&stack, NULL) == 0);
	munmap(start, HUGE);
}

static void barriers(void)
{
	char arguments[8192] = { 0 };

	CHECK((syscall(SYS_membarrier, 0, 0, 0) & 0x1f) == 0x1f);
	CHECK(syscall(SYS_membarrier, BARRIER_GLOBAL, 0, 0) == 0);
	FAILS(syscall(SYS_membarrier, BARRIER_PRIVATE, 0, 0), EPERM);
	CHECK(syscall(SYS_membarrier, BARRIER_REGISTER, 0, 0) == 0);
	CHECK(syscall(SYS_membarrier, BARRIER_PRIVATE, 0, 0) == 0);
	FAILS(syscall(SYS_membarrier, BARRIER_PRIVATE, 99, 0), EINVAL);
	FAILS(syscall(SYS_membarrier, 1 << 30, 0, 0), EINVAL);
	FAILS(syscall(SYS_clone3, arguments, 8192), E2BIG);
	FAILS(syscall(SYS_clone3, arguments, 8), EINVAL);
}

int main(void)
{
	mapping();
	policies();
	attachments(SHM_HUGETLB, HUGE);
	attachments(0, 4096);
	edges();
	signals();
	barriers();
	return report();
}
