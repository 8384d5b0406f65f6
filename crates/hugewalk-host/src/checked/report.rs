//! The findings, and the log that keeps them.

use core::fmt;
use core::panic::Location;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::sync::Mutex;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame};

/// One breach of the contract of [`Platform`](hugewalk::platform::Platform), or of the order of locks.
#[derive(Debug)]
pub struct Report {
    /// What is wrong.
    pub finding: Finding,
    /// The method of the platform or the lock that was called.
    pub call: &'static str,
    /// The location of the caller.
    pub caller: &'static Location<'static>,
    backtrace: Backtrace,
}

/// What can be wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Finding {
    /// A table page was allocated that is in use already, or lies in a huge page that is.
    TableTwice {
        /// The frame.
        frame: TableFrame,
    },
    /// A huge page was allocated that is in use already, or overlaps one, or a table.
    PageTwice {
        /// The frame.
        frame: HugeFrame,
        /// The size asked for.
        size: HugeSize,
    },
    /// The number of a frame is not a multiple of its page size.
    Misaligned {
        /// The frame.
        frame: HugeFrame,
        /// The size asked for.
        size: HugeSize,
    },
    /// The number of a frame does not fit into an entry.
    TooWide {
        /// The number.
        frame: u64,
    },
    /// The entries of a new table are not all zero.
    TableNotZero {
        /// The table.
        frame: TableFrame,
        /// The first entry that is not.
        index: usize,
        /// The value of that entry.
        entry: u64,
    },
    /// A record, the entries of a table, or the contents of a page had another address before.
    Moved {
        /// Of which frame.
        frame: u64,
        /// What.
        what: &'static str,
    },
    /// An address is not aligned as it must be.
    AddressMisaligned {
        /// Of which frame.
        frame: u64,
        /// What.
        what: &'static str,
        /// The alignment.
        to: usize,
    },
    /// Two frames share bytes of their records, entries or contents.
    Overlap {
        /// Of which frame.
        frame: u64,
        /// What.
        what: &'static str,
    },
    /// The record of a page that was never allocated is not all zero.
    RecordNotZero {
        /// The page.
        frame: HugeFrame,
    },
    /// `has_page_record` is false for a page that was allocated.
    NoRecord {
        /// The page.
        frame: HugeFrame,
    },
    /// A page does not read as zeroes after `zero_huge`, or not as the first page after
    /// `copy_huge`.
    WrongContents {
        /// The page.
        frame: HugeFrame,
    },
    /// A callback called back into the engine.
    CalledBack {
        /// The callback.
        from: &'static str,
    },
    /// A function that may sleep was called where sleeping is not allowed.
    Slept {
        /// Where.
        inside: String,
    },
    /// Locks were taken in both orders: two threads can each wait for the other.
    BothOrders {
        /// Where the lock was taken that the thread holds.
        held: &'static Location<'static>,
        /// The edges of the opposite order, oldest first.
        before: String,
    },
    /// A thread took a lock that it holds already.
    TakenTwice {
        /// Where it was taken first.
        held: &'static Location<'static>,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableTwice { frame } => {
                write!(f, "table frame {:#x} was allocated, but is already in use", frame.0)
            }
            Self::PageTwice { frame, size } => {
                write!(
                    f,
                    "huge page {:#x} ({size:?}) was allocated, but all or part of it is already in use",
                    frame.0
                )
            }
            Self::Misaligned { frame, size } => {
                write!(
                    f,
                    "huge page {:#x} was allocated, but its frame is not a multiple of {size:?}",
                    frame.0
                )
            }
            Self::TooWide { frame } => {
                write!(f, "frame {frame:#x} was allocated, but does not fit into an entry")
            }
            Self::TableNotZero { frame, index, entry } => {
                write!(f, "new table {:#x} is not zero: entry {index} is {entry:#x}", frame.0)
            }
            Self::Moved { frame, what } => write!(f, "the {what} of frame {frame:#x} moved"),
            Self::AddressMisaligned { frame, what, to } => {
                write!(f, "the {what} of frame {frame:#x} is not aligned to {to} bytes")
            }
            Self::Overlap { frame, what } => {
                write!(f, "the {what} of frame {frame:#x} and another frame share memory")
            }
            Self::RecordNotZero { frame } => {
                write!(f, "the record of page {:#x} is not zero before the page's first use", frame.0)
            }
            Self::NoRecord { frame } => {
                write!(f, "has_page_record() is false for page {:#x}, which was allocated", frame.0)
            }
            Self::WrongContents { frame } => {
                write!(f, "page {:#x} has wrong contents after zero_huge() or copy_huge()", frame.0)
            }
            Self::CalledBack { from } => write!(f, "{from}() called back into the engine"),
            Self::Slept { inside } => write!(f, "a function that may sleep was called {inside}"),
            Self::BothOrders { held, before } => write!(
                f,
                "locks are taken in both orders: here with the lock held that was taken at {held}; but before, {before}"
            ),
            Self::TakenTwice { held } => {
                write!(f, "the thread holds this lock already, since {held}")
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    in {}(), called at {}", self.finding, self.call, self.caller)?;
        if self.backtrace.status() == BacktraceStatus::Captured {
            write!(f, "\n{}", self.backtrace)?;
        }
        Ok(())
    }
}

/// What one checked platform has found so far.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Vec<Report>>);

/// Further findings are dropped: the first ones matter.
const KEPT: usize = 32;

impl Log {
    pub(super) fn add(&self, finding: Finding, call: &'static str, caller: &'static Location<'static>) {
        // The backtrace is taken before the lock, since it allocates and reads files.
        let report = Report { finding, call, caller, backtrace: Backtrace::capture() };
        let mut reports = self.lock();
        if reports.len() < KEPT {
            reports.push(report);
        }
    }

    pub(super) fn take(&self) -> Vec<Report> {
        core::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Report>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
