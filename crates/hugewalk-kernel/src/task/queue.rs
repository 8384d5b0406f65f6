//! The queue of threads that can run, and the switch from one to another.
//!
//! One queue serves all processors. A thread that was woken before its processor had switched away from it is in the queue,
//! but `on_cpu`: other processors pass it over until the switch is done.

use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use spin::Mutex;

use super::thread::{State, Thread, current};
use super::timer;
use crate::arch::interrupts;
use crate::arch::switch::switch_stacks;
use crate::cpu;
use crate::space::active;

/// Threads that can run, linked by `next`, each with a reference that the queue owns.
struct Queue {
    first: *const Thread,
    last: *const Thread,
}

// SAFETY: threads are `Send` and `Sync`, and the queue owns its references.
unsafe impl Send for Queue {}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { first: ptr::null(), last: ptr::null() });
/// Threads in the queue, for a look without the lock.
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// What a processor needs around a switch.
struct Local {
    idle: AtomicPtr<Thread>,
    /// The thread that was switched away from, until the switch is done.
    previous: AtomicPtr<Thread>,
}

static LOCAL: [Local; cpu::MAX] =
    [const { Local { idle: AtomicPtr::new(ptr::null_mut()), previous: AtomicPtr::new(ptr::null_mut()) } };
        cpu::MAX];

impl Queue {
    fn push(&mut self, thread: Arc<Thread>) {
        let thread = Arc::into_raw(thread);
        // SAFETY: the reference that was just given up.
        let link = unsafe { &(*thread).next };
        // SAFETY: a thread is in the queue once at most, and the queue's lock is held.
        unsafe { *link.get() = ptr::null() };
        if self.last.is_null() {
            self.first = thread;
        } else {
            // SAFETY: in the queue, which owns a reference.
            let last = unsafe { &*self.last };
            // SAFETY: the queue's lock is held.
            unsafe { *last.next.get() = thread };
        }
        self.last = thread;
        LENGTH.fetch_add(1, Ordering::SeqCst);
    }

    /// The first thread that may run on this processor, and that no other is switching away from.
    fn pop(&mut self, own: *const Thread, processor: usize) -> Option<Arc<Thread>> {
        let mut before: *const Thread = ptr::null();
        let mut at = self.first;
        while !at.is_null() {
            // SAFETY: in the queue, which owns a reference.
            let thread = unsafe { &*at };
            // SAFETY: the queue's lock is held.
            let next = unsafe { *thread.next.get() };
            // Acquire: pairs with the Release in `finish_switch`, after which the saved stack pointer is valid.
            let is_free = ptr::eq(at, own) || !thread.on_cpu.load(Ordering::Acquire);
            if is_free && thread.may_run_on(processor) {
                if before.is_null() {
                    self.first = next;
                } else {
                    // SAFETY: in the queue, which owns a reference.
                    let before = unsafe { &*before };
                    // SAFETY: the queue's lock is held.
                    unsafe { *before.next.get() = next };
                }
                if ptr::eq(at, self.last) {
                    self.last = before;
                }
                LENGTH.fetch_sub(1, Ordering::SeqCst);
                // SAFETY: the reference that `push` left.
                return Some(unsafe { Arc::from_raw(at) });
            }
            before = at;
            at = next;
        }
        None
    }
}

/// Makes the calling processor's start its idle thread. Called once on each processor, before anything else of this room.
pub fn start_scheduling() {
    let thread = Thread::idle().expect("memory at the start");
    let processor = cpu::this();
    let thread = Arc::into_raw(thread);
    LOCAL[processor.number()].idle.store(thread.cast_mut(), Ordering::Relaxed);
    // SAFETY: the reference above is never given back.
    unsafe { processor.set_current(thread) };
}

/// Puts a thread that can run into the queue, and wakes a processor that idles.
fn enqueue(thread: Arc<Thread>) {
    let may = thread.processors.load(Ordering::Relaxed);
    QUEUE.lock().push(thread);
    wake_one_of(may);
}

/// Wakes a processor that idles, of those that a thread may run on.
fn wake_one_of(processors: u64) {
    for processor in cpu::all() {
        if processors >> processor.number() & 1 == 0 {
            continue;
        }
        // SeqCst: pairs with the store in `idle`, which is followed by a look into the queue.
        if processor.idle.load(Ordering::SeqCst) && processor.idle.swap(false, Ordering::SeqCst) {
            if processor.number() != cpu::this().number() {
                cpu::wake(processor);
            }
            return;
        }
    }
}

fn change(thread: &Thread, from: State, to: State) -> bool {
    thread.state.compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Makes the token of a thread present.
pub(super) fn unpark(thread: &Arc<Thread>) {
    // SeqCst, here and in `park`: the token is set before the state is looked at; `park` sets the state before it looks at the
    // token. So one of the two sees the other.
    thread.token.store(true, Ordering::SeqCst);
    if change(thread, State::Blocked, State::Runnable) {
        enqueue(thread.clone());
    }
}

/// Takes the running thread's token; sleeps until there is one.
pub fn park() {
    let me = current();
    loop {
        if me.token.swap(false, Ordering::SeqCst) {
            return;
        }
        me.state.store(State::Blocked as u8, Ordering::SeqCst);
        if me.token.load(Ordering::SeqCst) && change(&me, State::Blocked, State::Running) {
            continue;
        }
        switch();
    }
}

/// As [`park`], until a time at the latest.
pub fn park_until(deadline: Option<u64>) {
    match deadline {
        None => park(),
        Some(deadline) => {
            let alarm = timer::wake_at(deadline, current().handle());
            park();
            drop(alarm);
        }
    }
}

/// Lets another thread run, if there is one.
pub fn yield_now() {
    if LENGTH.load(Ordering::Relaxed) > 0 {
        switch();
    } else {
        core::hint::spin_loop();
    }
}

/// On the way to ring 3: lets another thread run if the timer or another processor asked for it.
pub fn schedule_if_due() {
    timer::run();
    cpu::this().reschedule.store(false, Ordering::Relaxed);
    if LENGTH.load(Ordering::Relaxed) > 0 {
        switch();
    }
}

/// Runs another thread. The running one goes to the end of the queue if it can still run.
fn switch() {
    let me = current();
    let own: *const Thread = &raw const *me;
    let processor = cpu::this();
    let local = &LOCAL[processor.number()];
    let is_idle = me.process.is_none() && ptr::eq(own, local.idle.load(Ordering::Relaxed));
    let next = {
        let mut queue = QUEUE.lock();
        if !is_idle && change(&me, State::Running, State::Runnable) {
            queue.push(me.handle());
        }
        queue.pop(own, processor.number())
    };
    let next = match next {
        Some(next) if ptr::eq(&raw const *next, own) => {
            me.state.store(State::Running as u8, Ordering::SeqCst);
            return;
        }
        Some(next) => {
            next.on_cpu.store(true, Ordering::Relaxed);
            next.state.store(State::Running as u8, Ordering::SeqCst);
            // The reference passes from the queue to the processor, and back when the thread is switched away from.
            Arc::into_raw(next)
        }
        None if is_idle => return,
        None => local.idle.load(Ordering::Relaxed).cast_const(),
    };
    // SAFETY: `me` ran here until now.
    unsafe { me.save() };
    // SAFETY: it is `on_cpu`, here.
    let next_thread = unsafe { &*next };
    next_thread.processor.store(processor.number(), Ordering::Relaxed);
    // SAFETY: as above.
    unsafe { next_thread.load() };
    cpu::trap::set_kernel_stack(next_thread.stack_top());
    local.previous.store(own.cast_mut(), Ordering::Relaxed);
    // SAFETY: the processor owns a reference to it.
    unsafe { processor.set_current(next) };
    // SAFETY: `next` is not on another processor, so what it saved is valid. Interrupts may come meanwhile: they have stacks of
    // their own, and look at nothing that changes here.
    let saved = unsafe { *next_thread.saved.get() };
    // SAFETY: as above.
    unsafe { switch_stacks(me.saved.get(), saved) };
    finish_switch();
}

/// The first thing that a thread does after a switch.
pub(crate) fn finish_switch() {
    let local = &LOCAL[cpu::this().number()];
    let previous = local.previous.swap(ptr::null_mut(), Ordering::Relaxed).cast_const();
    if previous.is_null() {
        return;
    }
    // SAFETY: the processor still owns its reference.
    let thread = unsafe { &*previous };
    let idle = ptr::eq(previous, local.idle.load(Ordering::Relaxed));
    // Release: pairs with the Acquire in `Queue::pop`.
    thread.on_cpu.store(false, Ordering::Release);
    if !idle {
        // While it is blocked or in the queue, its waker or the queue has a reference of their own.
        // SAFETY: the reference that `switch` left with the processor.
        drop(unsafe { Arc::from_raw(previous) });
    }
}

/// The running thread may run on these processors from now on, of which there is one at least. It goes to one of them.
pub fn move_to(processors: u64) {
    let me = current();
    me.processors.store(processors, Ordering::Relaxed);
    while !me.may_run_on(cpu::this().number()) {
        // Taken by this processor no more; one of the others finds it when the switch is done.
        wake_one_of(processors);
        switch();
    }
}

/// Ends the running thread.
pub(super) fn exit() -> ! {
    current().state.store(State::Dead as u8, Ordering::SeqCst);
    switch();
    unreachable!("a dead thread runs")
}

/// Makes the processor that runs a thread enter the kernel.
pub(super) fn poke(thread: &Arc<Thread>) {
    if thread.on_cpu.load(Ordering::SeqCst) {
        let number = thread.processor.load(Ordering::Relaxed);
        let processor = &cpu::all()[number];
        if number != cpu::this().number() {
            cpu::wake(processor);
        }
    }
}

/// What a processor does when there is nothing to do. Its first call starts it.
pub fn idle() -> ! {
    if current_is_missing() {
        start_scheduling();
        cpu::note_hardware_id();
    }
    let processor = cpu::this();
    interrupts::enable();
    loop {
        timer::run();
        if LENGTH.load(Ordering::SeqCst) > 0 {
            switch();
            if LENGTH.load(Ordering::SeqCst) == 0 {
                continue;
            }
            core::hint::spin_loop();
        }
        active::let_go();
        interrupts::disable();
        // SeqCst: pairs with `enqueue`, which puts the thread into the queue first.
        processor.idle.store(true, Ordering::SeqCst);
        if LENGTH.load(Ordering::SeqCst) == 0 {
            interrupts::enable_and_wait();
        } else {
            interrupts::enable();
        }
        processor.idle.swap(false, Ordering::SeqCst);
    }
}

fn current_is_missing() -> bool {
    cpu::this().current().is_null()
}
