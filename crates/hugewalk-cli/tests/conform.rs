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
    // Who runs the tests in the background has SIGINT ignored, and what is started by them keeps to that unless told otherwise.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_hugewalk"), "conform"]).args(arguments);
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
    let refused = [
        "only be changed by root",
        "has no huge pages",
        "others use",
        "another run is under way",
        "--privileged",
        "finds no memory for a huge page",
    ];
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
    assert_eq!(
        error,
        "hugewalk: --replay: step 2: unknown way to map `lenght=1p`, did you mean `length=`?\n"
    );
}

/// A copy of the command that others may run.
fn for_everybody() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("hugewalk-conform-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("there is room");
    let copy = folder.join("hugewalk");
    if !copy.exists() {
        fs::copy(env!("CARGO_BIN_EXE_hugewalk"), &copy).expect("there is room");
    }
    copy
}

/// Where it cannot be run, one line on standard error says so and what to do; nothing is printed, in no format.
#[test]
fn who_cannot_run_it_is_told_why_and_what_to_do() {
    let command = for_everybody();
    let command = command.display();
    let within = |before: &str| format!("unshare --mount sh -c '{before} && exec \"$@\"' -");
    let pools = "/sys/kernel/mm/hugepages";
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups".to_owned();
    let ruled = |capability: &str| format!("setpriv --bounding-set -{capability} --inh-caps -{capability}");
    for (how, why) in [
        (nobody, "the pool of huge pages can only be changed by root; run this as root"),
        (
            within(&format!("mount -t tmpfs none {pools}")),
            "this kernel has no huge pages of 2 MiB; boot one that was built with CONFIG_HUGETLBFS",
        ),
        (
            within(&format!("mount --bind {pools} {pools} && mount -o remount,bind,ro {pools}")),
            "the pool of huge pages cannot be changed where /sys is read-only; in a container, run this with --privileged",
        ),
        (
            ruled("sys_ptrace"),
            "root needs CAP_SYS_PTRACE for this, and does not have it here; in a container, run this with --privileged",
        ),
    ] {
        // Can this be brought about here at all?
        let possible = Command::new("sh").arg("-c").arg(format!("{how} true")).output();
        if !possible.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: {how}");
            continue;
        }
        for format in ["text", "json"] {
            let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            let run = format!("{how} {command} conform --programs 1 --format {format}");
            let output = Command::new("sh").arg("-c").arg(&run).output().expect("there is a shell");
            assert_eq!(String::from_utf8_lossy(&output.stderr), format!("hugewalk: {why}\n"), "{run}");
            assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]), "{run}");
        }
    }
    let _ = fs::remove_dir_all(for_everybody().parent().expect("it has one"));
}

/// A machine whose memory is in pieces, made up: the kernel is told of no surplus pages, so it has none, and its counter of pages
/// that could not be had rises. Without the counter it would be a difference like any other.
#[test]
fn what_the_kernel_has_no_memory_for_is_no_difference() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = pool();
    let Some(_) = on_kernel(&["--replay", PROGRAM]) else { return };
    let room = tempfile::tempdir().expect("there is room");
    let script = r#"
set -e
cd "$1"
echo 0 > overcommit
mount --bind overcommit /sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages
echo "htlb_buddy_alloc_fail 0" > vmstat
cp vmstat next
mount --bind vmstat /proc/vmstat
if [ "$2" = rises ]; then
    number=1
    while [ ! -e over ]; do printf 'htlb_buddy_alloc_fail %09d\n' $number > next; cat next 1<>vmstat; number=$((number + 1)); done &
fi
code=0
"$3" conform --replay "$4" || code=$?
touch over
wait
exit $code
"#;
    // Long enough for the counter to rise meanwhile.
    let program =
        format!("{}overcommit 2; p0 map fresh at=1g length=1p rights=rw fixed", "pool 0; ".repeat(2000));
    for (counter, code, said) in [
        (
            "rises",
            2,
            "hugewalk: the kernel finds no memory for a huge page in one piece, so nothing can be compared",
        ),
        ("stands", 1, "The sides do not agree."),
    ] {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", script, "-"]).arg(room.path());
        let output = unshare
            .args([counter, env!("CARGO_BIN_EXE_hugewalk"), &program])
            .output()
            .expect("there is a shell");
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if printed.contains("mount:") || printed.contains("unshare") {
            return eprintln!("skipped: {printed}");
        }
        assert!(output.status.code() == Some(code) && printed.contains(said), "{counter}: {printed}");
        let _ = fs::remove_file(room.path().join("over"));
    }
    assert_eq!(pool(), before);
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

/// Segments, mounts, files, private pages, children, handlers; and then enough to do for a signal to come in the middle of it.
fn busy(steps: usize) -> String {
    let built = "pool 12; overcommit 2; mount m0 size=4; open f0 m0; truncate f0 2p; open f1 segment=3p; open f2 memory; \
                 truncate f2 2p; p0 map f0+0 at=1g length=2p rights=rw shared fixed; p0 attach f1 2g; \
                 p0 map f2+0 at=3g length=2p rights=rw fixed; p0 store 1g 1; p0 store 2g 2; p0 store 2g+1p 2; p0 store 3g 3; \
                 p0 uffd open; p0 uffd register 1g 2p missing; p0 fork p1; p1 fork p2; p2 load 2g; p2 store 3g 4";
    format!("{built}{}", "; pool 12".repeat(steps))
}

/// Its pool has 12 pages, and 5 of them are used, once all of that is there.
const BUILT: (u64, u64) = (12, 12 - 5);

/// What is not of the run alone, and has to be as it was.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    pool: Option<[u64; 4]>,
    segments: String,
    mounts: usize,
}

fn machine() -> Machine {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Machine {
        pool: pool(),
        segments: fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default(),
        mounts: mounts.lines().count(),
    }
}

/// The processes that come from one, itself first: the command, the warden, the keeper, and those of the program.
fn family(of: u32) -> Vec<u32> {
    let mut all = vec![of];
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").expect("it is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name before may have blanks in it.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        parents.extend(parent.and_then(|parent| parent.parse::<u32>().ok()).map(|parent| (pid, parent)));
    }
    let mut at = 0;
    while at < all.len() {
        let parent = all[at];
        all.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    all
}

fn is_there(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

/// The first of them is there. When it has the signal, it may end the others before they get theirs.
fn signal(name: &str, to: &[u32]) {
    let mut kill = Command::new("kill");
    kill.arg("-s").arg(name).args(to.iter().map(u32::to_string));
    let output = kill.output().expect("there is kill");
    let complaints = String::from_utf8_lossy(&output.stderr);
    let gone =
        complaints.lines().all(|line| line.contains("No such process") && !line.contains(&to[0].to_string()));
    assert!(output.status.success() || gone, "{name} {to:?}: {complaints}");
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < patience, "{what}");
        sleep(Duration::from_millis(5));
    }
}

/// A run that is in the middle of its program, and its processes.
fn in_the_middle(steps: usize) -> (std::process::Child, Vec<u32>) {
    let run = conform(&["--replay", &busy(steps)]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let run = run.expect("it runs");
    wait_until("all is built", || pool().is_some_and(|[total, free, ..]| (total, free) == BUILT));
    let family = family(run.id());
    assert_eq!(family.len(), 6, "the command, the warden, the keeper, and three of the program");
    (run, family)
}

#[test]
fn whatever_ends_a_run_everything_is_as_it_was() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = machine();
    let Some(_) = on_kernel(&["--replay", PROGRAM]) else { return };
    // From a terminal, by hand, by who ends a session; then to all of its processes, as who ends a service does.
    for (name, all) in [
        ("INT", false),
        ("TERM", false),
        ("HUP", false),
        ("KILL", false),
        ("INT", true),
        ("TERM", true),
        ("HUP", true),
    ] {
        let (mut run, family) = in_the_middle(12_000);
        signal(name, if all { &family } else { &family[..1] });
        run.wait().expect("it has ended");
        wait_until("all is as it was", || machine() == before && !family.iter().any(|&pid| is_there(pid)));
    }
}

#[test]
fn a_run_whose_warden_is_killed_puts_the_pool_back_itself() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = machine();
    let Some(_) = on_kernel(&["--replay", PROGRAM]) else { return };
    // It finds out at the end.
    let (mut run, family) = in_the_middle(1000);
    signal("KILL", &family[1..2]);
    assert_eq!(run.wait().expect("it has ended").code(), Some(2));
    wait_until("all is as it was", || machine() == before && !family.iter().any(|&pid| is_there(pid)));
}

#[test]
fn a_run_that_is_killed_with_its_warden_is_cleaned_up_after_by_the_next() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // This one cleans up after whatever was killed before.
    let Some(_) = on_kernel(&["--replay", PROGRAM]) else { return };
    let before = machine();
    let (_, report) = on_kernel(&["--replay", PROGRAM]).expect("nobody else runs");
    assert!(!report.contains("killed"), "{report}");
    for set_since in [false, true] {
        let (mut run, family) = in_the_middle(12_000);
        // The warden first, for it would notice that the other has gone.
        signal("KILL", &[family[1], family[0]]);
        run.wait().expect("it has ended");
        wait_until("all have gone", || !family.iter().any(|&pid| is_there(pid)));
        // The kernel gives segments up a little later than the processes that had them.
        wait_until("all pages are free", || pool().is_some_and(|[total, free, ..]| total == free));
        assert_eq!(pool().map(|[total, ..]| total), Some(12));
        let nr = format!("{POOL}/nr_hugepages");
        if set_since {
            fs::write(&nr, "3").expect("root may");
        }
        let (code, report) = on_kernel(&["--replay", PROGRAM]).expect("nobody else runs");
        let said = if set_since {
            "It had 3 pages; it was 0 before, somebody has set it since, and it stays as it is.\n"
        } else {
            "It had 12 pages; it has been put back to 0.\n"
        };
        let said = said.replace("0", &before.pool.map_or(0, |[total, ..]| total).to_string());
        assert!(code == 0 && report.contains(&said), "{report}");
        if set_since {
            assert_eq!(pool().map(|[total, ..]| total), Some(3));
            fs::write(&nr, before.pool.map_or(0, |[total, ..]| total).to_string()).expect("root may");
            let overcommit = before.pool.map_or(0, |[.., overcommit]| overcommit);
            fs::write(format!("{POOL}/nr_overcommit_hugepages"), overcommit.to_string()).expect("root may");
        }
        assert_eq!(machine(), before);
    }
}
