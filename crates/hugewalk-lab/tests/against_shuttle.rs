//! The explorer beside another one: `shuttle` and its exhaustive depth-first scheduler, on the same programs.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use hugewalk_lab::explore::{Explorer, Lock, Object, Op, RwLock, Setup, Shared, Wait, access};
use lock_api::{RawMutex, RawRwLock};
use shuttle::scheduler::DfsScheduler;
use shuttle::sync::atomic::{AtomicU64, Ordering};

/// What the threads of a program do to two numbers, and to what is guarded by locks.
#[derive(Clone, Copy)]
enum Do {
    Load(usize),
    Store(usize, u64),
    Add(usize),
    Locked(usize),
    /// What the reader/writer lock guards.
    Read,
    TryRead,
    Write(u64),
    TryWrite(u64),
    /// Takes one of what there is, and waits while there is nothing.
    Take,
    /// Puts one there, and wakes one who waits.
    Put,
    /// Puts so many there, and wakes all.
    PutMany(u64),
}

fn programs() -> Vec<Vec<Vec<Do>>> {
    use Do::{Add, Load, Locked, Put, PutMany, Read, Store, Take, TryRead, TryWrite, Write};
    vec![
        // A lost update; store buffering; message passing; a lock that makes the difference; three threads.
        vec![vec![Load(0), Store(0, 1)], vec![Load(0), Store(0, 2)]],
        vec![vec![Store(0, 1), Load(1)], vec![Store(1, 1), Load(0)]],
        vec![vec![Store(0, 1), Store(1, 1)], vec![Load(1), Load(0)]],
        vec![vec![Locked(0), Load(1)], vec![Locked(0), Store(1, 5)]],
        vec![vec![Add(0), Load(1)], vec![Add(1)], vec![Add(0)]],
        vec![vec![Locked(0)], vec![Locked(0)], vec![Load(0)]],
        // Two reads around a write; two writers and a reader; who only tries; a lock that orders what it does not guard.
        vec![vec![Read, Read], vec![Write(1)]],
        vec![vec![Read], vec![Write(1)], vec![Write(2)]],
        vec![vec![TryRead, TryWrite(1)], vec![Write(2), TryRead]],
        vec![vec![Store(0, 1), Write(1)], vec![Read, Load(0)]],
        // A wakeup; several, which may come before who waits for them; two who wake each other.
        vec![vec![Take, Load(0)], vec![Put, Store(0, 1)]],
        vec![vec![Take, Take], vec![Put, Put]],
        vec![vec![Take, Load(0)], vec![PutMany(2), Store(0, 1), Take]],
    ]
}

/// Too large for code that is not optimised. `ci/release.sh` runs them.
#[cfg(not(debug_assertions))]
fn large_programs() -> Vec<Vec<Vec<Do>>> {
    use Do::{Put, PutMany, Take};
    // Two who wait, and are woken at once, or one after the other: each wakeup may be taken by either, or by who comes late.
    vec![vec![vec![Take], vec![Take], vec![PutMany(2)]], vec![vec![Take], vec![Take], vec![Put, Put]]]
}

type Ends = BTreeSet<Vec<u64>>;

/// A condition variable, made of what the explorer offers.
#[derive(Default)]
struct Condition {
    /// Who waits, and the wakeups that came meanwhile: each is for whoever is the first to go on.
    waiting: RefCell<Vec<(usize, Vec<u64>)>>,
    wakeups: RefCell<u64>,
}

impl Condition {
    fn op(&self) -> Op {
        Op::write(Object::at(self))
    }

    fn is_woken(wait: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `wait`, on whose stack it lies.
        let &(this, me) = unsafe { &*wait.cast::<(&Self, usize)>() };
        this.waiting.borrow().iter().any(|(who, wakeups)| *who == me && !wakeups.is_empty())
    }

    /// The caller holds the lock.
    fn wait(&self, me: usize, lock: &Lock) {
        access(&self.op());
        self.waiting.borrow_mut().push((me, Vec::new()));
        // SAFETY: held by the caller.
        unsafe { lock.unlock() };
        let wait = (self, me);
        access(&self.op().waits(Wait::until(Self::is_woken, std::ptr::from_ref(&wait).cast())));
        let mut waiting = self.waiting.borrow_mut();
        let at = waiting.iter().position(|&(who, _)| who == me).expect("it waits");
        let (_, wakeups) = waiting.remove(at);
        waiting.iter_mut().for_each(|(_, others)| others.retain(|&other| other != wakeups[0]));
        drop(waiting);
        lock.lock();
    }

    fn wake(&self, all: bool) {
        access(&self.op());
        let mut next = self.wakeups.borrow_mut();
        *next += 1;
        for (_, wakeups) in &mut *self.waiting.borrow_mut() {
            wakeups.push(*next);
            *next += u64::from(all);
        }
    }
}

struct Ours {
    cells: [Shared; 2],
    lock: Lock,
    rw: RwLock,
    guarded: Shared,
    store: Shared,
    filled: Condition,
}

impl Ours {
    fn new() -> Self {
        Self {
            cells: Default::default(),
            lock: Lock::INIT,
            rw: RwLock::INIT,
            guarded: Shared::default(),
            store: Shared::default(),
            filled: Condition::default(),
        }
    }

    fn perform(&self, thread: usize, step: Do, register: &mut u64) {
        let Self { lock, rw, .. } = self;
        let read = |register: &mut u64| {
            *register = *register * 10 + self.guarded.load();
            // SAFETY: the caller has locked it.
            unsafe { rw.unlock_shared() };
        };
        let write = |value: u64| {
            self.guarded.store(self.guarded.load() * 2 + value);
            // SAFETY: the caller has locked it.
            unsafe { rw.unlock_exclusive() };
        };
        let put = |many: u64, all: bool| {
            lock.lock();
            self.store.update(|value| value + many);
            self.filled.wake(all);
            // SAFETY: locked above.
            unsafe { lock.unlock() };
        };
        match step {
            Do::Load(cell) => *register = *register * 10 + self.cells[cell].load(),
            Do::Store(cell, value) => self.cells[cell].store(value),
            Do::Add(cell) => drop(self.cells[cell].update(|value| value + 1)),
            Do::Locked(cell) => {
                lock.lock();
                let value = self.cells[cell].load();
                self.cells[cell].store(value * 2 + 1);
                // SAFETY: locked above.
                unsafe { lock.unlock() };
            }
            Do::Read => {
                rw.lock_shared();
                read(register);
            }
            Do::TryRead if rw.try_lock_shared() => read(register),
            Do::Write(value) => {
                rw.lock_exclusive();
                write(value);
            }
            Do::TryWrite(value) if rw.try_lock_exclusive() => write(value),
            Do::TryRead | Do::TryWrite(_) => *register = *register * 10 + 9,
            Do::Take => {
                lock.lock();
                while self.store.load() == 0 {
                    *register += 1;
                    self.filled.wait(thread, lock);
                }
                *register = *register * 10 + self.store.update(|value| value - 1);
                // SAFETY: locked above.
                unsafe { lock.unlock() };
            }
            Do::Put => put(1, false),
            Do::PutMany(many) => put(many, true),
        }
    }
}

fn ours(program: &[Vec<Do>]) -> Ends {
    let ends: Rc<RefCell<Ends>> = Rc::default();
    let setup = |setup: &mut Setup| {
        let shared = Rc::new(Ours::new());
        let read = Rc::new(RefCell::new(vec![0; program.len()]));
        for (number, steps) in program.iter().cloned().enumerate() {
            let (shared, read) = (shared.clone(), read.clone());
            setup.thread(number.to_string(), move || {
                let mut register = 0;
                for step in steps {
                    shared.perform(number, step, &mut register);
                }
                read.borrow_mut()[number] = register;
            });
        }
        let ends = ends.clone();
        setup.finally(move |judged| {
            if judged {
                let mut end = read.borrow().clone();
                end.extend(shared.cells.iter().chain([&shared.guarded, &shared.store]).map(Shared::peek));
                ends.borrow_mut().insert(end);
            }
        });
    };
    Explorer::new(&setup).count_reduced();
    ends.take()
}

#[derive(Default)]
struct Shuttles {
    cells: [AtomicU64; 2],
    lock: shuttle::sync::Mutex<u64>,
    filled: shuttle::sync::Condvar,
    rw: shuttle::sync::RwLock<u64>,
}

impl Shuttles {
    fn perform(&self, step: Do, register: &mut u64) {
        let write = |guarded: &mut u64, value: u64| *guarded = *guarded * 2 + value;
        match step {
            Do::Load(cell) => *register = *register * 10 + self.cells[cell].load(Ordering::SeqCst),
            Do::Store(cell, value) => self.cells[cell].store(value, Ordering::SeqCst),
            Do::Add(cell) => drop(self.cells[cell].fetch_add(1, Ordering::SeqCst)),
            Do::Locked(cell) => {
                let guard = self.lock.lock().unwrap();
                let value = self.cells[cell].load(Ordering::SeqCst);
                self.cells[cell].store(value * 2 + 1, Ordering::SeqCst);
                drop(guard);
            }
            Do::Read => *register = *register * 10 + *self.rw.read().unwrap(),
            Do::TryRead => *register = *register * 10 + self.rw.try_read().map_or(9, |guarded| *guarded),
            Do::Write(value) => write(&mut self.rw.write().unwrap(), value),
            Do::TryWrite(value) => match self.rw.try_write() {
                Ok(mut guarded) => write(&mut guarded, value),
                Err(_) => *register = *register * 10 + 9,
            },
            Do::Take => {
                let mut store = self.lock.lock().unwrap();
                while *store == 0 {
                    *register += 1;
                    store = self.filled.wait(store).unwrap();
                }
                *register = *register * 10 + *store;
                *store -= 1;
            }
            Do::Put => {
                let mut store = self.lock.lock().unwrap();
                *store += 1;
                self.filled.notify_one();
            }
            Do::PutMany(many) => {
                let mut store = self.lock.lock().unwrap();
                *store += many;
                self.filled.notify_all();
            }
        }
    }

    fn state(&self) -> [u64; 4] {
        let [first, second] = &self.cells;
        let load = |cell: &AtomicU64| cell.load(Ordering::SeqCst);
        [load(first), load(second), *self.rw.read().unwrap(), *self.lock.lock().unwrap()]
    }
}

fn shuttles(program: &[Vec<Do>]) -> Ends {
    let ends: Arc<Mutex<Ends>> = Arc::default();
    let (program, collected) = (program.to_vec(), ends.clone());
    let run = move || {
        let shared = Arc::new(Shuttles::default());
        let threads: Vec<_> = program
            .iter()
            .cloned()
            .map(|steps| {
                let shared = shared.clone();
                shuttle::thread::spawn(move || {
                    let mut register = 0;
                    for step in steps {
                        shared.perform(step, &mut register);
                    }
                    register
                })
            })
            .collect();
        let mut end: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        end.extend(shared.state());
        collected.lock().unwrap().insert(end);
    };
    shuttle::Runner::new(DfsScheduler::new(None, false), Default::default()).run(run);
    let ends = ends.lock().unwrap();
    ends.clone()
}

fn compare(programs: &[Vec<Vec<Do>>]) {
    for (number, program) in programs.iter().enumerate() {
        let (ours, shuttles) = (ours(program), shuttles(program));
        assert_eq!(ours, shuttles, "program {number}");
        assert!(ours.len() > 1, "program {number} has one end only, and shows nothing");
    }
}

#[test]
fn both_explorers_find_the_same_ends() {
    compare(&programs());
}

#[cfg(not(debug_assertions))]
#[test]
fn both_explorers_find_the_same_ends_also_of_larger_programs() {
    compare(&large_programs());
}
