//! Which calls to record: the one list of them, of which `hugewalk replay --help` and the documentation print
//! [`RECORDED`].

/// What `strace -e trace=` is to record: classes of calls, and single ones.
///
/// strace knows `memory`, `process` and `ipc`; what is missing in an old version of it can be left out.
pub const RECORDED: &[&str] = &[
    // Mappings, processes, segments.
    "memory",
    "process",
    "ipc",
    // Descriptors.
    "openat",
    "open",
    "creat",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "sendmsg",
    "recvmsg",
    "sendmmsg",
    "recvmmsg",
    // Names.
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "chdir",
    "fchdir",
    // Files and file systems.
    "memfd_create",
    "ftruncate",
    "truncate",
    "fallocate",
    "mount",
    "statfs",
    "fstatfs",
    // What reaches into the memory of others.
    "userfaultfd",
    "ioctl",
    "pidfd_open",
    "pidfd_getfd",
    "process_vm_readv",
    "process_vm_writev",
];

/// How to record a program, as a script: `PROGRAM` stands for it and its arguments.
#[must_use]
pub fn recipe() -> String {
    const WIDTH: usize = 72;
    let mut lines: Vec<String> = Vec::new();
    let mut line = "CALLS=".to_owned();
    for (place, call) in RECORDED.iter().enumerate() {
        if line.len() + call.len() > WIDTH {
            lines.push(std::mem::replace(&mut line, "CALLS=$CALLS".to_owned()));
        }
        if place > 0 {
            line.push(',');
        }
        line += call;
    }
    lines.push(line);
    let commands = [
        "perf record -k CLOCK_REALTIME -e page-faults -c 1 -d -o x.perf -- \\",
        "  strace -f -y -ttt -o x.strace -e trace=$CALLS PROGRAM",
        "perf script -i x.perf --ns -F pid,tid,time,event,addr > x.faults",
    ];
    lines.extend(commands.map(str::to_owned));
    lines.join("\n")
}

/// The names of all calls that are read.
pub(super) const KNOWN: &[&str] = &[
    "execve",
    "execveat",
    "fork",
    "vfork",
    "clone",
    "clone3",
    "exit",
    "exit_group",
    "open",
    "openat",
    "openat2",
    "creat",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "fcntl64",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "chdir",
    "fchdir",
    "statfs",
    "statfs64",
    "fstatfs",
    "fstatfs64",
    "sendmsg",
    "sendmmsg",
    "recvmsg",
    "recvmmsg",
    "recvmmsg_time64",
    "pidfd_open",
    "pidfd_getfd",
    "mseal",
    "mount",
    "memfd_create",
    "shmget",
    "shmat",
    "shmdt",
    "shmctl",
    "ioctl",
    "userfaultfd",
    "process_vm_readv",
    "process_vm_writev",
    "mmap",
    "mmap2",
    "munmap",
    "mprotect",
    "pkey_mprotect",
    "process_madvise",
    "mremap",
    "madvise",
    "mlock",
    "mlock2",
    "mlockall",
    "munlockall",
    "fallocate",
    "ftruncate",
    "ftruncate64",
    "truncate",
    "truncate64",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_names_each_call_once() {
        let recipe = recipe();
        let list: Vec<&str> = recipe
            .lines()
            .filter_map(|line| line.strip_prefix("CALLS=").map(|list| list.trim_start_matches("$CALLS,")))
            .flat_map(|list| list.split(','))
            .collect();
        assert_eq!(list, RECORDED);
        assert!(recipe.lines().all(|line| line.len() < 77), "{recipe}");
    }

    #[test]
    fn every_single_call_of_the_recipe_is_read() {
        let classes = ["memory", "process", "ipc"];
        let unread = RECORDED.iter().filter(|call| !KNOWN.contains(call) && !classes.contains(call));
        assert_eq!(unread.collect::<Vec<_>>(), [&""; 0]);
    }
}
