//! The bare pointer chase: the dependent loads that any walk of these tables has to make, and nothing else.

use std::sync::atomic::Ordering;

use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::mm::Mm;
use hugewalk::platform::Tables as _;
use hugewalk_host::Host;

const FRAME: u64 = ((1 << 52) - 1) & !0xfff;

/// Walks the three levels above a 2 MiB leaf without looking left or right: no lock, no check, no proof. The tables must
/// stay where they are; a benchmark that changes nothing can say so.
#[inline]
pub(super) fn chase(platform: &Host, mm: &Mm<Host>, address: VirtAddr) -> u64 {
    let mut frame = mm.root_frame();
    let mut entry = 0;
    for shift in [39, 30, 21] {
        let index = (address.as_u64() >> shift) as usize & 511;
        // SAFETY: the frame is the root's or came out of a table entry, and nobody frees tables during the benchmark.
        // An index is below the number of entries.
        let place = unsafe { platform.table_entry(frame, index) };
        // SAFETY: likewise; entries are atomics.
        entry = unsafe { place.as_ref() }.load(Ordering::Relaxed);
        frame = TableFrame((entry & FRAME) >> 12);
    }
    entry
}
