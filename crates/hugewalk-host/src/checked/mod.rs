//! A platform that checks another platform, and programs to run on it.
//!
//! The engine's `unsafe` code relies on the contract of [`Platform`], which no compiler checks.
//! [`Checked`] passes each call on to a platform and checks the result. In the tests of an
//! embedder:
//!
//! ```
//! # mod test {
//! # use hugewalk_host::{Host, HostConfig};
//! hugewalk_host::platform_tests!(|| Host::new(&HostConfig::new().huge_bytes(1 << 30)).expect("there is memory"));
//! # }
//! ```
//!
//! This makes one test for each of the [`programs`]. `Checked` also runs under any other program:
//!
//! ```
//! use std::sync::Arc;
//!
//! use hugewalk::Hugetlb;
//! use hugewalk_host::checked::Checked;
//! use hugewalk_host::{Host, HostConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let platform = Arc::new(Checked::new(Host::new(&HostConfig::new())?));
//! let hugetlb = Hugetlb::new(platform.clone())?;
//! // ... the program ...
//! drop(hugetlb);
//! platform.assert_sound(); // panics with the report, if there is something to report
//! assert_eq!(platform.in_use(), (0, 0)); // tables and huge pages: nothing leaked
//! # Ok(())
//! # }
//! ```
//!
//! # What it reports
//!
//! Each [`Report`] names the call and the line of the caller, and with `RUST_BACKTRACE=1` has a
//! backtrace.
//!
//! - A frame that is allocated twice, is not aligned, or does not fit into an entry. The engine is
//!   told that there is no memory.
//! - Records, entries and contents that move, overlap or are not aligned; a page's record that is not zero before its first use.
//! - A new table that is not zero. It is zeroed, and the program goes on.
//! - Pages that `zero_huge` or `copy_huge` left with wrong contents, as far as a few samples show.
//! - A callback that calls back into the engine: into the platform, its RCU, or a lock of the
//!   engine.
//! - Sleeping in an atomic section or in a callback: in a sleeping lock of the engine, in `pause`,
//!   in `park`, or while waiting for a grace period. A call that may sleep (`alloc_table`, `alloc_huge`, `zero_huge`,
//!   `copy_huge`) in an atomic section. A platform that sleeps in other ways calls
//!   [`may_sleep`] there.
//! - Locks that are taken in both orders, whether or not anything hung this time. This includes
//!   locks that a program takes itself, such as [`mmap_read`](hugewalk::AddressSpace::mmap_read).
//! - A forgotten flush, in the programs, if the platform implements [`Loads`].
//!
//! # What it cannot see
//!
//! - A flush that is forgotten or too narrow, if the platform has no processors that a test can use
//!   for loads.
//! - Whether memory orderings suffice on a weaker machine than the one that the test runs on.
//! - What a platform does with its own locks: they are not watched.
//! - Out of memory: the checker itself allocates, and panics if that fails.

mod locks;
mod memory;
mod platform;
pub mod programs;
mod rcu;
mod report;
mod run;
mod thread;

use core::fmt;
use core::panic::Location;
use std::sync::Arc;

use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::platform::Platform;

pub use self::locks::{WatchedMutex, WatchedRwLock, WatchedSpin};
pub use self::platform::WatchedParker;
pub use self::rcu::{WatchedRcu, WatchedReader};
pub use self::report::{Finding, Report};
pub use self::run::run;

use self::memory::Memory;
use self::thread::Ledger;

/// A platform whose calls are checked. See the [module](self).
pub struct Checked<P> {
    platform: P,
    memory: Memory,
    ledger: Arc<Ledger>,
}

/// A platform with processors that can load a byte for a test. This finds a forgotten flush.
pub trait Loads: Platform {
    /// Loads the byte at `address`, as a processor that runs this address space does: by its TLB,
    /// or by a walk from `root`. The translation that a walk finds stays in the TLB until it is
    /// flushed. `None` if the processor would fault.
    ///
    /// # Safety
    ///
    /// `root` is the root of an address space of this platform, which has this context. No other
    /// thread works on the address space meanwhile, so its tables stay.
    unsafe fn load(&self, context: &Self::MmContext, root: TableFrame, address: VirtAddr) -> Option<u8>;
}

impl<P: Platform> Checked<P> {
    /// Checks this platform from now on. Nothing of it may be in use yet.
    #[must_use]
    pub fn new(platform: P) -> Self {
        Self { platform, memory: Memory::default(), ledger: Arc::default() }
    }

    /// The platform that is checked.
    #[must_use]
    pub fn inner(&self) -> &P {
        &self.platform
    }

    /// What was found since the last call. Only the first of very many.
    #[must_use]
    pub fn take_reports(&self) -> Vec<Report> {
        self.ledger.log.take()
    }

    /// What was found, as text. It also says what was not checked.
    #[must_use]
    pub fn report(&self) -> String {
        in_words(&self.take_reports())
    }

    /// Panics if there is something to report.
    ///
    /// # Panics
    ///
    /// With the report.
    #[track_caller]
    pub fn assert_sound(&self) {
        let reports = self.take_reports();
        assert!(reports.is_empty(), "{}", in_words(&reports));
    }

    /// Tables and huge pages that are in use.
    #[must_use]
    pub fn in_use(&self) -> (usize, usize) {
        self.memory.in_use()
    }
}

fn in_words(reports: &[Report]) -> String {
    let mut text = match reports.len() {
        0 => "the platform kept its contract, as far as could be seen".to_owned(),
        count => format!("the platform broke its contract: {count} findings"),
    };
    for (number, report) in reports.iter().enumerate() {
        text.push_str(&format!("\n{}. {report}", number + 1));
    }
    text.push_str(
        "\nNot checked: memory orderings of weaker machines, the platform's own locks, and flushes unless it implements `Loads`.",
    );
    text
}

impl<P> fmt::Debug for Checked<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").finish_non_exhaustive()
    }
}

/// For platforms that sleep in other ways: reports sleeping if it is not allowed here. Costs almost
/// nothing if no checked platform is in use. Linux: `might_sleep()`.
#[track_caller]
pub fn may_sleep() {
    thread::may_sleep_in("may_sleep", Location::caller());
}
