//! Where a word or a lock of the engine lies, what it is called, and which life it depends on.

use hugewalk::addr::{TableFrame, VirtAddr};

use super::{PAGES, Record, TABLES, World};
use crate::explore::{Kind, Object, Op};

/// The words of a table's record that have names.
pub(in crate::lab) const GENERATION: usize = 3;
pub(in crate::lab) const USERS: usize = 4;

/// The words of a page's record that are looked at: references and pins, mappings and migrations, flags.
pub(in crate::lab) const REFERENCES: usize = 0;
pub(in crate::lab) const MAPPINGS: usize = 1;
pub(in crate::lab) const FLAGS: usize = 2;
/// The mount that a page counts against, if there is one.
pub(in crate::lab) const SUBPOOL: usize = 3;
/// The file that a page belongs to, if there is one.
pub(in crate::lab) const OWNER: usize = 4;
/// The flag of a page that belongs to private mappings.
pub(in crate::lab) const ANON: u64 = 1 << 1;
/// The flag of a page that memory failure has hit.
pub(in crate::lab) const HWPOISON: u64 = 1 << 2;
/// The flag of a page that has reached the entry or the file that it was taken for.
pub(in crate::lab) const IN_USE: u64 = 1 << 3;
/// The flag of a page that its pool may hand out.
pub(in crate::lab) const FREE: u64 = 1 << 7;
/// The flag of a free page that memory failure has hit, and that its pool counts.
pub(in crate::lab) const POISONED: u64 = 1 << 8;
/// The flag of one that its pool does not count any more.
pub(in crate::lab) const DISSOLVED: u64 = 1 << 9;

/// Where a word lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::lab) enum Place {
    Entry(TableFrame, usize),
    Record(TableFrame, usize),
    PageRecord(usize),
    Elsewhere,
}

impl World {
    /// What an entry is called: `P1.pud[4]`, or `T3[0]` in a table of leaves.
    pub(in crate::lab) fn name_of(&self, frame: TableFrame, index: usize) -> String {
        for (number, &root) in self.roots.borrow().iter().flatten().enumerate() {
            if root == frame {
                return format!("P{}.pgd[{index}]", number + 1);
            }
            if self.peek(root, 0) == Some(frame) {
                return format!("P{}.pud[{index}]", number + 1);
            }
        }
        format!("T{}[{index}]", frame.0)
    }

    /// The table whose record begins at this address.
    pub(in crate::lab) fn frame_of(&self, record: *const ()) -> TableFrame {
        let offset = record.addr() - self.records.as_ptr().addr();
        TableFrame((offset / size_of::<Record>()) as u64)
    }

    /// What changes when a table dies.
    pub(in crate::lab) fn life_of(&self, frame: TableFrame) -> Object {
        let record = self.record(frame).as_ptr().addr();
        // Addresses of its own: nothing else in the record lies at an odd half of a word.
        Object { address: record + 2, name: Some((frame.0 as u32) << 10 | 1022) }
    }

    /// What changes when the lock of a table dies.
    pub(in crate::lab) fn lock_life_of(&self, frame: TableFrame) -> Object {
        let record = self.record(frame).as_ptr().addr();
        Object { address: record + 10, name: Some((frame.0 as u32) << 10 | 1023) }
    }

    /// Is this the address of an entry of a table?
    #[inline]
    pub(in crate::lab) fn is_entry(&self, address: usize) -> bool {
        address.wrapping_sub(self.pages.as_ptr().addr()) < 4096 * TABLES
    }

    /// Where a word or lock of the engine lies.
    #[inline]
    pub(in crate::lab) fn place(&self, address: usize) -> Place {
        let within = |start: usize, size: usize, count: usize| {
            let offset = address.wrapping_sub(start);
            (offset < size * count).then(|| (offset / size, offset % size))
        };
        if let Some((table, offset)) = within(self.pages.as_ptr().addr(), 4096, TABLES) {
            return Place::Entry(TableFrame(table as u64), offset / 8);
        }
        if let Some((table, offset)) = within(self.records.as_ptr().addr(), size_of::<Record>(), TABLES) {
            return Place::Record(TableFrame(table as u64), offset / 8);
        }
        match within(self.page_records.as_ptr().addr(), size_of::<Record>(), PAGES) {
            Some((page, offset)) => Place::PageRecord(page * 16 + offset / 8),
            None => Place::Elsewhere,
        }
    }

    /// The operation on something at this place: its name, and the table whose life it depends on.
    #[inline]
    pub(in crate::lab) fn op(&self, place: Place, address: usize, kind: Kind, lock: bool) -> Op {
        let (name, table) = match place {
            Place::Entry(frame, index) => (Some((frame.0 as u32) << 10 | index as u32), Some(frame)),
            Place::Record(frame, word) => (Some((frame.0 as u32) << 10 | 512 | word as u32), Some(frame)),
            Place::PageRecord(word) => (Some((TABLES as u32) << 10 | word as u32), None),
            Place::Elsewhere => (None, None),
        };
        let object = Object { address, name };
        let op = if kind == Kind::Read { Op::read(object) } else { Op::write(object) };
        match table {
            Some(frame) if lock => op.and(self.lock_life_of(frame), Kind::Read),
            Some(frame) => op.and(self.life_of(frame), Kind::Read),
            None => op,
        }
    }

    /// The entry of the PUD table that leads a process to an address, and the table of leaves behind it.
    pub(in crate::lab) fn pud_entry(
        &self,
        root: TableFrame,
        address: VirtAddr,
    ) -> Option<(TableFrame, usize)> {
        let address = address.as_u64();
        Some((self.peek(root, address >> 39)?, (address >> 30 & 511) as usize))
    }

    /// An entry of a table, as an object.
    pub(in crate::lab) fn entry_object(&self, table: TableFrame, index: usize) -> Object {
        let address = self.entries(table).as_ptr().addr() + index * 8;
        Object { address, name: Some((table.0 as u32) << 10 | index as u32) }
    }
}
