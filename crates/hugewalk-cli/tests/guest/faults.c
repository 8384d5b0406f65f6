/* A userfaultfd that handles missing base pages, beside huge ones. Each check that fails is printed; the exit status is their
 * number. All of it holds on Linux too.
 */
#include "check.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static int uffd, seen;

/* Fills each page that is missing with its number in the range, the odd ones with zeroes. */
static void *handle(void *start)
{
	static char bytes[4096];
	struct uffd_msg message;

	for (;;) {
		struct pollfd polled = { uffd, POLLIN, 0 };
		poll(&polled, 1, -1);
		if (read(uffd, &message, sizeof(message)) != sizeof(message))
			continue;
		char *at = (char *)(uintptr_t)message.arg.pagefault.address;
		int page = (at - (char *)start) / 4096;
		CHECK(message.event == UFFD_EVENT_PAGEFAULT && !((uintptr_t)at & 4095));
		seen++;
		if (page == 7)
			return NULL;
		memset(bytes, page, sizeof(bytes));
		struct uffdio_copy copy = { (uintptr_t)at, (uintptr_t)bytes, 4096, 0, 0 };
		struct uffdio_zeropage zero = { { (uintptr_t)at, 4096 }, 0, 0 };
		if (page & 1) {
			CHECK(ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0 && zero.zeropage == 4096);
		} else {
			CHECK(ioctl(uffd, UFFDIO_COPY, &copy) == 0 && copy.copy == 4096);
			FAILS(ioctl(uffd, UFFDIO_COPY, &copy), EEXIST);
			CHECK(copy.copy == -EEXIST);
		}
	}
}

static void open_for(unsigned long features)
{
	struct uffdio_api api = { UFFD_API, features, 0 };

	uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	CHECK(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0);
}

static char *registered(int flags)
{
	char *start = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register wanted = { { (uintptr_t)start, 8 * 4096 }, UFFDIO_REGISTER_MODE_MISSING, 0 };

	CHECK(ioctl(uffd, UFFDIO_REGISTER, &wanted) == 0);
	CHECK(wanted.ioctls & 1UL << _UFFDIO_COPY && wanted.ioctls & 1UL << _UFFDIO_ZEROPAGE);
	return start;
}

static pthread_t thread;

/* Gives the range back when the handler has given up. */
static void *unregister(void *range)
{
	pthread_join(thread, NULL);
	CHECK(ioctl(uffd, UFFDIO_UNREGISTER, range) == 0);
	return NULL;
}

static void missing(int flags)
{
	int other;

	open_for(0);
	seen = 0;
	char *start = registered(flags);
	pthread_create(&thread, NULL, handle, start);
	for (int page = 0; page < 6; page++)
		CHECK(start[page * 4096 + 5] == (page & 1 ? 0 : page));
	start[6 * 4096] = 9;
	CHECK(start[6 * 4096] == 9 && start[6 * 4096 + 1] == 6 && seen == 7);
	/* A page that was given up is missing again; the file keeps its own. */
	CHECK(madvise(start + 4 * 4096, 4096, MADV_DONTNEED) == 0 && start[4 * 4096] == 4);
	CHECK(seen == (flags & MAP_SHARED ? 7 : 8));
	seen = 8;

	/* Only one handler may have a range, and none if it ends. */
	other = uffd;
	open_for(0);
	struct uffdio_register again = { { (uintptr_t)start, 4096 }, UFFDIO_REGISTER_MODE_MISSING, 0 };
	FAILS(ioctl(uffd, UFFDIO_REGISTER, &again), EBUSY);
	again.range.len = 100;
	FAILS(ioctl(uffd, UFFDIO_REGISTER, &again), EINVAL);
	close(uffd);
	uffd = other;
	/* The handler gives up on page 7: the range is given back, and the fault goes on without. */
	volatile char last;
	pthread_t given_up;
	struct uffdio_range range = { (uintptr_t)start, 8 * 4096 };
	pthread_create(&given_up, NULL, unregister, &range);
	last = start[7 * 4096];
	CHECK(last == 0 && seen == 9);
	pthread_join(given_up, NULL);
	close(uffd);
	munmap(start, 8 * 4096);
}

static sigjmp_buf back;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)context;
	siglongjmp(back, signal == SIGBUS && info->si_code == BUS_ADRERR ? 1 : 2);
}

static void signals(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &action, NULL);
	open_for(UFFD_FEATURE_SIGBUS);
	char *start = registered(MAP_PRIVATE);
	int how = sigsetjmp(back, 1);
	if (how == 0) {
		CHECK(*(volatile char *)start == 99);
	} else {
		CHECK(how == 1);
	}
	close(uffd);
	/* Without a handler the page is an ordinary one. */
	CHECK(*(volatile char *)start == 0);
	munmap(start, 8 * 4096);
}

int main(void)
{
	missing(MAP_PRIVATE);
	missing(MAP_SHARED);
	signals();
	return report();
}
