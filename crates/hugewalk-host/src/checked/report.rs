//! What was found, and where it is kept.

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
    /// Who called it.
    pub caller: &'static Location<'static>,
    backtrace: Backtrace,
}

/// What can be wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Finding {
    /// A table page was handed out that is in use already, or lies in a huge page that is.
    TableTwice {
        /// The frame.
        frame: TableFrame,
    },
    /// A huge page was handed out that is in use already, or overlaps one, or a table.
    PageTwice {
        /// The frame.
        frame: HugeFrame,
        /// The size asked for.
        size: HugeSize,
    },
    /// A frame has a number that is not a multiple of its size.
    Misaligned {
        /// The frame.
        frame: HugeFrame,
        /// The size asked for.
        size: HugeSize,
    },
    /// A frame has a number that no entry can hold.
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
        /// What it is.
        entry: u64,
    },
    /// A record, the entries of a table, or the contents of a page were elsewhere before.
    Moved {
        /// Of which frame.
        frame: u64,
        /// What.
        what: &'static str,
    },
    /// An address is not aligned as it has to be.
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
    /// `has_page_record` is false of a page that was handed out.
    NoRecord {
        /// The page.
        frame: HugeFrame,
    },
    /// A page reads as something else than zeroes after `zero_huge`, or than the first page after `copy_huge`.
    WrongContents {
        /// The page.
        frame: HugeFrame,
    },
    /// A callback called back into the engine.
    CalledBack {
        /// The callback.
        from: &'static str,
    },
    /// Something that may sleep was called where nothing may.
    Slept {
        /// Where.
        inside: String,
    },
    /// Locks were taken in both orders: two threads can each wait for the other.
    BothOrders {
        /// Where the lock was taken that is held.
        held: &'static Location<'static>,
        /// How the other order came about, oldest first.
        before: String,
    },
    /// A lock was taken again by the thread that holds it.
    TakenTwice {
        /// Where it was taken first.
        held: &'static Location<'static>,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableTwice { frame } => {
                write!(f, "table frame {:#x} was handed out, and is in use", frame.0)
            }
            Self::PageTwice { frame, size } => {
                write!(
                    f,
                    "huge page {:#x} ({size:?}) was handed out, and all or part of it is in use",
                    frame.0
                )
            }
            Self::Misaligned { frame, size } => {
                write!(f, "huge page {:#x} was handed out, which is not a multiple of {size:?}", frame.0)
            }
            Self::TooWide { frame } => write!(f, "frame {frame:#x} was handed out, which no entry can hold"),
            Self::TableNotZero { frame, index, entry } => {
                write!(f, "new table {:#x} is not zero: entry {index} is {entry:#x}", frame.0)
            }
            Self::Moved { frame, what } => write!(f, "the {what} of frame {frame:#x} moved"),
            Self::AddressMisaligned { frame, what, to } => {
                write!(f, "the {what} of frame {frame:#x} is not aligned to {to} bytes")
            }
            Self::Overlap { frame, what } => {
                write!(f, "the {what} of frame {frame:#x} overlaps what another frame has")
            }
            Self::RecordNotZero { frame } => {
                write!(f, "the record of page {:#x} is not zero before the page's first use", frame.0)
            }
            Self::NoRecord { frame } => {
                write!(f, "has_page_record() is false of page {:#x}, which was handed out", frame.0)
            }
            Self::WrongContents { frame } => {
                write!(f, "page {:#x} does not have the contents that were asked for", frame.0)
            }
            Self::CalledBack { from } => write!(f, "{from}() called back into the engine"),
            Self::Slept { inside } => write!(f, "something that may sleep was called {inside}"),
            Self::BothOrders { held, before } => write!(
                f,
                "locks are taken in both orders: here with the lock held that was taken at {held}; but before, {before}"
            ),
            Self::TakenTwice { held } => {
                write!(f, "the thread holds this lock already: it took it at {held}")
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

/// More than these are counted by nobody: the first ones tell.
const KEPT: usize = 32;

impl Log {
    pub(super) fn add(&self, finding: Finding, call: &'static str, caller: &'static Location<'static>) {
        // Taken before the lock: it allocates and reads files.
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
