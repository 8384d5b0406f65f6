//! `/proc`: what the kernel and its processes look like.

mod interrupts;
mod maps;
mod meminfo;
mod pages;
mod process;
mod sysctl;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use super::folder::Folder;
use super::inode::{Inode, Kind};
use super::mounts::{self, Contents, Filesystem};
use super::text::{Text, folder};
use crate::cpu::{self, clock};

pub use self::sysctl::{RELEASE, soft_offline_allowed};

/// A new `/proc`.
pub fn root() -> Arc<Inode> {
    let filesystem = Filesystem::new("proc", 0x9fa0, Contents::Fixed);
    let listing = process::Processes::new(&filesystem);
    let root = Inode::new(&filesystem, Kind::Folder(Folder::listed(listing)), 0o555);
    let texts: [(&str, fn() -> String); 10] = [
        ("meminfo", meminfo::text),
        ("interrupts", interrupts::text),
        ("mounts", mounts::text),
        ("cpuinfo", cpuinfo),
        ("stat", stat),
        ("uptime", || {
            let hundredths = clock::now() / 10_000_000;
            format!("{}.{:02} 0.00\n", hundredths / 100, hundredths % 100)
        }),
        ("loadavg", || "0.00 0.00 0.00 1/1 1\n".into()),
        ("version", || format!("Linux version {} (hugewalk)\n", sysctl::RELEASE)),
        ("filesystems", || "nodev\tproc\nnodev\tsysfs\nnodev\ttmpfs\nnodev\thugetlbfs\n".into()),
        ("cmdline", || "\n".into()),
    ];
    for (name, text) in texts {
        Text::new(move || Ok(text())).place(&root, name);
    }
    pages::place_kpageflags(&root);
    sysctl::place(&folder(&root, "sys"));
    root
}

fn cpuinfo() -> String {
    let one = |number| format!("processor\t: {number}\nvendor_id\t: hugewalk\nmodel name\t: QEMU\n\n");
    (0..cpu::count()).map(one).collect()
}

fn stat() -> String {
    let mut text = String::from("cpu  0 0 0 0 0 0 0 0 0 0\n");
    for number in 0..cpu::count() {
        text += &format!("cpu{number} 0 0 0 0 0 0 0 0 0 0\n");
    }
    text + &format!("btime {}\n", (clock::wall() - clock::now()) / 1_000_000_000)
}
