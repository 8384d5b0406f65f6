//! Spinning locks, atomics and shared ownership as the engine uses them.

mod apart;
mod arc;
mod lock;
mod orphans;
mod parker;

pub use hugewalk_rcu::{Barriers, Word};

pub(crate) use self::apart::Apart;
pub use self::arc::Arc;
pub(crate) use self::arc::{Orphan, Unowned};
pub(crate) use self::lock::{SpinLock, SpinLockGuard, lock_with_room};
pub(crate) use self::orphans::{Link, Linked, Orphans};
pub use self::parker::Parker;

/// Appends `value` if there is memory for it.
pub(crate) fn try_push<T>(list: &mut alloc::vec::Vec<T>, value: T) -> Result<(), crate::error::OutOfMemory> {
    list.try_reserve(1)?;
    list.push(value);
    Ok(())
}

/// Moves `value` to the heap if there is memory for it.
pub(crate) fn try_box<T>(value: T) -> Result<alloc::boxed::Box<T>, crate::error::OutOfMemory> {
    const { assert!(size_of::<T>() > 0) };
    // SAFETY: the layout is not zero-sized.
    let memory = unsafe { alloc::alloc::alloc(core::alloc::Layout::new::<T>()) }.cast::<T>();
    if memory.is_null() {
        return Err(crate::error::OutOfMemory);
    }
    // SAFETY: freshly allocated, with the layout of `T`.
    unsafe { memory.write(value) };
    // SAFETY: it comes from the global allocator with the layout of `T`, and is initialised.
    Ok(unsafe { alloc::boxed::Box::from_raw(memory) })
}
