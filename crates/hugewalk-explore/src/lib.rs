//! Runs a concurrent program under every interleaving, in a test.
//!
//! # What it does not cover
//!
//! - **Weak memory.** All threads see all changes in one order: each run is sequentially consistent, whatever the
//!   [`Ordering`](sync::atomic::Ordering) of an operation says. A `Relaxed` in place of a `Release` is not found. `loom` finds such
//!   mistakes; a program that is right here and wrong there lacks an ordering.
//! - **What is not this crate's.** Threads are switched at the operations of this crate's types, and nowhere else. An atomic or a
//!   mutex of `std` in the program is no place where another thread may go on; a mutex of `std` that is held across such a place
//!   hangs the test. Reference counts of [`Arc`](sync::Arc) are `std`'s: which thread drops the last reference is not explored.
//! - **Threads of the operating system.** The threads of a program are coroutines of the one that explores. A `thread_local!` of
//!   `std` is one for all of them.
//! - **Time.** Nothing sleeps or times out, and a wait ends for a reason only: no wakeup is spurious.
//! - **Chance and the world.** A program has to do the same whenever its threads are scheduled the same: no random numbers, no
//!   clock, no order of addresses, no static that a run leaves changed. If it does not, the report says that the run cannot be
//!   repeated.
//! - **More than eight threads**, the first included; and more than some 2,000 objects in a run.
//!
//! Within that it is exhaustive: [`explore`] either has run all interleavings, but for those that differ only in the order of
//! steps that commute, or panics. It runs on x86-64 Linux, and needs nothing of the program but its types.
//!
//! # A test
//!
//! ```
//! use hugewalk_explore::sync::Arc;
//! use hugewalk_explore::sync::atomic::{AtomicUsize, Ordering::SeqCst};
//! use hugewalk_explore::{explore, thread};
//!
//! explore(|| {
//!     let sum = Arc::new(AtomicUsize::new(0));
//!     let there = sum.clone();
//!     let other = thread::spawn(move || there.fetch_add(1, SeqCst));
//!     sum.fetch_add(1, SeqCst);
//!     other.join().unwrap();
//!     assert_eq!(sum.load(SeqCst), 2);
//! });
//! ```
//!
//! The closure is the first thread. It is called for each run; so what the threads share is made inside of it. [`sync`],
//! [`thread`], [`hint`] and [`cell`] have the names of `std`; a crate that is to be tested takes either by a `cfg`:
//!
//! ```
//! #[cfg(explore)]
//! use hugewalk_explore::sync;
//! #[cfg(not(explore))]
//! use std::sync;
//! # let _ = sync::atomic::AtomicBool::new(true);
//! ```
//!
//! # A failure
//!
//! A load and a store instead of the addition:
//!
//! ```
//! # use hugewalk_explore::sync::Arc;
//! # use hugewalk_explore::sync::atomic::{AtomicUsize, Ordering::SeqCst};
//! # use hugewalk_explore::{Explore, thread};
//! let failure = Explore::new()
//!     .try_run(|| {
//!         let sum = Arc::new(AtomicUsize::new(0));
//!         let there = sum.clone();
//!         let other = thread::spawn(move || there.store(there.load(SeqCst) + 1, SeqCst));
//!         sum.store(sum.load(SeqCst) + 1, SeqCst);
//!         other.join().unwrap();
//!         assert_eq!(sum.load(SeqCst), 2, "an update is lost");
//!     })
//!     .unwrap_err();
//! assert_eq!(failure.schedule(), Some("A2B2A3"));
//! ```
//!
//! [`explore`] panics with all there is to say of it:
//!
//! ```text
//! assertion `left == right` failed: an update is lost
//!   left: 1
//!  right: 2
//! at src/lib.rs:12
//!
//!   A main        B
//!   load #1 = 0                 src/lib.rs:10
//!                 load #1 = 0   src/lib.rs:9
//!                 store #1 = 1  src/lib.rs:9
//!   store #1 = 1                src/lib.rs:10
//!   load #1 = 1                 src/lib.rs:12
//!   -> assertion `left == right` failed: an update is lost
//!
//! schedule A2B2A3: 2 switches, 7 steps; no run with fewer switches goes wrong, nor one with as many and fewer steps
//! 7 runs were made. To see this one again: HUGEWALK_EXPLORE_REPLAY=A2B2A3, or Explore::replay
//! ```
//!
//! A column is a thread, in the order in which they were begun; `#1` is the first object that is mentioned. Steps that touch
//! nothing which threads race for are left out. A *schedule* is turns: `A2B2A3` lets the first thread take two steps, the second
//! two, the first three. All steps count, also those that are not drawn, so a schedule means the same in every version of
//! the explorer, as long as the program does not change. With the environment variable [`REPLAY`] the test runs that schedule
//! and nothing else; [`Explore::replay`] does so in the program's text.
//!
//! # Loops that wait
//!
//! A loop such as `while !flag.load(SeqCst) {}` has endless runs. Say in it that it waits, by [`hint::spin_loop`] or
//! [`thread::yield_now`]: the thread goes on when another one has changed what it looks at, and a wait for what never comes is
//! reported as a deadlock. A loop that does not say so is reported as a livelock, with this advice.
//!
//! # How far it looks
//!
//! | | |
//! |---|---|
//! | [`explore`] | all schedules with at most 0, 1, 2 preemptions; if nothing goes wrong, all schedules, by dynamic partial-order reduction |
//! | [`Explore::preemptions`] | those with at most so many preemptions only |
//! | [`Explore::random`] | any thread that can move, so many times |
//! | [`Explore::pct`] | probabilistic concurrency testing: by priorities that change at a few places |
//! | [`Explore::partial_order`] | partial-order sampling: by priorities of steps, so that orders are equally likely, not schedules |
//! | [`Explore::replay`] | one schedule |
//!
//! What goes wrong is then looked for in fewer switches, and then in fewer steps. Samples find mistakes and exclude none.
//!
//! # Why it is fast
//!
//! Only a few objects are worth a switch: those that threads race for. Which they are is learned from vector clocks, and all is
//! explored anew when something was learned; [`explorer`] says why nothing is lost by that. A program whose threads work on their own,
//! and under locks, has few schedules then. Threads are coroutines. And runs can be set back to where they part from the one
//! before, instead of started anew, in programs that promise enough for that ([`Explore::set_back`]).
//!
//! # Beside loom and shuttle
//!
//! The same text under all three, each asked for a full verdict, in one run of
//! `cargo run --release -p hugewalk-explore --example side_by_side`, on a virtual machine with two processors that was busy with
//! other things. Each has thirty seconds; *no* says that it had not finished then.
//!
//! | | `hugewalk-explore` | `loom` | `shuttle`, depth first |
//! |---|---|---|---|
//! | 2 threads load and store twice | 0.4 ms, 198 runs | 271 ms, 1,080 runs | 2.9 ms, 923 runs |
//! | 3 threads load and store once | 21 ms, 375 runs | no: 79,999 runs | 454 ms, 25,424 runs |
//! | 3 threads load and store twice | 102 ms, 8,564 runs | no: 79,999 runs | no: 1,252,427 runs |
//! | 2 threads take a lock three times, and store beside it | 0.5 ms, 168 runs | 63 ms, 315 runs | no: 1,065,034 runs |
//! | 3 threads take a lock twice, and store beside it | 1.6 ms, 530 runs | no: 99,999 runs | no: 440,825 runs |
//! | 2 put into a queue of one place, 1 takes | 0.8 ms, 256 runs | 5.2 s, 14,303 runs | 2.4 s, 39,105 runs |
//!
//! `loom` explores memory orderings besides, which makes its task larger and its verdict worth more. `shuttle` is made for
//! samples of large programs; asked for all schedules, it runs them all.
//!
//! # Examples
//!
//! - `examples/ticket_lock.rs`: a lock that is right, and one that takes its ticket in two steps.
//! - `examples/bounded_queue.rs`: a queue, and two mistakes that are easily made with condition variables.
//!
//! # For those who build on it
//!
//! [`explorer`] is what lies below: programs of threads that announce each access to what they share, by operations of any kind
//! that say what they commute with and what they wait for. The types of this crate are made of it.

pub mod cell;
mod draw;
pub mod explorer;
pub mod hint;
mod run;
mod state;
pub mod sync;
#[cfg(test)]
mod tests;
pub mod thread;

pub use self::explorer::{Allocator, Coverage};
pub use self::run::{Explore, Explored, Failure, Panicked, REPLAY, explore};
