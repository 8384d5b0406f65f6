//! The recordings of real programs.

mod common;

use std::fs;

use common::{Ran, assert_all_as_recorded, example, json, pool, replay, run};
use serde_json::{Value, json};
use tempfile::TempDir;

fn beside_the_kernel(truth: &str, options: &[&str]) -> Ran {
    replay("postgres", &[&["--truth", truth], options].concat())
}

fn truth() -> String {
    example("postgres.truth.json").display().to_string()
}

#[test]
fn postgres_has_the_figures_of_the_kernel() {
    let ran = beside_the_kernel(&truth(), &["--format", "json"]);
    assert_eq!(ran.code, Some(0));
    let report = json(&ran);
    assert_eq!(report["schema"], "hugewalk-replay/1");
    assert_all_as_recorded(&report);
    assert_eq!(report["truth"]["equal"], true);
    // 4 counters; 19 processes, each with its pages and two columns of one mapping.
    assert_eq!(report["truth"]["figures"].as_array().map(Vec::len), Some(4 + 19 * 3));
    assert_eq!(report["processes"].as_array().map(Vec::len), Some(19));
    assert_eq!(pool(&report), [1700, 1585, 1226]);
    assert_eq!(report["mappings"][0]["sharable_ranges"], 2);
    assert_eq!(report["mappings"][0]["unsharable"].as_array().map(Vec::len), Some(2));
}

#[test]
fn the_text_says_so_too_in_100_columns() {
    let ran = beside_the_kernel(&truth(), &[]);
    assert_eq!(ran.code, Some(0));
    for expected in [
        "all 68 calls ended as recorded",
        "all 61 figures equal",
        "12433        200,704  7fcea5800000-7fcf4d200000    200,704           0  =",
        "424 MiB  cannot: 7fcea5800000-7fcec0000000 lies before the first 1 GiB boundary",
    ] {
        assert!(ran.text.contains(expected), "{expected}: {}", ran.text);
    }
    // More pages than they save tables is nothing to advise.
    assert!(!ran.text.contains("Advice"), "{}", ran.text);
    let longest = ran.text.lines().map(str::len).max();
    assert!(longest.is_some_and(|length| length <= 100), "{}", ran.text);
    assert!(!ran.text.contains('\x1b'), "colour in a pipe");
}

#[test]
fn a_figure_that_differs_is_named_and_ends_with_1() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("truth.json");
    let mut truth: Value =
        serde_json::from_slice(&fs::read(truth()).expect("the example")).expect("it is JSON");
    truth["processes"]["12370"]["mappings"][0]["shared_hugetlb_kb"] = json!(10242);
    fs::write(&file, truth.to_string()).expect("written");
    let ran = beside_the_kernel(&file.display().to_string(), &[]);
    assert_eq!(ran.code, Some(1));
    let different: Vec<&str> = ran.text.lines().filter(|line| line.contains("DIFFERS")).collect();
    assert_eq!(different.len(), 1, "{}", ran.text);
    assert!(different[0].contains("12370") && different[0].contains("10,242 / 10,240"), "{different:?}");
    assert!(ran.text.contains("1 of 61 figures differ"));
}

#[test]
fn a_database_that_shares_its_tables_has_the_figures_of_the_kernel() {
    let file = |ending: &str| example(&format!("pgbench.{ending}")).display().to_string();
    let (strace, faults) = (file("strace.gz"), file("faults.gz"));
    for (truth, figures) in [("truth.json", 52), ("truth2.json", 22)] {
        let truth = file(truth);
        let ran = run(&["replay", &strace, "--faults", &faults, "--truth", &truth, "--format", "json"]);
        assert_eq!(ran.code, Some(0));
        let report = json(&ran);
        assert_all_as_recorded(&report);
        assert_eq!(report["truth"]["differing"], 0);
        assert_eq!(report["truth"]["figures"].as_array().map(Vec::len), Some(figures));
        assert_eq!(report["pools"][0]["guessed"], false);
        let advice = report["advice"].to_string();
        let gain =
            "map what line 489 maps 1 GiB aligned: 3 ranges of 1 GiB would share their tables instead of 2";
        if figures == 22 {
            assert!(advice.contains("For the author of PostgreSQL: ") && advice.contains(gain), "{advice}");
            let spared = "21 tables (84 KiB, 45 % of them) and up to 1,873 faults (about 1.42 ms)";
            assert!(advice.contains(spared), "{advice}");
            // 3,090 MiB are 18 MiB more than three pages.
            assert!(
                advice.contains("with huge_page_size = 1GB, and 4 pages of 1 GiB in the pool"),
                "{advice}"
            );
            assert!(advice.contains("18 MiB less in shared_buffers, and 3 of them are enough"), "{advice}");
        }
        if figures == 52 {
            assert_eq!(report["peak"]["tables"]["faults_saved"], 10566);
            assert_eq!(report["notes"], json!([]));
            assert_eq!(report["may_matter"], json!({}));
            assert_eq!(report["skipped"]["kill"], 5029);
            assert!(report["unconcerned"].as_u64() > Some(5029));
        }
    }
}

#[test]
fn replayed_to_its_end_postgres_gives_everything_back() {
    let report = json(&replay("postgres", &["--format", "json"]));
    assert_all_as_recorded(&report);
    let [total, free, reserved] = pool(&report);
    assert_eq!((total, free, reserved), (1341, 1341, 0));
    assert_eq!(report["recording"]["pool"], "1,341 pages of 2 MiB, as many as the recording can use");
    assert_eq!(report["tables"]["tables"], 0);
    assert_eq!(report["peak"]["tables"]["processes"], 20);
    assert_eq!(report["recording"]["huge_faults"], 3147);
}

#[test]
fn a_replay_stops_where_it_is_told_to() {
    let report = json(&replay("postgres", &["--format", "json", "--until", "+0.1022"]));
    // The mapping is made, and nobody else is there yet.
    assert_eq!((&report["recording"]["processes"], &report["recording"]["calls"]), (&json!(1), &json!(1)));
    assert_eq!(pool(&report)[2], 1341);
}

#[test]
fn faults_that_a_thread_resolved_for_another_are_resolved_by_it_again() {
    let ran = replay("userfault", &["--format", "json"]);
    let report = json(&ran);
    assert_all_as_recorded(&report);
    assert_eq!(report["recording"]["calls"], 11);
    assert_eq!(report["recording"]["huge_faults"], 2);
    // Two by the handler's thread, one beforehand.
    assert_eq!(report["peak"]["tables"]["pages_faulted"], 3);
}

#[test]
fn the_mremap_selftest_ends_as_recorded_and_shows_what_unshared() {
    let report = json(&replay("selftest-mremap", &["--format", "json", "--cpus", "196"]));
    assert_all_as_recorded(&report);
    assert_eq!(report["recording"]["calls"], 5);
    assert_eq!(report["unsharing"]["by_call"], json!({"mremap": 1, "munmap": 1}));
    let costs: Vec<_> = report["unsharing"]["protocols"]
        .as_array()
        .expect("protocols")
        .iter()
        .map(|protocol| (protocol["name"].as_str(), protocol["processors_disturbed"].as_u64()))
        .collect();
    let expected = [
        ("vma-lock", 0),
        ("ipi-each", 390),
        ("ipi-last", 390),
        ("sync-rcu", 390),
        ("ipi-implied", 0),
        ("ipi-targeted", 390),
        ("unshare-rcu", 0),
        ("hugewalk", 0),
    ];
    assert_eq!(costs, expected.map(|(name, processors)| (Some(name), Some(processors))));
}

#[test]
fn the_madvise_selftest_ends_as_recorded() {
    let report = json(&replay("selftest-madvise", &["--format", "json"]));
    assert_all_as_recorded(&report);
    assert_eq!(report["recording"]["calls"], 9);
    assert_eq!(report["skipped"], json!({"brk": 3}));
}

#[test]
fn copies_of_a_process_share_the_tables_of_a_terabyte() {
    let report = json(&replay("scale-1tib", &["--format", "json", "--clones", "20"]));
    assert_all_as_recorded(&report);
    let tables = &report["peak"]["tables"];
    assert_eq!(tables["by_users"], json!({"20": 1024}));
    // One process fills each gigabyte's first page, the other 19 find it there.
    assert_eq!((&tables["pages_faulted"], &tables["faults_saved"]), (&json!(1024), &json!(19 * 1024)));
    assert_eq!(report["mappings"][0]["processes"], 40);
    assert_eq!(report["unsharing"]["by_call"], json!({"exit": 19 * 1024}));
    let broadcasts =
        |place: usize| report["unsharing"]["protocols"][place]["broadcasts"].as_u64().expect("a number");
    // ipi-each, ipi-last, and hugewalk.
    assert_eq!([broadcasts(1), broadcasts(2), broadcasts(7)], [19 * 1024, 1, 0]);
    assert_eq!(pool(&report), [524_288, 524_288, 0]);
}

#[test]
fn colour_is_for_those_who_ask_for_it() {
    let file = example("selftest-madvise.strace");
    let output = assert_cmd::Command::cargo_bin("hugewalk")
        .expect("the command")
        .env("CLICOLOR_FORCE", "1")
        .arg("replay")
        .arg(file)
        .output()
        .expect("it ran");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("\x1b[1mHuge mappings"), "{text}");
}

/// The names of all fields; keys that are themselves data are left out.
fn fields(value: &Value, found: &mut std::collections::BTreeSet<String>) {
    const KEYED: [&str; 4] = ["by_users", "by_call", "skipped", "may_matter"];
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                if !KEYED.contains(&name.as_str()) {
                    fields(value, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn the_schema_explains_every_field() {
    let schema = include_str!("../../../docs/replay-schema.md");
    let mut found = std::collections::BTreeSet::new();
    fields(&json(&beside_the_kernel(&truth(), &["--format", "json"])), &mut found);
    fields(&json(&replay("selftest-mremap", &["--format", "json", "--pool", "1"])), &mut found);
    let failing = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inputs/02b-pool-partly.strace");
    fields(&json(&run(&["replay", failing, "--format", "json"])), &mut found);
    let missing: Vec<&String> = found.iter().filter(|name| !schema.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(found.len() > 60 && found.contains("replayed"), "{found:?}");
}
