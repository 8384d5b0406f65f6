//! Loading a static ELF program into an empty address space.

use alloc::sync::Arc;

use object::Endianness;
use object::elf::{ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};

use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use crate::space::Space;
use crate::space::area::{Area, Backing, Rights};
use crate::space::map::Place;

/// Where a position-independent program goes.
const BIAS: u64 = 0x5555_5555_4000;

/// What the start of a program needs to know.
pub struct Loaded {
    /// Where it begins.
    pub entry: u64,
    /// Its program headers, for the auxiliary vector: address and number.
    pub headers: (u64, u64),
    /// Where the heap begins.
    pub brk: u64,
}

/// An area of anonymous base pages.
pub fn anonymous(start: u64, end: u64, rights: Rights) -> Area {
    Area {
        start,
        end,
        rights,
        shared: false,
        may_write: true,
        stack: false,
        dont_fork: false,
        handler: None,
        backing: Backing::Anonymous,
    }
}

/// Maps a program. Sleeps.
///
/// # Errors
///
/// `ENOEXEC` if it is not a static program for this processor; `ENOMEM`.
pub fn load(space: &Arc<Space>, image: &[u8]) -> Result<Loaded> {
    let file = ElfFile64::<Endianness>::parse(image).map_err(|_| Errno::ENOEXEC)?;
    let endian = file.endian();
    let header = file.elf_header();
    let kind = header.e_type(endian);
    if header.e_machine(endian) != crate::arch::ELF_MACHINE || kind != ET_EXEC && kind != ET_DYN {
        return Err(Errno::ENOEXEC);
    }
    let segments = file.elf_program_headers();
    if segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP) {
        return Err(Errno::ENOEXEC);
    }
    let bias = if kind == ET_DYN { BIAS } else { 0 };
    let mut brk = 0;
    let mut headers = 0;
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
        let start = bias.checked_add(segment.p_vaddr(endian)).ok_or(Errno::ENOEXEC)?;
        let end = start.checked_add(segment.p_memsz(endian)).ok_or(Errno::ENOEXEC)?;
        let bytes = segment.data(endian, image).map_err(|()| Errno::ENOEXEC)?;
        if bytes.len() as u64 > end - start {
            return Err(Errno::ENOEXEC);
        }
        let flags = segment.p_flags(endian);
        let mut rights = Rights::empty();
        rights.set(Rights::READ, flags.contains(PF_R));
        rights.set(Rights::WRITE, flags.contains(PF_W));
        rights.set(Rights::EXECUTE, flags.contains(PF_X));
        let (from, to) = (start & !(PAGE - 1), end.next_multiple_of(PAGE));
        space.map_base(Place::Fixed(from), to - from, anonymous(from, to, rights))?;
        space.write_fresh(start, bytes)?;
        brk = brk.max(to);
        let offset = segment.p_offset(endian);
        let table = header.e_phoff(endian);
        if offset <= table && table < offset + segment.p_filesz(endian) {
            headers = start + (table - offset);
        }
    }
    if brk == 0 {
        return Err(Errno::ENOEXEC);
    }
    Ok(Loaded { entry: bias + header.e_entry(endian), headers: (headers, segments.len() as u64), brk })
}
