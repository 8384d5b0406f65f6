//! The RCU of a checked platform. It knows which threads are in a read section.

use core::panic::Location;
use core::ptr::NonNull;

use hugewalk::error::OutOfMemory;
use hugewalk::platform::Platform;
use hugewalk::rcu::{Rcu, RcuHead};

use super::Checked;
use super::thread::{enter_section, leave_section, may_call, may_sleep_in, works_on};

/// The RCU of the platform, watched.
#[derive(Debug)]
pub struct WatchedRcu<R>(R);

/// A reader of the platform's RCU.
#[derive(Debug)]
pub struct WatchedReader<R>(R);

// SAFETY: everything is passed on to the RCU of the platform, with that platform.
unsafe impl<P: Platform, R: Rcu<P>> Rcu<Checked<P>> for WatchedRcu<R> {
    type Reader = WatchedReader<R::Reader>;

    fn new(host: &Checked<P>) -> Result<Self, OutOfMemory> {
        works_on(&host.ledger);
        R::new(&host.platform).map(Self)
    }

    #[track_caller]
    fn register(&self, host: &Checked<P>) -> Result<Self::Reader, OutOfMemory> {
        works_on(&host.ledger);
        may_call("Rcu::register", Location::caller());
        self.0.register(&host.platform).map(WatchedReader)
    }

    unsafe fn unregister(&self, host: &Checked<P>, reader: Self::Reader) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.unregister(&host.platform, reader.0) };
    }

    #[track_caller]
    unsafe fn read_lock(&self, host: &Checked<P>, reader: &Self::Reader) {
        works_on(&host.ledger);
        may_call("Rcu::read_lock", Location::caller());
        enter_section();
        // SAFETY: passed on to the caller.
        unsafe { self.0.read_lock(&host.platform, &reader.0) };
    }

    unsafe fn read_unlock(&self, host: &Checked<P>, reader: &Self::Reader) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.read_unlock(&host.platform, &reader.0) };
        leave_section();
    }

    #[track_caller]
    unsafe fn call(&self, host: &Checked<P>, head: NonNull<RcuHead>) {
        works_on(&host.ledger);
        may_call("Rcu::call", Location::caller());
        // SAFETY: passed on to the caller.
        unsafe { self.0.call(&host.platform, head) };
    }

    #[track_caller]
    unsafe fn synchronize(&self, host: &Checked<P>) {
        works_on(&host.ledger);
        may_sleep_in("Rcu::synchronize", Location::caller());
        // SAFETY: passed on to the caller.
        unsafe { self.0.synchronize(&host.platform) };
    }

    #[track_caller]
    unsafe fn barrier(&self, host: &Checked<P>) {
        works_on(&host.ledger);
        may_sleep_in("Rcu::barrier", Location::caller());
        // SAFETY: passed on to the caller.
        unsafe { self.0.barrier(&host.platform) };
    }

    fn pending(&self) -> u64 {
        self.0.pending()
    }
}
