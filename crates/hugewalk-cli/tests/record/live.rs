//! Programs recorded on the running kernel. Each needs root, huge pages, strace, perf and the program; where one of them is
//! missing, the test says so and is skipped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// The pool is one at a time's.
static TAKEN: Mutex<()> = Mutex::new(());

/// A pool of so many pages, as long as this lives.
struct Pool(u64);

impl Pool {
    /// Or why there is none.
    fn of(pages: u64) -> Result<Self, String> {
        let counter = |name: &str| -> Option<u64> {
            fs::read_to_string(format!("{POOL}/{name}")).ok()?.trim().parse().ok()
        };
        let before = counter("nr_hugepages").ok_or("skipped: needs a kernel with huge pages of 2 MiB")?;
        if counter("free_hugepages") != Some(before) || counter("resv_hugepages") != Some(0) {
            return Err("skipped: others use huge pages, and every page is counted; end them".to_owned());
        }
        let pool = Self(before);
        for _ in 0..5 {
            // What ran before may have left the memory in pieces: the kernel puts together what it can, and more each time.
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
            let needs_root = |_| format!("skipped: needs root, for a pool of {pages} huge pages");
            fs::write(format!("{POOL}/nr_hugepages"), pages.to_string()).map_err(needs_root)?;
            if counter("nr_hugepages") >= Some(pages) {
                break;
            }
        }
        match counter("nr_hugepages") {
            Some(had) if had < pages => Err(format!(
                "skipped: the kernel finds memory for {had} huge pages in one piece each, and {pages} are needed"
            )),
            _ => Ok(pool),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(format!("{POOL}/nr_hugepages"), self.0.to_string());
    }
}

/// Where a program is, also where a distribution keeps those of PostgreSQL.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let postgres = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let directories = std::env::split_paths(&path).chain(postgres.map(|version| version.path().join("bin")));
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// What is missing of it, if anything; or what may not be done here.
fn missing(programs: &[&str]) -> Option<String> {
    let all = ["strace", "perf"].iter().chain(programs);
    let missing: Vec<&str> = all.copied().filter(|name| program(name).is_none()).collect();
    if !missing.is_empty() {
        return Some(missing.join(", "));
    }
    let works = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let output = Command::new(words[0]).args(&words[1..]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let probes = [
        "strace -f -o /dev/null true",
        "perf record -q -k CLOCK_REALTIME -e page-faults -o /dev/null -- true",
    ];
    probes
        .into_iter()
        .find(|probe| !works(probe))
        .map(|probe| format!("a machine on which this works: {probe}"))
}

/// A shell that runs a script for at most ten minutes, in a directory that other users may enter.
fn shell(directory: &Path, script: &str) -> Command {
    let script =
        format!("set -e\ncd {}\nBIN={}\n{script}", directory.display(), cargo_bin("hugewalk").display());
    fs::write(directory.join("script"), script).expect("written");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=9", "600", "sh", "script"]).current_dir(directory);
    command
}

/// Records a script, in which `$RECORD` is the process that records.
fn record(directory: &Path, script: &str) {
    // What `exec` replaces keeps its number.
    let outer = "export RECORD=$$; exec \"$@\"";
    let inner = shell(directory, script);
    let status = Command::new("sh")
        .args(["-c", outer, "sh"])
        .arg(cargo_bin("hugewalk"))
        .args(["record", "-o", "recording", "--"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(directory)
        .status()
        .expect("it ran");
    assert!(status.success(), "{status}");
}

/// Replays it up to a truth, which all figures have to equal, and returns the report.
fn replayed(directory: &Path, truth: &str) -> Value {
    let output = Command::new(cargo_bin("hugewalk"))
        .args(["replay", "recording", "--format", "json", "--truth", &format!("recording/{truth}")])
        .current_dir(directory)
        .output()
        .expect("it ran");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{:#}", report["truth"]);
    assert_eq!(report["truth"]["equal"], true);
    assert_eq!(report["differences"], Value::Array(Vec::new()));
    report
}

/// Has perf lost faults of this recording? Then nobody knows what a replay has to come to.
fn is_lossy(directory: &Path) -> bool {
    let description = fs::read_to_string(directory.join("recording/recording.json")).expect("recorded");
    let is_lossy = description.contains("perf lost");
    if is_lossy {
        println!("skipped: this machine was too busy for perf to write down all faults");
    }
    is_lossy
}

fn figures(report: &Value) -> usize {
    report["truth"]["figures"].as_array().expect("a list").len()
}

fn room() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("open to others");
    directory
}

/// The script that starts PostgreSQL with 2,200 MB of shared buffers in `pg`, and fills a database.
fn database() -> String {
    let bin = program("initdb").expect("found").canonicalize().expect("there");
    format!(
        r#"PATH={}:$PATH
mkdir pg; chown postgres pg
as() {{ setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }}
as initdb -D pg/data -A trust > /dev/null
as postgres -D pg/data -c huge_pages=on -c shared_memory_type=mmap -c shared_buffers=2200MB \
    -c listen_addresses= -c autovacuum=off -k "$PWD/pg" > pg/log 2>&1 &
started=$!
until psql -h "$PWD/pg" -U postgres -d postgres -c 'select 1' > /dev/null 2>&1; do
    kill -0 $started; sleep 0.1
done
pgbench -h "$PWD/pg" -U postgres -i -q postgres > /dev/null 2>&1
server=$(head -1 pg/data/postmaster.pid)
"#,
        bin.parent().expect("a directory").display()
    )
}

/// A pool for [`database`], or why there is none.
fn pool_for_a_database() -> Result<Pool, String> {
    let has_user = fs::read_to_string("/etc/passwd").is_ok_and(|users| users.contains("postgres:"));
    if let Some(missing) = missing(&["postgres", "initdb", "pgbench", "psql", "setpriv"]) {
        return Err(format!("skipped: needs {missing}"));
    }
    if !has_user {
        return Err("skipped: needs the user postgres".to_owned());
    }
    Pool::of(1300)
}

#[test]
fn a_database_is_recorded_and_its_replay_has_the_kernels_figures() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let _pool = match pool_for_a_database() {
        Ok(pool) => pool,
        Err(skipped) => return println!("{skipped}"),
    };
    let directory = room();
    let script = database()
        + r#"
pgbench -h "$PWD/pg" -U postgres -c 4 -T 600 postgres > /dev/null 2>&1 &
clients=$!
# Once each client has a process of the server's, and has worked for a moment: the one that asks has one too.
until [ "$(psql -h "$PWD/pg" -U postgres -d postgres -Atc "select count(*) from pg_stat_activity where backend_type = 'client backend'")" -ge 5 ]; do
    kill -0 $clients; sleep 0.1
done
sleep 1
kill -USR1 $RECORD
until [ -e .hugewalk-record*/truth-1.json ]; do kill -0 $RECORD; sleep 0.1; done
kill $clients; wait $clients || true
kill -INT $server
wait $started
"#;
    record(directory.path(), &script);
    if is_lossy(directory.path()) {
        return;
    }
    let during = replayed(directory.path(), "truth-1.json");
    // The server alone has a counter, and two figures for its mapping.
    assert!(figures(&during) > 4 + 3 * 3, "{:#}", during["truth"]);
    assert_eq!(figures(&replayed(directory.path(), "truth.json")), 4);
}

#[test]
fn a_database_that_runs_already_is_recorded_from_then_on() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let _pool = match pool_for_a_database() {
        Ok(pool) => pool,
        Err(skipped) => return println!("{skipped}"),
    };
    let directory = room();
    let script = database()
        + r#"
clients() { pgbench -h "$PWD/pg" -U postgres -c 4 -T 600 postgres > /dev/null 2>&1 & }
clients; first=$!
sleep 1
"$BIN" record -o recording --pid $server > said &
recording=$!
until [ -e .hugewalk-record*/truth-0.json ]; do kill -0 $recording; sleep 0.1; done
clients; second=$!
sleep 2
kill -USR1 $recording
until [ -e .hugewalk-record*/truth-1.json ]; do kill -0 $recording; sleep 0.1; done
kill $first $second; wait $first $second || true
kill -USR1 $recording
until [ -e .hugewalk-record*/truth-2.json ]; do kill -0 $recording; sleep 0.1; done
"$BIN" inspect --format json $server > inspected
kill -TERM $recording; wait $recording
kill -INT $server; wait $started
"#;
    let status = shell(directory.path(), &script).status().expect("it ran");
    assert!(status.success(), "{status}");
    let said = fs::read_to_string(directory.path().join("said")).expect("said");
    assert!(said.contains("\nThe processes go on.\n"), "{said}");
    if is_lossy(directory.path()) {
        return;
    }
    // Before anything was recorded, with more clients, and at the end.
    let [before, more, _] = ["truth-0.json", "truth-1.json", "truth.json"].map(|truth| {
        let report = replayed(directory.path(), truth);
        let notes = report["notes"].to_string();
        assert!(notes.contains("processes ran already. What they had mapped was read from /proc"), "{notes}");
        figures(&report)
    });
    assert!(before < more, "{before} {more}");
    // It is known which program it is: advice is in its words.
    let calls = fs::read_to_string(directory.path().join("recording/calls.strace")).expect("recorded");
    assert!(calls.lines().next().is_some_and(|line| line.contains("/postgres\", ")), "{calls:.200}");
    // The server has nothing to do: what inspect sees a moment later is the same.
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(directory.path().join(name)).expect("written")).expect("JSON")
    };
    let (truth, inspected) = (read("recording/truth-2.json"), read("inspected"));
    let server = &inspected["processes"][0];
    let kernel = &truth["processes"][server["pid"].to_string()];
    assert!(kernel["hugetlb_pages_kb"].is_u64(), "{truth:#}");
    assert_eq!(server["hugetlb_kb"], kernel["hugetlb_pages_kb"], "{inspected:#}");
}

/// A process that maps 1 GiB of huge pages with a table that it shares: it has touched a page, a child that has ended three, and
/// one that still runs one.
const SHARERS: &str = r#"
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
SHARED, FIXED, ANONYMOUS, NORESERVE, HUGETLB, HUGE_2MB = 0x01, 0x10, 0x20, 0x4000, 0x40000, 21 << 26
start = libc.mmap(0x7e0000000000, 1 << 30, 3, SHARED | FIXED | ANONYMOUS | NORESERVE | HUGETLB | HUGE_2MB, -1, 0)
assert start == 0x7e0000000000, os.strerror(ctypes.get_errno())
def touch(page):
    ctypes.memset(start + (page << 21), 1, 1)
touch(0)
if os.fork() == 0:
    for page in [1, 2, 3]:
        touch(page)
    os._exit(0)
os.wait()
parent = os.getpid()
if os.fork() == 0:
    touch(1)
    touch(4)
    open("ready", "w").close()
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(0)
while True:
    time.sleep(0.05)
"#;

#[test]
fn what_an_ended_process_faulted_in_is_counted_for_none_of_those_that_are_recorded() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(missing) = missing(&["python3"]) {
        return println!("skipped: needs {missing}");
    }
    let _pool = match Pool::of(16) {
        Ok(pool) => pool,
        Err(skipped) => return println!("{skipped}"),
    };
    let directory = room();
    fs::write(directory.path().join("sharers.py"), SHARERS).expect("written");
    let script = r#"
python3 sharers.py &
sharer=$!
until [ -e ready ]; do kill -0 $sharer; sleep 0.1; done
"$BIN" record -o recording --pid $sharer > said &
recording=$!
until [ -e .hugewalk-record*/truth-0.json ]; do kill -0 $recording; sleep 0.1; done
kill -TERM $recording; wait $recording
kill $sharer
"#;
    let status = shell(directory.path(), script).status().expect("it ran");
    assert!(status.success(), "{status}");
    let report = replayed(directory.path(), "truth-0.json");
    assert_eq!(figures(&report), 4 + 2 * 3, "{:#}", report["truth"]);
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("3 pages in shared tables were faulted in by processes that had ended"),
        "{notes}"
    );
}

#[test]
fn a_virtual_machine_with_its_disk_in_another_process_has_the_kernels_figures() {
    let _taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(missing) = missing(&["qemu-system-x86_64", "qemu-storage-daemon"]) {
        return println!("skipped: needs {missing}");
    }
    let _pool = match Pool::of(1100) {
        Ok(pool) => pool,
        Err(skipped) => return println!("{skipped}"),
    };
    let directory = room();
    // A boot sector that halts: the firmware has used the disk by then, and the daemon has mapped the machine's memory.
    let machine = r#"
truncate -s 1M disk
printf '\364\353\375' | dd of=disk conv=notrunc status=none
printf '\125\252' | dd of=disk bs=1 seek=510 conv=notrunc status=none
qemu-storage-daemon --blockdev driver=file,node-name=d,filename=disk \
    --export type=vhost-user-blk,id=e,addr.type=unix,addr.path=socket,node-name=d,writable=on &
disk=$!
until [ -S socket ]; do kill -0 $disk; sleep 0.1; done
qemu-system-x86_64 -M q35,accel=tcg -m 2048 -numa node,memdev=m \
    -object memory-backend-memfd,id=m,size=2048M,hugetlb=on,hugetlbsize=2M,share=on \
    -chardev socket,id=c,path=socket -device vhost-user-blk-pci,chardev=c,bootindex=0 \
    -nodefaults -display none -vga none &
machine=$!
until grep -q memfd /proc/$disk/maps; do kill -0 $disk; sleep 0.1; done
sleep 1
kill -USR1 $RECORD
sleep 1
kill $machine; wait $machine || true
kill $disk; wait $disk || true
"#;
    record(directory.path(), machine);
    if is_lossy(directory.path()) {
        return;
    }
    let during = replayed(directory.path(), "truth-1.json");
    // Two processes with one mapping each: three figures, beside the four of the pool.
    assert_eq!(figures(&during), 4 + 2 * 3, "{:#}", during["truth"]);
    replayed(directory.path(), "truth.json");
}
