//! What differs from machine to machine: start, exceptions, the kernel's own tables, serial port, exit, address spaces.
//!
//! Each has a `Bare`, which is the machine, and a `set_up` that is called once, first.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use self::aarch64::{Bare, set_up};
#[cfg(target_arch = "riscv64")]
pub(crate) use self::riscv64::{Bare, set_up};
#[cfg(target_arch = "x86_64")]
pub(crate) use self::x86_64::{Bare, set_up};

/// What an access by the functions below comes to.
#[repr(C)]
struct Accessed {
    /// What was loaded, or the cause of the exception.
    value: u64,
    trapped: u64,
}

// In each machine's `boot.s`. The exception that the access may raise returns to the caller.
unsafe extern "C" {
    fn try_load(address: u64) -> Accessed;
    fn try_store(address: u64, value: u64) -> Accessed;
}

/// Loads from an address in the lower half. The cause of the exception, if there is one.
fn load(address: u64) -> Result<u64, u64> {
    // SAFETY: the access is volatile for the compiler, as the function is foreign; an exception that it raises is caught.
    let done = unsafe { try_load(address) };
    if done.trapped == 0 { Ok(done.value) } else { Err(done.value) }
}

/// Stores to an address in the lower half. The cause of the exception, if there is one.
///
/// # Safety
///
/// The caller may write to what is mapped there.
unsafe fn store(address: u64, value: u64) -> Result<(), u64> {
    // SAFETY: passed on to the caller; an exception that it raises is caught.
    let done = unsafe { try_store(address, value) };
    if done.trapped == 0 { Ok(()) } else { Err(done.value) }
}
