//! Threads that do the units: the lab's machine belongs to a thread of the operating system.

use std::any::Any;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Once};
use std::thread;

use hugewalk_lab::explore::in_thread;

use super::interrupt::Interrupts;
use super::outcome::{Effort, Outcome};
use super::plan::Unit;
use super::select::Case;
use crate::notes;

/// What is told while there is work.
pub(super) enum News {
    /// A unit is done: its number, and what came of it.
    Done(usize, Outcome),
    /// A signal asks to stop.
    Stop(i32),
}

enum Told {
    News(News),
    /// The lab itself is at fault.
    Panic(Box<dyn Any + Send>),
}

/// Does the units of these numbers on `jobs` threads, and calls `tell` on this one as each is finished; up to the first error of
/// that, or until it breaks off. Then the threads are left where they are: the process is about to end.
pub(super) fn perform<E: From<io::Error>>(
    units: &Arc<[Unit]>,
    numbers: Vec<usize>,
    cases: &Arc<[Case]>,
    effort: Effort,
    jobs: u32,
    mut tell: impl FnMut(News) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let (numbers, next) = (Arc::<[usize]>::from(numbers), Arc::new(AtomicUsize::new(0)));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..(jobs as usize).min(numbers.len()) {
        let (sender, next, numbers) = (sender.clone(), Arc::clone(&next), Arc::clone(&numbers));
        let (units, cases) = (Arc::clone(units), Arc::clone(cases));
        thread::spawn(move || {
            while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                let unit = units[number];
                let done = catch_unwind(AssertUnwindSafe(|| unit.perform(&cases[unit.case], &effort)));
                let told = match done {
                    Ok(outcome) => Told::News(News::Done(number, outcome)),
                    Err(panic) => Told::Panic(panic),
                };
                if sender.send(told).is_err() {
                    break;
                }
            }
        });
    }
    let _interrupts = Interrupts::listen(move |signal| drop(sender.send(Told::News(News::Stop(signal)))))?;
    let mut left = numbers.len();
    while left > 0 {
        match receiver.recv().expect("who listens for signals has a sender") {
            Told::News(news) => {
                left -= usize::from(matches!(news, News::Done(..)));
                if tell(news)?.is_break() {
                    break;
                }
            }
            Told::Panic(panic) => resume_unwind(panic),
        }
    }
    Ok(())
}

/// A panic of what is explored, or told again, is a finding, and reported as one.
pub(super) fn keep_quiet_about_panics_of_scenarios() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if in_thread().is_none() {
                before(info);
            }
        }));
    });
}

/// Says so where races will be told without the names of functions and locks.
pub(super) fn say_if_there_are_no_line_tables() {
    if !hugewalk_lab::lab::has_line_tables() {
        notes::note(&format_args!(
            "this binary has no line tables: races are told without functions and the names of locks; \
             build it with CARGO_PROFILE_RELEASE_DEBUG=line-tables-only, and do not strip it"
        ));
    }
}
