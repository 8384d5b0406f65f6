//! What is needed of a host: atomics, a spinning lock, and barriers.

use lock_api::RawMutex;

use crate::Word;

/// The barriers of an asymmetric pair, and a pause for waiting tasks.
///
/// # Safety
///
/// `light` on one thread and `heavy` on another must act as a pair of sequentially consistent
/// fences. If two threads each write, pass their barrier and read what the other wrote, at least
/// one must see the other's write. Two `heavy` barriers must do so as well. Two `light` ones need
/// not.
pub unsafe trait Barriers: Send + Sync + 'static {
    /// The atomics in use.
    type Word: Word;
    /// A spinning lock. It is held for moments, and neither [`heavy`](Self::heavy) nor
    /// [`pause`](Self::pause) is called meanwhile. Where callbacks are queued in interrupts, its
    /// holder has interrupts off. In user space it may be a sleeping one, such as
    /// `parking_lot::RawMutex`.
    type SpinLock: RawMutex + Send + Sync + 'static;

    /// The frequent side: at the start of each read section. A compiler fence where the other side
    /// can reach every processor (`membarrier(2)`, an inter-processor interrupt), otherwise a full
    /// fence. Does not sleep.
    fn light(&self);

    /// The rare side: before a grace period looks for readers. Does not sleep.
    fn heavy(&self);

    /// Called in a loop that waits for other threads. May sleep.
    ///
    /// # Safety
    ///
    /// The calling thread is in no read section and holds no spinning lock.
    unsafe fn pause(&self);
}

macro_rules! handle {
    ($handle:ty) => {
        // SAFETY: the barriers are those of the host behind the handle.
        unsafe impl<B: Barriers> Barriers for $handle {
            type Word = B::Word;
            type SpinLock = B::SpinLock;

            #[inline(always)]
            fn light(&self) {
                B::light(self);
            }
            #[inline]
            #[track_caller]
            fn heavy(&self) {
                B::heavy(self);
            }
            #[inline]
            #[track_caller]
            unsafe fn pause(&self) {
                // SAFETY: passed on to the caller.
                unsafe { B::pause(self) };
            }
        }
    };
}

handle!(&'static B);
handle!(alloc::sync::Arc<B>);
