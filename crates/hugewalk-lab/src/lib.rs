//! The lab: runs the engine under every interleaving of a scenario.
//!
//! [`explore`] runs threads under all schedules, and knows nothing of page tables. [`lab`] is a platform of the engine
//! whose every access to something shared is a scheduling point, with the locking protocols of other times as settings.
//! [`scenario`] has what may go wrong, and [`check()`] says whether it does.
//!
//! ```
//! use hugewalk_lab::lab::Settings;
//! use hugewalk_lab::{check, scenario};
//!
//! // A write under a table lock that was taken through an RCU walk, without a look at the parent entry.
//! let wrong_table = scenario::named("S8").ok_or("no such scenario")?;
//! let verdict = check(wrong_table, Settings::RFC_PTL, &Default::default());
//! assert!(!verdict.is_safe());
//! assert!(check(wrong_table, Settings::HUGEWALK, &Default::default()).is_safe());
//! # Ok::<(), &str>(())
//! ```
//!
//! What the lab cannot see: memory orderings weaker than sequential consistency, which `loom` covers where the engine
//! relies on them (the tests of `hugewalk-rcu`, and `loom_table.rs` in those of the engine).

pub mod check;
pub mod fault;
pub mod fold;
pub mod lab;
pub mod scenario;
pub mod story;
pub mod text;

#[cfg(test)]
mod tests;

#[cfg(test)]
#[global_allocator]
// SAFETY: the scenarios keep to themselves; programs of tests that do not are not set back.
static ALLOCATOR: Allocator = unsafe { Allocator::new() };

pub use self::check::{Verdict, check, replay, sample, show};
pub use self::explore::Allocator;
pub use self::fault::Fault;
pub use hugewalk_explore::explorer as explore;
