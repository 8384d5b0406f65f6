//! Threads that do the units: the lab's machine belongs to a thread of the operating system.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use hugewalk_lab::explore::in_thread;

use super::outcome::{Effort, Outcome};
use super::plan::Unit;
use super::select::Case;

/// Does the units of these numbers on `jobs` threads, and calls `done` on this one as each is finished; up to the first
/// error of that.
pub(super) fn perform<E>(
    units: &[Unit],
    numbers: &[usize],
    cases: &[Case],
    effort: &Effort,
    jobs: u32,
    mut done: impl FnMut(usize, Outcome) -> Result<(), E>,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..(jobs as usize).min(numbers.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let unit = units[number];
                    if sender.send((number, unit.perform(&cases[unit.case], effort))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        // After an error the receiver is gone, and the threads end with the unit they are at.
        receiver.into_iter().try_for_each(|(number, outcome)| done(number, outcome))
    })
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
