//! Handlers of faults, and those who reach into the memory of another process, in small recordings.

mod common;

use common::{assert_all_as_recorded, faults, pool, report};
use serde_json::{Value, json};

const AT: u64 = 0x7f00_0000_0000;
const PAGE: u64 = 1 << 21;

/// A recording whose process has a userfaultfd, 3, and four pages registered for missing faults; 11 is its other thread.
fn recording(features: &str, flags: &str, lines: &[&str]) -> String {
    let setup = [
        "10 1.000001 userfaultfd(O_CLOEXEC|O_NONBLOCK) = 3".to_owned(),
        format!(
            "10 1.000002 ioctl(3, UFFDIO_API, {{api=0xaa, features={features} => features=UFFD_FEATURE_SIGBUS, ioctls=0x1}}) = 0"
        ),
        format!(
            "10 1.000003 mmap(NULL, 8388608, PROT_READ|PROT_WRITE, {flags}|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = {AT:#x}"
        ),
        format!(
            "10 1.000004 ioctl(3, UFFDIO_REGISTER, {{range={{start={AT:#x}, len=0x800000}}, mode=UFFDIO_REGISTER_MODE_MISSING, ioctls=0x18c}}) = 0"
        ),
        "10 1.000005 clone(child_stack=0x7, flags=CLONE_VM|CLONE_FILES|CLONE_THREAD) = 11".to_owned(),
    ];
    let lines = lines.iter().map(|line| (*line).to_owned());
    setup.into_iter().chain(lines).map(|line| line + "\n").collect()
}

fn copy(tid: u32, at: u32, fd: u32, page: u64, result: &str) -> String {
    let dst = AT + page * PAGE;
    format!(
        "{tid} 1.{at:06} ioctl({fd}, UFFDIO_COPY, {{dst={dst:#x}, src=0x1000, len=0x200000, mode=0, copy=0x200000}}) = {result}"
    )
}

/// Of each difference: the line, and how the replay went on.
fn differences(report: &Value) -> Vec<(u64, String)> {
    let list = report["differences"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("words").to_owned();
    list.iter().map(|one| (one["line"].as_u64().expect("a number"), text(&one["replayed"]))).collect()
}

#[test]
fn a_fault_waits_for_the_handler_and_goes_on_when_it_is_resolved() {
    for flags in ["MAP_SHARED", "MAP_PRIVATE"] {
        let lines = [
            copy(11, 20, 3, 1, "0"),
            copy(11, 21, 3, 1, "-1 EEXIST (File exists)"),
            format!("10 1.000030 munmap({AT:#x}, 8388608) = 0"),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let strace = recording("0", flags, &lines);
        let touched = faults(&[(10, 10, AT + PAGE + 0x1234)]);
        let waits = report(&strace, &touched, &["--until", "1.000015"]);
        assert_all_as_recorded(&waits);
        assert_eq!(pool(&waits)[0] - pool(&waits)[1], 0, "nothing has been brought");
        let resolved = report(&strace, &touched, &["--until", "1.000025"]);
        assert_all_as_recorded(&resolved);
        assert_eq!(pool(&resolved)[0] - pool(&resolved)[1], 1);
        assert_eq!(resolved["recording"]["huge_faults"], 1);
        // mmap, register, and two copies.
        assert_eq!(resolved["recording"]["calls"], 4);
        assert_eq!(resolved["skipped"], json!({}));
        let end = report(&strace, &touched, &[]);
        assert_all_as_recorded(&end);
        assert_eq!(pool(&end)[0], pool(&end)[1], "{flags}");
    }
}

#[test]
fn several_faults_wait_and_each_goes_on_with_its_page() {
    let lines = [
        "10 1.000006 clone(child_stack=0x8, flags=CLONE_VM|CLONE_FILES|CLONE_THREAD) = 12".to_owned(),
        copy(11, 20, 3, 2, "0"),
        format!("12 1.000021 madvise({AT:#x}, 2097152, MADV_DONTNEED) = 0"),
        copy(11, 22, 3, 0, "0"),
        format!("10 1.000023 madvise({AT:#x}, 2097152, MADV_DONTNEED) = 0"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let strace = recording("UFFD_FEATURE_THREAD_ID", "MAP_SHARED", &lines);
    let touched = faults(&[(10, 10, AT), (12, 11, AT + 2 * PAGE)]);
    let twice = report(&strace, &touched, &["--clones", "2"]);
    assert_all_as_recorded(&twice);
    assert_eq!(report(&strace, &touched, &[])["differences"], json!([]));
}

#[test]
fn a_thread_that_went_on_without_its_page_is_a_difference() {
    let lines = [copy(11, 20, 3, 2, "0"), format!("10 1.000021 munmap({AT:#x}, 8388608) = 0")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let report = report(&recording("0", "MAP_SHARED", &lines), &faults(&[(10, 10, AT)]), &[]);
    assert_eq!(differences(&report), [(1, "waits for the handler of the fault".to_owned())]);
    assert_eq!(report["differences"][0]["call"], "fault");
}

#[test]
fn what_huge_pages_cannot_do_fails_as_recorded() {
    let range = format!("{{start={AT:#x}, len=0x200000}}");
    let lines = [
        format!(
            "10 1.000010 ioctl(3, UFFDIO_ZEROPAGE, {{range={range}, mode=0}}) = -1 EINVAL (Invalid argument)"
        ),
        format!(
            "10 1.000011 ioctl(3, UFFDIO_WRITEPROTECT, {{range={range}, mode=UFFDIO_WRITEPROTECT_MODE_WP}}) = -1 ENOENT (No such file or directory)"
        ),
        format!("10 1.000012 ioctl(3, UFFDIO_CONTINUE, {{range={range}, mode=0}}) = -1 EFAULT (Bad address)"),
        format!("10 1.000013 ioctl(3, UFFDIO_WAKE, {range}) = 0"),
        format!("10 1.000014 ioctl(3, UFFDIO_UNREGISTER, {range}) = 0"),
        copy(10, 15, 3, 0, "-1 ENOENT (No such file or directory)"),
        // strace did not take it apart, and it says nothing of a fault.
        "10 1.000016 ioctl(3, UFFDIO_CONTINUE, 0x7ffd4dcbe730) = -1 EEXIST (File exists)".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let report = report(&recording("0", "MAP_SHARED", &lines), "", &[]);
    assert_all_as_recorded(&report);
    assert_eq!(
        report["skipped"],
        json!({"ioctl(UFFDIO_CONTINUE)": 1, "ioctl(UFFDIO_CONTINUE) that failed with EFAULT": 1})
    );
}

#[test]
fn write_protection_is_taken_off_by_the_handler() {
    let range = format!("{{start={AT:#x}, len=0x200000}}");
    let lines = [
        format!(
            "10 1.000010 ioctl(3, UFFDIO_REGISTER, {{range={range}, mode=UFFDIO_REGISTER_MODE_WP, ioctls=0x4c}}) = 0"
        ),
        format!(
            "11 1.000020 ioctl(3, UFFDIO_WRITEPROTECT, {{range={range}, mode=UFFDIO_WRITEPROTECT_MODE_WP}}) = 0"
        ),
        format!("11 1.000030 ioctl(3, UFFDIO_WRITEPROTECT, {{range={range}, mode=0}}) = 0"),
        format!("10 1.000031 munmap({AT:#x}, 8388608) = 0"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let strace = recording("0", "MAP_SHARED", &lines);
    let touched = faults(&[(10, 15, AT), (10, 25, AT)]);
    assert_all_as_recorded(&report(&strace, &touched, &[]));
    // Without the third call the store waits.
    let kept =
        strace.replace("UFFDIO_WRITEPROTECT, {range={start=0x7f0000000000, len=0x200000}, mode=0", "X, {");
    assert_eq!(
        differences(&report(&kept, &touched, &[])),
        [(2, "waits for the handler of the fault".to_owned())]
    );
}

#[test]
fn a_childs_faults_are_for_the_handler_that_was_told_of_the_fork() {
    let lines = [
        "10 1.000010 clone(child_stack=NULL, flags=SIGCHLD) = 20".to_owned(),
        // The descriptor came with the message of the fork.
        copy(11, 20, 7, 3, "0"),
        format!("20 1.000021 munmap({AT:#x}, 8388608) = 0"),
        copy(11, 22, 3, 0, "0"),
        "10 1.000030 close(7) = 0".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let strace = recording("UFFD_FEATURE_EVENT_FORK|UFFD_FEATURE_EVENT_UNMAP", "MAP_SHARED", &lines);
    let touched = faults(&[(20, 15, AT + 3 * PAGE)]);
    let told = report(&strace, &touched, &[]);
    assert_all_as_recorded(&told);
    assert_eq!(told["skipped"], json!({}));
    // A handler that did not ask for it is not told, and the child's fault is like any other.
    let lines = ["10 1.000010 clone(child_stack=NULL, flags=SIGCHLD) = 20"];
    let untold = report(&recording("0", "MAP_SHARED", &lines), &touched, &[]);
    assert_all_as_recorded(&untold);
    assert_eq!(pool(&untold)[0] - pool(&untold)[1], 1);
}

#[test]
fn operations_wait_until_the_handler_has_read_of_them() {
    let lines = [
        copy(11, 10, 3, 0, "0"),
        format!("10 1.000011 madvise({AT:#x}, 2097152, MADV_DONTNEED) = 0"),
        format!("10 1.000012 madvise({AT:#x}, 2097152, MADV_REMOVE) = 0"),
        format!("10 1.000013 mremap({AT:#x}, 8388608, 8388608, MREMAP_MAYMOVE|MREMAP_FIXED, 0x7e0000000000) = 0x7e0000000000"),
        "10 1.000014 mmap(0x7e0000000000, 2097152, PROT_READ, MAP_SHARED|MAP_FIXED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7e0000000000".to_owned(),
        "10 1.000015 munmap(0x7e0000000000, 8388608) = 0".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let features = "UFFD_FEATURE_EVENT_REMAP|UFFD_FEATURE_EVENT_REMOVE|UFFD_FEATURE_EVENT_UNMAP";
    let report = report(&recording(features, "MAP_SHARED", &lines), "", &[]);
    assert_all_as_recorded(&report);
    assert_eq!(pool(&report)[0], pool(&report)[1]);
}

#[test]
fn a_handler_that_leaves_or_a_process_that_ends_leaves_no_fault_waiting() {
    for last in ["10 1.000020 close(3) = 0", "10 1.000020 exit_group(0) = ?"] {
        let strace = recording("0", "MAP_SHARED", &[last]);
        let report = report(&strace, &faults(&[(11, 10, AT)]), &[]);
        assert_all_as_recorded(&report);
        // Without a handler the fault brings a page; with the process it ends in nothing.
        let closed = last.contains("close");
        assert_eq!(pool(&report)[0] - pool(&report)[1], u64::from(closed));
    }
}

#[test]
fn another_process_reads_and_writes_huge_pages_as_far_as_they_reach() {
    let iov = |base: u64, length: u64| format!("{{iov_base={base:#x}, iov_len={length}}}");
    let local = |length: u64| format!("[{{iov_base=\"a, ]\\0\"..., iov_len={length}}}], 1");
    let lines = [
        format!(
            "10 1.000001 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = {AT:#x}"
        ),
        format!("20 1.000002 process_vm_readv(10, {}, [{}], 1, 0) = 64", local(64), iov(AT + 100, 64)),
        format!(
            "20 1.000003 process_vm_writev(10, {}, [{}], 1, 0) = 4096",
            local(4096),
            iov(AT + PAGE - 2048, 8192)
        ),
        format!(
            "20 1.000004 process_vm_readv(10, {}, [{}, {}], 2, 0) = 4128",
            local(8192),
            iov(AT, 32),
            iov(AT + 2 * PAGE - 4096, 8192)
        ),
        format!(
            "20 1.000005 process_vm_readv(10, {}, [{}], 1, 0) = -1 EFAULT (Bad address)",
            local(64),
            iov(AT + 2 * PAGE, 64)
        ),
        // Not about huge pages.
        format!("20 1.000006 process_vm_readv(10, {}, [{}], 1, 0) = 8", local(8), iov(0x1000, 8)),
    ];
    let strace: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let shared = report(&strace, "", &[]);
    // What lies behind the mapping was never huge: the engine is not asked.
    assert_all_as_recorded(&shared);
    assert_eq!(pool(&shared)[0] - pool(&shared)[1], 2);
    assert_eq!(shared["skipped"], json!({}));
}

#[test]
fn a_transfer_waits_for_the_handler_too() {
    let lines = [
        format!("30 1.000010 process_vm_readv(10, [{{iov_base=\"\", iov_len=8}}], 1, [{{iov_base={AT:#x}, iov_len=8}}], 1, 0 <unfinished ...>"),
        copy(11, 20, 3, 0, "0"),
        "30 1.000021 <... process_vm_readv resumed>) = 8".to_owned(),
        format!("30 1.000030 process_vm_readv(10, [{{iov_base=\"\", iov_len=8}}], 1, [{{iov_base={:#x}, iov_len=8}}], 1, 0) = 8", AT + PAGE),
        "30 1.000040 process_vm_readv(10, [{iov_base=\"\", iov_len=8}], 1, [{iov_base=0x7f0000000000, iov_len=8}], 1, 0) = 8".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let report = report(&recording("0", "MAP_SHARED", &lines), "", &[]);
    // The second one reads a page that nobody brought.
    assert_eq!(differences(&report), [(9, "waits for the handler of the fault".to_owned())]);
}
