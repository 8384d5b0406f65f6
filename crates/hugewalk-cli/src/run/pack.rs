//! What goes into the guest: the settings, the program and the files, in one archive.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::args::RunArgs;
use super::elf::{self, NotLoadable};
use super::protocol::Protocol;

/// Why the guest cannot be filled.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The program is none that the kernel loads.
    #[error("{}: {reason}", path.display())]
    NotLoadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: NotLoadable,
    },
    /// A path in the guest leads upwards.
    #[error("{}: a path in the guest has no `..`; give the whole path from / on", .0.display())]
    Upwards(PathBuf),
    /// The archive's form has 32 bits for a size.
    #[error("{}: is larger than 4 GiB; let the program make it instead", .0.display())]
    TooLarge(PathBuf),
    /// Something that is neither a file, a folder nor a link.
    #[error("{}: is neither a file nor a folder; only those can be taken along", .0.display())]
    OddFile(PathBuf),
    /// A NUL byte would end a setting early.
    #[error("{0:?} holds a NUL byte, which no argument of a program can")]
    Nul(OsString),
}

/// The archive of a run.
///
/// # Errors
///
/// [`PackError`].
pub(super) fn pack(args: &RunArgs, protocol: &Protocol) -> Result<Vec<u8>, PackError> {
    let named = Path::new(&args.command[0]);
    let program = read(named)?;
    elf::check(&program, args.arch)
        .map_err(|reason| PackError::NotLoadable { path: named.to_owned(), reason })?;
    let cwd = in_guest(Path::new("/"), &args.cwd)?;
    let place = &program_in_guest(named);

    let mut archive = Archive::new(&settings(args, protocol, place, &cwd)?);
    archive.folder(&cwd, 0o755);
    archive.file(place, 0o755, &program);
    for pair in &args.file {
        let (host, guest) = host_and_guest(pair);
        let base = PathBuf::from(OsStr::from_bytes(&[b"/", cwd.as_slice()].concat()));
        add(&mut archive, &host, &in_guest(&base, &guest)?)?;
    }
    Ok(archive.finish())
}

/// Folders at the guest's root, where a program of that name cannot lie.
const FOLDERS: [&str; 8] = ["boot", "dev", "etc", "huge", "proc", "root", "sys", "tmp"];

/// Where the program lies in the guest, without the leading `/`: at the root, or in `/bin` if a folder has its name.
fn program_in_guest(named: &Path) -> Vec<u8> {
    let name = named.file_name().unwrap_or(OsStr::new("program")).as_bytes();
    let folder: &[u8] = if FOLDERS.iter().any(|folder| folder.as_bytes() == name) { b"bin/" } else { b"" };
    [folder, name].concat()
}

/// The strings of the settings, each with its NUL.
fn settings(args: &RunArgs, protocol: &Protocol, program: &[u8], cwd: &[u8]) -> Result<Vec<u8>, PackError> {
    let mut text = Vec::new();
    let mut add = |key: &str, value: &[u8]| {
        if value.contains(&0) {
            return Err(PackError::Nul(OsStr::from_bytes(value).to_owned()));
        }
        text.extend_from_slice(key.as_bytes());
        text.push(b'=');
        text.extend_from_slice(value);
        text.push(0);
        Ok(())
    };
    add("format", b"1")?;
    add("program", &[b"/", program].concat())?;
    for argument in &args.command {
        add("arg", argument.as_bytes())?;
    }
    for variable in &args.env {
        add("env", variable.as_bytes())?;
    }
    add("cwd", &[b"/", cwd].concat())?;
    add("pool", args.pool.to_string().as_bytes())?;
    add("overcommit", args.overcommit.to_string().as_bytes())?;
    add("trace", if args.trace { b"1" } else { b"0" })?;
    for (key, value) in protocol.settings() {
        add(key, value.as_bytes())?;
    }
    Ok(text)
}

/// `HOST=GUEST`, or the same path on both sides. A file whose name holds `=` is taken as a whole if it is there.
fn host_and_guest(pair: &OsStr) -> (PathBuf, PathBuf) {
    let bytes = pair.as_bytes();
    match bytes.iter().rposition(|&byte| byte == b'=') {
        Some(at) if !Path::new(pair).exists() => {
            let path = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
            (path(&bytes[..at]), path(&bytes[at + 1..]))
        }
        _ => (PathBuf::from(pair), PathBuf::from(pair)),
    }
}

/// A path in the guest without its leading `/`, relative ones counted from `base`.
fn in_guest(base: &Path, path: &Path) -> Result<Vec<u8>, PackError> {
    use std::path::Component;
    let joined = base.join(path);
    let mut parts: Vec<&[u8]> = Vec::new();
    for component in joined.components() {
        match component {
            Component::Normal(name) => parts.push(name.as_bytes()),
            Component::ParentDir => return Err(PackError::Upwards(path.to_owned())),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(parts.join(&b'/'))
}

/// Adds a file, or a folder with all that is in it. A link that is named is followed, one within a folder stays a link.
fn add(archive: &mut Archive, host: &Path, guest: &[u8]) -> Result<(), PackError> {
    let unreadable = |source| PackError::Unreadable { path: host.to_owned(), source };
    let about = fs::metadata(host).map_err(unreadable)?;
    let permissions = about.permissions().mode();
    if about.is_file() {
        archive.file(guest, permissions, &read(host)?);
    } else if about.is_dir() {
        archive.folder(guest, permissions);
        let mut entries =
            fs::read_dir(host).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
        // The order of a directory is the file system's; the same files make the same archive.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let mut inner = guest.to_vec();
            if !inner.is_empty() {
                inner.push(b'/');
            }
            inner.extend_from_slice(entry.file_name().as_bytes());
            if entry.file_type().map_err(unreadable)?.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(unreadable)?;
                archive.link(&inner, target.as_os_str().as_bytes());
            } else {
                add(archive, &entry.path(), &inner)?;
            }
        }
    } else {
        return Err(PackError::OddFile(host.to_owned()));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, PackError> {
    let contents =
        fs::read(path).map_err(|source| PackError::Unreadable { path: path.to_owned(), source })?;
    if u32::try_from(contents.len()).is_err() {
        return Err(PackError::TooLarge(path.to_owned()));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(base: &str, path: &str) -> Option<String> {
        in_guest(Path::new(base), Path::new(path)).ok().map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn paths_in_the_guest_start_at_its_root_and_never_lead_out() {
        assert_eq!(guest("/work", "huge/file").as_deref(), Some("work/huge/file"));
        assert_eq!(guest("/work", "/bin//sh").as_deref(), Some("bin/sh"));
        assert_eq!(guest("/", "./x").as_deref(), Some("x"));
        assert_eq!(guest("/", "../x"), None);
    }

    #[test]
    fn a_program_lies_at_the_root_unless_a_folder_has_its_name() {
        assert_eq!(program_in_guest(Path::new("/usr/bin/true")), b"true");
        assert_eq!(program_in_guest(Path::new("./huge")), b"bin/huge");
    }

    #[test]
    fn a_file_is_named_once_or_on_both_sides() {
        let named = |pair: &str| host_and_guest(OsStr::new(pair));
        assert_eq!(named("busybox=/bin/sh"), (PathBuf::from("busybox"), PathBuf::from("/bin/sh")));
        assert_eq!(named("data"), (PathBuf::from("data"), PathBuf::from("data")));
        let directory = tempfile::TempDir::new().expect("a directory");
        let odd = directory.path().join("a=b");
        fs::write(&odd, "").expect("written");
        assert_eq!(host_and_guest(odd.as_os_str()), (odd.clone(), odd));
    }

    #[test]
    fn a_folder_is_taken_along_with_its_links() {
        let directory = tempfile::TempDir::new().expect("a directory");
        fs::create_dir(directory.path().join("in")).expect("made");
        fs::write(directory.path().join("in/file"), "text").expect("written");
        std::os::unix::fs::symlink("file", directory.path().join("in/link")).expect("linked");
        let mut archive = Archive::new(b"");
        add(&mut archive, directory.path(), b"top").expect("added");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let place = |name: &str| text.find(name).unwrap_or_else(|| panic!("{name}"));
        assert!(place("top\0") < place("top/in\0"));
        assert!(place("top/in\0") < place("top/in/file\0"));
        assert!(place("top/in/file\0") < place("top/in/link\0"));
    }
}
