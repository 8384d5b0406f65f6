//! Entries: the one way to change one, and what the operations that change them have in common.
//!
//! Faults, userfaultfd, fork, mremap, mprotect, unmapping and reverse mapping decide what is to happen to an entry. This room
//! does it. [`At`] is an entry of a mapping with its table locked; what can be done with it is a method of it:
//!
//! | what | who asks for it |
//! |---|---|
//! | [`install`](At::install): an empty entry gets a page | faults, userfaultfd, fork for a pinned page |
//! | [`zap`](At::zap): an entry is cleared, and what it stood for is given up | unmapping, truncation, `MADV_DONTNEED`, mremap |
//! | [`reprotect`](At::reprotect), [`protect_for_handler`](At::protect_for_handler), [`clear_soft_dirty`](At::clear_soft_dirty), [`make_writable`](At::make_writable): other rights | mprotect, userfaultfd, soft-dirty, faults |
//! | [`move_to`](At::move_to): to another place, as it is | mremap |
//! | [`copy_to`](At::copy_to): a second time, in another address space | fork |
//! | [`exchange`](At::exchange): another page takes its place | copy-on-write |
//! | [`displace`](At::displace), [`arrive`](At::arrive): a page leaves, and comes back | migration, memory failure |
//! | [`FreshPage`]: a page is taken and filled, and its owner noted | faults, userfaultfd, fork |
//! | [`each_own_entry`]: a visit to each entry of a range | all that work on ranges |
//!
//! # Protocol
//!
//! - **A new entry is a function of the old one.** Processors set accessed and dirty bits at any moment, without a lock. So
//!   the new entry is computed from the very value that it replaces, never from one that was read earlier, and no bit is
//!   lost. All changes go through one function, [`At::replace`].
//! - **No entry is empty on its way from one page to another.** Truncation looks without the table lock whether anything is
//!   mapped, a fault takes an empty entry for a page that was never touched: neither must be misled.
//! - **One page, then another: break before make.** Processors must not use two pages for one address at the same time. So
//!   the entry is first made *busy*, so that it allows no access, the TLB is flushed on the spot, and then the new page is
//!   stored. All of that happens under the table lock, for which lockless readers of a busy entry wait.
//! - **Every other flush is owed**: to the gather, or to the caller where there is none, as in a fault or a fork.
//! - **Counts are never too small.** A page's mapping is counted before the entry is stored. It is uncounted after the entry
//!   was cleared, and flushed.
//!
//! No other room above [`table`](crate::table) knows the bits of an entry, or stores to one; `tests/floors.rs` holds that.

mod accessed;
mod at;
mod copy;
mod displace;
mod fresh;
mod install;
mod moved;
mod protect;
mod visit;
mod zap;

pub(crate) use self::at::{At, look_again};
pub(crate) use self::displace::{Instead, Pinned};
pub(crate) use self::fresh::{Contents, CopiedPage, FreshPage, NotCopied, NotFresh};
pub(crate) use self::install::{Install, install_if, install_run};
pub(crate) use self::visit::{by_table, each_own_entry};
pub(crate) use self::zap::{Zap, zap_range};
