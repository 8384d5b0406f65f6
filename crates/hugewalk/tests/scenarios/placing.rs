//! Where mappings come to lie: the lowest address, and what programs that know 47 bits of addresses get.

use super::common::{AddressSpace, Bench, GIB, Hugetlb, M2, RW, Task, at, small};
use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::mm::{Backing, MapError, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::sync::Arc;

/// What 47 bits of addresses end at, less the page that x86-64 keeps free there.
const WINDOW: u64 = (1 << 47) - 4096;

struct Place {
    task: Task,
    space: Arc<AddressSpace>,
}

impl Place {
    fn on(bench: Bench) -> Self {
        let hugetlb = Hugetlb::new(bench).unwrap();
        hugetlb.resize_pool(small(), 4);
        let task = super::common::task(&hugetlb);
        Self { task, space: AddressSpace::new(&hugetlb).unwrap() }
    }

    fn map(&mut self, placement: Placement, length: u64) -> Result<u64, MapError> {
        let request = MapRequest {
            placement,
            length,
            protection: RW,
            flags: MapFlags::NORESERVE,
            backing: Backing::Anonymous(small()),
        };
        self.space.mmap(&mut self.task, &request).map(|start| start.as_u64())
    }

    fn errno_of(&mut self, placement: Placement, length: u64) -> Option<Errno> {
        self.map(placement, length).err().map(|error| error.errno())
    }

    fn errno(&mut self, placement: Placement) -> Option<Errno> {
        self.errno_of(placement, M2)
    }
}

#[test]
fn the_null_page_cannot_be_mapped() {
    let mut place = Place::on(Bench::new());
    assert_eq!(place.errno(Placement::Fixed(at(0))), Some(Errno::EPERM));
    assert_eq!(place.errno(Placement::FixedNoReplace(at(0))), Some(Errno::EPERM));
    // It is not aligned, and does not fit: that comes first, as in Linux.
    assert_eq!(place.errno(Placement::Fixed(at(0x1000))), Some(Errno::EINVAL));
    let start = place.map(Placement::Fixed(at(4 * GIB)), M2).unwrap();
    let moved = place.space.mremap(&mut place.task, at(start), M2, M2, RemapTo::Fixed(at(0)));
    assert_eq!(moved.map_err(|error| error.errno()), Err(Errno::EPERM));
    let mmap = place.space.mmap_read(&mut place.task);
    assert_eq!(mmap.vmas().map(|vma| vma.start()).collect::<Vec<_>>(), [at(start)]);
}

#[test]
fn the_highest_hole_is_found_wherever_it_lies_among_the_mappings() {
    for hole in 1..31 {
        let mut place = Place::on(Bench::new());
        for page in (0..32).filter(|&page| page != hole) {
            place.map(Placement::Fixed(at(4 * GIB + page * M2)), M2).unwrap();
        }
        assert_eq!(place.map(Placement::Below(at(4 * GIB + 32 * M2)), M2), Ok(4 * GIB + hole * M2));
    }
}

#[test]
fn a_hint_below_the_lowest_address_means_the_lowest() {
    let mut place = Place::on(Bench::with_mmap_min_addr(8 * M2));
    assert_eq!(place.map(Placement::Hint(at(M2)), M2), Ok(8 * M2));
    assert_eq!(place.errno(Placement::Fixed(at(7 * M2))), Some(Errno::EPERM));
    assert_eq!(place.map(Placement::Fixed(at(9 * M2)), M2), Ok(9 * M2));
}

#[test]
fn a_host_may_allow_the_null_page() {
    let mut place = Place::on(Bench::with_mmap_min_addr(0));
    assert_eq!(place.map(Placement::Fixed(at(0)), M2), Ok(0));
    // But nobody gets it unasked.
    assert!(place.map(Placement::Hint(at(0)), M2).unwrap() > GIB);
}

#[test]
fn nothing_lies_above_47_bits_unless_a_hint_is_given_there() {
    let mut place = Place::on(Bench::with_levels(X86_64::FIVE_LEVELS));
    let first = place.map(Placement::Anywhere, M2).unwrap();
    assert!(first + M2 <= WINDOW, "{first:#x}");
    assert_eq!(first, place.map(Placement::Anywhere, M2).unwrap() + M2);
    // A hint up to there changes nothing, and neither does one whose range would lie on both sides.
    let below = place.map(Placement::Hint(at(first)), M2).unwrap();
    assert!(below < first, "{below:#x}");
    let across = place.map(Placement::Hint(at((1 << 47) - M2)), 2 * M2).unwrap();
    assert!(across < first, "{across:#x}");

    assert_eq!(place.map(Placement::Hint(at(1 << 50)), M2), Ok(1 << 50));
    // Taken: then anywhere, as far as addresses go.
    let high = place.map(Placement::Hint(at(1 << 50)), M2).unwrap();
    assert!(high > 1 << 55, "{high:#x}");
    assert_eq!(place.map(Placement::Fixed(at(1 << 51)), M2), Ok(1 << 51));
    // The window has no room for this, whatever lies above it.
    assert_eq!(place.errno_of(Placement::Anywhere, 1 << 47), Some(Errno::ENOMEM));
    assert!(place.map(Placement::Hint(at(1 << 52)), 1 << 47).is_ok());

    // To the byte: what begins where the window ends lies on neither side of the end.
    let mut claim = |hint| place.space.claim(&mut place.task, Placement::Hint(at(hint)), 4096);
    assert_eq!(claim(WINDOW - 4096), Ok(at(WINDOW - 4096)));
    assert_eq!(claim(WINDOW), Ok(at(WINDOW - 2 * 4096)));
    assert_eq!(claim(WINDOW + 4096), Ok(at(WINDOW + 4096)));
}

#[test]
fn a_hint_behind_the_last_address_means_anywhere() {
    let mut place = Place::on(Bench::new());
    let start = place.map(Placement::Hint(at(1 << 60)), M2).unwrap();
    assert!(at(start + M2) <= place.space.mm().task_size(), "{start:#x}");
}

#[test]
fn a_hole_is_found_if_it_is_long_enough() {
    for (hole, length) in [(1, 1), (3, 1), (3, 3), (1, 2), (3, 4)] {
        // The hole lies between two mappings, and nothing is free before or behind them.
        let mut place = Place::on(Bench::with_mmap_min_addr(M2));
        let behind = (2 + hole) * M2;
        for start in [M2, behind] {
            place.map(Placement::Fixed(at(start)), M2).unwrap();
        }
        let length = length * M2;
        let found = if length <= hole * M2 { Ok(behind - length) } else { Err(MapError::NoRoom { length }) };
        assert_eq!(place.map(Placement::Below(at(behind + M2)), length), found);
    }
}
