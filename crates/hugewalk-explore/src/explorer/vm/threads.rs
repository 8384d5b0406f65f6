//! The threads of a run, each a coroutine on a stack of its own: how they begin, move, wait for each other, and go.

use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::{DefaultStack, Stack as _};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::ambient::{MOVING, TRACING, violation, with};
use super::{Mode, Vm, crash, panic_text};
use crate::explorer::arena;
use crate::explorer::clock::{Clock, MAX_THREADS};
use crate::explorer::op::{Footprint, Op};

/// A thread of a run.
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(super) coroutine: Option<Coroutine<(), (), (), DefaultStack>>,
    pub(super) yielder: *const Yielder<(), ()>,
    pub(crate) pending: Option<Pending>,
    pub(super) clock: Clock,
    pub(super) done: bool,
    /// Accesses before the first scheduling point, which are not yet in the schedule.
    pub(super) early: u32,
    /// Accesses since the last scheduling point that was its own.
    pub(super) tail: u32,
    /// Accesses that are in the schedule.
    pub(super) total: u32,
    /// The thread that began it, if one did, and how many accesses that had made then.
    pub(super) begun: Option<(u8, u32)>,
    /// While it is suspended: all of its stack that is in use lies above.
    pub(super) low: usize,
    /// The end of its stack.
    pub(super) base: usize,
}

/// What a thread does next: it has said so, and waits for its turn.
#[derive(Clone, Copy)]
pub(crate) struct Pending {
    pub(super) op: Op,
    pub(crate) footprint: Footprint,
    pub(super) announced: u32,
}

impl Vm {
    /// Makes the threads, and runs each to its first scheduling point.
    ///
    /// # Safety
    ///
    /// `vm` is valid and nobody else holds a reference to it.
    pub(super) unsafe fn start(vm: *mut Self, threads: Vec<(String, Box<dyn FnOnce()>)>) {
        // SAFETY: by this function's contract; no coroutine has been started yet.
        let this = unsafe { &mut *vm };
        assert!(threads.len() <= MAX_THREADS, "more than {MAX_THREADS} threads");
        for (name, body) in threads {
            let name = arena::outside(|| name.as_str().to_owned());
            this.add_thread(name, body, Clock::default());
        }
        (this.mode, this.starting) = (Mode::Running, true);
        MOVING.set(true);
        TRACING.set(this.tracing);
        let count = this.threads.len();
        for thread in 0..count {
            // SAFETY: by this function's contract; `this` is not used across it.
            unsafe { Self::resume(vm, thread) };
        }
        // SAFETY: as above.
        unsafe { (*vm).starting = false };
    }

    /// Makes a thread, which has seen what `clock` says, and does not run it yet.
    pub(super) fn add_thread(&mut self, name: String, body: Box<dyn FnOnce()>, mut clock: Clock) -> usize {
        let number = self.threads.len();
        let stack = self.stacks.pop().unwrap_or_else(|| DefaultStack::new(128 << 10).expect("a stack"));
        let base = stack.base().get();
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            with(|vm| vm.threads[number].yielder = yielder);
            let ended = catch_unwind(AssertUnwindSafe(body));
            if let Err(panic) = ended {
                violation(format!("a panic: {}", panic_text(&*panic)), ());
            }
        });
        clock.tick(number);
        self.threads.push(Thread {
            name,
            coroutine: Some(coroutine),
            yielder: std::ptr::null(),
            pending: None,
            clock,
            done: false,
            early: 0,
            tail: 0,
            total: 0,
            begun: None,
            low: base,
            base,
        });
        number
    }

    /// A thread begins another one, which runs up to its first scheduling point at once: what it does before touches nothing
    /// that others race for.
    ///
    /// # Safety
    ///
    /// `vm` is valid; the caller is a thread of it, and nobody holds a reference to it.
    pub(super) unsafe fn begin_thread(vm: *mut Self, name: String, body: Box<dyn FnOnce()>) -> usize {
        // SAFETY: by the contract; the borrow ends before a coroutine runs.
        let this = unsafe { &mut *vm };
        let parent = this.current;
        let clock = this.threads[parent].clock;
        // What the parent does from here on the child has not seen.
        this.threads[parent].clock.tick(parent);
        let begun = Some((parent as u8, this.threads[parent].total));
        let child = arena::outside(|| this.add_thread(name, body, clock));
        this.threads[child].begun = begun;
        let starting = std::mem::replace(&mut this.starting, true);
        // SAFETY: as above. The parent's coroutine runs it, and is come back to where the child suspends itself.
        unsafe { Self::resume(vm, child) };
        // SAFETY: as above.
        let this = unsafe { &mut *vm };
        (this.starting, this.current) = (starting, parent);
        child
    }

    /// A thread has waited for the end of another one, and goes on.
    pub(super) fn join_thread(&mut self, ended: u8, clock: &mut Clock) {
        let number = usize::from(ended);
        let ended = &mut self.threads[number];
        clock.join(&ended.clock);
        // What it did was needed for this.
        ended.tail = 0;
        let early = std::mem::take(&mut ended.early);
        ended.total += early;
        self.schedule.add(number, early);
        if early > 0 {
            self.joined_early = true;
            self.keep_beginning(number);
        }
    }

    /// What a thread did is needed, so it has to begin: what its parent did up to there stays in the schedule.
    pub(super) fn keep_beginning(&mut self, child: usize) {
        if let Some((parent, at)) = self.threads[child].begun {
            let parent = &mut self.threads[usize::from(parent)];
            parent.tail = parent.tail.min(parent.total - at);
        }
    }

    /// # Safety
    ///
    /// As for `start`.
    pub(super) unsafe fn resume(vm: *mut Self, thread: usize) {
        // SAFETY: by the contract; the borrow ends before the coroutine runs.
        let this = unsafe { &mut *vm };
        this.current = thread;
        let mut coroutine = this.threads[thread].coroutine.take().expect("a thread that can run");
        let rewinds = this.rewinding.is_some();
        let resume = |coroutine: &mut Coroutine<_, _, _, _>| {
            crash::within(coroutine.trap_handler(), vm, || coroutine.resume(()))
        };
        let result =
            if rewinds { arena::within(thread, || resume(&mut coroutine)) } else { resume(&mut coroutine) };
        // SAFETY: as above; the coroutine is suspended or done.
        let this = unsafe { &mut *vm };
        let done = matches!(result, CoroutineResult::Return(()));
        this.threads[thread].done = done;
        if done && this.rewinding.is_none() {
            this.stacks.push(coroutine.into_stack());
        } else {
            this.threads[thread].coroutine = Some(coroutine);
        }
    }

    pub(super) fn clean_up(&mut self) {
        let mut left = false;
        for thread in &mut self.threads {
            if let Some(mut coroutine) = thread.coroutine.take() {
                left = true;
                // SAFETY: what lies on the stack is abandoned: `execute` keeps alive whatever it refers to, by leaking it.
                unsafe { coroutine.force_reset() };
                self.stacks.push(coroutine.into_stack());
            }
        }
        self.abandoned += u64::from(left);
    }
}
