//! Whether a file is a program that the kernel can load.

use super::arch::Arch;

/// Why a file cannot be loaded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLoadable {
    /// It is no ELF file at all.
    #[error("is not an ELF executable; give a static program for {0}")]
    NotElf(Arch),
    /// A script names its interpreter, which would have to be in the guest.
    #[error("is a script; run its interpreter, and pass the script by --file")]
    Script,
    /// It is for another processor.
    #[error("is for {found}, not for {wanted}; {}", advice(*.known, *.wanted))]
    Foreign {
        /// What it is for.
        found: String,
        /// The same, if the kernel can be built for that.
        known: Option<Arch>,
        /// What the run is for.
        wanted: Arch,
    },
    /// It is for a 32-bit processor.
    #[error("is a 32-bit program; build it with {}", if *.0 == Arch::X86_64 { "-m64" } else { "-mabi=lp64" })]
    Narrow(Arch),
    /// It is an object file, a library or a core dump.
    #[error("is {0}, not an executable; link it with -static")]
    NotExecutable(&'static str),
    /// It wants a dynamic linker.
    #[error("is linked dynamically and wants {0}; link it with -static")]
    Dynamic(String),
    /// The file is shorter than it says.
    #[error("is cut off; copy it again")]
    CutOff,
}

const INTERPRETER: u32 = 3;

/// Looks at the headers of a program.
///
/// # Errors
///
/// [`NotLoadable`], if the kernel could not load it.
pub fn check(program: &[u8], wanted: Arch) -> Result<(), NotLoadable> {
    if program.starts_with(b"#!") {
        return Err(NotLoadable::Script);
    }
    if !program.starts_with(b"\x7fELF") {
        return Err(NotLoadable::NotElf(wanted));
    }
    let machine = number(program, 18, 2)?;
    // In the byte order of the processors that the kernel is for.
    let little = program.get(5) == Some(&1);
    if !little || machine != wanted.elf_machine() {
        let known = Arch::of_elf(machine).filter(|_| little);
        return Err(NotLoadable::Foreign { found: machine_name(program, machine), known, wanted });
    }
    // ELFCLASS64; a program for x32 or ILP32 has the machine, but not the class.
    if program.get(4) != Some(&2) {
        return Err(NotLoadable::Narrow(wanted));
    }
    match number(program, 16, 2)? {
        // ET_EXEC, and ET_DYN: a static program may lie anywhere (-static-pie), a library has no entry.
        2 => {}
        3 if number(program, 24, 8)? != 0 => {}
        1 => return Err(NotLoadable::NotExecutable("an object file")),
        3 => return Err(NotLoadable::NotExecutable("a library")),
        4 => return Err(NotLoadable::NotExecutable("a core dump")),
        _ => return Err(NotLoadable::NotExecutable("an unknown kind of ELF file")),
    }
    let (table, entry, entries) = (number(program, 32, 8)?, number(program, 54, 2)?, number(program, 56, 2)?);
    for index in 0..entries {
        let header = table.checked_add(index * entry).ok_or(NotLoadable::CutOff)?;
        let field = |offset, length| number(program, header.saturating_add(offset), length);
        let (from, length) = (field(8, 8)?, field(32, 8)?);
        let bytes = slice(program, from, length).ok_or(NotLoadable::CutOff)?;
        if field(0, 4)? == u64::from(INTERPRETER) {
            let name = String::from_utf8_lossy(bytes);
            return Err(NotLoadable::Dynamic(name.trim_end_matches('\0').to_owned()));
        }
    }
    Ok(())
}

fn advice(known: Option<Arch>, wanted: Arch) -> String {
    match known {
        Some(known) => format!("run it with --arch {known}, or build it for {wanted}"),
        None => format!("build it with a compiler for {wanted}"),
    }
}

fn machine_name(program: &[u8], machine: u64) -> String {
    let machine = if program.get(5) == Some(&2) { u64::from((machine as u16).swap_bytes()) } else { machine };
    match machine {
        3 => "32-bit x86".to_owned(),
        8 => "MIPS".to_owned(),
        20 | 21 => "POWER".to_owned(),
        22 => "S/390".to_owned(),
        40 => "32-bit ARM".to_owned(),
        62 if program.get(5) == Some(&1) => "x86-64".to_owned(),
        183 => "arm64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        62 => "a big-endian x86-64".to_owned(),
        other => format!("processor number {other} of the ELF specification"),
    }
}

fn slice(program: &[u8], from: u64, length: u64) -> Option<&[u8]> {
    let from = usize::try_from(from).ok()?;
    program.get(from..from.checked_add(usize::try_from(length).ok()?)?)
}

/// A number of `length` bytes, the least significant one first.
fn number(program: &[u8], from: u64, length: u64) -> Result<u64, NotLoadable> {
    let bytes = slice(program, from, length).ok_or(NotLoadable::CutOff)?;
    Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Arch = Arch::X86_64;

    /// A program with one program header of this kind, whose contents are "/lib/ld\0".
    fn program(machine: u8, kind: u8, header: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = kind;
        bytes[18] = machine;
        bytes[24] = 1;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = header;
        bytes[64 + 8] = 64 + 56;
        bytes[64 + 32] = 8;
        bytes.extend_from_slice(b"/lib/ld\0");
        bytes
    }

    #[test]
    fn a_static_program_is_taken_and_all_others_are_refused_by_name() {
        assert_eq!(check(&program(62, 2, 1), X), Ok(()));
        assert_eq!(check(&program(62, 3, 1), X), Ok(()), "static-pie");
        assert_eq!(check(&program(62, 2, 3), X), Err(NotLoadable::Dynamic("/lib/ld".to_owned())));
        let says =
            |machine, wanted| check(&program(machine, 2, 1), wanted).map_err(|refused| refused.to_string());
        assert_eq!(
            says(183, X),
            Err("is for arm64, not for x86-64; run it with --arch arm64, or build it for x86-64".to_owned())
        );
        assert_eq!(
            says(62, Arch::Arm64),
            Err("is for x86-64, not for arm64; run it with --arch x86-64, or build it for arm64".to_owned())
        );
        assert_eq!(
            says(243, Arch::Arm64),
            Err("is for RISC-V, not for arm64; build it with a compiler for arm64".to_owned())
        );
        assert_eq!(says(183, Arch::Arm64), Ok(()));
        assert_eq!(check(&program(62, 1, 1), X), Err(NotLoadable::NotExecutable("an object file")));
        assert_eq!(check(b"#!/bin/sh\n", X), Err(NotLoadable::Script));
        assert_eq!(check(b"hello", X), Err(NotLoadable::NotElf(X)));
        let whole = program(62, 2, 1);
        for length in 4..whole.len() {
            assert!(check(&whole[..length], X).is_err(), "cut off after {length} bytes");
        }
    }

    #[test]
    fn the_program_that_runs_these_tests_is_known_for_a_dynamic_one() {
        let itself = std::fs::read("/proc/self/exe").expect("readable");
        assert!(matches!(check(&itself, X), Err(NotLoadable::Dynamic(_))));
    }
}
