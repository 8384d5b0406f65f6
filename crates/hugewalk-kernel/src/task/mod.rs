//! Threads and when they run.
//!
//! # Protocol
//!
//! The kernel is never preempted: a thread that runs in ring 0 goes on until it sleeps ([`park`]) or returns to its program.
//! Interrupts are on in the kernel, but their handlers only set a flag ([`PerCpu::reschedule`](crate::cpu::PerCpu::reschedule)), which is looked at on the
//! way to ring 3. So no lock of the kernel is ever taken in an interrupt, and a spinning lock's holder is never taken off its
//! processor.
//!
//! All waiting is built on one token for each thread: [`park`] takes it, and sleeps until there is one; [`Thread::unpark`]
//! makes it present. A waiter publishes itself first and looks then, and looks again whenever `park` returns.

pub mod futex;
pub mod lock;
mod queue;
pub mod robust;
mod thread;
pub mod timer;
pub mod wait;

pub(crate) use self::queue::finish_switch;
pub use self::queue::{idle, move_to, park, park_until, schedule_if_due, start_scheduling, yield_now};
pub use self::thread::{Thread, begin, current, exit_current, kernel_thread, tasks};
