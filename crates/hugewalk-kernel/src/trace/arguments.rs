//! The arguments and results of system calls, as strace prints them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use core::fmt::{self, Write};

use crate::arch::numbers::*;

use super::flags::{self, Flags};
use crate::errno::Errno;
use crate::memory::user;
use crate::syscall::Arguments;
use crate::task::current;

/// An address, or `NULL`.
pub(super) struct Pointer(pub(super) u64);

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("NULL") } else { write!(f, "{:#x}", self.0) }
    }
}

/// How an argument is printed.
#[derive(Clone, Copy)]
enum Kind {
    Address,
    Number,
    Signed,
    Hex,
    Octal,
    /// A descriptor, with its path.
    Descriptor,
    /// A descriptor of a folder.
    Folder,
    Text,
    Flags(&'static Flags),
    /// The bits of a signal's number.
    Signal,
    /// The kinds of shared memory: an octal mode among the flags.
    SegmentFlags,
}

use Kind::*;

/// How the arguments of a system call are printed. What is not listed is printed as six numbers.
fn kinds(number: u64) -> Option<&'static [Kind]> {
    Some(match u32::try_from(number).ok()? {
        __NR_mmap => &[Address, Number, Flags(flags::PROT), Flags(flags::MAP), Descriptor, Hex],
        __NR_munmap | __NR_mlock | __NR_munlock => &[Address, Number],
        __NR_mprotect => &[Address, Number, Flags(flags::PROT)],
        __NR_madvise => &[Address, Number, Flags(flags::ADVICE)],
        __NR_mincore => &[Address, Number, Address],
        __NR_msync | __NR_mlock2 | __NR_mseal => &[Address, Number, Hex],
        __NR_brk | __NR_shmdt | __NR_set_tid_address => &[Address],
        __NR_open => &[Text, Flags(flags::OPEN), Octal],
        __NR_openat => &[Folder, Text, Flags(flags::OPEN), Octal],
        __NR_close | __NR_dup | __NR_fchdir => &[Descriptor],
        __NR_dup2 => &[Descriptor, Signed],
        __NR_dup3 => &[Descriptor, Signed, Flags(flags::OPEN)],
        __NR_fcntl => &[Descriptor, Flags(flags::FCNTL), Hex],
        __NR_read | __NR_write => &[Descriptor, Address, Number],
        __NR_pread64 | __NR_pwrite64 => &[Descriptor, Address, Number, Number],
        __NR_readv | __NR_writev | __NR_getdents64 => &[Descriptor, Address, Number],
        __NR_lseek => &[Descriptor, Signed, Number],
        __NR_ftruncate => &[Descriptor, Number],
        __NR_truncate => &[Text, Number],
        __NR_fallocate => &[Descriptor, Flags(flags::FALLOCATE), Number, Number],
        __NR_memfd_create => &[Text, Flags(flags::MEMFD)],
        __NR_unlink | __NR_rmdir | __NR_chdir => &[Text],
        __NR_mkdir | __NR_creat => &[Text, Octal],
        __NR_unlinkat => &[Folder, Text, Hex],
        __NR_rename | __NR_link => &[Text, Text],
        __NR_statfs => &[Text, Address],
        __NR_fstatfs | __NR_fstat => &[Descriptor, Address],
        __NR_stat | __NR_lstat => &[Text, Address],
        __NR_newfstatat => &[Folder, Text, Address, Hex],
        __NR_readlink => &[Text, Address, Number],
        __NR_mount => &[Text, Text, Text, Hex, Text],
        __NR_shmget => &[Hex, Number, SegmentFlags],
        __NR_shmat => &[Signed, Address, Hex],
        __NR_shmctl => &[Signed, Flags(flags::SHMCTL), Address],
        __NR_userfaultfd => &[Flags(flags::OPEN)],
        __NR_fork | __NR_vfork | __NR_getpid | __NR_gettid | __NR_getppid | __NR_sched_yield | __NR_pause => {
            &[]
        }
        __NR_exit | __NR_exit_group => &[Signed],
        __NR_wait4 => &[Signed, Address, Hex, Address],
        __NR_kill => &[Signed, Signal],
        __NR_tgkill => &[Signed, Signed, Signal],
        __NR_futex => &[Address, Hex, Number, Address],
        __NR_poll => &[Address, Number, Signed],
        __NR_nanosleep => &[Address, Address],
        __NR_arch_prctl => &[Hex, Address],
        __NR_set_robust_list => &[Address, Number],
        __NR_rt_sigaction => &[Signal, Address, Address, Number],
        __NR_getrandom => &[Address, Number, Hex],
        __NR_prlimit64 => &[Signed, Number, Address, Address],
        __NR_alarm => &[Number],
        __NR_pipe2 => &[Address, Flags(flags::OPEN)],
        _ => return None,
    })
}

/// The arguments, as they are when the call begins.
pub(super) fn format(number: u64, a: &Arguments) -> String {
    let special = u32::try_from(number).ok().and_then(|number| special(number, a));
    if let Some(text) = special {
        return text;
    }
    let kinds = kinds(number).unwrap_or(&[Hex; 6]);
    // Without MAP_ANONYMOUS and O_CREAT the last arguments are not there, or are not read.
    let count = match u32::try_from(number) {
        Ok(__NR_open) if a[1] as u32 & O_CREAT == 0 => 2,
        Ok(__NR_openat) if a[2] as u32 & (O_CREAT | __O_TMPFILE) == 0 => 3,
        Ok(__NR_mremap) => 4,
        _ => kinds.len(),
    };
    let parts: Vec<String> =
        kinds.iter().zip(a).take(count).map(|(kind, value)| one(*kind, *value)).collect();
    parts.join(", ")
}

fn one(kind: Kind, value: u64) -> String {
    match kind {
        Address => Pointer(value).to_string(),
        Number => value.to_string(),
        Signed => (value as i32).to_string(),
        Hex if value == 0 => "0".to_string(),
        Hex => format!("{value:#x}"),
        Octal => format!("{:#o}", value as u32 & 0o7777).replacen("0o", "0", 1),
        Descriptor => descriptor(value as i32),
        Folder if value as i32 == AT_FDCWD => {
            format!("AT_FDCWD<{}>", String::from_utf8_lossy(&current().process().place().whole()))
        }
        Folder => descriptor(value as i32),
        Text => text(value),
        Flags(flags) => flags.show(value),
        Signal => flags::signal_name(value as u32).to_string(),
        SegmentFlags => {
            let names = flags::SHMGET.show(value & !0o777);
            let mode = format!("0{:o}", value & 0o777);
            if value & !0o777 == 0 { mode } else { names + "|" + &mode }
        }
    }
}

fn descriptor(number: i32) -> String {
    match current().process().files().get(number) {
        Ok(opened) => format!("{number}<{}>", String::from_utf8_lossy(&opened.path)),
        Err(_) => number.to_string(),
    }
}

/// A string of the program's, quoted.
fn text(address: u64) -> String {
    if address == 0 {
        return "NULL".to_string();
    }
    let Ok(text) = user::string(address, 4096) else { return format!("{address:#x}") };
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\{:o}", letter as u32);
            }
            letter => quoted.push(letter),
        }
    }
    quoted + "\""
}

/// Calls whose arguments are structures, or depend on each other.
fn special(number: u32, a: &Arguments) -> Option<String> {
    Some(match number {
        __NR_clone => {
            let signal = a[0] as u32 & 0xff;
            let mut names = flags::CLONE.show(a[0] & !0xff);
            if signal != 0 {
                let separator = if a[0] & !0xff == 0 { "" } else { "|" };
                names = if a[0] & !0xff == 0 { String::new() } else { names };
                names = names + separator + flags::signal_name(signal);
            }
            format!("child_stack={}, flags={names}, child_tidptr={}", Pointer(a[1]), Pointer(a[3]))
        }
        __NR_clone3 => {
            let [flags, _, child, parent, signal, stack, size, tls]: [u64; 8] = user::get(a[0]).ok()?;
            let signal = if signal == 0 { "0" } else { flags::signal_name(signal as u32) };
            format!(
                "{{flags={}, child_tid={child:#x}, parent_tid={parent:#x}, exit_signal={signal}, stack={stack:#x}, \
                 stack_size={size:#x}, tls={tls:#x}}}, {}",
                flags::CLONE.show(flags),
                a[1]
            )
        }
        __NR_execve => format!("{}, [{}], {}", text(a[0]), list(a[1]).join(", "), Pointer(a[2])),
        __NR_mremap => {
            let mut parts =
                vec![Pointer(a[0]).to_string(), a[1].to_string(), a[2].to_string(), flags::MREMAP.show(a[3])];
            if a[3] as u32 & MREMAP_FIXED != 0 {
                parts.push(Pointer(a[4]).to_string());
            }
            parts.join(", ")
        }
        __NR_ioctl => {
            let request = a[1] as u32;
            let argument = flags::UFFDIO.iter().find(|known| known.0 == request);
            match argument {
                Some((_, name, show)) => format!("{}, {name}, {}", descriptor(a[0] as i32), show(a[2])),
                None => format!("{}, {request:#x}, {:#x}", descriptor(a[0] as i32), a[2]),
            }
        }
        _ => return None,
    })
}

/// The strings of a list of pointers.
fn list(at: u64) -> Vec<String> {
    let pointers =
        (0..64).map_while(|index| user::get::<u64>(at + 8 * index).ok().filter(|pointer| *pointer != 0));
    pointers.map(text).collect()
}

/// The end of the line: the result.
pub(super) fn result(number: u64, a: &Arguments, result: u64) -> String {
    let failed = result.wrapping_neg();
    if (1..4096).contains(&failed) {
        let name = Errno(failed as u32).name().unwrap_or("EUNKNOWN");
        return format!(") = -1 {name} (error {failed})");
    }
    match u32::try_from(number) {
        Ok(__NR_mmap | __NR_brk | __NR_mremap | __NR_shmat) => format!(") = {result:#x}"),
        Ok(
            __NR_open | __NR_openat | __NR_creat | __NR_memfd_create | __NR_userfaultfd | __NR_dup
            | __NR_dup2 | __NR_dup3,
        ) => {
            format!(") = {}", descriptor(result as i32))
        }
        Ok(__NR_pipe2 | __NR_pipe) => match user::get::<[u32; 2]>(a[0]) {
            Ok([one, other]) => format!(") = 0 /* {one}, {other} */"),
            Err(_) => ") = 0".to_string(),
        },
        _ => format!(") = {}", result as i64),
    }
}
