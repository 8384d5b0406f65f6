//! The atomic of the lab: each access is announced, then checked, then carried out.

use std::sync::atomic::{AtomicU64, Ordering};

use hugewalk::sync;

use super::quarantine::access;
use super::trace;
use super::world::{Place, world};
use crate::explore::{Kind, Op, is_moving};

/// A 64-bit atomic whose every access is a scheduling point.
#[derive(Debug)]
#[repr(transparent)]
pub struct Word(AtomicU64);

impl Word {
    pub(super) const fn zero() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The word, for who looks without touching.
    pub(super) fn raw(&self) -> &AtomicU64 {
        &self.0
    }

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
        let world = world();
        let address = std::ptr::from_ref(self).addr();
        if !is_moving() {
            return self.touch_quietly(kind);
        }
        let _lab = world.at_work();
        let place = world.place(address);
        let op = world.op(place, address, kind, false);
        let parent = match place {
            Place::Entry(frame, index) => world.parent_of(frame, index),
            _ => None,
        };
        match (parent, op.second()) {
            (Some(parent), Some((life, _))) => {
                access(&Op::read(life));
                access(&op.and(parent, Kind::Read));
            }
            _ => access(&op),
        }
        // What a watched walk reads is worth telling if what it depends on is raced for.
        trace::word(parent.unwrap_or_else(|| op.object()), place, kind, || {
            let before = self.0.load(Ordering::Relaxed);
            (before, then(before))
        });
        world.check_alive(place, false, if kind == Kind::Read { "reads" } else { "writes" });
        if let Place::Entry(frame, index) = place {
            world.check_own(frame, index, kind == Kind::Write);
            if kind == Kind::Write {
                world.journal(place);
                world.patience.gained();
            }
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
        self.touch(Kind::Write, |old| old.wrapping_add(value));
        self.0.fetch_add(value, order)
    }
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.touch(Kind::Write, |old| old.wrapping_sub(value));
        let _lab = world().at_work();
        world().check_count(self, value);
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
        self.touch(Kind::Write, |old| if old == current { new } else { old });
        self.0.compare_exchange(current, new, success, failure)
    }
}
