//! Reservations: pages of a pool that are set aside for a file, a private mapping, or a mount.
//!
//! - [`RegionMap`] knows *which* page offsets have a reservation, and who has paid for it.
//! - [`SubPoolAccount`] knows *how many* pages a mount may still use, and how many of them its own
//!   minimum covers.
//! - [`SubPool`] ties the account of a mount to the pool.
//! - `reservation` takes single pages and ranges, and keeps map, account and pool in step.
//! - `charged` asks the host who pays: see [`Limits`](crate::platform::Limits#control-groups).
//!
//! All numbers are huge pages.
//!
//! # Protocol
//!
//! A reservation is counted in up to three places: a region map, the account of a mount, and the
//! pool. Each has a spinning lock. The locks are taken in this order and held together. So all
//! three change as one, and if the last refuses, the first two stay as they were.
//!
//! The host is asked for charges with none of these locks held. So how much is necessary is found out under the locks, they are
//! given up, the host is asked, and under the locks it is found out again. What is given back is told to the host under them.

mod charged;
mod reservation;
mod mount;
mod private;
mod region;
mod run;
mod subpool;

pub use self::mount::{SubPool, SubPoolError};
pub(crate) use self::private::PrivateReserve;
pub use self::region::RegionMap;
pub(crate) use self::reservation::{
    FileMap, NewPage, Reservations, Room, lock_regions, release_range, reserve_range, unlist,
};
pub(crate) use self::run::NewRun;
pub use self::subpool::SubPoolAccount;

pub use crate::error::{LimitReached, NoPage, SubPoolFull};
