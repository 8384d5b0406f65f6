//! Scans of a process of the engine.

use hugewalk::addr::VirtAddr;
use hugewalk::pagewalk::{Categories, Scan, ScanFlags};
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use crate::observe::{Outcome, Region};
use crate::program::{Bytes, Call, MOST_REGIONS, WINDOW};

pub(super) fn scan(space: &AddressSpace<Host>, call: &Call, task: &mut Task<Host>) -> Outcome {
    let Call::Scan { at, length, written, protect, check } = *call else { return Outcome::Done };
    let address = |at: u64| VirtAddr::new(Bytes(at).address());
    let mut flags = ScanFlags::empty();
    flags.set(ScanFlags::WP_MATCHING, protect);
    flags.set(ScanFlags::CHECK_WPASYNC, check);
    let end = address(at.0.wrapping_add(length.0));
    let scan = Scan {
        flags,
        mask: if written { Categories::WRITTEN } else { Categories::empty() },
        report: Categories::all() - Categories::SOFT_DIRTY,
        max_regions: MOST_REGIONS,
        ..Scan::new(address(at.0)..end)
    };
    let place = |address: VirtAddr| Bytes(address.as_u64().wrapping_sub(WINDOW));
    match space.scan_pages(task, &scan) {
        Ok(found) => {
            let region = |region: &hugewalk::pagewalk::Region| Region {
                start: place(region.start),
                end: place(region.end),
                categories: region.categories.bits(),
            };
            let regions = found.regions.iter().map(region).collect();
            Outcome::Scanned { regions, end: (found.end < end).then(|| place(found.end)) }
        }
        Err(error) => Outcome::Error(error.errno().name()),
    }
}
