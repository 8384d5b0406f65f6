// Random system calls, many with arguments that make sense. The kernel must not panic, hang, or keep anything: the report says so.
//
//     random_calls SECONDS WORKERS SEED   each worker starts one victim after the other, each with a seed of its own
//     random_calls range SEED COUNT       the victims of these seeds, one after the other
//     random_calls one SEED               one victim, which prints its calls
//
// A victim sets a few mappings and descriptors up and makes some hundred calls on them, in up to four threads, with children that do
// the same. Whatever ends it is right.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#define MIB (1ul << 20)
#define HUGE (2 * MIB)
#define AREAS 8
#define DESCRIPTORS 24
#define CHILDREN 6
#define CALLS 300

static __thread uint64_t state;
static __thread int children;
static char *areas[AREAS];
static char *scratch;
static int descriptors[DESCRIPTORS], many;
static int verbose;

// --- What is drawn ---

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1dull >> 11;
}

static void seed_with(uint64_t seed)
{
    state = seed * 0x9e3779b97f4a7c15ull | 1;
    for (int i = 0; i < 8; i++)
        next();
}

static uint64_t below(uint64_t n)
{
    return next() % n;
}

#define PICK(...)                                      \
    ({                                                 \
        const uint64_t all[] = {__VA_ARGS__};          \
        all[below(sizeof(all) / sizeof(*all))];        \
    })

static uint64_t size(void)
{
    switch (below(10)) {
    case 0: return PICK(0, 1, 4095, 4096);
    case 1: return below(1 << 16);
    case 2: return PICK(HUGE, 2 * HUGE, HUGE + 4096, HUGE * (1 + below(8)));
    case 3: return HUGE * (1 + below(8));
    case 4: return PICK(-1, 1ul << 63, 1ul << 47, 1ul << 40, -4096ul, 1ul << 30, 1ul << 32);
    default: return 4096 * (1 + below(16));
    }
}

static uint64_t address(void)
{
    switch (below(16)) {
    case 0: return PICK(0, 4096, 0x400000, 1ul << 46, 0x7ffffffff000, 0x800000000000, 0xffff800000000000, -4096ul, -1);
    case 1: case 2: return (uint64_t)scratch + below(16) * 64;
    case 3: return (uint64_t)areas[below(AREAS)] + below(4096);
    case 4: case 5: return (uint64_t)areas[below(AREAS)] + below(16) * 4096;
    default: return (uint64_t)areas[below(AREAS)] + below(6) * HUGE;
    }
}

// A structure of any kind: words that may be sizes, addresses and descriptors.
static uint64_t structure(void)
{
    uint64_t *words = (uint64_t *)(scratch + below(8) * 512);
    for (int i = 0; i < 16; i++)
        words[i] = below(3) ? (below(2) ? address() : size()) : below(8);
    return below(8) ? (uint64_t)words : address();
}

static uint64_t descriptor(void)
{
    return below(20) ? (uint64_t)descriptors[below(many)] : PICK(-1, -100, 1000, 255);
}

static uint64_t path(void)
{
    static const char *const paths[] = {
        "/dev/hugepages/a", "/tmp/a", "/tmp/d", "/tmp", "/", "", "a", "..", "/no/such", "/dev/shm/a", "/dev/null", "/dev/zero",
        "/proc/self/maps", "/proc/self/pagemap", "/proc/self/smaps", "/proc/self/fd", "/proc/self/mem", "/proc/self/status",
        "/proc/self/exe", "/proc/meminfo", "/proc/kpageflags", "/proc/mounts", "/proc/stat", "/proc/sys/vm/nr_hugepages",
        "/proc/sys/kernel/shmmax", "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "/sys/kernel/debug/gup_test",
    };
    return (uint64_t)paths[below(sizeof(paths) / sizeof(*paths))];
}

static uint64_t bits(void)
{
    if (below(3))
        return 1ull << below(20) | (below(2) ? 1ull << below(20) : 0);
    return below(2) ? below(64) : next();
}

static uint64_t word(void)
{
    switch (below(7)) {
    case 0: return size();
    case 1: return address();
    case 2: return structure();
    case 3: return descriptor();
    case 4: return bits();
    case 5: return path();
    default: return below(16);
    }
}

// --- Calls ---

static long call(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    char line[200];
    if (verbose) {
        int length = snprintf(line, sizeof(line), "%ld(%#lx, %#lx, %#lx, %#lx, %#lx, %#lx)", number, a, b, c, d, e, f);
        if (write(2, line, length) < 0)
            _exit(9);
    }
    long result = syscall(number, a, b, c, d, e, f);
    if (verbose) {
        int length = snprintf(line, sizeof(line), " = %ld %d\n", result, result < 0 ? errno : 0);
        if (write(2, line, length) < 0)
            _exit(9);
    }
    return result;
}

static void keep(long fd)
{
    if (fd < 0)
        return;
    if (many < DESCRIPTORS) {
        descriptors[many++] = fd;
        return;
    }
    int at = below(DESCRIPTORS);
    close(descriptors[at]);
    descriptors[at] = fd;
}

static void keep_area(long at)
{
    if (at != -1 && (uint64_t)at > MIB)
        areas[below(AREAS)] = (char *)at;
}

static void once(void);

static long child(void)
{
    if (children >= CHILDREN)
        return -1;
    children++;
    long pid = call(SYS_fork, 0, 0, 0, 0, 0, 0);
    if (pid == 0) {
        children = CHILDREN;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    return pid;
}

static void some_and_exit(void)
{
    for (int i = below(20); i > 0; i--)
        once();
    _exit(0);
}

// A load or a store, which may end a child and not the victim.
static void touch(void)
{
    if (child() != 0)
        return;
    volatile char *at = (char *)address();
    if (below(2))
        *at = 1;
    else
        (void)*at;
    some_and_exit();
}

static void trace(void)
{
    long pid = child();
    if (pid == 0) {
        if (below(2)) {
            ptrace(PTRACE_TRACEME, 0, 0, 0);
            raise(SIGSTOP);
        }
        some_and_exit();
    }
    if (pid < 0)
        return;
    if (below(2))
        call(SYS_ptrace, PICK(PTRACE_ATTACH, PTRACE_SEIZE), pid, 0, below(2) ? below(256) : 0, 0, 0);
    for (int i = below(12); i > 0; i--) {
        int status;
        call(SYS_wait4, pid, (uint64_t)&status, below(3) ? WNOHANG : WNOHANG | __WALL, 0, 0, 0);
        uint64_t request = below(3) ? below(25) : PICK(PTRACE_CONT, PTRACE_SYSCALL, PTRACE_INTERRUPT, 0x4200 + below(16));
        call(SYS_ptrace, request, pid, below(4) ? address() : 1, below(3) ? below(20) : structure(), 0, 0);
    }
    if (below(2))
        call(SYS_kill, pid, PICK(SIGKILL, SIGSTOP, SIGCONT, SIGTERM, SIGUSR1), 0, 0, 0, 0);
}

static void handler(void)
{
    long fd = call(SYS_userfaultfd, PICK(0x80800, 0x800, 0x801, 1), 0, 0, 0, 0, 0);
    if (fd < 0)
        return;
    *(struct uffdio_api *)scratch = (struct uffdio_api){.api = UFFD_API, .features = below(2) ? 0 : bits()};
    call(SYS_ioctl, fd, UFFDIO_API, (uint64_t)scratch, 0, 0, 0);
    keep(fd);
}

static void handle(void)
{
    uint64_t request = PICK(UFFDIO_API, UFFDIO_REGISTER, UFFDIO_REGISTER, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_COPY,
                            UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_WRITEPROTECT, UFFDIO_CONTINUE, 0xc020aa08, 0xc028aa05);
    uint64_t start = address() & ~(below(3) ? HUGE - 1 : 4095), length = below(2) ? HUGE * below(4) : size();
    uint64_t words[6] = {start, length, below(3) ? below(8) : address(), below(4)};
    if (request == UFFDIO_COPY)
        memcpy(words, (uint64_t[]){start, address() & ~4095, length, below(4)}, 32);
    memcpy(scratch, words, sizeof(words));
    call(SYS_ioctl, descriptor(), request, (uint64_t)scratch, 0, 0, 0);
}

static void map(void)
{
    uint64_t kind = PICK(MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE, MAP_SHARED | MAP_FIXED, MAP_PRIVATE | MAP_FIXED);
    uint64_t flags = PICK(0, 0, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_POPULATE, MAP_LOCKED);
    flags |= below(2) ? MAP_HUGETLB | MAP_ANONYMOUS : 0;
    flags |= below(6) ? 0 : bits();
    uint64_t at = below(3) ? address() & ~(HUGE - 1) : address();
    keep_area(call(SYS_mmap, at, size(), below(8), kind | flags, descriptor(), below(3) ? below(8) * HUGE : size()));
}

static void segment(void)
{
    uint64_t flags = PICK(0, SHM_HUGETLB, SHM_HUGETLB | SHM_NORESERVE, SHM_HUGETLB | 21 << 26) | PICK(0600, 01600, 03600);
    long id = call(SYS_shmget, PICK(0, 0x1234), size(), flags, 0, 0, 0);
    if (id < 0)
        return;
    keep_area(call(SYS_shmat, id, below(2) ? 0 : address(), PICK(0, 010000, 020000, 040000, 060000), 0, 0, 0));
    if (below(4))
        call(SYS_shmctl, id, 0, 0, 0, 0, 0);
}

// Not one of those that end the run, wait for ever, or are made with care above.
static int is_left_out(long number)
{
    static const short all[] = {
        SYS_exit, SYS_exit_group, SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_pidfd_send_signal,
        SYS_fork, SYS_vfork, SYS_clone, SYS_clone3, SYS_ptrace, SYS_pause, SYS_rt_sigsuspend, SYS_prlimit64, SYS_setrlimit, SYS_alarm,
        SYS_setitimer, SYS_close_range, SYS_umount2, SYS_unlinkat, SYS_chroot, SYS_pivot_root, SYS_move_mount, SYS_setpriority,
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        if (all[i] == number)
            return 1;
    return 0;
}

static void anything(void)
{
    long number = below(460);
    if (!is_left_out(number))
        call(number, word(), word(), word(), word(), word(), word());
}

static void once(void)
{
    uint64_t self = getpid();
    int pair[2] = {-1, -1};
    switch (below(46)) {
    case 0: case 1: case 2: map(); break;
    case 3: call(SYS_munmap, address(), size(), 0, 0, 0, 0); break;
    case 4: call(SYS_mprotect, address(), size(), below(8), 0, 0, 0); break;
    case 5: case 6: call(SYS_madvise, address(), size(), PICK(below(26), MADV_DONTNEED, MADV_REMOVE, 100, 101), 0, 0, 0); break;
    case 7: case 8:
        keep_area(call(SYS_mremap, address(), size(), size(), below(8), below(2) ? address() & ~(HUGE - 1) : address(), 0));
        break;
    case 9: case 10: touch(); break;
    case 11: keep(call(SYS_openat, AT_FDCWD, path(), PICK(0, 1, 2, O_RDWR | O_CREAT, O_TRUNC | O_RDWR, O_DIRECT, bits()), 0600, 0, 0)); break;
    case 12: keep(call(SYS_memfd_create, path(), PICK(0, 2, 4, 6, 3, 7, 21ul << 26 | 4, 30ul << 26 | 4, bits()), 0, 0, 0, 0)); break;
    case 13: call(SYS_fallocate, descriptor(), PICK(0, 1, 2, 3, 8, 16), below(2) ? below(8) * HUGE : size(), size(), 0, 0); break;
    case 14: call(SYS_ftruncate, descriptor(), size(), 0, 0, 0, 0); break;
    case 15: call(PICK(SYS_read, SYS_write), descriptor() | 3, address(), size() & (64 * MIB - 1), 0, 0, 0); break;
    case 16: call(PICK(SYS_pread64, SYS_pwrite64), descriptor() | 3, address(), size() & (64 * MIB - 1), size(), 0, 0); break;
    case 17: call(PICK(SYS_readv, SYS_writev), descriptor() | 3, structure(), below(5), 0, 0, 0); break;
    case 18: handler(); break;
    case 19: case 20: handle(); break;
    case 21: call(SYS_ioctl, descriptor(), PICK(0x5401, 0x5421, 0x541b, 0xc0286700 + below(8), next()), structure(), 0, 0, 0); break;
    case 22: segment(); break;
    case 23: call(SYS_shmdt, address(), 0, 0, 0, 0, 0); break;
    case 24: call(SYS_shmctl, below(20), below(16), structure(), 0, 0, 0); break;
    case 25: call(SYS_mincore, address(), size(), structure(), 0, 0, 0); break;
    case 26: call(PICK(SYS_mlock, SYS_munlock, SYS_mlock2, SYS_msync), address(), size(), below(8), 0, 0, 0); break;
    case 27: call(PICK(SYS_mlockall, SYS_munlockall), below(8), 0, 0, 0, 0, 0); break;
    case 28:
        call(PICK(SYS_mbind, SYS_set_mempolicy, SYS_get_mempolicy, SYS_move_pages), word(), word(), word(), word(), word(), word());
        break;
    case 29: call(PICK(SYS_process_vm_readv, SYS_process_vm_writev), self, structure(), below(5), structure(), below(5), 0); break;
    case 30:
        call(SYS_pipe2, (uint64_t)pair, PICK(0, O_NONBLOCK, O_DIRECT), 0, 0, 0, 0);
        keep(pair[0]), keep(pair[1]);
        break;
    case 31:
        call(PICK(SYS_vmsplice, SYS_splice, SYS_tee, SYS_sendfile), descriptor(), below(2) ? structure() : descriptor(), below(3),
             below(2) ? descriptor() : size() & (16 * MIB - 1), 0, 2);
        break;
    case 32: call(SYS_poll, structure(), below(5), 1, 0, 0, 0); break;
    case 33: call(SYS_futex, address() & ~3, PICK(1, 3, 4, 5, 7, 8, 12, 129, 131), below(4), 0, address() & ~3, below(4)); break;
    case 34: call(SYS_fcntl, descriptor(), PICK(below(5), 1024 + below(12)), word(), 0, 0, 0); break;
    case 35:
        call(PICK(SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_sigaltstack, SYS_rt_sigpending), below(66), structure(), structure(), 8, 0, 0);
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        break;
    case 36: call(PICK(SYS_kill, SYS_tkill), self, below(3) ? 0 : SIGCHLD, 0, 0, 0, 0); break;
    case 37: call(SYS_wait4, -1, structure(), WNOHANG, structure(), 0, 0); break;
    case 38:
        call(PICK(SYS_getdents64, SYS_fstat, SYS_lseek, SYS_fstatfs, SYS_fsync, SYS_dup, SYS_newfstatat, SYS_statx), descriptor(),
             structure(), size(), word(), structure(), 0);
        break;
    case 39:
        call(PICK(SYS_unlink, SYS_mkdir, SYS_rmdir, SYS_rename, SYS_stat, SYS_readlink, SYS_chmod, SYS_truncate, SYS_access, SYS_chdir,
                  SYS_link, SYS_symlink, SYS_mknod, SYS_statfs),
             path(), below(2) ? path() : structure(), below(2) ? size() : 0700, 0, 0, 0);
        break;
    case 40: call(SYS_close, descriptors[below(many)] | 3, 0, 0, 0, 0, 0); break;
    case 41:
        call(SYS_mount, path(), path(), (uint64_t)(below(3) ? "hugetlbfs" : "tmpfs"), bits(),
             below(2) ? (uint64_t) "size=4M,min_size=2M" : structure(), 0);
        call(SYS_umount2, path(), below(4), 0, 0, 0, 0);
        break;
    case 42: trace(); break;
    case 43:
        call(SYS_socketpair, PICK(1, 1, 1, 2), PICK(1, 2, 5), 0, (uint64_t)pair, 0, 0);
        keep(pair[0]), keep(pair[1]);
        call(PICK(SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg), descriptor(), structure(), size() & (MIB - 1), 0x40, 0, 0);
        break;
    default: anything();
    }
}

// --- Victims and workers ---

static void *another_thread(void *seed)
{
    seed_with((uint64_t)seed);
    for (int i = 0; i < CALLS; i++)
        once();
    return 0;
}

static void victim(uint64_t seed)
{
    seed_with(seed);
    alarm(3);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    scratch = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int huge = memfd_create("huge", MFD_HUGETLB), small = memfd_create("small", MFD_ALLOW_SEALING);
    keep(huge), keep(small), keep(open("/dev/hugepages/a", O_RDWR | O_CREAT, 0600)), keep(open("/dev/null", O_RDWR));
    if (ftruncate(huge, 8 * HUGE) || ftruncate(small, 8 * HUGE))
        _exit(1);
    for (uint64_t i = 0; i < AREAS; i++) {
        int flags = MAP_FIXED | PICK(MAP_SHARED, MAP_PRIVATE), fd = PICK(huge, small, -1);
        if (fd == -1)
            flags |= MAP_ANONYMOUS | (below(2) ? MAP_HUGETLB | MAP_NORESERVE : 0);
        areas[i] = (char *)((4ul << 40) + 64 * MIB * (1 + i));
        mmap(areas[i], 4 * HUGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    }
    pthread_t thread;
    for (uint64_t i = seed % 2 ? 1 + below(3) : 0; i > 0; i--)
        pthread_create(&thread, 0, another_thread, (void *)(seed * 8 + i));
    for (int i = 0; i < CALLS; i++)
        once();
    _exit(0);
}

// Starts victims until the time has come, or the last seed. One that SIGALRM does not end, as it may have asked for, is killed.
static void worker(uint64_t seed, uint64_t last, int seconds)
{
    time_t end = time(0) + seconds;
    uint64_t first = seed;
    int late = 0;
    for (; seed < last && time(0) < end; seed++) {
        pid_t pid = fork();
        if (pid == 0) {
            int null = open("/dev/null", O_RDWR);
            for (int fd = 0; fd < 3; fd++)
                dup2(null, fd);
            setpgid(0, 0);
            victim(seed);
        }
        if (pid < 0)
            perror("fork"), _exit(1);
        int waited = 0, status;
        while (waitpid(pid, &status, WNOHANG) == 0) {
            usleep(2000);
            if (++waited == 2500) {
                late++;
                kill(pid, SIGKILL);
                waitpid(pid, &status, 0);
                break;
            }
        }
        kill(-pid, SIGKILL);
        while (waitpid(-1, &status, WNOHANG) > 0)
            ;
    }
    printf("victims %lu to %lu, %d of them killed\n", first, seed - 1, late);
    fflush(stdout);
    _exit(0);
}

int main(int count, char **arguments)
{
    pid_t workers[64];
    if (count == 3 && !strcmp(arguments[1], "one")) {
        verbose = 1;
        victim(strtoul(arguments[2], 0, 0));
    }
    if (count != 4)
        return 2;
    if (!strcmp(arguments[1], "range"))
        worker(strtoul(arguments[2], 0, 0), strtoul(arguments[2], 0, 0) + strtoul(arguments[3], 0, 0), 1 << 20);
    int seconds = atoi(arguments[1]), number = atoi(arguments[2]);
    uint64_t seed = strtoul(arguments[3], 0, 0);
    for (int i = 0; i < number && i < 64; i++)
        if ((workers[i] = fork()) == 0)
            worker(seed + i * 100000000ul, -1, seconds);
    int bad = 0, status;
    // Orphans come here too; how they ended says nothing.
    for (pid_t pid; (pid = wait(&status)) > 0;)
        for (int i = 0; i < number && i < 64; i++)
            bad |= workers[i] == pid && status != 0;
    return bad;
}
