//! Read-copy-update: read sections that cost almost nothing, and grace periods that wait for them.
//!
//! A walker may still use a table that was taken out of the address space a moment before. So the
//! table is not freed but given to [`Rcu::call`], which runs its callback after a *grace period*:
//! once every read section that was open at the call has been left (P1 in [`walk`](crate::walk)).
//!
//! The engine comes with [`EpochRcu`], of the crate [`hugewalk_rcu`]. An embedder with an RCU of its own implements [`Rcu`] on
//! that.
//!
//! # What the engine guarantees
//!
//! What [`Rcu`] asks of its user, [`Task`](crate::Task) enforces by types, so safe code cannot break it. Every function that may
//! sleep takes `&mut Task`, and a section borrows the task. A thread has one task (the contract of
//! [`Task::new`](crate::Task::new)), and dropping a value never sleeps. That the embedder's own code does not sleep in a section
//! either is for the embedder to see to.
//!
//! Dropping the last handle of a system calls [`Rcu::barrier`], and the dropping thread may be in a section of *another* system. If
//! the embedder's systems share one RCU, the embedder keeps a handle to each system until it is in no section.
//!
//! Safe code waits by [`Task::synchronize`](crate::Task::synchronize) and [`Task::rcu_barrier`](crate::Task::rcu_barrier).

pub use hugewalk_rcu::{EpochRcu, EpochReader, Rcu, RcuHead};
