//! Runs a program on a checked platform, and reports the result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::sync::Arc;

use hugewalk::platform::Platform;

use super::{Checked, in_words};

/// Runs `program` on this platform, checked, and looks for leaks afterwards.
///
/// # Panics
///
/// With a report if there are findings; if tables or pages leaked; and if the program panics.
#[track_caller]
pub fn run<P: Platform>(platform: P, program: impl FnOnce(&Arc<Checked<P>>)) {
    let checked = Arc::new(Checked::new(platform));
    let ended = catch_unwind(AssertUnwindSafe(|| program(&checked)));
    let reports = checked.take_reports();
    if !reports.is_empty() {
        let mut text = in_words(&reports);
        if let Err(panic) = &ended {
            text.push_str(&format!("\nThe program ended with: {}", message(&**panic)));
        }
        panic_any(text);
    }
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
    let (tables, pages) = checked.in_use();
    assert!(tables == 0 && pages == 0, "{tables} tables and {pages} huge pages were leaked");
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Makes tests of a platform: one for each of the [`programs`](crate::checked::programs). Takes an
/// expression that makes the platform when it is called, and `loads` after it if the platform
/// implements [`Loads`](crate::checked::Loads).
///
/// The platform needs 32 huge pages of 2 MiB and 64 table pages.
#[macro_export]
macro_rules! platform_tests {
    ($make:expr, loads) => {
        $crate::platform_tests!($make);
        $crate::platform_tests!(@tests $make; flushes_reach_processors);
    };
    ($make:expr) => {
        $crate::platform_tests!(@tests $make;
            maps_and_exits
            shares_and_unshares
            copies_on_write
            files_grow_and_shrink
            pages_move_and_fail
            the_pool_runs_out
            many_pages_go_at_once
            walks_beside_unsharing
            faults_beside_unmapping
            barriers_are_barriers
            locks_exclude
            sections_hold_grace_periods_up
            tokens_wake_tasks
        );
    };
    (@tests $make:expr; $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::checked::run(($make)(), $crate::checked::programs::$name);
            }
        )*
    };
}
