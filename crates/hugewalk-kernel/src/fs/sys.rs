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
use crate::platform::hugetlb;

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

/// The pools. Only sizes are shown that can be had: programs ask for every size that is shown.
fn pools(hugepages: &Arc<Inode>, whole: bool) {
    let size = HugeSize::Size2M;
    let pool = folder(hugepages, &format!("hugepages-{}kB", size.bytes() >> 10));
    let counters = move || hugetlb().pool(size).counters();
    let set = move |pages| {
        hugetlb().resize_pool(size, pages);
        Ok(())
    };
    let shown: [(&str, fn(PoolCounters) -> u64); 3] = [
        ("free_hugepages", |counters| counters.free),
        ("resv_hugepages", |counters| counters.reserved),
        ("surplus_hugepages", |counters| counters.surplus),
    ];
    for (name, number) in shown {
        // A node has no reservations of its own.
        if whole || name != "resv_hugepages" {
            Text::number(move || number(counters())).place(&pool, name);
        }
    }
    Text::number(move || counters().total).settable(set).place(&pool, "nr_hugepages");
    if whole {
        Text::number(move || counters().total).settable(set).place(&pool, "nr_hugepages_mempolicy");
        Text::number(move || hugetlb().pool(size).overcommit())
            .settable(move |pages| {
                hugetlb().pool(size).set_overcommit(pages);
                Ok(())
            })
            .place(&pool, "nr_overcommit_hugepages");
    }
}
