//! Addresses, sizes and frame numbers: the newtypes that keep units apart.

use core::fmt;

/// Bytes of a table page, and the unit of frame numbers.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes that one 2 MiB table (a PMD table) covers, and the size of the larger huge page.
pub const PUD_SIZE: u64 = 1 << 30;
/// Bytes of the smaller huge page.
pub const PMD_SIZE: u64 = 1 << 21;

/// The sizes of huge page that x86-64 maps with a leaf: one `hstate` each in Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HugeSize {
    /// 2 MiB, a leaf in a PMD table. Its tables can be shared.
    Size2M,
    /// 1 GiB, a leaf in a PUD table. Never shares a table.
    Size1G,
}

impl HugeSize {
    /// Every size, smallest first.
    pub const ALL: [Self; 2] = [Self::Size2M, Self::Size1G];

    /// Base-2 logarithm of the size in bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::Size2M => 21,
            Self::Size1G => 30,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// Is `value` a multiple of the size?
    #[must_use]
    pub const fn is_aligned(self, value: u64) -> bool {
        value & (self.bytes() - 1) == 0
    }

    /// `value` rounded down to a multiple of the size.
    #[must_use]
    pub const fn round_down(self, value: u64) -> u64 {
        value & !(self.bytes() - 1)
    }

    /// `value` rounded up to a multiple of the size, or `None` if that does not fit.
    #[must_use]
    pub const fn round_up(self, value: u64) -> Option<u64> {
        match value.checked_add(self.bytes() - 1) {
            Some(sum) => Some(self.round_down(sum)),
            None => None,
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Size2M => 0,
            Self::Size1G => 1,
        }
    }
}

/// A virtual address of an [`AddressSpace`](crate::AddressSpace), in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// The address with this number.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The number of the address.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on, or `None` past the end of the number range.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Bytes from `earlier` up to here; 0 if `earlier` is later.
    #[must_use]
    pub const fn offset_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The start of the huge page around the address.
    #[must_use]
    pub const fn huge_page(self, size: HugeSize) -> Self {
        Self(size.round_down(self.0))
    }

    /// The start of the aligned 1 GiB range around the address: what one PMD table covers.
    #[must_use]
    pub const fn pud_floor(self) -> Self {
        Self(self.0 & !(PUD_SIZE - 1))
    }

    /// The end of that range; saturates at the end of the number range.
    #[must_use]
    pub const fn pud_end(self) -> Self {
        Self(self.pud_floor().0.saturating_add(PUD_SIZE))
    }

    /// The address `bytes` further on. The caller knows that the sum lies in a mapped range.
    pub(crate) const fn plus(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Frames that an entry can name: 52 bits of physical address.
pub const FRAMES: u64 = 1 << (52 - PAGE_SIZE.trailing_zeros());

/// The frame of a page-table page: its physical address divided by [`PAGE_SIZE`].
///
/// A number, and no more than that: see [`platform`](crate::platform#frames).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableFrame(pub u64);

impl TableFrame {
    /// Can an entry name it?
    #[must_use]
    pub const fn fits(self) -> bool {
        self.0 < FRAMES
    }
}

/// The frame of a huge page: its physical address divided by [`PAGE_SIZE`], a multiple of the page's size.
///
/// A number, and no more than that: see [`platform`](crate::platform#frames).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HugeFrame(pub u64);

impl HugeFrame {
    /// Can an entry name it as a page of this size? The number is a multiple of the size, and below [`FRAMES`].
    #[must_use]
    pub const fn fits(self, size: HugeSize) -> bool {
        self.0 < FRAMES && size.is_aligned(self.0 * PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_up_reports_what_does_not_fit() {
        assert_eq!(HugeSize::Size2M.round_up(1), Some(PMD_SIZE));
        assert_eq!(HugeSize::Size2M.round_up(PMD_SIZE), Some(PMD_SIZE));
        assert_eq!(HugeSize::Size1G.round_up(u64::MAX - 5), None);
    }

    #[test]
    fn a_frame_fits_that_is_aligned_and_below_the_limit() {
        let fits = |frame| HugeSize::ALL.map(|size| HugeFrame(frame).fits(size));
        assert_eq!(fits(0), [true, true]);
        assert_eq!(fits(512), [true, false]);
        assert_eq!(fits(1 << 18), [true, true]);
        assert_eq!(fits(513), [false, false]);
        assert_eq!(fits(FRAMES - 512), [true, false]);
        assert_eq!(fits(FRAMES), [false, false]);
        assert!(TableFrame(FRAMES - 1).fits() && !TableFrame(FRAMES).fits());
    }

    #[test]
    fn a_pud_range_is_one_gibibyte_around_the_address() {
        let address = VirtAddr::new(0x7fce_a580_0000);
        assert_eq!(address.pud_floor(), VirtAddr::new(0x7fce_8000_0000));
        assert_eq!(address.pud_end(), VirtAddr::new(0x7fce_c000_0000));
    }
}
