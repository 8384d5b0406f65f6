//! The archive, which QEMU keeps as a file of fw_cfg: docs/specs/fw_cfg.rst of QEMU. The interface is big-endian.

use core::sync::atomic::{Ordering, fence};

use crate::memory::frames::{self, Kind};
use crate::memory::{PAGE, direct, direct_slice};

/// The register of `virt` that takes the address of a request.
const REQUEST: u64 = 0x0902_0000 + 16;
const FILE: &[u8] = b"opt/hugewalk/archive";

const DIRECTORY: u16 = 0x19;
const FAILED: u32 = 1;
const READ: u32 = 1 << 1;
const SELECT: u32 = 1 << 3;
/// Bytes of a file's entry in the directory: size, key, two reserved, 56 of the name.
const ENTRY: usize = 64;

/// Copies the first bytes of an item. Nothing if QEMU refuses.
fn read(key: u16, length: usize) -> Option<&'static [u8]> {
    let request = frames::allocate(Kind::Kernel)?;
    let into = frames::run(length.div_ceil(PAGE as usize).max(1), Kind::Kernel)?;
    let words = direct::<[u32; 4]>(request);
    let control = (u32::from(key) << 16 | SELECT | READ).to_be();
    // SAFETY: the frame that was just allocated.
    unsafe {
        words.write_volatile([
            control,
            (length as u32).to_be(),
            ((into >> 32) as u32).to_be(),
            (into as u32).to_be(),
        ]);
    }
    fence(Ordering::SeqCst);
    // SAFETY: QEMU writes to the two runs of frames that were just allocated, and to nothing else.
    unsafe { direct::<u64>(REQUEST).write_volatile(request.to_be()) };
    let state = loop {
        // SAFETY: as above.
        let state = u32::from_be(unsafe { direct::<u32>(request).read_volatile() });
        if state & !FAILED == 0 {
            break state;
        }
        core::hint::spin_loop();
    };
    fence(Ordering::SeqCst);
    // SAFETY: the request is over, and its frame nobody else's.
    unsafe { frames::free(request, Kind::Kernel) };
    // SAFETY: memory that is never given back, and that QEMU has written.
    (state == 0).then(|| unsafe { direct_slice(into, length) })
}

/// Finds the archive and copies it.
pub fn archive() -> Option<&'static [u8]> {
    let count = u32::from_be_bytes(*read(DIRECTORY, 4)?.first_chunk()?) as usize;
    let files = read(DIRECTORY, 4 + count * ENTRY)?.get(4..)?;
    for file in files.chunks_exact(ENTRY) {
        let name = file[8..].split(|byte| *byte == 0).next()?;
        if name == FILE {
            let size = u32::from_be_bytes(*file.first_chunk()?);
            return read(u16::from_be_bytes(*file[4..].first_chunk()?), size as usize);
        }
    }
    None
}
