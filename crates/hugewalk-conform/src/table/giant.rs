//! Pages of 1 GiB, which programs do not have: a list of operations, done on the engine and on the running kernel.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::file::HugeFile;
use hugewalk::mm::{self, MapRequest};
use hugewalk::pagewalk::{Categories, Scan, ScanFlags};
use hugewalk::sync::Arc;
use hugewalk::uffd::{ContinueMode, CopyMode, Features, Modes, PoisonMode, ProtectMode, Stopped, Userfault};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Cpu, Host, HostConfig};

use super::operations;
use crate::engine::EngineError;
use crate::program::{GIB, PAGE};

/// An operation on a page of 1 GiB of a file that is mapped shared, registered with `UFFD_FEATURE_WP_ASYNC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// `UFFDIO_REGISTER` in all modes.
    Register,
    /// `UFFDIO_COPY` of so many bytes.
    Copy(u64),
    /// `UFFDIO_WRITEPROTECT` of so many bytes.
    Protect(u64),
    /// A byte is stored, so far from the start.
    Store(u64),
    /// `PAGEMAP_SCAN` for what was written, which is protected again.
    Scan,
    /// `MADV_DONTNEED` of so many bytes.
    DontNeed(u64),
    /// `UFFDIO_CONTINUE` of so many bytes.
    Continue(u64),
    /// A hole in the file.
    Punch,
    /// `UFFDIO_POISON` of so many bytes.
    Poison(u64),
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = |bytes: u64| {
            if bytes >= GIB { format!("{} GiB", bytes / GIB) } else { format!("{} MiB", bytes >> 20) }
        };
        match *self {
            Self::Register => f.write_str("register missing+wp+minor"),
            Self::Copy(bytes) => write!(f, "copy {}", size(bytes)),
            Self::Protect(bytes) => write!(f, "protect {}", size(bytes)),
            Self::Store(at) => write!(f, "store at {}", size(at)),
            Self::Scan => f.write_str("scan written protect"),
            Self::DontNeed(bytes) => write!(f, "MADV_DONTNEED {}", size(bytes)),
            Self::Continue(bytes) => write!(f, "continue {}", size(bytes)),
            Self::Punch => f.write_str("punch 1 GiB"),
            Self::Poison(bytes) => write!(f, "poison {}", size(bytes)),
        }
    }
}

/// A sentence about pages of 1 GiB, and the operations that show it with what they come to. Each goes on from the one before.
#[derive(Clone, Copy, Debug)]
pub struct GiantRow {
    /// What the kernel does.
    pub says: &'static str,
    /// What shows it.
    pub acts: &'static [(Act, &'static str)],
}

/// What is said of pages of 1 GiB.
pub const GIANT: &[GiantRow] = &[
    GiantRow {
        says: "They can be registered for the same as pages of 2 MiB",
        acts: &[(Act::Register, "wake, copy, write-protect, continue, poison")],
    },
    GiantRow {
        says: "A copy is of a whole GiB: there is no smaller one, and a fault waits for all of it",
        acts: &[(Act::Copy(PAGE), "EINVAL"), (Act::Copy(GIB), "done")],
    },
    GiantRow {
        says: "So is a write protection",
        acts: &[(Act::Protect(PAGE), "EINVAL"), (Act::Protect(GIB), "done")],
    },
    GiantRow {
        says: "One byte stored anywhere makes the whole GiB count as written",
        acts: &[
            (Act::Scan, "nothing"),
            (Act::Store(5 << 20), "done"),
            (Act::Scan, "1 GiB written"),
            (Act::Scan, "nothing"),
        ],
    },
    GiantRow {
        says: "MADV_DONTNEED of a part does nothing: its end is rounded down",
        acts: &[(Act::DontNeed(PAGE), "done"), (Act::Continue(GIB), "EEXIST")],
    },
    GiantRow {
        says: "Continuing is of a whole GiB",
        acts: &[(Act::DontNeed(GIB), "done"), (Act::Continue(PAGE), "EINVAL"), (Act::Continue(GIB), "done")],
    },
    GiantRow {
        says: "So is poison",
        acts: &[
            (Act::Punch, "done"),
            (Act::Poison(PAGE), "EINVAL"),
            (Act::Poison(GIB), "done"),
            (Act::Continue(GIB), "EFAULT"),
        ],
    },
];

/// What the operations come to on the engine, row by row.
///
/// # Errors
///
/// [`EngineError`].
pub fn on_engine() -> Result<Vec<Vec<String>>, EngineError> {
    let mut world = OnEngine::new()?;
    Ok(each(|act| world.act(act)))
}

/// What they come to on the running kernel; `None` if it has no page of 1 GiB to spare, or there is no root. The pool is put back.
///
/// # Errors
///
/// What the system says.
pub fn on_kernel() -> io::Result<Option<Vec<Vec<String>>>> {
    let Some(_pool) = GiantPool::take() else { return Ok(None) };
    let world = OnKernel::new()?;
    Ok(Some(each(|act| world.act(act))))
}

/// Are these the answers that the rows give?
#[must_use]
pub fn hold(answers: &[Vec<String>]) -> bool {
    let said = |row: &GiantRow| row.acts.iter().map(|(_, answer)| *answer).collect::<Vec<_>>();
    GIANT.iter().zip(answers).all(|(row, answers)| *answers == said(row))
}

fn each(mut act: impl FnMut(Act) -> String) -> Vec<Vec<String>> {
    GIANT.iter().map(|row| row.acts.iter().map(|(what, _)| act(*what)).collect()).collect()
}

struct OnEngine {
    task: Task<Host>,
    space: Arc<AddressSpace<Host>>,
    file: Arc<HugeFile<Host>>,
    handler: Userfault<Host>,
}

const START: VirtAddr = VirtAddr::new(GIB);

impl OnEngine {
    fn new() -> Result<Self, EngineError> {
        let config = HostConfig::new().huge_bytes(2 * GIB).contents(Contents::Nothing);
        let hugetlb = Hugetlb::new(Host::new(&config)?)?;
        hugetlb.resize_pool(X86_64::SIZE_1G, 1);
        let mut task = hugewalk_host::task(&hugetlb)?;
        let file = HugeFile::new(&hugetlb, X86_64::SIZE_1G, None).expect("there is memory");
        file.truncate(&mut task, GIB).expect("a new file");
        let space = AddressSpace::new(&hugetlb)?;
        let request = MapRequest::file(&file, 0, GIB).shared().at(START);
        space.mmap(&mut task, &request).expect("nothing is mapped");
        let handler = Userfault::new(&space, Features::WP_ASYNC).expect("known features");
        Ok(Self { task, space, file, handler })
    }

    fn act(&mut self, act: Act) -> String {
        let Self { task, space, file, handler } = self;
        let filled = |result: Result<(), Stopped>| said(result.map_err(|stopped| stopped.errno().name()));
        match act {
            Act::Register => match handler.register(task, START, GIB, Modes::all()) {
                Ok(can) => operations(can.bits()),
                Err(error) => error.errno().name().to_owned(),
            },
            // Zeroes that nobody has touched take no memory.
            Act::Copy(bytes) => {
                filled(handler.copy(task, START, &vec![0; bytes as usize], CopyMode::empty()))
            }
            Act::Protect(bytes) => said(
                handler
                    .write_protect(task, START, bytes, ProtectMode::WP)
                    .map_err(|error| error.errno().name()),
            ),
            Act::Store(at) => {
                let stored =
                    Cpu::new(space).map(|mut cpu| cpu.store(task, VirtAddr::new(START.as_u64() + at), 1));
                said(stored.expect("there is memory").map_err(|error| error.errno().name()))
            }
            Act::Scan => {
                let written = Categories::WRITTEN;
                let range = START..VirtAddr::new(2 * GIB);
                let scan = Scan { flags: ScanFlags::WP_MATCHING, mask: written, ..Scan::new(range) };
                match space.scan_pages(task, &scan) {
                    Ok(found) => {
                        let length =
                            |region: &hugewalk::pagewalk::Region| region.end.as_u64() - region.start.as_u64();
                        scanned(found.regions.iter().map(length).sum())
                    }
                    Err(error) => error.errno().name().to_owned(),
                }
            }
            Act::DontNeed(bytes) => said(
                space.madvise(task, START, bytes, mm::Advice::DontNeed).map_err(|error| error.errno().name()),
            ),
            Act::Continue(bytes) => filled(handler.continue_range(task, START, bytes, ContinueMode::empty())),
            Act::Punch => said(file.punch_hole(task, 0, GIB).map_err(|error| error.errno().name())),
            Act::Poison(bytes) => filled(handler.poison(task, START, bytes, PoisonMode::empty())),
        }
    }
}

impl Drop for OnEngine {
    fn drop(&mut self) {
        self.space.exit(&mut self.task).expect("its own task");
    }
}

fn said(result: Result<(), &'static str>) -> String {
    result.err().unwrap_or("done").to_owned()
}

fn scanned(bytes: u64) -> String {
    if bytes == 0 { "nothing".to_owned() } else { format!("{} GiB written", bytes / GIB) }
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB";

/// The kernel's pool of pages of 1 GiB, with one to spare; what it was before is put back.
struct GiantPool {
    before: u64,
}

impl GiantPool {
    fn take() -> Option<Self> {
        let number =
            |name: &str| fs::read_to_string(format!("{POOL}/{name}")).ok()?.trim().parse::<u64>().ok();
        let pool = Self { before: number("nr_hugepages")? };
        fs::write(format!("{POOL}/nr_hugepages"), (pool.before + 1).to_string()).ok()?;
        let spare = number("free_hugepages")?.checked_sub(number("resv_hugepages")?)?;
        // Dropped if there is none, which puts the pool back.
        (spare > 0).then_some(pool)
    }
}

impl Drop for GiantPool {
    fn drop(&mut self) {
        let _ = fs::write(format!("{POOL}/nr_hugepages"), self.before.to_string());
    }
}

/// A page of 1 GiB of this process. Nothing else of the process lies there, and every access to it is one that goes on.
struct OnKernel {
    file: OwnedFd,
    handler: OwnedFd,
    start: u64,
}

impl OnKernel {
    fn new() -> io::Result<Self> {
        const FLAGS: u32 = libc::MFD_HUGETLB | libc::MFD_HUGE_1GB | libc::MFD_CLOEXEC;
        // SAFETY: a string of C.
        let file = owned(unsafe { libc::memfd_create(c"giant".as_ptr(), FLAGS) })?;
        // SAFETY: takes numbers.
        checked(unsafe { libc::ftruncate(file.as_raw_fd(), GIB.cast_signed()) })?;
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: wherever the kernel has room.
        let start = unsafe { libc::mmap(ptr::null_mut(), GIB as usize, rights, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: takes a number.
        let handler =
            unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) } as i32;
        let world = Self { file, handler: owned(handler)?, start: start as u64 };
        // UFFD_API, UFFD_FEATURE_WP_ASYNC.
        world.call(0x3f, &mut [0xaa, 1 << 15, 0])?;
        Ok(world)
    }

    /// An operation of userfaultfd whose argument is so many words.
    fn call<const WORDS: usize>(&self, operation: u64, words: &mut [u64; WORDS]) -> io::Result<()> {
        let request = 3u64 << 30 | (WORDS as u64 * 8) << 16 | 0xaa << 8 | operation;
        // SAFETY: the argument is as large as the number says; the range it names is this world's own.
        checked(unsafe { libc::ioctl(self.handler.as_raw_fd(), request as _, words.as_mut_ptr()) })
    }

    fn act(&self, act: Act) -> String {
        let start = self.start;
        let result = match act {
            Act::Register => {
                let mut words = [start, GIB, 7, 0];
                match self.call(0, &mut words) {
                    Ok(()) => return operations(words[3]),
                    Err(error) => Err(error),
                }
            }
            Act::Copy(bytes) => self.copy(bytes),
            Act::Protect(bytes) => self.call(6, &mut [start, bytes, 1]),
            Act::Store(at) => {
                // SAFETY: within the page, which is there: it was copied before.
                unsafe { ((start + at) as *mut u8).write_volatile(1) };
                Ok(())
            }
            Act::Scan => return self.scan(),
            Act::DontNeed(bytes) => {
                // SAFETY: this world's own mapping, into which nobody points.
                checked(unsafe { libc::madvise(start as *mut _, bytes as usize, libc::MADV_DONTNEED) })
            }
            Act::Continue(bytes) => self.call(7, &mut [start, bytes, 0, 0]),
            Act::Punch => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                // SAFETY: takes numbers.
                checked(unsafe { libc::fallocate(self.file.as_raw_fd(), mode, 0, GIB.cast_signed()) })
            }
            Act::Poison(bytes) => self.call(8, &mut [start, bytes, 0, 0]),
        };
        result.map_or_else(|error| name_of(&error), |()| "done".to_owned())
    }

    /// Copies zeroes that nobody has touched.
    fn copy(&self, bytes: u64) -> io::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: wherever the kernel has room.
        let source = unsafe { libc::mmap(ptr::null_mut(), bytes as usize, libc::PROT_READ, flags, -1, 0) };
        if source == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let copied = self.call(3, &mut [self.start, source as u64, bytes, 0, 0]);
        // SAFETY: mapped above, and nobody points there.
        unsafe { libc::munmap(source, bytes as usize) };
        copied
    }

    fn scan(&self) -> String {
        let mut found = [[0u64; 3]; 4];
        // PM_SCAN_WP_MATCHING, PAGE_IS_WRITTEN.
        let mut words = [
            96,
            1,
            self.start,
            self.start + GIB,
            0,
            found.as_mut_ptr() as u64,
            found.len() as u64,
            0,
            0,
            2,
            0,
            2,
        ];
        let request = 3u64 << 30 | 96 << 16 | u64::from(b'f') << 8 | 16;
        let Ok(pagemap) = fs::File::open("/proc/self/pagemap") else { return "no pagemap".to_owned() };
        // SAFETY: the argument is as large as it says, and names room for as many regions as it says.
        let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), request as _, words.as_mut_ptr()) };
        match usize::try_from(count) {
            Ok(count) => scanned(found.iter().take(count).map(|region| region[1] - region[0]).sum()),
            Err(_) => name_of(&io::Error::last_os_error()),
        }
    }
}

impl Drop for OnKernel {
    fn drop(&mut self) {
        // SAFETY: this world's own mapping, into which nobody points.
        unsafe { libc::munmap(self.start as *mut _, GIB as usize) };
    }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    checked(fd.min(0))?;
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn name_of(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |number| crate::kernel::error_name(number.into()).to_owned())
}
