//! The format of the tables of a program, and the two sizes of page that it uses.

use hugewalk::addr::HugeSize;
use hugewalk::arch::{Aarch64, AnyPaging, Granule, Paging, Riscv64, Sv, X86_64};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) paging: AnyPaging,
    pub(crate) small: HugeSize,
    pub(crate) giant: HugeSize,
}

impl Default for Format {
    fn default() -> Self {
        Self { paging: X86_64::FOUR_LEVELS.into(), small: X86_64::SIZE_2M, giant: X86_64::SIZE_1G }
    }
}

impl Format {
    /// A format, with its sizes number `small` and `giant`.
    fn new(paging: impl Into<AnyPaging>, small: usize, giant: usize) -> Self {
        let paging = paging.into();
        Self { paging, small: paging.leaves()[small], giant: paging.leaves()[giant] }
    }

    /// Those of x86-64.
    pub(crate) fn x86() -> Vec<Self> {
        vec![Self::default(), Self { paging: X86_64::FIVE_LEVELS.into(), ..Self::default() }]
    }

    /// Those of the others: with groups in tables of base pages and above, with tables that are shared and not.
    pub(crate) fn others() -> Vec<Self> {
        let arm = |granule, bits| Aarch64::new(granule, bits).unwrap().with_memory_type(1);
        vec![
            Self::new(arm(Granule::K4, 48), 0, 1),
            Self::new(arm(Granule::K4, 48), 1, 2),
            Self::new(arm(Granule::K4, 39), 2, 3),
            Self::new(arm(Granule::K16, 47), 0, 1),
            Self::new(arm(Granule::K16, 48), 1, 2),
            Self::new(arm(Granule::K64, 48), 0, 1),
            Self::new(Riscv64::new(Sv::Sv39), 0, 1),
            Self::new(Riscv64::new(Sv::Sv48).with_svnapot(), 0, 1),
        ]
    }

    pub(crate) fn sizes(self) -> [HugeSize; 2] {
        [self.small, self.giant]
    }

    /// 0 for the small size, 1 for the other.
    pub(crate) fn index(self, size: HugeSize) -> usize {
        usize::from(size == self.giant)
    }

    /// Bytes of a base page.
    pub(crate) fn page(self) -> u64 {
        self.paging.geometry().base_bytes()
    }

    /// Bytes that one table of small pages covers: 1 GiB on x86-64.
    pub(crate) fn table(self) -> u64 {
        self.paging.geometry().table_bytes(self.small.level())
    }

    /// Where windows of a table begin: some neighbours, two of them on either side of where the table above ends, if there
    /// are so many addresses.
    pub(crate) fn window(self, number: u64) -> u64 {
        let last = self.paging.geometry().entries(self.small.level()) as u64;
        let far = self.table() * (last + 4) < self.paging.task_size().as_u64();
        let places = if far { [64, 65, 66, last - 1, last] } else { [4, 5, 6, 7, 8] };
        places[number as usize] * self.table()
    }
}
