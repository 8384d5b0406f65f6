//! Calls that asked for huge pages and got none, and what would have helped.

use super::attempt::Attempt;
use super::plan::{Failed, Plan};
use super::pools::{Choice, lacked, only_size};
use super::schedule::Record;
use crate::report::FailedCall;
use crate::report::text::{counted, grouped, size};

/// Where else the error comes from.
fn other_limits(failed: &Failed) -> &'static str {
    if failed.error == "ENOSPC" {
        "Look at the limit of the mount (size=) and at that of the control group"
    } else {
        "Look at vm.max_map_count, at the limits of the control group and of the mount, and at RLIMIT_AS"
    }
}

/// What to say of the calls that failed.
pub(super) fn calls(plan: &Plan, choice: &Choice, record: &Record, default_shift: u32) -> Vec<FailedCall> {
    let report = |failed: &Failed| {
        let attempt = record.attempts.iter().find(|attempt| attempt.line == failed.line);
        let lacking = attempt.and_then(|attempt| lacked(attempt, choice, record));
        let why = attempt
            .map(|attempt| want_of_memory(failed, attempt, choice, record, default_shift))
            .or_else(|| refused(failed).map(str::to_owned));
        FailedCall {
            line: failed.line,
            pid: failed.pid,
            call: failed.call,
            backing: failed.backing.clone(),
            bytes: failed.bytes,
            page_kb: 1 << (failed.shift - 10),
            pages: failed.pages(),
            error: failed.error.clone(),
            pages_lacking: lacking.map(|(least, most)| [least, most]),
            explained: lacking.is_some(),
            normal_pages_line: failed.went_on,
            why: why.unwrap_or_else(|| "the recording does not tell why".to_owned()),
        }
    };
    plan.failed.iter().map(report).collect()
}

/// What makes the pool of a size larger.
pub(super) fn setting(shift: u32, default_shift: u32) -> String {
    if shift == default_shift {
        "vm.nr_hugepages".to_owned()
    } else {
        format!("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", 1u64 << (shift - 10))
    }
}

fn want_of_memory(
    failed: &Failed,
    attempt: &Attempt,
    choice: &Choice,
    record: &Record,
    default_shift: u32,
) -> String {
    let limits = other_limits(failed);
    let setting = setting(attempt.shift, default_shift);
    match lacked(attempt, choice, record) {
        Some((least, most)) if least == most => {
            format!("the pool lacked {}: raise {setting} by that", counted(least, "page", "pages"))
        }
        Some((least, most)) => format!(
            "the pool lacked {} to {} (the recording does not tell how large it was): raise {setting} by {}",
            grouped(least),
            counted(most, "page", "pages"),
            grouped(most)
        ),
        None if choice.is_guess(attempt.shift) => match only_size(attempt, choice, record) {
            Some(pages) => format!(
                "only a pool of exactly {} would explain it, so it is not taken to be of that size. {limits}",
                counted(pages, "page", "pages")
            ),
            None => format!("no size of the pool explains it. {limits}"),
        },
        None => format!(
            "{} left for it, so the pool is not the reason. {limits}",
            match attempt.available {
                1 => "1 page was".to_owned(),
                pages => format!("{} pages were", grouped(pages)),
            }
        ),
    }
}

/// What other errors mean for somebody who asks for huge pages.
fn refused(failed: &Failed) -> Option<&'static str> {
    if failed.call == "shmat" {
        return match &*failed.error {
            "EACCES" => Some("the rights of the segment do not allow it"),
            "EINVAL" => {
                Some("the address is no multiple of the size of a page, or something else lies there")
            }
            "ENOMEM" => Some("the process has no room for it: see vm.max_map_count and RLIMIT_AS"),
            "EIDRM" => Some("the segment was removed"),
            _ => None,
        };
    }
    Some(match &*failed.error {
        "EPERM" => {
            "the process may not use huge pages: give it CAP_IPC_LOCK, or its group with vm.hugetlb_shm_group"
        }
        "EACCES" => "the file or the mount does not allow it",
        "EAGAIN" => "a limit of locked memory: see ulimit -l",
        "ENOSPC" => "the pool, or the limit of the mount, has no page left",
        "ENODEV" | "ENOENT" => "the kernel has no huge pages of that size",
        "EINVAL" if failed.bytes == 0 => "the kernel has no huge pages of that size, or knows no such flag",
        "EINVAL" => {
            "the kernel has no huge pages of that size, or the address, length or offset is no multiple of it"
        }
        _ => return None,
    })
}

impl FailedCall {
    /// In words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { line, pid, call, error, .. } = self;
        let asked = if self.bytes > 0 {
            let pages = counted(self.pages, "page", "pages");
            format!("asked for {} ({pages} of {})", size(self.bytes), size(self.page_kb << 10))
        } else {
            format!("asked for pages of {}", size(self.page_kb << 10))
        };
        let mut text = format!(
            "line {line}, process {pid}, {call} ({}): {asked}, got {error}: {}.",
            self.backing, self.why
        );
        if let Some(line) = self.normal_pages_line {
            text += &format!(" The program went on with normal pages (line {line}).");
        }
        text
    }
}
