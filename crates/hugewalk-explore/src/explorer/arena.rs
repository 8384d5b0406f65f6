//! The memory of a run, in one piece, so that it can be set back.
//!
//! # Protocol
//!
//! A program installs [`Allocator`] as its global allocator. While a thread of an exploration moves, or is set up, what it
//! allocates comes from the arena of its OS thread; all else, and at all other times, from the system. The arena has an area
//! for the setup and one for each thread, each of which only grows, so the `n`th allocation of a thread lies at the same
//! address in every run, whatever the others did; what is freed is wiped and not handed out again. To set a run back is to
//! copy the used part of each area back, and to forget what was allocated since.
//!
//! What lies outside stays outside: an allocation of the system that grows is not moved into the arena. A panic allocates
//! from the system, since whoever reports it may keep what it allocates.
//!
//! A program may say of a part of a thread that its allocations are to ask whether there is memory ([`asking`]): then they can
//! fail, and to ask is a step as any other. What the explorer does meanwhile, and what the program exempts, does not ask.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

use super::clock::MAX_THREADS;

/// The areas: one for each thread, and one for the setup.
pub(super) const AREAS: usize = MAX_THREADS + 1;
/// The area of the setup.
pub(super) const OF_SETUP: usize = MAX_THREADS;
/// Bytes of an area, of which the system provides those that are used. Whoever needs more is out of memory.
const AREA: usize = 16 << 20;
const NOBODY: usize = usize::MAX;

struct Arena {
    /// Null: this OS thread has none yet.
    base: Cell<*mut u8>,
    /// Whose area is allocated from; `NOBODY`: the system.
    owner: Cell<usize>,
    used: [Cell<usize>; AREAS],
    /// What allocates now is what is explored, and asks this whether there is memory.
    asks: Cell<Option<fn() -> bool>>,
}

thread_local! {
    static ARENA: Arena = const {
        Arena {
            base: Cell::new(null_mut()),
            owner: Cell::new(NOBODY),
            used: [const { Cell::new(0) }; AREAS],
            asks: Cell::new(None),
        }
    };
}

/// Is there memory for what allocates now? Whoever is asked may let others move meanwhile.
fn has_memory() -> bool {
    let Some(asks) = ARENA.with(|arena| arena.asks.get()) else { return true };
    let _restore = not_asking();
    std::thread::panicking() || asks()
}

impl Arena {
    fn contains(&self, memory: *mut u8) -> bool {
        let base = self.base.get();
        !base.is_null() && memory.addr().wrapping_sub(base.addr()) < AREA * AREAS
    }

    fn allocate(&self, owner: usize, layout: Layout) -> *mut u8 {
        let base = self.base.get().wrapping_add(owner * AREA);
        let start = (base.addr() + self.used[owner].get()).next_multiple_of(layout.align()) - base.addr();
        // In steps of words, so that pieces of the arena can be compared by words.
        let end = start.saturating_add(layout.size()).saturating_add(7) & !7;
        if end > AREA {
            return null_mut();
        }
        self.used[owner].set(end);
        base.wrapping_add(start)
    }
}

/// A global allocator that lets the lab set runs back to where they parted, instead of starting each anew.
///
/// Outside of explorations it is the allocator of the system. A program without it explores the same runs, slower; but for
/// those scenarios in which memory on the heap runs out: there it does not.
#[derive(Debug)]
pub struct Allocator {
    _private: (),
}

impl Allocator {
    /// An allocator, to be installed as the global one.
    ///
    /// # Safety
    ///
    /// Nothing that a scenario's setup or threads allocate outlives its run: no scenario that this program explores puts
    /// anything into a static or thread-local variable, prints, or starts a thread. (What is allocated by a panic may.)
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self { _private: () }
    }
}

// SAFETY: memory is the system's, or a piece of the arena that nobody else has been given since the arena was last set
// back; and then nobody refers to it.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !has_memory() {
            return null_mut();
        }
        ARENA.with(|arena| {
            let owner = arena.owner.get();
            if owner == NOBODY || std::thread::panicking() {
                // SAFETY: passed on to the caller.
                return unsafe { System.alloc(layout) };
            }
            arena.allocate(owner, layout)
        })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if ARENA.with(|arena| arena.contains(memory)) {
            // SAFETY: the caller owns the memory. Wiped, so that runs which end in the same state can be seen to.
            unsafe { memory.write_bytes(0, layout.size()) };
        } else {
            // SAFETY: not from the arena, so from the system.
            unsafe { System.dealloc(memory, layout) };
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !ARENA.with(|arena| arena.contains(memory)) {
            if !has_memory() {
                return null_mut();
            }
            // SAFETY: not from the arena, so from the system.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // SAFETY: the caller sees to it that it is one.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: passed on to the caller.
        let new = unsafe { self.alloc(larger) };
        if !new.is_null() {
            // SAFETY: both are at least as long, and a new allocation does not overlap an old one.
            unsafe { new.copy_from_nonoverlapping(memory, layout.size().min(size)) };
            // SAFETY: passed on to the caller.
            unsafe { self.dealloc(memory, layout) };
        }
        new
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if ARENA.with(|arena| arena.owner.get() == NOBODY && arena.asks.get().is_none()) {
            // SAFETY: passed on to the caller.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: passed on to the caller.
        let memory = unsafe { self.alloc(layout) };
        if !memory.is_null() {
            // SAFETY: allocated above.
            unsafe { memory.write_bytes(0, layout.size()) };
        }
        memory
    }
}

/// Is [`Allocator`] the global allocator? Makes the arena of this OS thread if it has none yet: it stays.
pub(super) fn is_there() -> bool {
    ARENA.with(|arena| {
        if arena.base.get().is_null() {
            // No more aligned than the system does by itself: else the standard library writes the zeroes.
            // SAFETY: the layout is not zero-sized.
            let base =
                unsafe { System.alloc_zeroed(Layout::from_size_align(AREA * AREAS, 16).expect("fits")) };
            arena.base.set(base);
        }
        if arena.base.get().is_null() {
            return false;
        }
        reset();
        let probe = within(OF_SETUP, || std::hint::black_box(Box::new(0_u64)));
        let there = arena.contains(std::ptr::from_ref(&*probe).cast_mut().cast());
        drop(probe);
        reset();
        there
    })
}

/// Forgets all that was allocated.
pub(super) fn reset() {
    ARENA.with(|arena| arena.used.iter().for_each(|used| used.set(0)));
}

/// How far each area is used.
pub(super) fn marks() -> [usize; AREAS] {
    ARENA.with(|arena| std::array::from_fn(|area| arena.used[area].get()))
}

/// Forgets what was allocated since the areas were used so far.
pub(super) fn set_back(marks: &[usize; AREAS]) {
    ARENA.with(|arena| arena.used.iter().zip(marks).for_each(|(used, &mark)| used.set(mark)));
}

/// The used part of each area.
pub(super) fn areas() -> [(*mut u8, usize); AREAS] {
    ARENA.with(|arena| {
        std::array::from_fn(|area| (arena.base.get().wrapping_add(area * AREA), arena.used[area].get()))
    })
}

struct Restore(usize, Option<fn() -> bool>);

impl Drop for Restore {
    // Inlined into other crates, like all that it is used for: it happens at every access.
    #[inline]
    fn drop(&mut self) {
        ARENA.with(|arena| {
            arena.owner.set(self.0);
            arena.asks.set(self.1);
        });
    }
}

/// Does something whose allocations belong to this area, and ask nobody.
#[inline]
pub(super) fn within<R>(area: usize, work: impl FnOnce() -> R) -> R {
    let _restore = ARENA.with(|arena| Restore(arena.owner.replace(area), arena.asks.take()));
    work()
}

/// What allocated when it was made asks again when it is dropped, or does not.
pub struct Asks(Option<fn() -> bool>);

impl Drop for Asks {
    #[inline]
    fn drop(&mut self) {
        ARENA.with(|arena| arena.asks.set(self.0));
    }
}

/// Does something whose allocations ask first, and fail if there is no memory. They do so in programs that have
/// [`Allocator`].
#[inline]
pub fn asking<R>(whom: fn() -> bool, work: impl FnOnce() -> R) -> R {
    let _restore = Asks(ARENA.with(|arena| arena.asks.replace(Some(whom))));
    work()
}

/// What allocates does not ask until this is dropped.
#[inline]
pub fn not_asking() -> Asks {
    Asks(ARENA.with(|arena| arena.asks.take()))
}

/// Does something whose allocations may outlive the run.
#[inline]
pub(super) fn outside<R>(work: impl FnOnce() -> R) -> R {
    within(NOBODY, work)
}
