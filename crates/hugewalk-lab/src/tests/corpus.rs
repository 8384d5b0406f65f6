//! Small programs: what threads can do in them, and all the ways in which they can end, looked for in several ways.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::rc::Rc;

use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::platform::{Flush, Tables as _, Tlb};
use hugewalk::rcu::{Rcu as _, RcuHead};
use hugewalk::sync::Parker as _;
use lock_api::{RawMutex as _, RawRwLock as _};

use super::memory::{Tables, Touch};
use crate::explore::compare::Subject;
use crate::explore::{Lock, Object, Op, RwLock, Setup, Shared, Wait, access, is_judged, violation};
use crate::lab::{Context, Lab, LabRcu, LabReader, Property, Settings, Token, set_interrupts_off};

/// What a thread does. Cells, locks and threads go by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Do {
    Load(usize),
    Store(usize),
    /// In one step.
    Update(usize),
    /// What the lock of this number guards, while it is held: it need not be a scheduling point.
    Guarded(usize),
    Locked(usize, Vec<Do>),
    TryLocked(usize, Vec<Do>),
    Reading(Vec<Do>),
    TryReading(Vec<Do>),
    Writing(Vec<Do>),
    TryWriting(Vec<Do>),
    /// Waits until the cell is not zero.
    Await(usize),
    /// Sleeps until it is woken.
    Park,
    Unpark(usize),
    /// An RCU read section.
    Section(Vec<Do>),
    /// The same with interrupts off.
    InterruptsOff(Vec<Do>),
    Synchronize,
    /// Queues a callback, which updates the cell.
    Call(usize),
    /// Waits for all that have interrupts off.
    Broadcast,
    /// An access to memory: a flush waits for its end.
    Access(Vec<Do>),
    Flush,
    /// It is an error if the cell is not zero.
    Check(usize),
    Memory(Touch),
}

/// What each thread does.
pub(super) type Program = Vec<Vec<Do>>;

pub(super) const CELLS: usize = 2;
pub(super) const LOCKS: usize = 2;

/// What the threads share.
struct World {
    cells: [Shared; CELLS],
    locks: [Lock; LOCKS],
    guarded: [Shared; LOCKS],
    rw: RwLock,
    tokens: [Token; 3],
    context: Context,
    rcu: LabRcu,
    readers: [LabReader; 3],
    lab: Box<Lab>,
    tables: Tables,
    /// What each thread has seen so far. Nobody else looks.
    registers: RefCell<Vec<u64>>,
    /// Steps that each has taken.
    taken: RefCell<Vec<u64>>,
}

/// Something queued: it lies where the record of a table would, since those are what the lab's RCU frees.
#[repr(C)]
struct Callback {
    head: RcuHead,
    frame: TableFrame,
    world: *const World,
    cell: usize,
}

const _: () = assert!(size_of::<Callback>() <= size_of::<hugewalk::platform::TableRecord>());

unsafe fn run_callback(head: NonNull<RcuHead>) {
    // SAFETY: the head is the first field of a callback that `Call` has written.
    let Callback { frame, world, cell, .. } = unsafe { head.cast::<Callback>().read() };
    // SAFETY: the world outlives the threads, which run callbacks.
    let world = unsafe { &*world };
    world.cells[cell].update(|value| value * 2 + 1);
    // SAFETY: its grace period is over.
    unsafe { world.lab.free_table(frame) };
}

impl World {
    fn new(threads: usize) -> Self {
        let lab = Box::new(Lab::new(Settings::HUGEWALK, &[Property::I1]));
        let rcu = LabRcu::new(&lab).expect("memory");
        Self {
            cells: Default::default(),
            locks: [Lock::INIT; LOCKS],
            guarded: Default::default(),
            rw: RwLock::INIT,
            tokens: std::array::from_fn(|_| Token::new()),
            context: lab.new_context().expect("memory"),
            readers: std::array::from_fn(|_| rcu.register(&lab).expect("memory")),
            rcu,
            tables: Tables::new(&lab),
            lab,
            registers: RefCell::new(vec![0; threads]),
            taken: RefCell::new(vec![0; threads]),
        }
    }

    fn learn(&self, thread: usize, value: u64) {
        let register = &mut self.registers.borrow_mut()[thread];
        *register = register.wrapping_mul(7).wrapping_add(value + 1);
    }

    fn all(&self, thread: usize, steps: &[Do]) {
        for step in steps {
            self.one(thread, step);
            self.taken.borrow_mut()[thread] += 1;
        }
    }

    fn one(&self, thread: usize, step: &Do) {
        let own = thread as u64 + 1;
        let section = |off: bool, steps: &[Do]| {
            set_interrupts_off(off);
            // SAFETY: a reader of this domain.
            unsafe { self.rcu.read_lock(&self.lab, &self.readers[thread]) };
            set_interrupts_off(false);
            self.all(thread, steps);
            // SAFETY: entered above.
            unsafe { self.rcu.read_unlock(&self.lab, &self.readers[thread]) };
        };
        let locked = |lock: &Lock, steps: &[Do]| {
            self.all(thread, steps);
            // SAFETY: the caller has locked it.
            unsafe { lock.unlock() };
        };
        let reading = |steps: &[Do]| {
            self.all(thread, steps);
            // SAFETY: the caller has locked it.
            unsafe { self.rw.unlock_shared() };
        };
        let writing = |steps: &[Do]| {
            self.all(thread, steps);
            // SAFETY: the caller has locked it.
            unsafe { self.rw.unlock_exclusive() };
        };
        let tried = |taken: bool| {
            self.learn(thread, u64::from(taken));
            taken
        };
        match step {
            &Do::Load(cell) => self.learn(thread, self.cells[cell].load()),
            &Do::Store(cell) => self.cells[cell].store(own),
            &Do::Update(cell) => self.learn(thread, self.cells[cell].update(|value| value * 3 + own)),
            &Do::Guarded(lock) => {
                let value = self.guarded[lock].load();
                self.guarded[lock].store(value * 3 + own);
            }
            Do::Locked(lock, steps) => {
                self.locks[*lock].lock();
                locked(&self.locks[*lock], steps);
            }
            Do::TryLocked(lock, steps) => {
                if tried(self.locks[*lock].try_lock()) {
                    locked(&self.locks[*lock], steps);
                }
            }
            Do::Reading(steps) => {
                self.rw.lock_shared();
                reading(steps);
            }
            Do::TryReading(steps) => {
                if tried(self.rw.try_lock_shared()) {
                    reading(steps);
                }
            }
            Do::Writing(steps) => {
                self.rw.lock_exclusive();
                writing(steps);
            }
            Do::TryWriting(steps) => {
                if tried(self.rw.try_lock_exclusive()) {
                    writing(steps);
                }
            }
            &Do::Await(cell) => {
                let cell = &self.cells[cell];
                let set = |cell: *const ()| {
                    // SAFETY: asked while the thread waits for it.
                    unsafe { &*cell.cast::<Shared>() }.peek() != 0
                };
                access(&Op::read(Object::at(cell)).waits(Wait::until(set, std::ptr::from_ref(cell).cast())));
                self.learn(thread, cell.peek());
            }
            Do::Park => self.tokens[thread].park(),
            &Do::Unpark(other) => self.tokens[other].unpark(),
            Do::Section(steps) => section(false, steps),
            Do::InterruptsOff(steps) => section(true, steps),
            // SAFETY: programs wait outside of sections only, with no lock held.
            Do::Synchronize => unsafe { self.rcu.synchronize(&self.lab) },
            &Do::Call(cell) => {
                let Some(frame) = self.lab.alloc_table() else { return self.learn(thread, 0) };
                let head = RcuHead::new(run_callback);
                // SAFETY: allocated just now.
                let callback = unsafe { self.lab.table_record(frame) }.cast::<Callback>();
                // SAFETY: nobody else has the record, and a callback fits.
                unsafe { callback.write(Callback { head, frame, world: self, cell }) };
                // SAFETY: it stays there until the callback has run.
                unsafe { self.rcu.call(&self.lab, callback.cast()) };
            }
            Do::Broadcast => self.rcu.broadcast(),
            Do::Access(steps) => {
                self.context.begin_access();
                self.all(thread, steps);
                self.context.end_access();
            }
            Do::Flush => {
                let range = VirtAddr::new(0)..VirtAddr::new(1 << 47);
                let everything = Flush { range, stride: X86_64::SIZE_2M.bytes(), tables: true };
                self.lab.flush_tlb(&self.context, everything);
            }
            &Do::Memory(touch) => {
                let learned = self.tables.touch(&self.lab, &self.rcu, &self.context, touch, own);
                self.learn(thread, learned);
            }
            &Do::Check(cell) => {
                if self.cells[cell].load() != 0 {
                    violation(format!("cell {cell} is not zero"), Wrong);
                }
            }
        }
    }

    /// What is to be seen of it at the end.
    fn state(&self) -> Vec<u64> {
        let mut state = self.registers.borrow().clone();
        state.extend(&*self.taken.borrow());
        state.extend(self.cells.iter().chain(&self.guarded).map(Shared::peek));
        state.extend(self.tables.state(&self.lab));
        state.push(hugewalk::rcu::Rcu::<Lab>::pending(&self.rcu));
        state
    }
}

/// A `Check` that went wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wrong;

/// Lets `with` explore a program.
pub(super) fn with_subject<R>(program: &Program, with: impl FnOnce(Subject<'_>) -> R) -> R {
    let last: RefCell<Option<Rc<World>>> = RefCell::default();
    let ended: Rc<RefCell<BTreeSet<Vec<u64>>>> = Rc::default();
    let set_up = |setup: &mut Setup| {
        let world = Rc::new(World::new(program.len()));
        *last.borrow_mut() = Some(world.clone());
        for (thread, steps) in program.iter().enumerate() {
            let (world, steps) = (world.clone(), steps.clone());
            setup.thread(thread.to_string(), move || world.all(thread, &steps));
        }
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
