//! `hugewalk compare`: two reports of each kind, alike and changed, and what is not comparable.

mod common;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use common::example;
use serde_json::Value;
use tempfile::TempDir;

/// Runs the command there: standard output, standard error, exit code.
fn hugewalk(directory: &Path, arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    let output = command.current_dir(directory).args(arguments).output().expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn keep(directory: &Path, name: &str, arguments: &[&str]) -> Value {
    let (text, error, _) = hugewalk(directory, &[arguments, &["--format", "json"]].concat());
    assert_eq!(error, "");
    fs::write(directory.join(name), &text).expect("written");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn verdicts_that_changed_are_named() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    let check = ["check", "S8", "--protocol", "hugewalk"];
    keep(directory, "a.json", &check);
    keep(directory, "b.json", &check);
    let (text, _, code) = hugewalk(directory, &["compare", "a.json", "b.json"]);
    assert_eq!((text.as_str(), code), ("0 verdicts changed, 1 are alike\n", Some(0)));

    keep(directory, "c.json", &["check", "S8", "--protocol", "hugewalk", "--without", "revalidate"]);
    let (text, _, code) = hugewalk(directory, &["compare", "a.json", "c.json"]);
    let expected = "S8 under hugewalk: safe -> race (wrong write)\n";
    assert!(text.starts_with(expected) && text.contains("their options differ"), "{text}");
    assert_eq!(code, Some(1));

    let (text, _, _) = hugewalk(directory, &["compare", "a.json", "c.json", "--format", "json"]);
    let compared: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&compared["schema"], &compared["equal"]), (&"hugewalk-compare/1".into(), &false.into()));
    assert_eq!(compared["changes"][0]["now"], "race (wrong write)");
}

#[test]
fn figures_of_replays_that_changed_are_named_with_their_growth() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    let file = |ending: &str| example(&format!("selftest-mremap.{ending}")).display().to_string();
    let (strace, faults) = (file("strace"), file("faults"));
    let replay = ["replay", &strace, "--faults", &faults];
    let before = keep(directory, "a.json", &replay);
    keep(directory, "b.json", &[&replay[..], &["--clones", "2"]].concat());
    let (text, _, code) = hugewalk(directory, &["compare", "a.json", "a.json"]);
    assert!(text.starts_with("0 figures changed, "), "{text}");
    assert_eq!(code, Some(0));
    let (text, _, code) = hugewalk(directory, &["compare", "a.json", "b.json"]);
    let processes = before["recording"]["processes"].as_u64().expect("a number");
    let expected = format!("recording: processes: {processes} -> {} (+100.0 %)\n", 2 * processes);
    assert!(text.contains(&expected), "{text}");
    assert_eq!(code, Some(1));
}

#[test]
fn a_bench_is_compared_with_the_one_before() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    let bench = ["bench", "walk", "--samples", "1", "--seconds", "0.002"];
    keep(directory, "a.json", &bench);
    let (text, error, code) = hugewalk(directory, &[&bench[..], &["--baseline", "a.json"]].concat());
    assert_eq!((error.as_str(), code), ("", Some(0)));
    assert!(text.contains("\nBeside a.json\n") && text.contains(" figures changed, "), "{text}");
    let (_, error, code) = hugewalk(directory, &[&bench[..], &["--baseline", "none.json"]].concat());
    assert!(error.starts_with("hugewalk: none.json: cannot be read"), "{error}");
    assert_eq!((error.lines().count(), code), (1, Some(2)));
}

#[test]
fn what_is_not_comparable_is_refused_in_one_line() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).expect("written");
    write("check.json", r#"{"schema": "hugewalk-check/2"}"#);
    write("bench.json", r#"{"schema": "hugewalk-bench/1"}"#);
    write("inspect.json", r#"{"schema": "hugewalk-inspect/1"}"#);
    write("other.json", "{}");
    write("text", "Huge mappings\n");
    let cases = [
        (["check.json", "none.json"], "none.json: cannot be read: "),
        (["text", "check.json"], "text:1: this is not JSON; print the report with --format json"),
        (["other.json", "check.json"], "other.json: it has no field `schema`; "),
        (["check.json", "bench.json"], "one is hugewalk-check/2, the other hugewalk-bench/1: "),
        (["inspect.json", "inspect.json"], "the reports: it is hugewalk-inspect/1; "),
    ];
    for ([before, now], expected) in cases {
        let (text, error, code) = hugewalk(directory, &["compare", before, now]);
        assert!(error.starts_with(&format!("hugewalk: {expected}")), "{error}");
        assert_eq!((text.as_str(), error.lines().count(), code), ("", 1, Some(2)));
    }
}
