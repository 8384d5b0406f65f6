//! What programs do wrong, and how each of it ends: with an error or a report, and with nothing lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::{Access, Fault as Found, FaultError};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, MapError, MapFlags, MapRequest};
use hugewalk::platform::Platform;
use hugewalk::pool::{PoolCounters, PoolEmpty};
use hugewalk::reserve::NoPage;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::checked::{Checked, Finding, Loads as _, run};
use hugewalk_host::{Host, task};

use super::broken::{Broken, Fault, Handle, reports};

const PAGE: HugeSize = X86_64::SIZE_2M;
const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE);

type Space<P> = hugewalk::Arc<AddressSpace<Arc<Checked<P>>>>;
type World<P> = (hugewalk::Arc<Hugetlb<Arc<Checked<P>>>>, Task<Arc<Checked<P>>>, Space<P>);

fn world<P: Platform>(platform: &Arc<Checked<P>>, pages: u64) -> World<P> {
    let hugetlb = Hugetlb::new(platform.clone()).unwrap();
    assert_eq!(hugetlb.resize_pool(PAGE, pages), pages);
    let task = task(&hugetlb).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    (hugetlb, task, space)
}

fn gigabyte<'a, P: Platform>() -> MapRequest<'a, P> {
    MapRequest::anonymous(PAGE, PUD_SIZE).shared().at(START)
}

#[test]
fn a_pool_that_is_too_small_is_an_error_and_shrinks_to_surplus_pages() {
    run(super::host(), |platform| {
        let (hugetlb, mut task, space) = world(platform, 4);
        let empty = PoolEmpty { asked: 512, available: 4 };
        assert_eq!(space.mmap(&mut task, &gigabyte()), Err(MapError::NoPage(NoPage::PoolEmpty(empty))));
        space.mmap(&mut task, &gigabyte().with(MapFlags::NORESERVE)).unwrap();
        let page = |number| START.checked_add(number * PMD_SIZE).unwrap();
        for number in 0..4 {
            assert_eq!(space.fault(&mut task, page(number), Access::Write), Ok(Found::Fresh));
        }
        for number in 4..6 {
            assert!(space.fault(&mut task, page(number), Access::Write).is_err());
        }
        // Pages in use stay, as surplus pages.
        assert_eq!(hugetlb.resize_pool(PAGE, 0), 0);
        let counters = |total, surplus| PoolCounters { total, surplus, ..PoolCounters::default() };
        assert_eq!(hugetlb.pool(PAGE).counters(), counters(4, 4));
        space.exit(&mut task).unwrap();
        assert_eq!(hugetlb.pool(PAGE).counters(), counters(0, 0));
    });
}

#[test]
fn too_few_tables_are_errors_that_leave_nothing_behind() {
    for tables in 0..6 {
        let host = Host::new(&super::config().max_tables(tables)).unwrap();
        run(host, |platform| {
            let attempt = || -> Option<()> {
                let hugetlb = Hugetlb::new(platform.clone()).ok()?;
                hugetlb.resize_pool(PAGE, 600);
                let mut task = task(&hugetlb).ok()?;
                let parent = AddressSpace::new(&hugetlb).ok()?;
                parent.mmap(&mut task, &gigabyte()).ok()?;
                parent.fault(&mut task, START, Access::Write).ok()?;
                let child = parent.fork(&mut task).ok()?;
                child.fault(&mut task, START, Access::Write).ok()?;
                Some(())
            };
            // Two roots, two tables below them, one of leaves that is shared: five are enough.
            assert_eq!(attempt().is_some(), tables >= 5);
        });
    }
}

#[test]
fn addresses_and_frames_that_are_nothing_are_errors() {
    run(super::host(), |platform| {
        let (hugetlb, mut task, space) = world(platform, 16);
        let file = HugeFile::new(&hugetlb, PAGE, None).unwrap();
        let eight = || MapRequest::file(&file, 0, 8 * PMD_SIZE).shared().at(START);
        space.mmap(&mut task, &eight()).unwrap();
        file.punch_hole(&mut task, 0, PMD_SIZE).unwrap();
        for found in [Found::Fresh, Found::Present, Found::Present] {
            assert_eq!(space.fault(&mut task, START, Access::Read), Ok(found));
        }
        for address in
            [0, START.as_u64() + 8 * PMD_SIZE, (1 << 47) - 4096, 1 << 60, u64::MAX].map(VirtAddr::new)
        {
            let fault = space.fault(&mut task, address, Access::Write);
            assert!(matches!(fault, Err(FaultError::NotMapped { .. })), "{address}: {fault:?}");
        }
        assert!(space.fault(&mut task, START, Access::Execute).is_err());
        assert!(space.mmap(&mut task, &MapRequest { length: 0, ..eight() }).is_err());
        assert!(space.mmap(&mut task, &MapRequest { length: u64::MAX, ..eight() }).is_err());
        assert!(space.munmap(&mut task, START, 4096).is_err());
        for frame in [0, 1, 1 << 39, u64::MAX].map(HugeFrame) {
            assert!(hugetlb.migrate(&mut task, frame).is_err());
            assert!(hugetlb.soft_offline(&mut task, frame).is_err());
            assert!(hugetlb.memory_failure(&mut task, frame).is_err());
            assert!(hugetlb.unpoison(frame).is_err());
            assert!(hugetlb.referenced(&mut task, frame).is_err());
            assert!(hugetlb.unmap_page(&mut task, frame).is_err());
        }
        space.exit(&mut task).unwrap();
        assert!(space.fault(&mut task, START, Access::Read).is_err());
        assert!(space.mmap(&mut task, &eight()).is_err());
        assert!(space.fork(&mut task).is_err());
        space.exit(&mut task).unwrap();
    });
}

#[test]
fn a_panic_while_a_page_is_zeroed_loses_nothing() {
    run(Broken::new(Fault::Nothing), |platform| {
        let (hugetlb, mut task, space) = world(platform, 600);
        space.mmap(&mut task, &gigabyte()).unwrap();
        let before = hugetlb.pool(PAGE).counters();
        *platform.inner().fault.lock().unwrap() = Fault::PanicsInZero;
        let fault = catch_unwind(AssertUnwindSafe(|| space.fault(&mut task, START, Access::Write)));
        assert!(fault.is_err());
        *platform.inner().fault.lock().unwrap() = Fault::Nothing;
        assert_eq!(hugetlb.pool(PAGE).counters(), before);
        assert_eq!(space.fault(&mut task, START, Access::Write), Ok(Found::Fresh));
        let visit = catch_unwind(AssertUnwindSafe(|| space.residency(&mut task, |_, _| panic!("a visitor"))));
        assert!(visit.is_err());
        space.munmap(&mut task, START, PUD_SIZE).unwrap();
    });
}

#[test]
fn a_system_lives_as_long_as_its_last_address_space() {
    run(super::host(), |platform| {
        let (hugetlb, mut task, space) = world(platform, 600);
        space.mmap(&mut task, &gigabyte()).unwrap();
        space.fault(&mut task, START, Access::Write).unwrap();
        drop((task, hugetlb));
        assert_ne!(platform.in_use(), (0, 0));
        drop(space);
    });
}

/// Guards taken against the order that the engine itself keeps. Nothing hangs here, and it is told all the same.
#[test]
fn locks_taken_in_both_orders_are_found() {
    let found = reports(Fault::Nothing, |platform: &Handle| {
        let (hugetlb, mut task, space) = world(platform, 600);
        let file = HugeFile::new(&hugetlb, PAGE, None).unwrap();
        space.mmap(&mut task, &MapRequest::file(&file, 0, PUD_SIZE).shared().at(START)).unwrap();
        let i_mmap = file.i_mmap_read(&mut task);
        drop(space.mmap_read(&mut task));
        drop(i_mmap);
    });
    let first = found.first().expect("nothing was found");
    assert!(matches!(first.finding, Finding::BothOrders { .. }), "{first}");
    assert!(first.caller.file().ends_with("space/mod.rs"), "{first}");
    let text = first.to_string();
    assert!(text.contains("file/i_mmap.rs") && text.contains("locks are taken in both orders"), "{text}");
}

#[test]
fn a_lock_that_the_thread_holds_already_is_found() {
    let found = reports(Fault::Nothing, |platform: &Handle| {
        let (_hugetlb, mut task, space) = world(platform, 600);
        space.mmap(&mut task, &gigabyte()).unwrap();
        let mmap = space.mmap_read(&mut task);
        // Works as long as no writer comes between.
        space.fault(&mut task, START, Access::Read).unwrap();
        drop(mmap);
    });
    let first = found.first().expect("nothing was found");
    assert!(matches!(first.finding, Finding::TakenTwice { .. }), "{first}");
}

/// A second task, of a thread that is in a section of its first.
#[test]
fn sleeping_in_a_read_section_is_found() {
    let found = reports(Fault::Nothing, |platform: &Handle| {
        let (hugetlb, task, space) = world(platform, 600);
        // SAFETY: that it is the thread's only one is not true, which is what is to be found. The RCU is the engine's own, for
        // which sleeping does not end a section.
        let mut second = unsafe { Task::new(&hugetlb) }.unwrap();
        let section = task.rcu_read_lock();
        let walked = huge_pte_offset(&section, space.mm(), START, PAGE).unwrap();
        assert!(walked.is_none());
        drop(space.mmap_read(&mut second));
        drop(section);
    });
    let first = found.first().expect("nothing was found");
    assert!(
        matches!(&first.finding, Finding::Slept { inside } if inside == "in an RCU read section"),
        "{first}"
    );
}

/// A processor keeps the translation whose flush did not happen. So what it reaches may never become anybody else's page.
#[test]
fn pages_whose_flush_panics_are_lost_and_never_somebody_elses() {
    // A batch, and more than one holds: these are flushed while more are being unmapped.
    for pages in [1, 300, 600] {
        let platform = Arc::new(Checked::new(Broken::new(Fault::Nothing)));
        let (hugetlb, mut task, space) = world(&platform, pages);
        let whole = pages * PMD_SIZE;
        space.mmap(&mut task, &MapRequest::anonymous(PAGE, whole).at(START)).unwrap();
        space.madvise(&mut task, START, whole, Advice::PopulateWrite).unwrap();
        space.write_bytes(&mut task, START, &[7]).unwrap();
        let load = || {
            let mm = space.mm();
            // SAFETY: root and context are of one address space, and this is the only thread.
            unsafe { platform.inner().load(mm.context(), mm.root_frame(), START) }
        };
        assert_eq!(load(), Some(7));
        *platform.inner().fault.lock().unwrap() = Fault::PanicsInFlush;
        let unmapped = catch_unwind(AssertUnwindSafe(|| space.munmap(&mut task, START, whole)));
        assert!(unmapped.is_err());
        *platform.inner().fault.lock().unwrap() = Fault::Nothing;
        // Whoever maps what the pool still has writes to none of the pages that were unmapped.
        let free = hugetlb.pool(PAGE).counters().free;
        assert!(free < pages, "{free} of {pages} pages are free, and a processor has one of them");
        let other = AddressSpace::new(&hugetlb).unwrap();
        let rest = || MapRequest::anonymous(PAGE, PUD_SIZE).with(MapFlags::NORESERVE).at(START);
        other.mmap(&mut task, &rest()).unwrap();
        let page = |number| START.checked_add(number * PMD_SIZE).unwrap();
        for number in 0..512 {
            if other.write_bytes(&mut task, page(number), &[99]).is_err() {
                break;
            }
        }
        assert_eq!(load(), Some(7), "another process writes what this one still reads");
        // No lock is held: both end as they should, and only pages are missing.
        other.exit(&mut task).unwrap();
        space.exit(&mut task).unwrap();
        drop((space, other, task, hugetlb));
        assert!(platform.take_reports().is_empty());
        let (_, lost) = platform.in_use();
        assert!((1..=pages).contains(&(lost as u64)), "{lost} of {pages}");
    }
}
