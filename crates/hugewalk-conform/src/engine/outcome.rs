//! The engine's errors as a process sees them.

use hugewalk::fault::FaultError;
use hugewalk::file::FileError;
use hugewalk::mm::MapError;
use hugewalk::reserve::SubPoolError;

use crate::observe::Outcome;
use crate::program::Bytes;

pub(super) fn of_map(error: &MapError) -> Outcome {
    Outcome::Error(error.errno().name())
}

pub(super) fn of_file(error: &FileError) -> Outcome {
    Outcome::Error(error.errno().name())
}

pub(super) fn of_mount(error: &SubPoolError) -> Outcome {
    Outcome::Error(error.errno().name())
}

/// The signal that an access at a place gets for a fault that cannot be resolved.
pub(super) fn of_fault(error: &FaultError, at: Bytes, after: u64) -> Outcome {
    let (signal, code, at) = match error {
        FaultError::OutOfMemory(_) => return Outcome::Error(error.errno().name()),
        FaultError::NotMapped { .. } => ("SIGSEGV", "SEGV_MAPERR", at),
        FaultError::Protection { .. } => ("SIGSEGV", "SEGV_ACCERR", at),
        FaultError::Hwpoison { .. } => ("SIGBUS", "BUS_MCEERR_AR", at),
        _ => ("SIGBUS", "BUS_ADRERR", at),
    };
    Outcome::Signal { signal, code, at: Some(at), after }
}
