//! What can be wrong with a recording: one line that says what, where, and what to do.

use std::fmt;
use std::path::PathBuf;

use super::time::Time;

/// A recording that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}; {}", problem.advice())]
pub struct TraceError {
    /// Where it was found.
    pub place: Place,
    /// What was found.
    pub problem: Problem,
}

impl TraceError {
    pub(crate) fn at(file: &std::path::Path, line: u32, problem: Problem) -> Self {
        Self { place: Place { file: file.to_owned(), line: Some(line) }, problem }
    }

    pub(crate) fn in_file(file: &std::path::Path, problem: Problem) -> Self {
        Self { place: Place { file: file.to_owned(), line: None }, problem }
    }
}

/// A place in an input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named on the command line.
    pub file: PathBuf,
    /// The line, counted from one; none if the problem is the file's as a whole.
    pub line: Option<u32>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// The kinds of damage a recording can have.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// Not text.
    #[error("is not text")]
    NotText,
    /// Packed by gzip, and damaged.
    #[error("cannot be unpacked: {0}")]
    BadGzip(std::io::Error),
    /// A file of another kind.
    #[error("is {0}")]
    OtherFormat(&'static str),
    /// The table of `strace -c`, and nothing else.
    #[error("holds counts of calls only, as strace -c prints them")]
    OnlyCounts,
    /// Faults that cannot be put between calls.
    #[error("the faults cannot be put between calls {0}")]
    FaultsWithoutTimes(&'static str),
    /// Faults of another time than the calls.
    #[error("the faults are of {faults}, the calls of {calls}")]
    OtherClock {
        /// The first fault.
        faults: Time,
        /// The first call.
        calls: Time,
    },
    /// A moment was asked for, and there are none.
    #[error("has no times in seconds since the epoch, so there is no moment to stop at")]
    NoMoments,
    /// Standard input was read for something else.
    #[error("standard input holds the calls already")]
    ReadAlready,
    /// Nothing in it.
    #[error("holds no events")]
    Empty,
    /// No time where one belongs.
    #[error("no time at {}", Excerpt(.0))]
    NoTime(String),
    /// Neither a call nor any other thing that strace prints.
    #[error("not a line of strace: {}", Excerpt(.0))]
    NotStrace(String),
    /// A call whose closing parenthesis or result is missing.
    #[error("the call is cut off: {}", Excerpt(.0))]
    CutOff(String),
    /// An argument that cannot be understood.
    #[error("{call}: argument {number} ({what}) is {}", Excerpt(text))]
    Argument {
        /// The call.
        call: &'static str,
        /// Which argument, counted from one.
        number: usize,
        /// What it should have been.
        what: &'static str,
        /// What it is.
        text: String,
    },
    /// Too few arguments.
    #[error("{call}: argument {number} ({what}) is missing")]
    MissingArgument {
        /// The call.
        call: &'static str,
        /// Which argument, counted from one.
        number: usize,
        /// What it should have been.
        what: &'static str,
    },
    /// A result that is neither a number, an error nor `?`.
    #[error("result of {call} is {}", Excerpt(text))]
    Outcome {
        /// The call.
        call: String,
        /// What stands after the `=`.
        text: String,
    },
    /// A `resumed` line for a task that has no unfinished call of this name.
    #[error("{call} of task {tid} resumes, but did not begin")]
    ResumedOnly {
        /// The call.
        call: String,
        /// The thread.
        tid: u32,
    },
    /// A task begins a call while it is inside another.
    #[error("task {tid} goes on, but its {call} of line {begun} has not resumed")]
    NotResumed {
        /// The call that is open.
        call: String,
        /// The thread.
        tid: u32,
        /// The line on which the open call began.
        begun: u32,
    },
    /// A line of the fault file that perf would not print.
    #[error("not a fault: {}", Excerpt(.0))]
    NotAFault(String),
}

impl Problem {
    /// What the reader can do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "check the name and its permissions",
            Self::NotText | Self::OtherFormat(_) => {
                "give the text that strace -o or perf script wrote (packed by gzip, if at all)"
            }
            Self::BadGzip(_) => "pack it again, or give the text itself",
            Self::OnlyCounts => "record without -c, or with -C, which prints calls too",
            Self::FaultsWithoutTimes(_) => "record with strace -f -ttt, or leave --faults out",
            Self::OtherClock { .. } => "record both at once, perf with -k CLOCK_REALTIME",
            Self::NoMoments => {
                "record with strace -f -ttt, or give --until as +SECONDS where there are any times"
            }
            Self::ReadAlready => "give the faults as a file",
            Self::Empty => "record again with strace -f -ttt -o FILE PROGRAM",
            Self::NoTime(_) => "the other lines have one: remove the line if it is not strace's own",
            Self::NotStrace(_) => "remove the line if it is not strace's own",
            Self::CutOff(_) => {
                "the line is damaged or was broken by other output: record with -o, or remove it to replay the rest"
            }
            Self::Argument { .. } | Self::MissingArgument { .. } | Self::Outcome { .. } => {
                "strace prints this otherwise: remove the line to replay the rest"
            }
            Self::ResumedOnly { .. } | Self::NotResumed { .. } => {
                "a line is missing here: record again with strace -f, and do not filter its output"
            }
            Self::NotAFault(_) => "print faults with perf script --ns -F pid,tid,time,event,addr",
        }
    }
}

/// Foreign text made fit for one line of a message: quoted, escaped, and cut to a length that can be read.
pub(super) struct Excerpt<'a>(pub(super) &'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        let mut chars = self.0.chars();
        let head: String = chars.by_ref().take(LONGEST).flat_map(char::escape_debug).collect();
        write!(f, "`{head}{}`", if chars.next().is_some() { "..." } else { "" })
    }
}
