//! The names of files, as far as a recording shows them.

use std::collections::HashMap;

use super::files::FileId;

/// Names, and how many each file has.
#[derive(Debug, Default)]
pub(super) struct Names {
    files: HashMap<String, FileId>,
    counts: HashMap<FileId, u32>,
}

impl Names {
    pub(super) fn get(&self, path: &str) -> Option<FileId> {
        self.files.get(path).copied()
    }

    pub(super) fn count(&self, file: FileId) -> u32 {
        self.counts.get(&file).copied().unwrap_or_default()
    }

    /// Gives a file a name that no other one has.
    pub(super) fn insert(&mut self, path: &str, file: FileId) {
        self.remove(path);
        self.files.insert(path.to_owned(), file);
        *self.counts.entry(file).or_default() += 1;
    }

    pub(super) fn remove(&mut self, path: &str) -> Option<FileId> {
        let file = self.files.remove(path)?;
        if let Some(count) = self.counts.get_mut(&file) {
            *count -= 1;
        }
        Some(file)
    }

    /// Puts `to` in the place of `from`, and likewise for all that lies under it; with `exchange`, the other way round as
    /// well. Returns which files have which new name in place of which old one.
    pub(super) fn rename(&mut self, from: &str, to: &str, exchange: bool) -> Vec<(FileId, String, String)> {
        let moved = |names: &Self, from: &str, to: &str| -> Vec<(FileId, String, String)> {
            let under = |path: &str| {
                path.strip_prefix(from)
                    .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                    .map(str::to_owned)
            };
            let one = |(path, file): (&String, &FileId)| {
                Some((*file, path.clone(), format!("{to}{}", under(path)?)))
            };
            names.files.iter().filter_map(one).collect()
        };
        let mut all = moved(self, from, to);
        if exchange {
            all.extend(moved(self, to, from));
        }
        all.sort();
        for (_, old, _) in &all {
            self.remove(old);
        }
        for (file, _, new) in &all {
            self.insert(new, *file);
        }
        all
    }
}

/// The whole path of `path` in `directory`, without `.` and `..`. A relative path of an unknown directory stays as it is.
pub(super) fn absolute(directory: Option<&str>, path: &str) -> String {
    let joined = match directory {
        Some(directory) if !path.starts_with('/') => format!("{directory}/{path}"),
        _ => path.to_owned(),
    };
    if !joined.starts_with('/') {
        return joined;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_whole() {
        assert_eq!(absolute(Some("/a/b"), "../c/./d"), "/a/c/d");
        assert_eq!(absolute(Some("/a"), "/b//c/"), "/b/c");
        assert_eq!(absolute(None, "b"), "b");
    }
}
