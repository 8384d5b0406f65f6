//! The formats of `hugewalk::arch`, against processors written down from the manuals, and against decoders of other people.

mod mmu;
mod properties;
mod shapes;

use hugewalk::arch::{Aarch64, Granule, LeafSize, Paging, Riscv64, Sv, X86_64};

/// What `Paging` leaves to a processor: how it uses an entry.
pub(crate) trait Processor: Paging {
    /// Physical address of the last byte that it can name.
    fn last_address(&self) -> u64;
    /// The bits a leaf may carry.
    fn may_carry(&self) -> u64;
    /// Uses a leaf, in a table of `level`, for an access in user mode. `address` is the virtual one. Sets accessed and dirty
    /// bits by itself if `sets_bits`.
    fn use_leaf(
        &self,
        bits: u64,
        level: u8,
        address: u64,
        access: Access,
        sets_bits: bool,
    ) -> Result<Used, Fault>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Load,
    Store,
    Fetch,
}

/// A translation, and the entry after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) physical: u64,
    pub(crate) entry: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NotValid,
    NotAllowed,
    /// An accessed or dirty bit would have to be set.
    Bit,
}

/// Calls `test` with each format that the crate has.
macro_rules! for_each_format {
    ($test:ident) => {{
        use hugewalk::arch::{Aarch64, Granule, Riscv64, Sv, X86_64};
        $test(X86_64::FOUR_LEVELS);
        $test(X86_64::FIVE_LEVELS);
        $test(X86_64::FOUR_LEVELS.encrypted(51).unwrap());
        for (granule, bits) in [
            (Granule::K4, 39),
            (Granule::K4, 48),
            (Granule::K16, 36),
            (Granule::K16, 47),
            (Granule::K16, 48),
            (Granule::K64, 42),
            (Granule::K64, 48),
            (Granule::K64, 52),
        ] {
            $test(Aarch64::new(granule, bits).unwrap().with_memory_type(5));
        }
        for mode in [Sv::Sv39, Sv::Sv48, Sv::Sv57] {
            $test(Riscv64::new(mode));
            $test(Riscv64::new(mode).with_svnapot());
        }
    }};
}
pub(crate) use for_each_format;

#[test]
fn only_widths_that_the_granule_has_make_a_format() {
    for bits in 0..64 {
        assert_eq!(Aarch64::new(Granule::K4, bits).is_some(), [39, 48].contains(&bits));
        assert_eq!(Aarch64::new(Granule::K16, bits).is_some(), [36, 47, 48].contains(&bits));
        assert_eq!(Aarch64::new(Granule::K64, bits).is_some(), [42, 48, 52].contains(&bits));
        assert_eq!(X86_64::FOUR_LEVELS.encrypted(bits).is_some(), (32..=51).contains(&bits));
    }
}

#[test]
fn pages_of_64_kib_need_svnapot() {
    let size = |format: Riscv64| format.leaf_of_shift(16).map(LeafSize::bytes);
    assert_eq!(size(Riscv64::new(Sv::Sv39)), None);
    assert_eq!(size(Riscv64::new(Sv::Sv39).with_svnapot()), Some(64 << 10));
}
