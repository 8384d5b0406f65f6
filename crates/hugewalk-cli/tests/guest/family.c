/* What a program may expect of parents, orphans, process groups, sessions and limits. Each check that fails is printed; the exit
 * status is their number.
 *
 * All of it holds on Linux too, for root with all capabilities.
 */
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define NOBODY 65534

static int put(const char *path, const char *text)
{
	int file = open(path, O_WRONLY), result = write(file, text, strlen(text)), error = errno;
	close(file);
	errno = error;
	return result == (int)strlen(text) ? 0 : -1;
}

static int get(const char *path)
{
	int value = 12345;
	FILE *file = fopen(path, "r");
	if (file && fscanf(file, "%d", &value) != 1)
		value = 12345;
	if (file)
		fclose(file);
	return value;
}

static void orphans(void)
{
	volatile int *seen = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;

	/* Number 1 is nobody's program: whoever finds it as its parent is an orphan. */
	CHECK(getpid() != 1);
	CHILD(CHECK(getppid() != 1));
	if (fork() == 0) {
		if (fork() == 0) {
			/* Its parent has ended when the number changes. */
			for (int tries = 0; getppid() != 1 && tries < 5000; tries++)
				usleep(1000);
			seen[0] = getppid();
			seen[1] = getpid();
			_exit(3);
		}
		_exit(0);
	}
	CHECK(wait(&status) > 0 && status == 0);
	for (int tries = 0; !seen[1] && tries < 5000; tries++)
		usleep(1000);
	CHECK(seen[0] == 1);
	/* It is forgotten as it ends: not this program's child any more. */
	for (int tries = 0; kill(seen[1], 0) == 0 && tries < 5000; tries++)
		usleep(1000);
	FAILS(kill(seen[1], 0), ESRCH);
	FAILS(wait(&status), ECHILD);
	/* One that has ended before its parent does is forgotten as well. */
	CHILD(pid_t zombie = fork(); if (zombie == 0) _exit(0); seen[2] = zombie; usleep(20000));
	for (int tries = 0; kill(seen[2], 0) == 0 && tries < 5000; tries++)
		usleep(1000);
	FAILS(kill(seen[2], 0), ESRCH);
	/* Signals do nothing to the first process that it has no handler for. */
	CHECK(kill(1, 0) == 0);
	CHILD(CHECK(setuid(NOBODY) == 0); FAILS(kill(1, SIGTERM), EPERM));
	munmap((void *)seen, 4096);
}

static void groups(void)
{
	int status, pipes[2];
	char byte;

	CHILD(CHECK(setpgid(0, 0) == 0); CHECK(getpgid(0) == getpid()); CHECK(setpgid(0, 0) == 0);
	      FAILS(setpgid(0, -5), EINVAL); FAILS(setpgid(1, 0), ESRCH); FAILS(setpgid(999999, 0), ESRCH);
	      FAILS(setpgid(0, 999999), EPERM);
	      /* It leads a group, so it can lead no session. */
	      FAILS(setsid(), EPERM));
	CHILD(CHECK(setsid() == getpid()); CHECK(getsid(0) == getpid() && getpgid(0) == getpid());
	      FAILS(setsid(), EPERM); FAILS(setpgid(0, 0), EPERM));
	/* A parent may move its child, and is killed with its group only. */
	CHECK(pipe(pipes) == 0);
	pid_t first = fork();
	if (first == 0) {
		for (;;)
			pause();
	}
	pid_t second = fork();
	if (second == 0) {
		failed = 0;
		CHECK(read(pipes[0], &byte, 1) == 1);
		CHECK(getpgid(0) == first);
		_exit(failed);
	}
	CHECK(setpgid(first, first) == 0);
	CHECK(setpgid(second, first) == 0);
	CHECK(write(pipes[1], "x", 1) == 1);
	CHECK(waitpid(second, &status, 0) == second && status == 0);
	CHECK(waitpid(-first, &status, WNOHANG) == 0);
	CHECK(kill(-first, SIGKILL) == 0);
	CHECK(waitpid(-first, &status, 0) == first && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	FAILS(kill(-first, SIGKILL), ESRCH);
	close(pipes[0]);
	close(pipes[1]);
}

static void out_of_memory(void)
{
	char path[64];

	sprintf(path, "/proc/%d/oom_score_adj", getpid());
	CHECK(put(path, "-1000") == 0);
	CHECK(get(path) == -1000 && get("/proc/self/oom_score_adj") == -1000);
	CHILD(CHECK(get("/proc/self/oom_score_adj") == -1000); CHECK(put("/proc/self/oom_score_adj", "0\n") == 0);
	      CHECK(get("/proc/self/oom_score_adj") == 0); CHECK(get(path) == -1000));
	FAILS(put(path, "1001"), EINVAL);
	FAILS(put(path, "-1001"), EINVAL);
	FAILS(put(path, "soon"), EINVAL);
	CHECK(put(path, "0") == 0);
}

static void limits(void)
{
	struct rlimit limit = { 100, 200 }, more = { 100, 300 };

	CHILD(CHECK(setrlimit(RLIMIT_NPROC, &limit) == 0); CHECK(setrlimit(RLIMIT_NPROC, &more) == 0);
	      CHECK(setrlimit(RLIMIT_NPROC, &limit) == 0); CHECK(setuid(NOBODY) == 0);
	      FAILS(setrlimit(RLIMIT_NPROC, &more), EPERM); limit.rlim_cur = 200;
	      CHECK(setrlimit(RLIMIT_NPROC, &limit) == 0); limit.rlim_cur = 201;
	      FAILS(setrlimit(RLIMIT_NPROC, &limit), EINVAL));
}

int main(void)
{
	orphans();
	groups();
	out_of_memory();
	limits();
	return report();
}
