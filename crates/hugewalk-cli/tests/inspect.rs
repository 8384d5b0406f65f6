//! `hugewalk inspect`: on a `/proc` written here, on bad input, and beside the running kernel.

#[path = "inspect/fake.rs"]
mod fake;
#[path = "inspect/live.rs"]
mod live;

use std::fs;

use assert_cmd::Command;
use serde_json::Value;

use fake::{Fake, GIB, MIB};

/// What the command prints with these arguments, and what it complains of.
fn inspect(arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    let output = command.env("COLUMNS", "100").arg("inspect").args(arguments).output().expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn report(fake: &Fake, arguments: &[&str]) -> Value {
    let (text, error, code) = inspect(&[&["--root", fake.path(), "--format", "json"], arguments].concat());
    assert_eq!((error.as_str(), code), ("", Some(0)));
    serde_json::from_str(&text).expect("JSON")
}

fn text(fake: &Fake, arguments: &[&str]) -> String {
    let (text, error, code) = inspect(&[&["--root", fake.path()], arguments].concat());
    assert_eq!((error.as_str(), code), ("", Some(0)));
    text
}

fn complaint(arguments: &[&str]) -> String {
    let (text, error, code) = inspect(arguments);
    assert_eq!((text.as_str(), code), ("", Some(2)), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error.trim_end().to_owned()
}

/// Three processes of a database: two map its memory at the same place, the third 2 MiB behind it.
fn database() -> Fake {
    let mut fake = Fake::new();
    fake.pool(2048, [4000, 2500, 700, 0, 100]);
    fake.pool(1 << 20, [4, 4, 0, 0, 0]);
    for (pid, start) in [(10, 7 * GIB + 512 * MIB), (11, 7 * GIB + 512 * MIB), (12, 9 * GIB + 514 * MIB)] {
        fake.process(pid, "postgres").shared(start, 3 * GIB, 3 << 20).done();
    }
    fake.process(13, "bash").done();
    fake
}

#[test]
fn each_mapping_is_told_what_of_it_can_share_and_why_the_rest_cannot() {
    let report = report(&database(), &[]);
    assert_eq!(report["schema"], "hugewalk-inspect/1");
    let places = report["files"][0]["places"].as_array().expect("places");
    assert_eq!(places.len(), 2);
    assert_eq!(places[0]["processes"], serde_json::json!([10, 11]));
    assert_eq!(places[0]["sharable_ranges"], 2);
    assert_eq!(places[0]["partners"], 1);
    let why: Vec<&str> = places[0]["unsharable"]
        .as_array()
        .expect("reasons")
        .iter()
        .map(|part| part["why"].as_str().expect("text"))
        .collect();
    assert_eq!(why[0], "lies before the first 1 GiB boundary");
    assert_eq!(why[1], "lies behind the last 1 GiB boundary");
    assert!(why[2].starts_with("not with") && why[2].contains("another place in its gigabyte"), "{why:?}");
    let disagreement = &report["files"][0]["disagreement"];
    assert_eq!(disagreement[0]["processes"], serde_json::json!([10, 11]));
    assert_eq!(disagreement[1]["address"], "0x20200000");
    assert_eq!(disagreement[1]["processes"], serde_json::json!([12]));
}

#[test]
fn tables_are_counted_at_least_and_at_most() {
    let report = report(&database(), &[]);
    // Four gigabytes each; the two inner ones of 10 and 11 may be shared.
    assert_eq!(report["tables"]["least"], 10);
    assert_eq!(report["tables"]["most"], 12);
    assert_eq!(report["tables"]["most_kb"], 48);
    // From a boundary on, three tables do for all.
    assert_eq!(report["files"][0]["aligned_tables"], 3);
    let process = &report["processes"][0];
    assert_eq!((&process["own_tables"]["most"], &process["sharable_tables"]["most"]), (&2.into(), &2.into()));
    assert_eq!(report["processes"].as_array().expect("a list").len(), 3, "bash has none");
}

#[test]
fn named_processes_are_looked_at_and_no_others() {
    let report = report(&database(), &["12", "10"]);
    assert_eq!(report["asked"], serde_json::json!([10, 12]));
    assert_eq!(report["tables"]["most"], 8);
    assert!(report["notes"][0].as_str().expect("a note").contains("Others may share tables with them"));
}

#[test]
fn pools_say_what_is_free_and_not_reserved() {
    let report = report(&database(), &[]);
    let pool = &report["pools"][0];
    assert_eq!(
        (&pool["huge_page_kb"], &pool["unreserved"], &pool["overcommit"]),
        (&2048.into(), &1800.into(), &100.into())
    );
    assert_eq!(report["pools"][1]["unreserved"], 4);
    let text = text(&database(), &[]);
    assert!(text.contains("4 GiB in pages of 1 GiB are free and not reserved"), "{text}");
}

/// Ten processes of a database that have touched all of 30 GiB, each at another place in the gigabyte.
fn large_database() -> Fake {
    let mut fake = Fake::new();
    for number in 0..10 {
        let start = 7 * GIB + (u64::from(number) + 1) * 2 * MIB;
        fake.process(10 + number, "postgres").shared(start, 30 * GIB, 30 << 20).faulted(30 << 20).done();
    }
    fake
}

#[test]
fn advice_is_in_the_words_of_the_program_and_says_what_is_gained_in_per_cent_and_milliseconds() {
    let fake = large_database();
    let said = report(&fake, &[]);
    let advice = said["advice"][0].as_str().expect("a sentence");
    assert_eq!(
        advice,
        "For the author of PostgreSQL: map /anon_hugepage (deleted) (inode 77) from a 1 GiB boundary on in all processes. \
         That spares 280 tables (1,120 KiB, 90 % of them), and would have spared these processes up to 138,240 faults (about \
         105 ms)."
    );
    assert!(said["notes"].to_string().contains("A fault counts as 760 ns"), "{}", said["notes"]);
    // With the figures of another machine.
    let room = tempfile::TempDir::new().expect("a directory");
    let costs = room.path().join("costs.json");
    let case = serde_json::json!({"name": "fault of a huge page that is there", "median_ns": 1520.0});
    let costs_text = serde_json::json!({"schema": "hugewalk-bench/1", "groups": [{"cases": [case]}]});
    fs::write(&costs, costs_text.to_string()).expect("written");
    let costs = costs.to_str().expect("text");
    let said = text(&fake, &["--costs", costs]);
    assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains("(about 210 ms)"), "{said}");
    let said = complaint(&["--costs", "/nonexistent/costs.json"]);
    assert!(said.starts_with("hugewalk: /nonexistent/costs.json: cannot be read"), "{said}");
}

#[test]
fn pages_that_were_faulted_in_once_were_spared_nobody() {
    let mut fake = Fake::new();
    for number in 0..10 {
        let start = 7 * GIB + (u64::from(number) + 1) * 2 * MIB;
        // The first has all of it, and the others came to what it had.
        let faulted_kb = if number == 0 { 30 << 20 } else { 0 };
        fake.process(10 + number, "postgres").shared(start, 30 * GIB, 30 << 20).faulted(faulted_kb).done();
    }
    let said = report(&fake, &[]);
    assert_eq!(
        (&said["files"][0]["faulted_pages"], &said["files"][0]["refaulted_pages"]),
        (&15_360.into(), &0.into())
    );
    let advice = said["advice"][0].as_str().expect("a sentence");
    assert!(advice.ends_with("90 % of them)."), "{advice}");
    assert!(!said["notes"].to_string().contains("A fault counts"), "{}", said["notes"]);
}

#[test]
fn a_counter_that_fell_below_zero_is_none() {
    let mut fake = Fake::new();
    fake.process(10, "postgres").shared(GIB, GIB, 2048).present(GIB).faulted(2048u64.wrapping_neg()).done();
    assert_eq!(report(&fake, &[])["processes"][0]["hugetlb_kb"], 0);
}

#[test]
fn the_page_map_tells_which_gigabytes_have_pages() {
    let mut fake = Fake::new();
    // One page of 4 GiB is there: in the last gigabyte.
    fake.process(10, "vm").shared(8 * GIB, 4 * GIB, 2048).present(11 * GIB + 4 * MIB).done();
    fake.process(11, "vm").shared(8 * GIB, 4 * GIB, 0).done();
    // Nobody can be asked.
    fake.process(12, "vm").shared(8 * GIB, 4 * GIB, 2048).done();
    let report = report(&fake, &[]);
    assert_eq!((&report["tables"]["least"], &report["tables"]["most"]), (&1.into(), &5.into()));
}

#[test]
fn a_process_that_ends_meanwhile_is_no_error() {
    let mut fake = database();
    fake.process(14, "gone").shared(7 * GIB, GIB, 0).done();
    fs::remove_file(fake.file(14, "smaps")).expect("removed");
    fs::create_dir(fake.file(15, "")).expect("a process without anything in it");
    assert_eq!(report(&fake, &[])["tables"]["most"], 12);
}

#[test]
fn an_empty_result_says_why_it_may_be_empty() {
    let mut fake = Fake::new();
    fake.process(13, "bash").done();
    let said = text(&fake, &[]);
    assert!(said.starts_with("No process that was looked at maps huge pages.\n"), "{said}");
    assert!(said.contains("This kernel has no pools of huge pages"), "{said}");
    fake.pool(2048, [0, 0, 0, 0, 0]);
    assert!(text(&fake, &[]).contains("The pools are empty: a program that asks for huge pages gets none"));
    fake.pool(2048, [10, 2, 0, 0, 0]);
    assert!(text(&fake, &[]).contains("belong to files that nobody maps"));
    fake.pool(2048, [10, 10, 0, 0, 0]);
    let said = text(&fake, &["13"]);
    assert!(said.starts_with("Process 13 maps no huge pages.\n"), "{said}");
    assert!(said.contains("No page of the pools is in use."), "{said}");
}

#[test]
fn bad_input_is_named_in_one_line() {
    let mut fake = database();
    let root = fake.path().to_owned();
    assert_eq!(
        complaint(&["--root", &root, "99"]),
        "hugewalk: there is no process 99; hugewalk inspect without numbers looks at all there are"
    );
    assert!(complaint(&["0"]).starts_with("hugewalk: invalid value '0' for '[PID]...'"));
    assert!(complaint(&["--all", "7"]).contains("cannot be used with"));
    assert!(complaint(&["--prometheus", "--format", "json"]).contains("cannot be used with"));
    assert!(complaint(&["--watch", "-1"]).contains("--watch"));
    fake.process(16, "x").shared(7 * GIB, GIB, 0).done();
    fs::write(fake.file(16, "smaps"), "7f00-zz rw-s 0 00:11 5 /x\n").expect("written");
    assert!(complaint(&["--root", &root]).contains("/proc/16/smaps:1: this is not a line of smaps"));
    let nothing = tempfile::TempDir::new().expect("a directory");
    let nowhere = complaint(&["--root", nothing.path().to_str().expect("text")]);
    assert!(nowhere.contains("there is no /proc here"), "{nowhere}");
}

#[test]
fn other_flags_and_userfaultfd_keep_mappings_from_sharing_and_mlock_does_not() {
    let mut fake = Fake::new();
    let of = |fake: &mut Fake, pid, more: &str| {
        fake.process(pid, "vm").flags(more).shared(7 * GIB, GIB, 2048).done();
    };
    of(&mut fake, 10, "");
    of(&mut fake, 11, "lo");
    let tables = report(&fake, &[])["tables"].clone();
    assert_eq!((&tables["least"], &tables["most"]), (&1.into(), &2.into()));
    of(&mut fake, 12, "nr");
    of(&mut fake, 13, "uw");
    let report = report(&fake, &[]);
    assert_eq!((&report["tables"]["least"], &report["tables"]["most"]), (&3.into(), &4.into()));
    let why = |pid| {
        let processes = report["processes"].as_array().expect("a list");
        let process = processes.iter().find(|process| process["pid"] == pid).expect("the process");
        process["mappings"][0]["unsharable"][0]["why"].as_str().expect("a reason").to_owned()
    };
    assert_eq!(
        why(12),
        "not with 1c0000000-200000000 of process 10: of the flags in smaps that one has no more, this one nr"
    );
    assert_eq!(why(13), "registered with userfaultfd for write protection");
}

#[test]
fn a_proc_that_hides_processes_is_said_to() {
    let fake = database();
    let mounted = |options: &str| {
        let mounts = format!("sysfs /sys sysfs rw 0 0\nproc /proc proc rw,nosuid{options} 0 0\n");
        fs::write(fake.file(10, "../mounts"), mounts).expect("written");
        report(&fake, &[])["unseen"]["hidden"] == true
    };
    assert!(!mounted("") && !mounted(",hidepid=off"));
    assert!(mounted(",hidepid=invisible") && mounted(",hidepid=2"));
}

#[test]
fn in_a_pipe_a_watch_prints_one_report_after_the_other() {
    use std::io::{BufRead, BufReader};
    let fake = database();
    let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_hugewalk"))
        .args(["inspect", "--root", fake.path(), "--format", "json", "10", "--watch", "0.01"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    for _ in 0..2 {
        let line = lines.next().expect("a line").expect("text");
        let report: Value = serde_json::from_str(&line).expect("JSON on one line");
        assert_eq!(report["asked"], serde_json::json!([10]));
    }
    // When the process has ended there is nothing more to watch.
    fs::remove_dir_all(fake.file(10, "")).expect("removed");
    assert!(lines.all(|line| line.is_ok()));
    assert_eq!(watch.wait().expect("it ended").code(), Some(0));
}

#[test]
fn metrics_are_in_the_text_format_with_help_for_each() {
    let (text, _, code) = inspect(&["--root", database().path(), "--prometheus"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("\nhugewalk_tables_least 10\n"), "{text}");
    assert!(text.contains("hugewalk_pool_unreserved_pages{page_size=\"2MiB\"} 1800\n"), "{text}");
    assert!(text.contains("hugewalk_process_own_tables{pid=\"10\",command=\"postgres\"} 2\n"), "{text}");
    let mut described = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().expect("a name");
            assert!(described.insert(name), "{name} twice");
        } else if !line.starts_with("# TYPE ") {
            let name = line.split(['{', ' ']).next().expect("a name");
            assert!(described.contains(name), "{line}");
            assert!(line.rsplit(' ').next().expect("a value").parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[test]
fn names_cannot_move_the_cursor() {
    let mut fake = Fake::new();
    fake.process(10, "\u{1b}[2Jx").named("/dev/hugepages/\u{1b}[31mred").shared(7 * GIB, GIB, 0).done();
    assert!(!text(&fake, &[]).contains('\u{1b}'));
}
