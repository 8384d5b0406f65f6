//! A recording as `hugewalk record` leaves it: one directory with the calls, the faults, what the machine was, and what the
//! kernel said at some moments. `hugewalk replay` takes it as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The version of [`Recorded`].
pub const SCHEMA: &str = "hugewalk-recording-1";

/// What strace printed.
pub const CALLS: &str = "calls.strace";
/// What `perf script` printed, packed.
pub const FAULTS: &str = "faults.gz";
/// What the rest is about: [`Recorded`].
pub const DESCRIPTION: &str = "recording.json";
/// What the kernel said when the last process had ended, or when the recording of running processes stopped.
pub const TRUTH: &str = "truth.json";

/// What the kernel said of processes that ran already, when their recording began.
pub const TRUTH_BEFORE: &str = "truth-0.json";

/// What a recording is of.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Recorded {
    /// [`SCHEMA`].
    pub schema: String,
    /// The program and its arguments; empty if processes were recorded that ran already.
    pub command: Vec<String>,
    /// The processes that ran already. What they had is written as calls and faults before the first that was recorded.
    pub pids: Vec<u32>,
    /// `uname -r`.
    pub kernel: String,
    /// The size of huge pages where a call names none.
    pub default_page_kb: u64,
    /// The pools before the program began.
    pub pools: Vec<PoolBefore>,
    /// Where hugetlbfs was mounted.
    pub hugetlbfs: Vec<MountBefore>,
    /// Whether there are page faults in it.
    pub faults: bool,
    /// What the kernel said at some moments, each in a file of the directory.
    pub truths: Vec<String>,
    /// What cannot be concluded from it: a sentence each.
    pub notes: Vec<String>,
}

/// The pool of one size.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct PoolBefore {
    /// The size of a page.
    pub huge_page_kb: u64,
    /// Pages there were, surplus pages not counted.
    pub pages: u64,
    /// Those of them that something held or had reserved already.
    pub in_use: u64,
}

/// A mount of hugetlbfs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MountBefore {
    /// Where.
    pub directory: String,
    /// The size of its pages.
    pub huge_page_kb: u64,
}

/// A directory that is not a recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It has no description, or it cannot be read.
    #[error("{}: cannot be read: {source}; is its directory one that hugewalk record wrote?", path.display())]
    Unreadable {
        /// The description.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The description is not what `hugewalk record` writes.
    #[error("{}:{}: {source}; record again", path.display(), source.line())]
    Malformed {
        /// The description.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Another version wrote it.
    #[error("{}: written as {found}, and {SCHEMA} is read; use the version of hugewalk that recorded it", path.display())]
    Version {
        /// The description.
        path: PathBuf,
        /// What it says.
        found: String,
    },
}

impl Recorded {
    /// Reads the description of a recording.
    ///
    /// # Errors
    ///
    /// If there is none in the directory, or it is of another version.
    pub fn load(directory: &Path) -> Result<Self, RecordingError> {
        let path = directory.join(DESCRIPTION);
        let bytes =
            fs::read(&path).map_err(|source| RecordingError::Unreadable { path: path.clone(), source })?;
        let recorded: Self = serde_json::from_slice(&bytes)
            .map_err(|source| RecordingError::Malformed { path: path.clone(), source })?;
        if recorded.schema == SCHEMA {
            Ok(recorded)
        } else {
            Err(RecordingError::Version { path, found: recorded.schema })
        }
    }

    /// Writes the description.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(directory.join(DESCRIPTION), text)
    }
}
