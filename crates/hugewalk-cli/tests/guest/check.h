/* What the programs here have in common: checks that go on after one that fails, and the words that end a program. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE (2L << 20)

static int failed;

static void check(int good, const char *what)
{
	if (!good) {
		printf("failed: %s (%s)\n", what, strerror(errno));
		failed++;
	}
}

#define LINE_(line) "line " #line ": "
#define LINE(line) LINE_(line)
#define CHECK(what) (errno = 0, check((what) ? 1 : 0, LINE(__LINE__) #what))

/* The call fails, and with this error. */
#define FAILS(call, error) CHECK((call) == -1 && errno == (error))

/* The checks of a child count as well. */
#define CHILD(body) \
	do { \
		int status; \
		fflush(stdout); \
		pid_t child_ = fork(); \
		if (child_ == 0) { \
			failed = 0; \
			body; \
			fflush(stdout); \
			_exit(failed); \
		} \
		CHECK(waitpid(child_, &status, 0) == child_ && WIFEXITED(status)); \
		failed += WEXITSTATUS(status); \
	} while (0)

/* Returned from main. */
static int report(void)
{
	printf("%d checks failed\n", failed);
	return failed;
}
