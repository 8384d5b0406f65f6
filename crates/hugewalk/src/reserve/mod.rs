//! Reservations: which pages are promised to whom, and what a mount may use of the pool.
//!
//! - [`RegionMap`] knows *which* page offsets have a reservation;
//! - [`SubPoolAccount`] knows *how many* pages a mount may still charge, and how many of them its own minimum covers;
//! - [`SubPool`] is a mount's account tied to the pool;
//! - `charge` takes single pages and ranges, keeping maps, account and pool in step.
//!
//! All numbers are huge pages.
//!
//! # Protocol
//!
//! A reservation lives in up to three places: a region map, a mount's account, the pool's counters. Their spinning
//! locks are taken in this order and held together, so that the three change as one and a refusal by the last leaves
//! the first two as they were.

mod charge;
mod mount;
mod region;
mod subpool;

pub use self::charge::NoPage;
pub(crate) use self::charge::{
    NewPage, PrivateReserve, Promises, Room, release_range, reserve_range, unlist,
};
pub use self::mount::{SubPool, SubPoolError};
pub use self::region::RegionMap;
pub use self::subpool::{SubPoolAccount, SubPoolFull};
