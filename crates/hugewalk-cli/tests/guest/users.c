/* What a program may expect of users, of the rights to segments and files, and of the processors that it runs on. Each check
 * that fails is printed; the exit status is their number.
 *
 * All of it holds on Linux too, for root and with 1 free huge page; with an argument, only what needs no huge pages.
 */
#include "check.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>

#define NOBODY 65534

static void changes(void)
{
	uid_t real, effective, saved;
	gid_t groups[4] = { 7, 8 };

	CHECK(getuid() == 0 && geteuid() == 0 && getgid() == 0 && getegid() == 0);
	CHECK(setgroups(2, groups) == 0 && getgroups(0, NULL) == 2 && getgroups(4, groups) == 2 && groups[1] == 8);
	FAILS(getgroups(1, groups), EINVAL);
	CHECK(setegid(9) == 0 && getegid() == 9 && getgid() == 0 && setegid(0) == 0);
	/* Root's rights go and come. */
	CHECK(setresuid(0, 1000, 0) == 0 && geteuid() == 1000);
	CHECK(getresuid(&real, &effective, &saved) == 0 && real == 0 && effective == 1000 && saved == 0);
	FAILS(setuid(1001), EPERM);
	FAILS(setgid(1001), EPERM);
	FAILS(setgroups(0, NULL), EPERM);
	FAILS(mount("none", "/tmp", "tmpfs", 0, NULL), EPERM);
	CHECK(seteuid(0) == 0 && geteuid() == 0);
	/* Here for good. */
	CHECK(setreuid(1000, 1001) == 0 && getuid() == 1000 && geteuid() == 1001);
	CHECK(getresuid(&real, &effective, &saved) == 0 && saved == 1001);
	CHECK(seteuid(1000) == 0 && seteuid(1001) == 0);
	FAILS(seteuid(0), EPERM);
	FAILS(setreuid(0, -1), EPERM);
	FAILS(setresuid(-1, -1, 2), EPERM);
	CHECK(setuid(1000) == 0 && geteuid() == 1000 && setresuid(-1, -1, -1) == 0);
}

static void nobody(void)
{
	struct passwd *user = getpwnam("nobody");

	CHECK(user && user->pw_uid == NOBODY);
	CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
}

static void segments(int flags, long size)
{
	struct shmid_ds about;
	key_t key = 0x68770000 + getpid();
	int id = shmget(key, size, IPC_CREAT | IPC_EXCL | flags | 0600);

	CHECK(id >= 0);
	CHILD(nobody();
	      FAILS(shmget(key, size, 0600), EACCES);
	      CHECK(shmget(key, size, 0) == id);
	      CHECK(shmat(id, NULL, 0) == (void *)-1 && errno == EACCES);
	      CHECK(shmat(id, NULL, SHM_RDONLY) == (void *)-1 && errno == EACCES);
	      FAILS(shmctl(id, IPC_STAT, &about), EACCES);
	      FAILS(shmctl(id, IPC_RMID, NULL), EPERM);
	      about.shm_perm.mode = 0666;
	      FAILS(shmctl(id, IPC_SET, &about), EPERM));
	CHECK(shmctl(id, IPC_STAT, &about) == 0 && (about.shm_perm.mode & 0777) == 0600 && about.shm_perm.uid == 0);
	CHECK(about.shm_cpid == getpid() && about.shm_nattch == 0 && about.shm_segsz == (size_t)size);
	time_t changed = about.shm_ctime;
	sleep(1);
	about.shm_perm.mode = 0644;
	about.shm_perm.gid = 7;
	CHECK(shmctl(id, IPC_SET, &about) == 0);
	CHECK(shmctl(id, IPC_STAT, &about) == 0 && (about.shm_perm.mode & 0777) == 0644 && about.shm_perm.gid == 7);
	CHECK(about.shm_perm.cgid == 0 && about.shm_ctime > changed);
	FAILS(shmctl(id, IPC_SET, (void *)8), EFAULT);
	FAILS(shmctl(id, IPC_STAT, (void *)8), EFAULT);
	CHILD(nobody();
	      char *at = shmat(id, NULL, SHM_RDONLY);
	      CHECK(at != (void *)-1 && shmdt(at) == 0);
	      CHECK(shmat(id, NULL, 0) == (void *)-1 && errno == EACCES));
	about.shm_perm.uid = NOBODY;
	CHECK(shmctl(id, IPC_SET, &about) == 0);
	char *at = shmat(id, NULL, 0);
	CHECK(at != (void *)-1);
	CHILD(nobody(); CHECK(shmctl(id, IPC_RMID, NULL) == 0));
	/* It is there as long as it is attached, but its key leads nowhere. */
	CHECK(shmctl(id, IPC_STAT, &about) == 0 && about.shm_perm.mode & 01000 && about.shm_perm.__key == 0);
	FAILS(shmget(key, size, 0), ENOENT);
	CHECK(shmdt(at) == 0);
	FAILS(shmctl(id, IPC_STAT, &about), EINVAL);
}

/* Who may lock memory, and have segments of huge pages. */
static void locking(int huge)
{
	struct rlimit none = { 0, 0 }, some = { 65536, 65536 };
	char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int locked = MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED;

	CHILD(CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
	      CHECK(mlock(at, 1 << 20) == 0 && munlock(at, 1 << 20) == 0);
	      nobody();
	      FAILS(mlock(at, 4096), EPERM);
	      FAILS(mlockall(MCL_CURRENT), EPERM);
	      CHECK(mmap(NULL, 4096, PROT_READ, locked, -1, 0) == MAP_FAILED && errno == EPERM));
	CHILD(CHECK(setrlimit(RLIMIT_MEMLOCK, &some) == 0);
	      nobody();
	      CHECK(mlock(at, 4096) == 0 && munlock(at, 4096) == 0);
	      FAILS(mlock(at, 1 << 20), ENOMEM);
	      CHECK(mmap(NULL, 1 << 20, PROT_READ, locked, -1, 0) == MAP_FAILED && errno == EAGAIN));
	munmap(at, 1 << 20);
	FAILS(shmget(IPC_PRIVATE, 1UL << 62, IPC_CREAT | 0600), ENOMEM);
	if (!huge)
		return;
	CHILD(nobody(); FAILS(shmget(IPC_PRIVATE, HUGE, IPC_CREAT | SHM_HUGETLB | 0600), EPERM));
	int file = open("/proc/sys/vm/hugetlb_shm_group", O_RDWR);
	CHECK(write(file, "65534", 5) == 5);
	CHILD(nobody();
	      int id = shmget(IPC_PRIVATE, HUGE, IPC_CREAT | SHM_HUGETLB | 0600);
	      CHECK(id >= 0 && shmctl(id, IPC_RMID, NULL) == 0));
	lseek(file, 0, SEEK_SET);
	CHECK(write(file, "0", 1) == 1);
	close(file);
}

static void files(void)
{
	struct stat about;
	char name[64];
	int file;

	sprintf(name, "/tmp/users.%d", getpid());
	CHECK((file = open(name, O_CREAT | O_EXCL | O_RDWR, 0640)) >= 0);
	pid_t parent = getpid();
	CHILD(nobody();
	      FAILS(open(name, O_RDONLY), EACCES);
	      FAILS(access(name, R_OK), EACCES);
	      CHECK(access(name, F_OK) == 0);
	      FAILS(chmod(name, 0666), EPERM);
	      FAILS(chown(name, NOBODY, -1), EPERM);
	      FAILS(open("/proc/sys/vm/nr_hugepages", O_WRONLY), EACCES);
	      FAILS(kill(parent, SIGUSR1), EPERM);
	      FAILS(kill(parent, 0), EPERM);
	      FAILS(ptrace(PTRACE_ATTACH, parent, 0, 0), EPERM);
	      strcat(name, ".own");
	      CHECK((file = open(name, O_CREAT | O_RDWR, 0600)) >= 0 && fstat(file, &about) == 0);
	      CHECK(about.st_uid == NOBODY && about.st_gid == NOBODY && chmod(name, 0400) == 0);
	      FAILS(open(name, O_WRONLY), EACCES);
	      CHECK(unlink(name) == 0));
	CHECK(access(name, R_OK | W_OK) == 0);
	FAILS(access(name, X_OK), EACCES);
	FAILS(access(name, 8), EINVAL);
	CHECK(fchmod(file, 0644) == 0 && fstat(file, &about) == 0 && about.st_uid == 0);
	CHILD(nobody(); CHECK(open(name, O_RDONLY) >= 0); FAILS(open(name, O_RDWR), EACCES));
	CHECK(unlink(name) == 0);
}

static void processors(void)
{
	cpu_set_t all, one;
	int last = -1;

	CHECK(sched_getaffinity(0, sizeof(all), &all) == 0 && CPU_COUNT(&all) == sysconf(_SC_NPROCESSORS_ONLN));
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		last = cpu;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		CHECK(sched_setaffinity(0, sizeof(one), &one) == 0 && sched_getcpu() == cpu);
		for (int turn = 0; turn < 100; turn++) {
			sched_yield();
			CHECK(sched_getcpu() == cpu);
		}
	}
	CHILD(CHECK(sched_getaffinity(0, sizeof(one), &one) == 0 && CPU_COUNT(&one) == 1 && CPU_ISSET(last, &one));
	      CHECK(sched_getcpu() == last);
	      CHECK(sched_setaffinity(getppid(), sizeof(all), &all) == 0));
	CHECK(sched_getaffinity(0, sizeof(one), &one) == 0 && CPU_EQUAL(&one, &all));
	CPU_ZERO(&one);
	FAILS(sched_setaffinity(0, sizeof(one), &one), EINVAL);
	FAILS(sched_setaffinity(30000, sizeof(all), &all), ESRCH);
	FAILS(sched_setaffinity(0, sizeof(all), (void *)8), EFAULT);
}

int main(int argc, char **argv)
{
	alarm(60);
	CHILD(changes());
	segments(0, 4096);
	if (argc == 1)
		segments(SHM_HUGETLB, HUGE);
	locking(argc == 1);
	files();
	processors();
	return report();
}
