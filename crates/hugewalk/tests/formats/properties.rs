//! What holds for every format: encode, decode, and what processors make of it.

use aarch64_paging::descriptor::{El1Attributes, PagingAttributes};
use hugewalk::addr::{FRAME_BYTES, HugeFrame, HugeSize, TableFrame};
use hugewalk::arch::{Aarch64, Entry, Granule, Leaf, LeafFlags, Migration, Paging, X86_64};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::{Access, Fault, Processor, for_each_format};

/// Runs a property for one format, with what `make` generates.
fn check<S: Strategy>(values: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&values, property).unwrap();
}

fn frame<F: Processor>(format: F, size: HugeSize) -> impl Strategy<Value = HugeFrame> {
    let pages = (format.last_address() >> size.shift()) + 1;
    let frames = size.bytes() / FRAME_BYTES;
    (0..pages).prop_map(move |page| HugeFrame(page * frames))
}

fn leaf<F: Processor>(format: F, size: HugeSize) -> impl Strategy<Value = Leaf> {
    let flags = any::<u64>().prop_map(LeafFlags::from_bits_truncate);
    (frame(format, size), flags).prop_map(|(frame, flags)| Leaf { frame, flags })
}

fn entry<F: Processor>(format: F, size: HugeSize) -> impl Strategy<Value = Entry> {
    let migration = (frame(format, size), any::<[bool; 5]>()).prop_map(
        |(frame, [write, uffd_wp, soft_dirty, accessed, dirty])| {
            Entry::Migration(Migration { frame, write, uffd_wp, soft_dirty, accessed, dirty })
        },
    );
    prop_oneof![
        Just(Entry::None),
        Just(Entry::Marker),
        Just(Entry::Poison),
        frame(format, size).prop_map(Entry::Hwpoison),
        leaf(format, size).prop_map(Entry::Leaf),
        migration,
    ]
}

fn size<F: Paging>(format: F) -> impl Strategy<Value = HugeSize> {
    proptest::sample::select(format.leaves())
}

/// A size, a member of its group, and carried bits.
fn place<F: Processor>(format: F) -> impl Strategy<Value = (HugeSize, u16, u64)> {
    let carried = any::<u64>().prop_map(move |bits| bits & format.may_carry());
    (size(format), any::<u16>(), carried)
        .prop_map(|(size, member, carried)| (size, member % size.group(), carried))
}

#[test]
fn every_entry_reads_back_as_it_was_written() {
    fn test<F: Processor>(format: F) {
        let values = place(format).prop_flat_map(move |place| (Just(place), entry(format, place.0)));
        check(values, |((size, member, carried), entry)| {
            let bits = format.encode(entry, size, member, carried);
            prop_assert_eq!(format.decode(bits, size.level()), entry);
            let is_leaf = matches!(entry, Entry::Leaf(_));
            prop_assert_eq!(format.leaf_size(bits, size.level()), is_leaf.then_some(size));
            prop_assert_eq!(format.carried(bits, size.level()), if is_leaf { carried } else { 0 });
            let usable = matches!(entry, Entry::Leaf(leaf) if leaf.is_accessible());
            prop_assert_eq!(format.is_valid(bits), usable);
            prop_assert_eq!(format.next_table(bits, size.level()), None);
            Ok(())
        });
    }
    for_each_format!(test);
}

#[test]
fn a_table_is_found_above_the_lowest_level_and_only_there() {
    fn test<F: Processor>(format: F) {
        let geometry = format.geometry();
        let frames = geometry.base_shift - 12;
        let tables =
            (0..=format.last_address() >> geometry.base_shift).prop_map(move |n| TableFrame(n << frames));
        check((tables, 1..geometry.levels), |(table, level)| {
            let bits = format.encode(Entry::Table(table), format.leaves()[0], 0, 0);
            prop_assert_eq!(format.next_table(bits, level), Some(table));
            prop_assert_eq!(format.decode(bits, level), Entry::Table(table));
            prop_assert_eq!(format.next_table(bits, 0), None);
            prop_assert!(format.is_valid(bits) && format.leaf_size(bits, level).is_none());
            // Processors find the host's like any other, and no walk of the engine's does.
            let hosts = format.encode(Entry::HostTable(table), format.leaves()[0], 0, 0);
            prop_assert_eq!(format.decode(hosts, level), Entry::HostTable(table));
            prop_assert_eq!(format.next_table(hosts, level), None);
            prop_assert!(format.is_valid(hosts) && format.leaf_size(hosts, level).is_none());
            prop_assert_eq!((hosts ^ bits) & !format.ignored_in_tables(), 0);
            Ok(())
        });
    }
    for_each_format!(test);
}

#[test]
fn any_bits_decode_to_something_that_stays_what_it_is() {
    fn test<F: Processor>(format: F) {
        let levels = format.geometry().levels;
        check((any::<u64>(), 0..levels, any::<usize>()), |(bits, level, index)| {
            let entry = format.decode(bits, level);
            let same = format.change_flags(bits, level, index, |flags| flags);
            prop_assert_eq!(format.decode(same, level), entry);
            prop_assert_eq!(format.carried(same, level), format.carried(bits, level));
            let table = format.next_table(bits, level);
            prop_assert_eq!(table.is_some(), matches!(entry, Entry::Table(_)));
            prop_assert!(!format.needs_break(bits, bits, level));
            Ok(())
        });
    }
    for_each_format!(test);
}

#[test]
fn a_processor_reaches_the_page_as_the_leaf_allows_and_leaves_its_traces() {
    fn test<F: Processor>(format: F) {
        let accesses = proptest::sample::select(&[Access::Load, Access::Store, Access::Fetch][..]);
        let values =
            place(format).prop_flat_map(move |place| (Just(place), leaf(format, place.0), any::<u64>()));
        check(
            (values, accesses, any::<bool>()),
            |(((size, member, carried), leaf, within), access, sets)| {
                let bits = format.encode(Entry::Leaf(leaf), size, member, carried);
                // An address in the part of the page that the member covers; the page lies at 0.
                let address = u64::from(member) * size.member_bytes() + within % size.member_bytes();
                let allowed = match access {
                    Access::Load => leaf.is_accessible(),
                    Access::Store => leaf.is_writable(),
                    Access::Fetch => leaf.is_accessible() && !leaf.flags.contains(LeafFlags::NO_EXECUTE),
                };
                let written = access == Access::Store;
                let mut used = leaf.flags | LeafFlags::ACCESSED;
                used.set(LeafFlags::DIRTY, written || leaf.is_dirty());
                match format.use_leaf(bits, size.level(), address, access, sets) {
                    Ok(done) => {
                        prop_assert!(allowed);
                        prop_assert_eq!(done.physical, leaf.frame.0 * FRAME_BYTES + address);
                        let after = Entry::Leaf(Leaf { flags: used, ..leaf });
                        prop_assert_eq!(format.decode(done.entry, size.level()), after);
                        prop_assert_eq!(format.carried(done.entry, size.level()), carried);
                        prop_assert!(!format.needs_break(bits, done.entry, size.level()));
                    }
                    Err(Fault::Bit) => {
                        // The fault sets the bits, and the access is tried again.
                        prop_assert!(allowed && !sets && used != leaf.flags);
                        let index = usize::from(member);
                        let next = format.change_flags(bits, size.level(), index, |flags| flags | used);
                        prop_assert!(!format.needs_break(bits, next, size.level()));
                        let again = format.use_leaf(next, size.level(), address, access, sets);
                        prop_assert_eq!(again.map(|done| done.entry), Ok(next));
                    }
                    Err(_) => prop_assert!(!allowed),
                }
                Ok(())
            },
        );
    }
    for_each_format!(test);
}

#[test]
fn what_a_leaf_carries_survives_all_changes() {
    fn test<F: Processor>(format: F) {
        let flags = proptest::collection::vec(any::<u64>().prop_map(LeafFlags::from_bits_truncate), 1..6);
        let values = place(format).prop_flat_map(move |place| (Just(place), leaf(format, place.0)));
        check((values, flags), |(((size, member, carried), leaf), steps)| {
            let mut bits = format.encode(Entry::Leaf(leaf), size, member, carried);
            for flags in steps {
                bits = format.change_flags(bits, size.level(), usize::from(member), |_| flags);
                prop_assert_eq!(format.decode(bits, size.level()), Entry::Leaf(Leaf { flags, ..leaf }));
                prop_assert_eq!(format.carried(bits, size.level()), carried);
                prop_assert_eq!(format.leaf_size(bits, size.level()), Some(size));
            }
            Ok(())
        });
    }
    for_each_format!(test);
}

#[test]
fn another_page_needs_a_break_while_both_can_be_used() {
    fn test<F: Processor>(format: F) {
        let values = place(format)
            .prop_flat_map(move |place| (Just(place), leaf(format, place.0), leaf(format, place.0)));
        check(values, |((size, member, carried), old, new)| {
            let [one, other] = [old, new].map(|leaf| format.encode(Entry::Leaf(leaf), size, member, carried));
            let both = old.is_accessible() && new.is_accessible();
            if old.frame != new.frame {
                prop_assert_eq!(format.needs_break(one, other, size.level()), both);
            }
            let table = format.encode(Entry::Table(TableFrame(old.frame.0)), size, 0, 0);
            if size.level() > 0 {
                prop_assert_eq!(format.needs_break(one, table, size.level()), old.is_accessible());
            }
            for nothing in [Entry::None, Entry::Marker, Entry::Poison, Entry::Hwpoison(new.frame)] {
                let nothing = format.encode(nothing, size, member, 0);
                prop_assert!(!format.needs_break(one, nothing, size.level()));
                prop_assert!(!format.needs_break(nothing, one, size.level()));
            }
            Ok(())
        });
    }
    for_each_format!(test);
}

/// `aarch64-paging` has the rule of the architecture in a function of its own.
#[test]
fn arm64_leaves_need_a_break_where_another_crate_says_so() {
    let format = Aarch64::new(Granule::K4, 48).unwrap();
    let of_one = |size: &HugeSize| size.group() == 1;
    for size in format.leaves().iter().copied().filter(of_one) {
        let carried = any::<[u64; 2]>();
        check((leaf(format, size), leaf(format, size), carried), |(old, new, carried)| {
            let new = Leaf { frame: old.frame, ..new };
            let [one, other] = [(old, carried[0]), (new, carried[1] ^ carried[0])].map(|(leaf, carried)| {
                format.encode(Entry::Leaf(leaf), size, 0, carried & format.may_carry())
            });
            if old.is_accessible() && new.is_accessible() {
                let [was, is] = [one, other].map(|bits| El1Attributes::from_bits_retain(bits as usize));
                prop_assert_eq!(
                    !format.needs_break(one, other, size.level()),
                    El1Attributes::is_bbm_safe(was, is)
                );
            }
            Ok(())
        });
    }
}

#[test]
fn the_rights_of_a_contiguous_group_need_a_break_and_its_use_does_not() {
    for (granule, bits) in [(Granule::K4, 48), (Granule::K16, 47), (Granule::K64, 48)] {
        let format = Aarch64::new(granule, bits).unwrap();
        for size in format.leaves().iter().copied().filter(|size| size.group() > 1) {
            let encode = |flags| {
                format.encode(Entry::Leaf(Leaf { frame: HugeFrame(0), flags }), size, 1, format.ordinary())
            };
            let clean = LeafFlags::ACCESS | LeafFlags::WRITE;
            let dirty = clean | LeafFlags::ACCESSED | LeafFlags::DIRTY;
            let broken = |old, new| format.needs_break(encode(old), encode(new), size.level());
            assert!(!broken(clean, dirty) && !broken(dirty, clean));
            assert!(broken(clean, LeafFlags::ACCESS) && broken(LeafFlags::ACCESS, clean));
            assert!(broken(clean, clean | LeafFlags::NO_EXECUTE));
            assert!(!broken(clean, LeafFlags::WRITE), "an entry without access is how it is broken");
        }
    }
}

#[test]
fn no_x86_leaf_is_taken_for_a_page_of_a_shadow_stack() {
    use x86_64::structures::paging::PageTableFlags as X64;
    for format in [X86_64::FOUR_LEVELS, X86_64::FIVE_LEVELS.encrypted(47).unwrap()] {
        for size in format.leaves().iter().copied() {
            check(leaf(X86_64::FOUR_LEVELS, size), |leaf| {
                let bits = format.encode(Entry::Leaf(leaf), size, 0, 0);
                let flags = X64::from_bits_retain(bits);
                let shadow = X64::PRESENT | X64::DIRTY;
                prop_assert!(!flags.contains(shadow) || flags.contains(X64::WRITABLE));
                Ok(())
            });
        }
    }
}

#[test]
fn the_encryption_bit_is_in_all_that_is_present_and_in_no_frame() {
    let format = X86_64::FOUR_LEVELS.encrypted(51).unwrap();
    let size = format.leaves()[0];
    check(entry(format, size), |entry| {
        let bits = format.encode(entry, size, 0, 0);
        let encrypted = bits >> 51 & 1 != 0;
        match entry {
            Entry::Leaf(leaf) if leaf.is_accessible() => prop_assert!(encrypted),
            // The frame is inverted.
            Entry::Leaf(_) | Entry::Migration(_) | Entry::Hwpoison(_) => prop_assert!(encrypted),
            _ => prop_assert!(!encrypted),
        }
        Ok(())
    });
    let table = format.encode(Entry::Table(TableFrame(7)), size, 0, 0);
    assert_eq!(table >> 51 & 1, 1);
    assert_eq!(format.next_table(table, 1), Some(TableFrame(7)));
}
