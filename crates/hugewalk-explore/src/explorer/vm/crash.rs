//! Crashes of what is explored, as findings.
//!
//! # Protocol
//!
//! Memory that a run has freed is wiped and not handed out again (`arena.rs`). So whoever follows a pointer that lies in it comes to an
//! address where nothing is, and the processor raises a signal: on the OS thread of the exploration, on the stack of the
//! coroutine that did it. The handler lets the coroutine go on in [`report`], at the end of its stack: what it was in the
//! middle of is given up, as that of any run that is decided. Each thing that runs on a coroutine runs [`within`] one that is
//! known to the handler.
//!
//! A signal that comes from anywhere else, or in the middle of a panic, ends the process, as it would without this.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Once;

use corosensei::trap::CoroutineTrapHandler;

use super::ambient::{MOVING, VM, violation};
use super::registers;
use super::turn::Turn;
use super::{Mode, Vm};

/// What is explored has crashed: it used memory that is not there, or ran what is no instruction.
#[derive(Clone, Copy, Debug)]
pub struct Crash;

/// What a processor raises.
const SIGNALS: [(c_int, &str); 4] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
];

/// What a program did with the signals before. Written once, before the handler is there.
struct Before(UnsafeCell<[MaybeUninit<libc::sigaction>; SIGNALS.len()]>);

// SAFETY: written under `Once`, and read by the handler, which is installed afterwards.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new([const { MaybeUninit::uninit() }; SIGNALS.len()]));

thread_local! {
    /// What runs on this OS thread, and the machine that it belongs to.
    static RUNNING: Cell<Option<(CoroutineTrapHandler<()>, *mut Vm)>> = const { Cell::new(None) };
}

/// Runs a coroutine whose crashes are findings of this machine's.
pub(super) fn within<R>(coroutine: CoroutineTrapHandler<()>, vm: *mut Vm, resume: impl FnOnce() -> R) -> R {
    let outer = RUNNING.replace(Some((coroutine, vm)));
    let result = resume();
    RUNNING.set(outer);
    result
}

/// From now on, a crash of what is explored is a finding of the run, in all threads of this process: [`Crash`]. A crash of anything
/// else ends the process, as before.
///
/// A program that is set back for each run (`Allocator`) has nothing left of the run that crashed. One without leaks what lay on
/// the stack.
///
/// # Panics
///
/// If the system refuses.
pub fn catch_crashes() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (number, (signal, name)) in SIGNALS.into_iter().enumerate() {
            // SAFETY: all zeroes are an action without flags, and with an empty mask.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_signal as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: only this thread is here, and the handler of this signal is not there yet.
            let before = unsafe { (*BEFORE.0.get())[number].as_mut_ptr() };
            // SAFETY: asks what is done now.
            let known = unsafe { libc::sigaction(signal, std::ptr::null(), before) };
            // SAFETY: the handler is one for three arguments.
            let set = unsafe { libc::sigaction(signal, &raw const action, null_mut()) };
            assert!(known == 0 && set == 0, "no handler for {name}");
        }
    });
}

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let context: *mut libc::ucontext_t = context.cast();
    // SAFETY: the system hands it over for the time of this call.
    let registers = unsafe { &mut (*context).uc_mcontext };
    // SAFETY: likewise.
    let info = unsafe { &*info };
    // SAFETY: these signals come with the address that they are about.
    let address = unsafe { info.si_addr() }.addr();
    let stack = registers::stack_pointer(registers);
    match RUNNING
        .get()
        .filter(|(coroutine, _)| coroutine.stack_ptr_in_bounds(stack) && !std::thread::panicking())
    {
        Some((coroutine, vm)) => {
            // SAFETY: the signal was raised on the stack of this coroutine, which is running; the registers are set as is asked for.
            // What it was in the middle of is given up with all memory that it can have changed, or leaks.
            let go_on = unsafe { coroutine.setup_trap_handler(move || report(vm, signal, address)) };
            registers::go_on(registers, go_on);
        }
        None => {
            // The instruction is run again, and comes to whoever would have had the signal without this.
            let number = SIGNALS.iter().position(|&(known, _)| known == signal).unwrap_or(0);
            // SAFETY: it was written before this handler was there, and is not written any more.
            let before = unsafe { &*BEFORE.0.get() }[number].as_ptr();
            // SAFETY: likewise.
            unsafe { libc::sigaction(signal, before, null_mut()) };
        }
    }
}

/// Runs at the end of the stack of what has crashed, and is the last thing there.
fn report(vm: *mut Vm, signal: c_int, address: usize) {
    // The crash may have come while the threads were looked at from outside.
    VM.set(vm);
    let name = SIGNALS.iter().find(|&&(known, _)| known == signal).map_or("a signal", |&(_, name)| name);
    // An address of any other sort is another one in another process.
    let at = if address < 1 << 16 { format!(" at {address:#x}") } else { String::new() };
    violation(format!("a crash: {name}{at}"), Crash);
    // SAFETY: set by whoever runs this coroutine, and has no reference meanwhile.
    let vm = unsafe { &mut *vm };
    if vm.mode != Mode::Quiet {
        MOVING.set(true);
        (vm.mode, vm.turn) = (Mode::Dead, Turn::Over);
    }
}
