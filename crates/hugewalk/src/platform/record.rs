//! The memory in which the engine keeps its record of a table page or a huge page.
//!
//! A platform supplies the memory and never looks inside. Both types have the same size and
//! alignment on all platforms. So the platform behind a handle (`&'static P`, `Arc<P>`) can serve
//! systems made from the handle.

use core::cell::UnsafeCell;
use core::fmt;

/// Bytes of a cache line, and the alignment of the records.
const LINE: usize = 64;

macro_rules! record {
    ($(#[$doc:meta])* $name:ident, $lines:expr) => {
        $(#[$doc])*
        #[repr(C, align(64))]
        pub struct $name(UnsafeCell<[u8; $lines * LINE]>);

        // SAFETY: nothing here touches the bytes. The engine does, by the invariants of what it
        // keeps there.
        unsafe impl Sync for $name {}

        impl $name {
            /// A record of zero bytes.
            #[must_use]
            pub const fn new() -> Self {
                Self(UnsafeCell::new([0; $lines * LINE]))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

record! {
    /// Room for the record of a table page: 128 bytes, aligned to 64. Linux: `struct ptdesc`.
    ///
    /// Walkers read the first cache line. The second has the table lock, so a platform's
    /// [`TableLock`](super::Locks::TableLock) has at most 64 bytes; a larger one does not compile.
    TableRecord, 2
}

record! {
    /// Room for the record of a huge page: 128 bytes, aligned to 64. Linux: `struct folio`.
    ///
    /// The engine keeps a [`Page`](crate::page::Page) there.
    PageRecord, 2
}

/// Does a `T` fit into a record of type `R`?
pub(crate) const fn fits<T, R>() -> bool {
    size_of::<T>() <= size_of::<R>() && align_of::<T>() <= align_of::<R>()
}
