//! What a recording says of pools, of calls that got no huge pages, and of advice: each input is a recording of its own.

mod common;

use std::fs;
use std::path::Path;

use common::{assert_all_as_recorded, faults, pool, report, run};
use serde_json::{Value, json};

fn input(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inputs").join(name);
    fs::read_to_string(file).expect("an input")
}

/// Replays an input of `tests/inputs`.
fn replayed(name: &str, options: &[&str]) -> Value {
    report(&input(name), "", options)
}

/// The text of a report on an input.
fn text(name: &str, options: &[&str]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inputs").join(name).display().to_string();
    let ran = run(&[&["replay", &file], options].concat());
    assert_eq!(ran.code, Some(0));
    // Lines are broken wherever they are long enough.
    ran.text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_guessed_pool_agrees_with_the_calls_that_failed() {
    let report = replayed("02b-pool-partly.strace", &[]);
    assert_all_as_recorded(&report);
    // 150 pages were in use when 100 more could not be had.
    assert_eq!(pool(&report)[0], 249);
    assert_eq!(report["pools"][0]["guessed"], true);
    let lacking = [&report["failed"][0], &report["failed"][1]].map(|call| {
        assert_eq!((&call["error"], &call["explained"]), (&json!("ENOMEM"), &json!(true)));
        [call["line"].clone(), call["pages"].clone(), call["pages_lacking"].clone()]
    });
    assert_eq!(json!(lacking), json!([[2, 1024, [875, 974]], [6, 100, [1, 100]]]));
    let text = text("02b-pool-partly.strace", &[]);
    assert!(text.contains("mmap (anonymous): asked for 2 GiB (1,024 pages of 2 MiB), got ENOMEM: the pool lacked 875 to 974 pages"), "{text}");
    assert!(text.contains("calls succeed and fail as recorded with 150 to 249 pages"), "{text}");
    assert!(text.contains("What this cannot say - The recording began"), "{text}");
    assert_eq!(text.matches("from its start").count(), 1, "{text}");
}

#[test]
fn what_the_pool_lacked_is_told_exactly_where_its_size_is_known() {
    let report = replayed("02b-pool-partly.strace", &["--pool", "200"]);
    assert_all_as_recorded(&report);
    assert_eq!(report["pools"][0]["guessed"], false);
    assert_eq!(
        json!([report["failed"][0]["pages_lacking"], report["failed"][1]["pages_lacking"]]),
        json!([[924, 924], [50, 50]])
    );
}

#[test]
fn a_failure_that_one_size_of_the_pool_alone_explains_stays_unexplained() {
    let report = replayed("05-dpdk-maxmap.strace", &[]);
    assert_eq!(report["differences"][0]["recorded"], "ENOMEM");
    assert_eq!(
        (&report["failed"][0]["line"], &report["failed"][0]["explained"]),
        (&json!(17), &json!(false))
    );
    let why = report["failed"][0]["why"].as_str().expect("words");
    assert!(why.contains("a pool of exactly 5 pages") && why.contains("vm.max_map_count"), "{why}");
}

#[test]
fn a_call_that_succeeds_where_it_failed_leaves_nothing_behind() {
    let report = replayed("05-dpdk-maxmap.strace", &["--pool", "64", "--until", "+1.01"]);
    assert_eq!(report["differences"].as_array().map(Vec::len), Some(1));
    // Five files of a page each, and no reservation for the sixth.
    assert_eq!(pool(&report), [64, 59, 0]);
    assert_eq!(report["failed"][0]["explained"], false);
    assert!(report["failed"][0]["why"].as_str().expect("words").starts_with("59 pages were left for it"));
}

#[test]
fn a_reservation_from_before_a_call_that_failed_stays() {
    let strace = "10 1.000001 openat(AT_FDCWD, \"/dev/hugepages/a\", O_RDWR|O_CREAT, 0600) = 3\n\
         10 1.000002 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7f0000000000\n\
         10 1.000003 mmap(NULL, 8388608, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_POPULATE, 3, 0) = -1 ENOMEM (Cannot allocate memory)\n";
    let report = report(strace, "", &["--pool", "10"]);
    assert_eq!(pool(&report), [10, 10, 2]);
    assert_eq!(report["failed"][0]["pages_lacking"], Value::Null);
}

#[test]
fn a_program_that_went_on_with_normal_pages_is_said_to_have() {
    let strace = "7 1.000001 execve(\"/bin/postgres\", [\"postgres\"], 0x7f /* 3 vars */) = 0\n\
         7 1.000002 mmap(NULL, 2812280832, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = -1 ENOMEM (Cannot allocate memory)\n\
         7 1.000003 mmap(NULL, 2811305984, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n";
    let report = report(strace, "", &[]);
    assert_all_as_recorded(&report);
    let call = &report["failed"][0];
    assert_eq!(
        json!([call["pages"], call["pages_lacking"], call["normal_pages_line"]]),
        json!([1341, [1, 1341], 3])
    );
    assert!(call["why"].as_str().expect("words").ends_with("raise vm.nr_hugepages by 1,341"), "{call}");
    let notes = report["notes"].to_string();
    assert!(notes.contains("every call that asked for huge pages failed"), "{notes}");
}

#[test]
fn segments_and_memory_files_that_were_not_made_are_named() {
    let strace = "7 1.000001 execve(\"/bin/x\", [\"x\"], 0x7f /* 3 vars */) = 0\n\
         7 1.000002 shmget(IPC_PRIVATE, 8388608, IPC_CREAT|SHM_HUGETLB|0600) = -1 ENOMEM (Cannot allocate memory)\n\
         7 1.000003 shmget(IPC_PRIVATE, 8388608, IPC_CREAT|0600) = 4\n\
         7 1.000004 memfd_create(\"x\", MFD_HUGETLB|MFD_HUGE_1GB) = -1 ENODEV (No such device)\n\
         7 1.000005 shmget(IPC_PRIVATE, 8388608, IPC_CREAT|SHM_HUGETLB|0600) = -1 EPERM (Operation not permitted)\n";
    let small = report(strace, "", &["--pool", "3"]);
    assert_all_as_recorded(&small);
    assert_eq!(pool(&small), [3, 3, 0]);
    let calls: Vec<_> = small["failed"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|call| json!([call["call"], call["error"], call["pages_lacking"], call["normal_pages_line"]]))
        .collect();
    assert_eq!(
        json!(calls),
        json!([
            ["shmget", "ENOMEM", [1, 1], 3],
            ["memfd_create", "ENODEV", null, null],
            ["shmget", "EPERM", null, null]
        ])
    );
    // So is a file that could not be filled.
    let filled = "7 1.000001 execve(\"/bin/x\", [\"x\"], 0x7f /* 3 vars */) = 0\n\
         7 1.000002 memfd_create(\"x\", MFD_HUGETLB) = 3\n\
         7 1.000003 fallocate(3, 0, 0, 8388608) = -1 ENOSPC (No space left on device)\n";
    let call = &report(filled, "", &["--pool", "3"])["failed"][0];
    assert_eq!(json!([call["call"], call["error"], call["pages"]]), json!(["fallocate", "ENOSPC", 4]));
    // With pages enough it is a difference, and nothing is left of it.
    let large = report(strace, "", &["--pool", "30"]);
    assert_eq!(
        json!([large["differences"][0]["line"], large["differences"][0]["recorded"]]),
        json!([2, "ENOMEM"])
    );
    assert_eq!(pool(&large), [30, 30, 0]);
}

#[test]
fn the_default_size_of_huge_pages_can_be_given() {
    let name = "13b-default-1g-anon.strace";
    let taken_for_small = replayed(name, &[]);
    assert_eq!(taken_for_small["differences"][0]["recorded"], "EINVAL");
    let notes = taken_for_small["notes"].to_string();
    assert!(notes.contains("--default-size 1G"), "{notes}");
    let large = replayed(name, &["--default-size", "1G", "--pool", "2"]);
    assert_all_as_recorded(&large);
    assert_eq!(json!([large["pools"][1]["total"], large["pools"][1]["free"]]), json!([2, 1]));
    // A pool of another size than the default.
    let named = replayed(name, &["--default-size", "1G", "--pool", "7:2M", "--pool", "3:1G"]);
    assert_eq!(json!([named["pools"][0]["total"], named["pools"][1]["total"]]), json!([7, 3]));
}

#[test]
fn a_truth_file_that_names_no_process_is_compared_with_the_pool() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inputs");
    let file = |name: &str| directory.join(name).display().to_string();
    let ran = run(&["replay", &file("13b-default-1g-anon.strace"), "--truth", &file("13b.truth.json")]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.text.contains("all 4 figures equal"), "{}", ran.text);
}

#[test]
fn a_segment_that_was_removed_is_the_same_for_those_who_attach_while_it_is_attached() {
    let touched = faults(&[(100, 3, 0x5600_0000_0000), (100, 5, 0x5700_0020_0000)]);
    let strace = input("rmid.strace");
    let attached = report(&strace, &touched, &["--pool", "900", "--until", "2"]);
    assert_all_as_recorded(&attached);
    assert_eq!(pool(&attached), [900, 898, 510]);
    let gone = strace
        .replace("pause( <unfinished ...>", "shmdt(0x560000000000) = 0")
        .replace("+++ killed by SIGKILL +++", "shmdt(0x570000000000) = 0");
    assert_eq!(pool(&report(&gone, &touched, &["--pool", "900"])), [900, 900, 0]);
}

#[test]
fn advice_is_about_mappings_that_were_there_together_and_worth_it() {
    assert_eq!(replayed("probe.strace", &[])["advice"], json!([]));
    let advice = report(&input("advice.strace"), &input("advice.faults"), &[]);
    assert_all_as_recorded(&advice);
    assert_eq!(advice["advice"], json!([]));
    let other = advice["mappings"][1]["unsharable"].to_string();
    assert!(!other.contains("not with"), "{other}");
}

#[test]
fn a_program_that_went_on_without_huge_pages_is_advised_in_its_own_words() {
    let advice = |program: &str| {
        let strace = format!(
            "7 1.000001 execve(\"/opt/bin/{program}\", [\"x\"], 0x7f /* 3 vars */) = 0\n\
             7 1.000002 mmap(NULL, 2147483648, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = -1 ENOMEM (Cannot allocate memory)\n\
             7 1.000003 mmap(NULL, 2147483648, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"
        );
        let report = report(&strace, "", &["--pool", "24"]);
        assert_eq!(report["advice"].as_array().map(Vec::len), Some(1), "{report:#}");
        report["advice"][0].as_str().expect("a sentence").to_owned()
    };
    let java = advice("java");
    let expected = "For the operator: Java went on without the 1,024 pages of 2 MiB (line 2). Raise vm.nr_hugepages by 1,000, or make \
                    -Xms and -Xmx smaller. A process that touches all of that in normal pages needs 4 MiB of page tables, and 8 KiB in \
                    huge pages.";
    assert_eq!(java, expected);
    let postgres = advice("postgres");
    for words in
        ["PostgreSQL went on", "shared_buffers", "shared_memory_size_in_huge_pages", "huge_pages = on"]
    {
        assert!(postgres.contains(words), "{words}: {postgres}");
    }
    assert!(advice("server").contains("the program went on without"));
}

#[test]
fn an_operator_of_a_virtual_machine_is_told_the_option_of_its_memory_backend() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let file = |ending: &str| directory.join(format!("qemu.{ending}")).display().to_string();
    let (strace, faults) = (file("strace.gz"), file("faults.gz"));
    let report = common::json(&run(&["replay", &strace, "--faults", &faults, "--format", "json"]));
    let advice = report["advice"][0].as_str().expect("a sentence");
    let expected = "For the operator: with hugetlbsize=1G in -object memory-backend-memfd, and 2 pages of 1 GiB in the pool";
    assert!(advice.starts_with(expected), "{advice}");
    assert!(advice.contains("QEMU needs no table of entries of 2 MiB: that spares 5 tables"), "{advice}");
}

#[test]
fn an_empty_report_says_why_it_may_be_empty() {
    let nothing = "7 1.000001 execve(\"/bin/x\", [\"x\"], 0x7f /* 3 vars */) = 0\n\
         7 1.000002 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n";
    let empty = report(nothing, &faults(&[(7, 3, 0x7f00_0000_0000)]), &[]);
    let notes = empty["notes"].to_string();
    assert!(notes.contains("1 fault hit addresses") && notes.contains("--hugetlbfs DIR"), "{notes}");
    let late = report(&nothing[nothing.find('\n').expect("two lines") + 1..], "", &[]);
    assert!(late["notes"].to_string().contains("What ran before may have mapped them"), "{}", late["notes"]);
    let text = text("13-default-1g.strace", &[]);
    assert!(text.contains("--hugetlbfs") && text.contains("none were made"), "{text}");
    assert!(!text.contains("ended as recorded") && !text.contains("Page tables"), "{text}");
}

#[test]
fn a_count_of_the_kernel_below_zero_is_met_and_explained() {
    // A hole is punched through a table that processes share; in the second, a mapping is sealed, too.
    for (name, figures, process) in [("t3", 10, 25916), ("mp", 60, 23451)] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
        let file = |ending: &str| directory.join(format!("{name}.{ending}")).display().to_string();
        let (strace, faults, truth) = (file("strace.gz"), file("faults.gz"), file("truth.json"));
        let ran = run(&["replay", &strace, "--faults", &faults, "--truth", &truth, "--format", "json"]);
        let report = common::json(&ran);
        assert_all_as_recorded(&report);
        assert_eq!(report["truth"]["differing"], 0, "{:#}", report["truth"]);
        assert_eq!(report["truth"]["figures"].as_array().map(Vec::len), Some(figures));
        assert_eq!(ran.code, Some(0));
        let notes = report["notes"].to_string();
        let expected = format!(
            "HugetlbPages of process {process} is below zero, -40,960 kB, which Linux prints as 18446744073709510656"
        );
        assert!(notes.contains(&expected), "{notes}");
    }
}
