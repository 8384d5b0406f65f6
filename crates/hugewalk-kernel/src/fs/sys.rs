//! `/sys`: the pools' counters, the processors, the memory's nodes.

use alloc::format;
use alloc::sync::Arc;

use hugewalk::addr::HugeSize;
use hugewalk::pool::PoolCounters;

use super::folder::Folder;
use super::inode::Inode;
use super::mounts::{Contents, Filesystem};
use super::text::{Text, folder};
use crate::cpu;
use crate::platform::{hugetlb, sizes};

/// A new `/sys`.
pub fn root() -> Arc<Inode> {
    let root = Folder::create(&Filesystem::new("sysfs", 0x6265_6572, Contents::Fixed), 0o555);
    let within = |path: &str| path.split('/').fold(root.clone(), |at, name| folder(&at, name));

    processors(&within("devices/system/cpu"));
    let nodes = within("devices/system/node");
    for name in ["online", "possible", "has_memory"] {
        Text::new(|| Ok("0\n".into())).place(&nodes, name);
    }
    pools(&within("kernel/mm/hugepages"), true);
    pools(&within("devices/system/node/node0/hugepages"), false);
    // To mount on.
    within("kernel/debug");
    root
}

fn processors(cpus: &Arc<Inode>) {
    for name in ["online", "possible", "present"] {
        let range = || match cpu::count() {
            1 => "0\n".into(),
            count => format!("0-{}\n", count - 1),
        };
        Text::new(move || Ok(range())).place(cpus, name);
    }
    for number in 0..cpu::count() {
        folder(cpus, &format!("cpu{number}"));
    }
}

/// The pools of all sizes. Those of other sizes than 2 MiB are empty until a program fills them.
fn pools(hugepages: &Arc<Inode>, whole: bool) {
    for size in sizes() {
        pool(&folder(hugepages, &format!("hugepages-{}kB", size.bytes() >> 10)), size, whole);
    }
}

/// One pool: as a `whole`, or what a node has of it, which keeps no reservations and no limit of its own.
fn pool(pool: &Arc<Inode>, size: HugeSize, whole: bool) {
    let counters = move || hugetlb().pool(size).counters();
    let total = || {
        Text::number(move || counters().total).settable(move |pages| {
            hugetlb().resize_pool(size, pages);
            Ok(())
        })
    };
    let shown: [(&str, fn(PoolCounters) -> u64); 3] = [
        ("free_hugepages", |counters| counters.free),
        ("surplus_hugepages", |counters| counters.surplus),
        ("resv_hugepages", |counters| counters.reserved),
    ];
    for (name, number) in &shown[..if whole { 3 } else { 2 }] {
        let number = *number;
        Text::number(move || number(counters())).place(pool, name);
    }
    total().place(pool, "nr_hugepages");
    if whole {
        total().place(pool, "nr_hugepages_mempolicy");
        Text::number(move || hugetlb().pool(size).overcommit())
            .settable(move |pages| {
                hugetlb().pool(size).set_overcommit(pages);
                Ok(())
            })
            .place(pool, "nr_overcommit_hugepages");
    }
}
