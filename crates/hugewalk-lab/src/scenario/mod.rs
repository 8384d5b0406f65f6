//! Scenarios: what a few processors do at the same time, and what must not come of it.
//!
//! A scenario is a function that sets a [`Bench`] up and gives each processor something to do, against the public
//! interface of the engine. [`check()`](crate::check()) runs it under every interleaving. To add one:
//!
//! ```
//! use hugewalk_lab::lab::{Property, Settings, Walker};
//! use hugewalk_lab::scenario::{Bench, Scenario, dont_need, page};
//!
//! /// One thread of a process reads an entry while another takes the table away.
//! fn read_while_unsharing(bench: &mut Bench<'_>) {
//!     let file = bench.file();
//!     let _other = bench.process(&file, &[0]);
//!     let process = bench.process(&file, &[0]);
//!     let same = process.clone();
//!     bench.cpu("walk", move |task| {
//!         Walker::new(&process, page(0)).read(task);
//!     });
//!     bench.cpu("madvise", move |task| dont_need(task, &same));
//! }
//!
//! let scenario = Scenario {
//!     id: "mine",
//!     what: "a read meets an unshare",
//!     judged: &[Property::I1, Property::I3],
//!     build: read_while_unsharing,
//! };
//! assert!(hugewalk_lab::check(&scenario, Settings::HUGEWALK, &Default::default()).is_safe());
//! assert!(!hugewalk_lab::check(&scenario, Settings::RFC, &Default::default()).is_safe());
//! ```
//!
//! A walker of the engine is watched while it walks, and says what it is told; a mistake is a step of the protocol left out,
//! of those that [`Settings::steps`](crate::lab::Settings::steps) names:
//!
//! ```
//! # use hugewalk_lab::lab::{Property, Settings, Walker};
//! # use hugewalk_lab::scenario::{Bench, Scenario, dont_need, page};
//! use hugewalk::gup::GupFlags;
//!
//! fn pin_while_unsharing(bench: &mut Bench<'_>) {
//!     bench.without("revalidate");
//!     let file = bench.file();
//!     let _other = bench.process(&file, &[0]);
//!     let process = bench.process(&file, &[0]);
//!     let same = process.clone();
//!     bench.cpu("follow_page", move |task| {
//!         let walker = Walker::new(&process, page(0));
//!         walker.watch(|| {
//!             let found = process.follow_page(task, page(0), GupFlags::empty()).expect("no error");
//!             walker.told(found.as_ref().map(|page| Some(page.frame())));
//!         });
//!     });
//!     bench.cpu("madvise", move |task| dont_need(task, &same));
//! }
//!
//! # let scenario = Scenario { id: "mine", what: "", judged: &[Property::I3], build: pin_while_unsharing };
//! assert!(!hugewalk_lab::check(&scenario, Settings::HUGEWALK, &Default::default()).is_safe());
//! ```
//!
//! # What is judged
//!
//! What a scenario names ([`Scenario::judged`]); and always: deadlocks, livelocks and starvation (I8), the order of locks
//! (I7), panics, counts of users and who shares with whom whenever `i_mmap` of a file is free (I4, I5), and what is left at the end (I9).
//!
//! # Names
//!
//! A name such as `S1` is that of a line in the table of scenarios, with the lab's own [`Walker`](crate::lab::Walker) in the
//! walker's role if there is one. `S1/gup-fast` has a walker of the engine in that role, and `S14:unshare-early` a
//! mistake in it that somebody has made, or could make: [`Scenario::line`], [`Scenario::walker`], [`Scenario::mistake`].
//! [`all`] is the whole matrix in the order of the table, and [`expected()`] has the verdicts.

mod base_pages;
mod bench;
mod children;
mod drops;
mod events;
mod expected;
mod failures;
mod faults;
mod groups;
mod handlers;
mod history;
mod hosts;
mod locks;
mod memory;
mod mounts;
mod moves;
mod other;
mod pages;
mod pins;
mod poison;
mod races;
mod reports;
mod reservations;
mod rmap;
mod runs;
mod scans;
mod secondary;
mod stores;
mod unpopulated;
mod waits;
mod walk_cache;
mod walkers;

pub use self::bench::{
    BASE, Bench, File, GroupFile, GroupProcess, GroupTask, Groups, LabTask, Mount, Nursery, Process, another,
    dont_need, map, member, page,
};
pub use self::expected::{Expected, PROOFS, expected};
pub use self::history::history;

use std::sync::OnceLock;

use self::expected::Row;
use crate::lab::Property;

/// Something that may go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name in the table of scenarios.
    pub id: &'static str,
    /// What happens, in a sentence.
    pub what: &'static str,
    /// What must not be violated. Deadlocks, livelocks, starvation, panics, leaks and wrong counts are violations always.
    pub judged: &'static [Property],
    /// Sets the processors up.
    pub build: fn(&mut Bench<'_>),
}

impl Scenario {
    /// The line of the table of scenarios that it belongs to: `S1`.
    #[must_use]
    pub fn line(&self) -> &'static str {
        self.id.split(['/', ':']).next().unwrap_or(self.id)
    }

    /// The number of its line.
    fn number(&self) -> Option<u32> {
        self.line().strip_prefix('S')?.parse().ok()
    }

    /// The walker of the engine that has the walker's role, if it is not the lab's own.
    #[must_use]
    pub fn walker(&self) -> Option<&'static str> {
        let (_, rest) = self.id.split_once('/')?;
        rest.split(':').next()
    }

    /// The mistake that is made in it.
    #[must_use]
    pub fn mistake(&self) -> Option<&'static str> {
        self.id.split_once(':').map(|(_, mistake)| mistake)
    }
}

/// The matrix: by lines, and of a line in the order of the files below.
fn rows() -> impl Iterator<Item = &'static Row> {
    static MATRIX: OnceLock<Vec<&'static Row>> = OnceLock::new();
    let rows = MATRIX.get_or_init(|| {
        let mut rows: Vec<_> = FILES.iter().copied().flatten().collect();
        rows.sort_by_key(|row| row.scenario.number());
        rows
    });
    rows.iter().copied()
}

const FILES: [&[Row]; 29] = [
    races::ROWS,
    walkers::ROWS,
    other::ROWS,
    waits::ROWS,
    memory::ROWS,
    stores::ROWS,
    pages::ROWS,
    children::ROWS,
    mounts::ROWS,
    reservations::ROWS,
    handlers::ROWS,
    events::ROWS,
    reports::ROWS,
    failures::ROWS,
    rmap::ROWS,
    moves::ROWS,
    faults::ROWS,
    drops::ROWS,
    base_pages::ROWS,
    locks::ROWS,
    walk_cache::ROWS,
    scans::ROWS,
    unpopulated::ROWS,
    poison::ROWS,
    groups::ROWS,
    secondary::ROWS,
    runs::ROWS,
    hosts::ROWS,
    pins::ROWS,
];

/// All scenarios, line by line.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    rows().map(|row| &row.scenario)
}

/// The scenario of this name.
#[must_use]
pub fn named(id: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.id == id)
}
