//! Memory that is not atomic.

use crate::explorer::{Op, access, in_thread, violation};
use crate::state::{self, Id};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// Two threads used a cell at the same time, and one of them changed it.
#[derive(Clone, Copy, Debug)]
pub struct DataRace;

/// Memory that several threads may use, but not at the same time if one of them changes it: if two do, that is reported.
#[derive(Debug)]
pub struct UnsafeCell<T: ?Sized> {
    id: Id,
    /// Who uses it just now: `WRITER`, or the number of readers.
    users: AtomicU32,
    value: std::cell::UnsafeCell<T>,
}

const WRITER: u32 = u32::MAX;

// SAFETY: it gives out pointers only; whoever uses one from several threads promises that they may, and is watched.
unsafe impl<T: ?Sized + Send> Sync for UnsafeCell<T> {}

struct Use<'c> {
    id: &'c Id,
    users: &'c AtomicU32,
    writes: bool,
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let object = self.id.object();
        access(&if self.writes { Op::write(object) } else { Op::read(object) });
        let left = if self.writes { 0 } else { self.users.load(Relaxed).saturating_sub(1) };
        self.users.store(left, Relaxed);
    }
}

impl<T> UnsafeCell<T> {
    /// A cell with a value in it.
    pub const fn new(value: T) -> Self {
        Self { id: Id::new(), users: AtomicU32::new(0), value: std::cell::UnsafeCell::new(value) }
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> UnsafeCell<T> {
    #[track_caller]
    fn begin(&self, writes: bool) -> Use<'_> {
        let object = self.id.object();
        access(&if writes { Op::write(object) } else { Op::read(object) });
        let users = self.users.load(Relaxed);
        let is_race = if writes { users != 0 } else { users == WRITER };
        state::tell(object, || if writes { "change #" } else { "look at #" }.to_owned());
        if is_race && in_thread().is_some() {
            let place = std::panic::Location::caller();
            let what = if writes { "changes" } else { "looks at" };
            let other = if users == WRITER { "changes" } else { "looks at" };
            violation(
                format!("data race: a thread {what} at {place} what another one {other} at the same time"),
                DataRace,
            );
        }
        self.users.store(if writes { WRITER } else { users.saturating_add(1) }, Relaxed);
        Use { id: &self.id, users: &self.users, writes }
    }

    /// Looks at the value.
    #[track_caller]
    pub fn with<R>(&self, work: impl FnOnce(*const T) -> R) -> R {
        let _use = self.begin(false);
        work(self.value.get())
    }

    /// Changes the value.
    #[track_caller]
    pub fn with_mut<R>(&self, work: impl FnOnce(*mut T) -> R) -> R {
        let _use = self.begin(true);
        work(self.value.get())
    }

    /// The value, of which there is one user by type.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: Default> Default for UnsafeCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}
