//! The note of what a page belongs to: see [`rmap`](super).

use crate::addr::HugeFrame;
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::page::{Owner, PageRef};
use crate::platform::Platform;
use crate::sync::{Arc, Unowned};

impl<P: Platform> Hugetlb<P> {
    /// Notes that a page is in the cache of a file. The caller holds the cache's lock.
    pub(crate) fn set_cached(&self, frame: HugeFrame, file: Unowned<HugeFile<P>>, index: u64) {
        self.with_owner(frame, |owner| *owner = Owner { file: Some(file), index });
    }

    /// Notes that a page has left the cache of its file. Called before the cache's reference is
    /// dropped.
    pub(crate) fn clear_owner(&self, frame: HugeFrame) {
        self.with_owner(frame, |owner| owner.file = None);
    }

    /// As [`PageRef::set_private`].
    pub(crate) fn set_private(&self, frame: HugeFrame, file: &Arc<HugeFile<P>>, index: u64) {
        let kept = file.clone().into_unowned();
        self.with_owner(frame, |owner| *owner = Owner { file: Some(kept), index });
        // After the note: a caller that finds the page anonymous finds the note too, which accounts
        // for a reference.
        self.page(frame).set_anon();
    }

    /// The file and index that a page belongs to.
    pub(crate) fn owner_of(&self, page: &PageRef<'_, P>) -> Option<(Arc<HugeFile<P>>, u64)> {
        self.with_owner(page.frame(), |owner| {
            // SAFETY: the note exists. If the page is in a cache, the file's drop, which clears the
            // note under this lock, has not come to it yet. If the page is private, the note
            // accounts for a reference.
            let file = unsafe { owner.file?.upgrade() }?;
            Some((file, owner.index))
        })
    }

    /// Passes the note on to the page that replaces `from`. The caller has frozen `from`, and has
    /// exclusive access to `to`.
    pub(crate) fn pass_owner(&self, from: HugeFrame, to: HugeFrame) {
        let taken = self.with_owner(from, |owner| Owner { file: owner.file.take(), index: owner.index });
        self.with_owner(to, |owner| *owner = taken);
    }

    fn with_owner<R>(&self, frame: HugeFrame, work: impl FnOnce(&mut Owner<P>) -> R) -> R {
        let lock = self.owner_lock(frame).lock();
        // SAFETY: by the invariants of `Page` the owner is touched under this lock, or with
        // exclusive access to the page.
        let result = work(unsafe { &mut *self.page(frame).owner() });
        drop(lock);
        result
    }
}

impl<P: Platform> PageRef<'_, P> {
    /// Notes that the page is for private mappings of `file` at `index`, and lets it keep the file
    /// alive. The caller has exclusive access to the page: it is fresh.
    pub(crate) fn set_private(&self, file: &Arc<HugeFile<P>>, index: u64) {
        file.hugetlb().set_private(self.frame(), file, index);
    }
}
