//! The locking protocol of a run: the engine's own, or a weaker one.
//!
//! The kernel is built in two ways. As it is, it follows the engine's protocol, and nothing in this room costs anything. With
//! the feature `weaker` the settings of a run choose: which steps are left out, what walkers hold, whom unsharing waits for. `hugewalk
//! run --protocol` and `--without` boot that build.
//!
//! What is weaker lets the engine, or a processor, reach tables and pages that were freed. So that build never hands a freed
//! table or a freed base page out again (see [`memory::frames`](crate::memory::frames)), and huge pages only as huge pages: a late access meets what was there, or
//! the contents of another program, and the kernel's own memory stays whole. What is late is counted: a walk that comes to a freed table,
//! and a table that was stored to after the last use of it was given up.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use hugewalk::protocol::Step;

use crate::console::report;
use crate::cpu;
use crate::cpu::shootdown;
use crate::memory::frames;
use crate::space::root::Root;

/// Is this the build that can do with less than the engine's own protocol?
pub const WEAKER: bool = cfg!(feature = "weaker");

/// Read sections and grace periods.
#[cfg(not(feature = "weaker"))]
pub type Sections = hugewalk::rcu::EpochRcu<super::Kernel>;

#[cfg(feature = "weaker")]
pub use self::weaker::{Sections, keeps};

/// What walkers hold, those that have interrupts off aside.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Walkers {
    /// A read section.
    Rcu,
    /// The VMA lock.
    Vma,
    /// The mmap lock, which does not keep tables: their read sections count for nothing.
    Mmap,
}

/// Whom unsharing waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Broadcast {
    /// Nobody.
    None,
    /// All processors, for each table.
    Each,
    /// All processors, once for a flush after which a table has one user left.
    Last,
    /// As `Last`, the processors that walk the address space with interrupts off.
    Targeted,
}

/// What the settings ask for.
pub struct Protocol {
    /// Its name, for what is said.
    pub name: String,
    /// What walkers hold.
    pub walkers: Walkers,
    /// Whom unsharing waits for.
    pub broadcast: Broadcast,
    /// A bit for each step that is left out.
    pub without: u64,
}

/// Steps that this kernel can do without: what goes wrong then are tables and translations, never memory of its own.
const STEPS: [(&str, Step); 15] = [
    ("rcu-free", Step::RcuFree),
    ("revalidate", Step::Revalidate),
    ("confirm-parent", Step::ConfirmParent),
    ("confirm-generation", Step::ConfirmGeneration),
    ("bump-generation", Step::BumpGeneration),
    ("flush", Step::Flush),
    ("note-generation-first", Step::NoteGenerationFirst),
    ("confirm-parent-first", Step::ConfirmParentFirst),
    ("bump-after-clear", Step::BumpAfterClear),
    ("confirm-entry", Step::ConfirmEntry),
    ("detach-locked", Step::DetachLocked),
    ("flush-whole-table", Step::FlushWholeTable),
    ("flush-under-i-mmap", Step::FlushUnderIMmap),
    ("count-then-tell", Step::CountThenTell),
    ("vma-lock", Step::VmaLock),
];

const fn bit(step: Step) -> u64 {
    1 << step as u64
}

impl Protocol {
    /// The engine's own.
    pub fn own() -> Self {
        Self { name: "hugewalk".to_string(), walkers: Walkers::Rcu, broadcast: Broadcast::None, without: 0 }
    }

    /// Leaves a step out.
    ///
    /// # Errors
    ///
    /// One line, if that cannot be done.
    pub fn leave_out(&mut self, name: &str) -> Result<(), String> {
        let (_, step) = STEPS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| format!("the kernel cannot leave out a step {name}"))?;
        self.without |= bit(*step);
        Ok(())
    }

    /// What walkers hold, by name.
    ///
    /// # Errors
    ///
    /// One line, if the kernel knows no such thing.
    pub fn hold(&mut self, name: &str) -> Result<(), String> {
        self.walkers = match name {
            "rcu" => Walkers::Rcu,
            "vma" => Walkers::Vma,
            "mmap" => Walkers::Mmap,
            _ => return Err(format!("walkers of this kernel cannot hold {name}")),
        };
        Ok(())
    }

    /// Whom unsharing waits for, by name.
    ///
    /// # Errors
    ///
    /// One line, if the kernel knows no such thing.
    pub fn wait_for(&mut self, name: &str) -> Result<(), String> {
        self.broadcast = match name {
            "none" => Broadcast::None,
            "each" => Broadcast::Each,
            "last" => Broadcast::Last,
            "targeted" => Broadcast::Targeted,
            _ => return Err(format!("unsharing in this kernel cannot wait for {name}")),
        };
        Ok(())
    }

    /// Follows it from now on: called before the first program.
    ///
    /// # Errors
    ///
    /// One line, if the kernel was built for the engine's own protocol alone.
    pub fn choose(&self) -> Result<(), String> {
        let own = self.without == 0 && self.walkers == Walkers::Rcu && self.broadcast == Broadcast::None;
        if !own && !WEAKER {
            return Err(format!(
                "this kernel is built for the engine's own protocol, not for {}; build it with the feature `weaker`",
                self.name
            ));
        }
        let mut without = self.without;
        if self.walkers == Walkers::Mmap {
            without |= bit(Step::VmaLock);
        }
        // Relaxed: no program runs yet, and starting one orders more than this.
        WITHOUT.store(without, Ordering::Relaxed);
        WALKERS.store(self.walkers as u8, Ordering::Relaxed);
        BROADCAST.store(self.broadcast as u8, Ordering::Relaxed);
        CHOSEN.store(true, Ordering::Relaxed);
        Ok(())
    }
}

static WITHOUT: AtomicU64 = AtomicU64::new(0);
static WALKERS: AtomicU8 = AtomicU8::new(Walkers::Rcu as u8);
static BROADCAST: AtomicU8 = AtomicU8::new(Broadcast::None as u8);
static CHOSEN: AtomicBool = AtomicBool::new(false);
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
static NOT_TOLD: AtomicU64 = AtomicU64::new(0);
static LATE: AtomicU64 = AtomicU64::new(0);

/// Is this step left out?
#[inline(always)]
pub fn leaves_out(step: Step) -> bool {
    WEAKER && WITHOUT.load(Ordering::Relaxed) & bit(step) != 0
}

fn broadcasts(kind: Broadcast) -> bool {
    WEAKER && BROADCAST.load(Ordering::Relaxed) == kind as u8
}

/// Do walkers have interrupts off where Linux's fast GUP has? Then whoever sends a broadcast waits for them.
pub fn fast_walks_wait() -> bool {
    WEAKER && (WALKERS.load(Ordering::Relaxed) != Walkers::Rcu as u8)
}

/// A table was unshared.
pub(super) fn unshared() {
    if broadcasts(Broadcast::Each) {
        shootdown::broadcast();
    }
}

/// A flush is done, after which a table has one user left.
pub(super) fn flushed_last(mm: u64) {
    if broadcasts(Broadcast::Last) {
        shootdown::broadcast();
    } else if broadcasts(Broadcast::Targeted) {
        shootdown::interrupt_walkers(mm);
    }
}

/// A flush of a range is left out: which other processors run the address space, and were not told?
pub(super) fn note(root: &Root, start: u64) {
    LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    let others = root.processors() & !(1 << cpu::this().number());
    if others != 0 && NOT_TOLD.fetch_add(u64::from(others.count_ones()), Ordering::Relaxed) == 0 {
        report(format_args!(
            "stale processor {} may still use what it knew of {start:#x}: the step `flush` is missing",
            others.trailing_zeros()
        ));
    }
}

/// A walk comes to a table. Is it one that was freed?
#[inline(always)]
pub(super) fn look(table: u64) {
    if WEAKER && frames::is_freed_table(table) && LATE.fetch_add(1, Ordering::Relaxed) == 0 {
        report(format_args!("stale a walk came to the table at {table:#x} after that was freed"));
    }
}

/// Something was not given back. Where a walker was late, that is what came of it: an entry in a table that was freed is never cleared.
pub fn lost(what: fmt::Arguments<'_>) {
    let is_late = WEAKER && (LATE.load(Ordering::Relaxed) > 0 || frames::changed_freed_tables() > 0);
    report(format_args!("{} {what}", if is_late { "stale" } else { "leak" }));
}

/// Says what came of it.
pub fn say() {
    if !WEAKER || !CHOSEN.load(Ordering::Relaxed) {
        return;
    }
    if leaves_out(Step::Flush) {
        report(format_args!("count left_out {}", LEFT_OUT.load(Ordering::Relaxed)));
        report(format_args!("count not_told {}", NOT_TOLD.load(Ordering::Relaxed)));
    }
    let changed = frames::changed_freed_tables();
    report(format_args!("count late_walks {}", LATE.load(Ordering::Relaxed)));
    report(format_args!("count late_stores {changed}"));
    report(format_args!("count kept {}", frames::kept()));
}

#[cfg(feature = "weaker")]
mod weaker {
    use core::ptr::NonNull;
    use core::sync::atomic::Ordering;

    use hugewalk::error::OutOfMemory;
    use hugewalk::protocol::Step;
    use hugewalk::rcu::{EpochRcu, EpochReader, Rcu, RcuHead};

    use super::super::Kernel;
    use super::{WALKERS, WITHOUT, Walkers, bit};
    use crate::arch::interrupts::are_enabled;

    /// What a walker checks that holds a read section alone. The protocols of Linux have none of it.
    const UNCHECKED: u64 = bit(Step::Revalidate) | bit(Step::ConfirmParent) | bit(Step::ConfirmGeneration);

    /// Does the protocol that the settings chose have this step?
    #[inline]
    pub fn keeps(step: Step) -> bool {
        match step {
            // The platform leaves flushes out itself, and notes who was not told.
            Step::Flush => true,
            Step::WalkUnlocked => WALKERS.load(Ordering::Relaxed) != Walkers::Vma as u8,
            // What a fault has seen says something only if it was checked.
            Step::UsePresent => WITHOUT.load(Ordering::Relaxed) & UNCHECKED != UNCHECKED,
            _ => WITHOUT.load(Ordering::Relaxed) & bit(step) == 0,
        }
    }

    /// Read sections, which count for nothing where walkers have the mmap lock alone. A section with interrupts off counts in
    /// every protocol.
    pub struct Sections(EpochRcu<Kernel>);

    fn counts() -> bool {
        WALKERS.load(Ordering::Relaxed) != Walkers::Mmap as u8 || !are_enabled()
    }

    // SAFETY: `EpochRcu` keeps its promises. Where sections count for nothing it does not, and whoever chose that protocol
    // answers for it: freed tables stay as they are. Interrupts are not turned off or on inside a section, so a section that
    // was entered is left, and no other.
    unsafe impl Rcu<Kernel> for Sections {
        type Reader = EpochReader<Kernel>;

        fn new(host: &Kernel) -> Result<Self, OutOfMemory> {
            EpochRcu::new(host).map(Self)
        }

        fn register(&self, host: &Kernel) -> Result<Self::Reader, OutOfMemory> {
            self.0.register(host)
        }

        unsafe fn unregister(&self, host: &Kernel, reader: Self::Reader) {
            // SAFETY: passed on to the caller.
            unsafe { self.0.unregister(host, reader) };
        }

        unsafe fn read_lock(&self, host: &Kernel, reader: &Self::Reader) {
            if counts() {
                // SAFETY: passed on to the caller.
                unsafe { self.0.read_lock(host, reader) };
            }
        }

        unsafe fn read_unlock(&self, host: &Kernel, reader: &Self::Reader) {
            if counts() {
                // SAFETY: passed on to the caller; the section was entered.
                unsafe { self.0.read_unlock(host, reader) };
            }
        }

        unsafe fn call(&self, host: &Kernel, head: NonNull<RcuHead>) {
            // SAFETY: passed on to the caller.
            unsafe { self.0.call(host, head) };
        }

        unsafe fn synchronize(&self, host: &Kernel) {
            // SAFETY: passed on to the caller.
            unsafe { self.0.synchronize(host) };
        }

        unsafe fn barrier(&self, host: &Kernel) {
            // SAFETY: passed on to the caller.
            unsafe { self.0.barrier(host) };
        }

        fn pending(&self) -> u64 {
            self.0.pending()
        }
    }
}
