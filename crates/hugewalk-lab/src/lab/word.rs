//! The atomic of the lab: each access is announced, then checked, then carried out.

use std::sync::atomic::{AtomicU64, Ordering};

use hugewalk::sync;

use super::ground::{Flaw, Place, RECORD, REFERENCES, access, world};
use super::judge::{self, Access};
use super::trace;
use crate::explore::{Kind, Op, in_thread, is_moving};

/// How a word is accessed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Plainly,
    /// Something is taken off it.
    Subtracting,
    /// Something is added to it.
    Adding,
    /// By a processor that walks.
    Walking,
}

/// A 64-bit atomic whose every access is a scheduling point.
#[derive(Debug)]
#[repr(transparent)]
pub struct Word(AtomicU64);

impl Word {
    /// Before the threads move, and after: what is written is wiped before the next run, and what is not in the tables gets
    /// its number.
    #[inline]
    fn touch_quietly(&self, kind: Kind) {
        let (world, address) = (world(), std::ptr::from_ref(self).addr());
        if kind == Kind::Read && world.is_entry(address) {
            return;
        }
        match world.place(address) {
            place @ Place::Entry(..) => world.journal(place),
            place @ Place::Elsewhere => access(&world.op(place, address, kind, false)),
            _ => {}
        }
    }

    /// Announces an access that makes `then` of the value.
    #[inline]
    fn touch(&self, kind: Kind, then: impl FnOnce(u64) -> u64) {
        self.touch_as(kind, How::Plainly, then);
    }

    #[inline]
    fn touch_as(&self, kind: Kind, how: How, then: impl FnOnce(u64) -> u64) {
        let world = world();
        let address = std::ptr::from_ref(self).addr();
        if !is_moving() {
            return self.touch_quietly(kind);
        }
        let _lab = world.at_work();
        let place = world.place(address);
        let op = world.op(place, address, kind, false);
        let parent = match place {
            Place::Entry(frame, index) => judge::walks::parent_of(frame, index),
            _ => None,
        };
        match (parent, op.second()) {
            (Some(parent), Some((life, _))) => {
                access(&Op::read(life));
                access(&op.and(parent, Kind::Read));
            }
            _ => access(&op),
        }
        let before = self.0.load(Ordering::Relaxed);
        let after = then(before);
        // What a watched walk reads is worth telling if what it depends on is raced for.
        let object = parent.unwrap_or_else(|| op.object());
        match how {
            How::Walking => trace::used(object, place, || (before, after)),
            _ => trace::word(object, place, kind, || (before, after)),
        }
        let (writes, subtracts, adds) = (kind == Kind::Write, how == How::Subtracting, how == How::Adding);
        judge::accesses(&Access { place, writes, before, after, subtracts, adds });
        world.note_page(place, before, after);
        if kind == Kind::Write {
            world.journal(place);
        }
    }

    /// A processor that walks sets bits in an entry, if the entry is what it has seen.
    ///
    /// # Errors
    ///
    /// What the entry is, if it is something else.
    pub(super) fn set_used(&self, seen: u64, wanted: u64) -> Result<u64, u64> {
        self.touch_as(Kind::Write, How::Walking, |old| if old == seen { wanted } else { old });
        self.0.compare_exchange(seen, wanted, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Is this an entry that the machine empties before it changes it?
    fn is_emptied_first(&self, current: u64, new: u64) -> bool {
        let empties = world().flaws.has(Flaw::EmptyFirst) && is_moving() && current != 0 && new != 0;
        empties && world().is_entry(std::ptr::from_ref(self).addr())
    }

    /// Is this a reference to a page that the machine counts later?
    fn puts_off_reference(&self) -> bool {
        if !world().flaws.has(Flaw::LateReference) || !is_moving() {
            return false;
        }
        let Place::PageRecord(word) = world().place(std::ptr::from_ref(self).addr()) else { return false };
        let page = world().page_of(word / RECORD);
        word % RECORD == REFERENCES
            && in_thread().is_some_and(|thread| world().flaws.put_off_reference(thread, page))
    }

    /// The thread has released a spinning lock: a reference that it has put off, on a machine that does, it counts now.
    pub(super) fn catch_up() {
        let Some(page) = in_thread().and_then(|thread| world().flaws.reference_put_off(thread)) else {
            return;
        };
        let word = world().page_record(page).cast::<Self>().as_ptr().wrapping_add(REFERENCES);
        // SAFETY: the record is there as long as the world, and this word of it is an atomic.
        let word = unsafe { &*word };
        word.touch_as(Kind::Write, How::Adding, |old| old.wrapping_add(1));
        word.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Does the machine exchange this word in two steps?
    fn is_torn(&self) -> bool {
        let flaws = &world().flaws;
        if !flaws.has(Flaw::TornExchange) && !flaws.has(Flaw::TornFreeze) || !is_moving() {
            return false;
        }
        match world().place(std::ptr::from_ref(self).addr()) {
            Place::Entry(..) => flaws.has(Flaw::TornExchange),
            Place::PageRecord(word) => flaws.has(Flaw::TornFreeze) && word % RECORD == REFERENCES,
            _ => false,
        }
    }
}

// SAFETY: the operations are those of `AtomicU64`, whose layout this type has.
unsafe impl sync::Word for Word {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
    fn load(&self, order: Ordering) -> u64 {
        self.touch(Kind::Read, |value| value);
        self.0.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.touch(Kind::Write, |_| value);
        self.0.store(value, order);
    }
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.touch(Kind::Write, |_| value);
        self.0.swap(value, order)
    }
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        if value == 1 && self.puts_off_reference() {
            return 0;
        }
        self.touch_as(Kind::Write, How::Adding, |old| old.wrapping_add(value));
        self.0.fetch_add(value, order)
    }
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.touch_as(Kind::Write, How::Subtracting, |old| old.wrapping_sub(value));
        self.0.fetch_sub(value, order)
    }
    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.touch(Kind::Write, |old| old | value);
        self.0.fetch_or(value, order)
    }
    fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.touch(Kind::Write, |old| old & value);
        self.0.fetch_and(value, order)
    }
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        if self.is_emptied_first(current, new) {
            self.touch(Kind::Write, |old| if old == current { 0 } else { old });
            self.0.compare_exchange(current, 0, success, failure)?;
            sync::Word::store(self, new, Ordering::Release);
            return Ok(current);
        }
        if self.is_torn() {
            let now = self.load(failure);
            if now != current {
                return Err(now);
            }
            self.swap(new, success);
            return Ok(now);
        }
        self.touch(Kind::Write, |old| if old == current { new } else { old });
        self.0.compare_exchange(current, new, success, failure)
    }
}
