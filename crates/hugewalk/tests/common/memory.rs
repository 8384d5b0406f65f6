//! The contents of huge pages, sparse: what all of a page says, and the bytes that differ.

use std::collections::BTreeMap;

/// What a frame holds that was never written: not zero, so that who forgets to fill it is seen.
const GARBAGE: u8 = 0xa5;

/// The bytes of one huge page.
#[derive(Clone)]
pub(crate) struct Contents {
    all: u8,
    bytes: BTreeMap<u64, u8>,
}

impl Contents {
    pub(crate) fn garbage() -> Self {
        Self { all: GARBAGE, bytes: BTreeMap::new() }
    }

    pub(crate) fn zero() -> Self {
        Self::same(0)
    }

    /// The same byte throughout.
    pub(crate) fn same(byte: u8) -> Self {
        Self { all: byte, bytes: BTreeMap::new() }
    }

    pub(crate) fn read(&self, offset: u64) -> u8 {
        self.bytes.get(&offset).copied().unwrap_or(self.all)
    }

    pub(crate) fn write(&mut self, offset: u64, value: u8) {
        self.bytes.insert(offset, value);
    }

    pub(crate) fn clear(&mut self, offset: u64, length: u64) {
        if self.all == 0 {
            self.bytes.retain(|at, _| !(offset..offset + length).contains(at));
        } else {
            self.bytes.extend((offset..offset + length).map(|at| (at, 0)));
        }
    }
}
