//! Calls on userfaultfds, and those that reach into the memory of another process.

use super::arguments::Arguments;
use super::call::{Call, Handling};
use super::error::Problem;
use super::flags::OpenFlags;
use super::syntax::{self, RawCall};

/// Reads an ioctl on a userfaultfd; none if it is another one, or its argument is printed as an address only, as `strace`
/// does with those that it does not know.
pub(crate) fn ioctl(raw: &RawCall<'_>) -> Result<Option<Call>, Problem> {
    let arguments = Arguments { call: "ioctl", list: &raw.arguments };
    let command = command(raw.arguments.get(1).copied().unwrap_or_default());
    if command == "USERFAULTFD_IOC_NEW" {
        let flags: OpenFlags = arguments.flags(2, "flags")?;
        return Ok(Some(Call::Userfaultfd { cloexec: flags.contains(OpenFlags::O_CLOEXEC) }));
    }
    let known = matches!(
        command,
        "UFFDIO_API"
            | "UFFDIO_REGISTER"
            | "UFFDIO_UNREGISTER"
            | "UFFDIO_COPY"
            | "UFFDIO_CONTINUE"
            | "UFFDIO_ZEROPAGE"
            | "UFFDIO_WRITEPROTECT"
            | "UFFDIO_WAKE"
    );
    if !known {
        return Ok(None);
    }
    let structure = arguments.text(2, "structure")?;
    if syntax::number(structure, |_| None).is_some() {
        return Ok(None);
    }
    let fd = arguments.fd(0)?;
    if command == "UFFDIO_API" {
        let asked =
            syntax::field(structure, "features").map(|text| text.split(" => ").next().unwrap_or(text));
        let asked = asked.ok_or_else(|| arguments.bad(2, "features", structure))?;
        return Ok(Some(Call::UffdApi { fd, features: arguments.flags_in(2, "features", asked)? }));
    }
    let in_range = || {
        let inner = syntax::field(structure, "range").ok_or_else(|| arguments.bad(2, "range", structure))?;
        range(&arguments, inner, "start")
    };
    let ((start, length), handling) = match command {
        "UFFDIO_REGISTER" => (in_range()?, Handling::Register(arguments.field_flags(2, "mode")?)),
        "UFFDIO_UNREGISTER" => (range(&arguments, structure, "start")?, Handling::Unregister),
        "UFFDIO_WAKE" => (range(&arguments, structure, "start")?, Handling::Wake),
        "UFFDIO_COPY" => {
            (range(&arguments, structure, "dst")?, Handling::Copy(arguments.field_flags(2, "mode")?))
        }
        "UFFDIO_CONTINUE" => (in_range()?, Handling::Continue(arguments.field_flags(2, "mode")?)),
        "UFFDIO_ZEROPAGE" => (in_range()?, Handling::Zeropage),
        _ => (in_range()?, Handling::Writeprotect(arguments.field_flags(2, "mode")?)),
    };
    Ok(Some(Call::Uffd { fd, start, length, handling }))
}

/// The name of a command, also where its number is printed.
fn command(text: &str) -> &str {
    match syntax::number(text, |_| None) {
        Some(0xc018_aa3f) => "UFFDIO_API",
        Some(0xc020_aa00) => "UFFDIO_REGISTER",
        Some(0x8010_aa01) => "UFFDIO_UNREGISTER",
        Some(0x8010_aa02) => "UFFDIO_WAKE",
        Some(0xc028_aa03) => "UFFDIO_COPY",
        Some(0xc020_aa04) => "UFFDIO_ZEROPAGE",
        Some(0xc018_aa06) => "UFFDIO_WRITEPROTECT",
        Some(0xc020_aa07) => "UFFDIO_CONTINUE",
        Some(0x0000_aa00) => "USERFAULTFD_IOC_NEW",
        _ => text,
    }
}

/// Start and length of a range, in these fields of a structure.
fn range(arguments: &Arguments<'_>, structure: &str, start: &str) -> Result<(u64, u64), Problem> {
    let of = |name| syntax::field(structure, name).and_then(|text| syntax::number(text, |_| None));
    of(start).zip(of("len")).ok_or_else(|| arguments.bad(2, "range", structure))
}

/// Reads `process_vm_readv` or `process_vm_writev`; none if the ranges are not printed, or not all of them.
pub(crate) fn process_vm(raw: &RawCall<'_>) -> Result<Option<Call>, Problem> {
    let write = raw.name == "process_vm_writev";
    let call = if write { "process_vm_writev" } else { "process_vm_readv" };
    let arguments = Arguments { call, list: &raw.arguments };
    let (Some(local), Some(remote)) = (vectors(&arguments, 1)?, vectors(&arguments, 3)?) else {
        return Ok(None);
    };
    let length = local.iter().fold(0, |all: u64, (_, length)| all.saturating_add(*length));
    let of = |(base, length): &(Option<u64>, u64)| Some((*base)?..base.as_ref()?.saturating_add(*length));
    let Some(remote) = remote.iter().map(of).collect() else {
        return Err(arguments.bad(3, "ranges", arguments.text(3, "ranges")?));
    };
    Ok(Some(Call::ProcessVm { write, pid: arguments.small(0, "process")?, length, remote }))
}

/// The pieces of an array of `struct iovec`: address, if it is printed, and length. None if the array is not printed whole.
#[allow(clippy::type_complexity, reason = "read at once by its one user")]
fn vectors(arguments: &Arguments<'_>, index: usize) -> Result<Option<Vec<(Option<u64>, u64)>>, Problem> {
    let text = arguments.text(index, "ranges")?;
    if syntax::number(text, |_| None).is_some() {
        return Ok(None);
    }
    let bad = || arguments.bad(index, "ranges", text);
    let elements = syntax::elements(text).ok_or_else(bad)?;
    let mut pieces = Vec::new();
    for element in elements {
        if element.starts_with("...") {
            return Ok(None);
        }
        let of = |name| syntax::field(element, name);
        let length = of("iov_len").and_then(|text| syntax::number(text, |_| None)).ok_or_else(bad)?;
        let base = of("iov_base").and_then(|text| syntax::number(text, |_| None));
        pieces.push((base, length));
    }
    Ok(Some(pieces))
}

#[cfg(test)]
mod tests {
    use super::super::call::Descriptor;
    use super::super::decode::decode;
    use super::super::flags::{UffdFeatures, UffdModes};
    use super::*;

    fn call(text: &str) -> Option<Call> {
        decode(&RawCall::parse(text).expect("a call")).expect("readable")
    }

    fn uffd(handling: Handling) -> Call {
        let fd = Descriptor { number: 3, path: None, deleted: false };
        Call::Uffd { fd, start: 0x7f00_0000_0000, length: 0x20_0000, handling }
    }

    #[test]
    fn each_ioctl_of_a_userfaultfd_is_read_from_its_structure() {
        let range = "{start=0x7f0000000000, len=0x200000}";
        let of = |name: &str, structure: &str| {
            call(&format!("ioctl(3<anon_inode:[userfaultfd]>, UFFDIO_{name}, {structure}) = 0"))
        };
        let modes = UffdModes::UFFDIO_REGISTER_MODE_WP;
        let register =
            format!("{{range={range}, mode=UFFDIO_REGISTER_MODE_WP, ioctls=1<<_UFFDIO_WAKE|0x180}}");
        assert_eq!(of("REGISTER", &register), Some(uffd(Handling::Register(modes))));
        assert_eq!(of("UNREGISTER", range), Some(uffd(Handling::Unregister)));
        assert_eq!(of("WAKE", range), Some(uffd(Handling::Wake)));
        let copy =
            "{dst=0x7f0000000000, src=0x7e, len=0x200000, mode=UFFDIO_COPY_MODE_DONTWAKE, copy=0x200000}";
        let Some(Call::Uffd { handling: Handling::Copy(mode), .. }) = of("COPY", copy) else {
            panic!("a copy");
        };
        assert_eq!(mode.bits(), 1);
        let zero = of("ZEROPAGE", &format!("{{range={range}, mode=0}}"));
        assert_eq!(zero, Some(uffd(Handling::Zeropage)));
        let api = "{api=0xaa, features=UFFD_FEATURE_EVENT_FORK|UFFD_FEATURE_MOVE => features=UFFD_FEATURE_SIGBUS, ioctls=1<<_UFFDIO_API}";
        let fd = Descriptor { number: 3, path: None, deleted: false };
        let features = UffdFeatures::UFFD_FEATURE_EVENT_FORK;
        assert_eq!(of("API", api), Some(Call::UffdApi { fd, features }));
        assert_eq!(call("userfaultfd(O_CLOEXEC) = 3"), Some(Call::Userfaultfd { cloexec: true }));
        let new = "ioctl(3</dev/userfaultfd>, USERFAULTFD_IOC_NEW, 0x80000) = 4";
        assert_eq!(call(new), Some(Call::Userfaultfd { cloexec: true }));
        // What strace does not take apart can only be passed over.
        assert_eq!(of("CONTINUE", "0x7ffd4dcbe730"), None);
        assert_eq!(call("ioctl(1, TCGETS, 0x7f) = -1 ENOTTY (x)"), None);
    }

    #[test]
    fn ranges_in_another_process_are_read_with_whatever_they_held() {
        let text = r#"process_vm_readv(7, [{iov_base="\1, ]}"..., iov_len=64}], 1, [{iov_base=0x1000, iov_len=32}, {iov_base=0x3000, iov_len=16}], 2, 0) = 48"#;
        let remote = vec![0x1000..0x1020, 0x3000..0x3010];
        assert_eq!(call(text), Some(Call::ProcessVm { write: false, pid: 7, length: 64, remote }));
        assert_eq!(call("process_vm_writev(7, 0x10, 1, [], 0, 0) = -1 EFAULT (Bad address)"), None);
    }
}
