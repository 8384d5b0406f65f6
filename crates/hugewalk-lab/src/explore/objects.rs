//! The objects of a run, and which of them are worth a scheduling point.
//!
//! # Why not every access is a scheduling point
//!
//! Most of what threads touch they never fight over: their own tables, what a lock guards, what nobody writes. Only an
//! object that two threads have touched *in a race* (one of them writing, neither ordered before the other by what went
//! before) is made a *contended* one, and only accesses to contended objects are scheduling points. Which they are is
//! learned: a run that sees a race on an object that was not known as contended adds it, and the exploration starts over.
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
#[derive(Clone, Debug, Default)]
pub(crate) struct Contended(HashSet<u64>);

impl Contended {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

const NAMED: u64 = 1 << 63;
/// In place of a thread: before the threads start.
const SETUP: u64 = MAX_THREADS as u64;

struct Known {
    name: u64,
    contended: bool,
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

/// What one run has touched.
pub(crate) struct Objects {
    places: Vec<Place>,
    run: u32,
    known: Vec<Known>,
    touched: [u32; MAX_THREADS + 1],
    pub(crate) contended: Contended,
    /// A race was seen on an object that was not known as contended.
    pub(crate) learned: bool,
    /// Every access is a scheduling point.
    pub(crate) all: bool,
}

impl Objects {
    pub(crate) fn new() -> Self {
        Self {
            places: vec![Place::default(); PLACES],
            run: 0,
            known: Vec::new(),
            touched: [0; MAX_THREADS + 1],
            contended: Contended::default(),
            learned: false,
            all: false,
        }
    }

    pub(crate) fn begin_run(&mut self) {
        self.run += 1;
        self.known.clear();
        self.touched = [0; MAX_THREADS + 1];
        self.learned = false;
    }

    /// The number of an object in this run.
    fn number(&mut self, object: Object, thread: Option<usize>) -> u32 {
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
        assert!(self.known.len() < PLACES / 2, "a run touches more than {} objects", PLACES / 2);
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
        let contended = self.all || self.contended.0.contains(&name);
        self.known.push(Known { name, contended, written: Clock::default(), read: Clock::default() });
        number
    }

    /// Notes that an object exists, before the threads start.
    pub(crate) fn introduce(&mut self, object: Object) {
        if object.name.is_none() {
            self.number(object, None);
        }
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
        (Footprint { object, kind: op.kind, also, also_kind, class: op.class }, contended)
    }

    /// This object is contended, whatever the clocks say: a thread found it taken.
    pub(crate) fn learn(&mut self, footprint: &Footprint) {
        let known = &self.known[footprint.object as usize];
        if !known.contended {
            self.learned |= self.contended.0.insert(known.name);
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
        if !ordered {
            self.learned |= self.contended.0.insert(known.name);
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
