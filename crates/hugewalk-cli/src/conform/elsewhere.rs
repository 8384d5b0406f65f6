//! `hugewalk conform` where the kernel cannot be judged: it says so.

pub mod args;

use self::args::ConformArgs;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum ConformError {
    /// The kernel's side is written for another target.
    #[error(
        "conform compares with a running Linux kernel on x86-64, and this command was built for another machine; run it there"
    )]
    Elsewhere,
}

/// Compares nothing.
///
/// # Errors
///
/// [`ConformError::Elsewhere`], always.
pub fn run(_: &ConformArgs, _: &mut Vec<u8>) -> Result<bool, ConformError> {
    Err(ConformError::Elsewhere)
}
