//! Atomics, each of whose uses is a step.
//!
//! The orderings are passed on, and mean nothing to the explorer: it is sequentially consistent.

use std::fmt;
pub use std::sync::atomic::Ordering;
use std::sync::atomic::{self as std_atomic};

use crate::explorer::{Op, access};
use crate::state::{self, Id};

/// Means nothing to the explorer, in which all threads see all changes in one order.
pub fn fence(order: Ordering) {
    std_atomic::fence(order);
}

/// As [`fence`].
pub fn compiler_fence(order: Ordering) {
    std_atomic::compiler_fence(order);
}

macro_rules! atomic {
    ($(#[$doc:meta])* $name:ident $(<$generic:ident>)?, $value:ty) => {
        $(#[$doc])*
        pub struct $name $(<$generic>)? {
            id: Id,
            value: std_atomic::$name $(<$generic>)?,
        }

        impl $(<$generic>)? $name $(<$generic>)? {
            /// An atomic with a value in it.
            pub const fn new(value: $value) -> Self {
                Self { id: Id::new(), value: std_atomic::$name::new(value) }
            }

            /// Takes the value out.
            pub fn into_inner(self) -> $value {
                self.value.into_inner()
            }

            /// The value, of which there is one user by type. No step.
            pub fn get_mut(&mut self) -> &mut $value {
                self.value.get_mut()
            }

            /// Loads the value.
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                let object = self.id.object();
                access(&Op::read(object));
                let value = self.value.load(order);
                state::seen(object);
                state::tell(object, || format!("load # = {value:?}"));
                value
            }

            /// Stores a value.
            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                self.change(
                    |atomic| atomic.store(value, order),
                    |_| format!("store # = {value:?}"),
                );
            }

            /// Stores a value, and returns what was there.
            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.change(
                    |atomic| atomic.swap(value, order),
                    |before| format!("swap # = {before:?} for {value:?}"),
                )
            }

            /// Stores `new` if `current` is there; returns what was there, as an error if nothing was stored.
            ///
            /// # Errors
            ///
            /// What was there instead.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.change(
                    |atomic| atomic.compare_exchange(current, new, success, failure),
                    |found| match found {
                        Ok(_) => format!("exchange # = {current:?} for {new:?}"),
                        Err(found) => format!("exchange # = {found:?}, not {current:?}"),
                    },
                )
            }

            /// As [`compare_exchange`](Self::compare_exchange): it does not fail for nothing.
            ///
            /// # Errors
            ///
            /// What was there instead.
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            /// Loads, and tries to exchange for what `work` makes of it until nobody got ahead.
            ///
            /// # Errors
            ///
            /// What was there when `work` made nothing of it.
            #[track_caller]
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut work: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut before = self.load(failure);
                while let Some(new) = work(before) {
                    match self.compare_exchange_weak(before, new, success, failure) {
                        done @ Ok(_) => return done,
                        Err(found) => before = found,
                    }
                }
                Err(before)
            }

            /// One step that may change the value.
            #[track_caller]
            fn change<R>(
                &self,
                work: impl FnOnce(&std_atomic::$name $(<$generic>)?) -> R,
                text: impl FnOnce(&R) -> String,
            ) -> R {
                let object = self.id.object();
                access(&Op::write(object));
                let before = self.value.load(Ordering::Relaxed);
                let result = work(&self.value);
                state::seen(object);
                if self.value.load(Ordering::Relaxed) != before {
                    state::changed(object);
                }
                state::tell(object, || text(&result));
                result
            }
        }

        impl $(<$generic>)? fmt::Debug for $name $(<$generic>)? {
            /// The value. No step.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.value.load(Ordering::Relaxed).fmt(f)
            }
        }

        impl $(<$generic>)? From<$value> for $name $(<$generic>)? {
            fn from(value: $value) -> Self {
                Self::new(value)
            }
        }
    };
}

macro_rules! fetch {
    ($name:ident, $value:ty: $($(#[$doc:meta])* $method:ident)*) => {
        impl $name {
            $(
                $(#[$doc])*
                #[track_caller]
                pub fn $method(&self, value: $value, order: Ordering) -> $value {
                    self.change(
                        |atomic| atomic.$method(value, order),
                        |before| format!(concat!(stringify!($method), " # = {:?} by {:?}"), before, value),
                    )
                }
            )*
        }
    };
}

macro_rules! integer {
    ($($name:ident $value:ident)*) => {
        $(
            atomic! {
                #[doc = concat!("A `", stringify!($value), "` that threads share.")]
                #[derive(Default)]
                $name, $value
            }
            fetch! {
                $name, $value:
                /// Adds, and returns what was there.
                fetch_add
                /// Subtracts, and returns what was there.
                fetch_sub
                /// And of the bits; returns what was there.
                fetch_and
                /// Not-and of the bits; returns what was there.
                fetch_nand
                /// Or of the bits; returns what was there.
                fetch_or
                /// Exclusive or of the bits; returns what was there.
                fetch_xor
                /// The larger one; returns what was there.
                fetch_max
                /// The smaller one; returns what was there.
                fetch_min
            }
        )*
    };
}

integer! {
    AtomicU8 u8 AtomicU16 u16 AtomicU32 u32 AtomicU64 u64 AtomicUsize usize
    AtomicI8 i8 AtomicI16 i16 AtomicI32 i32 AtomicI64 i64 AtomicIsize isize
}

atomic! {
    /// A `bool` that threads share.
    #[derive(Default)]
    AtomicBool, bool
}
fetch! {
    AtomicBool, bool:
    /// And; returns what was there.
    fetch_and
    /// Not-and; returns what was there.
    fetch_nand
    /// Or; returns what was there.
    fetch_or
    /// Exclusive or; returns what was there.
    fetch_xor
}

atomic! {
    /// A pointer that threads share.
    AtomicPtr<T>, *mut T
}

impl<T> Default for AtomicPtr<T> {
    fn default() -> Self {
        Self::new(std::ptr::null_mut())
    }
}
impl Default for Id {
    fn default() -> Self {
        Self::new()
    }
}
