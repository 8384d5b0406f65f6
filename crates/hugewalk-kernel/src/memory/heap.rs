//! The heap: powers of two from 16 to 2048 bytes from lists of free pieces, anything larger from frames in a row.
//!
//! A list keeps what it has; frames go back at once. Live bytes are counted, for the search for leaks.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;

use super::frames::{self, Kind};
use super::{PAGE, direct, physical};

const SMALLEST: u32 = 4;
const CLASSES: usize = 8;

#[global_allocator]
static HEAP: Heap = Heap([const { Mutex::new(List(ptr::null_mut())) }; CLASSES]);

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are allocated.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

struct Heap([Mutex<List>; CLASSES]);

/// Free pieces of one size; each holds the pointer to the next in its first bytes.
struct List(*mut Piece);

struct Piece {
    next: *mut Piece,
}

// SAFETY: the pointers lead to memory that nobody else has.
unsafe impl Send for List {}

/// The list for a layout, or `None` if it takes whole frames.
fn class(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(1 << SMALLEST).next_power_of_two();
    let class = (size.trailing_zeros() - SMALLEST) as usize;
    (class < CLASSES).then_some(class)
}

// SAFETY: a piece is in its list or allocated; pieces of a class have its size and are aligned to it. Larger layouts get frames
// of their own, aligned to 4 KiB; an alignment above that is refused.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = match class(layout) {
            Some(class) => self.piece(class),
            None if layout.align() as u64 > PAGE => return ptr::null_mut(),
            None => frames::run(layout.size().div_ceil(PAGE as usize), Kind::Kernel)
                .map_or(ptr::null_mut(), direct),
        };
        if !start.is_null() {
            LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        }
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        let Some(class) = class(layout) else {
            // SAFETY: `alloc` took them for this layout, and the caller does not use them any more.
            unsafe { frames::free_run(physical(start), layout.size().div_ceil(PAGE as usize), Kind::Kernel) };
            return;
        };
        let piece = start.cast::<Piece>();
        let mut list = self.0[class].lock();
        // SAFETY: the caller does not use the bytes any more, and there are at least 16.
        unsafe { piece.write(Piece { next: list.0 }) };
        list.0 = piece;
    }
}

impl Heap {
    fn piece(&self, class: usize) -> *mut u8 {
        let mut list = self.0[class].lock();
        if list.0.is_null() {
            let Some(frame) = frames::allocate(Kind::Kernel) else { return ptr::null_mut() };
            let size = 1 << (class as u32 + SMALLEST);
            for offset in (0..PAGE).step_by(size) {
                let piece = direct::<Piece>(frame + offset);
                // SAFETY: inside the frame that was just allocated.
                unsafe { piece.write(Piece { next: list.0 }) };
                list.0 = piece;
            }
        }
        let piece = list.0;
        // SAFETY: not null, so a piece of the list.
        list.0 = unsafe { (*piece).next };
        piece.cast()
    }
}
