//! The place where a thread sleeps.

/// The place where one task sleeps, with a token that is present or not, as in `std::thread::park`.
///
/// # Safety
///
/// What a task did before `unpark` is visible to the task that `park` returns to because of it.
pub unsafe trait Parker: Send + Sync + 'static {
    /// A place without a token.
    fn new() -> Self;
    /// Takes the token; sleeps until there is one. May return without one (a spurious wake-up).
    fn park(&self);
    /// Makes the token present. Does not sleep; it is called with spinning locks held.
    fn unpark(&self);

    /// Is the task to die? A wait that can be killed ends then, with [`Interrupted`](crate::error::Interrupted). A host that
    /// kills a task first sees to it that this is so, and then calls [`unpark`](Self::unpark). It stays so. Does not sleep.
    ///
    /// Linux: `fatal_signal_pending()`.
    #[inline]
    fn is_killed(&self) -> bool {
        false
    }

    /// Has the task a signal to take? A wait that can be interrupted ends then. As for [`is_killed`](Self::is_killed), the host
    /// calls [`unpark`](Self::unpark) afterwards. True of a task that is killed.
    ///
    /// Linux: `signal_pending()`.
    #[inline]
    fn is_interrupted(&self) -> bool {
        self.is_killed()
    }
}
