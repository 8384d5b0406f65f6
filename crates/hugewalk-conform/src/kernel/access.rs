//! Loads and stores that may go wrong: a signal ends the access, not the process.

use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where to go on after a signal; 0 if no access is under way.
static RESUME: AtomicU64 = AtomicU64::new(0);
/// The signal, its code and its address, of the access that went wrong last.
static SIGNAL: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// A signal that an access has met.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    pub(super) signal: u64,
    pub(super) code: u64,
    pub(super) address: u64,
}

/// What accesses do with a byte.
#[derive(Clone, Copy)]
pub(super) enum Access {
    Load,
    Store(u8),
}

/// Catches the signals of accesses, for this process and those it forks.
pub(super) fn catch_signals() {
    // SAFETY: all zeroes is a value of this type: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the handler is async-signal-safe: it stores to atomics and to the context it is given.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let resume = RESUME.swap(0, Relaxed);
    if resume == 0 {
        // Not an access of the program but a fault of our own.
        // SAFETY: ends the process without returning, as a handler may.
        unsafe { libc::_exit(97) };
    }
    // SAFETY: the kernel hands the handler its own record, alive until it returns.
    let info = unsafe { &*info };
    SIGNAL.store(signal as u64, Relaxed);
    CODE.store(info.si_code as u64, Relaxed);
    // SAFETY: both signals carry an address.
    ADDRESS.store(unsafe { info.si_addr() } as u64, Relaxed);
    // SAFETY: with SA_SIGINFO the third argument is the context that the process goes on with.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_RIP as usize] = resume.cast_signed();
}

/// Loads or stores one byte, wherever that is. The byte, or the signal.
pub(super) fn access(address: u64, what: Access) -> Result<u8, Met> {
    let mut byte = 0u8;
    // Both are set and cleared on this thread, in the handler or outside; the compiler cannot look into the assembly.
    match what {
        // SAFETY: the address may be anything: where nothing can be loaded from, the handler goes on at the label. Where
        // something can, it is memory of the program, which the language knows nothing of.
        Access::Load => unsafe {
            core::arch::asm!(
                "lea {there}, [rip + 2f]",
                "mov [{resume}], {there}",
                "mov {byte}, byte ptr [{address}]",
                "mov qword ptr [{resume}], 0",
                "2:",
                there = out(reg) _,
                resume = in(reg) RESUME.as_ptr(),
                address = in(reg) address,
                byte = inout(reg_byte) byte,
            );
        },
        // SAFETY: as above; the caller names addresses of the program's window only, where nothing of this process lies.
        Access::Store(value) => unsafe {
            core::arch::asm!(
                "lea {there}, [rip + 2f]",
                "mov [{resume}], {there}",
                "mov byte ptr [{address}], {byte}",
                "mov qword ptr [{resume}], 0",
                "2:",
                there = out(reg) _,
                resume = in(reg) RESUME.as_ptr(),
                address = in(reg) address,
                byte = in(reg_byte) value,
            );
        },
    }
    let signal = SIGNAL.swap(0, Relaxed);
    if signal == 0 {
        return Ok(byte);
    }
    Err(Met { signal, code: CODE.load(Relaxed), address: ADDRESS.load(Relaxed) })
}

/// Minor faults that this process has taken.
pub(super) fn minor_faults() -> u64 {
    // SAFETY: all zeroes is a value of this type.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: the pointer is to a value of the type that the call fills.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage.ru_minflt.cast_unsigned()
}

/// Pages whose only use is that their translations can be taken away.
static SCRATCH: Scratch = Scratch([const { AtomicU64::new(0) }; SCRATCH_WORDS]);

/// More than the kernel flushes one by one (`tlb_single_page_flush_ceiling`).
const SCRATCH_PAGES: usize = 64;
const SCRATCH_WORDS: usize = SCRATCH_PAGES * 512;

#[repr(align(4096))]
struct Scratch([AtomicU64; SCRATCH_WORDS]);

/// Gives the scratch pages contents, so that every fork copies their entries.
pub(super) fn touch_scratch() {
    for page in SCRATCH.0.chunks(512) {
        page[0].store(1, Relaxed);
    }
}

/// Has the kernel flush this process's translations. A huge page that got the right to write may lie in the TLB without it,
/// in pieces of 4 KiB if that is what the machine under a virtual one has; the first store to each piece would count as a
/// fault.
fn flush_translations() {
    let at = SCRATCH.0.as_ptr().cast_mut().cast();
    let length = size_of_val(&SCRATCH);
    for protection in [libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE] {
        // SAFETY: whole pages of our own that nobody touches meanwhile, and that are as they were afterwards.
        unsafe { libc::mprotect(at, length, protection) };
    }
}

/// Does an access and counts the faults it takes.
pub(super) fn counted(address: u64, what: Access) -> (Result<u8, Met>, u64) {
    // Whatever the measuring itself touches is touched beforehand: the code, the stack, the variables above. After a fork
    // each of them costs a fault once.
    flush_translations();
    let mut here = 0u8;
    let _ = access(&raw mut here as u64, what);
    // What a signal touches as well: nothing is ever mapped in the first page.
    let _ = access(0, what);
    let _ = minor_faults();
    let before = minor_faults();
    let result = access(address, what);
    (result, minor_faults() - before)
}
