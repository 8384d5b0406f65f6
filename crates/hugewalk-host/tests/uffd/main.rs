//! userfaultfd: what handlers see, what they can do, and that nobody waits for ever.
//!
//! After what the kernel's selftest `userfaultfd` says it checks, for `hugetlb` (private mappings) and `hugetlb_shared`.

mod copies;
mod events;
mod filling;
mod handler;
mod memory;
mod poison;
mod protect;
mod resolve;
mod setup;
mod sharing;
mod stress;
mod written;
