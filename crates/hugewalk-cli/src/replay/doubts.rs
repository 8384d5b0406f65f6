//! What a report cannot say, and what would help: so that nobody takes an empty list for an answer.

use std::collections::BTreeMap;

use super::plan::Plan;
use crate::report::text::{counted, grouped, size};
use crate::report::{Difference, Process};

/// Calls that this program does not perform and that may change what huge pages a process has.
const MATTERING: &[&str] = &[
    "bpf",
    "fsmount",
    "io_uring_enter",
    "io_uring_register",
    "ipc",
    "mbind",
    "migrate_pages",
    "move_mount",
    "move_pages",
    "open_by_handle_at",
    "open_tree",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "ptrace",
    "recvmmsg",
    "recvmsg",
    "remap_file_pages",
    "set_mempolicy",
    "setns",
    "shmctl",
    "umount2",
];

/// Advice that does nothing to huge pages, or that Linux refuses for them.
const IDLE_ADVICE: &[&str] = &[
    "COLD",
    "COLLAPSE",
    "FREE",
    "HUGEPAGE",
    "MERGEABLE",
    "NOHUGEPAGE",
    "PAGEOUT",
    "UNMERGEABLE",
    "WILLNEED",
];

/// Of the calls that were not performed, those that may matter, and the number of the others.
pub(super) fn that_matter(skipped: &BTreeMap<String, u64>) -> (BTreeMap<String, u64>, u64) {
    let (matter, idle): (BTreeMap<_, _>, BTreeMap<_, _>) =
        skipped.iter().map(|(name, count)| (name.clone(), *count)).partition(|(name, _)| matters(name));
    (matter, idle.values().sum())
}

fn matters(name: &str) -> bool {
    let Some(end) = name.find(['(', ' ']) else {
        return MATTERING.contains(&name) || name.starts_with("syscall_");
    };
    let (call, rest) = name.split_at(end);
    match call {
        // Those that are about something else are named with what they are about.
        "fcntl" | "ioctl" | "shmctl" | "prctl" => rest.contains("UFFD"),
        "madvise" => !IDLE_ADVICE.iter().any(|idle| rest == format!("(MADV_{idle})")),
        _ => true,
    }
}

/// Sentences about what the plan could not follow.
pub(super) fn of_plan(plan: &Plan, said_late: bool, hugetlbfs_named: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if plan.mappings.is_empty() && plan.failed.is_empty() {
        notes.push(nothing_mapped(plan, said_late, hugetlbfs_named));
    } else if plan.mappings.is_empty() {
        notes.push("No huge mapping was made: every call that asked for huge pages failed.".to_owned());
    }
    if plan.began_late && !said_late && !plan.mappings.is_empty() {
        notes.push(format!(
            "The recording begins in the middle of a program: what process {} had mapped and opened before is not known. \
             Record it from its start (strace -f ... PROGRAM).",
            plan.first_pid
        ));
    }
    notes
}

fn nothing_mapped(plan: &Plan, said_late: bool, hugetlbfs_named: bool) -> String {
    let faults = if plan.other_faults > 0 {
        format!(
            "; {} hit addresses that no recorded call mapped huge",
            counted(plan.other_faults, "fault", "faults")
        )
    } else {
        String::new()
    };
    let late = if said_late {
        " What ran before may have mapped them."
    } else if plan.began_late {
        " The recording begins in the middle of a program, which may have mapped them before: record it from its start \
         (strace -f ... PROGRAM)."
    } else {
        ""
    };
    let either = if late.is_empty() { "Either" } else { "Else" };
    let mount = if hugetlbfs_named {
        "on another mount of hugetlbfs than those named"
    } else {
        "on a mount of hugetlbfs that is not known"
    };
    format!(
        "No recorded call maps huge pages{faults}.{late} {either} the program uses none (transparent huge pages are not \
         followed), or its files lie {mount} (name it with --hugetlbfs DIR), or the calls that map them were not recorded \
         (`hugewalk replay --help` lists those that are needed)."
    )
}

/// Counters of the kernel's that are odd, and of processes that have one.
pub(super) fn odd_counters(processes: &[Process]) -> Vec<String> {
    let odd = processes.iter().filter_map(|process| {
        let below = process.hugetlb_pages_kb.cast_signed();
        (below < 0).then(|| {
            format!(
                "HugetlbPages of process {} is below zero, -{} kB, which Linux prints as {}. That is the kernel's own \
                 count: pages are counted for the process that faults them in and taken off the one that loses them, and \
                 with shared tables these are two.",
                process.pid,
                grouped(below.unsigned_abs()),
                process.hugetlb_pages_kb
            )
        })
    });
    odd.collect()
}

/// A default size of huge pages that the recording speaks against.
pub(super) fn wrong_size(plan: &Plan, differences: &[Difference], default_shift: u32) -> Option<String> {
    if default_shift != 21 {
        return None;
    }
    let cut = differences.iter().find(|difference| {
        difference.recorded == "EINVAL"
            && !difference.replayed.starts_with('E')
            && matches!(&*difference.call, "munmap" | "mprotect" | "mremap")
            && plan.mappings.iter().any(|made| made.shift == 21 && made.line < difference.line)
    })?;
    Some(format!(
        "On line {} Linux refused what is a whole number of pages of {}. If huge pages of that machine are larger \
         (Hugepagesize of /proc/meminfo), say so with --default-size 1G, or behind the directory of --hugetlbfs.",
        cut.line,
        size(1 << default_shift)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_cannot_matter_are_one_number() {
        let made =
            |names: &[(&str, u64)]| names.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let skipped: BTreeMap<String, u64> = made(&[
            ("brk", 505),
            ("fcntl(F_GETFL)", 30),
            ("kill", 5029),
            ("madvise(MADV_COLD)", 1),
            ("madvise(MADV_RANDOM)", 2),
            ("mremap(MREMAP_DONTUNMAP)", 1),
            ("ioctl(UFFDIO_MOVE)", 3),
            ("syscall_0x1d0", 4),
        ]);
        let expected = made(&[
            ("ioctl(UFFDIO_MOVE)", 3),
            ("madvise(MADV_RANDOM)", 2),
            ("mremap(MREMAP_DONTUNMAP)", 1),
            ("syscall_0x1d0", 4),
        ]);
        assert_eq!(that_matter(&skipped), (expected, 5565));
    }
}
