//! How the engine's operations end, to be compared with what was recorded.

use std::fmt;

use hugewalk::addr::VirtAddr;
use hugewalk::error::{Errno, OutOfMemory};
use hugewalk::fault::FaultError;
use hugewalk::file::FileError;
use hugewalk::gup::TransferError;
use hugewalk::mm::MapError;
use hugewalk::uffd::{Stopped, UserfaultError};
use hugewalk_host::TaskError;

use crate::trace::Outcome;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// With this value.
    Value(u64),
    /// With this error, for this reason.
    Failed(Errno, String),
    /// A fault or an access that ended with a signal.
    Signal(&'static str, String),
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => Outcome::Returned(*value).fmt(f),
            Self::Failed(errno, why) => write!(f, "{}: {why}", errno.name()),
            Self::Signal(name, why) => write!(f, "{name}: {why}"),
        }
    }
}

impl From<Result<(), MapError>> for Got {
    fn from(result: Result<(), MapError>) -> Self {
        match result {
            Ok(()) => Self::Value(0),
            Err(error) => Self::Failed(error.errno(), error.to_string()),
        }
    }
}

impl From<Result<VirtAddr, MapError>> for Got {
    fn from(result: Result<VirtAddr, MapError>) -> Self {
        match result {
            Ok(address) => Self::Value(address.as_u64()),
            Err(error) => Self::Failed(error.errno(), error.to_string()),
        }
    }
}

impl From<Result<(), FileError>> for Got {
    fn from(result: Result<(), FileError>) -> Self {
        match result {
            Ok(()) => Self::Value(0),
            Err(error) => Self::Failed(error.errno(), error.to_string()),
        }
    }
}

impl From<Result<(), UserfaultError>> for Got {
    fn from(result: Result<(), UserfaultError>) -> Self {
        match result {
            Ok(()) => Self::Value(0),
            Err(error) => Self::Failed(error.errno(), error.to_string()),
        }
    }
}

impl From<Result<(), Stopped>> for Got {
    fn from(result: Result<(), Stopped>) -> Self {
        match result {
            Ok(()) => Self::Value(0),
            Err(stopped) => Self::Failed(stopped.errno(), stopped.to_string()),
        }
    }
}

impl From<TransferError> for Got {
    fn from(error: TransferError) -> Self {
        Self::Failed(error.errno(), error.to_string())
    }
}

impl From<OutOfMemory> for Got {
    fn from(error: OutOfMemory) -> Self {
        Self::Failed(Errno::ENOMEM, error.to_string())
    }
}

impl From<TaskError> for Got {
    fn from(error: TaskError) -> Self {
        Self::Failed(Errno::ENOMEM, error.to_string())
    }
}

impl From<FaultError> for Got {
    fn from(error: FaultError) -> Self {
        let name = if error.is_bus_error() { "SIGBUS" } else { "SIGSEGV" };
        Self::Signal(name, error.to_string())
    }
}

/// Is that how it was recorded? Where nothing is compared an error is still worth a word, such as of a fault that could
/// not be resolved.
pub(super) fn agree(recorded: Option<&Outcome>, got: Option<&Got>) -> bool {
    match (recorded, got) {
        (Some(Outcome::Returned(value)), Some(Got::Value(replayed))) => value == replayed,
        (Some(Outcome::Failed(errno)), Some(Got::Failed(replayed, _))) => **errno == *replayed.name(),
        (Some(Outcome::Signal(signal)), Some(Got::Signal(replayed, _))) => signal.name() == *replayed,
        (Some(Outcome::Unknown), _) | (None, None | Some(Got::Value(_))) => true,
        (Some(_), None) | (Some(_) | None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_agree_by_value_and_errors_by_name() {
        let failed = |name: &str| Some(Outcome::Failed(name.into()));
        let enomem = Some(Got::from(OutOfMemory));
        assert!(agree(Some(&Outcome::Returned(7)), Some(&Got::Value(7))));
        assert!(!agree(Some(&Outcome::Returned(7)), Some(&Got::Value(8))));
        assert!(agree(failed("ENOMEM").as_ref(), enomem.as_ref()));
        assert!(!agree(failed("EINVAL").as_ref(), enomem.as_ref()));
        assert!(!agree(Some(&Outcome::Returned(0)), None));
        assert!(agree(None, None) && !agree(None, enomem.as_ref()));
    }
}
