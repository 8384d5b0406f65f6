//! Every kind of call that concerns huge pages, in small recordings.

mod common;

use common::{assert_all_as_recorded, faults, pool, report};
use serde_json::{Value, json};

/// What the mapping in this place cannot share, in words.
fn why(report: &Value, mapping: usize) -> Vec<String> {
    let parts = report["mappings"][mapping]["unsharable"].as_array().expect("a list");
    parts.iter().map(|part| part["why"].as_str().expect("words").to_owned()).collect()
}

#[test]
fn a_segment_reserves_its_pages_and_outlives_its_removal_while_it_is_attached() {
    let strace = "10 1.000001 shmget(IPC_PRIVATE, 2147483648, IPC_CREAT|SHM_HUGETLB|0600) = 4\n\
         10 1.000002 shmat(4, NULL, 0) = 0x7f0000000000\n\
         10 1.000003 shmctl(4, IPC_RMID, NULL) = 0\n\
         10 1.000004 clone(child_stack=NULL, flags=SIGCHLD) = 11\n\
         11 1.000010 mprotect(0x7f0000000000, 2097152, PROT_READ) = 0\n\
         11 1.000020 shmdt(0x7f0000000000) = 0\n";
    let touched = faults(&[
        (10, 3, 0x7f00_0000_0000),
        (11, 5, 0x7f00_0020_0000),
        (11, 6, 0x7f00_4020_0000),
        (10, 7, 0x7f00_4040_0000),
    ]);
    let attached = report(strace, &touched, &["--until", "1.0000099"]);
    assert_all_as_recorded(&attached);
    assert_eq!(pool(&attached), [1024, 1020, 1020]);
    assert_eq!(attached["tables"]["by_users"], json!({"2": 2}));
    assert_eq!(attached["tables"]["faults_saved"], 4);

    let detached = report(strace, &touched, &[]);
    assert_all_as_recorded(&detached);
    assert_eq!(detached["unsharing"]["by_call"], json!({"mprotect": 1, "shmdt": 1}));
    assert_eq!(
        why(&detached, 0),
        ["a part of the gigabyte got other rights (mprotect), in process 11 on line 5"]
    );

    let ended = report(&format!("{strace}10 1.000030 +++ killed by SIGKILL +++\n"), &touched, &[]);
    assert_eq!(pool(&ended), [1024, 1024, 0]);
}

#[test]
fn a_memory_file_is_sized_filled_and_punched() {
    let strace = "10 1.000001 memfd_create(\"x\", MFD_CLOEXEC|MFD_HUGETLB|21<<MFD_HUGE_SHIFT) = 3\n\
         10 1.000002 ftruncate(3, 4194304) = 0\n\
         10 1.000003 ftruncate(3, 4194305) = -1 EINVAL (Invalid argument)\n\
         10 1.000004 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7f0000000000\n\
         10 1.000005 fallocate(3, 0, 0, 8388608) = 0\n\
         10 1.000006 fallocate(3, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 0, 2097152) = 0\n\
         10 1.000007 madvise(0x7f0000200000, 2097152, MADV_REMOVE) = 0\n\
         10 1.000008 munmap(0x7f0000000000, 4194304) = 0\n";
    let held = report(strace, &faults(&[(10, 5, 0x7f00_0000_0000)]), &[]);
    assert_all_as_recorded(&held);
    assert_eq!(held["recording"]["calls"], 7);
    assert_eq!(pool(&held), [4, 2, 0]);
    // The last descriptor keeps the pages, not the mapping.
    let closed = report(&format!("{strace}10 1.000009 close(3) = 0\n"), "", &[]);
    assert_eq!(pool(&closed), [4, 4, 0]);
}

#[test]
fn a_private_page_is_copied_by_the_one_who_stores_after_a_fork() {
    let strace = "10 1.000001 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f0000000000\n\
         10 1.000003 clone(child_stack=NULL, flags=SIGCHLD) = 11\n";
    let touched = faults(&[(10, 1, 0x7f00_0000_0000), (11, 4, 0x7f00_0000_0000), (11, 5, 0x7f00_0020_0000)]);
    let report = report(strace, &touched, &["--pool", "10"]);
    assert_all_as_recorded(&report);
    // The parent's page, the child's copy of it, and a page of the child's; one is still reserved for the parent.
    assert_eq!(pool(&report), [10, 7, 1]);
    assert_eq!(report["processes"][1]["mappings"][0]["private_hugetlb_kb"], 4096);
}

#[test]
fn a_range_that_is_not_for_children_is_not_there_for_them() {
    let strace = "10 1.000001 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f0000000000\n\
         10 1.000002 madvise(0x7f0000000000, 2097152, MADV_DONTFORK) = 0\n\
         10 1.000003 clone(child_stack=NULL, flags=SIGCHLD) = 11\n";
    let report = report(strace, "", &[]);
    assert_all_as_recorded(&report);
    assert_eq!(report["processes"][1]["mappings"][0]["range"], "7f0000200000-7f0000400000");
}

#[test]
fn locking_faults_huge_pages_in_also_where_it_is_to_wait_for_faults() {
    let map = |at: u64| {
        format!(
            "mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = {at:#x}\n"
        )
    };
    let strace = format!(
        "10 1.000001 {}10 1.000002 mlock2(0x7f0000000000, 4096, MLOCK_ONFAULT) = 0\n\
         10 1.000003 mlockall(MCL_FUTURE|MCL_ONFAULT) = 0\n10 1.000004 {}10 1.000005 munlockall() = 0\n10 1.000006 {}",
        map(0x7f00_0000_0000),
        map(0x7e00_0000_0000),
        map(0x7d00_0000_0000),
    );
    let report = report(&strace, "", &[]);
    assert_all_as_recorded(&report);
    // A page of the first, all of the second, none of the third.
    assert_eq!(pool(&report), [6, 3, 3]);
}

#[test]
fn threads_share_an_address_space_and_execve_begins_a_new_one() {
    let strace = "10 1.000001 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f0000000000\n\
         10 1.000002 clone3({flags=CLONE_VM|CLONE_FILES|CLONE_THREAD, child_tid=0x7f, stack=0x7f, stack_size=0x7fff80}, 88) = 11\n\
         11 1.000010 munmap(0x7f0000200000, 2097152) = 0\n";
    let touched = faults(&[(11, 5, 0x7f00_0000_0000)]);
    let both = report(strace, &touched, &[]);
    assert_all_as_recorded(&both);
    assert_eq!(both["recording"]["processes"], 1);
    assert_eq!(both["processes"][0]["hugetlb_pages_kb"], 2048);
    let begun = format!("{strace}10 1.000011 execve(\"/bin/true\", [\"true\"], 0x7f /* 3 vars */) = 0\n");
    let begun = report(&begun, &touched, &[]);
    assert_eq!((begun["processes"].as_array().map(Vec::len), pool(&begun)), (Some(0), [2, 2, 0]));
}

#[test]
fn mappings_of_one_file_are_compared_with_each_other() {
    let strace = "10 1.000001 openat(AT_FDCWD, \"/dev/hugepages/a\", O_RDWR|O_CREAT, 0600) = 3\n\
         10 1.000002 mmap(NULL, 2147483648, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7e0000000000\n\
         20 1.000003 openat(AT_FDCWD, \"/dev/hugepages/a\", O_RDONLY) = 3\n\
         20 1.000004 mmap(NULL, 2147483648, PROT_READ, MAP_SHARED, 3, 0) = 0x7d0000000000\n\
         30 1.000005 openat(AT_FDCWD, \"/dev/hugepages/a\", O_RDWR) = 3\n\
         30 1.000006 mmap(NULL, 2147483648, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7d0000200000\n\
         40 1.000007 openat(AT_FDCWD, \"/dev/hugepages/a\", O_RDWR) = 3\n\
         40 1.000008 mmap(NULL, 2147483648, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7d0000000000\n";
    let everybody = [
        (10, 10, 0x7e00_0000_0000),
        (20, 11, 0x7d00_0000_0000),
        (30, 12, 0x7d00_0020_0000),
        (40, 13, 0x7d00_0000_0000),
    ];
    let report = report(strace, &faults(&everybody), &[]);
    assert_all_as_recorded(&report);
    // Only the first and the last agree in rights and in place.
    assert_eq!(report["tables"]["by_users"], json!({"1": 2, "2": 1}));
    assert!(why(&report, 1)[0].ends_with("that one is rw-, this one r--"));
    assert!(why(&report, 2).iter().any(|why| why.contains("another place in its gigabyte")));
    let advice = report["advice"][0].as_str().expect("advice");
    assert!(advice.contains("agree modulo 1 GiB") && advice.contains("line 6"), "{advice}");
}

#[test]
fn userfaultfd_modes_are_given_as_reasons() {
    let strace = "10 1.000001 mmap(NULL, 2147483648, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7e0000000000\n\
         10 1.000002 userfaultfd(O_CLOEXEC) = 4\n\
         10 1.000003 ioctl(4, UFFDIO_REGISTER, {range={start=0x7e0000000000, len=0x40000000}, mode=UFFDIO_REGISTER_MODE_WP, ioctls=0x5c}) = 0\n\
         10 1.000004 ioctl(4, UFFDIO_REGISTER, {range={start=0x7e0040000000, len=0x40000000}, mode=UFFDIO_REGISTER_MODE_MISSING, ioctls=0x5c}) = 0\n";
    let report = report(strace, "", &[]);
    let reasons = why(&report, 0);
    assert_eq!(reasons, ["registered with userfaultfd for write protection, in process 10 from line 3 on"]);
    assert_all_as_recorded(&report);
    assert_eq!(report["skipped"], json!({}));
}

#[test]
fn rights_that_are_given_back_break_no_gigabyte() {
    let input = |ending: &str| {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inputs/18-uffdwp-split.");
        std::fs::read_to_string(format!("{file}{ending}")).expect("an input")
    };
    let report = report(&input("strace"), &input("faults"), &[]);
    assert_all_as_recorded(&report);
    let reasons = why(&report, 0);
    assert!(reasons.iter().any(|why| why.ends_with("on line 11")), "{reasons:?}");
    assert!(!reasons.iter().any(|why| why.ends_with("on line 12")), "{reasons:?}");
}

#[test]
fn large_pages_have_a_pool_of_their_own() {
    let strace = "10 1.000001 mmap(NULL, 2147483648, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB|30<<MAP_HUGE_SHIFT, -1, 0) = 0x7e0000000000\n";
    let report = report(strace, &faults(&[(10, 2, 0x7e00_4000_0000)]), &[]);
    assert_all_as_recorded(&report);
    let large = &report["pools"][1];
    let counters = ["huge_page_kb", "total", "free", "reserved"].map(|name| large[name].as_u64());
    assert_eq!(counters, [1 << 20, 2, 1, 1].map(Some));
}

#[test]
fn an_ordinary_mapping_takes_the_place_of_huge_pages() {
    let strace = "10 1.000001 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f0000000000\n\
         10 1.000003 mmap(0x7f0000000000, 4194304, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n\
         10 1.000005 mprotect(0x7f0000000000, 4096, PROT_NONE) = 0\n";
    let report = report(strace, &faults(&[(10, 1, 0x7f00_0000_0000), (10, 4, 0x7f00_0000_0000)]), &[]);
    assert_all_as_recorded(&report);
    assert_eq!((&report["recording"]["calls"], &report["recording"]["other_faults"]), (&json!(1), &json!(1)));
    assert_eq!(pool(&report), [2, 2, 0]);
}

#[test]
fn what_ends_otherwise_is_named_and_the_replay_goes_on() {
    let strace = "10 1.000001 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7f0000000000\n\
         10 1.000002 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = -1 ENOMEM (Cannot allocate memory)\n\
         10 1.000003 munmap(0x7f0000000000, 4194304) = 0\n";
    let large = report(strace, "", &["--pool", "100"]);
    let expected =
        json!([{"line": 2, "pid": 10, "call": "mmap", "recorded": "ENOMEM", "replayed": "0x7fffffbff000"}]);
    assert_eq!(large["differences"][0]["recorded"], expected[0]["recorded"]);
    assert_eq!(large["differences"].as_array().map(Vec::len), Some(1));
    assert_eq!(pool(&large), [100, 100, 0]);
    let small = report(strace, &faults(&[(10, 2, 0x7f00_0000_0000)]), &["--pool", "1"]);
    let ended: Vec<_> = small["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|difference| difference["replayed"].as_str().expect("words").to_owned())
        .collect();
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert!(ended[0].starts_with("ENOMEM: ") && ended[1].starts_with("SIGSEGV: "), "{ended:?}");
    assert_all_as_recorded(&report(strace, "", &["--pool", "2"]));
}

#[test]
fn a_mount_may_be_named_on_the_command_line() {
    let strace = "10 1.000001 openat(AT_FDCWD, \"/srv/pages/a\", O_RDWR|O_CREAT, 0600) = 3\n\
         10 1.000002 mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7f0000000000\n";
    assert_eq!(report(strace, "", &[])["mappings"], json!([]));
    let named = report(strace, "", &["--hugetlbfs", "/srv/pages"]);
    assert_eq!(named["mappings"][0]["backing"], "/srv/pages/a");
    assert_eq!(pool(&named), [2, 2, 2]);
}

#[test]
fn what_is_left_out_of_dumps_and_forks_is_part_of_the_engine() {
    let strace = "10 1.000001 mmap(NULL, 2147483648, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7e0000000000\n\
         10 1.000002 madvise(0x7e0040000000, 1073741824, MADV_DONTFORK) = 0\n\
         10 1.000003 madvise(0x7e0000000000, 2147483648, MADV_DONTDUMP) = 0\n\
         10 1.000004 madvise(0x7e0000001000, 4096, MADV_DODUMP) = -1 EINVAL (Invalid argument)\n\
         10 1.000005 clone(child_stack=NULL, flags=SIGCHLD) = 11\n\
         11 1.000010 munmap(0x7e0040000000, 1073741824) = 0\n\
         10 1.000011 madvise(0x7e0000000000, 2147483648, MADV_DODUMP) = 0\n";
    let touched = [(10, 6, 0x7e00_0000_0000), (11, 7, 0x7e00_0000_0000), (10, 8, 0x7e00_4000_0000)];
    let report = report(strace, &faults(&touched), &[]);
    assert_all_as_recorded(&report);
    assert_eq!(report["skipped"], json!({}));
    assert_eq!(report["tables"]["by_users"], json!({"1": 1, "2": 1}));
}

#[test]
fn pages_that_are_made_to_fail_or_taken_out_of_use_are_lost_to_the_pool() {
    let strace = "10 1.000001 mmap(NULL, 8388608, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x7e0000000000\n\
         10 1.000003 madvise(0x7e0000000000, 2097152, MADV_HWPOISON) = 0\n\
         10 1.000004 madvise(0x7e0000400000, 2097152, MADV_SOFT_OFFLINE) = 0\n\
         10 1.000005 madvise(0x7e0000600000, 2097152, MADV_HWPOISON) = -1 EPERM (Operation not permitted)\n";
    let touched = faults(&[(10, 2, 0x7e00_0000_0000), (10, 2, 0x7e00_0020_0000)]);
    let tight = report(strace, &touched, &["--pool", "10"]);
    assert_all_as_recorded(&tight);
    assert_eq!(tight["skipped"], json!({}));
    // Two pages are lost. In use are the one that was touched only, and the one that took the place of the one taken out; the
    // last is still reserved.
    assert_eq!(pool(&tight), [8, 6, 1]);
    // Nobody says how many there are: enough for those that are lost, too.
    assert_all_as_recorded(&report(strace, &touched, &[]));
}

#[test]
fn a_segment_that_the_pool_has_not_the_pages_for_fails_as_recorded() {
    let strace = "10 1.000001 shmget(IPC_PRIVATE, 8388608, IPC_CREAT|SHM_HUGETLB|0600) = -1 ENOMEM (Cannot allocate memory)\n\
         10 1.000002 shmget(IPC_PRIVATE, 4194304, IPC_CREAT|SHM_HUGETLB|0600) = 4\n";
    let report = report(strace, "", &["--pool", "3"]);
    assert_all_as_recorded(&report);
    assert_eq!(pool(&report), [3, 3, 2]);
}
