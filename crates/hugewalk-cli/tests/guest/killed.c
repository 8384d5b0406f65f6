/* What becomes of a process that is killed while it waits for a handler of its page faults, and of copies from memory that is not
 * there yet. Each check that fails is printed; the exit status is their number.
 *
 * It asks for what Linux documents, as root and with 16 free pages in the pool.
 */
#include "check.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define HUGE_PAGES (MAP_ANONYMOUS | MAP_SHARED | MAP_HUGETLB)
#define BASE_PAGES (MAP_ANONYMOUS | MAP_PRIVATE)

static int open_for(unsigned long features)
{
	struct uffdio_api api = { UFFD_API, features, 0 };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	CHECK(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0);
	return uffd;
}

/* Four pages whose faults the handler gets. */
static char *registered(int uffd, int flags)
{
	char *start = mmap(NULL, 4 * HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	struct uffdio_register all = { { (uintptr_t)start, 4 * HUGE }, UFFDIO_REGISTER_MODE_MISSING, 0 };

	CHECK(start != MAP_FAILED && ioctl(uffd, UFFDIO_REGISTER, &all) == 0);
	return start;
}

/* Waits some seconds for the end of a child, and says what killed it. */
static int killed_by(pid_t pid)
{
	int status = 0;

	for (int tries = 0; tries < 400; tries++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
		usleep(20000);
	}
	return -1;
}

/* A child that waits for a handler, which another process keeps and never looks at. */
static void while_it_waits(int flags, void (*wait)(char *start), unsigned long features)
{
	int ready[2], status;
	pid_t child, keeper = 0;

	fflush(stdout);
	CHECK(pipe(ready) == 0 && (child = fork()) >= 0);
	if (child == 0) {
		int uffd = open_for(features);
		char *start = registered(uffd, flags);
		pid_t keeps = fork();

		if (keeps == 0)
			for (;;)
				pause();
		write(ready[1], &keeps, sizeof(keeps));
		wait(start);
		_exit(1);
	}
	CHECK(read(ready[0], &keeper, sizeof(keeper)) == sizeof(keeper) && keeper > 0);
	usleep(200000);
	CHECK(waitpid(child, &status, WNOHANG) == 0);
	CHECK(kill(child, SIGKILL) == 0);
	CHECK(killed_by(child) == SIGKILL);
	kill(keeper, SIGKILL);
	close(ready[0]);
	close(ready[1]);
}

static void load(char *start)
{
	*(volatile char *)start;
}

static void drop(char *start)
{
	madvise(start, HUGE, MADV_DONTNEED);
}

static char *shared;

static int load_first(void *unused)
{
	(void)unused;
	load(shared);
	return 1;
}

static void *load_second(void *unused)
{
	(void)unused;
	return (void *)(long)*(volatile char *)(shared + HUGE);
}

/* A process that shares the memory is killed. The handler goes on with the others. */
static void one_of_two(int flags)
{
	static char stack[65536], bytes[HUGE];
	struct uffd_msg message;
	pthread_t thread;
	void *seen = NULL;
	int uffd = open_for(0);
	pid_t child;

	shared = registered(uffd, flags);
	CHECK((child = clone(load_first, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL)) > 0);
	CHECK(read(uffd, &message, sizeof(message)) == sizeof(message));
	CHECK(message.arg.pagefault.address == (uintptr_t)shared);
	CHECK(kill(child, SIGKILL) == 0 && killed_by(child) == SIGKILL);
	pthread_create(&thread, NULL, load_second, NULL);
	CHECK(read(uffd, &message, sizeof(message)) == sizeof(message));
	CHECK(message.arg.pagefault.address == (uintptr_t)shared + HUGE);
	memset(bytes, 7, sizeof(bytes));
	struct uffdio_copy copy = { (uintptr_t)shared + HUGE, (uintptr_t)bytes, HUGE, 0, 0 };
	CHECK(ioctl(uffd, UFFDIO_COPY, &copy) == 0 && copy.copy == HUGE);
	pthread_join(thread, &seen);
	CHECK((long)seen == 7);
	close(uffd);
	munmap(shared, 4 * HUGE);
}

/* The bytes for huge pages lie where nothing is mapped yet. */
static void from_memory_that_is_not_there(void)
{
	int uffd = open_for(0), file = memfd_create("source", MFD_HUGETLB);
	char *to = registered(uffd, HUGE_PAGES), *from, *again, *none;

	CHECK(file >= 0 && ftruncate(file, 2 * HUGE) == 0);
	CHECK((from = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)) != MAP_FAILED);
	memset(from, 5, HUGE);
	memset(from + HUGE, 6, HUGE);
	CHECK((again = mmap(NULL, 2 * HUGE, PROT_READ, MAP_SHARED, file, 0)) != MAP_FAILED);
	struct uffdio_copy copy = { (uintptr_t)to, (uintptr_t)again, 2 * HUGE, 0, 0 };
	CHECK(ioctl(uffd, UFFDIO_COPY, &copy) == 0 && copy.copy == 2 * HUGE);
	CHECK(to[0] == 5 && to[HUGE - 1] == 5 && to[HUGE] == 6 && to[2 * HUGE - 1] == 6);

	/* Base pages that were never touched, and behind them nothing. */
	CHECK((none = mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE, BASE_PAGES, -1, 0)) != MAP_FAILED);
	none[1234567] = 9;
	munmap(none + HUGE + HUGE / 2, HUGE + HUGE / 2);
	struct uffdio_copy half = { (uintptr_t)to + 2 * HUGE, (uintptr_t)none, 2 * HUGE, 0, 0 };
	CHECK(ioctl(uffd, UFFDIO_COPY, &half) == -1 && errno == EAGAIN && half.copy == HUGE);
	CHECK(to[2 * HUGE] == 0 && to[2 * HUGE + 1234567] == 9);
	struct uffdio_copy bad = { (uintptr_t)to + 3 * HUGE, (uintptr_t)none + HUGE, HUGE, 0, 0 };
	CHECK(ioctl(uffd, UFFDIO_COPY, &bad) == -1 && errno == EFAULT && bad.copy == -EFAULT);
	bad.src = (uintptr_t)none;
	bad.copy = 0;
	CHECK(ioctl(uffd, UFFDIO_COPY, &bad) == 0 && to[3 * HUGE + 1234567] == 9);
	close(uffd);
	close(file);
	munmap(to, 4 * HUGE);
	munmap(from, 2 * HUGE);
	munmap(again, 2 * HUGE);
	munmap(none, HUGE + HUGE / 2);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	while_it_waits(HUGE_PAGES, load, 0);
	while_it_waits(BASE_PAGES, load, 0);
	while_it_waits(HUGE_PAGES, drop, UFFD_FEATURE_EVENT_REMOVE);
	while_it_waits(BASE_PAGES, drop, UFFD_FEATURE_EVENT_REMOVE);
	one_of_two(HUGE_PAGES);
	one_of_two(BASE_PAGES);
	from_memory_that_is_not_there();
	return report();
}
