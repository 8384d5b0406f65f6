//! `hugewalk run`: what passes through, what is said when nothing can, and the exit statuses.
//!
//! What the command makes of each thing a kernel can say is shown by a script in QEMU's place; the last tests boot the real
//! one where QEMU and a C compiler are installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

/// A directory with a program that passes for a static one, and something that passes for a kernel.
struct Stage {
    directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { directory: TempDir::new().expect("a directory") };
        let mut program = vec![0; 64];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (program[16], program[18]) = (2, 62);
        fs::write(stage.path("program"), program).expect("written");
        fs::write(stage.path("kernel"), "").expect("written");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A script in QEMU's place: `$out`, `$err` and `$report` are the numbers of the channels.
    fn qemu(&self, body: &str) {
        let script = format!(
            "#!/bin/bash\nfor each; do case $each in\n\
             socket,id=out,fd=*) out=${{each##*=}} ;; socket,id=err,fd=*) err=${{each##*=}} ;;\n\
             socket,id=report,fd=*) report=${{each##*=}} ;; esac; done\n\
             say() {{ printf '%s\\n' \"$@\" >&\"$report\"; }}\n{body}\n"
        );
        fs::write(self.path("qemu"), script).expect("written");
        fs::set_permissions(self.path("qemu"), fs::Permissions::from_mode(0o755)).expect("executable");
    }

    fn run(&self, options: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hugewalk"));
        command.current_dir(&self.directory).arg("run").args(["--qemu", "./qemu", "--kernel", "kernel"]);
        command.args(options).stdin(Stdio::null()).output().expect("it ran")
    }
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("text")
}

/// The one line of a complaint, and the exit status.
fn complaint(output: &Output) -> (Option<i32>, &str) {
    assert_eq!(text(&output.stdout), "");
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    (output.status.code(), error.trim_end())
}

#[test]
fn output_errors_report_and_status_go_where_they_belong() {
    let stage = Stage::new();
    stage.qemu(
        "printf 'to out' >&$out; printf 'to err\\n' >&$err\n\
         say 'hugewalk-kernel 1' user 'count faults 3' 'exit 7' end",
    );
    let output = stage.run(&["program"]);
    assert_eq!(text(&output.stdout), "to out");
    let error = text(&output.stderr);
    assert!(error.starts_with("to err\nhugewalk: exit 7 after "), "{error}");
    assert!(error.trim_end().ends_with("3 faults"), "{error}");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_signal_and_the_report_for_programs() {
    let stage = Stage::new();
    stage.qemu("say 'hugewalk-kernel 1' user 'trace 1 0.5 getpid() = 1' 'missing 2 getcpu' 'signal 11' end");
    let output = stage.run(&["--report", "json", "program"]);
    assert_eq!(output.status.code(), Some(128 + 11));
    let (trace, json) = text(&output.stderr).split_once('\n').expect("two lines");
    assert_eq!(trace, "1 0.5 getpid() = 1");
    let report: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(report["signal"], 11);
    assert_eq!(report["missing"][0]["name"], "getcpu");
    let silent = stage.run(&["--report", "none", "program"]);
    assert_eq!(text(&silent.stderr), "1 0.5 getpid() = 1\n");
}

#[test]
fn each_way_to_come_to_nothing_has_its_line_and_its_status() {
    let cases = [
        (
            "say 'hugewalk-kernel 1' 'refused unknown setting speed'; exit 1",
            125,
            "hugewalk: unknown setting speed",
        ),
        (
            "say 'hugewalk-kernel 1' user 'panic a lock is held twice'; exit 1",
            125,
            "hugewalk: the kernel failed: a lock is held twice",
        ),
        ("say 'hugewalk-kernel 1' user", 125, "hugewalk: the kernel ended without a word: "),
        ("say 'hugewalk-kernel 1' user 'exit 0'", 125, "hugewalk: the kernel ended without a word: "),
        ("say 'hugewalk-kernel 9' end", 125, "hugewalk: the kernel speaks version 9 of the report"),
        ("say 'hugewalk-kernel 1' 'brand new' 'exit 0' end", 125, "hugewalk: the kernel said `brand new`"),
        (
            "echo 'no such machine' >&2; exit 1",
            125,
            "hugewalk: QEMU ended before the kernel had started: no such machine",
        ),
        ("sleep 1000", 124, "hugewalk: program: still running after 0.2 s; "),
    ];
    let stage = Stage::new();
    for (body, status, begin) in cases {
        // What the shell would start is in its place, so that ending it ends everything.
        stage.qemu(&body.replace("sleep", "exec sleep"));
        let output = stage.run(&["--timeout", if status == 124 { "0.2" } else { "60" }, "program"]);
        let (code, line) = complaint(&output);
        assert_eq!(code, Some(status), "{body}: {line}");
        assert!(line.starts_with(begin), "{body}: {line}");
    }
}

#[test]
fn a_panic_shows_its_backtrace_and_a_leak_fails_the_run_after_its_report() {
    let stage = Stage::new();
    stage.qemu("say 'hugewalk-kernel 1' user 'panic oh' 'at one' 'at two'");
    let output = stage.run(&["program"]);
    assert_eq!(text(&output.stderr), "hugewalk: the kernel failed: oh\n  at one\n  at two\n");
    stage.qemu("say 'hugewalk-kernel 1' user 'leak 3 tables' 'exit 0' end");
    let output = stage.run(&["program"]);
    assert_eq!(output.status.code(), Some(125));
    let lines: Vec<&str> = text(&output.stderr).lines().collect();
    assert!(lines[0].starts_with("hugewalk: exit 0 after"), "{lines:?}");
    assert_eq!(lines.last(), Some(&"hugewalk: the kernel leaks: 3 tables"));
}

#[test]
fn what_cannot_be_booted_is_named_before_anything_is_started() {
    let stage = Stage::new();
    stage.qemu("exit 3");
    fs::write(stage.path("script"), "#!/bin/sh\n").expect("written");
    fs::copy("/proc/self/exe", stage.path("dynamic")).expect("copied");
    let cases: [(&[&str], i32, &str); 13] = [
        (&["missing"], 125, "hugewalk: missing: cannot be read: "),
        (&["script"], 125, "hugewalk: script: is a script; "),
        (&["kernel"], 125, "hugewalk: kernel: is not an ELF executable; "),
        (&["dynamic"], 125, "hugewalk: dynamic: is linked dynamically and wants /lib"),
        (&["--file", "nothing=/x", "program"], 125, "hugewalk: nothing: cannot be read: "),
        (&["--file", "kernel=../x", "program"], 125, "hugewalk: ../x: a path in the guest has no `..`"),
        (&["--memory", "512M", "program"], 2, "hugewalk: --memory 512M does not hold a pool of 256 pages"),
        (&["--env", "x", "program"], 2, "hugewalk: invalid value 'x' for '--env"),
        (&["--protocol", "ipi", "program"], 2, "hugewalk: no protocol is called `ipi`"),
        (&["--protocol", "rfc", "program"], 2, "hugewalk: this kernel cannot follow rfc: "),
        (&["--without", "hold-vma", "program"], 2, "hugewalk: --without hold-vma: "),
        (
            &["--protocol", "vma-lock", "--without", "revalidate", "program"],
            2,
            "hugewalk: vma-lock has no step",
        ),
        (&["--cpus", "0", "program"], 2, "hugewalk: invalid value '0' for '--cpus"),
    ];
    for (options, status, begin) in cases {
        let output = stage.run(options);
        let (code, line) = complaint(&output);
        assert_eq!(code, Some(status), "{options:?}: {line}");
        assert!(line.starts_with(begin), "{options:?}: {line}");
    }
    fs::remove_file(stage.path("qemu")).expect("removed");
    let output = stage.run(&["program"]);
    assert!(complaint(&output).1.starts_with("hugewalk: ./qemu: not found; install QEMU"));
    assert_eq!(output.status.code(), Some(125));
    let output = stage.run(&["--kernel", "nowhere", "program"]);
    assert!(text(&output.stderr).contains("--kernel"), "named twice, or not there");
}

/// Compiles a program of the checkout, and runs it in the checkout's kernel with these options. None, and one line, if there
/// is no QEMU or no compiler.
fn in_guest(stage: &Stage, source: &str, options: &[&str]) -> Option<Output> {
    in_guest_with(stage, source, options, &[])
}

/// As [`in_guest`], with arguments for the program.
fn in_guest_with(stage: &Stage, source: &str, options: &[&str], arguments: &[&str]) -> Option<Output> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = stage.path(Path::new(source).file_stem().expect("a name").to_str().expect("text"));
    let mut gcc = Command::new("gcc");
    gcc.args(["-static", "-O2", "-w", "-o"]).arg(&program).arg(root.join(source));
    for (tool, mut probe) in [("gcc with a static libc", gcc), ("QEMU", qemu_version())] {
        if !probe.output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: there is no {tool}");
            return None;
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_hugewalk"));
    // The kernel is found from the checkout, whatever the working directory is.
    command.current_dir(&root).arg("run").args(options).arg(&program).args(arguments);
    Some(command.stdin(Stdio::null()).output().expect("it ran"))
}

/// The program of examples/guest, in the kernel of this checkout, booted in QEMU.
#[test]
fn two_processes_share_a_table_of_the_engines_under_a_real_mmu() {
    let stage = Stage::new();
    let source = "examples/guest/sharing.c";
    let Some(output) = in_guest(&stage, source, &["--pool", "8", "--report", "json"]) else { return };
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    let counts: Vec<&str> =
        text(&output.stdout).lines().filter_map(|line| line.split_once(": ")?.1.split(' ').next()).collect();
    assert_eq!(counts, ["8", "0", "8", "0", "8"]);
    let report: Value = serde_json::from_str(error.lines().last().expect("a line")).expect("JSON");
    assert_eq!(report["shared"], serde_json::json!([{ "tables": 1, "users": 2 }]));
    assert_eq!((&report["counts"]["shares"], &report["counts"]["unshares"]), (&1.into(), &1.into()));

    let refused = in_guest(&stage, source, &["--without", "breakfast"]).expect("as before");
    let (code, line) = complaint(&refused);
    assert_eq!(code, Some(2));
    assert!(line.contains("breakfast"), "{line}");
}

/// Runs a program of the checkout with options and arguments.
type Runs = fn(&str, &[&str], &[&str]) -> Option<Output>;

fn on_x86_64(source: &str, options: &[&str], arguments: &[&str]) -> Option<Output> {
    in_guest_with(&Stage::new(), source, options, arguments)
}

fn json_report(output: &Output) -> Value {
    serde_json::from_str(text(&output.stderr).lines().last().expect("a line")).expect("JSON")
}

#[test]
fn a_flush_that_is_left_out_is_named_and_counted() {
    names_a_flush_that_is_left_out(on_x86_64);
}

#[test]
fn on_arm64_too_a_flush_that_is_left_out_is_named_and_counted() {
    names_a_flush_that_is_left_out(on_arm64);
}

fn names_a_flush_that_is_left_out(runs: Runs) {
    let source = "examples/guest/stale.c";
    let Some(output) = runs(source, &["--pool", "4", "--report", "json"], &[]) else { return };
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "dropped; the other processor reads 0: as it should\n");

    // Whether the other processor keeps its translation is its own business; that it was not told is not.
    let options = ["--pool", "4", "--report", "json", "--without", "flush"];
    let report = json_report(&runs(source, &options, &[]).expect("as before"));
    assert!(report["counts"]["not_told"].as_u64() >= Some(1), "{report}");
    let stale = report["stale"][0].as_str().unwrap_or_default();
    assert!(stale.contains("the step `flush` is missing"), "{report}");
}

#[test]
fn the_broadcasts_of_a_protocol_are_sent_and_counted() {
    sends_broadcasts(on_x86_64);
}

/// There too, though flushes need none: an interrupt is what lockless walkers are waited for by.
#[test]
fn on_arm64_too_the_broadcasts_of_a_protocol_are_sent_and_counted() {
    sends_broadcasts(on_arm64);
}

fn sends_broadcasts(runs: Runs) {
    let source = "examples/guest/forks.c";
    let broadcasts = |protocol: &str| {
        let options = ["--cpus", "3", "--pool", "8", "--report", "json", "--protocol", protocol];
        let output = runs(source, &options, &["5", "together"])?;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let report = json_report(&output);
        assert_eq!(report["protocol"]["name"], protocol);
        assert_eq!(
            (&report["protocol"]["ipi_each"], &report["protocol"]["ipi_last"]),
            (&5.into(), &1.into())
        );
        // Each goes to the two other processors.
        let sent = &report["protocol"]["broadcasts"];
        assert_eq!(
            report["counts"]["interrupts_broadcast"],
            2 * sent.as_u64().expect("a number"),
            "{report}"
        );
        sent.as_u64()
    };
    let Some(own) = broadcasts("hugewalk") else { return };
    assert_eq!((own, broadcasts("ipi-each"), broadcasts("ipi-last")), (0, Some(5), Some(1)));
}

/// The VMA lock is what keeps the table of a fault from being unshared.
#[test]
fn a_store_to_a_table_that_was_freed_is_counted() {
    stores_late(on_x86_64);
}

#[test]
fn on_arm64_too_a_store_to_a_table_that_was_freed_is_counted() {
    stores_late(on_arm64);
}

fn stores_late(runs: Runs) {
    let late_stores = |protocol| {
        let options = ["--pool", "128", "--report", "json", "--protocol", protocol];
        let output = runs("examples/guest/late.c", &options, &[])?;
        // What is lost with a late store is no leak of the kernel's.
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
        json_report(&output)["counts"]["late_stores"].as_u64()
    };
    let Some(with_lock) = late_stores("vma-lock") else { return };
    let without = late_stores("legacy");
    assert!(with_lock == 0 && without >= Some(1), "with the lock {with_lock}, without {without:?}");
}

#[test]
fn processes_that_share_unshare_fork_and_exit_at_once_read_nothing_wrong() {
    let stage = Stage::new();
    let source = "examples/guest/stress.c";
    let arguments = ["--cpus", "4", "--report", "json"];
    let Some(output) = in_guest_with(&stage, source, &arguments, &["3", "3"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let report: Value =
        serde_json::from_str(text(&output.stderr).lines().last().expect("a line")).expect("JSON");
    assert_eq!(report["counts"]["shares"], report["counts"]["unshares"], "{report}");
}

/// What the programs of tests/guest check holds on Linux; they name each check that fails.
#[test]
fn the_kernels_files_are_as_a_program_expects() {
    passes("files.c");
}

#[test]
fn missing_base_pages_are_handled_by_a_userfaultfd() {
    passes("faults.c");
}

#[test]
fn a_debugger_sees_stops_registers_and_memory_and_locks_survive_their_owners() {
    passes("traces.c");
}

#[test]
fn a_process_that_waits_for_a_handler_ends_at_once_when_it_is_killed() {
    passes("killed.c");
}

#[test]
fn users_have_their_own_files_and_segments_and_threads_their_processors() {
    passes("users.c");
}

#[test]
fn orphans_groups_sessions_and_limits_are_as_a_program_expects() {
    passes("family.c");
}

#[test]
fn states_of_threads_and_mounts_in_use_are_told_as_a_program_expects() {
    passes("states.c");
}

#[test]
fn mapped_files_are_called_by_their_paths_and_keep_their_mounts_busy() {
    passes("names.c");
}

#[test]
fn calls_at_the_edges_of_huge_pages_do_and_refuse_what_linux_does() {
    passes("calls.c");
}

#[test]
fn a_stack_grows_where_it_was_unmapped_and_not_over_huge_pages() {
    passes("stack.c");
}

/// The same calls each time, but for how threads and processes come in between. `ci/full.sh` has others.
#[test]
fn random_system_calls_neither_stop_the_kernel_nor_make_it_keep_anything() {
    let stage = Stage::new();
    let source = "crates/hugewalk-cli/tests/guest/random_calls.c";
    let options = ["--pool", "100", "--memory", "1G", "--timeout", "600", "--report", "json"];
    let Some(output) = in_guest_with(&stage, source, &options, &["range", "1", "16"]) else { return };
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{}{said}", text(&output.stdout));
    // What was called is whatever the kernel knows and does not know.
    let report: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    assert!(report["counts"]["calls"].as_u64() > Some(100), "{report}");
}

/// Also where the host is busy while the guest starts: then a clock that was set wrongly showed.
#[test]
fn the_guests_clock_is_not_ahead_of_the_hosts() {
    let stage = Stage::new();
    for _ in 0..5 {
        let begin = Instant::now();
        let options = ["--pool", "8", "--report", "json"];
        let Some(output) = in_guest(&stage, "examples/guest/sharing.c", &options) else { return };
        let report: Value =
            serde_json::from_str(text(&output.stderr).lines().last().expect("a line")).expect("JSON");
        let guest = report["counts"]["nanoseconds"].as_u64().expect("a number");
        assert!(u128::from(guest) < begin.elapsed().as_nanos(), "{report}");
    }
}

fn passes(program: &str) {
    let stage = Stage::new();
    let source = format!("crates/hugewalk-cli/tests/guest/{program}");
    let Some(output) = in_guest(&stage, &source, &["--pool", "16"]) else { return };
    assert_eq!(text(&output.stdout), "0 checks failed\n", "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// As [`on_x86_64`], for arm64. None, and one line, also where the kernel cannot be built for it.
fn on_arm64(source: &str, options: &[&str], arguments: &[&str]) -> Option<Output> {
    let stage = Stage::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Named as its source is: it looks at its command line.
    let program = stage.path(Path::new(source).file_stem().and_then(|name| name.to_str()).expect("a name"));
    let mut gcc = Command::new("aarch64-linux-gnu-gcc");
    gcc.args(["-static", "-O2", "-w", "-o"]).arg(&program).arg(root.join(source));
    let mut qemu = Command::new("qemu-system-aarch64");
    qemu.arg("--version");
    for (tool, mut probe) in [("aarch64-linux-gnu-gcc", gcc), ("QEMU for arm64", qemu)] {
        if !probe.output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: there is no {tool}");
            return None;
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_hugewalk"));
    command.current_dir(&root).args(["run", "--arch", "arm64"]).args(options).arg(&program).args(arguments);
    let output = command.stdin(Stdio::null()).output().expect("it ran");
    if text(&output.stderr).contains("cannot be built for arm64") {
        eprintln!("skipped: {}", text(&output.stderr).trim_end());
        return None;
    }
    Some(output)
}

/// Its flushes reach all processors by themselves, so none is interrupted for one.
#[test]
fn on_arm64_too_two_processes_share_a_table() {
    let Some(output) = on_arm64("examples/guest/sharing.c", &["--pool", "8", "--report", "json"], &[]) else {
        return;
    };
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    let counts: Vec<&str> =
        text(&output.stdout).lines().filter_map(|line| line.split_once(": ")?.1.split(' ').next()).collect();
    assert_eq!(counts, ["8", "0", "8", "0", "8"]);
    let report: Value = serde_json::from_str(error.lines().last().expect("a line")).expect("JSON");
    assert_eq!(report["shared"], serde_json::json!([{ "tables": 1, "users": 2 }]));
    assert_eq!(report["counts"]["interrupts_flush"], 0);
}

#[test]
fn on_arm64_registers_pages_of_groups_files_and_debuggers_are_as_a_program_expects() {
    for program in ["registers", "contiguous", "files", "traces", "names", "calls"] {
        let source = format!("crates/hugewalk-cli/tests/guest/{program}.c");
        let Some(output) = on_arm64(&source, &["--pool", "16"], &[]) else { return };
        assert_eq!(text(&output.stdout), "0 checks failed\n", "{program}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{program}: {}", text(&output.stderr));
    }
}

fn qemu_version() -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.arg("--version");
    command
}

#[test]
fn the_settings_say_what_was_asked_for() {
    let stage = Stage::new();
    // The archive's first member is the settings; QEMU's arguments go to standard output.
    stage.qemu(
        "while [ \"$1\" != -initrd ]; do printf '%s ' \"$1\" >&$out; shift; done; tr '\\0' '\\n' <\"$2\" >&$out\n\
         say 'hugewalk-kernel 1' user 'exit 0' end",
    );
    let options = [
        "--cpus",
        "4",
        "--pool",
        "600",
        "--overcommit",
        "5",
        "--env",
        "A=b c",
        "--cwd",
        "/work",
        "--without",
        "flush",
        "--protocol",
        "ipi-each",
        "--trace",
        "--file",
        "kernel=data",
        "program",
        "-x",
        "two words",
    ];
    let output = stage.run(&options);
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stdout);
    assert!(said.contains(" -smp 4 -m "), "{said}");
    let lines: Vec<&str> = said.lines().skip_while(|line| *line != "format=1").collect();
    let settings = [
        "format=1",
        "program=/program",
        "arg=program",
        "arg=-x",
        "arg=two words",
        "env=A=b c",
        "cwd=/work",
        "pool=600",
        "overcommit=5",
        "trace=1",
        "protocol=ipi-each",
        "walkers=vma",
        "broadcast=each",
        "without=revalidate",
        "without=confirm-parent",
        "without=confirm-generation",
        "without=bump-generation",
        "without=flush",
    ];
    assert_eq!(lines[..settings.len()], settings);
    assert!(lines.iter().any(|line| line.ends_with("work/data")), "a relative path counts from --cwd");
}
