//! Handlers that are not asked (`UFFD_FEATURE_WP_ASYNC`), and scans that say what was written and protect it in one step
//! (`PAGEMAP_SCAN`).
//!
//! A store to a protected page takes the protection off, and goes on. So a store that comes after a scan is in the next one, and one
//! that comes before it is in this one or in the one before: none of them is in no scan at all.

use std::cell::Cell;
use std::rc::Rc;

use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::Access;
use hugewalk::mm::Advice;
use hugewalk::pagewalk::{Categories, Scan, ScanFlags};
use hugewalk::uffd::{Features, Modes, Userfault};

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, MISTAKE, NONE, OWN, Row};
use super::stores::{PAGES, row, store};
use crate::explore::violation;
use crate::lab::{Cpu, Flaw, Lab, Property};

/// As [`PAGES`], where a page may go with what was stored to it.
const GOES: &[Property] =
    &[Property::I1, Property::I3, Property::I6, Property::I11, Property::I12, Property::I14];

pub(super) const ROWS: &[Row] = &[
    row!(
        "S75",
        "A stores twice to a page that is protected; B scans, and protects what was written",
        store_and_scan
    ),
    row!("S75:no-flush", "S75, and the scan does not flush", store_and_scan, on Flaw::NoFlush),
    row!("S75/two", "S75, and C scans too", store_and_scan_twice),
    row!(
        "S75/clean",
        "A stores for the first time to a page that may be written; B scans, and protects it",
        store_first_and_scan
    ),
    row!(
        "S75/clean:read-then-write",
        "S75/clean, and B reads the entry and writes it later",
        store_first_and_scan,
        on Flaw::TornExchange
    ),
    row!(
        "S75/copy",
        "A stores to a protected page that a fork shares, and gets a copy; B scans",
        store_to_shared_and_scan
    ),
    row!("S75/copy:late-copy", "S75/copy, and the page is copied after the copy is mapped", store_to_shared_and_scan, on Flaw::LateFill),
    row!(
        "S75/missing",
        "A stores where nothing is mapped; B scans, and protects what was written",
        store_anew_and_scan
    ),
    row!("S75/fork", "A stores to a protected private page; B scans; C forks", store_and_fork),
    row!("S75/fork:no-flush", "S75/fork, and nobody flushes", store_and_fork, on Flaw::NoFlush),
    row!("S75/punch", "A stores to a protected page; B scans, and punches it out of the file", store_and_punch, by GOES, is OWN),
    row!("S75/punch:no-flush", "S75/punch, and nobody flushes", store_and_punch, by GOES, on Flaw::NoFlush),
    row!(
        "S75/unshare",
        "A stores through a table that is shared; B, another thread, registers the mapping, which unshares, and scans",
        store_and_register
    ),
    row!(
        "S75/unshare:leaves-only",
        "S75/unshare, and the flush is one for leaves alone",
        store_and_register,
        without "flush-tables"
    ),
    row!("S75/migrate", "A stores to a protected page; B moves it elsewhere, and scans", store_and_migrate),
    row!("S75/close", "A stores to a protected page; B, the handler, closes", store_and_close),
];

/// Scans page 0, and protects it if it was written. Was it?
fn scan(task: &mut LabTask, process: &Process) -> bool {
    let scan = Scan {
        flags: ScanFlags::WP_MATCHING,
        mask: Categories::WRITTEN,
        report: Categories::WRITTEN,
        max_regions: 1,
        ..Scan::new(page(0)..page(1))
    };
    let found = process.scan_pages(task, &scan).expect("memory");
    !found.regions.is_empty()
}

/// What scans have said, and at the end the last of them: some scan says that page 0 was written.
struct Scans(Rc<Cell<bool>>);

impl Scans {
    /// Somebody will have stored to page 0 when all threads have ended.
    fn begin(bench: &mut Bench<'_>, process: &Process) -> Self {
        let (said, process) = (Rc::new(Cell::new(false)), process.clone());
        let before = said.clone();
        bench.at_end(move |task| {
            if !scan(task, &process) && !before.get() {
                let text = "I16: a processor has stored to a page, and no scan says that it was written";
                violation(text.to_owned(), Property::I16);
            }
        });
        Self(said)
    }

    fn scans(&self, bench: &mut Bench<'_>, process: &Process) {
        let (said, process) = (self.0.clone(), process.clone());
        bench.cpu("PAGEMAP_SCAN", move |task| {
            if scan(task, &process) {
                said.set(true);
            }
        });
    }
}

/// A handler that is not asked, of the first pages of a mapping. It stays to the end.
fn handler(bench: &mut Bench<'_>, process: &Process, length: u64) -> Rc<Userfault<Lab>> {
    let handler = Userfault::new(process, Features::WP_ASYNC).expect("memory");
    handler.register(bench.task(), BASE, length, Modes::WP).expect("mapped");
    let handler = Rc::new(handler);
    bench.keep_handler(&handler);
    handler
}

/// A process whose page 0 is mapped and protected.
fn protected(bench: &mut Bench<'_>) -> (File, Process) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    handler(bench, &process, PUD_SIZE);
    assert!(scan(bench.task(), &process), "it was written");
    (file, process)
}

/// As [`protected`], with a private page.
fn protected_private(bench: &mut Bench<'_>) -> Process {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    handler(bench, &process, PMD_SIZE);
    assert!(scan(bench.task(), &process), "it was written");
    process
}

fn stores(bench: &mut Bench<'_>, process: &Process) {
    let process = process.clone();
    bench.cpu("store", move |task| store(task, &process, 0));
}

fn store_and_scan(bench: &mut Bench<'_>) {
    let (_file, process) = protected(bench);
    Scans::begin(bench, &process).scans(bench, &process);
    bench.cpu("store, store", move |task| {
        store(task, &process, 0);
        store(task, &process, 0);
    });
}

fn store_and_scan_twice(bench: &mut Bench<'_>) {
    let (_file, process) = protected(bench);
    let scans = Scans::begin(bench, &process);
    stores(bench, &process);
    scans.scans(bench, &process);
    scans.scans(bench, &process);
}

fn store_first_and_scan(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    handler(bench, &process, PUD_SIZE);
    // Brought in once more, it may be written, and was not.
    process.madvise(bench.task(), BASE, PUD_SIZE, Advice::DontNeed).expect("mapped");
    process.fault(bench.task(), BASE, Access::Read).expect("a page");
    Scans::begin(bench, &process).scans(bench, &process);
    stores(bench, &process);
}

fn store_to_shared_and_scan(bench: &mut Bench<'_>) {
    let process = protected_private(bench);
    bench.fork(&process);
    Scans::begin(bench, &process).scans(bench, &process);
    stores(bench, &process);
}

fn store_anew_and_scan(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[1]);
    handler(bench, &process, PUD_SIZE);
    Scans::begin(bench, &process).scans(bench, &process);
    stores(bench, &process);
}

fn store_and_fork(bench: &mut Bench<'_>) {
    let process = protected_private(bench);
    Scans::begin(bench, &process).scans(bench, &process);
    stores(bench, &process);
    let nursery = bench.nursery();
    bench.cpu("fork", move |task| nursery.keep(process.fork(task).expect("memory")));
}

fn store_and_punch(bench: &mut Bench<'_>) {
    let (file, process) = protected(bench);
    stores(bench, &process);
    bench.cpu("PAGEMAP_SCAN, fallocate", move |task| {
        scan(task, &process);
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
    });
}

fn store_and_register(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let handler = Rc::new(Userfault::new(&process, Features::WP_ASYNC).expect("memory"));
    bench.keep_handler(&handler);
    let same = process.clone();
    bench.cpu("store, store", move |_| {
        let mut cpu = Cpu::new(&same);
        cpu.store(page(0));
        cpu.store(page(0));
    });
    bench.cpu("UFFDIO_REGISTER, PAGEMAP_SCAN", move |task| {
        handler.register(task, BASE, PUD_SIZE, Modes::WP).expect("mapped");
        scan(task, &process);
    });
}

fn store_and_migrate(bench: &mut Bench<'_>) {
    let (_file, process) = protected(bench);
    let frame = bench.frame(&process, 0);
    let scans = Scans::begin(bench, &process);
    stores(bench, &process);
    bench.cpu("migrate, PAGEMAP_SCAN", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        let _ = hugetlb.migrate(task, frame);
        if scan(task, &process) {
            scans.0.set(true);
        }
    });
}

fn store_and_close(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let handler = Userfault::new(&process, Features::WP_ASYNC).expect("memory");
    handler.register(bench.task(), BASE, PUD_SIZE, Modes::WP).expect("mapped");
    scan(bench.task(), &process);
    stores(bench, &process);
    bench.cpu("close", move |task| drop(handler.close(task)));
}
