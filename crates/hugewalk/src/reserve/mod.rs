//! Reservations: which pages of a file are promised to its mappings, and what a mount may use of the pool.
//!
//! - [`RegionMap`] knows *which* page offsets have a reservation;
//! - [`SubPoolAccount`] knows *how many* pages a mount may still charge, and how many of them its own minimum covers.
//!
//! All numbers are huge pages. Neither has a lock of its own or touches the global pool.

mod region;
mod subpool;

pub use region::RegionMap;
pub use subpool::{SubPoolAccount, SubPoolFull};
