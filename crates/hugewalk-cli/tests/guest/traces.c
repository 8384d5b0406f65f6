/* What a debugger may expect of ptrace, and a program of signals that stop it and of locks whose owner dies. Each check that fails
 * is printed; the exit status is their number.
 *
 * All of it holds on Linux too; what is about huge pages wants 4 free ones, and is left out with an argument.
 */
#include "check.h"

#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>

static int status;

/* The next thing that happens to the child is a stop by this signal. */
#define STOPS(child, by) CHECK(waitpid(child, &status, 0) == (child) && WIFSTOPPED(status) && WSTOPSIG(status) == (by))
#define ENDS(child, with) CHECK(waitpid(child, &status, 0) == (child) && WIFEXITED(status) && WEXITSTATUS(status) == (with))
#define EVENT(child, event) CHECK(waitpid(child, &status, 0) == (child) && status >> 8 == (SIGTRAP | (event) << 8))

#if defined(__x86_64__)
#define PC(registers) (registers).rip
#define RESULT(registers) (registers).rax
#define ARGUMENT(registers) (registers).rdi
#define TRAP_CODE 0xcc
#define TRAP_SIZE 1
#else
#define PC(registers) (registers).pc
#define RESULT(registers) (registers).regs[0]
#define ARGUMENT(registers) (registers).regs[0]
#define TRAP_CODE 0xd4200000
#define TRAP_SIZE 0
#endif

static void get(pid_t child, struct user_regs_struct *registers)
{
	struct iovec vector = { registers, sizeof(*registers) };

	CHECK(ptrace(PTRACE_GETREGSET, child, NT_PRSTATUS, &vector) == 0 && vector.iov_len == sizeof(*registers));
}

static void set(pid_t child, struct user_regs_struct *registers)
{
	struct iovec vector = { registers, sizeof(*registers) };

	CHECK(ptrace(PTRACE_SETREGSET, child, NT_PRSTATUS, &vector) == 0);
}

static volatile long counter = 5;

__attribute__((noinline)) static long answer(long value)
{
	counter += value;
	return counter;
}

/* Signals, memory and registers of a child that asks for it. */
static void memory_and_registers(void)
{
	struct user_regs_struct registers;
	siginfo_t info;
	long word;
	pid_t child = fork();

	if (child == 0) {
		signal(SIGUSR2, SIG_IGN);
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(1);
		raise(SIGUSR1);
		raise(SIGUSR2);
		_exit(answer(1) & 0xff);
	}
	STOPS(child, SIGUSR1);
	CHECK(ptrace(PTRACE_GETSIGINFO, child, 0, &info) == 0);
	CHECK(info.si_signo == SIGUSR1 && info.si_code == SI_TKILL && info.si_pid == child);
	CHECK(ptrace(PTRACE_PEEKDATA, child, &counter, 0) == 5);
	CHECK(ptrace(PTRACE_POKEDATA, child, &counter, 41) == 0 && counter == 5);
	FAILS(ptrace(PTRACE_PEEKDATA, child, 8, 0), EIO);
	FAILS(ptrace(PTRACE_POKEDATA, child, 8, 0), EIO);
	FAILS(ptrace(PTRACE_ATTACH, child, 0, 0), EPERM);
	FAILS(ptrace(PTRACE_CONT, child, 0, 65), EIO);
	/* The signal is taken away; one that is ignored is seen all the same. */
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	STOPS(child, SIGUSR2);
	/* A breakpoint in code, which the child may not write to. */
	word = ptrace(PTRACE_PEEKTEXT, child, answer, 0);
	CHECK(ptrace(PTRACE_POKETEXT, child, answer, (word & (TRAP_SIZE ? ~0xffL : ~0xffffffffL)) | TRAP_CODE) == 0);
	CHECK(ptrace(PTRACE_CONT, child, 0, SIGUSR2) == 0);
	STOPS(child, SIGTRAP);
	get(child, &registers);
	CHECK(PC(registers) == (uintptr_t)answer + TRAP_SIZE && ARGUMENT(registers) == 1);
	CHECK(*(unsigned char *)answer == (unsigned char)word);
	CHECK(ptrace(PTRACE_POKETEXT, child, answer, word) == 0);
	PC(registers) = (uintptr_t)answer;
	ARGUMENT(registers) = 2;
	set(child, &registers);
	CHECK(ptrace(PTRACE_SINGLESTEP, child, 0, 0) == 0);
	STOPS(child, SIGTRAP);
	CHECK(ptrace(PTRACE_GETSIGINFO, child, 0, &info) == 0 && info.si_code == TRAP_TRACE);
	get(child, &registers);
	CHECK(PC(registers) > (uintptr_t)answer && PC(registers) < (uintptr_t)answer + 16);
	CHECK(ptrace(PTRACE_DETACH, child, 0, 0) == 0);
	FAILS(ptrace(PTRACE_PEEKDATA, child, &counter, 0), ESRCH);
	ENDS(child, 43);
}

static long in_call(pid_t child, int begins)
{
	struct __ptrace_syscall_info info;

	CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80));
	CHECK(ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info) == (begins ? 80 : 33));
	CHECK(info.op == (begins ? PTRACE_SYSCALL_INFO_ENTRY : PTRACE_SYSCALL_INFO_EXIT));
	return begins ? (long)info.entry.nr : (long)info.exit.rval;
}

/* Each system call is seen at both ends, can be changed and taken away. */
static void calls(void)
{
	struct user_regs_struct registers;
	pid_t child = fork();

	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		long first = syscall(SYS_getppid), second = syscall(SYS_getpgid, 12345), third = syscall(SYS_gettid);
		_exit(first == 77 && second == -1 && errno == ENOSYS && third == getpid() ? 7 : 1);
	}
	STOPS(child, SIGSTOP);
	CHECK(ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD) == 0);
	FAILS(ptrace(PTRACE_SETOPTIONS, child, 0, 1L << 30), EINVAL);
	CHECK(ptrace(PTRACE_SYSCALL, child, 0, 0) == 0);
	/* The call that sent the signal is over. */
	long number = in_call(child, 1);
	for (int tries = 0; number != SYS_getppid && tries < 20; tries++) {
		CHECK(ptrace(PTRACE_SYSCALL, child, 0, 0) == 0);
		in_call(child, 0);
		CHECK(ptrace(PTRACE_SYSCALL, child, 0, 0) == 0);
		number = in_call(child, 1);
	}
	CHECK(ptrace(PTRACE_SYSCALL, child, 0, 0) == 0);
	CHECK(in_call(child, 0) == getpid());
	get(child, &registers);
	RESULT(registers) = 77;
	set(child, &registers);
	CHECK(ptrace(PTRACE_SYSCALL, child, 0, 0) == 0);
	CHECK(in_call(child, 1) == SYS_getpgid);
#if defined(__x86_64__)
	get(child, &registers);
	CHECK(registers.orig_rax == SYS_getpgid && registers.rax == -ENOSYS && registers.rdi == 12345);
	CHECK(ptrace(PTRACE_PEEKUSER, child, 8 * 15, 0) == SYS_getpgid);
	CHECK(ptrace(PTRACE_POKEUSER, child, 8 * 15, -1) == 0);
#else
	int none = -1;
	struct iovec vector = { &none, sizeof(none) };
	CHECK(ptrace(PTRACE_SETREGSET, child, NT_ARM_SYSTEM_CALL, &vector) == 0);
	get(child, &registers);
	registers.regs[0] = -ENOSYS;
	set(child, &registers);
#endif
	CHECK(ptrace(PTRACE_SYSCALL, child, 0, 0) == 0);
	CHECK(in_call(child, 0) == -ENOSYS);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	ENDS(child, 7);
}

static void handler(int number)
{
	counter = 100 + number;
}

/* Attaching to a process that waits, and letting it have a signal instead of another. */
static void attached(void)
{
	siginfo_t info;
	pid_t child = fork();

	if (child == 0) {
		signal(SIGUSR1, handler);
		signal(SIGUSR2, handler);
		pause();
		_exit(counter);
	}
	FAILS(ptrace(PTRACE_ATTACH, getpid(), 0, 0), EPERM);
	FAILS(ptrace(PTRACE_ATTACH, 30000, 0, 0), ESRCH);
	usleep(50000);
	CHECK(ptrace(PTRACE_ATTACH, child, 0, 0) == 0);
	STOPS(child, SIGSTOP);
	CHECK(ptrace(PTRACE_GETSIGINFO, child, 0, &info) == 0 && info.si_signo == SIGSTOP);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	FAILS(ptrace(PTRACE_PEEKDATA, child, &counter, 0), ESRCH);
	usleep(50000);
	/* It still waits: nothing but the tracer's stop had come. */
	CHECK(waitpid(child, &status, WNOHANG) == 0);
	CHECK(kill(child, SIGUSR1) == 0);
	STOPS(child, SIGUSR1);
	CHECK(ptrace(PTRACE_CONT, child, 0, SIGUSR2) == 0);
	ENDS(child, 100 + SIGUSR2);

	child = fork();
	if (child == 0) {
		for (;;)
			counter++;
	}
	FAILS(ptrace(PTRACE_INTERRUPT, child, 0, 0), ESRCH);
	CHECK(ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_EXITKILL) == 0);
	CHECK(waitpid(child, &status, WNOHANG) == 0);
	CHECK(ptrace(PTRACE_INTERRUPT, child, 0, 0) == 0);
	EVENT(child, PTRACE_EVENT_STOP);
	CHECK(ptrace(PTRACE_KILL, child, 0, 0) == 0 || errno == ESRCH);
	CHECK(kill(child, SIGKILL) == 0);
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* What a child makes is traced too, if that was asked for. */
static void events(char *self)
{
	unsigned long made;
	pid_t child = fork();

	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		pid_t own = fork();
		if (own == 0)
			_exit(3);
		waitpid(own, &status, 0);
		execl(self, self, "--exit", NULL);
		_exit(1);
	}
	STOPS(child, SIGSTOP);
	CHECK(ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT) == 0);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	EVENT(child, PTRACE_EVENT_FORK);
	CHECK(ptrace(PTRACE_GETEVENTMSG, child, 0, &made) == 0 && made != (unsigned long)child);
	STOPS((pid_t)made, SIGSTOP);
	CHECK(ptrace(PTRACE_CONT, (pid_t)made, 0, 0) == 0);
	EVENT((pid_t)made, PTRACE_EVENT_EXIT);
	CHECK(ptrace(PTRACE_CONT, (pid_t)made, 0, 0) == 0);
	/* The tracer waits for it before its parent can. */
	ENDS((pid_t)made, 3);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	/* The parent of the other is told of its end. */
	STOPS(child, SIGCHLD);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	EVENT(child, PTRACE_EVENT_EXEC);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	EVENT(child, PTRACE_EVENT_EXIT);
	CHECK(ptrace(PTRACE_GETEVENTMSG, child, 0, &made) == 0 && made == 9 << 8);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	ENDS(child, 9);
}

static void *exits(void *unused)
{
	syscall(SYS_exit, 0);
	return unused;
}

/* A child that tells its tracer of its end has its status already: what it is sent then changes nothing, and does not let it go on. */
static void ends_in_three_ways(void)
{
	static const int ways[] = { 0, SIGTERM, SIGKILL }, statuses[] = { 3 << 8, SIGTERM, SIGKILL };
	unsigned long told;

	for (int which = 0; which < 3; which++) {
		pid_t child = fork();

		if (child == 0) {
			if (ptrace(PTRACE_TRACEME, 0, 0, 0))
				_exit(1);
			raise(SIGSTOP);
			if (ways[which])
				kill(getpid(), ways[which]);
			_exit(3);
		}
		STOPS(child, SIGSTOP);
		CHECK(ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACEEXIT) == 0);
		CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
		if (ways[which] == SIGTERM) {
			STOPS(child, SIGTERM);
			CHECK(ptrace(PTRACE_CONT, child, 0, SIGTERM) == 0);
		}
		EVENT(child, PTRACE_EVENT_EXIT);
		CHECK(kill(child, SIGKILL) == 0);
		usleep(50000);
		CHECK(waitpid(child, &status, WNOHANG) == 0);
		CHECK(ptrace(PTRACE_GETEVENTMSG, child, 0, &told) == 0 && told == (unsigned long)statuses[which]);
		CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
		CHECK(waitpid(child, &status, 0) == child && status == statuses[which]);
	}
}

/* One thread tells of its end, and the process goes on: if that is killed, so is the thread in its stop. */
static void killed_beside_a_thread_that_ends(void)
{
	unsigned long made;
	pthread_t thread;
	pid_t child = fork();

	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(1);
		raise(SIGSTOP);
		pthread_create(&thread, NULL, exits, NULL);
		for (;;)
			pause();
	}
	STOPS(child, SIGSTOP);
	CHECK(ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXIT) == 0);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	EVENT(child, PTRACE_EVENT_CLONE);
	CHECK(ptrace(PTRACE_GETEVENTMSG, child, 0, &made) == 0 && made != (unsigned long)child);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	CHECK(waitpid((pid_t)made, &status, __WALL) == (pid_t)made && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	CHECK(ptrace(PTRACE_CONT, (pid_t)made, 0, 0) == 0);
	CHECK(waitpid((pid_t)made, &status, __WALL) == (pid_t)made && status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8));
	CHECK(kill(child, SIGKILL) == 0);
	CHECK(waitpid((pid_t)made, &status, __WALL) == (pid_t)made && status == SIGKILL);
	EVENT(child, PTRACE_EVENT_EXIT);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Huge pages: what a debugger stores in a private one is the child's alone. */
static void huge(void)
{
	int both[2];
	char *shared = mmap(0, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	char *private = mmap(0, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	CHECK(shared != MAP_FAILED && private != MAP_FAILED && pipe(both) == 0);
	shared[0] = private[0] = 1;
	pid_t child = fork();
	if (child == 0) {
		char seen;

		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		mprotect(private, HUGE, PROT_READ);
		raise(SIGSTOP);
		_exit(read(both[0], &seen, 1) == 1 ? shared[0] + private[0] + private[8] : 1);
	}
	STOPS(child, SIGSTOP);
	CHECK(ptrace(PTRACE_PEEKDATA, child, private, 0) == 1 && ptrace(PTRACE_PEEKDATA, child, private + HUGE - 8, 0) == 0);
	CHECK(ptrace(PTRACE_POKEDATA, child, shared, 20) == 0 && shared[0] == 20);
	CHECK(ptrace(PTRACE_POKEDATA, child, private, 30) == 0 && private[0] == 1);
	CHECK(ptrace(PTRACE_PEEKDATA, child, private, 0) == 30);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	STOPS(child, SIGSTOP);
	/* No force in huge pages. */
	FAILS(ptrace(PTRACE_POKEDATA, child, private, 31), EIO);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	CHECK(write(both[1], "x", 1) == 1);
	ENDS(child, 50);
	munmap(shared, HUGE);
	munmap(private, HUGE);
}

/* Signals that stop a process without a tracer. */
static void stopped(void)
{
	siginfo_t info;
	pid_t child = fork();

	if (child == 0) {
		for (;;)
			pause();
	}
	CHECK(waitpid(child, &status, WUNTRACED | WNOHANG) == 0);
	CHECK(kill(child, SIGSTOP) == 0);
	CHECK(waitid(P_PID, child, &info, WSTOPPED | WNOWAIT) == 0 && info.si_code == CLD_STOPPED && info.si_status == SIGSTOP);
	CHECK(waitpid(child, &status, WUNTRACED) == child && status == (SIGSTOP << 8 | 0x7f));
	CHECK(waitpid(child, &status, WUNTRACED | WCONTINUED | WNOHANG) == 0);
	CHECK(kill(child, SIGCONT) == 0);
	CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
	CHECK(kill(child, SIGTSTP) == 0);
	CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
	/* A process that is stopped can be killed. */
	CHECK(kill(child, SIGKILL) == 0);
	CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	FAILS(waitpid(child, &status, 0), ECHILD);
	FAILS(waitid(P_ALL, 0, &info, 0), EINVAL);
	FAILS(waitpid(-1, &status, 0x4000), EINVAL);
}

static void *dies(void *lock)
{
	pthread_mutex_lock(lock);
	return NULL;
}

static void *waits(void *lock)
{
	return (void *)(long)pthread_mutex_lock(lock);
}

/* Locks whose owner dies: a thread, a process, and one that others wait for. */
static void robust(void)
{
	pthread_mutexattr_t kind;
	pthread_mutex_t *lock = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_t thread, waiter;
	void *head, *result;
	size_t size;

	CHECK(syscall(SYS_get_robust_list, 0, &head, &size) == 0 && head && size == 24);
	FAILS(syscall(SYS_set_robust_list, head, 23), EINVAL);
	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
	CHECK(pthread_mutex_init(lock, &kind) == 0);
	CHECK(pthread_create(&thread, NULL, dies, lock) == 0 && pthread_join(thread, NULL) == 0);
	CHECK(pthread_mutex_lock(lock) == EOWNERDEAD);
	CHECK(pthread_mutex_consistent(lock) == 0 && pthread_mutex_unlock(lock) == 0);

	pid_t child = fork();
	if (child == 0) {
		pthread_mutex_lock(lock);
		usleep(100000);
		raise(SIGKILL);
	}
	while (pthread_mutex_trylock(lock) == 0) {
		pthread_mutex_unlock(lock);
		usleep(1000);
	}
	CHECK(pthread_create(&waiter, NULL, waits, lock) == 0);
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
	CHECK(pthread_join(waiter, &result) == 0 && result == (void *)EOWNERDEAD);
	/* The waiter has ended with it as well. */
	CHECK(pthread_mutex_lock(lock) == EOWNERDEAD);
	CHECK(pthread_mutex_unlock(lock) == 0);
	CHECK(pthread_mutex_lock(lock) == ENOTRECOVERABLE);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--exit"))
		return 9;
	alarm(60);
	memory_and_registers();
	calls();
	attached();
	events("/proc/self/exe");
	ends_in_three_ways();
	killed_beside_a_thread_that_ends();
	stopped();
	robust();
	if (argc == 1)
		huge();
	return report();
}
