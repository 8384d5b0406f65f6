//! What the auxiliary vector says of the processor.

/// `AT_HWCAP`: SSE2 and what comes with it; CR4.OSXSAVE is clear, so there is no AVX.
pub fn features() -> u64 {
    u64::from(core::arch::x86_64::__cpuid(1).edx)
}
