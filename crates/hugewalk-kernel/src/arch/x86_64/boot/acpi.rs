//! The processors, from ACPI's table "APIC" (the MADT).
//!
//! Source of facts: the ACPI specification 6.4, sections 5.2.5 to 5.2.12.

use alloc::vec::Vec;

use crate::memory::direct_slice;

const HEADER: usize = 36;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn quad(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A table, its header included.
fn table(address: u64) -> Option<&'static [u8]> {
    // SAFETY: ACPI tables are mapped by the direct map, and nobody writes them.
    let header = unsafe { direct_slice(address, HEADER) };
    let length = word(header, 4)? as usize;
    // SAFETY: as above; the header says how long the table is.
    (length >= HEADER).then(|| unsafe { direct_slice(address, length) })
}

/// The APIC ids of the processors that may be started, in the table's order.
///
/// Without ACPI there is one processor, and the list is empty.
pub fn processors(rsdp: u64) -> Vec<u32> {
    find(rsdp).unwrap_or_default()
}

fn find(rsdp: u64) -> Option<Vec<u32>> {
    if rsdp == 0 {
        return None;
    }
    // SAFETY: the loader vouches for the address; the structure has 36 bytes in version 2, 20 in version 1.
    let root = unsafe { direct_slice(rsdp, 36) };
    let extended = root[15] >= 2 && quad(root, 24)? != 0;
    let (list, width) = if extended { (quad(root, 24)?, 8) } else { (u64::from(word(root, 16)?), 4) };
    let list = &table(list)?[HEADER..];
    for entry in list.chunks_exact(width) {
        let address = if width == 8 { quad(entry, 0)? } else { u64::from(word(entry, 0)?) };
        let Some(found) = table(address).filter(|table| table.starts_with(b"APIC")) else { continue };
        let mut ids = Vec::new();
        let mut rest = found.get(HEADER + 8..)?;
        while let [kind, length, ..] = *rest {
            let entry = rest.get(..usize::from(length).max(2))?;
            // Types 0 (local APIC) and 9 (local x2APIC); bit 0 of the flags says "enabled".
            match kind {
                0 if word(entry, 4)? & 1 == 1 => ids.push(u32::from(entry[3])),
                9 if word(entry, 8)? & 1 == 1 => ids.push(word(entry, 4)?),
                _ => {}
            }
            rest = rest.get(entry.len()..)?;
        }
        return Some(ids);
    }
    None
}
