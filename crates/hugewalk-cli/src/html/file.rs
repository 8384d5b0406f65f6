//! A file that is there whole, or not at all.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// `-`: the page goes to standard output, in place of the report.
pub(crate) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Would what is written to `path` take the place of what is, or will be, at the other one?
pub(crate) fn are_same(path: &Path, other: &Path) -> bool {
    let at = |file: &Path| {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).canonicalize();
        let name = file.file_name().map(ToOwned::to_owned);
        file.canonicalize().ok().or_else(|| Some(directory.ok()?.join(name?)))
    };
    let is_file = path.metadata().map_or(true, |there| there.is_file());
    is_file && at(path).is_some_and(|place| at(other) == Some(place))
}

/// Can a file be written there? What is there stays as it is.
///
/// # Errors
///
/// Why not.
pub(crate) fn try_at(path: &Path) -> io::Result<()> {
    match place(path)? {
        Place::Special => Ok(()),
        Place::File { path, mode } => beside(&path, mode).map(drop),
    }
}

/// Writes a file. Until all of it is written, what was there before stays there.
///
/// # Errors
///
/// Why it could not be written; then nothing has changed.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    match place(path)? {
        Place::Special => fs::write(path, text),
        Place::File { path, mode } => {
            let mut file = beside(&path, mode)?;
            file.write_all(text.as_bytes()).map_err(plainly)?;
            file.persist(&path).map_err(|error| plainly(error.error))?;
            Ok(())
        }
    }
}

enum Place {
    /// A terminal, a pipe: nothing to replace.
    Special,
    File {
        path: PathBuf,
        mode: u32,
    },
}

fn place(path: &Path) -> io::Result<Place> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        Ok(there) if !there.is_file() => Ok(Place::Special),
        // What a link leads to is replaced, not the link.
        Ok(there) => Ok(Place::File { path: path.canonicalize()?, mode: there.permissions().mode() & 0o777 }),
        // A link to what is not there yet: it comes where the link says.
        Err(_) => match fs::read_link(path) {
            Ok(target) => {
                let beside = path.parent().unwrap_or(Path::new("")).join(target);
                Ok(Place::File { path: beside, mode: 0o666 })
            }
            Err(_) => Ok(Place::File { path: path.to_owned(), mode: 0o666 }),
        },
    }
}

/// Why nothing can be made in a directory, without the name that it was to have for a while. What is wrong with the directory itself
/// is said as the system says it.
pub(crate) fn refused_in(directory: &Path, error: io::Error) -> io::Error {
    fs::metadata(directory).err().unwrap_or_else(|| plainly(error))
}

/// A file in the same directory: only from there it can take the other one's place in a single step.
///
/// # Errors
///
/// Why it cannot be made.
pub(crate) fn beside(path: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As for every new file, the umask has a say.
    let mut builder = Builder::new();
    builder.prefix(".hugewalk-").permissions(Permissions::from_mode(mode));
    builder.tempfile_in(directory).map_err(|error| refused_in(directory, error))
}

/// The error without the name of the temporary file, which nobody has asked for.
pub(crate) fn plainly(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.source());
    let plain = inner.and_then(|inner| inner.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    match (plain, error.get_ref()) {
        (Some(number), _) => io::Error::from_raw_os_error(number),
        (None, Some(_)) => io::Error::from(error.kind()),
        (None, None) => error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn names(directory: &TempDir) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(directory.path()).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_through_links_and_nothing_is_left_beside_it() {
        let directory = TempDir::new().unwrap();
        let [file, link] = ["file", "link"].map(|name| directory.path().join(name));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        try_at(&link).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        write(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::remove_file(&file).unwrap();
        write(&link, "anew").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "anew");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&directory), ["file", "link"]);
    }

    #[test]
    fn what_cannot_be_written_is_known_beforehand() {
        let directory = TempDir::new().unwrap();
        assert_eq!(try_at(directory.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let nowhere = directory.path().join("no/such/directory");
        assert_eq!(try_at(&nowhere).unwrap_err().kind(), io::ErrorKind::NotFound);
        let error = write(&nowhere, "text").unwrap_err().to_string();
        assert!(!error.contains(".hugewalk"), "{error}");
        assert!(names(&directory).is_empty());
        write(Path::new("/dev/null"), "text").unwrap();
    }
}
