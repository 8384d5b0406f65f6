//! Beside the running kernel: this process maps huge pages, and the report has to say what the kernel does.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use serde_json::Value;
use tempfile::TempDir;

use super::{GIB, MIB, inspect};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// Pages this test uses.
const PAGES: u64 = 8;

fn counter(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new(POOL).join(name)).ok()?.trim().parse().ok()
}

/// Pages added to the pool, as long as this lives.
struct Grown;

impl Grown {
    /// None without root, without huge pages, or without memory for them.
    fn new() -> Option<Self> {
        let before = counter("nr_hugepages")?;
        fs::write(Path::new(POOL).join("nr_hugepages"), (before + PAGES).to_string()).ok()?;
        let grown = Self;
        let unreserved = counter("free_hugepages")?.checked_sub(counter("resv_hugepages")?)?;
        (unreserved >= PAGES).then_some(grown)
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        if let Some(pages) = counter("nr_hugepages") {
            let _ = fs::write(Path::new(POOL).join("nr_hugepages"), pages.saturating_sub(PAGES).to_string());
        }
    }
}

/// Address space of this process that nothing else is in.
struct Room {
    start: u64,
    bytes: u64,
}

impl Room {
    fn new(bytes: u64) -> Self {
        // SAFETY: the system chooses a place where nothing is.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                usize::try_from(bytes).expect("64 bits"),
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        Self { start: start.expect("address space") as u64, bytes }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let bytes = usize::try_from(self.bytes).expect("64 bits");
        // SAFETY: the room is this value's, and nothing that was mapped in it is used any more.
        let _ = unsafe { munmap(self.start as *mut _, bytes) };
    }
}

/// The sum of the fields `name` in kB.
fn sum(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("readable");
    let values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
    values.sum()
}

fn report(arguments: &[&str]) -> Value {
    let (text, error, code) = inspect(&[&["--format", "json"], arguments].concat());
    assert_eq!((error.as_str(), code), ("", Some(0)));
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn it_agrees_with_the_kernels_counters() {
    let Some(_grown) = Grown::new() else {
        println!("skipped: needs root, and memory for {PAGES} huge pages");
        return;
    };
    let file = memfd_create("inspected", MemfdFlags::HUGETLB).expect("a file of huge pages");
    ftruncate(&file, 2 * GIB).expect("as large as two tables cover");
    let room = Room::new(6 * GIB);
    let first = room.start.next_multiple_of(GIB);
    let map = |at: u64, bytes: u64, kind: MapFlags| {
        let bytes = usize::try_from(bytes).expect("64 bits");
        let flags = kind | MapFlags::FIXED | MapFlags::NORESERVE;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: what is replaced is address space of the room.
        unsafe { mmap(at as *mut _, bytes, both, flags, &file, 0) }.expect("mapped");
    };
    let touch = |address: u64| {
        // SAFETY: the address lies in a mapping that was just made, and nothing else refers to it.
        unsafe { (address as *mut u8).write_volatile(1) };
    };
    // The second shares the table of the first; the third is private, and cannot; only its second
    // gigabyte has pages, as the page map tells.
    map(first, GIB, MapFlags::SHARED);
    map(first + GIB, GIB, MapFlags::SHARED);
    map(first + 2 * GIB, 2 * GIB, MapFlags::PRIVATE);
    touch(first);
    touch(first + GIB + 2 * MIB);
    touch(first + 3 * GIB);
    touch(first + 3 * GIB + 6 * MIB);

    let pid = std::process::id().to_string();
    let seen = report(&[&pid]);
    let process = &seen["processes"][0];
    let smaps = "/proc/self/smaps";
    let resident = sum(smaps, "Private_Hugetlb:") + sum(smaps, "Shared_Hugetlb:");
    assert_eq!(process["resident_kb"], resident);
    assert_eq!(process["hugetlb_kb"], sum("/proc/self/status", "HugetlbPages:"));
    assert_eq!(process["mapped_kb"], (4 * GIB) >> 10);
    assert_eq!((&seen["tables"]["least"], &seen["tables"]["most"]), (&2.into(), &3.into()));
    let mappings = process["mappings"].as_array().expect("a list");
    assert_eq!(mappings.len(), 3, "{mappings:?}");
    // Both pages are in both, although each was touched in one: the kernel shares what the report says it may.
    for shared in &mappings[..2] {
        assert_eq!(shared["sharable_ranges"], 1);
        let pages =
            (shared["private_kb"].as_u64().zip(shared["shared_kb"].as_u64())).map(|(own, all)| own + all);
        assert_eq!(pages, Some(2 * 2048), "{shared}");
    }
    assert_eq!(mappings[2]["sharable_ranges"], 0);

    // Others may use the pool meanwhile.
    let counters = || ["nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages"].map(counter);
    let agrees = (0..50).any(|_| {
        let before = counters();
        let report = report(&[&pid]);
        let pools = report["pools"].as_array().expect("a list");
        let pool = pools.iter().find(|pool| pool["huge_page_kb"] == 2048).expect("a pool");
        let said = ["total", "free", "reserved", "surplus"].map(|name| pool[name].as_u64());
        let undisturbed = before == counters();
        assert!(!undisturbed || said == before, "said {said:?}, there are {before:?}");
        undisturbed
    });
    assert!(agrees, "the pool never stood still");
}

#[test]
fn processes_of_other_users_are_counted_and_not_looked_at() {
    const NOBODY: u32 = 65534;
    let directory = TempDir::new().expect("a directory");
    let command = directory.path().join("hugewalk");
    fs::copy(env!("CARGO_BIN_EXE_hugewalk"), &command).expect("copied");
    for path in [directory.path(), &command] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("changed");
    }
    let as_nobody = |arguments: &[&str]| {
        Command::new(&command)
            .uid(NOBODY)
            .gid(NOBODY)
            .arg("inspect")
            .args(arguments)
            .env("COLUMNS", "200")
            .output()
    };
    let Ok(all) = as_nobody(&[]) else {
        println!("skipped: needs root, to become another user");
        return;
    };
    let text = String::from_utf8(all.stdout).expect("text");
    assert_eq!(all.status.code(), Some(0));
    assert!(text.contains("of other users were not looked at ("), "{text}");
    assert!(text.contains("): run as root."), "{text}");
    let this = std::process::id().to_string();
    let named = as_nobody(&[&this]).expect("it ran");
    assert_eq!(named.status.code(), Some(2));
    let error = String::from_utf8(named.stderr).expect("text");
    assert!(error.starts_with(&format!("hugewalk: process {this} (")), "{error}");
    assert!(error.ends_with("may not be looked at; run as root if it is another user's\n"), "{error}");
}
