//! What the device tree says: memory and processors.
//!
//! Source of facts: Devicetree Specification 0.4, chapter 5, "Flattened Devicetree (DTB) Format".

use alloc::vec::Vec;

use crate::boot::Range;
use crate::memory::direct_slice;

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOTHING: u32 = 4;

/// A device tree.
pub struct Tree {
    bytes: &'static [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A NUL-terminated string.
fn string(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    rest.split(|byte| *byte == 0).next()
}

impl Tree {
    /// The tree at a physical address. `None` if there is none.
    ///
    /// # Safety
    ///
    /// The address is in the direct map, and what lies there is not written any more.
    pub unsafe fn new(address: u64) -> Option<Self> {
        // SAFETY: passed on to the caller.
        let header = unsafe { direct_slice(address, 40) };
        let size = (word(header, 0)? == MAGIC).then(|| word(header, 4))??;
        // SAFETY: passed on to the caller; the header says how long the tree is.
        Some(Self { bytes: unsafe { direct_slice(address, size as usize) } })
    }

    /// Visits the `reg` of each node: its name and the value.
    fn registers(&self, mut visit: impl FnMut(&'static [u8], &'static [u8])) -> Option<()> {
        let bytes = self.bytes;
        let (mut at, names) = (word(bytes, 8)? as usize, word(bytes, 12)? as usize);
        let mut open: [&[u8]; 16] = [b""; 16];
        let mut depth = 0;
        loop {
            let token = word(bytes, at)?;
            at += 4;
            match token {
                BEGIN_NODE => {
                    let name = string(bytes, at)?;
                    at = (at + name.len() + 1).next_multiple_of(4);
                    depth += 1;
                    *open.get_mut(depth)? = name;
                }
                END_NODE => depth = depth.checked_sub(1)?,
                PROPERTY => {
                    let (length, name) = (word(bytes, at)? as usize, word(bytes, at + 4)? as usize);
                    let value = bytes.get(at + 8..)?.get(..length)?;
                    if string(bytes, names + name)? == b"reg" {
                        visit(open.get(depth)?, value);
                    }
                    at = (at + 8 + length).next_multiple_of(4);
                }
                NOTHING => {}
                _ => return Some(()),
            }
        }
    }

    /// Memory: the first ranges, as many as machines have.
    pub fn memory(&self) -> impl Iterator<Item = Range> + 'static {
        let mut found = [None; 8];
        let mut count = 0;
        self.registers(|name, value| {
            if !name.starts_with(b"memory@") {
                return;
            }
            for range in value.chunks_exact(16) {
                let quad =
                    |at: usize| Some(u64::from(word(range, at)?) << 32 | u64::from(word(range, at + 4)?));
                if let (Some(start), Some(length), Some(slot)) = (quad(0), quad(8), found.get_mut(count)) {
                    *slot = Some(Range { start, end: start.saturating_add(length) });
                    count += 1;
                }
            }
        });
        found.into_iter().flatten()
    }

    /// The affinities of the processors, in the tree's order: what PSCI calls them.
    pub fn processors(&self) -> Vec<u64> {
        let mut found = Vec::new();
        self.registers(|name, value| {
            if name.starts_with(b"cpu@") {
                let words = value.chunks_exact(4).filter_map(|bytes| word(bytes, 0));
                found.push(words.fold(0, |affinity, word| affinity << 32 | u64::from(word)));
            }
        });
        found
    }
}
