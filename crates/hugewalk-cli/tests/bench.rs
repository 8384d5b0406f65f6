//! `hugewalk bench`, as long as it takes to see that all of it is there.

mod common;

use assert_cmd::Command;
use common::{json, run};

const BRIEF: [&str; 6] = ["--samples", "1", "--seconds", "0.002", "--format", "json"];

#[test]
fn each_walker_is_measured_with_one_and_two_threads_alone_and_disturbed() {
    let ran = run(&[&["bench", "walkers"][..], &BRIEF].concat());
    assert_eq!(ran.code, Some(0));
    let report = json(&ran);
    assert_eq!(report["schema"], "hugewalk-bench/1");
    let groups = report["groups"].as_array().expect("a list");
    assert_eq!(groups.len(), 8 * 4);
    for group in groups {
        let title = group["title"].as_str().expect("a title");
        let disturbed = title.contains("unshares all the while");
        let cases = group["cases"].as_array().expect("a list");
        assert!(cases.iter().any(|case| case["name"] == group["baseline"]), "{title}");
        for case in cases {
            let [median, least, greatest] = ["median_ns", "least_ns", "greatest_ns"]
                .map(|figure| case[figure].as_f64().expect("a number"));
            assert!(0.0 < least && least <= median && median <= greatest, "{title}: {case}");
            assert_eq!(case["unshares_per_second"].as_f64().is_some(), disturbed, "{title}: {case}");
        }
    }
}

/// They need several systems, one after the other: a thread has one task.
#[test]
fn walks_faults_forks_and_unshares_are_measured_with_one_and_two_threads() {
    let ran = run(&[&["bench", "walk"][..], &BRIEF].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    let report = json(&ran);
    assert_eq!(report["groups"].as_array().expect("a list").len(), 2 * 4);
}

/// A goal is a part of what the baseline costs, or a time; and each row of the design's table is there.
#[test]
fn what_the_design_aims_for_is_measured_beside_its_goal() {
    let ran = run(&[&["bench", "goals"][..], &BRIEF].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    let report = json(&ran);
    let groups = report["groups"].as_array().expect("a list");
    assert_eq!(groups.len(), 9);
    let cases = groups.iter().flat_map(|group| group["cases"].as_array().expect("a list"));
    let goals: Vec<f64> = cases
        .filter_map(|case| case.get("goal"))
        .map(|goal| goal["ratio"].as_f64().or(goal["nanoseconds"].as_f64()).expect("a number"))
        .collect();
    assert_eq!(goals, [1.3, 1.2, 1.1, 1.3, 100.0, 100.0, 15.0, 35e6]);
}

#[test]
fn costs_are_measured_at_each_size_of_what_grows() {
    let ran = run(&[&["bench", "growth"][..], &BRIEF].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    let report = json(&ran);
    let groups = report["groups"].as_array().expect("a list");
    let names = |title: &str| -> Vec<&str> {
        let group =
            groups.iter().find(|group| group["title"].as_str().is_some_and(|it| it.starts_with(title)));
        let cases = group.expect(title)["cases"].as_array().expect("a list");
        cases.iter().filter_map(|case| case["name"].as_str()).collect()
    };
    assert_eq!(names("Mappings of a file")[4], "65530 mappings");
    assert_eq!(names("Processes that share a table")[4], "10000 processes");
    assert_eq!(names("Pages of a file")[3], "262144 pages");
    assert_eq!(names("Threads at once"), ["1 thread", "2 threads", "4 threads", "8 threads"]);
}

#[test]
fn more_threads_than_processors_are_said() {
    let report = json(&run(&[&["bench", "walkers"][..], &BRIEF].concat()));
    let processors = report["processors"].as_u64().expect("a number");
    for group in report["groups"].as_array().expect("a list") {
        let title = group["title"].as_str().expect("a title");
        let threads = 1
            + u64::from(title.contains("2 threads"))
            + u64::from(title.contains("unshares"))
            + u64::from(title.contains("userfaultfd"));
        assert_eq!(group["note"].is_string(), threads > processors, "{title}");
    }
}

#[test]
fn one_case_is_done_as_often_as_it_is_asked_for() {
    for (what, case) in [("walk", "rcu"), ("walkers", "gup-fast"), ("walkers", "handled")] {
        let ran = run(&["bench", what, "--only", case, "--iterations", "3"]);
        assert!(ran.text.ends_with(": 3 times\n"), "{}", ran.text);
    }
}

#[test]
fn a_case_that_is_none_is_answered_with_those_that_are() {
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    let output =
        command.args(["bench", "walk", "--only", "gup-fast", "--iterations", "3"]).output().expect("it ran");
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let expected =
        "hugewalk: there is no case gup-fast to be done by itself; there are bare, rcu, vma-lock\n";
    assert_eq!(error, expected);
}

/// Faults can be measured only where huge pages are free. What cannot be is said, and its costs are refused.
#[test]
fn the_kernel_is_measured_as_far_as_the_machine_allows_and_replay_takes_the_figures() {
    let ran = run(&[&["bench", "kernel"][..], &BRIEF].concat());
    assert_eq!(ran.code, Some(0));
    let report = json(&ran);
    let length = |list: &str| report[list].as_array().map_or(0, Vec::len);
    assert_eq!(length("groups") + length("lacking"), 3, "{report:#}");
    let directory = tempfile::TempDir::new().expect("a directory");
    let costs = directory.path().join("costs.json");
    std::fs::write(&costs, &ran.text).expect("written");
    let strace = common::example("selftest-mremap.strace");
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    command.arg("replay").arg(&strace).args(["--format", "json", "--costs"]).arg(&costs);
    let output = command.output().expect("it ran");
    let fault = report["groups"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|group| group["title"].as_str().is_some_and(|title| title.starts_with("One fault")));
    match fault {
        Some(group) => {
            let replayed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(replayed["costs"]["fault_ns"], group["cases"][1]["median_ns"]);
        }
        None => {
            let error = String::from_utf8(output.stderr).expect("text");
            assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
            assert!(error.contains("hugewalk bench kernel --format json"), "{error}");
        }
    }
}
