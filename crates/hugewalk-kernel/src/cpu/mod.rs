//! Processors: what each has of its own, interrupts between them, and the ways in from programs.

pub mod clock;
pub mod irq_lock;
pub mod shootdown;
pub mod trap;

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::arch::controller::{self, Interrupt};
use crate::arch::{mmu, processor};
use crate::task::Thread;

/// Processors at most.
pub const MAX: usize = 32;

/// What a processor has of its own. The ways into the kernel use the first fields, up to `reschedule`, by their offsets.
///
/// # Invariants
///
/// `current` is the thread that runs on this processor, and lives as long as it does.
#[repr(C)]
pub struct PerCpu {
    own: AtomicPtr<PerCpu>,
    /// Top of the running thread's kernel stack.
    pub kernel_stack: AtomicU64,
    user_stack: AtomicU64,
    scratch: AtomicU64,
    /// Another thread may be due: the timer sets it, and so does another processor that queues a thread.
    pub reschedule: AtomicBool,
    current: AtomicPtr<Thread>,
    number: AtomicUsize,
    hardware_id: AtomicU32,
    /// The processor runs its idle thread: it is in no read section, and has no program's tables loaded.
    pub idle: AtomicBool,
    /// It runs no program, on whatever root is loaded: see [`active`](crate::space::active).
    pub lazy: AtomicBool,
    /// It was not told of a flush while it was lazy.
    pub stale: AtomicBool,
    /// The root table that is loaded.
    pub root: AtomicU64,
    /// The address space that the processor walks without locks, with interrupts off; else 0.
    pub walks: AtomicU64,
    /// Locks that keep interrupts off.
    held: irq_lock::Held,
}

static PROCESSORS: [PerCpu; MAX] = [const {
    PerCpu {
        own: AtomicPtr::new(ptr::null_mut()),
        kernel_stack: AtomicU64::new(0),
        user_stack: AtomicU64::new(0),
        scratch: AtomicU64::new(0),
        reschedule: AtomicBool::new(false),
        current: AtomicPtr::new(ptr::null_mut()),
        number: AtomicUsize::new(0),
        hardware_id: AtomicU32::new(0),
        idle: AtomicBool::new(false),
        lazy: AtomicBool::new(true),
        stale: AtomicBool::new(false),
        root: AtomicU64::new(0),
        walks: AtomicU64::new(0),
        held: irq_lock::Held::new(),
    }
}; MAX];

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Processors that are up.
pub fn count() -> usize {
    COUNT.load(Ordering::SeqCst)
}

/// The processors that are up, by number.
pub fn all() -> &'static [PerCpu] {
    &PROCESSORS[..count()]
}

/// The processor that runs this. It may be another one after the thread has slept.
pub fn this() -> &'static PerCpu {
    // SAFETY: an element of `PROCESSORS`, from `set_up` on.
    unsafe { &*processor::own() }
}

impl PerCpu {
    /// Its number, from 0.
    pub fn number(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// Its number for the interrupt controller.
    pub fn hardware_id(&self) -> u32 {
        self.hardware_id.load(Ordering::Relaxed)
    }

    /// The thread that runs on it, for the scheduler.
    pub fn current(&self) -> *const Thread {
        self.current.load(Ordering::Relaxed)
    }

    /// Says which thread runs on it.
    ///
    /// # Safety
    ///
    /// The thread lives until another one is set.
    pub unsafe fn set_current(&self, thread: *const Thread) {
        self.current.store(thread.cast_mut(), Ordering::Relaxed);
    }
}

/// Notes the number that the interrupt controller has for a processor that is about to start.
pub fn set_hardware_id(number: usize, id: u32) {
    PROCESSORS[number].hardware_id.store(id, Ordering::Relaxed);
}

/// Gives the calling processor its number, and has it set up what it has for itself. Called once on each.
pub fn set_up(number: usize) {
    let own = &PROCESSORS[number];
    own.number.store(number, Ordering::Relaxed);
    own.own.store(ptr::from_ref(own).cast_mut(), Ordering::Relaxed);
    processor::set_up(number, own);
    // SeqCst: pairs with `count`, by which the first processor waits for this one.
    COUNT.store(number + 1, Ordering::SeqCst);
}

/// The calling processor has its number for the interrupt controller.
pub fn note_hardware_id() {
    this().hardware_id.store(controller::id(), Ordering::Relaxed);
}

/// Loads a root table, which drops all translations.
///
/// # Safety
///
/// It maps the kernel's half as every root does, and lives until another one is loaded.
pub unsafe fn load_root(root: u64) {
    this().root.store(root, Ordering::Relaxed);
    // SAFETY: passed on to the caller.
    unsafe { mmu::load(root) };
}

/// Drops all translations of this processor.
pub fn flush_own() {
    mmu::flush_own(this().root.load(Ordering::Relaxed));
}

/// Interrupts that said: look whether another thread should run.
static WAKEUPS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];

/// Interrupts that a processor was sent so that it looks for a thread to run.
pub fn wakeups(processor: usize) -> u64 {
    WAKEUPS[processor].load(Ordering::Relaxed)
}

/// Has a processor look whether another thread should run.
pub fn wake(processor: &PerCpu) {
    WAKEUPS[processor.number()].fetch_add(1, Ordering::Relaxed);
    controller::send(processor.hardware_id(), Interrupt::Reschedule);
}
