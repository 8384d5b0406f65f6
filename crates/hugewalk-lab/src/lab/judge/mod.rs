//! Who judges a run. Each judge is a room of its own with what it knows; what the machine does asks all of them.
//!
//! To add one: a file with a type that implements [`Judge`], and a line in the list below.

use hugewalk::addr::TableFrame;

use super::ground::{Cached, Place, Translation};

/// An access of a thread to a word, about to be carried out.
pub(super) struct Access {
    pub(super) place: Place,
    pub(super) writes: bool,
    pub(super) before: u64,
    pub(super) after: u64,
    /// It takes something off a number.
    pub(super) subtracts: bool,
    /// It adds something to a number.
    pub(super) adds: bool,
}

/// A load or store of a processor, by a translation that it has.
pub(super) struct PageUse {
    pub(super) root: TableFrame,
    /// The address of the page.
    pub(super) address: u64,
    pub(super) page: Translation,
    pub(super) stores: bool,
}

/// What a judge is told. Nothing of it is a step; a judge that makes one says so.
pub(super) trait Judge {
    /// A run begins: the one before is forgotten.
    fn begin_run() {}
    /// Where what the judge knows lies: it is set back with the machine.
    fn pieces(_each: &mut dyn FnMut(*mut u8, usize)) {}
    /// A thread accesses a word.
    #[inline]
    fn accesses(_access: &Access) {}
    /// A thread does something to the spinning lock at this place.
    #[inline]
    fn spins(_place: Place, _what: &str) {}
    /// A thread is about to sleep, or may be.
    #[inline]
    fn may_sleep() {}
    /// A thread acts on what it has read.
    #[inline]
    fn acts() {}
    /// A thread uses the sleeping lock at this address.
    #[inline]
    fn uses(_lock: usize) {}
    /// A thread has a sleeping lock.
    #[inline]
    fn took(_lock: usize) {}
    /// A thread has a reader/writer lock in write.
    #[inline]
    fn took_in_write(_lock: usize) {}
    /// A thread has tried a sleeping lock, and another one has it.
    #[inline]
    fn was_refused(_lock: usize) {}
    /// A thread has let a sleeping lock go.
    #[inline]
    fn let_go(_lock: usize) {}
    /// Nobody holds the reader/writer lock at this address any more.
    #[inline]
    fn is_free(_lock: usize) {}
    /// A thread has the spinning lock at this place and address.
    #[inline]
    fn took_spin(_place: Place, _lock: usize) {}
    /// A thread has let the spinning lock at this place and address go.
    #[inline]
    fn let_spin_go(_place: Place, _lock: usize) {}
    /// A gather has flushed.
    #[inline]
    fn flushed() {}
    /// A processor has come to a page, and loads from it or stores to it.
    #[inline]
    fn uses_page(_use: &PageUse) {}
    /// A processor keeps something in its caches.
    #[inline]
    fn keeps(_cached: &Cached) {}
    /// A thread has dropped what it held, and ends.
    #[inline]
    fn thread_ends() {}
}

/// Tells all judges: the list of them.
macro_rules! tell {
    ($hook:ident($($what:expr),*)) => {{
        tables::Tables::$hook($($what),*);
        walks::Walks::$hook($($what),*);
        counts::Counts::$hook($($what),*);
        patience::Patience::$hook($($what),*);
        quarantine::Quarantine::$hook($($what),*);
        sleep::Sleep::$hook($($what),*);
        audit::Audit::$hook($($what),*);
        caches::Caches::$hook($($what),*);
        dirty::Dirty::$hook($($what),*);
        stale::Stale::$hook($($what),*);
        contents::Contents::$hook($($what),*);
        pages::Pages::$hook($($what),*);
        reserved::Reserved::$hook($($what),*);
        reports::Reports::$hook($($what),*);
        conflicts::Conflicts::$hook($($what),*);
    }};
}

pub(super) mod audit;
pub(super) mod caches;
mod conflicts;
pub(super) mod contents;
mod counts;
mod dirty;
pub(super) mod pages;
mod patience;
pub(super) mod quarantine;
pub(super) mod reports;
pub(super) mod reserved;
mod sleep;
mod stale;
mod tables;
pub(super) mod walks;

#[inline]
pub(super) fn begin_run() {
    tell!(begin_run());
}

#[inline]
pub(super) fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
    tell!(pieces(each));
}

#[inline]
pub(super) fn accesses(access: &Access) {
    tell!(accesses(access));
}

#[inline]
pub(super) fn spins(place: Place, what: &str) {
    tell!(spins(place, what));
}

#[inline]
pub(super) fn may_sleep() {
    tell!(may_sleep());
}

#[inline]
pub(super) fn acts() {
    tell!(acts());
}

#[inline]
pub(super) fn uses(lock: usize) {
    tell!(uses(lock));
}

#[inline]
pub(super) fn took(lock: usize) {
    tell!(took(lock));
}

#[inline]
pub(super) fn took_in_write(lock: usize) {
    tell!(took_in_write(lock));
}

#[inline]
pub(super) fn was_refused(lock: usize) {
    tell!(was_refused(lock));
}

#[inline]
pub(super) fn let_go(lock: usize) {
    tell!(let_go(lock));
}

#[inline]
pub(super) fn is_free(lock: usize) {
    tell!(is_free(lock));
}

#[inline]
pub(super) fn took_spin(place: Place, lock: usize) {
    tell!(took_spin(place, lock));
}

#[inline]
pub(super) fn let_spin_go(place: Place, lock: usize) {
    tell!(let_spin_go(place, lock));
}

#[inline]
pub(super) fn flushed() {
    tell!(flushed());
}

#[inline]
pub(super) fn uses_page(used: &PageUse) {
    tell!(uses_page(used));
}

#[inline]
pub(super) fn keeps(cached: &Cached) {
    tell!(keeps(cached));
}

#[inline]
pub(super) fn thread_ends() {
    tell!(thread_ends());
}
