/* What a program may expect of the kernel's files. Each check that fails is printed; the exit status is their number.
 *
 * All of it holds on Linux too, for root and with 16 free pages in the pool; with an argument, only what needs no huge pages.
 */
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>

static void names(void)
{
	char buffer[256];
	struct stat about, other;
	int folder, file;

	CHECK(mkdir("/tmp/a", 0755) == 0);
	FAILS(mkdir("/tmp/a", 0755), EEXIST);
	FAILS(mkdir("/tmp/x/y", 0755), ENOENT);
	CHECK((folder = open("/tmp/a", O_RDONLY | O_DIRECTORY)) >= 0);
	FAILS(open("/tmp/a", O_WRONLY), EISDIR);
	CHECK((file = openat(folder, "file", O_CREAT | O_EXCL | O_RDWR, 0640)) >= 0);
	FAILS(openat(folder, "file", O_CREAT | O_EXCL | O_RDWR, 0640), EEXIST);
	FAILS(openat(folder, "file/", O_RDONLY), ENOTDIR);
	FAILS(openat(file, "x", O_RDONLY), ENOTDIR);
	CHECK(write(file, "hello", 5) == 5);
	CHECK(fstat(file, &about) == 0 && about.st_size == 5 && S_ISREG(about.st_mode) && (about.st_mode & 0777) == 0640);
	CHECK(about.st_nlink == 1 && about.st_blocks == 8);
	CHECK(linkat(folder, "file", folder, "link", 0) == 0);
	CHECK(stat("/tmp/a/link", &other) == 0 && other.st_ino == about.st_ino && other.st_nlink == 2);
	CHECK(symlink("../a/link", "/tmp/a/soft") == 0);
	CHECK(readlink("/tmp/a/soft", buffer, sizeof(buffer)) == 9 && !memcmp(buffer, "../a/link", 9));
	CHECK(stat("/tmp/a/soft", &other) == 0 && other.st_ino == about.st_ino);
	CHECK(lstat("/tmp/a/soft", &other) == 0 && S_ISLNK(other.st_mode) && other.st_size == 9);
	FAILS(open("/tmp/a/soft", O_RDONLY | O_NOFOLLOW), ELOOP);
	CHECK(symlink("turn", "/tmp/a/turn") == 0);
	FAILS(open("/tmp/a/turn", O_RDONLY), ELOOP);
	CHECK(rename("/tmp/a/link", "/tmp/a/renamed") == 0);
	FAILS(open("/tmp/a/soft", O_RDONLY), ENOENT);
	FAILS(rename("/tmp/a", "/tmp/a/inside"), EINVAL);
	FAILS(rename("/tmp/a/renamed", "/dev/shm/x"), EXDEV);
	FAILS(rmdir("/tmp/a"), ENOTEMPTY);
	FAILS(unlink("/tmp/a"), EISDIR);
	FAILS(rmdir("/tmp/a/file"), ENOTDIR);
	CHECK(chdir("/tmp/a") == 0 && getcwd(buffer, sizeof(buffer)) && !strcmp(buffer, "/tmp/a"));
	CHECK(chdir("..") == 0 && getcwd(buffer, sizeof(buffer)) && !strcmp(buffer, "/tmp"));
	CHECK(fchdir(folder) == 0 && access("file", R_OK) == 0 && access("../a/file", R_OK) == 0);
	FAILS(access("none", F_OK), ENOENT);

	DIR *listed = opendir("/tmp/a");
	struct dirent *entry;
	int count = 0;
	while (listed && (entry = readdir(listed)))
		count += strcmp(entry->d_name, "soft") || entry->d_type == DT_LNK;
	CHECK(count == 6); /* . .. file renamed soft turn */
	closedir(listed);

	CHECK(unlink("file") == 0 && unlink("renamed") == 0);
	CHECK(fstat(file, &about) == 0 && about.st_nlink == 0 && about.st_size == 5);
	CHECK(pread(file, buffer, 5, 0) == 5 && !memcmp(buffer, "hello", 5));
	CHECK(unlink("soft") == 0 && unlink("turn") == 0 && chdir("/") == 0 && rmdir("/tmp/a") == 0);
	FAILS(openat(folder, "file", O_RDONLY), ENOENT);
	close(file);
	close(folder);
}

static void contents(void)
{
	char buffer[16384], *at;
	struct stat about;
	int file = open("/tmp", O_TMPFILE | O_RDWR, 0600);

	CHECK(file >= 0);
	CHECK(lseek(file, 10000, SEEK_SET) == 10000 && write(file, "x", 1) == 1);
	CHECK(lseek(file, 0, SEEK_END) == 10001 && lseek(file, -1, SEEK_CUR) == 10000);
	FAILS(lseek(file, -1, SEEK_SET), EINVAL);
	CHECK(fstat(file, &about) == 0 && about.st_blocks == 8);
	CHECK(pread(file, buffer, sizeof(buffer), 0) == 10001 && buffer[9999] == 0 && buffer[10000] == 'x');
	struct iovec two[2] = { { buffer, 3 }, { buffer + 100, 5 } };
	memcpy(buffer, "abc", 3);
	memcpy(buffer + 100, "defgh", 5);
	CHECK(pwritev(file, two, 2, 4094) == 8);
	CHECK(pread(file, buffer, 8, 4094) == 8 && !memcmp(buffer, "abcdefgh", 8));
	CHECK(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0);
	CHECK(pread(file, buffer, 8, 4094) == 8 && !memcmp(buffer, "ab\0\0\0\0\0\0", 8));
	CHECK(ftruncate(file, 4095) == 0 && ftruncate(file, 8192) == 0);
	CHECK(pread(file, buffer, 8, 4094) == 8 && !memcmp(buffer, "a\0\0\0\0\0\0\0", 8));

	at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(at != MAP_FAILED && at[4094] == 'a');
	at[5000] = 'm';
	CHECK(pread(file, buffer, 1, 5000) == 1 && buffer[0] == 'm');
	CHECK(pwrite(file, "w", 1, 5001) == 1 && at[5001] == 'w');
	char *private = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	private[5000] = 'p';
	CHECK(at[5000] == 'm' && private[5001] == 'w');
	munmap(private, 8192);
	CHECK(madvise(at + 4096, 4096, MADV_REMOVE) == 0 && at[5000] == 0);
	at[5000] = 'n';
	CHECK(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0 && at[5000] == 0);
	at[5000] = 'n';
	CHECK(ftruncate(file, 4096) == 0);
	int state;
	if (fork() == 0)
		_exit(at[5000]); /* beyond the end of the file */
	CHECK(wait(&state) > 0 && WIFSIGNALED(state) && WTERMSIG(state) == SIGBUS);
	CHECK(ftruncate(file, 8192) == 0 && at[5000] == 0 && at[4094] == 'a');
	munmap(at, 8192);
	close(file);

	file = open("/tmp/append", O_CREAT | O_RDWR | O_APPEND, 0600);
	CHECK(write(file, "one", 3) == 3 && lseek(file, 0, SEEK_SET) == 0 && write(file, "two", 3) == 3);
	CHECK(pread(file, buffer, 10, 0) == 6 && !memcmp(buffer, "onetwo", 6));
	CHECK((fcntl(file, F_GETFL) & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_RDWR));
	int reader = open("/tmp/append", O_RDONLY);
	FAILS(write(reader, "x", 1), EBADF);
	CHECK(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, reader, 0) == MAP_FAILED && errno == EACCES);
	at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, reader, 0);
	FAILS(mprotect(at, 4096, PROT_READ | PROT_WRITE), EACCES);
	CHECK((file = open("/tmp/append", O_RDWR | O_TRUNC)) >= 0 && fstat(file, &about) == 0 && about.st_size == 0);
	CHECK(unlink("/tmp/append") == 0);

	int from = open("/proc/self/exe", O_RDONLY), to = memfd_create("copy", MFD_CLOEXEC);
	CHECK(fstat(from, &about) == 0 && sendfile(to, from, NULL, 100000) == 100000);
	CHECK(pread(to, buffer, 4, 0) == 4 && !memcmp(buffer, "\177ELF", 4));
	for (int each = file; each <= to; each++)
		close(each);
}

static void pipes(void)
{
	int ends[2], state, count = 0;
	char buffer[70000];
	struct pollfd polled[2];

	signal(SIGPIPE, SIG_IGN);
	CHECK(pipe2(ends, O_NONBLOCK) == 0);
	polled[0] = (struct pollfd){ ends[0], POLLIN, 0 };
	polled[1] = (struct pollfd){ ends[1], POLLOUT, 0 };
	FAILS(read(ends[0], buffer, 1), EAGAIN);
	CHECK(poll(polled, 2, 0) == 1 && polled[1].revents == POLLOUT && polled[0].revents == 0);
	CHECK(write(ends[1], buffer, sizeof(buffer)) == 65536);
	FAILS(write(ends[1], buffer, 1), EAGAIN);
	CHECK(poll(polled, 2, 0) == 1 && polled[0].revents == POLLIN);
	CHECK(read(ends[0], buffer, sizeof(buffer)) == 65536);
	FAILS(lseek(ends[0], 0, SEEK_SET), ESPIPE);
	close(ends[0]);
	FAILS(write(ends[1], buffer, 1), EPIPE);
	CHECK(poll(polled + 1, 1, 0) == 1 && polled[1].revents & POLLERR);
	close(ends[1]);

	/* A reader waits for a writer, and sees the end when the last one has gone. */
	CHECK(pipe(ends) == 0);
	if (fork() == 0) {
		close(ends[0]);
		for (int piece = 0; piece < 100; piece++)
			if (write(ends[1], buffer, 5000) != 5000)
				_exit(1);
		_exit(0);
	}
	close(ends[1]);
	for (long got; (got = read(ends[0], buffer, 7000)) > 0;)
		count += got;
	CHECK(count == 500000);
	CHECK(wait(&state) > 0 && state == 0);
	polled[0] = (struct pollfd){ ends[0], POLLIN, 0 };
	CHECK(poll(polled, 1, -1) == 1 && polled[0].revents == POLLHUP);
	fd_set set;
	FD_ZERO(&set);
	FD_SET(ends[0], &set);
	struct timeval limit = { 0, 0 };
	CHECK(select(ends[0] + 1, &set, NULL, NULL, &limit) == 1 && FD_ISSET(ends[0], &set));
	close(ends[0]);
	CHECK(poll(NULL, 0, 20) == 0);

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	if (fork() == 0)
		_exit(read(ends[1], buffer, 10) != 4 || write(ends[1], "pong!", 5) != 5);
	CHECK(write(ends[0], "ping", 4) == 4 && read(ends[0], buffer, 10) == 5 && !memcmp(buffer, "pong!", 5));
	CHECK(wait(&state) > 0 && state == 0);
	close(ends[1]);
	CHECK(read(ends[0], buffer, 1) == 0);
	FAILS(write(ends[0], buffer, 1), EPIPE);
	close(ends[0]);

	CHECK(mkfifo("/tmp/fifo", 0600) == 0);
	FAILS(open("/tmp/fifo", O_WRONLY | O_NONBLOCK), ENXIO);
	if (fork() == 0)
		_exit(write(open("/tmp/fifo", O_WRONLY), "named", 5) != 5);
	int reader = open("/tmp/fifo", O_RDONLY);
	CHECK(read(reader, buffer, 10) == 5 && !memcmp(buffer, "named", 5) && read(reader, buffer, 10) == 0);
	CHECK(wait(&state) > 0 && state == 0 && unlink("/tmp/fifo") == 0);
	close(reader);
}

static void descriptors(void)
{
	char buffer[100];
	int file = memfd_create("d", 0), other = fcntl(file, F_DUPFD_CLOEXEC, 100);

	CHECK(other == 100 && fcntl(other, F_GETFD) == FD_CLOEXEC && fcntl(file, F_GETFD) == 0);
	CHECK(write(file, "ab", 2) == 2 && lseek(other, 0, SEEK_CUR) == 2);
	CHECK(dup2(other, 101) == 101 && fcntl(101, F_GETFD) == 0);
	FAILS(dup2(102, 103), EBADF);
	FAILS(dup3(101, 101, 0), EINVAL);
	FAILS(fcntl(file, F_DUPFD, 100000), EINVAL);
	CHECK(readlink("/proc/self/fd/101", buffer, sizeof(buffer)) == 18 && !memcmp(buffer, "/memfd:d (deleted)", 18));
	int again = open("/proc/self/fd/101", O_RDWR);
	CHECK(again >= 0 && read(again, buffer, 10) == 2 && lseek(again, 0, SEEK_CUR) == 2);
	close(again);
	close(101);
	close(100);
	close(file);
	FAILS(close(file), EBADF);
	for (int count = 0;; count++)
		if (dup(1) < 0) {
			int error = errno;
			CHECK(error == EMFILE && count > 1000);
			break;
		}
	for (int each = 3; each < 1024; each++)
		close(each);
}

static long pool(const char *name)
{
	char path[100], text[32] = "";
	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-2048kB/%s_hugepages", name);
	int file = open(path, O_RDONLY);
	CHECK(read(file, text, sizeof(text) - 1) > 0);
	close(file);
	return atol(text);
}

static void huge(void)
{
	struct statfs about;
	struct stat status;
	char buffer[4096], *at;
	long free = pool("free");
	int file;

	CHECK(mkdir("/tmp/h", 0755) == 0);
	FAILS(mount("none", "/tmp/h", "hugetlbfs", 0, "size=4M,min_size=6M"), EINVAL);
	FAILS(mount("none", "/tmp/h", "hugetlbfs", 0, "pagesize=3M"), EINVAL);
	FAILS(mount("none", "/tmp/h", "nonefs", 0, NULL), ENODEV);
	CHECK(mount("none", "/tmp/h", "hugetlbfs", 0, "pagesize=2M,size=6M,min_size=4M,mode=0700") == 0);
	CHECK(pool("resv") == 2);
	CHECK(statfs("/tmp/h", &about) == 0 && about.f_type == 0x958458f6 && about.f_bsize == HUGE);
	CHECK(about.f_blocks == 3 && about.f_bfree == 3);
	CHECK(stat("/tmp/h", &status) == 0 && (status.st_mode & 0777) == 0700);
	CHECK((file = open("/tmp/h/f", O_CREAT | O_RDWR, 0600)) >= 0);
	FAILS(write(file, "x", 1), EINVAL);
	FAILS(ftruncate(file, HUGE / 2), EINVAL);
	CHECK(mmap(NULL, 4 * HUGE, PROT_READ, MAP_SHARED, file, 0) == MAP_FAILED && errno == ENOMEM);
	at = mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(at != MAP_FAILED && fstat(file, &status) == 0 && status.st_size == 3 * HUGE && status.st_blocks == 0);
	strcpy(at + HUGE, "huge");
	CHECK(fstat(file, &status) == 0 && status.st_blocks == 4096 && status.st_blksize == HUGE);
	CHECK(pread(file, buffer, 5, HUGE) == 5 && !strcmp(buffer, "huge"));
	CHECK(pread(file, buffer, 10, 3 * HUGE - 5) == 5 && pread(file, buffer, 10, 3 * HUGE) == 0);
	CHECK(statfs("/tmp/h", &about) == 0 && about.f_bfree == 0);
	CHECK(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, HUGE, HUGE) == 0 && at[HUGE] == 0);
	munmap(at, 3 * HUGE);
	CHECK(unlink("/tmp/h/f") == 0);
	close(file);
	CHECK(pool("free") == free && pool("resv") == 2);
	CHECK(umount("/tmp/h") == 0 && pool("resv") == 0);
	FAILS(umount("/tmp/h"), EINVAL);
	CHECK(rmdir("/tmp/h") == 0);

	file = memfd_create("sealed", MFD_HUGETLB | MFD_ALLOW_SEALING);
	CHECK(fcntl(file, F_GET_SEALS) == 0 && ftruncate(file, HUGE) == 0);
	at = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	FAILS(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
	munmap(at, HUGE);
	CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) == 0);
	CHECK(mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) == MAP_FAILED && errno == EPERM);
	FAILS(ftruncate(file, 0), EPERM);
	FAILS(ftruncate(file, 2 * HUGE), EPERM);
	FAILS(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE), EPERM);
	CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_SEAL) == 0);
	FAILS(fcntl(file, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), EPERM);
	close(file);
	CHECK(pool("free") == free);
}

static void segments(void)
{
	long free = pool("free");
	int id = shmget(IPC_PRIVATE, HUGE + 1, IPC_CREAT | SHM_HUGETLB | 0600), state;
	struct shmid_ds about;

	CHECK(id >= 0 && pool("resv") == 2);
	char *at = shmat(id, NULL, 0);
	CHECK(at != (void *)-1);
	strcpy(at, "segment");
	CHECK(shmctl(id, IPC_STAT, &about) == 0 && about.shm_nattch == 1 && about.shm_segsz == HUGE + 1);
	if (fork() == 0) {
		int bad = strcmp(at, "segment") != 0 || shmctl(id, IPC_STAT, &about) || about.shm_nattch != 2;
		strcpy(at, "child");
		_exit(bad);
	}
	CHECK(wait(&state) > 0 && state == 0 && !strcmp(at, "child"));
	CHECK(shmctl(id, IPC_STAT, &about) == 0 && about.shm_nattch == 1 && about.shm_cpid == getpid());
	CHECK(shmctl(id, IPC_RMID, NULL) == 0 && at[0] == 'c' && shmctl(id, IPC_STAT, &about) == 0);
	FAILS(shmdt(at + HUGE), EINVAL);
	CHECK(shmdt(at) == 0);
	FAILS(shmctl(id, IPC_STAT, &about), EINVAL);
	CHECK(pool("free") == free && pool("resv") == 0);

	id = shmget(77, 4096, IPC_CREAT | IPC_EXCL | 0600);
	CHECK(id >= 0 && shmget(77, 0, 0) == id);
	FAILS(shmget(77, 4096, IPC_CREAT | IPC_EXCL), EEXIST);
	FAILS(shmget(77, 8192, 0), EINVAL);
	FAILS(shmget(78, 4096, 0), ENOENT);
	CHECK(shmctl(id, IPC_RMID, NULL) == 0);
}

static int contains(const char *path, const char *text)
{
	static char buffer[1 << 16];
	int file = open(path, O_RDONLY);
	long length = 0, got;

	while ((got = read(file, buffer + length, 1000)) > 0)
		length += got;
	close(file);
	buffer[length > 0 ? length : 0] = 0;
	return strstr(buffer, text) != NULL;
}

static void shown(void)
{
	char *at = mmap((void *)(5L << 30), HUGE, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0);

	CHECK(at != MAP_FAILED);
	at[0] = 1;
	CHECK(contains("/proc/self/maps", "140000000-140200000 rw-s 00000000"));
	CHECK(contains("/proc/self/smaps", "KernelPageSize:     2048 kB"));
	CHECK(contains("/proc/self/smaps", "Private_Hugetlb:    2048 kB"));
	CHECK(contains("/proc/self/status", "HugetlbPages:\t    2048 kB"));
	CHECK(contains("/proc/mounts", " /dev/hugepages hugetlbfs rw"));
	CHECK(contains("/proc/self/cmdline", "files"));
	CHECK(contains("/proc/meminfo", "Hugepagesize:       2048 kB"));
	CHECK(contains("/proc/filesystems", "hugetlbfs"));
	munmap(at, HUGE);
	CHECK(access("/proc/1/maps", R_OK) == 0);
	FAILS(access("/proc/999999", F_OK), ENOENT);
	FAILS(mkdir("/proc/x", 0755), ENOENT);
	FAILS(open("/proc/meminfo", O_RDWR), EACCES);
}

int main(int count, char **arguments)
{
	(void)arguments;
	names();
	contents();
	pipes();
	descriptors();
	if (count == 1) {
		huge();
		segments();
		shown();
	}
	return report();
}
