//! Locks and queues in which a task sleeps. Whatever may block takes `&mut Task`.

mod biased;
mod lines;
mod lock;
mod own;
mod raw;
mod wait;

pub(crate) use self::biased::{BiasedReadSem, BiasedRwSem, BiasedWriteSem};
pub(crate) use self::lines::{Line, Lines};
pub(crate) use self::lock::{ReadSem, RwSem, SleepLock, SleepLockGuard, WriteSem};
pub use self::own::BiasedRwLock;
pub use self::raw::{RawSleepMutex, RawSleepRwLock};
pub use self::wait::{Signals, WaitQueue};
