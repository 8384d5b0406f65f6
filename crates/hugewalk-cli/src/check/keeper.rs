//! The file that a part of a check is kept in: whole at any moment, and one process's at a time.
//!
//! # Protocol
//!
//! Who works on a checkpoint holds the lock of the file (`flock()`), from before it is read to the end. Each new state is written
//! beside it, locked, and takes the place of the old one in a single step: under the name there is always a file that is whole and
//! locked. Who gets the lock of a file that has just been replaced sees that it is not the one under the name any more, and
//! looks again. A kill at any moment lets the lock go, and leaves nothing that has to be cleared away.
//!
//! A file system without locks gives none; then two processes on one file are not kept apart, as ever.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::campaign::{Campaign, Spent};
use super::error::CheckError;
use crate::html::file::{beside, plainly};

/// At most so often a checkpoint is written.
const INTERVAL: Duration = Duration::from_millis(500);

/// Of the time, one part in so many goes into writing at most: a large campaign is a large file.
const SHARE: u32 = 50;

/// What a part of a check is kept in, if anything, and what has been spent on it.
pub(super) struct Keeper {
    kept: Option<Kept>,
    /// When this process began, and what others have spent on it before.
    start: Instant,
    before: Spent,
    jobs: u32,
}

struct Kept {
    /// As it was named.
    named: PathBuf,
    /// What a link of that name leads to.
    path: PathBuf,
    /// The file under the name, which keeps its lock for us.
    _locked: File,
    written: Instant,
    pause: Duration,
}

impl Keeper {
    /// Claims the file, if one is wanted, and fills in what has been done already. Of the whole check there are `all` units.
    pub(super) fn open(
        path: Option<&Path>,
        campaign: &mut Campaign,
        all: usize,
        jobs: u32,
    ) -> Result<Self, CheckError> {
        let mut keeper = Self { kept: None, start: Instant::now(), before: Spent::default(), jobs };
        let Some(path) = path else { return Ok(keeper) };
        let unwritable = |error| CheckError::Unwritable { file: path.to_owned(), error };
        let locked = loop {
            if let Some(there) = claim(path)? {
                let before = Campaign::read_from(BufReader::new(&there), path)?;
                before.agrees_with(campaign, path)?;
                before.is_same_part(campaign, path)?;
                before.belongs_to(all, path)?;
                (keeper.before, campaign.done) = (before.spent, before.done);
                break there;
            }
            if let Some(new) = begin(path, campaign).map_err(unwritable)? {
                break new;
            }
        };
        keeper.kept = Some(Kept {
            named: path.to_owned(),
            path: path.canonicalize().map_err(unwritable)?,
            _locked: locked,
            written: Instant::now(),
            pause: INTERVAL,
        });
        keeper.kept.iter().for_each(Kept::clear_away);
        // Now rather than after an hour: can it be written?
        keeper.write(campaign)?;
        Ok(keeper)
    }

    /// A unit is done.
    pub(super) fn advance(&mut self, campaign: &mut Campaign) -> Result<(), CheckError> {
        let is_due = |kept: &Kept| kept.written.elapsed() >= kept.pause;
        if campaign.is_finished() || self.kept.as_ref().is_some_and(is_due) {
            return self.write(campaign);
        }
        Ok(())
    }

    /// The work ends here, because of a signal.
    pub(super) fn stop(&mut self, campaign: &mut Campaign, signal: i32) -> CheckError {
        match self.write(campaign) {
            Err(error) => error,
            Ok(()) => CheckError::Interrupted {
                signal,
                done: campaign.done.len(),
                of: campaign.units,
                file: self.kept.as_ref().map(|kept| kept.named.clone()),
            },
        }
    }

    /// What was spent on it before, and in how many units.
    pub(super) fn spent_before(&self) -> Spent {
        self.before
    }

    /// What has been spent up to now.
    pub(super) fn spent(&self) -> Spent {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.before.and_then(Spent { milliseconds: elapsed, jobs: self.jobs })
    }

    fn write(&mut self, campaign: &mut Campaign) -> Result<(), CheckError> {
        campaign.spent = self.spent();
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let start = Instant::now();
        kept.replace(campaign).map_err(|error| CheckError::Unwritable { file: kept.named.clone(), error })?;
        (kept.written, kept.pause) = (Instant::now(), INTERVAL.max(start.elapsed() * SHARE));
        Ok(())
    }
}

impl Kept {
    /// What a process that was killed while it wrote has left. The lock says that it is gone.
    fn clear_away(&self) {
        // Most often there is nothing; and what cannot be removed cannot be replaced either, which says so.
        let _ = fs::remove_file(self.beside());
    }

    fn beside(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        PathBuf::from(name)
    }

    /// Whoever is killed here leaves the old file or the new one.
    fn replace(&mut self, campaign: &Campaign) -> io::Result<()> {
        let new = self.beside();
        let written = write_all(File::create(&new), campaign).and_then(|file| {
            fs::rename(&new, &self.path)?;
            Ok(file)
        });
        if written.is_err() {
            // Half a checkpoint is of no use to anybody; the error at hand is the one to tell.
            let _ = fs::remove_file(&new);
        }
        self._locked = written?;
        Ok(())
    }
}

/// Writes a campaign to a file that nobody else knows of yet, and locks it.
fn write_all(file: io::Result<File>, campaign: &Campaign) -> io::Result<File> {
    let file = file?;
    // Without locks there is none to be had.
    let _ = file.try_lock();
    let mut out = BufWriter::new(&file);
    serde_json::to_writer(&mut out, campaign)?;
    out.write_all(b"\n")?;
    out.into_inner()?.sync_all()?;
    Ok(file)
}

/// The checkpoint that is there, locked. None if there is none.
fn claim(path: &Path) -> Result<Option<File>, CheckError> {
    let unreadable = |error| CheckError::Unreadable { file: path.to_owned(), error };
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => return Err(unreadable(ErrorKind::IsADirectory.into())),
        // A device has no end, and nothing can take its place.
        Ok(there) if !there.is_file() => return Err(unreadable(io::Error::other("is not a regular file"))),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    }
    loop {
        // For writing, too: a lock of one's own needs that on some network file systems.
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CheckError::Unwritable { file: path.to_owned(), error }),
        };
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(CheckError::InUse { file: path.to_owned() });
        }
        let identity = |there: fs::Metadata| (there.dev(), there.ino());
        let mine = file.metadata().map(identity).map_err(unreadable)?;
        if fs::metadata(path).is_ok_and(|there| identity(there) == mine) {
            return Ok(Some(file));
        }
    }
}

/// Makes the checkpoint. None if another one was made in the meantime.
fn begin(path: &Path, campaign: &Campaign) -> io::Result<Option<File>> {
    if path.is_symlink() && !path.exists() {
        return Err(io::Error::other("is a link that leads nowhere"));
    }
    let new: NamedTempFile = beside(path, 0o666)?;
    let file = write_all(new.as_file().try_clone(), campaign)?;
    match new.persist_noclobber(path) {
        Ok(_) => Ok(Some(file)),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(plainly(error.error)),
    }
}
