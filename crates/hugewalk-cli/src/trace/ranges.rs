//! The calls on ranges: of memory, and of files.

use super::arguments::Arguments;
use super::call::{Advice, Call};
use super::error::Problem;
use super::syntax::{self, RawCall};

/// Reads one of them, by its `name` of today.
pub(crate) fn decode(raw: &RawCall<'_>, name: &str) -> Result<Call, Problem> {
    let of = |call: &'static str| Arguments { call, list: &raw.arguments };
    let range = |arguments: &Arguments<'_>| -> Result<(u64, u64), Problem> {
        Ok((arguments.number(0, "address")?, arguments.number(1, "length")?))
    };
    Ok(match name {
        "munmap" => {
            let (address, length) = range(&of("munmap"))?;
            Call::Munmap { address, length }
        }
        "mprotect" | "pkey_mprotect" => {
            let arguments = of("mprotect");
            let (address, length) = range(&arguments)?;
            Call::Mprotect { address, length, prot: arguments.flags(2, "protection")? }
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
                new_address: if raw.arguments.len() > 4 { arguments.number(4, "new address")? } else { 0 },
            }
        }
        "madvise" => {
            let arguments = of("madvise");
            let (address, length) = range(&arguments)?;
            Call::Madvise { address, length, advice: advice(arguments.text(2, "advice")?) }
        }
        "mlock" => {
            let (address, length) = range(&of("mlock"))?;
            Call::Mlock { address, length }
        }
        "mlock2" => {
            let (address, length) = range(&of("mlock2"))?;
            Call::Mlock { address, length }
        }
        "munlockall" => Call::Munlockall,
        "mlockall" => Call::Mlockall { flags: of("mlockall").flags(0, "flags")? },
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
            Call::Ftruncate { fd: arguments.fd(0)?, length: arguments.number(1, "length")? }
        }
        "truncate" | "truncate64" => {
            let arguments = of("truncate");
            Call::Truncate { path: arguments.path(0)?, length: arguments.number(1, "length")? }
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

/// By name, or by number where strace prints numbers or does not know the name.
fn advice(text: &str) -> Advice {
    const NAMES: [(u64, &str); 27] = [
        (0, "MADV_NORMAL"),
        (1, "MADV_RANDOM"),
        (2, "MADV_SEQUENTIAL"),
        (3, "MADV_WILLNEED"),
        (4, "MADV_DONTNEED"),
        (8, "MADV_FREE"),
        (9, "MADV_REMOVE"),
        (10, "MADV_DONTFORK"),
        (11, "MADV_DOFORK"),
        (12, "MADV_MERGEABLE"),
        (13, "MADV_UNMERGEABLE"),
        (14, "MADV_HUGEPAGE"),
        (15, "MADV_NOHUGEPAGE"),
        (16, "MADV_DONTDUMP"),
        (17, "MADV_DODUMP"),
        (18, "MADV_WIPEONFORK"),
        (19, "MADV_KEEPONFORK"),
        (20, "MADV_COLD"),
        (21, "MADV_PAGEOUT"),
        (22, "MADV_POPULATE_READ"),
        (23, "MADV_POPULATE_WRITE"),
        (24, "MADV_DONTNEED_LOCKED"),
        (25, "MADV_COLLAPSE"),
        (100, "MADV_HWPOISON"),
        (101, "MADV_SOFT_OFFLINE"),
        (102, "MADV_GUARD_INSTALL"),
        (103, "MADV_GUARD_REMOVE"),
    ];
    let named = syntax::number(text, |_| None)
        .and_then(|number| NAMES.iter().find(|(known, _)| *known == number))
        .map_or(text, |(_, name)| name);
    match named {
        "MADV_DONTNEED" | "MADV_DONTNEED_LOCKED" => Advice::DontNeed,
        "MADV_REMOVE" => Advice::Remove,
        "MADV_POPULATE_READ" => Advice::PopulateRead,
        "MADV_POPULATE_WRITE" => Advice::PopulateWrite,
        "MADV_DONTDUMP" => Advice::DontDump,
        "MADV_DODUMP" => Advice::DoDump,
        "MADV_DONTFORK" => Advice::DontFork,
        "MADV_DOFORK" => Advice::DoFork,
        "MADV_NORMAL" => Advice::Normal,
        "MADV_RANDOM" => Advice::Random,
        "MADV_SEQUENTIAL" => Advice::Sequential,
        "MADV_HWPOISON" => Advice::Hwpoison,
        "MADV_SOFT_OFFLINE" => Advice::SoftOffline,
        other => Advice::Other(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::Descriptor;
    use super::super::flags::{MapFlags, MremapFlags, Prot};
    use super::*;

    fn call(text: &str) -> Option<Call> {
        {
            let raw = RawCall::parse(text).expect("a call");
            decode(&raw, raw.name).ok()
        }
    }

    #[test]
    fn mmap_is_read_with_its_page_size() {
        let text = "mmap(NULL, 1073741824, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS|MAP_HUGETLB|30<<MAP_HUGE_SHIFT, -1, 0) = 0x7fc0";
        let Some(Call::Mmap { address: 0, length: 0x4000_0000, prot, flags, fd, offset: 0 }) = call(text)
        else {
            panic!("{text}");
        };
        assert_eq!(prot, Prot::PROT_READ | Prot::PROT_WRITE);
        assert_eq!(flags.page_shift(), Some(30));
        assert!(flags.contains(MapFlags::MAP_HUGETLB) && flags.is_shared());
        assert_eq!(fd, Descriptor { number: -1, path: None, deleted: false });
    }

    #[test]
    fn advice_is_read_by_name_and_by_number() {
        for text in
            ["MADV_POPULATE_WRITE", "0x17", "23", "0x17 /* MADV_??? */", "0x17 /* MADV_POPULATE_WRITE */"]
        {
            assert_eq!(advice(text), Advice::PopulateWrite, "{text}");
        }
        assert_eq!(advice("0x3"), Advice::Other("MADV_WILLNEED".into()));
        assert_eq!(advice("0x1234"), Advice::Other("0x1234".into()));
    }

    #[test]
    fn mremap_has_four_or_five_arguments() {
        let five = call("mremap(0x1000, 8192, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0x5000) = 0x5000");
        let flags = MremapFlags::MREMAP_MAYMOVE | MremapFlags::MREMAP_FIXED;
        let expected =
            Call::Mremap { address: 0x1000, old_length: 8192, new_length: 4096, flags, new_address: 0x5000 };
        assert_eq!(five, Some(expected));
        assert!(matches!(
            call("mremap(0x1000, 1, 2, 0) = -1 EFAULT (Bad address)"),
            Some(Call::Mremap { new_address: 0, .. })
        ));
    }
}
