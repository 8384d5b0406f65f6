//! `hugewalk conform`: what it says of bad input, and, where the kernel's pool may be taken over, what it does.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// There is one pool, and one run on it at a time.
static TAKEN: Mutex<()> = Mutex::new(());

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Something mapped, forked, stored, and given up again.
const PROGRAM: &str = "pool 4; open f0 memory; truncate f0 2p; p0 map f0+0 at=1g length=2p rights=rw shared fixed; \
                       p0 store 1g 7; p0 fork p1; p1 load 1g; p1 store 1g+1p 8; p0 load 1g+1p; p0 load 1g+2p";

fn conform(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hugewalk"));
    command.arg("conform").args(arguments);
    command
}

fn pool() -> Option<[u64; 4]> {
    let number = |name: &str| fs::read_to_string(format!("{POOL}/{name}")).ok()?.trim().parse().ok();
    let names = ["nr_hugepages", "free_hugepages", "resv_hugepages", "nr_overcommit_hugepages"];
    let [total, free, reserved, overcommit] = names.map(number);
    Some([total?, free?, reserved?, overcommit?])
}

/// Runs it if the kernel lets it; says so otherwise. Its exit code and what it printed.
fn on_kernel(arguments: &[&str]) -> Option<(i32, String)> {
    let output = conform(arguments).output().expect("it ran");
    let error = String::from_utf8(output.stderr).expect("text");
    let code = output.status.code().expect("it ended by itself");
    let refused = ["only be changed by root", "has no huge pages", "others use", "another run is under way"];
    if code == 2 && refused.iter().any(|reason| error.contains(reason)) {
        assert_eq!(error.lines().count(), 1, "{error}");
        eprintln!("skipped: {}", error.trim_end());
        return None;
    }
    assert_eq!(error, "");
    Some((code, String::from_utf8(output.stdout).expect("text")))
}

#[test]
fn a_program_that_cannot_be_read_is_named_with_its_step() {
    let output = conform(&["--replay", "pool 3; p0 map f0 at=1g lenght=1p"]).output().expect("it ran");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(error, "hugewalk: --replay: step 2: lenght=1p: no such way to map\n");
}

#[test]
fn both_sides_agree_on_a_small_program_and_the_pool_is_put_back() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = pool();
    let Some((code, report)) = on_kernel(&["--replay", PROGRAM]) else { return };
    assert_eq!(code, 0, "{report}");
    assert!(report.contains("SIGSEGV SEGV_MAPERR at 1g+2p"), "{report}");
    assert!(report.ends_with("The sides agree.\n"), "{report}");
    assert_eq!(pool(), before);
}

#[test]
fn the_report_for_programs_has_each_step_on_both_sides() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((code, report)) = on_kernel(&["--replay", PROGRAM, "--format", "json"]) else { return };
    assert_eq!(code, 0, "{report}");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["schema"], "hugewalk-conform-1");
    let loaded = &report["steps"][6];
    assert_eq!(
        (&loaded["step"], &loaded["kernel"], &loaded["engine"]),
        (&"p1 load 1g".into(), &"7".into(), &"7".into())
    );
}

#[test]
fn a_run_that_is_killed_leaves_the_pool_as_it_was() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = pool();
    let Some(_) = on_kernel(&["--replay", PROGRAM]) else { return };
    let mut run = conform(&["--programs", "1000000", "--seed", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let patience = Instant::now() + Duration::from_secs(20);
    while pool() == before && Instant::now() < patience {
        sleep(Duration::from_millis(5));
    }
    run.kill().expect("it was running");
    run.wait().expect("it has ended");
    while pool() != before && Instant::now() < patience {
        sleep(Duration::from_millis(5));
    }
    assert_eq!(pool(), before);
}
