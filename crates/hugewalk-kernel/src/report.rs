//! What is counted, and what is said at the end of a run. docs/kernel.md has the form.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hugewalk::pool::PoolCounters;
use spin::Mutex;

use crate::arch::SIZE_2M;
use crate::console::report;
use crate::cpu::{self, clock, shootdown};
use crate::memory::frames::{self, Kind};
use crate::memory::{heap, stack};
use crate::platform::{hugetlb, protocol, sizes};
use crate::{process, task};

/// A number that only grows.
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Keeps the largest.
    pub fn at_least(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    /// What it is.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters.
pub struct Counters {
    /// Page faults, of programs and on their behalf.
    pub faults: Counter,
    /// TLB flushes that the engine asked for.
    pub flushes: Counter,
    /// Address spaces that began to share a table.
    pub shares: Counter,
    /// Address spaces that stopped.
    pub unshares: Counter,
    /// Flushes after which a table had one user left.
    pub last_flushes: Counter,
    /// Most huge pages in use.
    pub pages_peak: Counter,
    /// Huge pages in the pool at the start.
    pub pages: Counter,
}

/// See [`Counters`].
pub static COUNTERS: Counters = Counters {
    faults: Counter::new(),
    flushes: Counter::new(),
    shares: Counter::new(),
    unshares: Counter::new(),
    last_flushes: Counter::new(),
    pages_peak: Counter::new(),
    pages: Counter::new(),
};

/// System calls that were made, by number.
static CALLS: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
/// What the kernel lacks, by name.
static MISSING: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
/// How many tables were shared by so many roots at most.
static SHARED: Mutex<BTreeMap<u64, usize>> = Mutex::new(BTreeMap::new());
/// How many had begun to share a table at the last look.
static SEEN_SHARES: AtomicU64 = AtomicU64::new(0);

/// A system call was made.
pub fn called(number: u64) {
    if let Some(count) = CALLS.get(number as usize)
        && count.fetch_add(1, Ordering::Relaxed) == 0
        && CALLS.iter().filter(|count| count.load(Ordering::Relaxed) > 0).count() == 1
    {
        report(format_args!("user"));
    }
}

/// The kernel lacks something that the program asked for.
pub fn missing(name: String) {
    *MISSING.lock().entry(name).or_insert(0) += 1;
}

/// Looks at the pool, for the most that were in use.
pub fn sample() {
    let counters = hugetlb().pool(SIZE_2M).counters();
    COUNTERS.pages_peak.at_least(counters.total - counters.free);
}

/// Looks at the hardware's tables of all processes, if one has begun to share a table since the last look: which tables do
/// several of them reach?
pub fn sample_tables() {
    let shares = COUNTERS.shares.value();
    if SEEN_SHARES.swap(shares, Ordering::Relaxed) == shares {
        return;
    }
    let mut users: BTreeMap<u64, usize> = BTreeMap::new();
    for process in process::all() {
        if let Ok(space) = process.space() {
            space.middle_tables(|frame| *users.entry(frame).or_insert(0) += 1);
        }
    }
    let mut shared = SHARED.lock();
    for (frame, users) in users.into_iter().filter(|(_, users)| *users > 1) {
        let most = shared.entry(frame).or_insert(0);
        *most = users.max(*most);
    }
}

/// How the first process ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// With a status.
    Exit(u8),
    /// By a signal.
    Signal(u32),
}

/// Says how it went, looks for what was not given back, and ends the run.
pub fn finish(end: End) -> ! {
    leaks();
    match end {
        End::Exit(status) => report(format_args!("exit {status}")),
        End::Signal(signal) => report(format_args!("signal {signal}")),
    }
    for (name, count) in &*MISSING.lock() {
        report(format_args!("missing {count} {name}"));
    }
    let kinds = CALLS.iter().filter(|count| count.load(Ordering::Relaxed) > 0).count() as u64;
    let sent = shootdown::counts();
    for (name, value) in [
        ("calls", kinds),
        ("faults", COUNTERS.faults.value()),
        ("pages", COUNTERS.pages.value()),
        ("pages_peak", COUNTERS.pages_peak.value()),
        ("tables_peak", frames::most(Kind::Engine) as u64),
        ("shares", COUNTERS.shares.value()),
        ("unshares", COUNTERS.unshares.value()),
        ("flushes", COUNTERS.flushes.value()),
        ("last_flushes", COUNTERS.last_flushes.value()),
        ("interrupts", sent.flush + sent.barrier + sent.broadcast),
        ("interrupts_flush", sent.flush),
        ("interrupts_barrier", sent.barrier),
        ("interrupts_broadcast", sent.broadcast),
        ("broadcasts", sent.broadcasts),
        ("disturbed", sent.disturbed),
        ("wakeups", (0..cpu::count()).map(cpu::wakeups).sum()),
        ("nanoseconds", clock::now()),
        ("base_pages_peak", frames::most(Kind::Base) as u64),
        ("heap", heap::live() as u64),
        ("stacks", stack::in_use()),
    ] {
        report(format_args!("count {name} {value}"));
    }
    protocol::say();
    let mut by_users: BTreeMap<usize, u64> = BTreeMap::new();
    for users in SHARED.lock().values() {
        *by_users.entry(*users).or_insert(0) += 1;
    }
    for (users, tables) in by_users {
        report(format_args!("shared {tables} {users}"));
    }
    report(format_args!("end"));
    crate::console::end()
}

/// Everything that programs had is given back by now, or it leaked.
fn leaks() {
    let of_pools =
        |what: fn(PoolCounters) -> u64| sizes().map(|size| what(hugetlb().pool(size).counters())).sum();
    let found: Vec<(&str, u64)> = Vec::from([
        ("huge pages are still in use", of_pools(|pool| pool.total - pool.free)),
        ("huge pages are still reserved", of_pools(|pool| pool.reserved)),
        ("base pages", frames::in_use(Kind::Base) as u64),
        ("tables of base pages, or roots", frames::in_use(Kind::Table) as u64),
        ("tables of the engine", frames::in_use(Kind::Engine) as u64),
        ("threads", u64::from(task::tasks())),
    ]);
    for (what, count) in found.into_iter().filter(|(_, count)| *count > 0) {
        protocol::lost(format_args!("{count} {what}"));
    }
}
