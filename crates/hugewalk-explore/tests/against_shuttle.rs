//! This explorer beside another one: `shuttle` and its exhaustive depth-first scheduler, on the same programs. Without
//! `park`, from which shuttle's threads also go on for nothing.

use std::collections::BTreeSet;
use std::sync::Mutex as StdMutex;

use ::shuttle::scheduler::DfsScheduler;

/// What the threads of a program do to two numbers, and to what is guarded by locks.
#[derive(Clone, Copy)]
enum Do {
    Load(usize),
    Store(usize, u64),
    Add(usize),
    Exchange(usize),
    Locked(usize),
    TryLocked,
    /// What the reader/writer lock guards.
    Read,
    TryRead,
    Write(u64),
    TryWrite(u64),
    /// Takes one of what there is, and waits while there is nothing.
    Take,
    /// Puts one there, and wakes one thread that waits.
    Put,
    /// Puts so many there, and wakes all.
    PutMany(u64),
    /// To a channel that everybody may send to, and the first thread receives from when the others have ended.
    Send(u64),
}

fn programs() -> Vec<Vec<Vec<Do>>> {
    use Do::{
        Add, Exchange, Load, Locked, Put, PutMany, Read, Send, Store, Take, TryLocked, TryRead, TryWrite,
        Write,
    };
    vec![
        // A lost update; store buffering; message passing; a lock that makes the difference; three threads.
        vec![vec![Load(0), Store(0, 1)], vec![Load(0), Store(0, 2)]],
        vec![vec![Store(0, 1), Load(1)], vec![Store(1, 1), Load(0)]],
        vec![vec![Store(0, 1), Store(1, 1)], vec![Load(1), Load(0)]],
        vec![vec![Locked(0), Load(1)], vec![Locked(0), Store(1, 5)]],
        vec![vec![Add(0), Load(1)], vec![Add(1)], vec![Add(0)]],
        vec![vec![Locked(0)], vec![Locked(0)], vec![Load(0)]],
        // A claim; a lock that is only tried.
        vec![vec![Exchange(0), Load(0)], vec![Exchange(0), Store(0, 0)]],
        vec![vec![TryLocked, Load(0)], vec![Locked(0)]],
        // Two reads around a write; two writers and a reader; who only tries; a lock that orders what it does not guard.
        vec![vec![Read, Read], vec![Write(1)]],
        vec![vec![Read], vec![Write(1)], vec![Write(2)]],
        vec![vec![TryRead, TryWrite(1)], vec![Write(2), TryRead]],
        vec![vec![Store(0, 1), Write(1)], vec![Read, Load(0)]],
        // A wakeup; several, which may come before who waits for them; two who wake each other.
        vec![vec![Take, Load(0)], vec![Put, Store(0, 1)]],
        vec![vec![Take, Take], vec![Put, Put]],
        vec![vec![Take, Load(0)], vec![PutMany(2), Store(0, 1), Take]],
        // The order of messages.
        vec![vec![Send(1), Send(2)], vec![Send(3), Load(0)]],
    ]
}

/// Too large for code that is not optimised. `ci/release.sh` runs them.
#[cfg(not(debug_assertions))]
fn large_programs() -> Vec<Vec<Vec<Do>>> {
    use Do::{Put, PutMany, Take};
    // Two threads wait, and are woken at once or in turn: either may take a wakeup, and so may a thread that comes late.
    vec![vec![vec![Take], vec![Take], vec![PutMany(2)]], vec![vec![Take], vec![Take], vec![Put, Put]]]
}

type Ends = BTreeSet<Vec<u64>>;

/// The same text for both explorers, which have the same names for the same things.
macro_rules! program {
    ($explorer:ident) => {
        mod $explorer {
            use $explorer::sync::atomic::{AtomicU64, Ordering::SeqCst};
            use $explorer::sync::mpsc::{Sender, channel};
            use $explorer::sync::{Arc, Condvar, Mutex, RwLock};
            use $explorer::thread;

            use super::Do;

            #[derive(Default)]
            struct Shared {
                cells: [AtomicU64; 2],
                lock: Mutex<u64>,
                filled: Condvar,
                rw: RwLock<u64>,
            }

            fn perform(shared: &Shared, sender: &Sender<u64>, step: Do, register: &mut u64) {
                let Shared { cells, lock, filled, rw } = shared;
                let write = |guarded: &mut u64, value: u64| *guarded = *guarded * 2 + value;
                let mut learn = |value: u64| *register = *register * 10 + value;
                match step {
                    Do::Load(cell) => learn(cells[cell].load(SeqCst)),
                    Do::Store(cell, value) => cells[cell].store(value, SeqCst),
                    Do::Add(cell) => _ = cells[cell].fetch_add(1, SeqCst),
                    Do::Exchange(cell) => {
                        let claimed = cells[cell].compare_exchange(0, 7, SeqCst, SeqCst);
                        learn(u64::from(claimed.is_ok()));
                    }
                    Do::Locked(cell) => {
                        let guard = lock.lock().unwrap();
                        let value = cells[cell].load(SeqCst);
                        cells[cell].store(value * 2 + 1, SeqCst);
                        drop(guard);
                    }
                    Do::TryLocked => match lock.try_lock() {
                        Ok(mut guarded) => write(&mut guarded, 1),
                        Err(_) => learn(9),
                    },
                    Do::Read => learn(*rw.read().unwrap()),
                    Do::TryRead => learn(rw.try_read().map_or(9, |guarded| *guarded)),
                    Do::Write(value) => write(&mut rw.write().unwrap(), value),
                    Do::TryWrite(value) => match rw.try_write() {
                        Ok(mut guarded) => write(&mut guarded, value),
                        Err(_) => learn(9),
                    },
                    Do::Take => {
                        let mut store = lock.lock().unwrap();
                        let mut waited = 0;
                        while *store == 0 {
                            waited += 1;
                            store = filled.wait(store).unwrap();
                        }
                        learn(waited * 3 + *store);
                        *store -= 1;
                    }
                    Do::Put => {
                        let mut store = lock.lock().unwrap();
                        *store += 1;
                        filled.notify_one();
                    }
                    Do::PutMany(many) => {
                        let mut store = lock.lock().unwrap();
                        *store += many;
                        filled.notify_all();
                    }
                    Do::Send(value) => sender.send(value).unwrap(),
                }
            }

            /// One run: what each thread has learned, then what is left.
            pub(super) fn run(program: &[Vec<Do>]) -> Vec<u64> {
                let shared = Arc::new(Shared::default());
                let (sender, receiver) = channel();
                let body = |steps: &Vec<Do>| {
                    let (shared, sender, steps) = (shared.clone(), sender.clone(), steps.clone());
                    move || {
                        let mut register = 0;
                        for step in steps {
                            perform(&shared, &sender, step, &mut register);
                        }
                        register
                    }
                };
                let threads: Vec<_> = program.iter().map(|steps| thread::spawn(body(steps))).collect();
                let mut end: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
                end.extend(shared.cells.iter().map(|cell| cell.load(SeqCst)));
                end.extend([*shared.rw.read().unwrap(), *shared.lock.lock().unwrap()]);
                end.extend(std::iter::from_fn(|| receiver.try_recv().ok()));
                end
            }
        }
    };
}

program!(hugewalk_explore);
program!(shuttle);

fn ours(program: &[Vec<Do>]) -> Ends {
    let ends = StdMutex::new(Ends::new());
    ::hugewalk_explore::explore(|| {
        let end = hugewalk_explore::run(program);
        ends.lock().unwrap().insert(end);
    });
    ends.into_inner().unwrap()
}

fn shuttles(program: &[Vec<Do>]) -> Ends {
    let ends = std::sync::Arc::new(StdMutex::new(Ends::new()));
    let (program, collected) = (program.to_vec(), ends.clone());
    let run = move || {
        let end = shuttle::run(&program);
        collected.lock().unwrap().insert(end);
    };
    ::shuttle::Runner::new(DfsScheduler::new(None, false), Default::default()).run(run);
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
