//! The archive that the kernel finds as its first module: cpio in the form "newc".

use std::collections::BTreeSet;

/// Files, folders and links, by their paths in the guest, without the leading `/`.
pub(super) struct Archive {
    bytes: Vec<u8>,
    members: u32,
    /// Folders that are in it.
    folders: BTreeSet<Vec<u8>>,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl Archive {
    /// An archive that begins with the settings, which lie in no folder.
    pub(super) fn new(settings: &[u8]) -> Self {
        let mut archive = Self { bytes: Vec::new(), members: 0, folders: BTreeSet::new() };
        archive.member(b".hugewalk/settings", FILE | 0o400, settings);
        archive
    }

    /// A folder, after those it lies in. One that is there already stays as it is.
    pub(super) fn folder(&mut self, path: &[u8], permissions: u32) {
        if path.is_empty() || self.folders.contains(path) {
            return;
        }
        self.parents(path);
        self.folders.insert(path.to_vec());
        self.member(path, FOLDER | permissions & 0o7777, &[]);
    }

    /// A file, after the folders it lies in.
    pub(super) fn file(&mut self, path: &[u8], permissions: u32, contents: &[u8]) {
        self.parents(path);
        self.member(path, FILE | permissions & 0o7777, contents);
    }

    /// A symbolic link, after the folders it lies in.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) {
        self.parents(path);
        self.member(path, LINK | 0o777, target);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.member(b"TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &[u8]) {
        if let Some(slash) = path.iter().rposition(|&byte| byte == b'/') {
            self.folder(&path[..slash], 0o755);
        }
    }

    fn member(&mut self, path: &[u8], mode: u32, contents: &[u8]) {
        self.members += 1;
        let links = if mode & FOLDER != 0 && mode & FILE == 0 { 2 } else { 1 };
        // Inode, mode, links; owner, group, time, which are root's and 1970; the size; device numbers; the length of the
        // name with its NUL; a sum that this form does not use.
        let size = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.members, mode, links, 0, 0, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    /// Header with name, and contents, each end at a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn folders_come_before_what_lies_in_them_and_everything_is_aligned() {
        let mut archive = Archive::new(b"");
        archive.file(b"a/b/c", 0o644, b"hello");
        archive.folder(b"a", 0o700);
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let heads: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(heads.len(), 5, "the settings, a, a/b, a/b/c, the end");
        assert!(heads.iter().all(|at| at % 4 == 0));
        let names: Vec<&str> =
            heads.iter().map(|at| text[at + 110..].split('\0').next().expect("a name")).collect();
        assert_eq!(names, [".hugewalk/settings", "a", "a/b", "a/b/c", "TRAILER!!!"]);
        assert_eq!(&text[heads[3] + 6 + 6 * 8..][..8], "00000005", "the size");
        assert_eq!(&text[heads[3] + 6 + 8..][..8], "000081a4", "the mode");
    }

    /// Another program's reader is the judge, where there is one.
    #[test]
    fn cpio_unpacks_it() {
        let mut archive = Archive::new(b"");
        archive.file(b"x/odd", 0o755, b"12345");
        archive.link(b"x/link", b"odd");
        let directory = tempfile::TempDir::new().expect("a directory");
        let cpio = Command::new("cpio")
            .args(["-i", "-d", "--quiet"])
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .spawn();
        let Ok(mut cpio) = cpio else {
            eprintln!("skipped: cpio is not installed");
            return;
        };
        cpio.stdin.take().expect("piped").write_all(&archive.finish()).expect("written");
        assert!(cpio.wait().expect("it ran").success());
        assert_eq!(fs::read(directory.path().join("x/link")).expect("read through the link"), b"12345");
    }
}
