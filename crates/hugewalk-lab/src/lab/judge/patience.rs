//! Who makes way for others without end: starvation (I8).
//!
//! # What is judged
//!
//! Whoever waits for ever is in a deadlock, and whoever runs for ever in a livelock: such runs have no end. But who starves ends
//! in every run, since the others it makes way for do. If they went on, it would not. So it is judged by what it does, however
//! often the others come: who was refused a lock, and then had it, is not refused it again in the same operation with nothing
//! gained in between. For then it has had its turn for nothing, and the next one may be for nothing as well.
//!
//! Gained is a written entry of a table, or a look around: another lock, taken under the one that it was refused before. An
//! operation is what a thread does from its first sleeping lock until it holds none. All of it is the thread's own doing, so
//! in what order others take steps that have nothing to do with it changes nothing.

use std::cell::RefCell;

use super::{Access, Judge};
use crate::explore::{MAX_THREADS, in_thread, is_judged, violation};
use crate::lab::ground::Place;
use crate::lab::property::{Property, in_words};

/// Locks that one operation can be refused and still be judged.
const REFUSED: usize = 8;

/// What an operation has met.
#[derive(Clone, Copy, Default)]
struct Operation {
    /// Sleeping locks that it holds.
    held: u32,
    /// What it was refused since it gained anything: addresses, or 0.
    refused: [usize; REFUSED],
    /// One of these that it has now.
    turn: Option<usize>,
    /// One of these that it had.
    had: Option<usize>,
}

impl Operation {
    /// What it was refused before is forgotten, and what it has now it has not for nothing.
    fn gain(&mut self) {
        if self.refused[0] != 0 || self.had.is_some() {
            (self.refused, self.turn, self.had) = ([0; REFUSED], None, None);
        }
    }
}

/// Of each thread.
#[derive(Default)]
pub(super) struct Patience(RefCell<[Operation; MAX_THREADS]>);

thread_local! {
    static PATIENCE: &'static Patience = Box::leak(Box::default());
}

fn patience() -> &'static Patience {
    PATIENCE.with(|patience| *patience)
}

fn with(work: impl FnOnce(&mut Operation)) {
    if let Some(thread) = in_thread() {
        work(&mut patience().0.borrow_mut()[thread]);
    }
}

impl Judge for Patience {
    fn begin_run() {
        *patience().0.borrow_mut() = Default::default();
    }

    fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(patience()).cast_mut().cast(), size_of::<Self>());
    }

    fn accesses(access: &Access) {
        if access.writes && matches!(access.place, Place::Entry(..)) {
            with(Operation::gain);
        }
    }

    fn took(lock: usize) {
        with(|this| {
            this.held += 1;
            if this.turn.is_some() {
                this.gain();
            } else if this.refused.contains(&lock) {
                this.turn = Some(lock);
            }
        });
    }

    fn let_go(lock: usize) {
        with(|this| {
            this.held = this.held.saturating_sub(1);
            this.had = this.turn.take_if(|turn| *turn == lock).or(this.had);
            if this.held == 0 {
                *this = Operation::default();
            }
        });
    }

    fn was_refused(lock: usize) {
        let mut starves = false;
        with(|this| {
            starves = this.had == Some(lock);
            if let Some(free) = this.refused.iter_mut().find(|place| **place == 0) {
                *free = lock;
            }
        });
        if let Some(thread) = in_thread().filter(|_| starves)
            && is_judged()
        {
            let cpu = in_words(Some(thread));
            let text = format!("I8: {cpu} starves: it has had a lock for nothing, and is refused it again");
            violation(text, Property::I8);
        }
    }
}
