//! What a process does as the handler of its own faults.
//!
//! Programs are sequential, so nobody may sleep until somebody else resolves a fault: handlers are opened with
//! `UFFD_FEATURE_SIGBUS`, and an access that would wait gets the signal at once.

use std::fmt;

use bitflags::bitflags;

use super::{Bytes, PAGE};

/// Handlers that a process can have at a time.
pub const HANDLERS: usize = 2;

/// What a process does with a userfaultfd.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Handling {
    /// `userfaultfd(2)` and `UFFDIO_API`
    Open {
        /// `UFFD_FEATURE_WP_ASYNC`
        asynchronous: bool,
    },
    /// It is closed.
    Close,
    /// `UFFDIO_REGISTER`
    Register {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
        /// Which faults.
        modes: Modes,
    },
    /// `UFFDIO_COPY`
    Copy {
        /// Where to.
        at: Bytes,
        /// How much, [`LONGEST_COPY`] at most.
        length: Bytes,
        /// Every byte.
        value: u8,
        /// `UFFDIO_COPY_MODE_WP`
        protected: bool,
    },
    /// What needs a range only.
    On {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
        /// What.
        what: OnRange,
    },
}

/// The most that a program copies at once.
pub const LONGEST_COPY: u64 = 4 * PAGE;

/// What a handler does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnRange {
    /// `UFFDIO_UNREGISTER`
    Unregister,
    /// `UFFDIO_CONTINUE`
    Continue,
    /// `UFFDIO_CONTINUE` with `UFFDIO_CONTINUE_MODE_WP`
    ContinueProtected,
    /// `UFFDIO_WRITEPROTECT` with `UFFDIO_WRITEPROTECT_MODE_WP`
    Protect,
    /// `UFFDIO_WRITEPROTECT` without it
    Unprotect,
    /// `UFFDIO_ZEROPAGE`
    Zero,
    /// `UFFDIO_POISON`
    Poison,
    /// `UFFDIO_WAKE`
    Wake,
}

impl OnRange {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Unregister,
        Self::Continue,
        Self::ContinueProtected,
        Self::Protect,
        Self::Unprotect,
        Self::Zero,
        Self::Poison,
        Self::Wake,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unregister => "unregister",
            Self::Continue => "continue",
            Self::ContinueProtected => "continue-wp",
            Self::Protect => "protect",
            Self::Unprotect => "unprotect",
            Self::Zero => "zero",
            Self::Poison => "poison",
            Self::Wake => "wake",
        }
    }
}

bitflags! {
    /// `UFFDIO_REGISTER_MODE_*`, with the kernel's bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Modes: u8 {
        /// Faults on pages that are nowhere.
        const MISSING = 1;
        /// Stores to what the handler protects.
        const WP = 2;
        /// Faults on pages that the file has.
        const MINOR = 4;
    }
}

impl Handling {
    /// The range it names.
    pub(super) fn range(&self) -> Option<(Bytes, Bytes)> {
        match *self {
            Self::Open { .. } | Self::Close => None,
            Self::Register { at, length, .. }
            | Self::Copy { at, length, .. }
            | Self::On { at, length, .. } => Some((at, length)),
        }
    }

    /// The same over another length.
    pub(super) fn with_length(&self, length: Bytes) -> Self {
        match *self {
            Self::Open { asynchronous } => Self::Open { asynchronous },
            Self::Close => Self::Close,
            Self::Register { at, modes, .. } => Self::Register { at, length, modes },
            Self::Copy { at, value, protected, .. } => Self::Copy { at, length, value, protected },
            Self::On { at, what, .. } => Self::On { at, length, what },
        }
    }

    /// What it is called, for counting.
    pub(super) const fn operation(&self) -> &'static str {
        match self {
            Self::Open { .. } => "uffd open",
            Self::Close => "uffd close",
            Self::Register { .. } => "uffd register",
            Self::Copy { .. } => "uffd copy",
            Self::On { what, .. } => match what {
                OnRange::Unregister => "uffd unregister",
                OnRange::Continue => "uffd continue",
                OnRange::ContinueProtected => "uffd continue-wp",
                OnRange::Protect => "uffd protect",
                OnRange::Unprotect => "uffd unprotect",
                OnRange::Zero => "uffd zero",
                OnRange::Poison => "uffd poison",
                OnRange::Wake => "uffd wake",
            },
        }
    }
}

impl fmt::Display for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { asynchronous: false } => f.write_str("open"),
            Self::Open { asynchronous: true } => f.write_str("open async"),
            Self::Close => f.write_str("close"),
            Self::Register { at, length, modes } => write!(f, "register {at} {length} {modes}"),
            Self::Copy { at, length, value, protected } => {
                write!(f, "copy {at} {length} {value}{}", if *protected { " wp" } else { "" })
            }
            Self::On { at, length, what } => write!(f, "{} {at} {length}", what.name()),
        }
    }
}

pub(super) const MODES: [(&str, Modes); 3] =
    [("missing", Modes::MISSING), ("wp", Modes::WP), ("minor", Modes::MINOR)];

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = MODES.iter().filter(|(_, mode)| self.contains(*mode)).map(|(name, _)| *name);
        let set: Vec<_> = set.collect();
        f.write_str(if set.is_empty() { "none".to_owned() } else { set.join("+") }.as_str())
    }
}
