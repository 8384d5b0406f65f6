// Shows what Linux does. Needs root, and a pool of huge pages that nobody else uses:
//     cc -o program program.c && ./program
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE (2ul << 20)
#define WINDOW (1ul << 45)
#define AT(offset) ((void *)(WINDOW + (offset)))
#define MOUNT 300
#define FILE_ 310
#define HANDLER(number) (320 + 2 * me + number)
#define PROCESSES 4
#define KEEPER PROCESSES
#define MFD_2MB (MFD_HUGETLB | 21u << 26)
#define MAP_2MB (21 << 26)
#define SHM_2MB (SHM_HUGETLB | 21 << 26 | 0600)
#define SYSFS "/sys/kernel/mm/hugepages/hugepages-2048kB/"

// One process moves at a time. The keeper works on files, and looks at everything after each step.
static struct { volatile int turn; volatile pid_t pid[PROCESSES], dying; volatile int segment[3]; } *all;
static int me = KEEPER;
static sigjmp_buf back;
static siginfo_t met;

void done(long result) { printf("%s\n", result == -1 ? strerrorname_np(errno) : "done"); }

long pool(const char *file, long pages) {
    char path[99];
    snprintf(path, sizeof path, SYSFS "%s", file);
    FILE *stream = fopen(path, pages < 0 ? "r" : "w");
    if (stream == NULL || (pages < 0 ? fscanf(stream, "%ld", &pages) : fprintf(stream, "%ld", pages)) < 1)
        perror(path), exit(1);
    fclose(stream);
    return pages;
}

int moved(int fd, int number) {
    if (fd < 0) return -1;
    int result = dup2(fd, number);
    close(fd);
    return result < 0 ? -1 : 0;
}

int limited(int number, long size, long min) {
    char digits[32];
    int context = fsopen("hugetlbfs", FSOPEN_CLOEXEC), result;
    result = fsconfig(context, FSCONFIG_SET_STRING, "pagesize", "2M", 0);
    snprintf(digits, sizeof digits, "%lu", size * PAGE);
    if (size >= 0) result = fsconfig(context, FSCONFIG_SET_STRING, "size", digits, 0);
    snprintf(digits, sizeof digits, "%lu", min * PAGE);
    if (min >= 0) result = fsconfig(context, FSCONFIG_SET_STRING, "min_size", digits, 0);
    result = fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    if (result == 0) result = moved(fsmount(context, FSMOUNT_CLOEXEC, 0), number);
    int error = errno;
    close(context);
    errno = error;
    return result;
}

// A file, or a segment: their numbers are kept with one added.
int closed(int number) {
    int segment = all->segment[number];
    all->segment[number] = 0;
    return segment != 0 ? shmctl(segment - 1, IPC_RMID, NULL) : close(FILE_ + number);
}

void shown(int fd, long from, long length) {
    unsigned char bytes[64];
    long got = pread(fd, bytes, length, from);
    if (got < 0) { done(-1); return; }
    printf("bytes");
    for (long at = 0; at < got; at++) printf(" %02x", bytes[at]);
    printf("\n");
}

// Between the caller and another: the number of one that is not there is 0, which no process has.
void peek(int process, unsigned long at, unsigned long length) {
    unsigned char bytes[64];
    struct iovec here = {bytes, length}, there = {AT(at), length};
    long got = process_vm_readv(all->pid[process], &here, 1, &there, 1, 0);
    if (got < 0) { done(-1); return; }
    printf("bytes");
    for (long each = 0; each < got; each++) printf(" %02x", bytes[each]);
    printf("\n");
}

void poke(int process, unsigned long at, unsigned long length, int value) {
    unsigned char bytes[64];
    struct iovec here = {bytes, length}, there = {AT(at), length};
    memset(bytes, value, sizeof bytes);
    long put = process_vm_writev(all->pid[process], &here, 1, &there, 1, 0);
    if (put < 0) done(-1); else printf("%ld\n", put);
}

// On which node is the page at each address? Those that move go to node 0.
void nodes(unsigned long at, unsigned long length, int move) {
    void *pages[8];
    int to[8] = {0}, status[8] = {0};
    unsigned long count = (length + PAGE - 1) / PAGE;
    for (int page = 0; page < 8; page++) pages[page] = AT(at + page * PAGE);
    // 2: MPOL_MF_MOVE.
    if (syscall(SYS_move_pages, 0, count, pages, move ? to : NULL, status, 2) == -1) { done(-1); return; }
    printf("nodes");
    for (unsigned long page = 0; page < count; page++)
        if (status[page] < 0) printf(" %s", strerrorname_np(-status[page])); else printf(" %d", status[page]);
    printf("\n");
}

// A userfaultfd that gives SIGBUS in place of messages.
int handler(unsigned long features) {
    struct uffdio_api api = {UFFD_API, features | UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_HUGETLBFS | 1 << 9 | 1 << 12};
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) == 0) return fd;
    close(fd);
    return -1;
}

void registered(int fd, unsigned long at, unsigned long length, unsigned long modes) {
    struct uffdio_register with = {{WINDOW + at, length}, modes};
    if (ioctl(fd, UFFDIO_REGISTER, &with) == -1) { done(-1); return; }
    // Wake, copy, write-protect, continue, poison.
    printf("%lu\n", (unsigned long)with.ioctls & (1 << 2 | 1 << 3 | 1 << 6 | 1 << 7 | 1 << 8));
}

void filled(int result, long bytes) {
    if (result == 0) printf("%ld\n", bytes);
    else if (bytes > 0) printf("%s after %ld\n", strerrorname_np(errno), bytes);
    else done(-1);
}

void copied(int fd, unsigned long at, unsigned long length, int value, unsigned long mode) {
    void *source = mmap(NULL, length + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(source, value, length + 1);
    struct uffdio_copy with = {WINDOW + at, (unsigned long)source, length, mode};
    int result = ioctl(fd, UFFDIO_COPY, &with);
    filled(result, with.copy);
    munmap(source, length + 1);
}

void continued(int fd, unsigned long at, unsigned long length, unsigned long mode) {
    struct uffdio_continue with = {{WINDOW + at, length}, mode};
    int result = ioctl(fd, UFFDIO_CONTINUE, &with);
    filled(result, with.mapped);
}

// UFFDIO_POISON, which headers before 6.6 do not have.
void poisoned(int fd, unsigned long at, unsigned long length) {
    unsigned long with[4] = {WINDOW + at, length};
    int result = ioctl(fd, 3ul << 30 | sizeof with << 16 | 0xaa << 8 | 8, with);
    filled(result, with[3]);
}

// PAGEMAP_SCAN, which headers before 6.7 do not have.
void scan(unsigned long at, unsigned long length, unsigned long mask, unsigned long flags) {
    unsigned long found[16][3], with[12] = {sizeof with, flags, WINDOW + at, WINDOW + at + length, 0,
                                            (unsigned long)found, 16, 0, 0, mask, 0, 127};
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int count = ioctl(pagemap, 3ul << 30 | sizeof with << 16 | 'f' << 8 | 16, with);
    close(pagemap);
    if (count < 0) { done(-1); return; }
    printf("scanned");
    for (int region = 0; region < count; region++)
        printf(" +%#lx +%#lx %#lx", found[region][0] - WINDOW, found[region][1] - WINDOW, found[region][2]);
    if (with[4] < WINDOW + at + length) printf(" ended +%#lx", with[4] - WINDOW);
    printf("\n");
}

void zeroed(int fd, unsigned long at, unsigned long length) {
    struct uffdio_zeropage with = {{WINDOW + at, length}};
    int result = ioctl(fd, UFFDIO_ZEROPAGE, &with);
    filled(result, with.zeropage);
}

void child(int number) {
    fflush(stdout);
    // As fork, but with one table of descriptors for all.
    long pid = syscall(SYS_clone, SIGCHLD | CLONE_FILES, 0, 0, 0, 0);
    if (pid == 0) { me = number; return; }
    if (pid > 0) all->pid[number] = pid;
    if (me != KEEPER || all->turn > 0) done(pid < 0 ? -1 : 0);
}

void leave(void) {
    done(0);
    fflush(stdout);
    all->dying = all->pid[me];
    all->pid[me] = 0;
    all->turn++;
    _exit(0);
}

void map(unsigned long at, unsigned long length, int rights, int flags, int fd, unsigned long offset) {
    unsigned long hint = (((WINDOW + at) & ~4095ul) + PAGE - 1) & ~(PAGE - 1);
    char *mapped = mmap(AT(at), length, rights, flags, fd, offset);
    if (mapped == MAP_FAILED || (unsigned long)mapped == hint) { done(mapped == MAP_FAILED ? -1 : 0); return; }
    munmap(mapped, (length + PAGE - 1) & ~(PAGE - 1));
    printf("elsewhere\n");
}

long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

void on_signal(int signal, siginfo_t *info, void *context) {
    met = *info;
    siglongjmp(back, 1);
}

// Loads (value -1) or stores a byte of each page. The first round is for what else may fault.
void touch(unsigned long from, unsigned long length, int value, int sweeps) {
    static const char *const bus[] = {"", "BUS_ADRALN", "BUS_ADRERR"}, *const segv[] = {"", "SEGV_MAPERR", "SEGV_ACCERR"};
    static volatile unsigned char scratch;
    volatile unsigned char byte = 0;
    volatile long before = 0, count = 0;
    for (volatile int round = 0; round < 2; round++) {
        before = faults();
        for (count = 0; round == 0 ? count < 1 : count * PAGE < length; count++) {
            volatile unsigned char *at = round == 0 ? &scratch : (unsigned char *)AT(from + count * PAGE);
            if (sigsetjmp(back, 1)) {
                int is_bus = met.si_signo == SIGBUS;
                printf("%s %s at +%#lx after %ld\n", is_bus ? "SIGBUS" : "SIGSEGV", (is_bus ? bus : segv)[met.si_code],
                       (unsigned long)met.si_addr - WINDOW, count);
                return;
            }
            if (value < 0) byte = *at; else *at = value;
        }
    }
    long after = faults();
    if (value >= 0) printf("done"); else printf("%ld", sweeps ? count : (long)byte);
    printf(", %ld faults\n", after - before);
}

void resident(unsigned long at, unsigned long length) {
    unsigned char vector[4 * 512 + 1] = {0};
    if (mincore(AT(at), length, vector) == -1) { done(-1); return; }
    printf("resident");
    for (unsigned long page = 0, small = (length + 4095) / 4096; page < small; page += 512) {
        unsigned long count = small - page < 512 ? small - page : 512, there = 0;
        for (unsigned long each = 0; each < count; each++) there += vector[page + each] & 1;
        printf(" %s", there == 0 ? "no" : there == count ? "yes" : "mixed");
    }
    printf("\n");
}

void await(int turn) {
    while (all->turn != turn) usleep(50);
}

void look(int last) {
    while (all->dying != 0 && kill(all->dying, 0) == 0) usleep(50);
    all->dying = 0;
    long total = pool("nr_hugepages", -1), free = pool("free_hugepages", -1);
    long reserved = pool("resv_hugepages", -1), surplus = pool("surplus_hugepages", -1);
    printf("    pool total %ld free %ld reserved %ld surplus %ld\n", total, free, reserved, surplus);
    for (int file = 0; last && file < 3; file++) {
        struct stat of;
        if (fstat(FILE_ + file, &of) == 0) printf("    f%d size %ld blocks %ld\n", file, of.st_size, of.st_blocks);
    }
    for (int process = 0; last && process < PROCESSES; process++) {
        char path[64], line[256], name[64];
        snprintf(path, sizeof path, "/proc/%d/smaps", all->pid[process]);
        FILE *smaps = all->pid[process] != 0 ? fopen(path, "r") : NULL;
        for (int inside = 0; smaps != NULL && fgets(line, sizeof line, smaps) != NULL;) {
            unsigned long start, end;
            if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
                inside = start >= WINDOW && end <= WINDOW + (16ul << 30);
                if (inside) printf("    p%d %s", process, line);
            } else if (inside && sscanf(line, "%63[^:]", name) == 1 && strstr(name, "_Hugetlb") != NULL) {
                printf("        %s", line);
            }
        }
        if (smaps != NULL) fclose(smaps);
    }
    fflush(stdout);
}
