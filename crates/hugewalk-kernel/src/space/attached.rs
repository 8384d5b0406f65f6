//! Shared memory segments that are attached to an address space: at which addresses, for `shmdt`, fork and the end.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use spin::Mutex;

use super::Space;
use crate::errno::Result;
use crate::fs::file::Backing;
use crate::ipc::shm::{self, Segment};
use crate::task::current;

/// Segments by the addresses of their mappings. The lock is spinning, and no segment is dropped under it.
pub(super) type Attached = Mutex<BTreeMap<u64, Arc<Segment>>>;

impl Space {
    /// Notes that a segment is mapped at an address. The caller has counted the attachment.
    pub fn attach(&self, start: u64, segment: Arc<Segment>) {
        let replaced = self.attached.lock().insert(start, segment);
        if let Some(segment) = replaced {
            // Its mapping was replaced by this one.
            segment.detach(0);
        }
    }

    /// Forgets the segment at an address. The caller unmaps it, and then counts.
    pub fn detach(&self, start: u64) -> Option<Arc<Segment>> {
        self.attached.lock().remove(&start)
    }

    /// The child of a fork has the same segments.
    pub(super) fn copy_attached(&self, child: &Self, pid: u32) {
        let copies = self.attached.lock().clone();
        for segment in copies.values() {
            segment.attach(pid);
        }
        *child.attached.lock() = copies;
    }

    /// What is left of the first attachment of huge pages at or behind an address that started there: its file, and its parts.
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn huge_segment(&self, address: u64) -> Result<Option<(u64, Vec<Range<u64>>)>> {
        let mut found: Option<(u64, u64, Vec<Range<u64>>)> = None;
        let me = current();
        let mut task = me.task()?;
        let mmap = self.engine().mmap_read(&mut task);
        for vma in mmap.vmas() {
            let (start, end, file) = (vma.start().as_u64(), vma.end().as_u64(), vma.file());
            let started_here = start.checked_sub(address) == Some(vma.offset() << vma.size().shift());
            if !started_here || !shm::is_of_segment(file.id()) {
                continue;
            }
            let (first, size, parts) = found.get_or_insert((file.id(), file.size(), Vec::new()));
            if file.id() == *first && (parts.is_empty() || end - address <= *size) {
                parts.push(start..end);
            }
        }
        Ok(found.map(|(file, _, parts)| (file, parts)))
    }

    /// Counts attachments of a file as gone if nothing of it is mapped any more. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn forget_segment(&self, file: u64, pid: u32) -> Result<()> {
        let is_mapped = {
            let me = current();
            let mut task = me.task()?;
            self.engine().mmap_read(&mut task).vmas().any(|vma| vma.file().id() == file)
        };
        let is_it = |segment: &Segment| matches!(&segment.backing, Backing::Huge(of) if of.id() == file);
        let gone: Vec<_> = {
            let mut attached = self.attached.lock();
            let starts: Vec<u64> = attached
                .iter()
                .filter(|(_, segment)| !is_mapped && is_it(segment))
                .map(|(start, _)| *start)
                .collect();
            starts.iter().filter_map(|start| attached.remove(start)).collect()
        };
        for segment in &gone {
            segment.detach(pid);
        }
        Ok(())
    }

    /// Gives all up, when everything is unmapped.
    pub(super) fn detach_all(&self, pid: u32) {
        let all = core::mem::take(&mut *self.attached.lock());
        for segment in all.values() {
            segment.detach(pid);
        }
    }
}
