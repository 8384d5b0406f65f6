//! The formats of `hugewalk::arch`, against processors written down from the manuals, and against decoders of other people.

mod mmu;
mod properties;
mod shapes;

use hugewalk::addr::HugeSize;
use hugewalk::arch::{Aarch64, AnyPaging, Granule, Paging, Riscv64, Sv, X86_64};

/// What `Paging` leaves to a processor: how it uses an entry.
pub(crate) trait Processor: Paging {
    /// Physical address of the last byte that it can name.
    fn last_address(&self) -> u64;
    /// The bits a leaf may carry.
    fn may_carry(&self) -> u64;
    /// The bits that it ignores in an entry that points to a table.
    fn ignored_in_tables(&self) -> u64;
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
        $test(Aarch64::<12>::of(48).unwrap());
        $test(Aarch64::<14>::of(36).unwrap());
        $test(Aarch64::<16>::of(52).unwrap().with_memory_type(3));
        for mode in [Sv::Sv39, Sv::Sv48, Sv::Sv57] {
            $test(Riscv64::new(mode));
            $test(Riscv64::new(mode).with_svnapot());
        }
    }};
}
pub(crate) use for_each_format;

#[test]
fn only_widths_that_the_granule_has_make_a_format() {
    let any = |granule, bits| Aarch64::new(granule, bits).map(AnyPaging::from);
    for bits in 0..64 {
        assert_eq!(Aarch64::new(Granule::K4, bits).is_some(), [39, 48].contains(&bits));
        assert_eq!(Aarch64::new(Granule::K16, bits).is_some(), [36, 47, 48].contains(&bits));
        assert_eq!(Aarch64::new(Granule::K64, bits).is_some(), [42, 48, 52].contains(&bits));
        assert_eq!(Aarch64::<12>::of(bits).map(AnyPaging::from), any(Granule::K4, bits));
        assert_eq!(Aarch64::<14>::of(bits).map(AnyPaging::from), any(Granule::K16, bits));
        assert_eq!(Aarch64::<16>::of(bits).map(AnyPaging::from), any(Granule::K64, bits));
        assert_eq!(Aarch64::<13>::of(bits), None);
        assert_eq!(X86_64::FOUR_LEVELS.encrypted(bits).is_some(), (32..=51).contains(&bits));
    }
}

#[test]
fn pages_of_64_kib_need_svnapot() {
    let size = |format: Riscv64| format.of_shift(16).map(HugeSize::bytes);
    assert_eq!(size(Riscv64::new(Sv::Sv39)), None);
    assert_eq!(size(Riscv64::new(Sv::Sv39).with_svnapot()), Some(64 << 10));
}

/// The trees that a walk is compiled for are those that there are: at the two ends, and between them.
#[test]
fn a_format_has_the_levels_that_it_says() {
    fn levels<F: Paging>(formats: &[F]) {
        let levels = formats.iter().map(|format| format.geometry().levels);
        assert_eq!(levels.clone().min(), Some(*F::LEVELS.start()));
        assert_eq!(levels.max(), Some(*F::LEVELS.end()));
    }
    fn arm<const GRANULE: u32>() -> Vec<Aarch64<GRANULE>> {
        (0..64).filter_map(Aarch64::of).collect()
    }
    let riscv = [Sv::Sv39, Sv::Sv48, Sv::Sv57].map(Riscv64::new);
    let run_time = [Granule::K4, Granule::K16, Granule::K64];
    let run_time = run_time.map(|granule| (0..64).filter_map(move |bits| Aarch64::new(granule, bits)));
    let run_time: Vec<_> = run_time.into_iter().flatten().collect();
    levels(&[X86_64::FOUR_LEVELS, X86_64::FIVE_LEVELS]);
    levels(&arm::<12>());
    levels(&arm::<14>());
    levels(&arm::<16>());
    levels(&run_time);
    levels(&riscv);
    let any = riscv.map(AnyPaging::from).into_iter().chain(run_time.into_iter().map(AnyPaging::from));
    levels(&any.collect::<Vec<_>>());
}
