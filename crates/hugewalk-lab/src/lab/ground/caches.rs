//! What processors have cached: translations, and entries that lead to tables.

use std::cell::RefCell;
use std::ops::Range;

use hugewalk::addr::{HugeFrame, TableFrame};

/// Translations that all processors together can cache.
const CACHED: usize = 32;

/// Something a processor has cached.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) struct Cached {
    /// Whose cache it is in: a thread is a processor. Another one's would be something shared, and a look into it a step.
    pub(in crate::lab) cpu: Option<usize>,
    /// The address of the address space's context.
    pub(in crate::lab) context: usize,
    pub(in crate::lab) root: TableFrame,
    /// Start of the range: of 1 GiB if it leads to a table, of 2 MiB if to a page. Of a group, it is that of the member that was read.
    pub(in crate::lab) start: u64,
    pub(in crate::lab) to: To,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::lab) enum To {
    Table(TableFrame),
    Page(Translation),
}

/// A translation, as it was when the processor looked it up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    pub(in crate::lab) frame: HugeFrame,
    /// The table that the entry lies in.
    pub(in crate::lab) table: TableFrame,
    /// The entry allowed stores.
    pub(in crate::lab) writable: bool,
    /// The entry was dirty, so that a store need not look at it again.
    pub(in crate::lab) dirty: bool,
    /// Which life of the page it was.
    pub(in crate::lab) life: u32,
    /// Stores that processors had made by then.
    pub(in crate::lab) stored: u32,
    /// Base-2 logarithm of the bytes that it translates: more than 2 MiB for a group, of which any member may be read. A flush for another
    /// member may leave it: a processor is free to keep a group as so many translations.
    pub(in crate::lab) span: u32,
}

impl Cached {
    /// The addresses whose flush takes it away.
    pub(in crate::lab) fn range(&self) -> Range<u64> {
        let size = if matches!(self.to, To::Table(_)) { 1 << 30 } else { 1 << 21 };
        self.start..self.start + size
    }

    /// The table that it leads to, or that its entry lies in.
    pub(in crate::lab) fn table(&self) -> TableFrame {
        match self.to {
            To::Table(table) | To::Page(Translation { table, .. }) => table,
        }
    }
}

/// Something that a processor keeps, in words.
pub(in crate::lab) struct Kept {
    pub(in crate::lab) context: usize,
    pub(in crate::lab) range: Range<u64>,
    pub(in crate::lab) to: String,
}

/// The caches of all processors.
#[derive(Debug, Default)]
pub(in crate::lab) struct Caches(RefCell<[Option<Cached>; CACHED]>);

impl Caches {
    pub(super) fn begin_run(&self) {
        *self.0.borrow_mut() = [None; CACHED];
    }

    /// The first one that fits.
    pub(in crate::lab) fn find(&self, fits: impl Fn(&Cached) -> bool) -> Option<Cached> {
        self.0.borrow().iter().flatten().find(|&cached| fits(cached)).copied()
    }

    /// Puts one in.
    pub(in crate::lab) fn keep(&self, cached: Cached) {
        let mut places = self.0.borrow_mut();
        *places.iter_mut().find(|place| place.is_none()).expect("fewer translations in a run") = Some(cached);
    }

    /// Takes those out that fit.
    pub(in crate::lab) fn flush(&self, fits: impl Fn(&Cached) -> bool) {
        for place in self.0.borrow_mut().iter_mut() {
            place.take_if(|cached| fits(cached));
        }
    }

    /// What processors keep.
    pub(in crate::lab) fn kept(&self) -> Vec<Kept> {
        let words = |cached: &Cached| {
            let to = match cached.to {
                To::Table(table) => format!("T{}", table.0),
                To::Page(page) => {
                    let rights = if page.writable { "" } else { ", read-only" };
                    format!("page {}{rights}", page.frame.0 >> 9)
                }
            };
            Kept { context: cached.context, range: cached.range(), to }
        };
        self.0.borrow().iter().flatten().map(words).collect()
    }
}
