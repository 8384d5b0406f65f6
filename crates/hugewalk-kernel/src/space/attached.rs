//! Shared memory segments that are attached to an address space.
//!
//! Linux counts an attachment for each mapping of a segment: one that is split counts twice, and one that is unmapped, by
//! whatever call, no more (`shm_open()` and `shm_close()` in ipc/shm.c). Here the mappings are counted anew after each call that
//! may have changed them, if anything is attached at all.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use super::Space;
use super::area::Backing as AreaBacking;
use crate::errno::Result;
use crate::fs::file::Backing;
use crate::ipc::shm::Segment;
use crate::task::current;
use crate::task::lock::SleepMutex;

/// Segments, and how many mappings of each are counted. The lock comes above that of the areas and the engine's mmap lock.
pub(super) struct Attached {
    /// There is one, or was.
    any: AtomicBool,
    segments: SleepMutex<Vec<(Arc<Segment>, u64)>>,
}

impl Attached {
    pub(super) const fn new() -> Self {
        Self { any: AtomicBool::new(false), segments: SleepMutex::new(Vec::new()) }
    }
}

/// A mapping of a segment.
struct Mapping {
    /// Which of the segments.
    segment: usize,
    range: Range<u64>,
    /// Bytes of the segment before it.
    offset: u64,
}

impl Space {
    /// Counts what was just mapped of a segment.
    pub fn attach(&self, segment: &Arc<Segment>, pid: u32) {
        {
            let mut segments = self.attached.segments.lock();
            if !segments.iter().any(|(known, _)| Arc::ptr_eq(known, segment)) {
                segments.push((segment.clone(), 0));
            }
            // Relaxed: whoever unmaps it has been told of the address, or the count below sees what it did.
            self.attached.any.store(true, Ordering::Relaxed);
        }
        self.count_attached(pid);
    }

    /// Counts the mappings of segments anew. Called when mappings may have come or gone. Sleeps.
    pub fn count_attached(&self, pid: u32) {
        if !self.attached.any.load(Ordering::Relaxed) {
            return;
        }
        let mut segments = self.attached.segments.lock();
        // One that could not look counts the next time.
        let Ok(mappings) = self.mappings_of(&segments) else { return };
        for (index, (segment, counted)) in segments.iter_mut().enumerate() {
            let now = mappings.iter().filter(|mapping| mapping.segment == index).count() as u64;
            segment.recount(*counted, now, pid);
            *counted = now;
        }
        segments.retain(|(_, counted)| *counted > 0);
    }

    /// The mappings of these segments, by address. Sleeps.
    fn mappings_of(&self, segments: &[(Arc<Segment>, u64)]) -> Result<Vec<Mapping>> {
        let which = |is_it: &dyn Fn(&Backing) -> bool| {
            segments.iter().position(|(segment, _)| is_it(&segment.backing))
        };
        let mut mappings = Vec::new();
        for area in self.areas().read().iter() {
            let AreaBacking::Source { source, index } = &area.backing else { continue };
            let source = Arc::as_ptr(source).cast::<()>();
            let is_it = |of: &Backing| matches!(of, Backing::Base(file) if core::ptr::eq(Arc::as_ptr(file).cast(), source));
            if let Some(segment) = which(&is_it) {
                let offset = index * crate::memory::PAGE;
                mappings.push(Mapping { segment, range: area.start..area.end, offset });
            }
        }
        let me = current();
        let mut task = me.task()?;
        for vma in self.engine().mmap_read(&mut task).vmas() {
            let is_it = |of: &Backing| matches!(of, Backing::Huge(file) if file.id() == vma.file().id());
            if let Some(segment) = which(&is_it) {
                let range = vma.start().as_u64()..vma.end().as_u64();
                mappings.push(Mapping { segment, range, offset: vma.offset() << vma.size().shift() });
            }
        }
        mappings.sort_unstable_by_key(|mapping| mapping.range.start);
        Ok(mappings)
    }

    /// What is left of the first attachment at or behind an address that started there. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Linux: `ksys_shmdt()` in ipc/shm.c.
    pub fn attachment(&self, address: u64) -> Result<Vec<Range<u64>>> {
        let segments = self.attached.segments.lock();
        let started_here =
            |mapping: &Mapping| mapping.range.start.checked_sub(address) == Some(mapping.offset);
        let mut mappings = self.mappings_of(&segments)?;
        mappings.retain(started_here);
        let Some(first) = mappings.first().map(|first| first.segment) else { return Ok(Vec::new()) };
        let size = segments[first].0.mapped_size();
        let is_part = |(index, mapping): &(usize, Mapping)| {
            mapping.segment == first && (*index == 0 || mapping.range.end - address <= size)
        };
        Ok(mappings.into_iter().enumerate().filter(is_part).map(|(_, mapping)| mapping.range).collect())
    }

    /// The child of a fork has the same segments.
    pub(super) fn copy_attached(&self, child: &Self, pid: u32) {
        if !self.attached.any.load(Ordering::Relaxed) {
            return;
        }
        let copies = self.attached.segments.lock().iter().map(|(segment, _)| (segment.clone(), 0)).collect();
        *child.attached.segments.lock() = copies;
        child.attached.any.store(true, Ordering::Relaxed);
        child.count_attached(pid);
    }

    /// Gives all up, when everything is unmapped.
    pub(super) fn detach_all(&self, pid: u32) {
        let all = core::mem::take(&mut *self.attached.segments.lock());
        for (segment, counted) in &all {
            segment.recount(*counted, 0, pid);
        }
    }
}
