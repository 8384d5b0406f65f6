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

    /// Notes that a page has left the cache of its file; before the reference of the cache is given up.
    pub(crate) fn clear_owner(&self, frame: HugeFrame) {
        self.with_owner(frame, |owner| owner.file = None);
    }

    /// The file and index that a page belongs to.
    pub(crate) fn owner_of(&self, page: &PageRef<'_, P>) -> Option<(Arc<HugeFile<P>>, u64)> {
        self.with_owner(page.frame(), |owner| {
            // SAFETY: the note is there. Of a cache, then the file's drop, which clears it under this lock, has not come to
            // it yet; of a private page, then it accounts for a reference.
            let file = unsafe { owner.file?.upgrade() }?;
            Some((file, owner.index))
        })
    }

    /// Passes the note on to a page that takes the place of another. The caller has frozen the one, and has the other to
    /// itself.
    pub(crate) fn pass_owner(&self, from: HugeFrame, to: HugeFrame) {
        let taken = self.with_owner(from, |owner| Owner { file: owner.file.take(), index: owner.index });
        self.with_owner(to, |owner| *owner = taken);
    }

    fn with_owner<R>(&self, frame: HugeFrame, work: impl FnOnce(&mut Owner<P>) -> R) -> R {
        let lock = self.owner_lock(frame).lock();
        // SAFETY: by the invariants of `Page` the owner is touched under this lock, or by one who has the page to himself.
        let result = work(unsafe { &mut *self.page(frame).owner() });
        drop(lock);
        result
    }
}

impl<P: Platform> PageRef<'_, P> {
    /// The page is for private mappings of `file` at `index`, which it keeps. The caller has it to itself: it is fresh.
    pub(crate) fn set_private(&self, file: &Arc<HugeFile<P>>, index: u64) {
        let hugetlb = file.hugetlb();
        let kept = file.clone().into_unowned();
        hugetlb.with_owner(self.frame(), |owner| *owner = Owner { file: Some(kept), index });
        // After the note: who finds the page anonymous finds a note that it accounts for.
        self.page().set_anon();
    }
}
