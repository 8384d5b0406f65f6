//! `hugewalk estimate`: what is counted, what is extrapolated, and what cannot be used.

mod common;

use assert_cmd::Command;
use common::{example, json, run};
use serde_json::Value;

fn estimate(arguments: &[&str]) -> Value {
    let ran = run(&[&["estimate"], arguments, &["--format", "json"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    json(&ran)
}

/// What an exit costs under a protocol: broadcasts, processors disturbed, grace periods.
fn costs(exit: &Value, name: &str) -> [u64; 3] {
    let protocols = exit["protocols"].as_array().expect("protocols");
    let protocol = protocols.iter().find(|protocol| protocol["name"] == name).expect("a protocol");
    ["broadcasts", "processors_disturbed", "grace_periods"]
        .map(|figure| protocol[figure].as_u64().expect("a number"))
}

#[test]
fn a_small_program_is_counted_and_its_exits_cost_what_each_protocol_asks() {
    let report = estimate(&["--shared", "4G", "--processes", "5", "--align", "1G", "--cpus", "64"]);
    assert_eq!(report["schema"], "hugewalk-estimate/1");
    assert_eq!(report["method"]["computed"], true);
    assert_eq!((&report["shared"]["tables"], &report["unshared"]["tables"]), (&4.into(), &20.into()));
    // The first one brings each page, every other one takes four tables up.
    assert_eq!((&report["shared"]["faults"], &report["unshared"]["faults"]), (&2064.into(), &10240.into()));
    // A fault counts as 760 ns.
    let milliseconds = |of: &Value, faults: &str, time: &str| {
        let expected = of[faults].as_f64().expect("a number") * 760.0 / 1e6;
        let said = of[time].as_f64().expect("a number");
        assert!((said - expected).abs() < 1e-9, "{time}: {said}, not {expected}");
    };
    milliseconds(&report["shared"], "faults", "milliseconds");
    milliseconds(&report["unshared"], "faults", "milliseconds");
    milliseconds(&report["fork"], "faults", "milliseconds");
    milliseconds(&report["fork"], "faults_unshared", "milliseconds_unshared");
    let [stay, leave] = [&report["exits"][0], &report["exits"][1]];
    assert_eq!((&stay["case"], &leave["case"]), (&"others-stay".into(), &"leaves-one".into()));
    assert_eq!((costs(stay, "ipi-each"), costs(leave, "ipi-each")), ([4, 252, 0], [4, 252, 0]));
    assert_eq!((costs(stay, "ipi-last"), costs(leave, "ipi-last")), ([0, 0, 0], [1, 63, 0]));
    assert_eq!((costs(stay, "unshare-rcu"), costs(leave, "unshare-rcu")), ([0, 0, 0], [0, 0, 1]));
    assert_eq!((costs(stay, "hugewalk"), costs(leave, "hugewalk")), ([0, 0, 0], [0, 0, 0]));
}

#[test]
fn a_large_program_is_extrapolated_and_says_so() {
    let report = estimate(&["--shared", "8T", "--processes", "20000"]);
    assert_eq!(report["method"]["computed"], false);
    // Two edges of half a gigabyte in each process, and one table for each of the others.
    assert_eq!(report["shared"]["tables"], 8191 + 2 * 20_000);
    assert_eq!(report["unshared"]["tables"], 8193 * 20_000);
    let text = run(&["estimate", "--shared", "8T", "--processes", "20000"]).text;
    assert!(text.contains("extrapolated"), "{text}");
}

#[test]
fn pages_of_1_gib_have_no_table_that_could_be_shared() {
    let report = estimate(&["--shared", "8G", "--processes", "4", "--size", "1G"]);
    assert_eq!((&report["asked"]["sharable_ranges"], &report["shared"]["faults"]), (&0.into(), &32.into()));
    assert_eq!(report["exits"][0]["gives"]["tables"], 0);
}

#[test]
fn what_is_not_said_is_taken_from_a_recording() {
    let file = |ending: &str| example(&format!("pgbench.{ending}")).display().to_string();
    let (strace, faults) = (file("strace.gz"), file("faults.gz"));
    let recorded = ["--recording", &strace, "--faults", &faults];
    let of =
        |more: &[&str]| estimate(&[&["--shared", "8G", "--processes", "3"], &recorded[..], more].concat());
    let report = of(&[]);
    // 7f1069c00000 is 668 MiB behind a boundary.
    assert_eq!(report["asked"]["begins_kb"], 668 << 10);
    let touched = report["asked"]["touched_percent"].as_f64().expect("a number");
    assert!((5.0..60.0).contains(&touched), "{touched}");
    assert!(report["rates"]["forks"].as_f64() > Some(0.0), "{}", report["rates"]);
    assert_eq!(of(&["--align", "1G", "--touched", "50"])["asked"]["begins_kb"], 0);
}

#[test]
fn what_cannot_be_used_is_said_in_one_line() {
    let userfault = example("selftest-madvise.strace").display().to_string();
    let asked = ["--shared", "4G", "--processes", "5"];
    let cases: [(&[&str], &str); 8] = [
        (&["--shared", "4", "--processes", "5"], "as in 512G"),
        (&["--shared", "900T", "--processes", "5"], "at most 64T"),
        (&["--shared", "4G", "--processes", "0"], "invalid value '0' for '--processes <N>'"),
        (&["--shared", "4G"], "--processes <N>"),
        (&[&asked[..], &["--touched", "0"]].concat(), "above 0 and up to 100"),
        (&[&asked[..], &["--recording", "/none"]].concat(), "/none: cannot be read"),
        (&[&asked[..], &["--recording", &userfault]].concat(), "no shared mapping of pages of 2 MiB"),
        (&[&asked[..], &["--alin", "1G"]].concat(), "a similar argument exists: '--align'"),
    ];
    for (arguments, expected) in cases {
        let mut command = Command::cargo_bin("hugewalk").expect("the command");
        let output = command.arg("estimate").args(arguments).output().expect("it ran");
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]), "{arguments:?}");
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
}
