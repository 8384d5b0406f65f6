//! A process of a program: it does what the driver asks for, one request at a time.
//!
//! Runs between `fork` and `_exit` of a process that may have had several threads: nothing here allocates, locks or
//! panics. All processes of a program share one table of descriptors, so that a file that one of them opens is there for
//! all of them, as the program sees it. One of them, the *keeper*, is no process of the program: it makes the files and
//! works on them.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::access::{Access, Met, access, catch_signals, counted, minor_faults, touch_scratch};
use super::wire::{ABSENT, ANSWER, LONGEST, LOOKED, MIXED, NONE, PM_PRESENT, RESIDENT, UNMAPPED, op};
use crate::program::{LONGEST_MINCORE, LONGEST_NODES, LONGEST_READ, MOST_REGIONS, PAGE};

const PAGEMAP: &CStr = c"/proc/self/pagemap";

/// Bytes of a process's stack.
pub(super) const STACK: usize = 256 << 10;

/// Processes, the keeper among them.
pub(super) const PLACES: usize = crate::program::PROCESSES + 1;
/// The keeper's place.
pub(super) const KEEPER: usize = PLACES - 1;

/// What a process needs to know; it is copied by fork, with all of memory.
#[derive(Clone, Copy)]
pub(super) struct Process {
    /// The process's end of the socket of each place.
    pub(super) sockets: [i32; PLACES],
    /// A stack for each place.
    pub(super) stacks: *mut u8,
    pub(super) place: usize,
}

/// The words of a request and of its answer.
struct Talk {
    words: [u64; LONGEST],
    /// Words that follow the answer.
    more: usize,
    met: Met,
    faults: u64,
}

impl Process {
    /// Forks: the child takes the place, and serves it until it is told to exit. Its process number, or an error below 0.
    ///
    /// `shared_files`: the child has the same table of descriptors, not a copy.
    pub(super) fn fork(&self, place: usize, shared_files: bool) -> i64 {
        let child = Self { place, ..*self };
        let flags = libc::SIGCHLD | if shared_files { libc::CLONE_FILES } else { 0 };
        let top = self.stacks.wrapping_add((place + 1) * STACK);
        // SAFETY: without CLONE_VM the child has a copy of this memory: it runs on its copy of a stack that nobody here
        // uses, since a place is taken by one process at a time, and `child` lives on in its copy of this frame.
        let pid = unsafe { libc::clone(start, top.cast(), flags, ptr::from_ref(&child).cast_mut().cast()) };
        if pid < 0 { error() } else { i64::from(pid) }
    }

    fn serve(&self) -> ! {
        let socket = self.sockets[self.place];
        let mut talk = Talk { words: [0; LONGEST], more: 0, met: Met::default(), faults: 0 };
        loop {
            let room = size_of_val(&talk.words);
            // SAFETY: the buffer is ours and as long as is said.
            let got = unsafe { libc::recv(socket, talk.words.as_mut_ptr().cast(), room, 0) };
            if got <= 0 || talk.words[0] == op::EXIT {
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(0) };
            }
            talk.more = 0;
            talk.met = Met::default();
            talk.faults = 0;
            let value = self.carry_out(&mut talk);
            talk.words[..ANSWER].copy_from_slice(&[
                value.cast_unsigned(),
                talk.met.signal,
                talk.met.code,
                talk.met.address,
                talk.faults,
            ]);
            let length = (ANSWER + talk.more) * size_of::<u64>();
            // SAFETY: the buffer is ours and longer than is said: `more` counts words that were written to it.
            unsafe { libc::send(socket, talk.words.as_ptr().cast(), length, libc::MSG_NOSIGNAL) };
        }
    }

    fn carry_out(&self, talk: &mut Talk) -> i64 {
        let [operation, a, b, c, d, e, f, ..] = talk.words;
        match operation {
            op::MAP | op::UNMAP | op::PROTECT | op::REMAP | op::ADVISE => {
                on_memory(operation, [a, b, c, d, e, f])
            }
            op::FORK => self.fork(a as usize, true),
            op::LOAD => one_access(talk, a, Access::Load),
            op::STORE => one_access(talk, a, Access::Store(b as u8)),
            op::SWEEP => sweep(talk, a, b, c),
            op::MINCORE => mincore(talk, a, b),
            op::LOCK | op::LOCK_ALL => lock(operation, [a, b, c]),
            op::BIND => super::policy::bind([a, b, c, d]).map_or_else(error, |()| 0),
            op::SEGMENT | op::REMOVE | op::ATTACH | op::DETACH => on_segment(operation, [a, b, c]),
            op::PEEK | op::POKE => transfer(talk, operation, [a, b, c, d]),
            op::LOOK => look(talk, a as usize, b as usize),
            op::UFFD_OPEN => moved_to(super::userfault::open(b), a as i32),
            op::SCAN => scan(talk, [a, b, c, d]),
            op::NODES => nodes(talk, [a, b, c]),
            op::UFFD => userfault(talk, [a, b, c, d, e, f]),
            _ => on_file(talk, operation, [a, b, c, d]),
        }
    }
}

extern "C" fn start(process: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `fork` passes a pointer to a value of this type, which the child has a copy of.
    let process = unsafe { *process.cast::<Process>() };
    if process.place == KEEPER {
        // Of a process group of its own, so that a program can be ended as a whole; children nobody waits for.
        // SAFETY: concerns this process alone.
        unsafe { libc::setpgid(0, 0) };
        // SAFETY: no handler of ours is replaced.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        // Segments live in a namespace of the program's own: they go with its last process, however that ends.
        // SAFETY: concerns this process, and those it forks.
        OWN_SEGMENTS.store(unsafe { libc::unshare(libc::CLONE_NEWIPC) } == 0, Relaxed);
        catch_signals();
        touch_scratch();
    }
    process.serve()
}

/// The error number of the call before, below 0.
fn error() -> i64 {
    -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn result(value: impl Into<i64>) -> i64 {
    let value = value.into();
    if value == -1 { error() } else { value }
}

fn on_memory(operation: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let (at, length) = (a as *mut libc::c_void, b as usize);
    // Each call concerns the program's window alone, where nothing of this process lies: the driver sees to that. What
    // else the arguments are is for the kernel to judge.
    let value = match operation {
        // SAFETY: as said above.
        op::MAP => unsafe { libc::mmap(at, length, c as i32, d as i32, e as i32, f.cast_signed()) as i64 },
        // SAFETY: as said above.
        op::UNMAP => i64::from(unsafe { libc::munmap(at, length) }),
        // SAFETY: as said above.
        op::PROTECT => i64::from(unsafe { libc::mprotect(at, length, c as i32) }),
        // SAFETY: as said above.
        op::REMAP => unsafe { libc::mremap(at, length, c as usize, d as i32, e as *mut libc::c_void) as i64 },
        // SAFETY: as said above.
        _ => i64::from(unsafe { libc::madvise(at, length, c as i32) }),
    };
    result(value)
}

/// The pages concerned are whichever the driver names: those of the program's window.
fn lock(operation: u64, [a, b, c]: [u64; 3]) -> i64 {
    let (at, length) = (a as *const libc::c_void, b as usize);
    result(match (operation, c) {
        // SAFETY: changes nothing but where pages are.
        (op::LOCK, 0) => unsafe { libc::mlock(at, length) },
        // SAFETY: as above.
        (op::LOCK, 1) => unsafe { libc::mlock2(at, length, libc::MLOCK_ONFAULT) },
        // SAFETY: as above.
        (op::LOCK, _) => unsafe { libc::munlock(at, length) },
        // SAFETY: as above.
        _ if a == 0 => unsafe { libc::munlockall() },
        // SAFETY: as above.
        _ => unsafe { libc::mlockall(a as i32) },
    })
}

/// `process_vm_readv(2)` or `process_vm_writev(2)`, between a buffer of this process and the window of another.
fn transfer(talk: &mut Talk, operation: u64, [pid, address, length, value]: [u64; 4]) -> i64 {
    let mut bytes = [value as u8; LONGEST_READ as usize];
    let length = (length as usize).min(bytes.len());
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let there = libc::iovec { iov_base: address as *mut _, iov_len: length };
    let (pid, here, there) = (pid as i32, &raw const here, &raw const there);
    if operation == op::POKE {
        // SAFETY: reads from the buffer, no more than it has. What it writes is in the window of a process of the program.
        return result(unsafe { libc::process_vm_writev(pid, here, 1, there, 1, 0) } as i64);
    }
    // SAFETY: writes to the buffer, no more than it has room for.
    let got = unsafe { libc::process_vm_readv(pid, here, 1, there, 1, 0) };
    let read = &bytes[..usize::try_from(got).unwrap_or(0)];
    for (word, byte) in talk.words[ANSWER..].iter_mut().zip(read) {
        *word = u64::from(*byte);
        talk.more += 1;
    }
    result(got as i64)
}

/// Has the program a namespace for its segments? Without one it gets none.
static OWN_SEGMENTS: AtomicBool = AtomicBool::new(false);

fn on_segment(operation: u64, [a, b, c]: [u64; 3]) -> i64 {
    if !OWN_SEGMENTS.load(Relaxed) {
        return -i64::from(libc::ENOSYS);
    }
    match operation {
        // SAFETY: takes numbers.
        op::SEGMENT => result(unsafe { libc::shmget(libc::IPC_PRIVATE, a as usize, b as i32) }),
        // SAFETY: this command looks at no buffer.
        op::REMOVE => result(unsafe { libc::shmctl(a as i32, libc::IPC_RMID, ptr::null_mut()) }),
        // SAFETY: concerns the program's window alone, as the calls above do.
        op::ATTACH => result(unsafe { libc::shmat(a as i32, b as *const _, c as i32) } as i64),
        // SAFETY: as said above.
        _ => result(unsafe { libc::shmdt(a as *const _) }),
    }
}

fn one_access(talk: &mut Talk, address: u64, what: Access) -> i64 {
    let (result, faults) = counted(address, what);
    talk.faults = faults;
    match result {
        Ok(byte) => i64::from(byte),
        Err(met) => {
            talk.met = met;
            0
        }
    }
}

/// Loads from every `step`th byte, until that goes wrong. How many loads went well.
fn sweep(talk: &mut Talk, from: u64, to: u64, step: u64) -> i64 {
    let _ = counted(0, Access::Load);
    let before = minor_faults();
    let mut done = 0;
    let mut address = from;
    while address < to {
        if let Err(met) = access(address, Access::Load) {
            talk.met = met;
            break;
        }
        done += 1;
        address += step;
    }
    talk.faults = minor_faults() - before;
    done
}

/// Room for an answer of `mincore(2)`: a byte for 4 KiB.
const VECTOR: usize = (LONGEST_MINCORE / 4096) as usize + 1;

/// The answer of `mincore(2)`, one word for each huge page of the range.
fn mincore(talk: &mut Talk, address: u64, length: u64) -> i64 {
    let mut vector = [0u8; VECTOR];
    if length > LONGEST_MINCORE {
        return -i64::from(libc::E2BIG);
    }
    // SAFETY: the vector has a byte for each 4 KiB of the range, which may be anything.
    let value = unsafe { libc::mincore(address as *mut _, length as usize, vector.as_mut_ptr()) };
    if value == 0 {
        let pages = vector[..(length as usize).div_ceil(4096)].chunks((PAGE / 4096) as usize);
        for (word, page) in talk.words[ANSWER..].iter_mut().zip(pages) {
            *word = residency(page);
            talk.more += 1;
        }
    }
    result(value)
}

/// `move_pages(2)` of one address in each huge page: the status of each, one a word.
fn nodes(talk: &mut Talk, [address, length, moved]: [u64; 3]) -> i64 {
    const MOST: usize = (LONGEST_NODES / PAGE) as usize;
    // Linux: include/uapi/linux/mempolicy.h.
    const MPOL_MF_MOVE: i32 = 1 << 1;
    let mut pages = [0u64; MOST];
    let count = (length.div_ceil(PAGE) as usize).min(MOST);
    for (number, page) in pages.iter_mut().enumerate() {
        *page = address.wrapping_add(number as u64 * PAGE);
    }
    let node_0 = [0i32; MOST];
    let nodes = if moved == 1 { node_0.as_ptr() } else { ptr::null() };
    let mut statuses = [0i32; MOST];
    let (pages, statuses_to) = (pages.as_ptr(), statuses.as_mut_ptr());
    // SAFETY: the three have room for as many as are said, or are null; the addresses may be anything, and nothing of this
    // process that they could name leaves the only node that is asked for.
    let value =
        unsafe { libc::syscall(libc::SYS_move_pages, 0, count, pages, nodes, statuses_to, MPOL_MF_MOVE) };
    for (word, status) in talk.words[ANSWER..].iter_mut().zip(&statuses[..count]) {
        *word = i64::from(*status).cast_unsigned();
        talk.more += 1;
    }
    result(value)
}

/// `PAGEMAP_SCAN` of this process's own memory.
fn scan(talk: &mut Talk, [start, end, mask, flags]: [u64; 4]) -> i64 {
    // Linux: include/uapi/linux/fs.h. All categories but the last, `PAGE_IS_SOFT_DIRTY`.
    const REQUEST: u64 = 3 << 30 | ((ARGUMENTS * 8) as u64) << 16 | (b'f' as u64) << 8 | 16;
    const ARGUMENTS: usize = 12;
    const ALL: u64 = (1 << 7) - 1;
    let mut regions = [[0u64; 3]; MOST_REGIONS];
    let found = regions.as_mut_ptr() as u64;
    let mut words: [u64; ARGUMENTS] =
        [(ARGUMENTS * 8) as u64, flags, start, end, 0, found, MOST_REGIONS as u64, 0, 0, mask, 0, ALL];
    // SAFETY: a string of C.
    let pagemap = unsafe { libc::open(PAGEMAP.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if pagemap < 0 {
        return error();
    }
    // SAFETY: the argument is as large as it says, and the regions it names have room for as many as it says. What it protects
    // is registered for that.
    let value = result(unsafe { libc::ioctl(pagemap, REQUEST as _, words.as_mut_ptr()) });
    // SAFETY: ours, opened above.
    unsafe { libc::close(pagemap) };
    if let Ok(count) = usize::try_from(value) {
        talk.words[ANSWER] = words[4];
        talk.more = 1 + 3 * count.min(MOST_REGIONS);
        let answer = talk.words[ANSWER + 1..].chunks_exact_mut(3);
        for (answer, region) in answer.zip(&regions[..count.min(MOST_REGIONS)]) {
            answer.copy_from_slice(region);
        }
    }
    value
}

fn residency(vector: &[u8]) -> u64 {
    let resident = |byte: &u8| byte & 1 != 0;
    match (vector.iter().all(resident), vector.iter().any(resident)) {
        (true, _) => RESIDENT,
        (false, false) => ABSENT,
        (false, true) => MIXED,
    }
}

/// Looks at pages without touching them: what pagemap and mincore say, and the bytes of those that are there and can be
/// read.
fn look(talk: &mut Talk, pages: usize, offsets: usize) -> i64 {
    let asked = talk.words;
    let (pages, rest) = asked[3..].split_at(pages);
    let offsets = &rest[..offsets];
    // SAFETY: a string of C.
    let pagemap = unsafe { libc::open(PAGEMAP.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if pagemap < 0 {
        return error();
    }
    let each = LOOKED + offsets.len();
    for (page, answer) in pages.iter().zip(talk.words[ANSWER..].chunks_mut(each)) {
        let mut entry = 0u64;
        // SAFETY: reads eight bytes into eight bytes.
        unsafe { libc::pread(pagemap, (&raw mut entry).cast(), 8, (page / 4096 * 8).cast_signed()) };
        let mut vector = [0u8; (PAGE / 4096) as usize];
        // SAFETY: the vector has a byte for each 4 KiB of the page.
        let mapped = unsafe { libc::mincore(*page as *mut _, PAGE as usize, vector.as_mut_ptr()) } == 0;
        answer[0] = entry;
        answer[1] = if mapped { residency(&vector) } else { UNMAPPED };
        [answer[2], answer[3]] = super::policy::of(*page).unwrap_or([NONE; 2]);
        for (offset, byte) in offsets.iter().zip(&mut answer[LOOKED..]) {
            let there = entry & PM_PRESENT != 0;
            let loaded = if there { access(page + offset, Access::Load).ok() } else { None };
            *byte = loaded.map_or(NONE, u64::from);
        }
        talk.more += each;
    }
    // SAFETY: ours, opened above.
    unsafe { libc::close(pagemap) };
    0
}

/// An operation of a userfaultfd. What the kernel wrote into its argument follows the answer.
fn userfault(talk: &mut Talk, [fd, operation, at, length, mode, value]: [u64; 6]) -> i64 {
    let (value, written) = super::userfault::carry_out(fd as i32, operation, [at, length, mode], value as u8);
    talk.words[ANSWER] = written;
    talk.more = 1;
    result(value)
}

fn on_file(talk: &mut Talk, operation: u64, [a, b, c, d]: [u64; 4]) -> i64 {
    let fd = a as i32;
    match operation {
        op::MEMFD => {
            let flags = libc::MFD_CLOEXEC | libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
            // SAFETY: a string of C.
            moved_to(unsafe { libc::memfd_create(c"conform".as_ptr(), flags) }, fd)
        }
        op::MOUNT => super::mount::mount(b, c).map_or_else(|error| error, |mount| moved_to(mount, fd)),
        op::CREATE => {
            let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
            // SAFETY: a string of C.
            moved_to(unsafe { libc::openat(b as i32, c".".as_ptr(), flags, 0o600) }, fd)
        }
        // SAFETY: a descriptor of the program, which nobody here relies on.
        op::CLOSE => result(unsafe { libc::close(fd) }),
        // SAFETY: takes numbers.
        op::TRUNCATE => result(unsafe { libc::ftruncate(fd, b.cast_signed()) }),
        // SAFETY: takes numbers.
        op::ALLOCATE => result(unsafe { libc::fallocate(fd, b as i32, c.cast_signed(), d.cast_signed()) }),
        op::READ => {
            let mut bytes = [0u8; LONGEST_READ as usize];
            let length = (c as usize).min(bytes.len());
            // SAFETY: reads no more than there is room for.
            let got = unsafe { libc::pread(fd, bytes.as_mut_ptr().cast(), length, b.cast_signed()) };
            let read = &bytes[..usize::try_from(got).unwrap_or(0)];
            for (word, byte) in talk.words[ANSWER..].iter_mut().zip(read) {
                *word = u64::from(*byte);
                talk.more += 1;
            }
            result(got as i64)
        }
        op::WRITE => {
            let byte = c as u8;
            // SAFETY: writes the one byte there is.
            result(unsafe { libc::pwrite(fd, (&raw const byte).cast(), 1, b.cast_signed()) } as i64)
        }
        op::STAT => {
            // SAFETY: all zeroes is a value of this type.
            let mut stat: libc::stat = unsafe { core::mem::zeroed() };
            // SAFETY: the pointer is to a value of the type that the call fills.
            let value = unsafe { libc::fstat(fd, &raw mut stat) };
            talk.words[ANSWER] = stat.st_size.cast_unsigned();
            talk.words[ANSWER + 1] = stat.st_blocks.cast_unsigned();
            talk.more = 2;
            result(value)
        }
        _ => -i64::from(libc::ENOSYS),
    }
}

/// Moves a descriptor, or passes an error on.
fn moved_to(fd: i32, number: i32) -> i64 {
    if fd < 0 {
        return error();
    }
    // SAFETY: both are descriptors of the program.
    let moved = result(unsafe { libc::dup3(fd, number, libc::O_CLOEXEC) });
    // SAFETY: ours, and its copy stays.
    unsafe { libc::close(fd) };
    if moved < 0 { moved } else { 0 }
}
