//! The lines of our source that runs refer to, if the page is made where that source is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use hugewalk_lab::story::{Source, Story};
use serde::Serialize;

/// Lines before and after the one that is meant.
const AROUND: usize = 3;

/// A few lines of a file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Snippet {
    /// The number of the first.
    from: usize,
    lines: Vec<String>,
}

/// What each `file:line` of these runs looks like. Of a file that is not there, or is newer than this program, nothing is shown:
/// it need not be what runs.
pub(super) fn snippets(stories: &[&Story]) -> BTreeMap<String, Snippet> {
    let built = std::env::current_exe().and_then(|exe| exe.metadata()?.modified());
    match built {
        Ok(built) => of(stories, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), built),
        Err(_) => BTreeMap::new(),
    }
}

fn of(stories: &[&Story], root: &Path, built: SystemTime) -> BTreeMap<String, Snippet> {
    let mut files: BTreeMap<&str, Option<Vec<String>>> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for source in stories.iter().flat_map(|story| story.steps.iter().filter_map(|step| step.source.as_ref()))
    {
        let Source { file, line, .. } = source;
        let name = format!("{file}:{line}");
        if found.contains_key(&name) {
            continue;
        }
        let text = files.entry(file).or_insert_with(|| read(&root.join(file), built));
        let at = *line as usize;
        let Some(lines) = text.as_ref().filter(|lines| (1..=lines.len()).contains(&at)) else { continue };
        let from = at.saturating_sub(AROUND + 1);
        let shown = &lines[from..(at + AROUND).min(lines.len())];
        found.insert(name, Snippet { from: from + 1, lines: shown.to_vec() });
    }
    found
}

fn read(file: &Path, built: SystemTime) -> Option<Vec<String>> {
    let is_older = file.metadata().and_then(|there| there.modified()).is_ok_and(|changed| changed <= built);
    let text = is_older.then(|| fs::read_to_string(file).ok()).flatten()?;
    Some(text.lines().map(ToOwned::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hugewalk_lab::lab::Settings;
    use hugewalk_lab::{scenario, show};

    use super::*;

    #[test]
    fn lines_around_a_step_are_shown_unless_the_file_is_newer_or_gone() {
        let story = show(scenario::named("S8").expect("a scenario"), Settings::HUGEWALK).1;
        let directory = tempfile::TempDir::new().expect("a directory");
        let source = story.steps.iter().find_map(|step| step.source.clone()).expect("a source");
        let file = directory.path().join(&source.file);
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        let text: String = (1..2_000).map(|number| format!("line {number}\n")).collect();
        fs::write(&file, text).expect("written");
        let changed = file.metadata().and_then(|there| there.modified()).expect("a time");
        let all = of(&[&story], directory.path(), changed);
        let name = format!("{}:{}", source.file, source.line);
        let snippet = &all[&name];
        assert_eq!(snippet.from + AROUND, source.line as usize);
        assert_eq!(snippet.lines[AROUND], format!("line {}", source.line));
        assert!(all.keys().all(|name| name.starts_with(&source.file)), "other files are not there");
        assert!(of(&[&story], directory.path(), changed - Duration::from_secs(1)).is_empty());
    }
}
