//! The shape of the trees, as numbers.

use hugewalk::arch::{Aarch64, Barrier, Granule, Paging, Riscv64, Sv, X86_64};
use proptest::prelude::*;
use x86_64::VirtAddr;

use crate::{Processor, for_each_format};

#[test]
fn sizes_are_what_their_levels_and_groups_make_of_them() {
    fn test<F: Processor>(format: F) {
        let geometry = format.geometry();
        for (index, size) in format.leaves().iter().enumerate() {
            assert_eq!(size.index(), index);
            assert_eq!(format.of_shift(size.shift()), Some(*size));
            let entry = geometry.shift(size.level());
            assert!(size.group().is_power_of_two());
            assert_eq!(size.shift(), entry + size.group().trailing_zeros());
            assert_eq!(size.member_bytes(), 1 << entry);
            assert!(usize::from(size.group()) <= geometry.entries(size.level()));
            assert!(size.level() < geometry.levels);
            // A root belongs to one address space.
            assert!(!size.shares_tables() || size.level() < geometry.root());
            assert!(!size.shares_tables() || size.group() == 1);
        }
        assert!(format.leaves().is_sorted_by(|a, b| a.shift() < b.shift()));
        assert!(format.leaves().iter().filter(|size| size.shares_tables()).count() <= 1);
        assert!(geometry.user_bits <= geometry.address_bits);
    }
    for_each_format!(test);
}

#[test]
fn the_indices_of_an_address_make_the_address() {
    fn test<F: Processor>(format: F) {
        let geometry = format.geometry();
        let mut runner = proptest::test_runner::TestRunner::default();
        let addresses = 0..1u64 << geometry.address_bits;
        let property = |address: u64| {
            let parts = (0..geometry.levels).map(|level| {
                let index = geometry.index(address, level);
                assert!(index < geometry.entries(level));
                (index as u64) << geometry.shift(level)
            });
            let offset = address & ((1 << geometry.base_shift) - 1);
            prop_assert_eq!(parts.sum::<u64>() + offset, address);
            Ok(())
        };
        runner.run(&addresses, property).unwrap();
    }
    for_each_format!(test);
}

#[test]
fn the_indices_of_x86_are_those_of_another_crate() {
    proptest!(|(address in 0u64..1 << 47)| {
        let (ours, theirs) = (X86_64::FOUR_LEVELS.geometry(), VirtAddr::new(address));
        let indices = [theirs.p1_index(), theirs.p2_index(), theirs.p3_index(), theirs.p4_index()];
        for (level, index) in indices.into_iter().enumerate() {
            prop_assert_eq!(ours.index(address, level as u8), usize::from(u16::from(index)));
        }
    });
}

/// (levels, entries of the root, bits of user addresses, [(size in KiB, level, group, shares tables)])
type Shape = (u8, usize, u32, &'static [(u64, u8, u16, bool)]);

fn shape<F: Paging>(format: F) -> (u8, usize, u32, Vec<(u64, u8, u16, bool)>) {
    let geometry = format.geometry();
    let leaves = format.leaves().iter();
    let leaves = leaves.map(|size| (size.bytes() >> 10, size.level(), size.group(), size.shares_tables()));
    (geometry.levels, geometry.entries(geometry.root()), geometry.user_bits, leaves.collect())
}

/// Linux: /sys/kernel/mm/hugepages on each, with CONFIG_ARM64_VA_BITS and what the processor has; `hugetlbpage_init()` and
/// `arch_hugetlb_valid_size()`; ARCH_WANT_HUGE_PMD_SHARE.
#[test]
fn the_shapes_are_those_that_linux_has() {
    const M: u64 = 1 << 10;
    const G: u64 = 1 << 20;
    let x86: &[_] = &[(2 * M, 1, 1, true), (G, 2, 1, false)];
    let k4: &[_] = &[(64, 0, 16, false), (2 * M, 1, 1, true), (32 * M, 1, 16, false), (G, 2, 1, false)];
    let k16: &[_] = &[(2 * M, 0, 128, false), (32 * M, 1, 1, true), (G, 1, 32, false)];
    let k16_36: &[_] = &[(2 * M, 0, 128, false), (32 * M, 1, 1, false), (G, 1, 32, false)];
    let k64: &[_] = &[(2 * M, 0, 32, false), (512 * M, 1, 1, false), (16 * G, 1, 32, false)];
    let napot: &[_] = &[(64, 0, 16, false), (2 * M, 1, 1, true), (G, 2, 1, false)];
    let arm = |granule, bits| shape(Aarch64::new(granule, bits).unwrap());
    let riscv = |mode| shape(Riscv64::new(mode).with_svnapot());
    let expected: [(_, Shape); 13] = [
        (shape(X86_64::FOUR_LEVELS), (4, 512, 47, x86)),
        (shape(X86_64::FIVE_LEVELS), (5, 512, 56, x86)),
        (arm(Granule::K4, 39), (3, 512, 39, k4)),
        (arm(Granule::K4, 48), (4, 512, 48, k4)),
        (arm(Granule::K16, 36), (2, 2048, 36, k16_36)),
        (arm(Granule::K16, 47), (3, 2048, 47, k16)),
        (arm(Granule::K16, 48), (4, 2, 48, k16)),
        (arm(Granule::K64, 42), (2, 8192, 42, k64)),
        (arm(Granule::K64, 48), (3, 64, 48, k64)),
        (arm(Granule::K64, 52), (3, 1024, 52, k64)),
        (riscv(Sv::Sv39), (3, 512, 38, napot)),
        (riscv(Sv::Sv48), (4, 512, 47, napot)),
        (riscv(Sv::Sv57), (5, 512, 56, napot)),
    ];
    for (ours, (levels, root, user, leaves)) in expected {
        assert_eq!(ours, (levels, root, user, leaves.to_vec()));
    }
}

#[test]
fn only_x86_sees_a_store_without_being_told() {
    let x86 = X86_64::FOUR_LEVELS.hooks();
    assert_eq!(
        (x86.after_valid, x86.after_gain, x86.instruction_cache),
        (Barrier::Nothing, Barrier::Nothing, false)
    );
    let arm = Aarch64::new(Granule::K4, 48).unwrap().hooks();
    assert_eq!(
        (arm.after_valid, arm.after_gain, arm.instruction_cache),
        (Barrier::Store, Barrier::LookAgain, true)
    );
    let riscv = Riscv64::new(Sv::Sv39);
    assert_eq!(riscv.hooks().after_valid, Barrier::LookAgain);
    // Svvptc is about entries that become valid, and about no others.
    let svvptc = riscv.with_svvptc().hooks();
    assert_eq!((svvptc.after_valid, svvptc.after_gain), (Barrier::Nothing, Barrier::LookAgain));
}

#[test]
fn flags_of_mmap_name_each_size_and_no_other() {
    // include/uapi/asm-generic/hugetlb_encode.h: the names and what they stand for.
    const NAMES: [(u32, u64); 12] = [
        (14, 16 << 10),
        (16, 64 << 10),
        (19, 512 << 10),
        (20, 1 << 20),
        (21, 2 << 20),
        (23, 8 << 20),
        (24, 16 << 20),
        (25, 32 << 20),
        (28, 256 << 20),
        (29, 512 << 20),
        (30, 1 << 30),
        (34, 16 << 30),
    ];
    fn test<F: Paging>(format: F) {
        let mut named = 0;
        for (shift, bytes) in NAMES {
            // MAP_SHARED | MAP_HUGETLB | MAP_ANONYMOUS.
            let size = format.of_map_flags(shift << 26 | 0x4_0021);
            assert_eq!(size, format.leaves().iter().copied().find(|size| size.bytes() == bytes));
            named += usize::from(size.is_some());
        }
        assert_eq!(named, format.leaves().len());
        assert_eq!(format.of_map_flags(0x4_0021), None);
    }
    for_each_format!(test);
}
