//! What a process does as the handler of its own faults.
//!
//! Programs are sequential, so nobody may sleep until somebody else resolves a fault: handlers are opened with
//! `UFFD_FEATURE_SIGBUS`, and an access that would wait gets the signal at once.

use std::fmt;
use std::str::FromStr;

use bitflags::bitflags;

use super::{Bytes, PAGE};

/// Handlers that a process can have at a time.
pub const HANDLERS: usize = 2;

/// What a process does with a userfaultfd.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Handling {
    /// `userfaultfd(2)` and `UFFDIO_API`
    Open,
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
    /// `UFFDIO_WRITEPROTECT` with `UFFDIO_WRITEPROTECT_MODE_WP`
    Protect,
    /// `UFFDIO_WRITEPROTECT` without it
    Unprotect,
    /// `UFFDIO_ZEROPAGE`
    Zero,
    /// `UFFDIO_WAKE`
    Wake,
}

impl OnRange {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Unregister, Self::Continue, Self::Protect, Self::Unprotect, Self::Zero, Self::Wake];

    const fn name(self) -> &'static str {
        match self {
            Self::Unregister => "unregister",
            Self::Continue => "continue",
            Self::Protect => "protect",
            Self::Unprotect => "unprotect",
            Self::Zero => "zero",
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
            Self::Open | Self::Close => None,
            Self::Register { at, length, .. }
            | Self::Copy { at, length, .. }
            | Self::On { at, length, .. } => Some((at, length)),
        }
    }

    /// The same over another length.
    pub(super) fn with_length(&self, length: Bytes) -> Self {
        match *self {
            Self::Open => Self::Open,
            Self::Close => Self::Close,
            Self::Register { at, modes, .. } => Self::Register { at, length, modes },
            Self::Copy { at, value, protected, .. } => Self::Copy { at, length, value, protected },
            Self::On { at, what, .. } => Self::On { at, length, what },
        }
    }

    /// What it is called, for counting.
    pub(super) const fn operation(&self) -> &'static str {
        match self {
            Self::Open => "uffd open",
            Self::Close => "uffd close",
            Self::Register { .. } => "uffd register",
            Self::Copy { .. } => "uffd copy",
            Self::On { what, .. } => match what {
                OnRange::Unregister => "uffd unregister",
                OnRange::Continue => "uffd continue",
                OnRange::Protect => "uffd protect",
                OnRange::Unprotect => "uffd unprotect",
                OnRange::Zero => "uffd zero",
                OnRange::Wake => "uffd wake",
            },
        }
    }

    /// Reads what follows `uffd`. `next` gives the next word, and names what is missing.
    pub(super) fn parse<'t>(mut next: impl FnMut(&str) -> Result<&'t str, String>) -> Result<Self, String> {
        let verb = next("what the handler does")?;
        match verb {
            "open" => return Ok(Self::Open),
            "close" => return Ok(Self::Close),
            _ => {}
        }
        let (at, length) = (next("where")?.parse()?, next("the length")?.parse()?);
        if let Some(what) = OnRange::ALL.into_iter().find(|what| what.name() == verb) {
            return Ok(Self::On { at, length, what });
        }
        match verb {
            "register" => Ok(Self::Register { at, length, modes: next("the modes")?.parse()? }),
            "copy" => {
                let byte = next("the byte")?;
                let value = byte.parse().map_err(|_| format!("{byte} is no byte"))?;
                let protected = match next("").ok() {
                    None => false,
                    Some("wp") => true,
                    Some(word) => return Err(format!("{word}: only `wp` is known")),
                };
                Ok(Self::Copy { at, length, value, protected })
            }
            _ => Err(format!("{verb}: no handler does that")),
        }
    }
}

impl fmt::Display for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Close => f.write_str("close"),
            Self::Register { at, length, modes } => write!(f, "register {at} {length} {modes}"),
            Self::Copy { at, length, value, protected } => {
                write!(f, "copy {at} {length} {value}{}", if *protected { " wp" } else { "" })
            }
            Self::On { at, length, what } => write!(f, "{} {at} {length}", what.name()),
        }
    }
}

const MODES: [(&str, Modes); 3] = [("missing", Modes::MISSING), ("wp", Modes::WP), ("minor", Modes::MINOR)];

impl FromStr for Modes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::empty());
        }
        let mode = |word| MODES.into_iter().find(|(name, _)| *name == word).map(|(_, mode)| mode);
        let modes = text.split('+').map(mode).collect::<Option<Self>>();
        modes.ok_or_else(|| format!("{text}: modes are missing, wp and minor with + between, or `none`"))
    }
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = MODES.iter().filter(|(_, mode)| self.contains(*mode)).map(|(name, _)| *name);
        let set: Vec<_> = set.collect();
        f.write_str(if set.is_empty() { "none".to_owned() } else { set.join("+") }.as_str())
    }
}
