//! `hugewalk record`: what it refuses, and whole programs recorded here and now, whose replay has to come to the kernel's
//! figures.

#[path = "record/live.rs"]
mod live;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

/// Runs `hugewalk` in a directory: standard output, standard error, exit code.
fn hugewalk(directory: &Path, path: Option<&Path>, arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let output = command.current_dir(directory).args(arguments).output().expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn what_cannot_be_recorded_is_refused_in_one_line_and_leaves_nothing() {
    let directory = TempDir::new().expect("a directory");
    fs::create_dir(directory.path().join("there")).expect("made");
    let empty = directory.path().join("there");
    let cases: [(&[&str], Option<&Path>, &str); 5] = [
        (
            &["record", "-o", "there", "--", "true"],
            None,
            "hugewalk: there: exists already; remove it, or name another with -o\n",
        ),
        (
            &["record", "--", "./no-such-program"],
            None,
            "hugewalk: ./no-such-program: there is no such program in PATH; check the name\n",
        ),
        (
            &["record", "--", "/bin/true"],
            Some(&empty),
            "hugewalk: strace is not there or does not run; install it (Debian: apt install strace)\n",
        ),
        (
            &["record", "-o", "no/such/place", "--no-faults", "--", "/bin/true"],
            None,
            "hugewalk: no/such/place: cannot be made: No such file or directory (os error 2); name another with -o\n",
        ),
        (
            &["record", "--truth-at", "soon", "--", "true"],
            None,
            "hugewalk: invalid value 'soon' for '--truth-at <SECONDS>': a number of seconds above 0 is wanted\n",
        ),
    ];
    for (arguments, path, expected) in cases {
        let (text, error, code) = hugewalk(directory.path(), path, arguments);
        if expected.contains("no/such/place") && error.contains("strace is not there") {
            println!("skipped: {arguments:?} needs strace");
            continue;
        }
        assert!(error.starts_with(expected), "{arguments:?}: {error}");
        assert_eq!((text.as_str(), error.lines().count(), code), ("", 1, Some(2)), "{arguments:?}");
    }
    let left: Vec<_> =
        fs::read_dir(directory.path()).expect("listed").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["there"]);
}

#[test]
fn what_tools_write_meanwhile_wants_a_place() {
    let directory = TempDir::new().expect("a directory");
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    command.current_dir(&directory).env("TMPDIR", "/no/such/place");
    let output = command.args(["record", "--no-faults", "--", "true"]).output().expect("it ran");
    let error = String::from_utf8(output.stderr).expect("text");
    if error.contains("strace is not there") {
        println!("skipped: there is no strace");
        return;
    }
    assert_eq!(
        error,
        "hugewalk: /no/such/place: nothing can be written there meanwhile: No such file or directory (os error 2); \
         name another directory with TMPDIR\n"
    );
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
}

#[test]
fn a_directory_that_is_no_recording_is_refused_by_replay() {
    let directory = TempDir::new().expect("a directory");
    let (_, error, code) = hugewalk(directory.path(), None, &["replay", "."]);
    assert!(error.contains("recording.json: cannot be read") && error.lines().count() == 1, "{error}");
    assert_eq!(code, Some(2));

    let description = directory.path().join("recording.json");
    fs::write(&description, "{\n").expect("written");
    let (_, error, code) = hugewalk(directory.path(), None, &["replay", "."]);
    assert!(error.contains("recording.json:") && error.contains("record again"), "{error}");
    assert_eq!((error.lines().count(), code), (1, Some(2)));

    let other = r#"{"schema": "hugewalk-recording-9", "command": [], "pids": [], "kernel": "", "default_page_kb": 2048,
        "pools": [], "hugetlbfs": [], "faults": false, "truths": [], "notes": []}"#;
    fs::write(&description, other).expect("written");
    let (_, error, code) = hugewalk(directory.path(), None, &["replay", "."]);
    assert!(error.contains("written as hugewalk-recording-9"), "{error}");
    assert_eq!((error.lines().count(), code), (1, Some(2)));
}
