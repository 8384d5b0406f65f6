//! Recordings in every form that strace gives them, and programs whose files, names and threads have to be followed: see
//! `inputs/README.md` for what is right, and `recordings/README.md` for the kernel's own figures.

mod common;

use std::fs;
use std::path::Path;

use common::{Ran, assert_all_as_recorded, json, pool, run};
use serde_json::Value;

fn file(directory: &str, name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory).join(name).display().to_string()
}

/// Replays an input, with its faults if there are any.
fn input_ran(name: &str, options: &[&str]) -> Ran {
    let (strace, faults) =
        (file("inputs", &format!("{name}.strace")), file("inputs", &format!("{name}.faults")));
    let faults = if Path::new(&faults).exists() { vec!["--faults", &faults] } else { Vec::new() };
    run(&[&["replay", &strace], &faults[..], options].concat())
}

fn input(name: &str, options: &[&str]) -> Value {
    let ran = input_ran(name, &[options, &["--format", "json"]].concat());
    assert_eq!(ran.code, Some(0), "{name}");
    json(&ran)
}

/// Replays a recording beside what the kernel said.
fn beside_the_kernel(name: &str, truth: &str) -> Value {
    let of = |ending: &str| file("recordings", &format!("{name}.{ending}"));
    let (strace, faults, truth) = (of("strace.gz"), of("faults.gz"), of(truth));
    json(&run(&["replay", &strace, "--faults", &faults, "--truth", &truth, "--format", "json"]))
}

fn notes(report: &Value) -> String {
    let list = report["notes"].as_array().expect("a list");
    list.iter().map(|note| note.as_str().expect("words")).collect::<Vec<_>>().join("\n")
}

fn ranges(report: &Value) -> Vec<String> {
    let list = report["mappings"].as_array().expect("a list");
    list.iter().map(|mapping| mapping["range"].as_str().expect("words").to_owned()).collect()
}

#[track_caller]
fn assert_figures(report: &Value, all: usize, differing: u64) {
    assert_eq!(report["truth"]["figures"].as_array().map(Vec::len), Some(all));
    assert_eq!(report["truth"]["differing"], differing, "{:#}", report["truth"]["figures"]);
}

#[test]
fn real_programs_have_the_figures_of_the_kernel() {
    for (name, truth, figures) in [
        // Its mount is in no usual place, but the kernel lists its mappings.
        ("dpdk", "truth.json", 1206),
        // The memory of a virtual machine, handed to another process by a message that is not recorded.
        ("qemu", "truth.json", 10),
        ("scm", "truth.json", 10),
    ] {
        let report = beside_the_kernel(name, truth);
        assert_all_as_recorded(&report);
        assert_figures(&report, figures, 0);
    }
}

#[test]
fn a_mount_that_nobody_told_of_is_named() {
    let dpdk = beside_the_kernel("dpdk", "truth.json");
    assert!(notes(&dpdk).contains("--hugetlbfs /srv/rec/ht"), "{}", notes(&dpdk));
    let strace = file("recordings", "dpdk.strace.gz");
    let alone = json(&run(&["replay", &strace, "--format", "json"]));
    assert_eq!(ranges(&alone), [""; 0]);
    assert!(notes(&alone).contains("with --hugetlbfs /srv/rec/ht:"), "{}", notes(&alone));

    let one = input("13-default-1g", &[]);
    assert_eq!(ranges(&one), [""; 0]);
    assert!(notes(&one).contains("say so with --hugetlbfs /dev/hugepages1G:1G"), "{}", notes(&one));
    let told = input("13-default-1g", &["--hugetlbfs", "/dev/hugepages1G:1G"]);
    assert_all_as_recorded(&told);
    assert_eq!(ranges(&told), ["7f1000000000-7f1100000000"]);
    assert_eq!(told["mappings"][0]["page_kb"], 1 << 20);
}

#[test]
fn lines_without_threads_and_times_are_read_in_their_order() {
    let raw = input("01-dodump-raw", &[]);
    assert_eq!(raw["recording"]["clock"], "none");
    // Linux refused this for huge pages once, and does so no more.
    assert_eq!(raw["differences"].as_array().map(Vec::len), Some(1));
    assert_eq!(raw["differences"][0]["recorded"], "EINVAL");
    assert_eq!(raw["differences"][0]["replayed"], "0");
    let dpdk = input("04-dpdk-l2fwd-raw", &[]);
    assert_all_as_recorded(&dpdk);
    assert_eq!((ranges(&dpdk), pool(&dpdk)), (vec!["100200000-100400000".to_owned()], [1, 1, 0]));
    let unmap = input("07-munmap-einval-raw", &[]);
    assert_all_as_recorded(&unmap);
    assert_eq!((&unmap["recording"]["calls"], pool(&unmap)), (&Value::from(2), [54, 54, 54]));
    let text = input_ran("07-munmap-einval-raw", &[]).text;
    assert!(text.contains("at times that are not recorded"), "{text}");
}

#[test]
fn relative_times_are_added_up() {
    let report = input("20b-relative-r-pid", &[]);
    assert_all_as_recorded(&report);
    assert_eq!(report["recording"]["clock"], "relative");
    assert_eq!(report["recording"]["until"], "0.314196000");
    // 1 GiB is mapped at the end, its pages gone.
    assert_eq!(report["processes"][0]["mappings"][0]["range"], "7f2000000000-7f2040000000");
    assert_eq!(report["processes"][0]["mappings"][0]["private_hugetlb_kb"], 0);
}

#[test]
fn every_option_of_strace_may_be_used() {
    for (name, calls, at_the_end) in [
        ("21-Xraw", 3, [2, 1, 1]),
        ("21-Xverbose", 4, [3, 2, 2]),
        ("21-Ypid", 1, [1, 1, 1]),
        ("21-csum", 1, [1, 1, 1]),
        ("21-i", 1, [1, 1, 1]),
    ] {
        let report = input(name, &[]);
        assert_all_as_recorded(&report);
        assert_eq!(report["recording"]["calls"], calls, "{name}");
        assert_eq!(pool(&report), at_the_end, "{name}");
    }
}

#[test]
fn one_program_is_the_same_in_every_form() {
    let what = |report: &Value| {
        let mappings = report["mappings"].as_array().expect("a list");
        let of = |mapping: &Value| {
            (mapping["range"].clone(), mapping["processes"].clone(), mapping["backing"].clone())
        };
        let processes = report["recording"]["processes"].clone();
        (
            processes,
            report["recording"]["calls"].clone(),
            mappings.iter().map(of).collect::<Vec<_>>(),
            pool(report),
        )
    };
    let plain = input("forms-f-ttt", &[]);
    assert_all_as_recorded(&plain);
    assert_eq!(ranges(&plain).len(), 3);
    assert_eq!((&plain["recording"]["processes"], notes(&plain).as_str()), (&Value::from(2), ""));
    for (name, clock) in [
        ("forms-all-options", "of-day"),
        ("forms-output-in-between", "none"),
        ("forms-Y-i-n-T", "none"),
        ("forms-r-tt", "of-day"),
        ("forms-X-raw", "none"),
        ("forms-ff-joined", "real-time"),
    ] {
        let report = input(name, &[]);
        assert_all_as_recorded(&report);
        assert_eq!(what(&report), what(&plain), "{name}");
        assert_eq!(report["recording"]["clock"], clock, "{name}");
    }
    for (name, said) in [
        ("forms-ff-joined", "they are taken for files of strace -ff"),
        ("forms-ff-joined-without-times", "it is not known in which order"),
        ("forms-without-f", "of which nothing is recorded"),
    ] {
        let notes = notes(&input(name, &[]));
        assert!(notes.contains(said), "{name}: {notes}");
    }
}

#[test]
fn what_is_packed_or_comes_on_standard_input_is_read() {
    use std::io::Write;
    let plain = fs::read(file("inputs", "forms-f-ttt.strace")).expect("the input");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&plain).expect("packed");
    for bytes in [plain.clone(), packed.finish().expect("packed")] {
        let output = assert_cmd::Command::cargo_bin("hugewalk")
            .expect("the command")
            .args(["replay", "-", "--format", "json"])
            .write_stdin(bytes)
            .output()
            .expect("it ran");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(ranges(&report).len(), 3);
    }
}

#[test]
fn faults_go_between_calls_by_their_times_or_not_at_all() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let faults = directory.path().join("f.faults");
    let refused = |strace: &str, text: &str| {
        fs::write(&faults, text).expect("written");
        let output = assert_cmd::Command::cargo_bin("hugewalk")
            .expect("the command")
            .args(["replay", &file("inputs", strace), "--faults", &faults.display().to_string()])
            .output()
            .expect("it ran");
        assert_eq!(output.status.code(), Some(2), "{strace}");
        String::from_utf8(output.stderr).expect("text")
    };
    let one = "77/77 1795340000.000150000: page-faults: 7f2000000000\n";
    for (strace, said) in [
        ("01-dodump-raw.strace", "the faults cannot be put between calls without times"),
        ("20b-relative-r-pid.strace", "the faults cannot be put between calls with relative times (-r)"),
    ] {
        let line = refused(strace, one);
        assert!(line.contains(&format!("f.faults: {said}; record with strace -f -ttt")), "{line}");
    }
    let line = refused("21-i.strace", "77/77 1234.5: page-faults: 7f2000000000\n");
    assert!(
        line.contains("f.faults: the faults are of 1234.5") && line.contains("-k CLOCK_REALTIME"),
        "{line}"
    );

    fs::write(&faults, "").expect("written");
    let empty = input("21-i", &["--faults", &faults.display().to_string()]);
    assert!(notes(&empty).contains("f.faults holds no page faults"), "{}", notes(&empty));

    // Of times of day the hour does not matter.
    let strace = directory.path().join("t.strace");
    let text = "7 23:59:59.900000 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f0000000000\n\
                7 00:00:00.100000 munmap(0x7f0000000000, 2097152) = 0\n";
    fs::write(&strace, text).expect("written");
    let at = |nanos: u32| 1_795_935_600_000_000_000_u64 - 100_000_000 + u64::from(nanos);
    let line = |nanos: u32, address: &str| {
        let time = at(nanos);
        format!("7/7 {}.{:09}: page-faults: {address}\n", time / 1_000_000_000, time % 1_000_000_000)
    };
    fs::write(&faults, line(1000, "7f0000000000") + &line(150_000_000, "7f0000200000")).expect("written");
    let (strace, faults) = (strace.display().to_string(), faults.display().to_string());
    let report = json(&run(&["replay", &strace, "--faults", &faults, "--format", "json"]));
    assert_eq!(report["recording"]["huge_faults"], 2, "{report:#}");
    assert_eq!(pool(&report), [2, 0, 0]);
}

#[test]
fn accesses_that_end_with_a_signal_are_compared_as_that() {
    for (name, faults) in [("09-fork-truncate", 6), ("17-hwpoison", 3)] {
        let report = input(name, &[]);
        assert_all_as_recorded(&report);
        assert_eq!(report["recording"]["huge_faults"], faults, "{name}");
    }
    let limited = input("11-cgroup-sigbus", &[]);
    assert_eq!(limited["differences"].as_array().map(Vec::len), Some(1));
    assert_eq!(limited["differences"][0]["recorded"], "SIGBUS");
    let replayed = limited["differences"][0]["replayed"].as_str().expect("words");
    assert!(replayed.contains("control groups") && replayed.contains("not modelled"), "{replayed}");
}

#[test]
fn a_segment_that_was_made_before_is_named() {
    let report = input("06c-shm-reader-modern", &[]);
    let notes = notes(&report);
    for said in
        ["Line 3 attaches segment 0 (key 0x20999c1), which was made before", "Line 5 attaches segment 32769"]
    {
        assert!(notes.contains(said), "{notes}");
    }
}

#[test]
fn a_segment_lives_on_while_it_is_attached() {
    let report = input("rmid", &["--pool", "900"]);
    assert_all_as_recorded(&report);
    assert_eq!(pool(&report), [900, 900, 0], "its process is killed in the end");
    let attached = input("rmid", &["--pool", "900", "--until", "8"]);
    assert_all_as_recorded(&attached);
    assert_eq!(pool(&attached), [900, 900, 512], "one segment, attached twice");
}

#[test]
fn names_are_followed_through_directories_and_renames() {
    let directories = input("27-ofp", &[]);
    assert_all_as_recorded(&directories);
    let expected = ["7fcaa0000000-7fcaa0200000", "7fcaa0400000-7fcaa0600000", "7fcaa0800000-7fcaa0a00000"];
    assert_eq!(ranges(&directories), expected);
    assert_eq!(pool(&directories), [2, 2, 2], "the last two are of one file");
    let renamed = input("28-rename", &[]);
    assert_all_as_recorded(&renamed);
    assert_eq!(pool(&renamed), [512, 0, 0]);
    assert_eq!(renamed["tables"]["pages_faulted"], 512, "the other process reaches them without faults");
}

#[test]
fn threads_that_strace_joined_are_one_process() {
    let real = input("attached-sigbus", &["--pool", "0"]);
    assert_all_as_recorded(&real);
    assert_eq!(
        (&real["recording"]["processes"], &real["recording"]["huge_faults"]),
        (&Value::from(1), &Value::from(3))
    );

    let report = input("30-attach-threads", &[]);
    assert_all_as_recorded(&report);
    assert_eq!(report["recording"]["processes"], 1);
    assert_eq!(report["recording"]["other_faults"], 0);
    assert_eq!(report["processes"][0]["pid"], 8000);
    assert_eq!(report["processes"][0]["hugetlb_pages_kb"], 2048);
}

#[test]
fn a_descriptor_that_came_from_another_process_is_of_the_same_file() {
    for name in ["passed-fd", "recvpath"] {
        let report = input(name, &[]);
        assert_all_as_recorded(&report);
        assert_eq!(report["pools"][0]["total"], 512, "{name}: one file");
        assert_eq!(ranges(&report), ["600000000000-600040000000"; 2], "{name}");
        assert_eq!(notes(&report), "", "{name}");
    }
}

#[test]
fn a_recording_that_began_late_says_so() {
    let report = json(&run(&["replay", &file("recordings", "pgatt.strace.gz"), "--format", "json"]));
    assert_eq!(ranges(&report), [""; 0]);
    assert!(notes(&report).contains("The recording began when 1570 already ran"), "{}", notes(&report));
}

/// A recording of a few lines, with microseconds in front of each call.
fn lines(calls: &[(u32, &str)]) -> String {
    (1..).zip(calls).map(|(at, (tid, call))| format!("{tid} 1795340000.{at:06} {call}\n")).collect()
}

/// A fault that concerns nobody.
const ELSEWHERE: &str = "10/10 1795340000.000001500: page-faults: 1000\n";

const MAP: &str =
    "mmap(0x600000000000, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_FIXED, 7, 0) = 0x600000000000";

#[test]
fn a_descriptor_is_followed_wherever_it_goes() {
    let start = [
        (10, "execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0"),
        (10, "memfd_create(\"ram\", MFD_HUGETLB) = 5"),
        (10, "ftruncate(5, 4194304) = 0"),
        (10, "clone(child_stack=NULL, flags=SIGCHLD) = 11"),
        (11, "close(5) = 0"),
    ];
    for way in [
        &[(11, "openat(AT_FDCWD, \"/proc/10/fd/5\", O_RDWR) = 7")][..],
        &[(11, "chdir(\"/proc/10/fd\") = 0"), (11, "openat(AT_FDCWD, \"5\", O_RDWR|O_CLOEXEC) = 7")],
        &[(11, "pidfd_open(10, 0) = 3"), (11, "pidfd_getfd(3, 5, 0) = 7")],
        &[
            (
                10,
                "sendmsg(3, {msg_name=NULL, msg_control=[{cmsg_len=20, cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, cmsg_data=[5]}], msg_controllen=24, msg_flags=0}, 0) = 1",
            ),
            (
                11,
                "recvmsg(4, {msg_name=NULL, msg_control=[{cmsg_len=20, cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, cmsg_data=[6]}], msg_controllen=24, msg_flags=0}, 0) = 1",
            ),
            (11, "fcntl(6, 0x406, 7) = 7"),
        ],
    ] {
        let all = [&start[..], way, &[(11, MAP)]].concat();
        let report = common::report(&lines(&all), ELSEWHERE, &[]);
        assert_all_as_recorded(&report);
        assert_eq!((ranges(&report).len(), pool(&report)), (1, [2, 2, 2]), "{way:?}");
        assert_eq!(notes(&report), "", "{way:?}");
    }
    let unseen = common::report(&lines(&[start[0], (10, MAP)]), ELSEWHERE, &[]);
    assert!(notes(&unseen).contains("Line 2 maps descriptor 7 at a multiple of 2 MiB"), "{}", notes(&unseen));
}

#[test]
fn the_type_of_a_file_system_is_told_by_statfs() {
    let open = [
        (10, "execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0"),
        (10, "openat(AT_FDCWD, \"/srv/x/a\", O_RDWR|O_CREAT, 0600) = 7"),
    ];
    for told in [
        "statfs(\"/srv/x\", {f_type=HUGETLBFS_MAGIC, f_bsize=2097152, f_blocks=0}) = 0",
        "statfs(\"/srv/x/a\", {f_type=0x958458f6, f_bsize=0x200000, f_blocks=0}) = 0",
        "fstatfs(7, {f_type=HUGETLBFS_MAGIC, f_bsize=2097152, f_blocks=0}) = 0",
    ] {
        let report = common::report(&lines(&[open[0], open[1], (10, MAP), (10, told)]), ELSEWHERE, &[]);
        assert_all_as_recorded(&report);
        assert_eq!((ranges(&report).len(), notes(&report).as_str()), (1, ""), "{told}");
    }
    let large = "statfs(\"/srv/x\", {f_type=HUGETLBFS_MAGIC, f_bsize=1073741824, f_blocks=0}) = 0";
    let map = MAP.replace("4194304", "1073741824");
    let report = common::report(&lines(&[open[0], (10, large), open[1], (10, &map)]), ELSEWHERE, &[]);
    assert_eq!(report["mappings"][0]["page_kb"], 1 << 20);
    let plain = "statfs(\"/srv/x\", {f_type=EXT2_SUPER_MAGIC, f_bsize=4096, f_blocks=0}) = 0";
    let report = common::report(&lines(&[open[0], (10, plain), open[1], (10, MAP)]), ELSEWHERE, &[]);
    assert!(
        ranges(&report).is_empty() && notes(&report).contains("--hugetlbfs /srv/x:"),
        "{}",
        notes(&report)
    );
}

#[test]
fn files_without_names_and_names_without_files_are_kept_apart() {
    let report = common::report(
        &lines(&[
            (10, "execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0"),
            (10, "openat(AT_FDCWD, \"/dev/hugepages\", O_RDWR|O_TMPFILE, 0600) = 6"),
            (10, "ftruncate(6, 2097152) = 0"),
            (10, "openat(AT_FDCWD, \"/dev/hugepages\", O_RDWR|O_TMPFILE, 0600) = 7"),
            (10, "ftruncate(7, 4194304) = 0"),
            (10, MAP),
            (
                10,
                "mmap(0x610000000000, 2097152, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_FIXED, 6, 0) = 0x610000000000",
            ),
            (
                10,
                "linkat(AT_FDCWD, \"/proc/self/fd/7\", AT_FDCWD, \"/dev/hugepages/x\", AT_SYMLINK_FOLLOW) = 0",
            ),
        ]),
        ELSEWHERE,
        &[],
    );
    assert_all_as_recorded(&report);
    assert_eq!(pool(&report), [3, 3, 3]);
}

#[test]
fn a_call_without_a_result_is_named() {
    let report = common::report(
        &lines(&[
            (10, "execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0"),
            (10, "memfd_create(\"ram\", MFD_HUGETLB) = 7"),
            (10, MAP),
            (10, "munmap(0x600000000000, 2097152) = ?"),
            (
                10,
                "mmap(NULL, 4194304, PROT_READ, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0 <unfinished ...>",
            ),
        ]),
        ELSEWHERE,
        &[],
    );
    let notes = notes(&report);
    for said in ["how munmap on line 4 ended", "how mmap on line 5 ended"] {
        assert!(notes.contains(said), "{notes}");
    }
}

#[test]
fn mappings_are_sealed_also_by_number() {
    let report = common::report(
        &lines(&[
            (10, "execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0"),
            (10, "memfd_create(\"ram\", MFD_HUGETLB) = 7"),
            (10, MAP),
            (10, "syscall_0x1ce(0x600000000000, 0x200000, 0, 0, 0x7f2b9a5a9740, 0) = 0"),
            (10, "mprotect(0x600000000000, 2097152, PROT_READ) = -1 EPERM (Operation not permitted)"),
            (10, "mprotect(0x600000200000, 2097152, PROT_READ) = 0"),
        ]),
        ELSEWHERE,
        &[],
    );
    assert_all_as_recorded(&report);
    assert_eq!(report["recording"]["calls"], 4);
}
