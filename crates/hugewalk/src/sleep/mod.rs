//! Locks and queues in which a task sleeps. Whatever may block takes `&mut Task`.

mod lock;
mod wait;

pub(crate) use self::lock::{ReadSem, RwSem, SleepLock, SleepLockGuard, WriteSem};
pub use self::wait::WaitQueue;
