//! Address spaces: base pages in areas of the kernel's own, beside the engine's huge pages.
//!
//! # Protocol
//!
//! The lock of the areas guards which ranges are mapped by base pages. The engine knows them as claims, and chooses addresses for
//! both kinds. Its mmap lock comes below the lock of the areas. The engine may wait for a handler of page faults inside munmap, mremap, madvise and fork, and the
//! handler may be a thread of the same program that needs a base page. So the lock of the areas is *not* held over those; it is
//! held over `claim` with a place that is free, and over `release`, which wait for nobody.

pub mod active;
pub mod area;
mod attached;
pub mod base;
pub mod fault;
pub mod forget;
pub mod fork;
pub mod map;
pub mod observe;
pub mod pin;
pub mod remap;
pub mod root;
pub mod shared;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use hugewalk::AddressSpace;

use self::area::Areas;
use self::root::Root;

use crate::errno::{Errno, Result};
use crate::platform::{Kernel, hugetlb};
use crate::task::current;
use crate::task::lock::SleepRwLock;
use crate::uffd::Unmapped;

/// Top of the stack.
pub const STACK_TOP: u64 = 0x7fff_ffff_e000;
/// Bytes that the stack may grow to.
pub const STACK_LIMIT: u64 = 8 << 20;
/// Base pages are mapped below this address, unless the program says where.
const BASE_TOP: u64 = 0x7fff_f000_0000;
/// Huge pages are mapped below this one: in other gigabytes, so that their tables can be shared.
const HUGE_TOP: u64 = 0x7ffe_0000_0000;

/// The memory of a program. Linux: `mm_struct`.
pub struct Space {
    engine: hugewalk::Arc<AddressSpace<Kernel>>,
    areas: SleepRwLock<Areas>,
    /// Start and end of the heap.
    brk: SleepRwLock<(u64, u64)>,
    /// Threads that run in it: the last one to leave empties it.
    users: AtomicUsize,
    /// Shared memory segments.
    attached: attached::Attached,
}

impl Space {
    /// An empty one, with one user.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        Ok(Self::around(AddressSpace::new(hugetlb())?))
    }

    fn around(engine: hugewalk::Arc<AddressSpace<Kernel>>) -> Arc<Self> {
        let root = engine.mm().root_frame();
        engine.mm().context().set_frame(root.0);
        let space = Arc::new(Self {
            engine,
            areas: SleepRwLock::new(Areas::new()),
            brk: SleepRwLock::new((0, 0)),
            users: AtomicUsize::new(1),
            attached: attached::Attached::new(),
        });
        space.root().set_space(&space);
        space
    }

    /// The engine's part.
    pub fn engine(&self) -> &hugewalk::Arc<AddressSpace<Kernel>> {
        &self.engine
    }

    /// The root that processors load.
    pub fn root(&self) -> &Root {
        self.engine.mm().context()
    }

    /// The areas of base pages.
    pub fn areas(&self) -> &SleepRwLock<Areas> {
        &self.areas
    }

    /// One more thread runs in it.
    pub fn enter(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread leaves it. The last one empties it, before anything else of it is given up. Sleeps.
    pub fn leave(&self) {
        // AcqRel: what the other users did comes before the end.
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            crate::uffd::release(self);
            self.empty();
        }
    }

    /// Unmaps everything. Sleeps.
    pub fn empty(&self) {
        let taken = self.areas.write().take(0, u64::MAX);
        for area in &taken {
            self.clear(area.start, area.end);
            if let area::Backing::Source { source, .. } = &area.backing
                && area.writes_source()
            {
                source.writable_mapping(false);
            }
        }
        drop(taken);
        if let Ok(mut task) = current().task() {
            let _ = self.engine.exit(&mut task);
        }
        let pid = current().process.as_ref().map_or(0, |process| process.pid);
        self.detach_all(pid);
    }

    /// Start and end of the heap.
    pub fn brk(&self) -> (u64, u64) {
        *self.brk.read()
    }

    /// Says where the heap begins: a program was loaded.
    pub fn set_brk(&self, start: u64) {
        *self.brk.write() = (start, start);
    }

    /// Moves the end of the heap, and returns where it is.
    pub fn move_brk(&self, end: u64) -> u64 {
        use self::area::{Area, Backing, Rights};
        use crate::memory::PAGE;

        // A handler of page faults is told of what is gone with the lock released: it may want a larger heap.
        let mut unmapped = Unmapped::default();
        let mut brk = self.brk.write();
        let (start, now) = *brk;
        if end < start || end > start + (1 << 40) {
            return now;
        }
        let (old, new) = (now.next_multiple_of(PAGE), end.next_multiple_of(PAGE));
        if new > old {
            let area = Area {
                start: old,
                end: new,
                rights: Rights::READ | Rights::WRITE,
                shared: false,
                may_write: true,
                stack: false,
                dont_fork: false,
                handler: None,
                backing: Backing::Anonymous,
            };
            if self.map_area(area, false).is_err() {
                return now;
            }
        } else if new < old {
            match self.unmap_untold(new, old - new) {
                Ok(gone) => unmapped = gone,
                Err(_) => return now,
            }
        }
        *brk = (start, end);
        drop(brk);
        unmapped.tell();
        end
    }
}

/// Is a range one that a program can have?
pub(crate) fn user_range(start: u64, length: u64) -> Result<(u64, u64)> {
    let end = start.checked_add(length).filter(|end| *end <= crate::memory::USER_END).ok_or(Errno::EFAULT)?;
    Ok((start, end))
}
