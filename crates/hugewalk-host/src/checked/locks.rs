//! Locks that record the order in which they are taken, and report sleeping where it is not
//! allowed.
//!
//! # Orders
//!
//! Two places in the code that ever take the same lock take locks of one *class*. If a thread holds
//! a lock of class A and waits for one of class B, that records that A comes before B. If earlier
//! records lead from B to A, two threads can wait for each other, whether or not they did this
//! time. Locks of one class are told apart one by one.
//!
//! Trying a lock does not wait, so it records no order. A lock that was tried and is held counts as
//! held.

use core::cell::RefCell;
use core::convert::Infallible;
use core::panic::Location;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use hugewalk::error::Interrupted;
use hugewalk::sleep::{RawSleepMutex, RawSleepRwLock};
use hugewalk::sync::Parker;
use lock_api::RawMutex;

use super::platform::WatchedParker;
use super::report::Finding;
use super::thread::{may_call, may_sleep_in, spins, with_ledger};

type Site = &'static Location<'static>;

/// A lock that this thread holds.
#[derive(Clone, Copy)]
struct Held {
    id: u64,
    site: Site,
}

thread_local! {
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

/// The orders in which the locks of a platform were taken.
#[derive(Debug, Default)]
pub(super) struct Order(Mutex<Graph>);

#[derive(Debug, Default)]
struct Graph {
    /// Sites of one class, as a union-find: each leads to another of its class, the last one to
    /// itself.
    classes: HashMap<Site, Site>,
    /// Where a lock was taken first.
    sites: HashMap<u64, Site>,
    /// A thread waited for a lock at the second site while it held one taken at the first.
    edges: HashSet<(Site, Site)>,
    /// Edges known to close no circle, as far as the records go.
    clean: HashSet<(Site, Site)>,
    /// The same for single locks within a class.
    pairs: HashMap<(u64, u64), (Site, Site)>,
    told: HashSet<(Site, Site)>,
}

impl Graph {
    fn class(&self, site: Site) -> Site {
        let mut at = site;
        while let Some(&next) = self.classes.get(at)
            && next != at
        {
            at = next;
        }
        at
    }

    /// A lock is taken at this site.
    fn note(&mut self, id: u64, site: Site) {
        let first = *self.sites.entry(id).or_insert(site);
        let (one, other) = (self.class(first), self.class(site));
        if one != other {
            self.classes.insert(other, one);
            self.clean.clear();
        }
    }

    /// The edges that lead from the class of `from` to the class of `to`.
    fn way(&self, from: Site, to: Site) -> Option<Vec<(Site, Site)>> {
        let (start, goal) = (self.class(from), self.class(to));
        let mut ways = vec![(start, Vec::new())];
        let mut seen = HashSet::from([start]);
        while let Some((at, way)) = ways.pop() {
            for &(held, taken) in self.edges.iter().filter(|(held, _)| self.class(held) == at) {
                let next = self.class(taken);
                let way: Vec<_> = way.iter().copied().chain([(held, taken)]).collect();
                if next == goal {
                    return Some(way);
                }
                if seen.insert(next) {
                    ways.push((next, way));
                }
            }
        }
        None
    }

    /// Records that a lock is waited for with another one held. Returns the edges of the opposite
    /// order, if there is one.
    fn waits(&mut self, held: Held, id: u64, site: Site) -> Option<Vec<(Site, Site)>> {
        if self.class(held.site) == self.class(site) {
            self.pairs.entry((held.id, id)).or_insert((held.site, site));
            let before = *self.pairs.get(&(id, held.id))?;
            return self.told.insert((held.site, site)).then(|| vec![before]);
        }
        let edge = (held.site, site);
        if self.edges.insert(edge) {
            self.clean.clear();
        } else if self.clean.contains(&edge) || self.told.contains(&edge) {
            return None;
        }
        let Some(way) = self.way(site, held.site) else {
            self.clean.insert(edge);
            return None;
        };
        self.told.insert(edge).then_some(way)
    }
}

fn in_words(way: &[(Site, Site)]) -> String {
    let step =
        |&(held, taken): &(Site, Site)| format!("the lock of {taken} was taken with that of {held} held");
    way.iter().map(step).collect::<Vec<_>>().join(", and ")
}

/// A number that no other lock has. It is given when the lock is first taken, so that a lock can be
/// made in a constant.
#[derive(Debug)]
struct Id(AtomicU64);

impl Id {
    #[allow(clippy::declare_interior_mutable_const)]
    const NONE: Self = Self(AtomicU64::new(0));

    fn get(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = self.0.load(Ordering::Relaxed);
        if id != 0 {
            return id;
        }
        let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
        self.0
            .compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed)
            .map_or_else(|id| id, |_| fresh)
    }

    /// Called before the lock is taken by waiting for it.
    fn waits(&self, call: &'static str, site: Site) {
        may_call(call, site);
        let id = self.get();
        let held = HELD.with_borrow(Clone::clone);
        with_ledger(|ledger| {
            let mut graph = ledger.order.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            graph.note(id, site);
            let mut findings = Vec::new();
            for held in held {
                if held.id == id {
                    findings.push(Finding::TakenTwice { held: held.site });
                } else if let Some(way) = graph.waits(held, id, site) {
                    findings.push(Finding::BothOrders { held: held.site, before: in_words(&way) });
                }
            }
            drop(graph);
            for finding in findings {
                ledger.log.add(finding, call, site);
            }
        });
    }

    /// The lock has been taken.
    fn has(&self, site: Site) {
        HELD.with_borrow_mut(|held| held.push(Held { id: self.get(), site }));
    }

    /// The lock is released.
    fn lets_go(&self) {
        let id = self.get();
        // The thread may be ending.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().rposition(|held| held.id == id) {
                held.remove(at);
            }
        });
    }
}

/// A spinning lock of the engine, watched.
#[derive(Debug)]
pub struct WatchedSpin<L> {
    lock: L,
    id: Id,
}

// SAFETY: it passes everything on to the lock inside.
unsafe impl<L: RawMutex> RawMutex for WatchedSpin<L> {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { lock: L::INIT, id: Id::NONE };
    type GuardMarker = L::GuardMarker;

    #[track_caller]
    fn lock(&self) {
        let site = Location::caller();
        self.id.waits("lock", site);
        self.lock.lock();
        self.id.has(site);
        spins(true);
    }

    #[track_caller]
    fn try_lock(&self) -> bool {
        may_call("try_lock", Location::caller());
        let taken = self.lock.try_lock();
        if taken {
            self.id.has(Location::caller());
            spins(true);
        }
        taken
    }

    unsafe fn unlock(&self) {
        self.id.lets_go();
        spins(false);
        // SAFETY: passed on.
        unsafe { self.lock.unlock() };
    }
}

/// A sleeping lock of the engine, watched.
#[derive(Debug)]
pub struct WatchedMutex<L> {
    lock: L,
    id: Id,
}

impl<L> WatchedMutex<L> {
    fn take<E>(&self, site: Site, take: impl FnOnce(&L) -> Result<(), E>) -> Result<(), E> {
        may_sleep_in("lock", site);
        self.id.waits("lock", site);
        take(&self.lock)?;
        self.id.has(site);
        Ok(())
    }
}

// SAFETY: it passes everything on to the lock inside.
unsafe impl<K: Parker, L: RawSleepMutex<K>> RawSleepMutex<WatchedParker<K>> for WatchedMutex<L> {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { lock: L::INIT, id: Id::NONE };

    #[track_caller]
    fn lock(&self, task: &WatchedParker<K>) {
        let lock = |lock: &L| {
            lock.lock(&task.0);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = self.take(Location::caller(), lock);
    }

    #[track_caller]
    fn lock_killable(&self, task: &WatchedParker<K>) -> Result<(), Interrupted> {
        self.take(Location::caller(), |lock| lock.lock_killable(&task.0))
    }

    #[track_caller]
    fn try_lock(&self) -> bool {
        may_call("try_lock", Location::caller());
        let taken = self.lock.try_lock();
        if taken {
            self.id.has(Location::caller());
        }
        taken
    }

    unsafe fn unlock(&self) {
        self.id.lets_go();
        // SAFETY: passed on.
        unsafe { self.lock.unlock() };
    }
}

/// A sleeping reader/writer lock of the engine, watched. A queued writer may hold up readers, so
/// reading counts as writing.
#[derive(Debug)]
pub struct WatchedRwLock<L> {
    lock: L,
    id: Id,
}

impl<L> WatchedRwLock<L> {
    fn take<E>(
        &self,
        call: &'static str,
        site: Site,
        take: impl FnOnce(&L) -> Result<(), E>,
    ) -> Result<(), E> {
        may_sleep_in(call, site);
        self.id.waits(call, site);
        take(&self.lock)?;
        self.id.has(site);
        Ok(())
    }

    fn try_take(&self, call: &'static str, site: Site, take: impl FnOnce(&L) -> bool) -> bool {
        may_call(call, site);
        let taken = take(&self.lock);
        if taken {
            self.id.has(site);
        }
        taken
    }
}

// SAFETY: it passes everything on to the lock inside.
unsafe impl<K: Parker, L: RawSleepRwLock<K>> RawSleepRwLock<WatchedParker<K>> for WatchedRwLock<L> {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { lock: L::INIT, id: Id::NONE };

    #[track_caller]
    fn lock_shared(&self, task: &WatchedParker<K>) {
        let lock = |lock: &L| {
            lock.lock_shared(&task.0);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = self.take("read", Location::caller(), lock);
    }
    #[track_caller]
    fn lock_shared_killable(&self, task: &WatchedParker<K>) -> Result<(), Interrupted> {
        self.take("read", Location::caller(), |lock| lock.lock_shared_killable(&task.0))
    }
    #[track_caller]
    fn try_lock_shared(&self) -> bool {
        self.try_take("try_read", Location::caller(), L::try_lock_shared)
    }
    unsafe fn unlock_shared(&self) {
        self.id.lets_go();
        // SAFETY: passed on.
        unsafe { self.lock.unlock_shared() };
    }
    #[track_caller]
    fn lock_exclusive(&self, task: &WatchedParker<K>) {
        let lock = |lock: &L| {
            lock.lock_exclusive(&task.0);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = self.take("write", Location::caller(), lock);
    }
    #[track_caller]
    fn lock_exclusive_killable(&self, task: &WatchedParker<K>) -> Result<(), Interrupted> {
        self.take("write", Location::caller(), |lock| lock.lock_exclusive_killable(&task.0))
    }
    #[track_caller]
    fn try_lock_exclusive(&self) -> bool {
        self.try_take("try_write", Location::caller(), L::try_lock_exclusive)
    }
    unsafe fn unlock_exclusive(&self) {
        self.id.lets_go();
        // SAFETY: passed on.
        unsafe { self.lock.unlock_exclusive() };
    }
}
