//! Numbers of system calls, flags and structures.

pub use linux_raw_sys::general::*;

/// No call has this number or a larger one.
pub const END: u64 = 0xffff_0000;

/// Calls that only older architectures have: numbers that no program gets through with.
macro_rules! absent {
    ($number:expr; $name:ident $($rest:ident)*) => {
        #[allow(missing_docs, reason = "the names are Linux's")]
        pub const $name: u32 = $number;
        absent!($number + 1; $($rest)*);
    };
    ($number:expr;) => {};
}

absent!(END as u32; __NR_access __NR_alarm __NR_arch_prctl __NR_chmod __NR_chown __NR_creat __NR_dup2 __NR_fork __NR_getpgrp
    __NR_lchown __NR_link __NR_lstat __NR_mkdir __NR_mknod __NR_open __NR_pause __NR_pipe __NR_poll __NR_readlink
    __NR_rename __NR_rmdir __NR_select __NR_stat __NR_symlink __NR_time __NR_unlink __NR_vfork);
