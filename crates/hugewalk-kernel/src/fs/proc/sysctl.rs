//! `/proc/sys`.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::super::inode::Inode;
use super::super::memfd::NOEXEC;
use super::super::text::{Text, folder};
use crate::arch;
use crate::errno::Errno;
use crate::ipc::shm::{HUGE_GROUP, SHMALL, SHMMAX, SHMMNI};
use crate::platform::hugetlb;

/// The release, for `uname` and here. Programs ask for features by it; those of 6.12 are here.
pub const RELEASE: &str = "6.12.0-hugewalk";

static SOFT_OFFLINE: AtomicU32 = AtomicU32::new(1);
static UNPRIVILEGED_USERFAULTFD: AtomicU32 = AtomicU32::new(1);
static OVERCOMMIT_MEMORY: AtomicU32 = AtomicU32::new(0);

/// Does `/proc/sys/vm/enable_soft_offline` allow `MADV_SOFT_OFFLINE`?
pub fn soft_offline_allowed() -> bool {
    SOFT_OFFLINE.load(Ordering::Relaxed) != 0
}

/// A number up to `most` that is kept and means something to whoever looks at it.
fn switch(value: &'static AtomicU32, most: u32) -> Text {
    Text::number(|| u64::from(value.load(Ordering::Relaxed))).settable(move |number| {
        let number = u32::try_from(number).ok().filter(|&number| number <= most).ok_or(Errno::EINVAL)?;
        value.store(number, Ordering::Relaxed);
        Ok(())
    })
}

fn limit(value: &'static AtomicU64) -> Text {
    Text::number(|| value.load(Ordering::Relaxed)).settable(|number| {
        value.store(number, Ordering::Relaxed);
        Ok(())
    })
}

fn constant(text: &'static str) -> Text {
    Text::new(move || Ok(format!("{text}\n")))
}

/// Fills the folder.
pub(super) fn place(sys: &Arc<Inode>) {
    let vm = folder(sys, "vm");
    let size = arch::SIZE_2M;
    Text::number(move || hugetlb().pool(size).counters().total)
        .settable(move |pages| {
            hugetlb().resize_pool(size, pages);
            Ok(())
        })
        .place(&vm, "nr_hugepages");
    Text::number(move || hugetlb().pool(size).overcommit())
        .settable(move |pages| {
            hugetlb().pool(size).set_overcommit(pages);
            Ok(())
        })
        .place(&vm, "nr_overcommit_hugepages");
    switch(&NOEXEC, 2).place(&vm, "memfd_noexec");
    switch(&SOFT_OFFLINE, 1).place(&vm, "enable_soft_offline");
    switch(&UNPRIVILEGED_USERFAULTFD, 1).place(&vm, "unprivileged_userfaultfd");
    switch(&OVERCOMMIT_MEMORY, 2).place(&vm, "overcommit_memory");
    constant("1").place(&vm, "memory_failure_recovery");
    constant("65530").place(&vm, "max_map_count");
    constant("65536").place(&vm, "mmap_min_addr");
    switch(&HUGE_GROUP, u32::MAX >> 1).place(&vm, "hugetlb_shm_group");
    // Nothing is cached that could be dropped.
    Text::new(|| Ok("0\n".into())).settable(|_| Ok(())).place(&vm, "drop_caches");
    Text::new(|| Ok("0\n".into())).settable(|_| Ok(())).place(&vm, "compact_memory");

    let kernel = folder(sys, "kernel");
    limit(&SHMMAX).place(&kernel, "shmmax");
    limit(&SHMALL).place(&kernel, "shmall");
    limit(&SHMMNI).place(&kernel, "shmmni");
    let constants = [
        ("ostype", "Linux"),
        ("osrelease", RELEASE),
        ("version", "#1 SMP"),
        ("hostname", "hugewalk"),
        ("pid_max", "32768"),
        ("threads-max", "32768"),
        ("core_pattern", "core"),
        ("randomize_va_space", "0"),
        ("tainted", "0"),
        ("yama/ptrace_scope", "0"),
    ];
    for (path, text) in constants {
        let (inner, name) = path.rsplit_once('/').unwrap_or(("", path));
        let at = inner
            .split('/')
            .filter(|name| !name.is_empty())
            .fold(kernel.clone(), |at, name| folder(&at, name));
        constant(text).place(&at, name);
    }
    let random = folder(&kernel, "random");
    Text::new(|| Ok(uuid())).place(&random, "uuid");
    let boot = uuid();
    Text::new(move || Ok(boot.clone())).place(&random, "boot_id");

    let fs = folder(sys, "fs");
    constant("1048576").place(&fs, "nr_open");
    constant("1048576").place(&fs, "file-max");
    constant("1048576").place(&fs, "pipe-max-size");
}

fn uuid() -> String {
    let mut bytes = [0; 16];
    crate::random::fill(&mut bytes);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-a{}-{}\n", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}
