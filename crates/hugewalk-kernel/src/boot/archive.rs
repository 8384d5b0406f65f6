//! The archive that the machine was booted with: cpio, in the form "newc".
//!
//! Source of facts: Linux's Documentation/driver-api/early-userspace/buffer-format.rst.

/// A member of the archive.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    /// Its path, without a slash in front.
    pub path: &'a [u8],
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Its contents; of a link, what it leads to.
    pub contents: &'a [u8],
}

/// The members of an archive, in its order. Ends at the first thing that is not one.
pub fn members(archive: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let (member, next) = member(archive, at)?;
        at = next;
        (member.path != b"TRAILER!!!").then_some(member)
    })
}

fn member(archive: &[u8], at: usize) -> Option<(Member<'_>, usize)> {
    const HEADER: usize = 110;
    let header = archive.get(at..)?.get(..HEADER)?;
    if !header.starts_with(b"070701") {
        return None;
    }
    let field = |index: usize| {
        let text = core::str::from_utf8(header.get(6 + 8 * index..)?.get(..8)?).ok()?;
        u32::from_str_radix(text, 16).ok()
    };
    let (mode, size, name) = (field(1)?, field(6)? as usize, field(11)? as usize);
    let path = archive.get(at + HEADER..)?.get(..name.checked_sub(1)?)?;
    let start = (at + HEADER + name).next_multiple_of(4);
    let contents = archive.get(start..)?.get(..size)?;
    Some((Member { path, mode, contents }, (start + size).next_multiple_of(4)))
}
