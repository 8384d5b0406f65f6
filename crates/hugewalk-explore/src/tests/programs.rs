//! Small programs of this crate's own types end in the same ways however they are explored.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::explorer::compare::{Ends, How, Subject, WRONG};
use crate::explorer::{Setup, is_judged};
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::SeqCst;
use crate::sync::mpsc::{Receiver, SyncSender, sync_channel};
use crate::sync::{Arc, Condvar, Mutex, RwLock};
use crate::{hint, state, thread};

/// What a thread does. Cells and threads go by number.
#[derive(Clone, Debug)]
enum Do {
    Load(usize),
    Store(usize),
    Add(usize),
    Exchange(usize),
    /// Waits in a loop until the cell is not zero.
    Spin(usize),
    /// Waits in a loop until one of the cells is not zero.
    SpinAny,
    Locked(Vec<Do>),
    TryLocked(Vec<Do>),
    Read,
    Write,
    TryWrite,
    /// Waits until there is something, and takes it.
    Take,
    /// Puts something there, and wakes all or one.
    Put(bool),
    Send,
    Receive,
    Park,
    Unpark(usize),
    /// A thread that does the first, waited for after the second.
    Spawn(Vec<Do>, Vec<Do>),
    /// It is an error if the cell is not zero.
    Check(usize),
}

type Program = Vec<Vec<Do>>;

const CELLS: usize = 2;

struct World {
    cells: [AtomicU64; CELLS],
    lock: Mutex<u64>,
    rw: RwLock<u64>,
    store: Mutex<u64>,
    filled: Condvar,
    sender: SyncSender<u64>,
    /// Whoever receives.
    receiver: Mutex<Receiver<u64>>,
    /// Those that have begun, if anybody asks for them.
    threads: Mutex<Vec<thread::Thread>>,
    /// What each thread has seen, by its place in the program's text.
    registers: std::sync::Mutex<Vec<u64>>,
}

impl World {
    fn new() -> Self {
        let (sender, receiver) = sync_channel(1);
        Self {
            cells: Default::default(),
            lock: Mutex::default(),
            rw: RwLock::default(),
            store: Mutex::default(),
            filled: Condvar::new(),
            sender,
            receiver: Mutex::new(receiver),
            threads: Mutex::default(),
            registers: std::sync::Mutex::new(vec![0; 16]),
        }
    }

    fn learn(&self, thread: usize, value: u64) {
        let register = &mut self.registers.lock().unwrap()[thread];
        *register = register.wrapping_mul(7).wrapping_add(value + 1);
    }

    fn all(self: &Arc<Self>, thread: usize, steps: &[Do]) {
        steps.iter().for_each(|step| self.one(thread, step));
    }

    fn one(self: &Arc<Self>, thread: usize, step: &Do) {
        let own = thread as u64 + 1;
        match step {
            &Do::Load(cell) => self.learn(thread, self.cells[cell].load(SeqCst)),
            &Do::Store(cell) => self.cells[cell].store(own, SeqCst),
            &Do::Add(cell) => self.learn(thread, self.cells[cell].fetch_add(own, SeqCst)),
            &Do::Exchange(cell) => {
                let found = self.cells[cell].compare_exchange(0, own, SeqCst, SeqCst);
                self.learn(thread, u64::from(found.is_ok()));
            }
            &Do::Spin(cell) => {
                while self.cells[cell].load(SeqCst) == 0 {
                    hint::spin_loop();
                }
            }
            Do::SpinAny => {
                while self.cells.iter().all(|cell| cell.load(SeqCst) == 0) {
                    hint::spin_loop();
                }
            }
            Do::Locked(steps) => {
                let mut value = self.lock.lock().unwrap();
                *value = *value * 3 + own;
                self.all(thread, steps);
            }
            Do::TryLocked(steps) => {
                if let Ok(mut value) = self.lock.try_lock() {
                    *value = *value * 3 + own;
                    self.all(thread, steps);
                } else {
                    self.learn(thread, 9);
                }
            }
            Do::Read => self.learn(thread, *self.rw.read().unwrap()),
            Do::Write => {
                let mut value = self.rw.write().unwrap();
                *value = *value * 3 + own;
            }
            Do::TryWrite => match self.rw.try_write() {
                Ok(mut value) => *value = *value * 3 + own,
                Err(_) => self.learn(thread, 9),
            },
            Do::Take => {
                let mut store = self.store.lock().unwrap();
                while *store == 0 {
                    store = self.filled.wait(store).unwrap();
                }
                *store -= 1;
                self.learn(thread, *store);
            }
            &Do::Put(all) => {
                *self.store.lock().unwrap() += 1;
                if all { self.filled.notify_all() } else { self.filled.notify_one() }
            }
            Do::Send => self.learn(thread, u64::from(self.sender.send(own).is_ok())),
            Do::Receive => {
                let received = self.receiver.lock().unwrap().recv();
                self.learn(thread, received.unwrap_or(0));
            }
            Do::Park => thread::park(),
            &Do::Unpark(other) => {
                let other = self.threads.lock().unwrap().get(other).cloned();
                other.iter().for_each(thread::Thread::unpark);
            }
            Do::Spawn(steps, meanwhile) => {
                let (world, steps) = (self.clone(), steps.clone());
                let child = thread::spawn(move || world.all(thread + 4, &steps));
                self.all(thread, meanwhile);
                child.join().unwrap();
            }
            &Do::Check(cell) => assert_eq!(self.cells[cell].load(SeqCst), 0, "cell {cell} is not zero"),
        }
    }

    fn state(&self) -> Vec<u64> {
        let mut state = self.registers.lock().unwrap().clone();
        // No step: the threads have ended, or hang.
        state.extend(self.cells.iter().map(|cell| format!("{cell:?}").parse::<u64>().unwrap()));
        state
    }
}

/// Lets `with` explore a program, whose first thread begins the others and waits for them.
fn with_subject<R>(program: &Program, with: impl FnOnce(Subject<'_>) -> R) -> R {
    crate::run::tell_panics();
    let last: Rc<RefCell<Option<Arc<World>>>> = Rc::default();
    let ended: Rc<RefCell<BTreeSet<Vec<u64>>>> = Rc::default();
    let set_up = |setup: &mut Setup| {
        state::begin_run();
        let world = Arc::new(World::new());
        *last.borrow_mut() = Some(world.clone());
        let (program, there) = (program.clone(), world.clone());
        let asks = format!("{program:?}").contains("Unpark");
        let begins = move || {
            let begin = |(number, steps): (usize, Vec<Do>)| {
                let world = there.clone();
                let handle = thread::spawn(move || world.all(number, &steps));
                if asks {
                    there.threads.lock().unwrap().push(handle.thread().clone());
                }
                handle
            };
            let begun: Vec<_> = program.into_iter().enumerate().map(begin).collect();
            begun.into_iter().for_each(|thread| _ = thread.join());
        };
        setup.thread("main", move || _ = thread::run(&thread::first(), begins));
        let ended = ended.clone();
        setup.finally(move |judged| {
            if judged && is_judged() {
                ended.borrow_mut().insert(world.state());
            }
        });
    };
    let state = || last.borrow().as_ref().expect("it was set up").state();
    with(Subject { program: &set_up, ended: &ended, state: &state })
}

fn plain() -> impl Strategy<Value = Do> {
    let cell = || 0..CELLS;
    prop_oneof![
        4 => cell().prop_map(Do::Load),
        4 => cell().prop_map(Do::Store),
        2 => cell().prop_map(Do::Add),
        2 => cell().prop_map(Do::Exchange),
        2 => cell().prop_map(Do::Spin),
        2 => Just(Do::SpinAny),
        2 => cell().prop_map(Do::Check),
        1 => (0..3_usize).prop_map(Do::Unpark),
    ]
}

fn step() -> impl Strategy<Value = Do> {
    let inner = |most| prop::collection::vec(plain(), 0..most);
    prop_oneof![
        12 => plain(),
        2 => inner(3).prop_map(Do::Locked),
        2 => inner(2).prop_map(Do::TryLocked),
        2 => Just(Do::Read),
        2 => Just(Do::Write),
        1 => Just(Do::TryWrite),
        1 => Just(Do::Take),
        1 => any::<bool>().prop_map(Do::Put),
        1 => Just(Do::Send),
        1 => Just(Do::Receive),
        1 => Just(Do::Park),
        3 => (inner(3), inner(2)).prop_map(|(steps, meanwhile)| Do::Spawn(steps, meanwhile)),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    let threads =
        |count: usize, steps: usize| prop::collection::vec(prop::collection::vec(step(), 1..=steps), count);
    prop_oneof![threads(2, 3), threads(3, 2)]
}

/// The same programs every time, unless `PROPTEST_CASES` asks for so many others.
fn runner(cases: u32, seed: u8) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() };
    if asked.is_some() {
        return TestRunner::new(config);
    }
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    programs: u64,
    hung: u64,
    wrong: u64,
    varied: u64,
    naive_runs: u64,
    reduced_runs: u64,
    /// Programs that have too many runs.
    large: u64,
}

impl Compared {
    fn add(&mut self, compared: Option<(Ends, u64)>) {
        let Some((naive, reduced)) = compared else {
            self.large += 1;
            return;
        };
        self.programs += 1;
        self.hung += u64::from(!naive.hung.is_empty());
        self.wrong += u64::from(!naive.wrong.is_empty());
        self.varied += u64::from(naive.ended.len() > 1);
        self.naive_runs += naive.runs;
        self.reduced_runs += reduced;
    }
}

/// Programs with a reason to be here.
fn chosen() -> Vec<(&'static str, Program)> {
    use Do::{
        Add, Check, Load, Locked, Park, Put, Read, Receive, Send, Spawn, Spin, Store, Take, TryLocked,
        TryWrite, Unpark, Write,
    };
    vec![
        ("a lost update", vec![vec![Load(0), Store(0)], vec![Load(0), Store(0)]]),
        (
            "a thread begun between two looks",
            vec![vec![Load(0), Spawn(vec![Store(0)], vec![Load(0)])], vec![Load(0)]],
        ),
        (
            "two that begin threads at the same time",
            vec![vec![Spawn(vec![Add(0)], vec![])], vec![Spawn(vec![Add(0)], vec![])]],
        ),
        (
            "a join that orders what comes after it",
            vec![vec![Spawn(vec![Store(0)], vec![]), Load(0)], vec![Load(1)]],
        ),
        (
            "a join of a thread that touches nothing of others",
            vec![vec![Spawn(vec![], vec![Store(0)])], vec![Load(0), Check(0)]],
        ),
        (
            "a thread that goes wrong, begun late",
            vec![vec![Store(1), Spawn(vec![Check(0)], vec![])], vec![Store(0)]],
        ),
        (
            "a loop that waits, and is woken twice",
            vec![vec![Spin(0), Load(1)], vec![Store(1), Store(0)], vec![Add(1)]],
        ),
        ("a loop that may wait for ever", vec![vec![Spin(0), Spin(1)], vec![Load(0), Store(0)]]),
        ("two that wait in loops for each other", vec![vec![Spin(0), Store(1)], vec![Spin(1), Store(0)]]),
        ("a wakeup for one of two", vec![vec![Take, Add(0)], vec![Take, Add(0)], vec![Put(false)]]),
        ("a wakeup for all", vec![vec![Take], vec![Put(true), Load(0)]]),
        ("a full channel", vec![vec![Send, Send, Load(0)], vec![Store(0), Receive]]),
        ("a park that ends only if it comes late", vec![vec![Park], vec![Load(0), Unpark(2)]]),
        ("a park that is ended early", vec![vec![Load(0), Park, Load(0)], vec![Store(0), Unpark(0)]]),
        (
            "a lock that is only tried",
            vec![vec![TryLocked(vec![Store(0)])], vec![Locked(vec![Load(0), Load(0)])]],
        ),
        ("a writer between readers", vec![vec![Read, Read], vec![Write], vec![TryWrite]]),
    ]
}

#[test]
fn chosen_programs_end_in_the_same_ways_however_they_are_explored() {
    let mut seen = Compared::default();
    for (name, program) in chosen() {
        let compared = with_subject(&program, |subject| subject.compare());
        seen.add(compared.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    assert!(seen.large == 0 && seen.hung >= 4 && seen.wrong >= 2 && seen.varied >= 8, "{seen:?}");
}

#[test]
fn small_programs_end_in_the_same_ways_however_they_are_explored() {
    let seen = std::cell::Cell::new(Compared::default());
    let result = runner(120, 11).run(&program(), |program| {
        let mut now = seen.get();
        now.add(with_subject(&program, |subject| subject.compare()).map_err(TestCaseError::fail)?);
        seen.set(now);
        Ok(())
    });
    match result {
        Err(TestError::Fail(why, program)) => panic!("{program:?}: {why}"),
        other => other.unwrap(),
    }
    let seen = seen.get();
    let Compared { programs, hung, wrong, varied, large, .. } = seen;
    let enough = [programs > 2 * large, hung * 8 > programs, wrong * 25 > programs, varied * 5 > programs];
    assert_eq!(enough, [true; 4], "too large or too tame: {seen:?}");
    assert!(seen.reduced_runs * 20 < seen.naive_runs, "the reduction saves little: {seen:?}");
}

#[test]
fn a_wrong_idea_of_what_commutes_is_noticed() {
    let mut runner = runner(1, 5);
    // A loop that waits has two objects, too, but has looked at both of them just before: the lab has programs for those.
    let mut left: Vec<_> =
        WRONG.into_iter().filter(|(name, _)| *name != "there is no second object").collect();
    for _ in 0..400 {
        let program = program().new_tree(&mut runner).expect("a program").current();
        with_subject(&program, |subject| {
            let Some(naive) = subject.ends(How::Naive, None) else { return };
            left.retain(|&(_, falsify)| {
                subject.agrees(&naive, How::ReducedEverywhere, Some(falsify)).is_ok()
            });
        });
        if left.is_empty() {
            return;
        }
    }
    panic!("not noticed: {:?}", left.iter().map(|(name, _)| name).collect::<Vec<_>>());
}
