//! Which address space each processor has loaded, and when it lets go of it.
//!
//! A processor keeps a reference to the address space whose root it has loaded (the engine's [`ActiveMm`]), so the root is not
//! freed under it. A thread without a program runs on whatever is loaded: the processor is *lazy* then. No translation of the program's
//! is used meanwhile, so a flush of leaves does not interrupt it, but has it flush when it stops being lazy. A flush of tables does
//! interrupt it: a processor may walk ahead, at any time. One that goes to sleep loads the kernel's own root instead.
//!
//! Linux: `switch_mm_irqs_off()`, `enter_lazy_tlb()` and `leave_mm()` in arch/x86/mm/tlb.c.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use hugewalk::mm::{ActiveMm, Mm};

use crate::arch::mmu::idle_root;
use crate::cpu::{self, PerCpu};
use crate::memory::PAGE;
use crate::platform::Kernel;

/// What a processor has loaded, if it is not the kernel's own root.
///
/// # Invariants
///
/// Only the processor itself uses its slot, in functions of this room that call nothing which could come here again. The kernel is not
/// preempted, and handlers of interrupts leave it alone.
struct Slot(UnsafeCell<Option<ActiveMm<Kernel>>>);

// SAFETY: by the type invariants.
unsafe impl Sync for Slot {}

static LOADED: [Slot; cpu::MAX] = [const { Slot(UnsafeCell::new(None)) }; cpu::MAX];

/// Puts what the calling processor has loaded now in place of what it had: the one before.
fn replace(next: Option<ActiveMm<Kernel>>) -> Option<ActiveMm<Kernel>> {
    let slot = LOADED[cpu::this().number()].0.get();
    // SAFETY: by the type invariants.
    unsafe { slot.replace(next) }
}

fn has_loaded(mm: &hugewalk::Arc<Mm<Kernel>>) -> bool {
    let slot = LOADED[cpu::this().number()].0.get();
    // SAFETY: by the type invariants; the reference ends here.
    let loaded = unsafe { &*slot };
    loaded.as_ref().is_some_and(|loaded| loaded.is(mm))
}

/// Gives up what was loaded before.
fn leave(before: Option<ActiveMm<Kernel>>) {
    if let Some(before) = before {
        before.mm().context().leave();
        // SAFETY: the caller has loaded another root on this processor, which dropped all translations.
        unsafe { before.deactivate() };
    }
}

/// The calling processor is about to run a program in this address space.
pub fn activate(mm: &hugewalk::Arc<Mm<Kernel>>) {
    if !has_loaded(mm) {
        let next = ActiveMm::new(mm);
        mm.context().enter();
        // SAFETY: it has the kernel's half; `next` keeps it until another one is loaded.
        unsafe { cpu::load_root(next.root_frame().0 * PAGE) };
        leave(replace(Some(next)));
    }
    let processor = cpu::this();
    // SeqCst: pairs with `is_lazy`, which sets `stale` before it looks again. So one of the two sees the other.
    if processor.lazy.load(Ordering::Relaxed) {
        processor.lazy.swap(false, Ordering::SeqCst);
        if processor.stale.swap(false, Ordering::SeqCst) {
            cpu::flush_own();
        }
    }
}

/// The calling processor runs no program now, and keeps the root that it has.
pub fn be_lazy() {
    // SeqCst: see `activate`. What the program's translations were used for comes before.
    cpu::this().lazy.store(true, Ordering::SeqCst);
}

/// The calling processor is lazy and about to sleep: it loads the kernel's own root.
pub fn let_go() {
    let before = replace(None);
    if before.is_some() {
        // SAFETY: the kernel's root lives for ever.
        unsafe { cpu::load_root(idle_root()) };
        leave(before);
    }
}

/// Do all other processors idle, so that they have let go of what they had loaded?
pub fn others_have_let_go() -> bool {
    let own = cpu::this().number();
    let mut others = cpu::all().iter().filter(|processor| processor.number() != own);
    // SeqCst: the flag is set after `let_go`, and so what that gave up is free when it is seen.
    others.all(|processor| processor.idle.load(Ordering::SeqCst))
}

/// May this processor miss a flush of leaves? If so, it flushes before it runs a program again.
pub fn is_lazy(processor: &PerCpu) -> bool {
    if !processor.lazy.load(Ordering::SeqCst) {
        return false;
    }
    processor.stale.store(true, Ordering::SeqCst);
    processor.lazy.load(Ordering::SeqCst)
}
