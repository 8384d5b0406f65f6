//! Spinning locks, atomics and shared ownership as the engine uses them.

mod arc;
mod lock;
mod orphans;
mod parker;

pub use hugewalk_rcu::{Barriers, Word};

pub use self::arc::Arc;
pub(crate) use self::arc::{Orphan, Unowned};
pub(crate) use self::lock::{SpinLock, SpinLockGuard, lock_with_room};
pub(crate) use self::orphans::{Link, Linked, Orphans};
pub use self::parker::Parker;

/// Moves `value` to the heap if there is memory for it.
pub(crate) fn try_push<T>(list: &mut alloc::vec::Vec<T>, value: T) -> Result<(), crate::error::OutOfMemory> {
    list.try_reserve(1)?;
    list.push(value);
    Ok(())
}
