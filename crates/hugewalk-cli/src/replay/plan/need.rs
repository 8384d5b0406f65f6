//! How many huge pages a recording can use at most: the size of the pool where nobody says another.

use std::collections::HashMap;

use super::FileId;

/// Sizes of huge pages, as powers of two.
pub(super) const SHIFTS: [u32; 2] = [21, 30];

/// Of a call that failed for more bytes than that not all are taken into account: it fails with any pool then.
const MOST_TO_FAIL: u64 = 1 << 37;

/// Huge pages needed, an upper bound.
#[derive(Clone, Debug, Default)]
pub struct Need {
    /// How far each file is used, in bytes, and the size of its pages.
    files: HashMap<FileId, (u32, u64)>,
    /// Pages that each copy of the processes needs for itself, by size.
    private: [u64; SHIFTS.len()],
    /// The most that a call asked for that failed, by size.
    failed: [u64; SHIFTS.len()],
}

impl Need {
    /// The file is used up to this byte.
    pub fn file(&mut self, file: FileId, shift: u32, end: u64) {
        let (_, most) = self.files.entry(file).or_insert((shift, 0));
        *most = end.max(*most);
    }

    /// So many pages are used by nobody else.
    pub fn private(&mut self, shift: u32, pages: u64) {
        if let Some(place) = SHIFTS.iter().position(|known| *known == shift) {
            self.private[place] = self.private[place].saturating_add(pages);
        }
    }

    /// The same in pages of `to`, of which each copy of the processes needs so many for itself.
    #[must_use]
    pub fn in_pages_of(&self, to: u32, private: u64) -> Self {
        let mut need = Self::default();
        need.files.extend(self.files.iter().map(|(file, (_, end))| (*file, (to, *end))));
        need.private(to, private);
        need
    }

    /// A call asked for so many pages and failed.
    pub fn failed(&mut self, shift: u32, pages: u64) {
        if let Some(place) = SHIFTS.iter().position(|known| *known == shift) {
            self.failed[place] = pages.min(MOST_TO_FAIL >> shift).max(self.failed[place]);
        }
    }

    /// As many pages more as let the calls succeed that failed; of a call for very many, not all.
    #[must_use]
    pub fn failed_pages(&self, shift: u32) -> u64 {
        SHIFTS.iter().position(|known| *known == shift).map_or(0, |place| self.failed[place])
    }

    /// Pages of one size, for so many copies of the processes.
    #[must_use]
    pub fn pages(&self, shift: u32, copies: u32) -> u64 {
        let files = self.files.values().filter(|(known, _)| *known == shift);
        let shared = files.map(|(_, end)| end.div_ceil(1 << shift)).fold(0, u64::saturating_add);
        let place = SHIFTS.iter().position(|known| *known == shift);
        let each = place.map_or(0, |place| self.private[place]);
        shared.saturating_add(each.saturating_mul(copies.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_private_pages_for_each_copy() {
        let mut need = Need::default();
        need.file(FileId(1), 21, 5 << 21);
        need.file(FileId(1), 21, 3 << 21);
        need.file(FileId(2), 30, 1);
        need.private(21, 4);
        assert_eq!((need.pages(21, 1), need.pages(21, 10), need.pages(30, 10)), (9, 45, 1));
    }
}
