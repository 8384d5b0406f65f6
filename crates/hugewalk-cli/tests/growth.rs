//! Long recordings: time and memory grow with their length, and not with its square.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// How the mappings of a recording follow each other.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// One memory file, mapped and unmapped again and again at the same addresses.
    InTurn,
    /// The same, a GiB each, at many places of their gigabytes.
    Large,
    /// All are there at once, in a process of their own for every 10,000.
    Together,
    /// A file for each.
    Files,
}

/// A recording with so many mappings, and four lines for each.
fn recording(shape: Shape, mappings: u64) -> String {
    const PAGE: u64 = 2 << 20;
    let mut text = String::new();
    let mut at = 1_000_000_u64;
    let mut line = |pid: u64, call: &str| {
        at += 1;
        writeln!(text, "{pid} 1795340{:03}.{:06} {call}", at / 1_000_000, at % 1_000_000).expect("a line");
    };
    let mmap = |length: u64, offset: u64, at: u64| {
        format!("mmap(NULL, {length}, PROT_READ|PROT_WRITE, MAP_SHARED, 3, {offset}) = {at:#x}")
    };
    line(100, "execve(\"./t\", [\"./t\"], 0x7ff0 /* 1 vars */) = 0");
    if !matches!(shape, Shape::Files) {
        line(100, "memfd_create(\"heap\", MFD_HUGETLB) = 3");
        line(100, "ftruncate(3, 1073741824) = 0");
    }
    let apart = |number: u64| 0x1000_0000_0000 + number * 2 * PAGE;
    for number in 0..mappings {
        match shape {
            Shape::InTurn | Shape::Large => {
                let (length, start, offset) = match shape {
                    Shape::Large => (1 << 30, 0x1000_0000_0000 + number % 64 * PAGE, 0),
                    _ => (PAGE, apart(number % 1000), number % 512 * PAGE),
                };
                line(100, &mmap(length, offset, start));
                line(100, &format!("madvise({start:#x}, {PAGE}, MADV_POPULATE_WRITE) = 0"));
                line(100, &format!("mprotect({start:#x}, {PAGE}, PROT_READ) = 0"));
                line(100, &format!("munmap({start:#x}, {length}) = 0"));
            }
            Shape::Together => {
                let (pid, own) = (200 + number / 10_000, number % 10_000);
                if own == 0 {
                    line(100, &format!("clone(child_stack=NULL, flags=SIGCHLD) = {pid}"));
                }
                line(pid, &mmap(PAGE, own % 512 * PAGE, apart(own)));
                line(pid, &format!("madvise({:#x}, {PAGE}, MADV_POPULATE_WRITE) = 0", apart(own)));
            }
            Shape::Files => {
                line(
                    100,
                    &format!("openat(AT_FDCWD, \"/dev/hugepages/{number}\", O_RDWR|O_CREAT, 0600) = 3"),
                );
                line(100, &mmap(PAGE, 0, apart(number)));
                line(100, "close(3) = 0");
                line(100, &format!("madvise({:#x}, {PAGE}, MADV_POPULATE_WRITE) = 0", apart(number)));
            }
        }
    }
    if let Shape::Together = shape {
        for number in 0..mappings {
            let (pid, own) = (200 + number / 10_000, number % 10_000);
            line(pid, &format!("mprotect({:#x}, {PAGE}, PROT_READ) = 0", apart(own)));
            line(pid, &format!("munmap({:#x}, {PAGE}) = 0", apart(own)));
        }
    }
    text
}

/// The processor time that a replay takes.
fn replayed(text: &str) -> Duration {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("t.strace").display().to_string();
    fs::write(&file, text).expect("written");
    let command = Path::new(env!("CARGO_BIN_EXE_hugewalk"));
    let (taken, report) = processor_time(command, &["replay", &file, "--format", "json"]);
    let report: Value = serde_json::from_slice(&report).expect("a report");
    assert_eq!(report["differences"], Value::Array(Vec::new()));
    taken
}

#[test]
fn four_times_the_mappings_take_about_four_times_as_long() {
    for shape in [Shape::InTurn, Shape::Large, Shape::Together, Shape::Files] {
        let times = [500, 2000].map(|mappings| {
            let text = recording(shape, mappings);
            // What else runs disturbs the caches.
            (0..3).map(|_| replayed(&text)).min().expect("three times")
        });
        // Sixteen times, were it by their square.
        assert!(times[1] < times[0] * 9, "{shape:?}: {times:?}");
    }
}

/// The processor time that a command takes, and its output. Time on the clock would be that of what else runs here, too.
fn processor_time(command: &Path, arguments: &[&str]) -> (Duration, Vec<u8>) {
    // `times` prints what the shell has taken, and below it what its children have.
    let script = "\"$0\" \"$@\" && times >&2";
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", script]).arg(command).args(arguments).output().expect("a shell");
    let text = String::from_utf8(output.stderr).expect("text");
    let children = text.lines().last().expect("the children's line");
    let seconds = |span: &str| -> Option<f64> {
        let (minutes, seconds) = span.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let taken = children.split(' ').map(|span| seconds(span).expect("a time")).sum();
    (Duration::from_secs_f64(taken), output.stdout)
}

/// The goal is one for optimised code: ci/release.sh runs it.
#[cfg(not(debug_assertions))]
#[test]
fn a_million_lines_with_250_000_mappings_take_ten_seconds_and_a_gibibyte() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("t.strace").display().to_string();
    // A file of its own for each takes more: the cache of a file's pages is made for many.
    for shape in [Shape::InTurn, Shape::Large, Shape::Together] {
        let text = recording(shape, 250_000);
        assert!(text.lines().count() >= 1_000_000);
        fs::write(&file, text).expect("written");
        let command = Path::new(env!("CARGO_BIN_EXE_hugewalk"));
        let (taken, report) = processor_time(command, &["replay", &file, "--format", "json"]);
        let report: Value = serde_json::from_slice(&report).expect("a report");
        assert_eq!(report["differences"], Value::Array(Vec::new()));
        let memory = report["rate"]["peak_memory_kb"].as_u64().expect("a number");
        println!("{shape:?}: {taken:?}, {} MiB", memory >> 10);
        assert!(taken < Duration::from_secs(10) && memory <= 1 << 20, "{shape:?}: {taken:?}, {memory} kB");
    }
}
