//! What recordings hold beside calls that succeed: calls that fail half way, signals, and files that break off.

mod common;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use common::{assert_all_as_recorded, json, pool, report, run};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;

fn beside_the_kernel(name: &str) -> Value {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let file = |ending: &str| directory.join(format!("{name}.{ending}")).display().to_string();
    let (strace, faults, truth) = (file("strace.gz"), file("faults.gz"), file("truth.json"));
    let ran = run(&["replay", &strace, "--faults", &faults, "--truth", &truth, "--format", "json"]);
    json(&ran)
}

#[test]
fn a_segment_without_reservation_has_none_when_it_is_attached_either() {
    let report = beside_the_kernel("ipc");
    assert_all_as_recorded(&report);
    assert_eq!((&report["truth"]["differing"], pool(&report)), (&json!(0), [600, 597, 0]));
}

#[test]
fn a_call_that_failed_leaves_its_mapping_split_as_linux_does() {
    let report = beside_the_kernel("protect");
    assert_all_as_recorded(&report);
    // The kernel had lost four reservations before: what that looks like is said.
    let truth = &report["truth"];
    assert_eq!((&truth["differing"], truth["figures"].as_array().map(Vec::len)), (&json!(1), Some(15)));
    let remark = truth["remark"].as_str().expect("a remark");
    assert!(remark.contains("(0 in use, 4 reserved)"), "{remark}");
}

#[test]
fn a_file_that_the_pool_had_not_the_pages_for_keeps_those_that_it_got() {
    let report = beside_the_kernel("fallback");
    assert_all_as_recorded(&report);
    assert_eq!(report["truth"]["equal"], true, "{:#}", report["truth"]["figures"]);
    let filled = report["failed"].as_array().expect("a list").iter().find(|call| call["call"] == "fallocate");
    assert_eq!(filled.expect("it failed")["pages_lacking"], json!([500, 500]));
}

#[test]
fn a_guessed_pool_agrees_with_a_file_that_was_not_filled() {
    // Sixteen pages reserved, of which four are there; then ten more than there can have been.
    let strace = "\
1 1.000001 execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0
1 1.000002 mmap(NULL, 33554432, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f0000000000
1 1.000003 memfd_create(\"f\", MFD_HUGETLB) = 3
1 1.000004 fallocate(3, 0, 0, 209715200) = -1 ENOSPC (No space left on device)
1 1.000005 munmap(0x7f0000000000, 33554432) = 0
";
    let report = report(strace, "", &[]);
    assert_all_as_recorded(&report);
    // Anything from 16 to 115 agrees: with 116 there would have been pages for all hundred.
    assert_eq!(pool(&report)[0], 16);
    assert_eq!(report["failed"][0]["pages_lacking"], json!([1, 100]));
    assert_eq!(report["failed"][0]["explained"], true);
}

#[test]
fn a_guessed_pool_agrees_with_a_segment_that_was_not_made_after_others() {
    let strace = "\
1 1.000001 execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0
1 1.000002 shmget(IPC_PRIVATE, 16777216, IPC_CREAT|SHM_HUGETLB|0600) = 7
1 1.000003 shmget(IPC_PRIVATE, 8388608000, IPC_CREAT|SHM_HUGETLB|0600) = -1 ENOMEM (Cannot allocate memory)
";
    let report = report(strace, "", &[]);
    assert_all_as_recorded(&report);
    assert_eq!(report["failed"][0]["pages_lacking"], json!([1, 4000]));
}

#[test]
fn directories_of_one_mount_are_named_once() {
    let strace = "\
1 1.000001 execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0
1 1.000002 openat(AT_FDCWD, \"/data/pages/a\", O_RDWR) = 3
1 1.000003 mmap(NULL, 4194304, PROT_READ, MAP_SHARED, 3, 0) = 0x7f0000000000
1 1.000004 openat(AT_FDCWD, \"/data/pages/below/b\", O_RDWR) = 4
1 1.000005 mmap(NULL, 4194304, PROT_READ, MAP_SHARED, 4, 0) = 0x7f0000400000
";
    let notes = report(strace, "", &[])["notes"].to_string();
    assert!(notes.contains("Line 3 and 1 more map files in /data/pages at"), "{notes}");
    assert_eq!(notes.matches("--hugetlbfs /data/pages").count(), 1, "{notes}");
}

#[test]
fn a_segment_that_could_not_be_attached_is_listed() {
    let strace = "\
1 1.000001 execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0
1 1.000002 shmget(IPC_PRIVATE, 8388608, IPC_CREAT|SHM_HUGETLB|0600) = 7
1 1.000003 shmat(7, 0x1000, 0) = -1 EINVAL (Invalid argument)
";
    let report = report(strace, "", &[]);
    let failed = &report["failed"][0];
    assert_eq!(json!([failed["line"], failed["call"], failed["pages"]]), json!([3, "shmat", 4]));
    assert!(failed["why"].as_str().is_some_and(|why| why.contains("the address is no multiple")), "{failed}");
}

#[test]
fn a_seal_may_cover_ordinary_mappings_too() {
    let strace = "\
1 1.000001 execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0
1 1.000002 mmap(0x10000000, 4194304, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x10000000
1 1.000003 mmap(0x10400000, 4096, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = 0x10400000
1 1.000004 mseal(0x10000000, 4198400, 0) = 0
1 1.000005 munmap(0x10000000, 4194304) = -1 EPERM (Operation not permitted)
";
    assert_all_as_recorded(&report(strace, "", &[]));
}

#[test]
fn processes_that_a_signal_killed_are_named_once_each() {
    let strace = "\
1 1.000001 execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0
1 1.000002 mmap(NULL, 2097152, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f0000000000
1 1.000003 clone(child_stack=0x1, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD) = 2
1 1.000004 clone(child_stack=NULL, flags=SIGCHLD) = 3
3 1.000005 +++ killed by SIGKILL +++
2 1.000006 +++ killed by SIGTERM +++
1 1.000007 +++ killed by SIGTERM +++
";
    let list = report(strace, "", &[])["killed"].clone();
    let killed = |line: u32, pid: u32, signal: &str| json!({"line": line, "pid": pid, "signal": signal});
    assert_eq!(list, json!([killed(5, 3, "SIGKILL"), killed(6, 1, "SIGTERM")]));
}

#[test]
fn a_packed_recording_that_breaks_off_is_read_as_far_as_it_goes() {
    let mut text = "1 1.000001 execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0\n".to_owned();
    for number in 0..2000u64 {
        let (at, start) = (number + 2, 0x7f00_0000_0000 + number * 0x137_0000 * 2);
        text += &format!(
            "1 1.{at:06} mmap(NULL, 2097152, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = {start:#x}\n"
        );
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(text.as_bytes()).expect("packed");
    let packed = packed.finish().expect("packed");
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("t.strace.gz");
    fs::write(&file, &packed[..packed.len() * 3 / 4]).expect("written");
    let report = json(&run(&["replay", &file.display().to_string(), "--format", "json"]));
    let made = report["mappings"].as_array().map_or(0, Vec::len);
    assert!((1000..2000).contains(&made), "{made}");
    let notes = report["notes"].as_array().expect("a list");
    let expected = format!("breaks off inside the packed data: the first {} lines", grouped(made + 1));
    assert!(
        notes.iter().any(|note| note.as_str().is_some_and(|note| note.contains(&expected))),
        "{notes:#?}"
    );
}

fn grouped(number: usize) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}
