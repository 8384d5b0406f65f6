//! Processors: what each has of its own, and its tables of segments and vectors.

pub mod apic;
pub mod clock;
pub mod frame;
pub mod port;
pub mod shootdown;
mod tables;
pub mod trap;

use core::arch::{asm, global_asm};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};

use crate::task::Thread;

global_asm!(include_str!("entry.s"));

/// Processors at most.
pub const MAX: usize = 32;

/// What a processor has of its own; GS leads to it in ring 0. `entry.s` uses the first fields by their offsets.
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
    apic_id: AtomicU32,
    /// The processor runs its idle thread: it is in no read section, and has no program's tables loaded.
    pub idle: AtomicBool,
    /// The root table that is loaded.
    pub root: AtomicU64,
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
        apic_id: AtomicU32::new(0),
        idle: AtomicBool::new(false),
        root: AtomicU64::new(0),
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
    let own: *const PerCpu;
    // SAFETY: GS leads to a `PerCpu`, from `set_up` on.
    unsafe { asm!("mov {}, gs:[0]", out(reg) own, options(nostack, pure, readonly, preserves_flags)) };
    // SAFETY: an element of `PROCESSORS`.
    unsafe { &*own }
}

impl PerCpu {
    /// Its number, from 0.
    pub fn number(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// Its APIC's id.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
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

/// Notes the APIC id of a processor that is about to start.
pub fn set_apic_id(number: usize, id: u32) {
    PROCESSORS[number].apic_id.store(id, Ordering::Relaxed);
}

/// Gives the calling processor its number, segments, vectors and way in for system calls. Called once on each.
pub fn set_up(number: usize) {
    let own = &PROCESSORS[number];
    own.number.store(number, Ordering::Relaxed);
    own.own.store(ptr::from_ref(own).cast_mut(), Ordering::Relaxed);
    tables::load(number);
    GsBase::write(VirtAddr::from_ptr(own));
    KernelGsBase::write(VirtAddr::zero());
    // SeqCst: pairs with `count`, by which the first processor waits for this one.
    COUNT.store(number + 1, Ordering::SeqCst);
}

/// The calling processor has its APIC's id.
pub fn note_apic_id() {
    this().apic_id.store(apic::id(), Ordering::Relaxed);
}

/// Loads a root table, which drops all translations.
///
/// # Safety
///
/// It maps the kernel's half as every root does, and lives until another one is loaded.
pub unsafe fn load_root(root: u64) {
    this().root.store(root, Ordering::Relaxed);
    // SAFETY: passed on to the caller.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Drops all translations of this processor.
pub fn flush_own() {
    let root = this().root.load(Ordering::Relaxed);
    // SAFETY: the root that is loaded already.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}
