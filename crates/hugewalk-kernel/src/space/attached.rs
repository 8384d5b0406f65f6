//! Shared memory segments that are attached to an address space: at which addresses, for `shmdt`, fork and the end.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use spin::Mutex;

use super::Space;
use crate::ipc::shm::Segment;

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

    /// Gives all up, when everything is unmapped.
    pub(super) fn detach_all(&self, pid: u32) {
        let all = core::mem::take(&mut *self.attached.lock());
        for segment in all.values() {
            segment.detach(pid);
        }
    }
}
