//! What docs/upstream.md says of verdicts, costs and a recording is what the commands print now.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

const PROTOCOLS: [&str; 8] = [
    "vma-lock",
    "ipi-each",
    "ipi-last",
    "sync-rcu",
    "ipi-implied",
    "ipi-targeted",
    "unshare-rcu",
    "hugewalk",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    std::fs::read_to_string(repository().join("docs/upstream.md")).expect("the page")
}

fn json(arguments: &[&str]) -> Value {
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    let output = command.current_dir(repository()).args(arguments).args(["--format", "json"]).output();
    serde_json::from_slice(&output.expect("it ran").stdout).expect("JSON")
}

/// The rows of the table whose heading has these words: a protocol's name, and what stands behind it.
fn rows(heading: &[&str]) -> Vec<(&'static str, Vec<String>)> {
    let page = page();
    let table = page.lines().skip_while(|line| {
        let is_heading = line.starts_with("          ") && heading.iter().all(|word| line.contains(word));
        !is_heading
    });
    let row = |line: &str| {
        let cells: Vec<String> =
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
        let name = PROTOCOLS.into_iter().find(|name| cells.first().is_some_and(|cell| cell == name))?;
        Some((name, cells[1..].to_vec()))
    };
    let rows: Vec<_> = table.take_while(|line| !line.is_empty()).filter_map(row).collect();
    assert_eq!(rows.iter().map(|(name, _)| *name).collect::<Vec<_>>(), PROTOCOLS, "{heading:?}");
    rows
}

#[test]
fn its_verdicts_are_those_of_check() {
    let report = json(&["check", "S9", "S10", "--protocol", &PROTOCOLS.join(",")]);
    let said = |scenario: &str, protocol: &str| {
        let verdicts = report["verdicts"].as_array().expect("verdicts");
        let verdict = verdicts
            .iter()
            .find(|verdict| verdict["scenario"] == scenario && verdict["protocol"] == protocol);
        let verdict = verdict.expect("there is one");
        if verdict["verdict"] == "safe" {
            assert_eq!(verdict["explored"]["coverage"], "everything");
            "safe".to_owned()
        } else {
            let kind = verdict["kind"].as_str().expect("a kind").replace('_', " ");
            format!("{kind}, {} switches", verdict["race"]["switches"])
        }
    };
    for (protocol, cells) in rows(&["S9", "S10"]) {
        assert_eq!(cells, [said("S9", protocol), said("S10", protocol)], "{protocol}");
    }
}

#[test]
fn its_accesses_are_those_of_a_run_one_after_the_other() {
    for (protocol, cells) in rows(&["GUP-fast", "unshare", "it interrupts"]) {
        let run = json(&["check", "S9", "--protocol", protocol, "--replay", "A1"]);
        let steps = run["steps"].as_array().expect("steps");
        let of = |cpu: u64| {
            let its = steps.iter().filter(|step| step["cpu"] == cpu);
            its.map(|step| step["count"].as_u64().expect("a number")).sum::<u64>().to_string()
        };
        let number = |cell: &String| cell.split(' ').next().unwrap_or_default().to_owned();
        assert_eq!([number(&cells[0]), number(&cells[1])], [of(0), of(1)], "{protocol}");
    }
}

#[test]
fn its_recording_comes_to_as_many_interrupts() {
    let mp = "crates/hugewalk-cli/tests/recordings/mp";
    let (calls, faults) = (format!("{mp}.strace.gz"), format!("{mp}.faults.gz"));
    let report = json(&["replay", &calls, "--faults", &faults, "--cpus", "64"]);
    let protocols = report["unsharing"]["protocols"].as_array().expect("protocols");
    let of = |name: &str, field: &str| {
        protocols.iter().find(|protocol| protocol["name"] == name).map(|protocol| protocol[field].clone())
    };
    let unshares = &report["unsharing"]["by_call"].as_object().expect("calls");
    let unshares: u64 = unshares.values().filter_map(Value::as_u64).sum();
    let number = |name: &str, field: &str| of(name, field).expect("there is one").to_string();
    let said = page().split_whitespace().collect::<Vec<_>>().join(" ");
    for sentence in [
        format!("({unshares} unshares in {} flushes)", number("hugewalk", "flushes")),
        format!(
            "comes to {} interrupts under ipi-each, {} under ipi-last, and none under hugewalk",
            number("ipi-each", "processors_disturbed"),
            number("ipi-last", "processors_disturbed")
        ),
    ] {
        assert!(said.contains(&sentence), "{sentence}");
    }
    assert_eq!(number("hugewalk", "processors_disturbed"), "0");
}
