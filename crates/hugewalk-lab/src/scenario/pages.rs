//! Pages that are given back, moved and handed out again, while processors and walkers come to them.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, MISTAKE, NONE, Row};
use super::other::fault;
use super::stores::{PAGES, row};
use crate::lab::{Cpu, Flaw, Lab, Property, Walker};

pub(super) const ROWS: &[Row] = &[
    row!(
        "S36",
        "nine private pages go at once, more than a batch holds without memory, and there is none; A loads from the last; C gets a page that is free",
        full_batch
    ),
    row!("S36:late-flush", "S36, and pages are given back before the flush", full_batch, on Flaw::LateFlush),
    row!(
        "S36/two",
        "two private pages go at once; A loads from both, and once more (only a changed engine shows the mistake: a flush of less than what was unmapped)",
        two_at_once
    ),
    row!("S37", "a page is touched for the first time; another processor loads", first_touch),
    row!("S37/private", "S37 with a private mapping", private_first_touch),
    row!(
        "S37/read",
        "a page of a shared mapping is touched for the first time; somebody reads it by the file",
        first_touch_and_read
    ),
    row!("S37:late-fill", "S37, and the page is zeroed after it is mapped", first_touch, on Flaw::LateFill),
    row!("S38", "A pins a page without locks; B moves it elsewhere", pin_and_migrate),
    row!(
        "S38:torn-freeze",
        "S38, and B looks whether anybody else holds the page, and freezes its references later",
        pin_and_migrate,
        on Flaw::TornFreeze
    ),
    row!(
        "S38/follow-page",
        "A takes a reference to a page under the lock of its table; B punches a hole there, and another file gets the page",
        follow_and_punch
    ),
    row!(
        "S38/follow-page:open-lock",
        "S38/follow-page, and the lock keeps nobody out: A takes its reference as if it had unlocked before",
        follow_and_punch,
        on Flaw::OpenTableLock
    ),
    row!("S39", "A reads from a file; B punches a hole, and another file gets the page", read_and_punch),
    row!(
        "S39:late-reference",
        "S39, and the reader takes its reference after it has released the lock of the page cache",
        read_and_punch,
        on Flaw::LateReference
    ),
    row!("S39/write", "A writes to a file; B punches a hole meanwhile; a processor loads", write_and_punch,
        by super::reservations::RESERVED),
    row!(
        "S39/fault",
        "a private mapping copies the file's page at its first store; B punches a hole, and another file gets the page",
        copy_and_punch
    ),
    row!(
        "S39/allocate",
        "a page is preallocated while another processor punches it out, and a third faults",
        allocate_and_punch
    ),
    row!(
        "S39/allocate-read",
        "a page is preallocated while another processor reads there by the file",
        allocate_and_read
    ),
    row!(
        "S39/reuse",
        "B punches a hole, and meanwhile C, who faults in another file, gets the page",
        punch_and_reuse
    ),
    row!(
        "S40",
        "B cuts a mapping at both ends of a range, each in a table that is shared; C faults in both (a split that unshares one of the two would be seen at once: I5)",
        cut_twice
    ),
    row!(
        "S40:unshare-early",
        "S40, and the split lets its locks go between unsharing and being visible",
        cut_twice,
        without "exchange-under-i-mmap"
    ),
    row!(
        "S41",
        "A looks for two pages; B unmaps, and the table goes",
        load_and_unmap,
        by FREED
    ),
    row!(
        "S41:late-flush",
        "S41, and the table is handed to RCU before the flush",
        load_and_unmap,
        by FREED,
        on Flaw::LateFlush
    ),
    row!("S41/exit", "A looks for two pages; B exits", load_and_exit, by FREED),
    row!(
        "S51",
        "A loads; B moves a part of a mapping whose table is shared; C, who shares it, stores",
        move_a_part
    ),
    row!("S51:no-flush", "S51, and B does not flush", move_a_part, on Flaw::NoFlush),
    row!("S51/private", "a part of a private mapping moves; A stores at both places", move_private),
    row!("S51/private:no-flush", "S51/private, and B does not flush", move_private, on Flaw::NoFlush),
    row!(
        "S51/punch",
        "a part of a mapping moves; its page is punched out; A loads at both places",
        move_and_punch
    ),
];

/// Tables, and pages, that are used after their end.
const FREED: &[Property] = &[Property::I1];

fn full_batch(bench: &mut Bench<'_>) {
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 9);
    let file = bench.file();
    let process = bench.private_written(&file, 9);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    let same = process.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(8));
        cpu.load(page(8));
    });
    bench.cpu("madvise", move |task| {
        Lab::set_memory(false);
        Lab::with_failing_heap(|| same.madvise(task, BASE, 9 * PMD_SIZE, Advice::DontNeed)).expect("mapped");
        Lab::set_memory(true);
    });
    // There may be none yet.
    bench.cpu("fault", move |task| _ = other.fault(task, page(0), Access::Write));
}

fn two_at_once(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 2);
    let same = process.clone();
    bench.cpu("loads", move |_| {
        let mut cpu = Cpu::new(&process);
        for index in [0, 1, 0, 1] {
            cpu.load(page(index));
        }
    });
    bench.cpu("madvise", move |task| {
        same.madvise(task, BASE, 2 * PMD_SIZE, Advice::DontNeed).expect("mapped");
    });
}

fn first_touch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let same = process.clone();
    bench.cpu("load", move |_| _ = Cpu::new(&process).load(page(0)));
    bench.cpu("fault", move |task| fault(task, &same, 0));
}

fn private_first_touch(bench: &mut Bench<'_>) {
    let file = bench.file();
    // It has page 0.
    let process = bench.private(&file, 2);
    let same = process.clone();
    bench.cpu("load", move |_| _ = Cpu::new(&process).load(page(1)));
    bench.cpu("fault", move |task| fault(task, &same, 1));
}

fn first_touch_and_read(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    bench.cpu("read", move |_| _ = file.read_at(0, &mut [0; 8]));
    bench.cpu("fault", move |task| fault(task, &process, 0));
}

fn pin_and_migrate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    bench.cpu("GUP-fast", move |task| drop(process.pin_page_fast(task, page(0), GupFlags::PIN)));
    bench.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        let _ = hugetlb.migrate(task, frame);
    });
}

fn follow_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 1);
    bench.cpu("follow_page", move |task| {
        let walker = Walker::new(&process, page(0));
        let found = process.follow_page(task, page(0), GupFlags::empty()).expect("no failure");
        walker.told_fast(found.as_ref().map(|found| found.frame()));
    });
    bench.cpu("fallocate, fault", move |task| {
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        if other.fault(task, page(0), Access::Write).is_ok() {
            Walker::foreign(frame);
        }
    });
}

fn read_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _process = bench.process(&file, &[0]);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 1);
    let same = file.clone();
    bench.cpu("read", move |_| {
        let mut into = [0; 8];
        same.read_at(0, &mut into).expect("no failure");
    });
    bench.cpu("fallocate, fault", move |task| {
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        let _ = other.fault(task, page(0), Access::Write);
    });
}

fn write_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let same = file.clone();
    bench.cpu("write", move |task| same.write_at(task, 0, &[1; 8]).expect("a page"));
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
    bench.cpu("load, load", move |task| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(0));
        fault(task, &process, 0);
        cpu.load(page(0));
    });
}

fn copy_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _process = bench.process(&file, &[0]);
    let private = bench.private(&file, 1);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 2);
    bench.cpu("store", move |task| fault(task, &private, 0));
    bench.cpu("fallocate, fault", move |task| {
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        let _ = other.fault(task, page(0), Access::Write);
    });
}

fn allocate_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let same = file.clone();
    bench.cpu("fallocate", move |task| same.allocate(task, 0, PMD_SIZE, false).expect("a page"));
    bench.cpu("punch", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
    bench.cpu("fault", move |task| fault(task, &process, 0));
}

fn allocate_and_read(bench: &mut Bench<'_>) {
    let file = bench.file();
    let same = file.clone();
    bench.cpu("fallocate", move |task| same.allocate(task, 0, PMD_SIZE, false).expect("a page"));
    bench.cpu("read", move |_| _ = file.read_at(0, &mut [0; 8]));
}

fn punch_and_reuse(bench: &mut Bench<'_>) {
    let (file, other_file) = (bench.file(), bench.file());
    let _process = bench.process(&file, &[0]);
    let other = bench.process(&other_file, &[]);
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 1);
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
    // There may be none yet.
    bench.cpu("fault", move |task| _ = other.fault(task, page(0), Access::Write));
}

/// A processor that knows the table of page 0 comes to page 1. The table has no pages.
fn load_two(bench: &mut Bench<'_>) -> Process {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    process.madvise(bench.task(), BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
    let same = process.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(0));
        cpu.load(page(1));
    });
    same
}

fn load_and_unmap(bench: &mut Bench<'_>) {
    let process = load_two(bench);
    bench.cpu("munmap", move |task| process.munmap(task, BASE, PUD_SIZE).expect("aligned"));
}

fn load_and_exit(bench: &mut Bench<'_>) {
    let process = load_two(bench);
    bench.cpu("exit", move |task| process.exit(task).expect("its own task"));
}

const ELSEWHERE: VirtAddr = VirtAddr::new(8 * PUD_SIZE);

/// Moves page 0 elsewhere.
fn move_page(task: &mut LabTask, process: &Process) {
    process.mremap(task, BASE, PMD_SIZE, PMD_SIZE, RemapTo::Fixed(ELSEWHERE)).expect("room");
}

fn move_a_part(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(0));
        cpu.load(page(0));
    });
    bench.cpu("mremap", move |task| move_page(task, &same));
    bench.cpu("store", move |_| _ = Cpu::new(&other).store(page(0)));
}

fn move_private(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 2);
    let same = process.clone();
    bench.cpu("store, store", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.store(page(0));
        cpu.store(ELSEWHERE);
        cpu.store(page(0));
    });
    bench.cpu("mremap", move |task| move_page(task, &same));
}

fn move_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(0));
        cpu.load(ELSEWHERE);
    });
    bench.cpu("mremap", move |task| move_page(task, &same));
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
}

/// A file of two gigabytes.
pub(super) fn two_gigabytes(bench: &mut Bench<'_>) -> File {
    let file = HugeFile::new(bench.hugetlb(), X86_64::SIZE_2M, None).expect("memory");
    file.truncate(bench.task(), 2 * PUD_SIZE).expect("aligned");
    bench.keep_file(&file);
    file
}

/// A process that maps such a file, and has touched the first page of each gigabyte.
pub(super) fn touched_in_both(bench: &mut Bench<'_>, file: &File) -> Process {
    let process = bench.empty();
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: 2 * PUD_SIZE,
        protection: Protection::READ | Protection::WRITE,
        flags: MapFlags::SHARED | MapFlags::NORESERVE,
        backing: Backing::File { file, offset: 0 },
    };
    process.mmap(bench.task(), &request).expect("room");
    for index in [0, 512] {
        process.fault(bench.task(), page(index), Access::Write).expect("a page");
    }
    process
}

fn cut_twice(bench: &mut Bench<'_>) {
    let file = two_gigabytes(bench);
    let process = touched_in_both(bench, &file);
    let other = touched_in_both(bench, &file);
    bench.cpu("madvise", move |task| {
        process.madvise(task, page(1), 512 * PMD_SIZE, Advice::DontDump).expect("mapped");
    });
    bench.cpu("madvise, fault, fault", move |task| {
        other.madvise(task, BASE, 2 * PUD_SIZE, Advice::DontNeed).expect("mapped");
        fault(task, &other, 0);
        fault(task, &other, 512);
    });
}
