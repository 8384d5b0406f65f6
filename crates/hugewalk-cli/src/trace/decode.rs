//! From a call as printed to a [`Call`].

use super::call::{Advice, Call, Descriptor, Outcome};
use super::error::Problem;
use super::flags::{CloneFlags, FlagWord, MlockFlags};
use super::syntax::{self, RawCall};

/// Reads the call; none if it is one that this program does not perform.
pub(crate) fn decode(raw: &RawCall<'_>) -> Result<Option<Call>, Problem> {
    let of = |call: &'static str| Arguments {
        call,
        list: &raw.arguments,
    };
    let call = match raw.name {
        "execve" | "execveat" => Call::Execve,
        "fork" => Call::Clone {
            flags: CloneFlags::empty(),
        },
        "vfork" => Call::Clone {
            flags: CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK,
        },
        "clone" => Call::Clone {
            flags: of("clone").named_flags("flags")?,
        },
        "clone3" => Call::Clone {
            flags: of("clone3").field_flags(0, "flags")?,
        },
        "exit" => Call::Exit { group: false },
        "exit_group" => Call::Exit { group: true },
        "open" | "openat" | "openat2" | "creat" => return open(raw).map(Some),
        "close" => Call::Close {
            fd: of("close").fd(0)?.number,
        },
        "close_range" => close_range(&of("close_range"))?,
        "dup" => Call::Dup {
            fd: of("dup").fd(0)?.number,
        },
        "dup2" => Call::Dup {
            fd: of("dup2").fd(0)?.number,
        },
        "dup3" => Call::Dup {
            fd: of("dup3").fd(0)?.number,
        },
        "fcntl" => match raw.arguments.get(1) {
            Some(&("F_DUPFD" | "F_DUPFD_CLOEXEC")) => Call::Dup {
                fd: of("fcntl").fd(0)?.number,
            },
            _ => return Ok(None),
        },
        "unlink" => Call::Unlink {
            directory: None,
            path: of("unlink").path(0)?,
        },
        "unlinkat" => {
            let arguments = of("unlinkat");
            Call::Unlink {
                directory: Some(arguments.fd(0)?),
                path: arguments.path(1)?,
            }
        }
        "mount" => mount(&of("mount"))?,
        "memfd_create" => Call::MemfdCreate {
            flags: of("memfd_create").flags(1, "flags")?,
        },
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
        "shmdt" => Call::Shmdt {
            address: of("shmdt").number(0, "address")?,
        },
        "shmctl" => match raw.arguments.get(1) {
            Some(&"IPC_RMID") => Call::ShmctlRemove {
                id: of("shmctl").small(0, "identifier")?,
            },
            _ => return Ok(None),
        },
        "ioctl" => return ioctl(raw),
        "userfaultfd" => Call::Userfaultfd,
        "mmap" | "mmap2" | "munmap" | "mprotect" | "pkey_mprotect" | "mremap" | "madvise" | "mlock"
        | "mlock2" | "mlockall" | "fallocate" | "ftruncate" | "ftruncate64" | "truncate" | "truncate64" => {
            return memory(raw).map(Some);
        }
        _ => return Ok(None),
    };
    Ok(Some(call))
}

/// The calls on ranges: of memory, and of files.
fn memory(raw: &RawCall<'_>) -> Result<Call, Problem> {
    let of = |call: &'static str| Arguments {
        call,
        list: &raw.arguments,
    };
    let range = |arguments: &Arguments<'_>| -> Result<(u64, u64), Problem> {
        Ok((arguments.number(0, "address")?, arguments.number(1, "length")?))
    };
    Ok(match raw.name {
        "munmap" => {
            let (address, length) = range(&of("munmap"))?;
            Call::Munmap { address, length }
        }
        "mprotect" | "pkey_mprotect" => {
            let arguments = of("mprotect");
            let (address, length) = range(&arguments)?;
            Call::Mprotect {
                address,
                length,
                prot: arguments.flags(2, "protection")?,
            }
        }
        "mremap" => {
            let arguments = of("mremap");
            let (address, old_length) = range(&arguments)?;
            Call::Mremap {
                address,
                old_length,
                new_length: arguments.number(2, "new length")?,
                flags: arguments.flags(3, "flags")?,
                // Printed only with MREMAP_FIXED or MREMAP_DONTUNMAP.
                new_address: if raw.arguments.len() > 4 {
                    arguments.number(4, "new address")?
                } else {
                    0
                },
            }
        }
        "madvise" => {
            let arguments = of("madvise");
            let (address, length) = range(&arguments)?;
            Call::Madvise {
                address,
                length,
                advice: advice(arguments.text(2, "advice")?),
            }
        }
        "mlock" => {
            let (address, length) = range(&of("mlock"))?;
            Call::Mlock {
                address,
                length,
                flags: MlockFlags::empty(),
            }
        }
        "mlock2" => {
            let arguments = of("mlock2");
            let (address, length) = range(&arguments)?;
            Call::Mlock {
                address,
                length,
                flags: arguments.flags(2, "flags")?,
            }
        }
        "mlockall" => Call::Mlockall {
            flags: of("mlockall").flags(0, "flags")?,
        },
        "fallocate" => {
            let arguments = of("fallocate");
            Call::Fallocate {
                fd: arguments.fd(0)?,
                mode: arguments.flags(1, "mode")?,
                offset: arguments.number(2, "offset")?,
                length: arguments.number(3, "length")?,
            }
        }
        "ftruncate" | "ftruncate64" => {
            let arguments = of("ftruncate");
            Call::Ftruncate {
                fd: arguments.fd(0)?,
                length: arguments.number(1, "length")?,
            }
        }
        "truncate" | "truncate64" => {
            let arguments = of("truncate");
            Call::Truncate {
                path: arguments.path(0)?,
                length: arguments.number(1, "length")?,
            }
        }
        _ => {
            let arguments = of("mmap");
            let (address, length) = range(&arguments)?;
            Call::Mmap {
                address,
                length,
                prot: arguments.flags(2, "protection")?,
                flags: arguments.flags(3, "flags")?,
                fd: arguments.fd(4)?,
                offset: arguments.number(5, "offset")?,
            }
        }
    })
}

fn open(raw: &RawCall<'_>) -> Result<Call, Problem> {
    let opened = syntax::descriptor_path(raw.result).map(Box::from);
    let of = |call: &'static str| Arguments {
        call,
        list: &raw.arguments,
    };
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
            use super::flags::OpenFlags;
            let flags = OpenFlags::O_CREAT | OpenFlags::O_TRUNC;
            Call::Open {
                directory: None,
                path: of("creat").path(0)?,
                flags,
                opened,
            }
        }
        "openat2" => {
            let arguments = of("openat2");
            let flags = arguments.field_flags(2, "flags")?;
            Call::Open {
                directory: Some(arguments.fd(0)?),
                path: arguments.path(1)?,
                flags,
                opened,
            }
        }
        _ => {
            let arguments = of("openat");
            let flags = arguments.flags(2, "flags")?;
            Call::Open {
                directory: Some(arguments.fd(0)?),
                path: arguments.path(1)?,
                flags,
                opened,
            }
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
    let optional = |index| {
        arguments
            .list
            .get(index)
            .copied()
            .and_then(syntax::string)
            .unwrap_or_default()
    };
    Ok(Call::Mount {
        target: arguments.path(1)?,
        kind: optional(2).into(),
        options: optional(4).into(),
    })
}

fn ioctl(raw: &RawCall<'_>) -> Result<Option<Call>, Problem> {
    let arguments = Arguments {
        call: "ioctl",
        list: &raw.arguments,
    };
    let range = |structure: &str| -> Result<(u64, u64), Problem> {
        let of = |name| syntax::field(structure, name).and_then(|text| syntax::number(text, |_| None));
        of("start")
            .zip(of("len"))
            .ok_or_else(|| arguments.bad(2, "range", structure))
    };
    Ok(Some(match raw.arguments.get(1) {
        Some(&"UFFDIO_REGISTER") => {
            let structure = arguments.text(2, "userfaultfd range")?;
            let inner =
                syntax::field(structure, "range").ok_or_else(|| arguments.bad(2, "range", structure))?;
            let (start, length) = range(inner)?;
            Call::UffdRegister {
                fd: arguments.fd(0)?.number,
                start,
                length,
                modes: arguments.field_flags(2, "mode")?,
            }
        }
        Some(&"UFFDIO_UNREGISTER") => {
            let (start, length) = range(arguments.text(2, "userfaultfd range")?)?;
            Call::UffdUnregister {
                fd: arguments.fd(0)?.number,
                start,
                length,
            }
        }
        _ => return Ok(None),
    }))
}

fn advice(text: &str) -> Advice {
    match text {
        "MADV_DONTNEED" | "MADV_DONTNEED_LOCKED" => Advice::DontNeed,
        "MADV_REMOVE" => Advice::Remove,
        "MADV_POPULATE_READ" => Advice::PopulateRead,
        "MADV_POPULATE_WRITE" => Advice::PopulateWrite,
        other => Advice::Other(other.into()),
    }
}

/// Reads what stands after the `=`.
pub(crate) fn outcome(raw: &RawCall<'_>) -> Result<Outcome, Problem> {
    let (value, explanation) = raw
        .result
        .split_once(char::is_whitespace)
        .unwrap_or((raw.result, ""));
    match value {
        // `? ERESTARTSYS (...)`: it is started over, and then printed again.
        "?" => return Ok(Outcome::Unknown),
        "-1" if explanation.starts_with('E') => {
            return Ok(Outcome::Failed(
                explanation.split(' ').next().unwrap_or_default().into(),
            ));
        }
        _ => {}
    }
    // A path beside a descriptor may hold spaces.
    let value = raw.result.split_once('<').map_or(value, |(number, _)| {
        number.trim_end().split(' ').next().unwrap_or(value)
    });
    match syntax::number(value, |_| None) {
        Some(value) => Ok(Outcome::Returned(value)),
        None => Err(Problem::Outcome {
            call: raw.name.to_owned(),
            text: raw.result.to_owned(),
        }),
    }
}

/// The arguments of one call, read by place.
struct Arguments<'a> {
    call: &'static str,
    list: &'a [&'a str],
}

impl<'a> Arguments<'a> {
    fn text(&self, index: usize, what: &'static str) -> Result<&'a str, Problem> {
        self.list.get(index).copied().ok_or(Problem::MissingArgument {
            call: self.call,
            number: index + 1,
            what,
        })
    }

    fn bad(&self, index: usize, what: &'static str, text: &str) -> Problem {
        Problem::Argument {
            call: self.call,
            number: index + 1,
            what,
            text: text.to_owned(),
        }
    }

    fn number(&self, index: usize, what: &'static str) -> Result<u64, Problem> {
        let text = self.text(index, what)?;
        syntax::number(text, |_| None).ok_or_else(|| self.bad(index, what, text))
    }

    /// A number of which some values have names (`IPC_PRIVATE`), all of them meaning zero here.
    fn number_or_name(&self, index: usize, what: &'static str) -> Result<u64, Problem> {
        let text = self.text(index, what)?;
        syntax::number(text, |_| Some(0)).ok_or_else(|| self.bad(index, what, text))
    }

    fn small(&self, index: usize, what: &'static str) -> Result<u32, Problem> {
        u32::try_from(self.number(index, what)?).map_err(|_| self.bad(index, what, self.list[index]))
    }

    fn flags<F: FlagWord>(&self, index: usize, what: &'static str) -> Result<F, Problem> {
        let text = self.text(index, what)?;
        self.flags_in(index, what, text)
    }

    fn flags_in<F: FlagWord>(&self, index: usize, what: &'static str, text: &str) -> Result<F, Problem> {
        syntax::number(text, |name| Some(F::by_name(name)))
            .map(F::from_word)
            .ok_or_else(|| self.bad(index, what, text))
    }

    /// Flags in a field of a structure, as `clone3` and `openat2` have them.
    fn field_flags<F: FlagWord>(&self, index: usize, name: &'static str) -> Result<F, Problem> {
        let structure = self.text(index, name)?;
        let text = syntax::field(structure, name).ok_or_else(|| self.bad(index, name, structure))?;
        self.flags_in(index, name, text)
    }

    /// Flags printed as `flags=...`, as `clone` has them, whose arguments differ in order between architectures.
    fn named_flags<F: FlagWord>(&self, name: &'static str) -> Result<F, Problem> {
        let found = self
            .list
            .iter()
            .enumerate()
            .find_map(|(index, text)| Some((index, syntax::named(text, name)?)));
        let (index, text) = found.ok_or(Problem::MissingArgument {
            call: self.call,
            number: 2,
            what: name,
        })?;
        self.flags_in(index, name, text)
    }

    fn path(&self, index: usize) -> Result<Box<str>, Problem> {
        let text = self.text(index, "path")?;
        // A bad address is printed as a number; the call fails, so that the path does not matter.
        let unreadable = || syntax::number(text, |_| None).map(|_| String::new());
        syntax::string(text)
            .or_else(unreadable)
            .map(String::into_boxed_str)
            .ok_or_else(|| self.bad(index, "path", text))
    }

    fn fd(&self, index: usize) -> Result<Descriptor, Problem> {
        const AT_FDCWD: i64 = -100;
        let text = self.text(index, "descriptor")?;
        let named = |name: &str| (name == "AT_FDCWD").then_some(AT_FDCWD.cast_unsigned());
        let value = syntax::number(text, named).ok_or_else(|| self.bad(index, "descriptor", text))?;
        // Descriptors are 32 bits wide: -1 may be printed as 4294967295.
        let number = i32::try_from(value.cast_signed())
            .or_else(|_| u32::try_from(value).map(u32::cast_signed))
            .map_err(|_| self.bad(index, "descriptor", text))?;
        Ok(Descriptor {
            number,
            path: syntax::descriptor_path(text).map(Box::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::{MapFlags, MremapFlags, OpenFlags, Prot, UffdModes};
    use super::*;

    fn call(text: &str) -> Option<Call> {
        decode(&RawCall::parse(text).expect("a call")).expect("readable")
    }

    fn ended(text: &str) -> Outcome {
        outcome(&RawCall::parse(text).expect("a call")).expect("readable")
    }

    #[test]
    fn mmap_is_read_with_its_page_size() {
        let text = "mmap(NULL, 1073741824, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB|30<<MAP_HUGE_SHIFT, -1, 0) = 0x7fc0";
        let Some(Call::Mmap {
            address: 0,
            length: 0x4000_0000,
            prot,
            flags,
            fd,
            offset: 0,
        }) = call(text)
        else {
            panic!("{text}");
        };
        assert_eq!(prot, Prot::PROT_READ | Prot::PROT_WRITE);
        assert_eq!(flags.page_shift(), Some(30));
        assert!(flags.contains(MapFlags::MAP_HUGETLB) && flags.is_shared());
        assert_eq!(
            fd,
            Descriptor {
                number: -1,
                path: None
            }
        );
    }

    #[test]
    fn mremap_has_four_or_five_arguments() {
        let five = call("mremap(0x1000, 8192, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0x5000) = 0x5000");
        let flags = MremapFlags::MREMAP_MAYMOVE | MremapFlags::MREMAP_FIXED;
        let expected = Call::Mremap {
            address: 0x1000,
            old_length: 8192,
            new_length: 4096,
            flags,
            new_address: 0x5000,
        };
        assert_eq!(five, Some(expected));
        assert!(matches!(
            call("mremap(0x1000, 1, 2, 0) = -1 EFAULT (Bad address)"),
            Some(Call::Mremap { new_address: 0, .. })
        ));
    }

    #[test]
    fn the_four_ways_to_make_a_process_are_one() {
        let flags = |text| match call(text) {
            Some(Call::Clone { flags }) => flags,
            other => panic!("{other:?}"),
        };
        assert_eq!(flags("fork() = 5"), CloneFlags::empty());
        assert_eq!(
            flags("vfork() = 5"),
            CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK
        );
        let threads =
            flags("clone(child_stack=0x7f, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD, tls=0x7) = 5");
        assert_eq!(
            threads,
            CloneFlags::CLONE_VM | CloneFlags::CLONE_FILES | CloneFlags::CLONE_THREAD
        );
        let spawned = flags(
            "clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD, stack=0x7, stack_size=0x9000}, 88) = 5",
        );
        assert_eq!(spawned, CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK);
    }

    #[test]
    fn annotated_descriptors_keep_their_paths() {
        let text = r#"openat(AT_FDCWD</root>, "h/a b", O_RDWR|O_CREAT, 0755) = 3</mnt/h/a b>"#;
        let directory = Some(Descriptor {
            number: -100,
            path: Some("/root".into()),
        });
        let opened = Some("/mnt/h/a b".into());
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
    fn a_userfaultfd_registration_is_read_from_its_structure() {
        let text = "ioctl(4, UFFDIO_REGISTER, {range={start=0x7f0000000000, len=0x200000}, mode=UFFDIO_REGISTER_MODE_WP, ioctls=1<<_UFFDIO_WAKE}) = 0";
        let modes = UffdModes::UFFDIO_REGISTER_MODE_WP;
        assert_eq!(
            call(text),
            Some(Call::UffdRegister {
                fd: 4,
                start: 0x7f00_0000_0000,
                length: 0x20_0000,
                modes
            })
        );
        assert_eq!(call("ioctl(1, TCGETS, 0x7f) = -1 ENOTTY (x)"), None);
    }

    #[test]
    fn outcomes_are_values_errors_or_unknown() {
        assert_eq!(
            ended("brk(NULL)   = 0x55edfd78c000"),
            Outcome::Returned(0x55ed_fd78_c000)
        );
        assert_eq!(
            ended("f() = -1 EFAULT (Bad address)"),
            Outcome::Failed("EFAULT".into())
        );
        assert_eq!(ended("f() = ? ERESTARTSYS (To be restarted)"), Outcome::Unknown);
        assert_eq!(ended("exit_group(0) = ?"), Outcome::Unknown);
        assert_eq!(ended("poll([], 0, 1) = 0 (Timeout)"), Outcome::Returned(0));
        assert_eq!(ended("f() = 0 <0.000012>"), Outcome::Returned(0));
        let raw = RawCall::parse("mmap(1) = ballast").expect("a call");
        assert!(matches!(outcome(&raw), Err(Problem::Outcome { .. })));
    }

    #[test]
    fn an_argument_that_cannot_be_read_is_named() {
        let problem = |text| {
            decode(&RawCall::parse(text).expect("a call"))
                .expect_err("unreadable")
                .to_string()
        };
        assert_eq!(
            problem("munmap(0x1000, many) = 0"),
            "munmap: argument 2 (length) is `many`"
        );
        assert_eq!(
            problem("munmap(0x1000) = 0"),
            "munmap: argument 2 (length) is missing"
        );
        assert_eq!(
            problem("ftruncate(x, 5) = 0"),
            "ftruncate: argument 1 (descriptor) is `x`"
        );
    }
}
