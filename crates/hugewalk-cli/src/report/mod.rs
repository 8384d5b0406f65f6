//! What a replay has to say, as data. The JSON form is these structures as they are; their shape is the schema, and
//! [`SCHEMA`] changes whenever a field is taken away or changes its meaning.

pub mod text;
pub mod truth;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::costs::Costs;
use crate::trace::{Clock, Time};
pub use truth::{Comparison, Truth};

/// The name of the schema of [`Report`].
pub const SCHEMA: &str = "hugewalk-replay/1";

/// A whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What was replayed.
    pub recording: Recording,
    /// The huge mappings, in the order in which they were made.
    pub mappings: Vec<Mapping>,
    /// The page tables at the end.
    pub tables: Tables,
    /// The page tables when as many processes as ever held huge mappings, if that was earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<Peak>,
    /// The processes alive at the end that hold huge mappings, by pid.
    pub processes: Vec<Process>,
    /// What broke sharing, and what it cost.
    pub unsharing: Unsharing,
    /// The pools at the end, by page size.
    pub pools: Vec<Pool>,
    /// Calls whose result is not the recorded one.
    pub differences: Vec<Difference>,
    /// What the recording does not tell or the replay could not follow, and what would help: a sentence each.
    pub notes: Vec<String>,
    /// Calls that asked for huge pages and got none.
    pub failed: Vec<FailedCall>,
    /// Processes that a signal killed.
    pub killed: Vec<Killed>,
    /// Calls that were not performed, by name, and how often they were made.
    pub skipped: BTreeMap<String, u64>,
    /// Of these, the ones that may matter to huge pages.
    pub may_matter: BTreeMap<String, u64>,
    /// How many others there are.
    pub unconcerned: u64,
    /// The comparison with what the kernel said, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truth: Option<Comparison>,
    /// What there is to gain, a sentence each, at most three.
    pub advice: Vec<String>,
    /// What there would be if the program had mapped otherwise; first what there is. Empty if that was not computed.
    pub what_if: Vec<WhatIf>,
    /// What a fault is taken to cost in `advice`, and where that comes from.
    pub costs: Costs,
    /// How fast it went.
    pub rate: Rate,
}

/// What was replayed.
#[derive(Debug, Serialize)]
pub struct Recording {
    /// The strace file.
    pub strace: String,
    /// The fault file.
    pub faults: Option<String>,
    /// What the times are, if there are any.
    pub clock: Clock,
    /// The moment of the first event.
    pub from: Time,
    /// The moment at which the replay stopped.
    pub until: Time,
    /// Processes that lived, clones included.
    pub processes: u64,
    /// Calls performed on huge pages.
    pub calls: u64,
    /// Faults in huge mappings.
    pub huge_faults: u64,
    /// Faults elsewhere, which do not concern us.
    pub other_faults: u64,
    /// How large the pools were at the start, and why.
    pub pool: String,
    /// How many times over the processes ran.
    pub clones: u32,
}

/// A huge mapping, as a call made it. What fork made of it is counted in `processes`.
#[derive(Debug, Serialize)]
pub struct Mapping {
    /// The process that made it.
    pub pid: u32,
    /// The line of the strace file.
    pub line: u32,
    /// The call.
    pub call: &'static str,
    /// What is mapped: a path, `anonymous`, `memfd`, `shm`.
    pub backing: String,
    /// From and to, as `/proc/PID/smaps` writes it.
    pub range: String,
    /// Its size.
    pub bytes: u64,
    /// The size of its pages.
    pub page_kb: u64,
    /// Whether stores are seen by others (`MAP_SHARED`).
    pub shared: bool,
    /// How many processes have held it, at most at one time, copies included.
    pub processes: u64,
    /// The aligned 1 GiB ranges it covers whole, and so could share if all else allows it.
    pub whole_ranges: u64,
    /// Those whose tables may be shared.
    pub sharable_ranges: u64,
    /// What cannot share, and why.
    pub unsharable: Vec<Unsharable>,
}

/// A part of a mapping that cannot share its tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unsharable {
    /// From and to.
    pub range: String,
    /// Its size.
    pub bytes: u64,
    /// Why, in words.
    pub why: String,
}

/// Page tables that hold huge-page entries.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tables {
    /// Processes that hold huge mappings, or did and are alive.
    pub processes: u64,
    /// How many there are.
    pub tables: u64,
    /// How often they are used: by how many processes each, all told.
    pub uses: u64,
    /// How many have how many users.
    pub by_users: BTreeMap<u64, u64>,
    /// What they take.
    pub bytes: u64,
    /// What they would take if each user had its own.
    pub bytes_unshared: u64,
    /// Pages that processes faulted in themselves.
    pub pages_faulted: u64,
    /// Pages that processes reach without having faulted them in: faults that sharing saved.
    pub faults_saved: u64,
}

/// The page tables at their peak.
#[derive(Clone, Debug, Serialize)]
pub struct Peak {
    /// When: before this moment.
    pub time: Time,
    /// Before this line of the strace file.
    pub line: u32,
    /// The tables.
    pub tables: Tables,
}

/// What a process holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// `HugetlbPages` of `/proc/PID/status`: what it faulted in itself.
    pub hugetlb_pages_kb: u64,
    /// Its huge mappings, by address.
    pub mappings: Vec<Resident>,
}

/// What a process reaches through one mapping, as `/proc/PID/smaps` counts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// From and to.
    pub range: String,
    /// `Shared_Hugetlb`: pages mapped more than once, or through a table with more than one user.
    pub shared_hugetlb_kb: u64,
    /// `Private_Hugetlb`: the others.
    pub private_hugetlb_kb: u64,
}

/// What broke sharing, and what each protocol pays for it.
#[derive(Debug, Serialize)]
pub struct Unsharing {
    /// The processors assumed.
    pub cpus: u32,
    /// How many tables were unshared by which call (`exit` among them).
    pub by_call: BTreeMap<String, u64>,
    /// Each occasion, in order of time.
    pub events: Vec<Unshare>,
    /// What they cost under each protocol.
    pub protocols: Vec<Protocol>,
}

/// One call that unshared tables, of all copies of the process that made it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Unshare {
    /// When.
    pub time: Time,
    /// The line of the strace file.
    pub line: u32,
    /// Who.
    pub pid: u32,
    /// Which call.
    pub call: &'static str,
    /// How many tables it gave up.
    pub tables: u64,
    /// Of these, how many had one user left afterwards.
    pub last_sharers: u64,
    /// TLB flushes that it took.
    pub flushes: u64,
    /// Of these, how many covered a table with one user left.
    pub last_flushes: u64,
}

/// What all unsharing costs under one protocol.
#[derive(Debug, Serialize)]
pub struct Protocol {
    /// `ipi-each`, `ipi-last` or `hugewalk`.
    pub name: &'static str,
    /// What it does, in words.
    pub rule: &'static str,
    /// TLB flushes.
    pub flushes: u64,
    /// Grace periods that somebody waits for.
    pub grace_periods: u64,
    /// Interrupts sent to all processors.
    pub broadcasts: u64,
    /// Processors interrupted by these, all told.
    pub processors_disturbed: u64,
}

/// A pool of huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// The size of its pages.
    pub huge_page_kb: u64,
    /// `HugePages_Total`
    pub total: u64,
    /// `HugePages_Free`
    pub free: u64,
    /// `HugePages_Rsvd`
    pub reserved: u64,
    /// `HugePages_Surp`
    pub surplus: u64,
    /// Whether nobody said how large it was at the start, so that `total` and `free` are a guess.
    pub guessed: bool,
}

/// A call that asked for huge pages and got none.
#[derive(Debug, Serialize)]
pub struct FailedCall {
    /// The line of the strace file.
    pub line: u32,
    /// The process.
    pub pid: u32,
    /// The call.
    pub call: &'static str,
    /// What was to be mapped, as in [`Mapping`].
    pub backing: String,
    /// How much it asked for, in whole pages; 0 if it asked for none yet.
    pub bytes: u64,
    /// The size of the pages.
    pub page_kb: u64,
    /// How many.
    pub pages: u64,
    /// The error.
    pub error: String,
    /// How many pages the pool lacked, at least and at most; none if that is not why it failed.
    pub pages_lacking: Option<[u64; 2]>,
    /// Whether the pool explains the failure.
    pub explained: bool,
    /// The line on which the process got normal pages instead.
    pub normal_pages_line: Option<u32>,
    /// Why it failed and what would help, in words.
    pub why: String,
}

/// A process that a signal killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Killed {
    /// The line of the strace file.
    pub line: u32,
    /// The process.
    pub pid: u32,
    /// The signal, as strace names it.
    pub signal: String,
}

/// A call that ended otherwise than it was recorded.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The line of the strace or fault file.
    pub line: u32,
    /// The process.
    pub pid: u32,
    /// The call, or `fault`.
    pub call: String,
    /// What was recorded.
    pub recorded: String,
    /// What the replay got.
    pub replayed: String,
}

/// The peak of the recording, performed otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct WhatIf {
    /// Whether each shared mapping begins where the first byte of its file would lie on a 1 GiB boundary.
    pub aligned: bool,
    /// The size of the pages of what was recorded with pages of 2 MiB.
    pub page_kb: u64,
    /// How many times over the processes ran.
    pub clones: u32,
    /// The tables when as many processes as ever held huge mappings; null if it was not computed.
    pub tables: Option<Tables>,
    /// How many tables were unshared in all.
    pub unshared: u64,
    /// How often every processor was interrupted for that, by protocol.
    pub broadcasts: BTreeMap<String, u64>,
    /// What the pools need for all that is mapped.
    pub reserved_kb: u64,
    /// Calls that pages of this size do not allow, and that were left out.
    pub left_out: u64,
    /// Why it was not computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_computed: Option<String>,
}

/// How fast the replay went.
#[derive(Debug, Default, Serialize)]
pub struct Rate {
    /// Time taken, in milliseconds.
    pub milliseconds: u64,
    /// Processes made per second.
    pub processes_per_second: u64,
    /// Faults taken per second.
    pub faults_per_second: u64,
    /// The most memory that this program has used, in KiB; 0 if the system does not say.
    pub peak_memory_kb: u64,
}

/// A range as `/proc/PID/smaps` writes it.
#[must_use]
pub fn range_text(range: &std::ops::Range<u64>) -> String {
    format!("{:x}-{:x}", range.start, range.end)
}
