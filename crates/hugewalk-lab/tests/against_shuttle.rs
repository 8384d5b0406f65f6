//! The explorer beside another one: `shuttle` and its exhaustive depth-first scheduler, on the same programs.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use hugewalk_lab::explore::{Explorer, Lock, Setup, Shared};
use lock_api::RawMutex;
use shuttle::scheduler::DfsScheduler;
use shuttle::sync::atomic::{AtomicU64, Ordering};

/// What the threads of a program do to two numbers and, where they say so, a lock.
#[derive(Clone, Copy)]
enum Do {
    Load(usize),
    Store(usize, u64),
    Add(usize),
    Locked(usize),
}

fn programs() -> Vec<Vec<Vec<Do>>> {
    use Do::{Add, Load, Locked, Store};
    vec![
        // A lost update; store buffering; message passing; a lock that makes the difference; three threads.
        vec![vec![Load(0), Store(0, 1)], vec![Load(0), Store(0, 2)]],
        vec![vec![Store(0, 1), Load(1)], vec![Store(1, 1), Load(0)]],
        vec![vec![Store(0, 1), Store(1, 1)], vec![Load(1), Load(0)]],
        vec![vec![Locked(0), Load(1)], vec![Locked(0), Store(1, 5)]],
        vec![vec![Add(0), Load(1)], vec![Add(1)], vec![Add(0)]],
        vec![vec![Locked(0)], vec![Locked(0)], vec![Load(0)]],
    ]
}

type Ends = BTreeSet<Vec<u64>>;

fn ours(program: &[Vec<Do>]) -> Ends {
    let ends: Rc<RefCell<Ends>> = Rc::default();
    let setup = |setup: &mut Setup| {
        let shared: Rc<([Shared; 2], Lock)> = Rc::new((Default::default(), Lock::INIT));
        let read = Rc::new(RefCell::new(vec![0; program.len()]));
        for (number, steps) in program.iter().cloned().enumerate() {
            let (shared, read) = (shared.clone(), read.clone());
            setup.thread(number.to_string(), move || {
                let (cells, lock) = &*shared;
                let mut register = 0;
                for step in steps {
                    match step {
                        Do::Load(cell) => register = register * 10 + cells[cell].load(),
                        Do::Store(cell, value) => cells[cell].store(value),
                        Do::Add(cell) => drop(cells[cell].update(|value| value + 1)),
                        Do::Locked(cell) => {
                            lock.lock();
                            let value = cells[cell].load();
                            cells[cell].store(value * 2 + 1);
                            // SAFETY: locked above.
                            unsafe { lock.unlock() };
                        }
                    }
                }
                read.borrow_mut()[number] = register;
            });
        }
        let ends = ends.clone();
        setup.finally(move |judged| {
            if judged {
                let mut end = read.borrow().clone();
                end.extend(shared.0.iter().map(Shared::peek));
                ends.borrow_mut().insert(end);
            }
        });
    };
    Explorer::new(&setup).count_reduced();
    ends.take()
}

fn shuttles(program: &[Vec<Do>]) -> Ends {
    let ends: Arc<Mutex<Ends>> = Arc::default();
    let (program, collected) = (program.to_vec(), ends.clone());
    let run = move || {
        let shared = Arc::new(([AtomicU64::new(0), AtomicU64::new(0)], shuttle::sync::Mutex::new(())));
        let threads: Vec<_> = program
            .iter()
            .cloned()
            .map(|steps| {
                let shared = shared.clone();
                shuttle::thread::spawn(move || {
                    let (cells, lock) = &*shared;
                    let mut register = 0;
                    for step in steps {
                        match step {
                            Do::Load(cell) => register = register * 10 + cells[cell].load(Ordering::SeqCst),
                            Do::Store(cell, value) => cells[cell].store(value, Ordering::SeqCst),
                            Do::Add(cell) => drop(cells[cell].fetch_add(1, Ordering::SeqCst)),
                            Do::Locked(cell) => {
                                let guard = lock.lock().unwrap();
                                let value = cells[cell].load(Ordering::SeqCst);
                                cells[cell].store(value * 2 + 1, Ordering::SeqCst);
                                drop(guard);
                            }
                        }
                    }
                    register
                })
            })
            .collect();
        let mut end: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        end.extend(shared.0.iter().map(|cell| cell.load(Ordering::SeqCst)));
        collected.lock().unwrap().insert(end);
    };
    shuttle::Runner::new(DfsScheduler::new(None, false), Default::default()).run(run);
    let ends = ends.lock().unwrap();
    ends.clone()
}

#[test]
fn both_explorers_find_the_same_ends() {
    for (number, program) in programs().iter().enumerate() {
        let (ours, shuttles) = (ours(program), shuttles(program));
        assert_eq!(ours, shuttles, "program {number}");
        assert!(ours.len() > 1, "program {number} has one end only, and shows nothing");
    }
}
