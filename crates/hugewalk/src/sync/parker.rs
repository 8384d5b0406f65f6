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
}
