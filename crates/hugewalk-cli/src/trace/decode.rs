//! From a call as printed to a [`Call`].

use super::arguments::Arguments;
use super::call::{Call, Descriptor, Outcome};
use super::calls;
use super::error::Problem;
use super::flags::{CloneFlags, OpenFlags};
use super::messages;
use super::names;
use super::ranges;
use super::syntax::{self, RawCall};
use super::userfault;

/// Whether a call of this name may be one that is performed.
pub(crate) fn is_known(name: &str) -> bool {
    calls::KNOWN.contains(&name) || name.starts_with("syscall_0x")
}

/// The thread that a `tgkill` names, behind its process.
pub(crate) fn thread_of(raw: &RawCall<'_>) -> Option<(u32, u32)> {
    let number = |index: usize| syntax::number(raw.arguments.get(index)?, |_| None)?.try_into().ok();
    (raw.name == "tgkill" && raw.result.starts_with('0')).then(|| number(0).zip(number(1)))?
}

/// The names of calls that are younger than some versions of strace, which print their numbers (of x86-64).
fn name_of<'a>(raw: &RawCall<'a>) -> &'a str {
    match raw.name {
        "syscall_0x1ce" => "mseal",
        "syscall_0x1b4" => "close_range",
        "syscall_0x1b2" => "pidfd_open",
        "syscall_0x1b6" => "pidfd_getfd",
        "syscall_0x145" => "mlock2",
        "syscall_0x143" => "userfaultfd",
        "syscall_0x13f" => "memfd_create",
        "syscall_0x149" => "pkey_mprotect",
        name => name,
    }
}

/// Reads the call; none if it is one that this program does not perform.
pub(crate) fn decode(raw: &RawCall<'_>) -> Result<Option<Call>, Problem> {
    let of = |call: &'static str| Arguments { call, list: &raw.arguments };
    let failed = raw.result.starts_with("-1 ") || raw.result.starts_with('?');
    let call = match name_of(raw) {
        "execve" => Call::Execve { program: of("execve").path(0).unwrap_or_default() },
        "execveat" => Call::Execve { program: of("execveat").path(1).unwrap_or_default() },
        "fork" => Call::Clone { flags: CloneFlags::empty() },
        "vfork" => Call::Clone { flags: CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK },
        "clone" => Call::Clone { flags: of("clone").named_flags("flags")? },
        "clone3" => Call::Clone { flags: of("clone3").field_flags(0, "flags")? },
        "exit" => Call::Exit { group: false },
        "exit_group" => Call::Exit { group: true },
        "open" | "openat" | "openat2" | "creat" => return open(raw).map(Some),
        "close" => Call::Close { fd: of("close").fd(0)?.number },
        "close_range" => close_range(&of("close_range"))?,
        "dup" => Call::Dup { fd: of("dup").fd(0)?, cloexec: false },
        "dup2" => Call::Dup { fd: of("dup2").fd(0)?, cloexec: false },
        "dup3" => {
            let flags: OpenFlags = of("dup3").flags(2, "flags")?;
            Call::Dup { fd: of("dup3").fd(0)?, cloexec: flags.contains(OpenFlags::O_CLOEXEC) }
        }
        "fcntl" | "fcntl64" => match of("fcntl").command(1, |name| match name {
            "F_DUPFD" => Some(0),
            "F_DUPFD_CLOEXEC" => Some(1030),
            _ => None,
        }) {
            Some(command @ (0 | 1030)) => Call::Dup { fd: of("fcntl").fd(0)?, cloexec: command == 1030 },
            _ => return Ok(None),
        },
        "rename" | "renameat" | "renameat2" | "link" | "linkat" | "chdir" | "fchdir" | "statfs"
        | "fstatfs" | "statfs64" | "fstatfs64" => return names::decode(raw),
        "sendmsg" | "sendmmsg" | "recvmsg" | "recvmmsg" | "recvmmsg_time64" => {
            return if failed { Ok(None) } else { messages::decode(raw) };
        }
        "pidfd_open" => Call::PidfdOpen { pid: of("pidfd_open").small(0, "process")? },
        "pidfd_getfd" => {
            let arguments = of("pidfd_getfd");
            Call::PidfdGetfd { pidfd: arguments.fd(0)?, fd: arguments.fd(1)?.number }
        }
        "mseal" => {
            let arguments = of("mseal");
            Call::Mseal { address: arguments.number(0, "address")?, length: arguments.number(1, "length")? }
        }
        "unlink" => Call::Unlink { directory: None, path: of("unlink").path(0)? },
        "unlinkat" => {
            let arguments = of("unlinkat");
            Call::Unlink { directory: Some(arguments.fd(0)?), path: arguments.path(1)? }
        }
        "mount" => mount(&of("mount"))?,
        "memfd_create" => {
            let arguments = of("memfd_create");
            Call::MemfdCreate { name: arguments.path(0)?, flags: arguments.flags(1, "flags")? }
        }
        "shmget" => {
            let arguments = of("shmget");
            Call::Shmget {
                key: arguments.number_or_name(0, "key")?,
                size: arguments.number(1, "size")?,
                flags: arguments.flags(2, "flags")?,
            }
        }
        "shmat" => {
            let arguments = of("shmat");
            Call::Shmat {
                id: arguments.small(0, "identifier")?,
                address: arguments.number(1, "address")?,
                flags: arguments.flags(2, "flags")?,
            }
        }
        "shmdt" => Call::Shmdt { address: of("shmdt").number(0, "address")? },
        "shmctl" => match of("shmctl").command(1, |name| match name {
            "IPC_RMID" => Some(0),
            "IPC_64" => Some(0x100),
            _ => None,
        }) {
            Some(0 | 0x100) => Call::ShmctlRemove { id: of("shmctl").small(0, "identifier")? },
            _ => return Ok(None),
        },
        "ioctl" => return userfault::ioctl(raw),
        "userfaultfd" => {
            let flags: OpenFlags = of("userfaultfd").flags(0, "flags")?;
            Call::Userfaultfd { cloexec: flags.contains(OpenFlags::O_CLOEXEC) }
        }
        "process_vm_readv" | "process_vm_writev" => return userfault::process_vm(raw),
        "mmap" | "mmap2" | "munmap" | "mprotect" | "pkey_mprotect" | "mremap" | "madvise" | "mlock"
        | "mlock2" | "mlockall" | "munlockall" | "fallocate" | "ftruncate" | "ftruncate64" | "truncate"
        | "truncate64" => {
            return ranges::decode(raw, name_of(raw)).map(Some);
        }
        _ => return Ok(None),
    };
    Ok(Some(call))
}

fn open(raw: &RawCall<'_>) -> Result<Call, Problem> {
    let opened = syntax::descriptor_path(raw.result).map(|(path, deleted)| Descriptor {
        number: 0,
        path: Some(path.into()),
        deleted,
    });
    let of = |call: &'static str| Arguments { call, list: &raw.arguments };
    Ok(match raw.name {
        "open" => {
            let arguments = of("open");
            Call::Open {
                directory: None,
                path: arguments.path(0)?,
                flags: arguments.flags(1, "flags")?,
                opened,
            }
        }
        "creat" => {
            let flags = OpenFlags::O_CREAT | OpenFlags::O_TRUNC;
            Call::Open { directory: None, path: of("creat").path(0)?, flags, opened }
        }
        "openat2" => {
            let arguments = of("openat2");
            let flags = arguments.field_flags(2, "flags")?;
            Call::Open { directory: Some(arguments.fd(0)?), path: arguments.path(1)?, flags, opened }
        }
        _ => {
            let arguments = of("openat");
            let flags = arguments.flags(2, "flags")?;
            Call::Open { directory: Some(arguments.fd(0)?), path: arguments.path(1)?, flags, opened }
        }
    })
}

fn close_range(arguments: &Arguments<'_>) -> Result<Call, Problem> {
    Ok(Call::CloseRange {
        first: arguments.small(0, "first")?,
        last: arguments.small(1, "last")?,
        cloexec_only: arguments.text(2, "flags")?.contains("CLOEXEC"),
    })
}

fn mount(arguments: &Arguments<'_>) -> Result<Call, Problem> {
    let optional = |index| arguments.list.get(index).copied().and_then(syntax::string).unwrap_or_default();
    Ok(Call::Mount { target: arguments.path(1)?, kind: optional(2).into(), options: optional(4).into() })
}

/// Reads what stands after the `=`.
pub(crate) fn outcome(raw: &RawCall<'_>) -> Result<Outcome, Problem> {
    let (value, explanation) = raw.result.split_once(char::is_whitespace).unwrap_or((raw.result, ""));
    match value {
        "?" => return Ok(Outcome::Unknown),
        "-1" if explanation.starts_with('E') => {
            return Ok(Outcome::Failed(explanation.split(' ').next().unwrap_or_default().into()));
        }
        _ => {}
    }
    // A path beside a descriptor may hold spaces.
    let value = raw
        .result
        .split_once('<')
        .map_or(value, |(number, _)| number.trim_end().split(' ').next().unwrap_or(value));
    match syntax::number(value, |_| None) {
        Some(value) => Ok(Outcome::Returned(value)),
        None => Err(Problem::Outcome { call: raw.name.to_owned(), text: raw.result.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Option<Call> {
        decode(&RawCall::parse(text).expect("a call")).expect("readable")
    }

    fn ended(text: &str) -> Outcome {
        outcome(&RawCall::parse(text).expect("a call")).expect("readable")
    }

    #[test]
    fn the_four_ways_to_make_a_process_are_one() {
        let flags = |text| match call(text) {
            Some(Call::Clone { flags }) => flags,
            other => panic!("{other:?}"),
        };
        assert_eq!(flags("fork() = 5"), CloneFlags::empty());
        assert_eq!(flags("vfork() = 5"), CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK);
        let threads =
            flags("clone(child_stack=0x7f, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD, tls=0x7) = 5");
        let shared = CloneFlags::CLONE_VM | CloneFlags::CLONE_FS | CloneFlags::CLONE_FILES;
        assert_eq!(threads, shared | CloneFlags::CLONE_THREAD);
        let spawned = flags(
            "clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD, stack=0x7, stack_size=0x9000}, 88) = 5",
        );
        assert_eq!(spawned, CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK);
    }

    #[test]
    fn annotated_descriptors_keep_their_paths() {
        let text = r#"openat(AT_FDCWD</root>, "h/a b", O_RDWR|O_CREAT, 0755) = 3</mnt/h/a b>"#;
        let directory = Some(Descriptor { number: -100, path: Some("/root".into()), deleted: false });
        let opened = Some(Descriptor { number: 0, path: Some("/mnt/h/a b".into()), deleted: false });
        let expected = Call::Open {
            directory,
            path: "h/a b".into(),
            flags: OpenFlags::O_CREAT | OpenFlags::from_bits_retain(0),
            opened,
        };
        assert_eq!(call(text), Some(expected));
        assert_eq!(ended(text), Outcome::Returned(3));
    }

    #[test]
    fn outcomes_are_values_errors_or_unknown() {
        assert_eq!(ended("brk(NULL)   = 0x55edfd78c000"), Outcome::Returned(0x55ed_fd78_c000));
        assert_eq!(ended("f() = -1 EFAULT (Bad address)"), Outcome::Failed("EFAULT".into()));
        assert_eq!(ended("f() = ? ERESTARTSYS (To be restarted)"), Outcome::Unknown);
        assert_eq!(ended("exit_group(0) = ?"), Outcome::Unknown);
        assert_eq!(ended("poll([], 0, 1) = 0 (Timeout)"), Outcome::Returned(0));
        assert_eq!(ended("f() = 0 <0.000012>"), Outcome::Returned(0));
        let raw = RawCall::parse("mmap(1) = ballast").expect("a call");
        assert!(matches!(outcome(&raw), Err(Problem::Outcome { .. })));
    }

    #[test]
    fn an_argument_that_cannot_be_read_is_named() {
        let problem =
            |text| decode(&RawCall::parse(text).expect("a call")).expect_err("unreadable").to_string();
        assert_eq!(problem("munmap(0x1000, many) = 0"), "munmap: argument 2 (length) is `many`");
        assert_eq!(problem("munmap(0x1000) = 0"), "munmap: argument 2 (length) is missing");
        assert_eq!(problem("ftruncate(x, 5) = 0"), "ftruncate: argument 1 (descriptor) is `x`");
    }
}
