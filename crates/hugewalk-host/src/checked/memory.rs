//! Which frames are in use, and where their records, entries and contents lie.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hugewalk::addr::{FRAME_BYTES, HugeFrame, HugeSize, TableFrame};
use hugewalk::arch::X86_64;

use super::report::Finding;

/// What lies at an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum What {
    Entries,
    TableRecord,
    PageRecord,
    Contents,
}

impl What {
    fn in_words(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::TableRecord | Self::PageRecord => "record",
            Self::Contents => "contents",
        }
    }
}

/// The frames in use, and the addresses that are known.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Frames in use, by the first frame: how many base pages, and whether it is a table.
    used: BTreeMap<u64, (u64, bool)>,
    places: HashMap<(What, u64), usize>,
    /// The same by address: the end, and what lies there.
    taken: BTreeMap<usize, (usize, (What, u64))>,
    /// Pages that were allocated at least once.
    known: HashMap<u64, HugeSize>,
}

impl State {
    fn overlaps(&self, first: u64, count: u64) -> bool {
        let before = self.used.range(..first + count).next_back();
        before.is_some_and(|(&start, &(length, _))| start + length > first)
    }

    fn forget(&mut self, key: (What, u64)) {
        if let Some(at) = self.places.remove(&key) {
            self.taken.remove(&at);
        }
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a table was allocated. An error says what is wrong with it.
    pub(super) fn add_table(&self, frame: TableFrame) -> Result<(), Finding> {
        if !frame.fits() {
            return Err(Finding::TooWide { frame: frame.0 });
        }
        let mut state = self.lock();
        if state.overlaps(frame.0, 1) {
            return Err(Finding::TableTwice { frame });
        }
        state.used.insert(frame.0, (1, true));
        Ok(())
    }

    pub(super) fn remove_table(&self, frame: TableFrame) {
        let mut state = self.lock();
        state.used.remove(&frame.0);
        state.forget((What::Entries, frame.0));
        state.forget((What::TableRecord, frame.0));
    }

    /// Notes that a huge page was allocated. True if it is the first time.
    pub(super) fn add_page(&self, frame: HugeFrame, size: HugeSize) -> Result<bool, Finding> {
        if !frame.fits(size) {
            let wide = !TableFrame(frame.0).fits();
            return Err(if wide {
                Finding::TooWide { frame: frame.0 }
            } else {
                Finding::Misaligned { frame, size }
            });
        }
        let mut state = self.lock();
        let count = size.bytes() / FRAME_BYTES;
        if state.overlaps(frame.0, count) {
            return Err(Finding::PageTwice { frame, size });
        }
        state.used.insert(frame.0, (count, false));
        Ok(state.known.insert(frame.0, size).is_none())
    }

    pub(super) fn remove_page(&self, frame: HugeFrame) {
        let mut state = self.lock();
        state.used.remove(&frame.0);
        state.forget((What::Contents, frame.0));
    }

    /// The size that a page in use was allocated with.
    pub(super) fn size_of(&self, frame: HugeFrame) -> HugeSize {
        self.lock().known.get(&frame.0).copied().unwrap_or(X86_64::SIZE_2M)
    }

    /// Notes that the platform placed a part of a frame at `address`. An error has the address
    /// before, if there was one, and what is wrong.
    pub(super) fn place(
        &self,
        what: What,
        frame: u64,
        address: usize,
        (length, align): (usize, usize),
    ) -> Result<(), (Option<usize>, Finding)> {
        let (key, name) = ((what, frame), what.in_words());
        let mut state = self.lock();
        if let Some(&before) = state.places.get(&key) {
            let moved = before != address;
            return if moved { Err((Some(before), Finding::Moved { frame, what: name })) } else { Ok(()) };
        }
        state.places.insert(key, address);
        if !address.is_multiple_of(align) {
            return Err((None, Finding::AddressMisaligned { frame, what: name, to: align }));
        }
        let before = state.taken.range(..address + length).next_back();
        let overlaps = before.is_some_and(|(_, &(end, owner))| end > address && owner != key);
        state.taken.insert(address, (address + length, key));
        if overlaps { Err((None, Finding::Overlap { frame, what: name })) } else { Ok(()) }
    }

    /// Tables and huge pages in use.
    pub(super) fn in_use(&self) -> (usize, usize) {
        let state = self.lock();
        let tables = state.used.values().filter(|(_, is_table)| *is_table).count();
        (tables, state.used.len() - tables)
    }
}
