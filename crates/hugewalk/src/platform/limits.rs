//! What a host allows.

use crate::addr::VirtAddr;

/// What a host allows. All of it has defaults.
pub trait Limits {
    /// The lowest address that may be mapped, so that a null pointer never leads to memory: 64 KiB.
    /// A host that lets privileged processes map lower addresses, down to 0, returns that limit.
    ///
    /// Linux: `mmap_min_addr`, `cap_mmap_addr()` in security/commoncap.c.
    fn mmap_min_addr(&self) -> VirtAddr {
        VirtAddr::new(64 << 10)
    }
}
