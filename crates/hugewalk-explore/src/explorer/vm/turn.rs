//! Turns: what comes of a thread that is about to do something, and which thread goes on.

use corosensei::Yielder;

use super::ambient::{Deadlock, Livelock, MOVING, TRACING};
use super::threads::Pending;
use super::{Choice, Mode, Step, View, Vm};
use crate::explorer::op::{Class, Op};

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    /// Nobody has said.
    Open,
    /// This thread's, whose step is accounted for.
    Taken(usize),
    /// This thread's, whose step is not accounted for; the strategy may come back to this choice.
    Chosen(usize, usize),
    /// Nobody's any more.
    Over,
}

impl Vm {
    /// Lets the threads move until none can, or the run is decided and what is left of it does not matter.
    ///
    /// # Safety
    ///
    /// As for `start`.
    pub(super) unsafe fn run(vm: *mut Self) {
        MOVING.set(true);
        let mut turn = Turn::Open;
        loop {
            // SAFETY: by the contract; the borrow ends before a coroutine runs.
            let this = unsafe { &mut *vm };
            let thread = match turn {
                Turn::Open => {
                    turn = this.next_turn();
                    continue;
                }
                Turn::Over => break,
                Turn::Taken(thread) => thread,
                Turn::Chosen(thread, choice) => {
                    this.keep(choice);
                    this.commit(thread);
                    thread
                }
            };
            // Whoever suspends itself says whose turn it is.
            this.turn = Turn::Open;
            // SAFETY: as above.
            unsafe { Self::resume(vm, thread) };
            // SAFETY: as above.
            turn = unsafe { (*vm).turn };
        }
        MOVING.set(false);
        TRACING.set(false);
    }

    /// A thread is about to do something.
    pub(super) fn arrive(&mut self, op: &Op) -> Option<*const Yielder<(), ()>> {
        if self.mode == Mode::Quiet {
            self.objects.introduce(op.object);
            return None;
        }
        let thread = self.current;
        self.suspending = thread;
        if self.mode == Mode::Dead || self.is_over() {
            // Only a thread that is on its way to being abandoned: it never comes back.
            self.turn = Turn::Over;
            return Some(self.threads[thread].yielder);
        }
        #[cfg(any(test, feature = "internals"))]
        if let Some(look) = self.at_access.filter(|_| self.mode == Mode::Running) {
            look();
        }
        self.accesses += 1;
        if self.accesses > self.access_limit {
            let (thousands, rest) = (self.access_limit / 1000, self.access_limit % 1000);
            let text = format!("livelock: still running after {thousands},{rest:03} accesses");
            self.report(&text, Box::new(Livelock));
            self.mode = Mode::Dead;
            self.turn = Turn::Over;
            return Some(self.threads[thread].yielder);
        }
        let blocked = op.wait.is_some_and(|wait| !wait.is_over());
        if self.mode == Mode::Draining && !blocked {
            return None;
        }
        let (footprint, contended) = self.objects.footprint(op, thread);
        let in_turn = match op.class {
            // Numbers are given in the order of the schedule.
            Class::Begin => self.starting,
            // What the other thread did last is needed from here on.
            Class::Join(ended) => {
                let ended = &self.threads[usize::from(ended)];
                ended.early + ended.tail > 0
            }
            _ => false,
        };
        if !contended && !blocked && !in_turn {
            if let Class::Join(ended) = op.class {
                let mut clock = self.threads[thread].clock;
                self.join_thread(ended, &mut clock);
                self.threads[thread].clock = clock;
            }
            if self.starting {
                self.threads[thread].early += 1;
            } else {
                self.schedule.add(thread, 1);
                self.threads[thread].tail += 1;
                self.threads[thread].total += 1;
            }
            self.objects.carry_out(&footprint, thread, &mut self.threads[thread].clock);
            return None;
        }
        if !contended && self.mode == Mode::Running && !in_turn && !matches!(op.class, Class::Join(_)) {
            self.objects.learn(&footprint);
        }
        self.threads[thread].pending =
            Some(Pending { op: *op, footprint, announced: self.steps.len() as u32 });
        if self.starting {
            return Some(self.threads[thread].yielder);
        }
        match self.next_turn() {
            Turn::Taken(turn) if turn == thread => None,
            turn => {
                self.turn = turn;
                Some(self.threads[thread].yielder)
            }
        }
    }

    /// Is the run decided, and does nothing that is left of it matter?
    pub(super) fn is_over(&self) -> bool {
        // A panic is seen through, for the sake of what the system counts.
        self.mode == Mode::Draining && self.rewinding.is_some() && !std::thread::panicking()
    }

    /// Whose turn it is now. If it is settled, that thread's step is accounted for.
    pub(super) fn next_turn(&mut self) -> Turn {
        if self.mode == Mode::Dead || self.is_over() {
            return Turn::Over;
        }
        let mut enabled = 0_u8;
        for (number, thread) in self.threads.iter().enumerate() {
            let can = thread
                .pending
                .as_ref()
                .is_some_and(|pending| pending.op.wait.is_none_or(|wait| wait.is_over()));
            enabled |= u8::from(can && !thread.done) << number;
        }
        if enabled == 0 {
            if self.threads.iter().any(|thread| !thread.done) {
                let who: Vec<_> =
                    self.threads.iter().filter(|thread| !thread.done).map(|thread| &*thread.name).collect();
                let wait = if who.len() == 1 { "waits" } else { "wait for each other, or" };
                let text = format!("deadlock: {} {wait} for what never comes", who.join(", "));
                self.report(&text, Box::new(Deadlock));
                self.mode = Mode::Dead;
            }
            return Turn::Over;
        }
        let turn = self.whose_turn(enabled);
        if self.is_over() {
            return Turn::Over;
        }
        if self.rewinding.is_some() && self.mode == Mode::Running && !std::thread::panicking() {
            // SAFETY: set by `follow`, whose caller lends the strategy for that long.
            let returns = unsafe { (*self.strategy).returns_here() };
            if let Some(choice) = returns {
                return Turn::Chosen(turn, choice);
            }
        }
        self.commit(turn);
        Turn::Taken(turn)
    }

    /// Accounts for the step that the thread is about to take.
    pub(super) fn commit(&mut self, turn: usize) {
        let this = &mut self.threads[turn];
        let pending = this.pending.take().expect("enabled");
        let before = this.clock;
        let mut clock = before;
        if let Class::Join(ended) = pending.footprint.class {
            self.join_thread(ended, &mut clock);
        }
        let this = &mut self.threads[turn];
        if self.mode == Mode::Running {
            self.objects.carry_out(&pending.footprint, turn, &mut clock);
        }
        let after = clock;
        clock.tick(turn);
        this.clock = clock;
        let early = std::mem::take(&mut this.early);
        this.tail = 0;
        this.total += 1 + early;
        if this.begun.is_some() && before.of(turn) == 1 {
            self.keep_beginning(turn);
        }
        self.schedule.add(turn, 1 + early);
        if self.mode == Mode::Running {
            self.steps.push(Step {
                thread: turn as u8,
                announced: pending.announced,
                footprint: pending.footprint,
                before,
                after,
            });
        }
        self.current = turn;
    }

    pub(super) fn whose_turn(&mut self, enabled: u8) -> usize {
        let current = self.schedule.last();
        if self.mode == Mode::Running {
            let view = View { enabled, current, threads: &self.threads, schedule: &self.schedule };
            // SAFETY: set by `follow`, whose caller lends the strategy for that long.
            match unsafe { (*self.strategy).choose(&view) } {
                Choice::Run(thread) => {
                    assert!(enabled & 1 << thread != 0, "the strategy chose a thread that cannot move");
                    return thread;
                }
                Choice::GiveUp => {
                    self.gave_up = true;
                    self.decided();
                }
            }
        }
        current.filter(|&thread| enabled & 1 << thread != 0).unwrap_or(enabled.trailing_zeros() as usize)
    }
}
