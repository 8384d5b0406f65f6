//! An input that cannot be used gives one line on standard error, nothing on standard output, and exit code 2.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use assert_cmd::Command;
use tempfile::TempDir;

const GOOD: &str = "7 5.1 munmap(0x1000, 4096) = 0\n7 5.2 +++ exited with 0 +++\n";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/traces").join(name)
}

/// Runs a replay of `strace` with `others` (option, file name, contents), and gives back the one line of its complaint.
fn complaint(strace: &[u8], others: &[(&str, &str, &str)]) -> String {
    let directory = TempDir::new().expect("a directory");
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    command.current_dir(&directory).args(["replay", "t.strace"]);
    fs::write(directory.path().join("t.strace"), strace).expect("written");
    for (option, name, contents) in others {
        fs::write(directory.path().join(name), contents).expect("written");
        command.args([option, name]);
    }
    let output = command.output().expect("it ran");
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(output.stdout.is_empty());
    assert_eq!(error.lines().count(), 1, "{error}");
    error.trim_end().to_owned()
}

#[test]
fn every_kind_of_damage_to_a_trace_is_named_with_its_line() {
    let cases = [
        ("", "t.strace: holds no events; record again"),
        (
            "7 5.1 munmap(0x1000, 40",
            "t.strace:1: the call is cut off: `munmap(0x1000, 40`; the line is damaged",
        ),
        ("7 5.1 munmap(0x1000, 4096)\n", "t.strace:1: the call is cut off"),
        (
            "7 5.1 getpid() = 7\n7 5.2 munmap(0x1000, x) = 0\n",
            "t.strace:2: munmap: argument 2 (length) is `x`",
        ),
        ("7 5.1 munmap(0x1000) = 0\n", "t.strace:1: munmap: argument 2 (length) is missing"),
        ("7 5.1 munmap(0x1000, 4096) = ok\n", "t.strace:1: result of munmap is `ok`"),
        (
            "7 5.1 brk(0) = 0\n7 munmap(0x1000, 4096) = 0\n7 5.2 brk(0) = 0\n",
            "t.strace:2: no time at `munmap(0x1000, 4096) = 0`; the other lines have one",
        ),
        (
            "7 5.1 munmap(0x1000, 40\n7 5.2 brk(0) = 0\n",
            "t.strace:1: the call is cut off: `munmap(0x1000, 40`",
        ),
        (
            "% time     seconds  usecs/call     calls    errors syscall\n------ -----------\n100.00 0.1 1 1 mmap\n",
            "t.strace: holds counts of calls only, as strace -c prints them; record without -c",
        ),
        (
            "7 5.1 userfaultfd(O_CLOEXEC) = 3\n7 5.2 ioctl(3, UFFDIO_COPY, {dst=0x1000, src=0x1000, mode=0}) = 0\n",
            "t.strace:2: ioctl: argument 3 (range) is `{dst=0x1000, src=0x1000, mode=0}`",
        ),
        (
            "7 5.1 ioctl(3, UFFDIO_WAKE, {start=here, len=0x1000}) = 0\n",
            "t.strace:1: ioctl: argument 3 (range) is `{start=here, len=0x1000}`",
        ),
        (
            "7 5.1 ioctl(3, UFFDIO_API, {api=0xaa}) = 0\n",
            "t.strace:1: ioctl: argument 3 (features) is `{api=0xaa}`",
        ),
        ("7 5.1 ioctl(3, UFFDIO_REGISTER) = 0\n", "t.strace:1: ioctl: argument 3 (structure) is missing"),
        ("7 5.1 userfaultfd() = 3\n", "t.strace:1: userfaultfd: argument 1 (flags) is missing"),
        (
            "7 5.1 process_vm_readv(9, [{iov_base=\"\", iov_len=8}], 1, [{iov_base=0x1000}], 1, 0) = 8\n",
            "t.strace:1: process_vm_readv: argument 4 (ranges) is `[{iov_base=0x1000}]`",
        ),
        (
            "7 5.1 process_vm_writev(x, [], 0, [], 0, 0) = 0\n",
            "t.strace:1: process_vm_writev: argument 1 (process) is `x`",
        ),
        ("7 5.1 hello\n", "t.strace:1: not a line of strace: `hello`"),
        (
            "7 5.1 brk(0 <unfinished ...>\n7 5.2 getpid() = 7\n",
            "t.strace:2: task 7 goes on, but its brk of line 1",
        ),
        (
            "7 5.1 getpid() = 7\n7 5.2 <... brk resumed>) = 0\n",
            "t.strace:2: brk of task 7 resumes, but did not begin",
        ),
        ("7 5.1 +++ exited wi", "t.strace:1: the call is cut off"),
    ];
    for (text, expected) in cases {
        let line = complaint(text.as_bytes(), &[]);
        assert!(line.starts_with(&format!("hugewalk: {expected}")), "{line}");
        assert!(line.contains("; "), "it says what to do: {line}");
    }
    let line = complaint(b"7 5.1 getpid() = 7\n\0\xfe\n", &[]);
    assert!(line.starts_with("hugewalk: t.strace:2: is not text"), "{line}");
    for (bytes, what) in [
        (&b"PERFILE2\x68\0"[..], "is perf's own recording (perf.data); print it with perf script"),
        (b"\xfd7zXZ\0\0", "is packed by xz; unpack it first"),
        (b"\x1f\x8b\x08\0\0", "cannot be unpacked: "),
    ] {
        let line = complaint(bytes, &[]);
        assert!(line.starts_with(&format!("hugewalk: t.strace: {what}")), "{line}");
    }
}

/// Records of so many pages would take all memory of this machine.
#[test]
fn mappings_that_no_machine_has_the_memory_for_are_refused_at_once() {
    let damaged = "7 5.1 mmap(NULL, 0x7fffffffffff, PROT_READ, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f2000000000\n";
    let said = complaint(damaged.as_bytes(), &[]);
    assert_eq!(
        said,
        "hugewalk: the mappings need 128 TiB of huge pages, and no machine has more than 64 TiB; say with --pool how many there were"
    );
}

#[test]
fn of_a_recording_cut_inside_a_line_all_but_the_last_line_is_taken() {
    let whole = fs::read_to_string(example("selftest-mremap.strace")).expect("the example");
    let text = whole.trim_end();
    let last = text.rfind('\n').expect("lines") + 1;
    for end in last + 25..text.len() {
        let directory = TempDir::new().expect("a directory");
        fs::write(directory.path().join("t.strace"), &text.as_bytes()[..end]).expect("written");
        let output = Command::cargo_bin("hugewalk")
            .expect("the command")
            .current_dir(&directory)
            .args(["replay", "t.strace"])
            .output()
            .expect("it ran");
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(0), "{end}");
        assert!(text.contains("The last line (33) is cut off and was left out"), "{text}");
    }
}

#[test]
fn damage_to_a_fault_file_is_named_with_its_line() {
    for bad in
        ["7/7 5.1 page-faults: 10", "7/7 5.1: page-faults:", "7/7 5.1: page-faults: zz", "\u{1}PERFILE2"]
    {
        let faults = format!("7/7 5.1: page-faults: 1000\n{bad}\n");
        let line = complaint(GOOD.as_bytes(), &[("--faults", "f.faults", &faults)]);
        assert!(line.starts_with("hugewalk: f.faults:2: not a fault: `"), "{line}");
    }
}

#[test]
fn damage_to_a_truth_file_is_named_with_its_line() {
    let whole = fs::read_to_string(example("postgres.truth.json")).expect("the example");
    let cases = [
        ("", "truth.json:1: EOF while parsing a value"),
        ("{\n \"at\": 5\n}", "truth.json:2: invalid type: integer `5`"),
        ("{\n \"at\": \"noon\",\n}", "truth.json:2: `at` is \"noon\", not a time"),
        ("{\n}", "truth.json:2: missing field `at`"),
        (&whole[..whole.len() / 2], "truth.json:"),
    ];
    for (text, expected) in cases {
        let line = complaint(GOOD.as_bytes(), &[("--truth", "truth.json", text)]);
        assert!(line.starts_with(&format!("hugewalk: {expected}")), "{line}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = Command::cargo_bin("hugewalk")
        .expect("the command")
        .args(["replay", "/nowhere/x"])
        .output()
        .expect("it ran");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).expect("text");
    assert!(error.starts_with("hugewalk: /nowhere/x: cannot be read: "), "{error}");
    assert_eq!(error.lines().count(), 1);
}

/// Runs the command in a directory with a good recording, its faults and a truth; gives back what it printed, and its complaint.
fn ran(directory: &TempDir, arguments: &[&OsStr], input: &[u8]) -> (Option<i32>, String, String) {
    for (name, contents) in [("t.strace", GOOD), ("t.faults", ""), ("t.truth", "{}")] {
        fs::write(directory.path().join(name), contents).expect("written");
    }
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    let output = command.current_dir(directory).args(arguments).write_stdin(input).output().expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn words(line: &str) -> Vec<&OsStr> {
    line.split(' ').map(OsStr::new).collect()
}

#[test]
fn a_page_does_not_take_the_place_of_what_it_is_made_of() {
    let directory = TempDir::new().expect("a directory");
    std::os::unix::fs::symlink("t.strace", directory.path().join("link")).expect("a link");
    let replay = "replay t.strace --faults t.faults --truth t.truth --html";
    for (page, other) in [
        ("t.strace", "the recording"),
        ("link", "the recording"),
        ("../T/t.strace", "the recording"),
        ("t.faults", "--faults"),
        ("t.truth", "--truth"),
    ] {
        let name = directory.path().file_name().and_then(OsStr::to_str).expect("a name");
        let page = page.replace('T', name);
        let said = ran(&directory, &words(&format!("{replay} {page}")), b"");
        let expected =
            format!("hugewalk: {page}: --html and {other} would be the same file; give each its own\n");
        assert_eq!(said, (Some(2), String::new(), expected));
        assert_eq!(fs::read_to_string(directory.path().join("t.strace")).expect("there"), GOOD);
    }
}

#[test]
fn a_page_of_a_replay_goes_to_standard_output_too() {
    let directory = TempDir::new().expect("a directory");
    let (status, page, _) = ran(&directory, &words("replay t.strace --html -"), b"");
    assert_eq!(status, Some(0));
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"), "{page}");
    assert!(!directory.path().join("-").exists());
}

#[test]
fn standard_input_is_read_for_one_thing() {
    let directory = TempDir::new().expect("a directory");
    for (line, expected) in [
        ("replay - --faults -", "-: standard input holds the calls already; give the faults as a file"),
        ("check merge - -", "-: standard input is one checkpoint; name the others by their files"),
        ("check status - x -", "-: standard input is one checkpoint; name the others by their files"),
    ] {
        let expected = format!("hugewalk: {expected}\n");
        assert_eq!(ran(&directory, &words(line), GOOD.as_bytes()), (Some(2), String::new(), expected));
    }
}

#[test]
fn programs_may_have_names_and_arguments_that_are_no_text() {
    let directory = TempDir::new().expect("a directory");
    let program = OsStr::from_bytes(b"a\xffb");
    let record = [OsStr::new("record"), OsStr::new("--"), program];
    let expected = "hugewalk: a\u{fffd}b: there is no such program in PATH; check the name\n".to_owned();
    assert_eq!(ran(&directory, &record, b""), (Some(2), String::new(), expected));
    let explain = [OsStr::new("explain"), program];
    let expected = "hugewalk: argument 2 (`a\u{fffd}b`) is no text in UTF-8; name it otherwise\n".to_owned();
    assert_eq!(ran(&directory, &explain, b""), (Some(2), String::new(), expected));
}

#[test]
fn the_status_tells_where_nobody_can_read_what_is_wrong() {
    for arguments in [&["explain", "nothing"][..], &["explain"], &["replay", "nothing"]] {
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hugewalk"));
        let status = command.args(arguments).stdin(Stdio::null()).stderr(full).status().expect("it ran");
        assert_eq!(status.code(), Some(2), "{arguments:?}");
    }
}
