//! Running the command on recordings.
#![allow(dead_code, reason = "each test program uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/traces").join(name)
}

/// What the command printed, and how it ended.
pub(crate) struct Ran {
    pub(crate) text: String,
    pub(crate) code: Option<i32>,
}

pub(crate) fn run(arguments: &[&str]) -> Ran {
    let output =
        Command::cargo_bin("hugewalk").expect("the command").args(arguments).output().expect("it ran");
    let error = String::from_utf8(output.stderr).expect("text");
    assert!(error.is_empty(), "{error}");
    Ran { text: String::from_utf8(output.stdout).expect("text"), code: output.status.code() }
}

/// Replays an example with further options.
pub(crate) fn replay(name: &str, options: &[&str]) -> Ran {
    let file = |ending: &str| example(&format!("{name}.{ending}")).display().to_string();
    let (strace, faults) = (file("strace"), file("faults"));
    run(&[&["replay", &strace, "--faults", &faults], options].concat())
}

pub(crate) fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.text).expect("JSON")
}

/// Replays a recording written here, and returns the report.
pub(crate) fn report(strace: &str, faults: &str, options: &[&str]) -> Value {
    let directory = TempDir::new().expect("a directory");
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).expect("written");
        file.display().to_string()
    };
    let (strace, faults) = (write("t.strace", strace), write("t.faults", faults));
    let ran = run(&[&["replay", &strace, "--faults", &faults, "--format", "json"], options].concat());
    assert_eq!(ran.code, Some(0));
    json(&ran)
}

/// The page faults of a recording: thread, microsecond, address.
pub(crate) fn faults(list: &[(u32, u32, u64)]) -> String {
    list.iter()
        .map(|(tid, at, address)| format!("{tid}/{tid} 1.{at:06}500: page-faults: {address:x}\n"))
        .collect()
}

/// The counters of the pool of 2 MiB pages at the end: total, free, reserved.
pub(crate) fn pool(report: &Value) -> [u64; 3] {
    ["total", "free", "reserved"].map(|name| report["pools"][0][name].as_u64().expect("a number"))
}

pub(crate) fn assert_all_as_recorded(report: &Value) {
    assert_eq!(report["differences"], Value::Array(Vec::new()));
}
