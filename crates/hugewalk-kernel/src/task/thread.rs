//! A thread: its kernel stack, what a context switch saves, and its engine task.

use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hugewalk::Task;
use spin::Mutex;

use super::queue;
use crate::arch::{Fpu, Frame, UserRegisters, switch};
use crate::cpu;
use crate::errno::{Errno, Result};
use crate::memory::stack::KernelStack;
use crate::platform::Kernel;
use crate::process::Process;
use crate::process::ptrace::Tracee;
use crate::process::signal::ThreadSignals;
use crate::space::{Space, active};

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Running,
    /// In the queue.
    Runnable,
    Blocked,
    /// It will not run again; its last reference is dropped by whoever runs next on its processor.
    Dead,
}

/// A thread of a program, or a processor's idle thread.
///
/// # Invariants
///
/// `saved`, `fpu`, `space` and `task` are used by the thread itself, and by the scheduler while it is switched in or out: never
/// by two processors at once, since `on_cpu` is set meanwhile.
pub struct Thread {
    /// Its number. The first thread of a process has the process's.
    pub tid: u32,
    /// The process it belongs to. An idle thread has none.
    pub process: Option<Arc<Process>>,
    stack: KernelStack,
    pub(super) saved: UnsafeCell<u64>,
    fpu: UnsafeCell<Fpu>,
    space: UnsafeCell<Option<Arc<Space>>>,
    task: UnsafeCell<Option<Task<Kernel>>>,
    task_in_use: AtomicBool,
    /// The task, while [`Current::lend_task`] has it. Null otherwise.
    task_lent: AtomicPtr<Task<Kernel>>,
    task_id: AtomicU64,
    pub(super) state: AtomicU8,
    pub(super) token: AtomicBool,
    pub(super) on_cpu: AtomicBool,
    pub(super) next: UnsafeCell<*const Self>,
    /// The processor it runs on, or ran on last.
    pub(super) processor: AtomicUsize,
    /// Registers of the program that no way into the kernel saves.
    pub registers: UserRegisters,
    /// Where the thread stores its number when it begins (`CLONE_CHILD_SETTID`).
    pub set_tid: AtomicU64,
    /// Where to store 0 and wake a waiter when the thread ends (`CLONE_CHILD_CLEARTID`).
    pub clear_tid: AtomicU64,
    /// Mask, pending signals, alternate stack.
    pub signals: Mutex<ThreadSignals>,
    /// A signal, or the end of the process, waits to be handled: sleeps that can be interrupted are.
    pub interrupted: AtomicBool,
    /// It ends alone: another thread of its process has begun another program.
    pub ends_alone: AtomicBool,
    /// `PR_SET_NAME`.
    pub name: Mutex<[u8; 16]>,
    /// Its tracer.
    pub tracee: Tracee,
    /// The number of the last system call that it made.
    pub call: AtomicU64,
    /// The processors that it may run on, a bit each (`sched_setaffinity`).
    pub processors: AtomicU64,
    /// The list of locks that it holds, in its memory (`set_robust_list`).
    pub robust_list: AtomicU64,
}

// SAFETY: by the type invariants.
unsafe impl Send for Thread {}
// SAFETY: by the type invariants; the other fields are atomics, locks and constants.
unsafe impl Sync for Thread {}

static THREADS: AtomicU32 = AtomicU32::new(0);

/// Threads of programs that have not been freed.
pub fn tasks() -> u32 {
    THREADS.load(Ordering::Relaxed)
}

/// A reference to the running thread, good as long as it runs: it stays on the thread's stack.
#[derive(Clone, Copy)]
pub struct Current(*const Thread, PhantomData<*const ()>);

impl Deref for Current {
    type Target = Thread;

    fn deref(&self) -> &Thread {
        // SAFETY: the running thread is kept by the scheduler, and the reference does not leave it.
        unsafe { &*self.0 }
    }
}

impl Current {
    /// A reference that may leave the thread.
    pub fn handle(&self) -> Arc<Thread> {
        // SAFETY: threads are made in an `Arc`, and this one is kept.
        unsafe { Arc::increment_strong_count(self.0) };
        // SAFETY: the count was incremented for it.
        unsafe { Arc::from_raw(self.0) }
    }

    /// Its process.
    pub fn process(&self) -> &Arc<Process> {
        self.process.as_ref().expect("an idle thread makes no system calls")
    }

    /// Its address space.
    pub fn space(&self) -> Arc<Space> {
        // SAFETY: by the type invariants, this is the thread itself.
        let space = unsafe { &*self.space.get() };
        space.clone().expect("a thread that runs a program has an address space")
    }

    /// Goes over to another address space, or to none.
    pub fn set_space(&self, space: Option<Arc<Space>>) {
        // SAFETY: by the type invariants, this is the thread itself, and `space` below hands out no references.
        let old = unsafe { (*self.space.get()).take() };
        match &space {
            Some(space) => active::activate(space.engine().mm()),
            None => active::be_lazy(),
        }
        // SAFETY: as above.
        unsafe { *self.space.get() = space };
        // The root stays as long as a processor has it loaded.
        drop(old);
    }

    /// The engine's task of this thread. There is one, so it cannot be had twice at a time.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is none yet, and no memory to make one.
    pub fn task(&self) -> Result<TaskGuard> {
        assert!(!self.task_in_use.swap(true, Ordering::Relaxed), "the engine's task is in use further up");
        let guard = TaskGuard { thread: *self };
        if !self.task_lent.load(Ordering::Relaxed).is_null() {
            return Ok(guard);
        }
        // SAFETY: by the type invariants, this is the thread itself; `task_in_use` keeps others away.
        let slot = unsafe { &mut *self.task.get() };
        if slot.is_none() {
            let hugetlb = crate::platform::hugetlb();
            // SAFETY: this thread has no other task: the slot is the only place where one is made.
            let task = unsafe { Task::new(hugetlb) }.map_err(|_| Errno::ENOMEM)?;
            self.task_id.store(task.id(), Ordering::Relaxed);
            *slot = Some(task);
        }
        Ok(guard)
    }

    /// Is the thread to end, alone or with its process? It stays so. A wait that looks here ends then.
    ///
    /// Linux: `fatal_signal_pending()`.
    pub fn is_killed(&self) -> bool {
        // SeqCst: pairs with the store in `end_other_threads`, which comes before the thread is woken.
        let ends_alone = self.ends_alone.load(Ordering::SeqCst);
        ends_alone || self.process.as_ref().is_some_and(|process| process.state.lock().ending.is_some())
    }

    /// Lets `work` have the engine's task, which somebody further up has borrowed and does not use meanwhile.
    pub fn lend_task<R>(&self, task: &mut Task<Kernel>, work: impl FnOnce() -> R) -> R {
        // Relaxed: only the thread itself looks.
        let lent_before = self.task_lent.swap(task, Ordering::Relaxed);
        let used_before = self.task_in_use.swap(false, Ordering::Relaxed);
        let done = work();
        self.task_in_use.store(used_before, Ordering::Relaxed);
        self.task_lent.store(lent_before, Ordering::Relaxed);
        done
    }

    /// The engine's task of this thread, if nothing further up uses it: for what is done when a value is dropped.
    pub fn spare_task(&self) -> Option<TaskGuard> {
        let spare = self.process.is_some() && !self.task_in_use.load(Ordering::Relaxed);
        if spare { self.task().ok() } else { None }
    }

    /// Drops the engine's task: the thread is about to end.
    pub fn drop_task(&self) {
        // SAFETY: by the type invariants, this is the thread itself, and nothing has the task.
        unsafe { *self.task.get() = None };
    }

    /// The state of the floating-point unit, as it is now.
    pub fn fpu(&self) -> Fpu {
        let mut fpu = Fpu::new();
        fpu.save();
        fpu
    }
}

/// The engine's task, borrowed.
pub struct TaskGuard {
    thread: Current,
}

impl Deref for TaskGuard {
    type Target = Task<Kernel>;

    fn deref(&self) -> &Task<Kernel> {
        // SAFETY: `lend_task` has borrowed it for as long as it is noted, and `task_in_use` is set for this guard.
        if let Some(lent) = unsafe { self.thread.task_lent.load(Ordering::Relaxed).as_ref() } {
            return lent;
        }
        // SAFETY: `task` filled the slot, and `task_in_use` is set for this guard.
        let slot = unsafe { &*self.thread.task.get() };
        slot.as_ref().expect("filled when the guard was made")
    }
}

impl DerefMut for TaskGuard {
    fn deref_mut(&mut self) -> &mut Task<Kernel> {
        // SAFETY: as in `deref`.
        if let Some(lent) = unsafe { self.thread.task_lent.load(Ordering::Relaxed).as_mut() } {
            return lent;
        }
        // SAFETY: as in `deref`.
        let slot = unsafe { &mut *self.thread.task.get() };
        slot.as_mut().expect("filled when the guard was made")
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.thread.task_in_use.store(false, Ordering::Relaxed);
    }
}

/// The thread that runs this.
pub fn current() -> Current {
    Current(cpu::this().current(), PhantomData)
}

impl Thread {
    fn new(tid: u32, process: Option<Arc<Process>>, space: Option<Arc<Space>>, fpu: Fpu) -> Result<Self> {
        let stack = KernelStack::new().ok_or(Errno::ENOMEM)?;
        if process.is_some() {
            THREADS.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Self {
            tid,
            process,
            stack,
            saved: UnsafeCell::new(0),
            fpu: UnsafeCell::new(fpu),
            space: UnsafeCell::new(space),
            task: UnsafeCell::new(None),
            task_in_use: AtomicBool::new(false),
            task_lent: AtomicPtr::new(ptr::null_mut()),
            task_id: AtomicU64::new(0),
            state: AtomicU8::new(State::Blocked as u8),
            token: AtomicBool::new(false),
            on_cpu: AtomicBool::new(false),
            next: UnsafeCell::new(ptr::null()),
            processor: AtomicUsize::new(0),
            registers: UserRegisters::new(),
            set_tid: AtomicU64::new(0),
            clear_tid: AtomicU64::new(0),
            signals: Mutex::new(ThreadSignals::new()),
            interrupted: AtomicBool::new(false),
            ends_alone: AtomicBool::new(false),
            name: Mutex::new([0; 16]),
            tracee: Tracee::new(),
            call: AtomicU64::new(0),
            processors: AtomicU64::new(u64::MAX),
            robust_list: AtomicU64::new(0),
        })
    }

    /// A thread of a program, which begins with these registers once [`begin`] is called.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn user(
        tid: u32,
        process: Arc<Process>,
        space: Arc<Space>,
        frame: Frame,
        fpu: Fpu,
    ) -> Result<Arc<Self>> {
        let thread = Self::new(tid, Some(process), Some(space), fpu)?;
        // SAFETY: the thread's own stack, which nothing uses yet.
        let saved = unsafe { switch::user(thread.stack.top(), frame) };
        thread.saved.get().write_value(saved);
        Ok(Arc::new(thread))
    }

    /// The thread that a processor runs from its start on, and whenever there is nothing else.
    pub(super) fn idle() -> Result<Arc<Self>> {
        let thread = Self::new(0, None, None, Fpu::new())?;
        thread.state.store(State::Running as u8, Ordering::Relaxed);
        thread.on_cpu.store(true, Ordering::Relaxed);
        Ok(Arc::new(thread))
    }

    /// May it run on this processor?
    pub(super) fn may_run_on(&self, processor: usize) -> bool {
        // Relaxed: a thread that changes it looks itself, and others' next choice is soon enough.
        self.processors.load(Ordering::Relaxed) >> processor & 1 != 0
    }

    /// Does it sleep in the kernel?
    pub fn sleeps(&self) -> bool {
        // Relaxed: it can wake up in the next moment anyway.
        self.state.load(Ordering::Relaxed) == State::Blocked as u8
    }

    /// The number of its task of the engine, or 0 if it has none.
    pub fn task_id(&self) -> u64 {
        self.task_id.load(Ordering::Relaxed)
    }

    /// Top of its kernel stack.
    pub(super) fn stack_top(&self) -> u64 {
        self.stack.top()
    }

    /// Makes the thread's token present: if it sleeps, it runs again. Does not sleep.
    pub fn unpark(self: &Arc<Self>) {
        queue::unpark(self);
    }

    /// Makes it look at `interrupted` soon, wherever it is: asleep, or in its program.
    pub fn interrupt(self: &Arc<Self>) {
        // SeqCst: set before the thread is woken or interrupted. Pairs with the loads in `park_interruptible` and on the way
        // to ring 3.
        self.interrupted.store(true, Ordering::SeqCst);
        self.unpark();
        queue::poke(self);
    }

    /// Saves what a switch to another thread must.
    ///
    /// # Safety
    ///
    /// It is the thread that ran until now, on this processor.
    pub(super) unsafe fn save(&self) {
        if self.process.is_some() {
            // SAFETY: by the type invariants.
            unsafe { (*self.fpu.get()).save() };
            self.registers.save();
        }
    }

    /// Loads what a switch to the thread must.
    ///
    /// # Safety
    ///
    /// It is about to run, on this processor, which `on_cpu` says.
    pub(super) unsafe fn load(&self) {
        if self.process.is_none() {
            active::be_lazy();
            return;
        }
        // SAFETY: by the type invariants.
        unsafe { (*self.fpu.get()).load() };
        self.registers.load();
        // SAFETY: by the type invariants.
        match unsafe { &*self.space.get() } {
            Some(space) => active::activate(space.engine().mm()),
            None => active::be_lazy(),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.process.is_some() {
            THREADS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A thread of the kernel's own, without a program, which runs a function and ends.
///
/// # Errors
///
/// `ENOMEM`.
pub fn kernel_thread(main: extern "C" fn(u64), argument: u64) -> Result<Arc<Thread>> {
    let thread = Thread::new(0, None, None, Fpu::new())?;
    // SAFETY: the thread's own stack, which nothing uses yet.
    let saved = unsafe { switch::kernel(thread.stack.top(), main, argument) };
    thread.saved.get().write_value(saved);
    Ok(Arc::new(thread))
}

/// Lets a new thread run.
pub fn begin(thread: &Arc<Thread>) {
    thread.unpark();
}

/// Ends the running thread, which has left everything that it belonged to.
pub fn exit_current() -> ! {
    let me = current();
    me.set_space(None);
    me.drop_task();
    queue::exit()
}

trait WriteValue {
    fn write_value(self, value: u64);
}

impl WriteValue for *mut u64 {
    fn write_value(self, value: u64) {
        // SAFETY: the cell of a thread that nobody else knows yet.
        unsafe { self.write(value) };
    }
}
