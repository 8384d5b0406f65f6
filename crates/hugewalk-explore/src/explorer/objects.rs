//! The objects of a run, and which of them are worth a scheduling point.
//!
//! # Why not every access is a scheduling point
//!
//! Most of what threads touch they never fight over: their own tables, what a lock guards, what nobody writes. Only an
//! object that two threads have touched *in a race* (one of them writing, neither ordered before the other by what went
//! before) is made a *contended* one, and only accesses to contended objects are scheduling points. Which they are is
//! learned: a run that sees a race on an object that was not known as contended adds it, and the exploration starts over.
//! Only the first such race of a run counts: what orders threads is known from contended objects alone, so after one that
//! was not known yet, others seem to race that are ordered by it. (A run that learned something is not judged.)
//!
//! At the end no run of an exploration has seen a race on any other object. Then nothing is lost: let some interleaving
//! of all accesses be given. Follow it, but let each thread run on, once it moves, up to its next contended access. What
//! it does early touches only objects on which no run of the exploration has a race, so it commutes with what the others
//! do meanwhile, or else the very run that this makes would have seen the race. So each interleaving equals one whose
//! switches all lie at contended objects, with no more switches than it had itself. (The same argument allows checkers
//! of data-race-free programs to switch at synchronisation alone.)
//!
//! An object is known from run to run by its name, or by its place in the order in which a thread first touches things.
//! A place that means something else in another run only makes a scheduling point too many.

use std::collections::HashSet;

use super::clock::{Clock, MAX_THREADS};
use super::op::{Footprint, Kind, NOTHING, Object, Op};

/// Names of the objects that threads race on, as learned so far.
#[derive(Clone, Debug)]
pub(crate) struct Contended {
    /// A bit for each small name.
    small: Vec<u64>,
    other: HashSet<u64>,
    len: usize,
}

impl Contended {
    fn new() -> Self {
        Self { small: vec![0; SMALL_NAMES / 64], other: HashSet::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn contains(&self, name: u64) -> bool {
        match small(name) {
            Some(name) => self.small[name / 64] & 1 << (name % 64) != 0,
            None => self.other.contains(&name),
        }
    }

    /// True if it is new.
    fn insert(&mut self, name: u64) -> bool {
        let new = !self.contains(name);
        match small(name) {
            Some(name) => self.small[name / 64] |= 1 << (name % 64),
            None => drop(self.other.insert(name)),
        }
        self.len += usize::from(new);
        new
    }
}

/// Names below this are looked up without hashing: those of the entries of the tables there can be.
const SMALL_NAMES: usize = 1 << 18;

fn small(name: u64) -> Option<usize> {
    let number = (name & !NAMED) as usize;
    (name & NAMED != 0 && number < SMALL_NAMES).then_some(number)
}

const NAMED: u64 = 1 << 63;
/// In place of a thread: before the threads start.
const SETUP: u64 = MAX_THREADS as u64;

#[derive(Clone, Copy)]
struct Known {
    name: u64,
    contended: bool,
    /// Where it is looked up: in `places`, or beyond them in `by_name`.
    place: u32,
    /// Last write, and all that it had seen. Of an object that is not contended: only whose step it was.
    written: Clock,
    /// Reads since then.
    read: Clock,
}

/// Places of an address table: a power of two, several times the objects a run touches.
const PLACES: usize = 1 << 12;

/// A place of the address table; empty unless `run` is the current one.
#[derive(Clone, Copy, Default)]
struct Place {
    address: usize,
    run: u32,
    number: u32,
}

/// What a run had touched at some point.
#[derive(Default)]
pub(crate) struct Saved {
    known: Vec<Known>,
    touched: [u32; MAX_THREADS + 1],
}

/// What one run has touched.
pub(crate) struct Objects {
    places: Vec<Place>,
    /// By small name: the run that touched it last, and the number it had there.
    by_name: Vec<(u32, u32)>,
    run: u32,
    /// Places in use.
    placed: usize,
    known: Vec<Known>,
    touched: [u32; MAX_THREADS + 1],
    pub(crate) contended: Contended,
    /// A race was seen on an object that was not known as contended.
    pub(crate) learned: bool,
    /// Every access is a scheduling point.
    pub(crate) all: bool,
    /// Makes something else of what operations touch: to see that it would be noticed.
    #[cfg(any(test, feature = "internals"))]
    pub(crate) falsify: Option<fn(&mut Footprint)>,
}

impl Objects {
    pub(crate) fn new() -> Self {
        Self {
            places: vec![Place::default(); PLACES],
            by_name: vec![(0, 0); SMALL_NAMES],
            run: 0,
            placed: 0,
            known: Vec::new(),
            touched: [0; MAX_THREADS + 1],
            contended: Contended::new(),
            learned: false,
            all: false,
            #[cfg(any(test, feature = "internals"))]
            falsify: None,
        }
    }

    pub(crate) fn begin_run(&mut self) {
        self.run += 1;
        self.known.clear();
        self.placed = 0;
        self.touched = [0; MAX_THREADS + 1];
        self.learned = false;
    }

    /// Copies what this run has touched so far.
    pub(crate) fn save(&self, to: &mut Saved) {
        to.known.clone_from(&self.known);
        to.touched = self.touched;
    }

    /// Back to what it had touched then.
    pub(crate) fn restore(&mut self, saved: &Saved) {
        // In the reverse order, so that what is looked up by address is never cut off from where its search begins.
        for known in self.known[saved.known.len()..].iter().rev() {
            match self.places.get_mut(known.place as usize) {
                Some(place) => {
                    place.run = 0;
                    self.placed -= 1;
                }
                None => self.by_name[known.place as usize - PLACES].0 = 0,
            }
        }
        self.known.clone_from(&saved.known);
        self.touched = saved.touched;
    }

    /// The number of an object in this run.
    #[inline]
    fn number(&mut self, object: Object, thread: Option<usize>) -> u32 {
        if let Some(name) = object.name.filter(|&name| (name as usize) < SMALL_NAMES) {
            let (run, number) = self.by_name[name as usize];
            if run == self.run {
                return number;
            }
            self.by_name[name as usize] = (self.run, self.known.len() as u32);
            return self.meet_first(NAMED | u64::from(name), PLACES as u32 + name);
        }
        self.number_by_address(object, thread)
    }

    fn meet_first(&mut self, name: u64, place: u32) -> u32 {
        let contended = self.all || self.contended.contains(name);
        self.known.push(Known { name, contended, place, written: Clock::default(), read: Clock::default() });
        self.known.len() as u32 - 1
    }

    fn number_by_address(&mut self, object: Object, thread: Option<usize>) -> u32 {
        let mut at = (object.address >> 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize) >> 52;
        loop {
            let place = &mut self.places[at & (PLACES - 1)];
            if place.run != self.run {
                break;
            }
            if place.address == object.address {
                return place.number;
            }
            at += 1;
        }
        let number = self.known.len() as u32;
        self.placed += 1;
        assert!(self.placed < PLACES / 2, "a run touches more than {} objects", PLACES / 2);
        self.places[at & (PLACES - 1)] = Place { address: object.address, run: self.run, number };
        let name = match object.name {
            Some(name) => NAMED | u64::from(name),
            None => {
                let thread = thread.map_or(SETUP, |thread| thread as u64);
                let touched = &mut self.touched[thread as usize];
                *touched += 1;
                thread << 32 | u64::from(*touched)
            }
        };
        self.meet_first(name, (at & (PLACES - 1)) as u32)
    }

    /// Notes that an object exists, before the threads start.
    pub(crate) fn introduce(&mut self, object: Object) {
        if object.name.is_none() {
            self.number(object, None);
        }
    }

    /// Do threads race on this object, as far as is known?
    pub(crate) fn is_contended(&mut self, object: Object) -> bool {
        let number = self.number(object, Some(0));
        self.contended.contains(self.known[number as usize].name)
    }

    /// The footprint of an operation, and whether it is worth a scheduling point.
    pub(crate) fn footprint(&mut self, op: &Op, thread: usize) -> (Footprint, bool) {
        let object = self.number(op.object, Some(thread));
        let mut contended = self.known[object as usize].contended;
        let (also, also_kind) = match op.also {
            Some((other, kind)) => {
                let number = self.number(other, Some(thread));
                contended |= self.known[number as usize].contended;
                (number, kind)
            }
            None => (NOTHING, Kind::Read),
        };
        #[cfg_attr(not(any(test, feature = "internals")), expect(unused_mut))]
        let mut footprint = Footprint { object, kind: op.kind, also, also_kind, class: op.class };
        #[cfg(any(test, feature = "internals"))]
        if let Some(falsify) = self.falsify {
            falsify(&mut footprint);
        }
        (footprint, contended)
    }

    /// This object is contended, whatever the clocks say: a thread found it taken.
    pub(crate) fn learn(&mut self, footprint: &Footprint) {
        let known = &self.known[footprint.object as usize];
        if !known.contended && !self.learned {
            self.learned |= self.contended.insert(known.name);
        }
    }

    /// The operation is carried out by `thread`, whose clock learns what came before. Looks for races.
    pub(crate) fn carry_out(&mut self, footprint: &Footprint, thread: usize, clock: &mut Clock) {
        self.meet(footprint.object, footprint.kind, thread, clock);
        if footprint.also != NOTHING {
            self.meet(footprint.also, footprint.also_kind, thread, clock);
        }
        self.part(footprint.object, footprint.kind, thread, clock);
        if footprint.also != NOTHING {
            self.part(footprint.also, footprint.also_kind, thread, clock);
        }
    }

    fn meet(&mut self, number: u32, kind: Kind, thread: usize, clock: &mut Clock) {
        let known = &mut self.known[number as usize];
        if known.contended {
            clock.join(&known.written);
            if kind == Kind::Write {
                clock.join(&known.read);
            }
            return;
        }
        let ordered = known.written.within(clock) && (kind == Kind::Read || known.read.within(clock));
        if !ordered && !self.learned {
            self.learned |= self.contended.insert(known.name);
        }
        let own = clock.of(thread);
        match kind {
            Kind::Read => known.read.set(thread, own),
            Kind::Write => {
                known.written = Clock::default();
                known.written.set(thread, own);
                known.read = Clock::default();
            }
        }
    }

    /// What the thread has seen is there for the next one at a contended object.
    fn part(&mut self, number: u32, kind: Kind, _thread: usize, clock: &Clock) {
        let known = &mut self.known[number as usize];
        if known.contended {
            match kind {
                Kind::Read => known.read.join(clock),
                Kind::Write => (known.written, known.read) = (*clock, Clock::default()),
            }
        }
    }
}
