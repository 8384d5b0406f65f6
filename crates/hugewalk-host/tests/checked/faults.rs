//! What is said of platforms with one fault each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use hugewalk::arch::X86_64;
use hugewalk::platform::Tables as _;
use hugewalk::rcu::Rcu;
use hugewalk::{AddressSpace, Hugetlb};
use hugewalk_host::checked::{Finding, programs, run};

use super::broken::{Broken, Fault, Handle, reports};

/// Asserts that the first thing found is this, in this call, made by that file of the engine.
macro_rules! assert_found {
    ($fault:ident, $program:expr, $finding:pat, $call:literal, $file:literal) => {{
        let found = reports(Fault::$fault, $program);
        let first = found.first().expect("nothing was found");
        assert!(matches!(first.finding, $finding), "{first}");
        assert_eq!(first.call, $call);
        assert!(first.caller.file().replace('\\', "/").ends_with($file), "{first}");
    }};
}

#[test]
fn a_frame_that_is_handed_out_twice_is_found() {
    assert_found!(
        PageTwice,
        programs::maps_and_exits,
        Finding::PageTwice { .. },
        "alloc_huge",
        "src/pool.rs"
    );
    assert_found!(
        TableTwice,
        programs::maps_and_exits,
        Finding::TableTwice { .. },
        "alloc_table",
        "table/mod.rs"
    );
}

#[test]
fn a_frame_that_no_entry_can_hold_is_found() {
    assert_found!(
        Misaligned,
        programs::maps_and_exits,
        Finding::Misaligned { .. },
        "alloc_huge",
        "src/pool.rs"
    );
    assert_found!(TooWide, programs::maps_and_exits, Finding::TooWide { .. }, "alloc_huge", "src/pool.rs");
    assert_found!(
        TableTooWide,
        programs::maps_and_exits,
        Finding::TooWide { .. },
        "alloc_table",
        "table/mod.rs"
    );
}

#[test]
fn a_table_that_is_not_zero_is_found_and_zeroed() {
    let found = reports(Fault::TableNotZero, programs::maps_and_exits);
    assert!(!found.is_empty());
    for report in &found {
        assert!(matches!(report.finding, Finding::TableNotZero { index: 77, entry: 0xbad, .. }), "{report}");
    }
}

#[test]
fn records_that_move_overlap_or_are_not_ready_are_found() {
    assert_found!(
        TableRecordMoves,
        programs::maps_and_exits,
        Finding::Moved { what: "record", .. },
        "table_record",
        "table/mod.rs"
    );
    assert_found!(
        EntryElsewhere,
        programs::maps_and_exits,
        Finding::Moved { what: "entries", .. },
        "table_entry",
        "src/walk.rs"
    );
    assert_found!(
        PageRecordMoves,
        programs::maps_and_exits,
        Finding::Moved { what: "record", .. } | Finding::Overlap { .. },
        "page_record",
        "src/page.rs"
    );
    assert_found!(
        RecordsOverlap,
        programs::shares_and_unshares,
        Finding::Overlap { what: "record", .. },
        "table_record",
        "table/mod.rs"
    );
    assert_found!(
        RecordNotAligned,
        programs::maps_and_exits,
        Finding::AddressMisaligned { what: "record", to: 64, .. },
        "table_record",
        "table/mod.rs"
    );
    assert_found!(
        RecordNotZero,
        programs::maps_and_exits,
        Finding::RecordNotZero { .. },
        "alloc_huge",
        "src/pool.rs"
    );
    assert_found!(NoRecord, programs::maps_and_exits, Finding::NoRecord { .. }, "alloc_huge", "src/pool.rs");
}

#[test]
fn contents_that_overlap_are_found() {
    assert_found!(
        ContentsOverlap,
        programs::maps_and_exits,
        Finding::Overlap { what: "contents", .. },
        "alloc_huge",
        "src/pool.rs"
    );
}

#[test]
fn a_root_whose_lower_half_is_written_is_found() {
    assert_found!(
        WritesLowHalfOfRoots,
        programs::maps_and_exits,
        Finding::TableNotZero { index: 255, entry: 0xbad, .. },
        "init_root",
        "src/root.rs"
    );
}

/// Without anybody who checks: the engine itself does not go on with such a frame.
#[test]
fn the_engine_refuses_frames_that_no_entry_can_hold() {
    for fault in [Fault::Misaligned, Fault::TooWide, Fault::TableTooWide, Fault::TableNotZero] {
        if fault == Fault::TableNotZero && !cfg!(debug_assertions) {
            continue;
        }
        let panic = catch_unwind(|| {
            let hugetlb = Hugetlb::new(Broken::new(fault)).unwrap();
            hugetlb.resize_pool(X86_64::SIZE_2M, 1);
            AddressSpace::new(&hugetlb).map(drop)
        });
        let text = *panic.expect_err("it was taken").downcast::<String>().expect("a text");
        assert!(text.contains("the platform broke its contract"), "{text}");
    }
}

#[test]
fn contents_that_are_not_what_was_asked_for_are_found() {
    assert_found!(
        ZeroDoesNothing,
        programs::maps_and_exits,
        Finding::WrongContents { .. },
        "zero_huge",
        "entries/fresh.rs"
    );
    assert_found!(
        CopyDoesNothing,
        programs::copies_on_write,
        Finding::WrongContents { .. },
        "copy_huge",
        "entries/fresh.rs"
    );
}

#[test]
fn a_callback_that_sleeps_is_found() {
    let found = reports(Fault::FlushSleeps, programs::shares_and_unshares);
    let first = found.first().expect("nothing was found");
    assert!(matches!(&first.finding, Finding::Slept { inside } if inside.contains("flush_tlb")), "{first}");
    assert!(first.caller.file().ends_with("broken.rs"), "{first}");
}

#[test]
fn an_allocation_may_sleep_but_in_no_read_section() {
    let programs = [programs::maps_and_exits, programs::shares_and_unshares, programs::copies_on_write];
    for program in programs {
        assert!(reports(Fault::AllocationsSleep, program).is_empty());
    }
    let found = reports(Fault::Nothing, |platform| {
        let hugetlb = Hugetlb::new(platform.clone()).unwrap();
        let task = hugewalk_host::task(&hugetlb).unwrap();
        let section = task.rcu_read_lock();
        // As an engine would that makes a table while it walks.
        let table = platform.alloc_table().unwrap();
        drop(section);
        // SAFETY: allocated above, and used by nobody.
        unsafe { platform.free_table(table) };
    });
    let first = found.first().expect("nothing was found");
    assert!(
        matches!(&first.finding, Finding::Slept { inside } if inside == "in an RCU read section"),
        "{first}"
    );
    assert_eq!(first.call, "alloc_table");
}

#[test]
fn a_callback_that_calls_back_is_found() {
    for (number, call) in ["lock", "Rcu::register", "alloc_table"].into_iter().enumerate() {
        let found = reports(Fault::FlushCallsBack, |platform| {
            let hugetlb = Hugetlb::new(platform.clone()).unwrap();
            let back = (hugetlb.clone(), platform.clone());
            let call: Box<dyn Fn() + Send> = match number {
                0 => Box::new(move || assert_eq!(back.0.pool(X86_64::SIZE_1G).counters().total, 0)),
                1 => Box::new(move || {
                    let reader = back.0.rcu().register(&back.1).unwrap();
                    // SAFETY: it came from there just now.
                    unsafe { back.0.rcu().unregister(&back.1, reader) };
                }),
                _ => Box::new(move || {
                    back.1.alloc_table();
                }),
            };
            *platform.inner().flush_calls.lock().unwrap() = Some(call);
            programs::copies_on_write(platform);
            *platform.inner().flush_calls.lock().unwrap() = None;
        });
        let first = found.first().expect("nothing was found");
        assert!(matches!(first.finding, Finding::CalledBack { from: "flush_tlb" }), "{first}");
        assert_eq!(first.call, call);
    }
}

/// What `run` panics with.
fn judged(fault: Fault, program: impl FnOnce(&Handle)) -> String {
    let panic =
        catch_unwind(AssertUnwindSafe(|| run(Broken::new(fault), program))).expect_err("it was found sound");
    *panic.downcast::<String>().expect("a text")
}

#[test]
fn a_forgotten_flush_is_found_by_a_load() {
    let text = judged(Fault::ForgetsFlush, programs::flushes_reach_processors);
    assert!(text.contains("a flush is missing"), "{text}");
    run(Broken::new(Fault::Nothing), programs::flushes_reach_processors);
}

#[test]
#[ignore = "not certain: the processor need not exchange a store and a load"]
fn barriers_that_are_none_are_found() {
    let attempt = || catch_unwind(|| run(Broken::new(Fault::NoBarriers), programs::barriers_are_barriers));
    assert!((0..100).any(|_| attempt().is_err()));
}

#[test]
fn a_report_says_what_where_and_what_was_not_checked() {
    let text = judged(Fault::Misaligned, programs::maps_and_exits);
    assert!(text.contains("the platform broke its contract"), "{text}");
    assert!(text.contains("its frame is not a multiple of 2 MiB"), "{text}");
    assert!(text.contains("in alloc_huge(), called at ") && text.contains("src/pool.rs:"), "{text}");
    assert!(text.contains("The program ended with: assertion"), "{text}");
    assert!(text.contains("Not checked: "), "{text}");
}

#[test]
fn leaks_are_reported() {
    let text = judged(Fault::Nothing, |platform| {
        platform.alloc_table().unwrap();
    });
    assert_eq!(text, "1 tables and 0 huge pages were leaked");
}
