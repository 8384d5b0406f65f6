//! Addresses, sizes and frame numbers: the newtypes that keep units apart.

use core::fmt;
use core::num::NonZeroU32;

/// Bytes of a frame: what frame numbers count. A unit like the byte, and not the size of anybody's page.
pub const FRAME_BYTES: u64 = 4096;

/// A size of page that the processors of a system map by a leaf, or by a *group* of leaves side by side: one `hstate` in
/// Linux.
///
/// Only a format of tables makes one ([`Paging`](crate::arch::Paging)), so it has what the format says of it. Two formats may
/// have pages of the same number of bytes, mapped in different ways; these are two sizes.
///
/// # Invariants
///
/// The number is packed as `new` packs it, and is not zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HugeSize(NonZeroU32);

impl HugeSize {
    /// The most sizes that a format has: a power of two.
    pub const MOST: usize = 4;

    /// Stands in where a size was expected and there is none, which would be a bug of this crate.
    pub(crate) const NONE: Self = Self(NonZeroU32::MIN);

    /// Size number `index` of a format, smallest first. Groups have `1 << group_shift` entries.
    pub(crate) const fn new(index: u8, shift: u8, level: u8, group_shift: u8, shares_tables: bool) -> Self {
        let packed = (index as u32) << 24 | (shares_tables as u32) << 20 | (group_shift as u32) << 16;
        match NonZeroU32::new(packed | (level as u32) << 8 | shift as u32) {
            // INVARIANT: packed above.
            Some(packed) => Self(packed),
            // No page is one byte large.
            None => Self(NonZeroU32::MIN),
        }
    }

    /// The number that [`from_bits`](Self::from_bits) takes. It has 32 bits, and is not zero.
    pub(crate) const fn bits(self) -> u64 {
        self.0.get() as u64
    }

    /// The size that [`bits`](Self::bits) gave this number, in the lower 32 bits. `None` if they are zero.
    pub(crate) const fn from_bits(bits: u64) -> Option<Self> {
        match NonZeroU32::new(bits as u32) {
            // INVARIANT: it came from a size.
            Some(packed) => Some(Self(packed)),
            None => None,
        }
    }

    /// Its place among the sizes of its format, from 0, smallest first.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        (self.0.get() >> 24) as usize
    }

    /// Base-2 logarithm of the size in bytes.
    #[must_use]
    #[inline]
    pub const fn shift(self) -> u32 {
        self.0.get() & 0xff
    }

    /// The level of the table that holds the leaf. Tables of level 0 hold the entries of base pages.
    #[must_use]
    #[inline]
    pub const fn level(self) -> u8 {
        (self.0.get() >> 8) as u8
    }

    /// How many entries side by side stand for the page: 1, or a power of two.
    #[must_use]
    #[inline]
    pub const fn group(self) -> u16 {
        1 << (self.0.get() >> 16 & 0xf)
    }

    /// May address spaces share tables of these leaves?
    #[must_use]
    #[inline]
    pub const fn shares_tables(self) -> bool {
        self.0.get() >> 20 & 1 != 0
    }

    /// Size in bytes.
    #[must_use]
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// Size in frames.
    #[must_use]
    #[inline]
    pub const fn frames(self) -> u64 {
        self.bytes() / FRAME_BYTES
    }

    /// Bytes that one entry of the group covers.
    #[must_use]
    #[inline]
    pub const fn member_bytes(self) -> u64 {
        self.bytes() >> (self.0.get() >> 16 & 0xf)
    }

    /// The bits of an entry's index that number it in its group. The group begins at the index without them.
    #[must_use]
    #[inline]
    pub const fn group_mask(self) -> usize {
        self.group() as usize - 1
    }

    /// The page around a frame.
    #[must_use]
    #[inline]
    pub const fn page_around(self, frame: HugeFrame) -> HugeFrame {
        HugeFrame(frame.0 & !(self.frames() - 1))
    }

    /// The part of `page` that a member of the group covers.
    #[must_use]
    #[inline]
    pub const fn part(self, page: HugeFrame, member: u16) -> HugeFrame {
        HugeFrame(page.0 + member as u64 * (self.member_bytes() / FRAME_BYTES))
    }

    /// Is `value` a multiple of the size?
    #[must_use]
    #[inline]
    pub const fn is_aligned(self, value: u64) -> bool {
        value & (self.bytes() - 1) == 0
    }

    /// `value` rounded down to a multiple of the size.
    #[must_use]
    #[inline]
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
}

impl fmt::Debug for HugeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.shift() {
            30.. => (30, "GiB"),
            20..30 => (20, "MiB"),
            _ => (10, "KiB"),
        };
        write!(f, "{} {name}", self.bytes() >> unit)
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
pub const FRAMES: u64 = 1 << (52 - FRAME_BYTES.trailing_zeros());

/// The frame of a page-table page: its physical address divided by [`FRAME_BYTES`].
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

/// The frame of a huge page: its physical address divided by [`FRAME_BYTES`], a multiple of the page's size.
///
/// A number, and no more than that: see [`platform`](crate::platform#frames).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HugeFrame(pub u64);

impl HugeFrame {
    /// Can an entry name it as a page of this size? The number is a multiple of the size, and below [`FRAMES`].
    #[must_use]
    pub const fn fits(self, size: HugeSize) -> bool {
        self.0 < FRAMES && size.is_aligned(self.0 * FRAME_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PMD_SIZE: u64 = SIZE_2M.bytes();

    const SIZE_2M: HugeSize = HugeSize::new(0, 21, 1, 0, true);
    const SIZE_1G: HugeSize = HugeSize::new(1, 30, 2, 0, false);

    #[test]
    fn a_size_is_what_it_was_made_of() {
        for (index, group) in (0..4).zip([0, 4, 5, 7]) {
            let size = HugeSize::new(index, 25 + group, 1, group, index == 2);
            assert_eq!(size.index(), usize::from(index));
            assert_eq!((size.shift(), size.level(), size.group()), (25 + u32::from(group), 1, 1 << group));
            assert_eq!(size.shares_tables(), index == 2);
            assert_eq!(size.member_bytes(), 1 << 25);
            assert_eq!(HugeSize::from_bits(size.bits() | 1 << 40), Some(size));
        }
        assert_eq!(HugeSize::from_bits(1 << 40), None);
    }

    #[test]
    fn rounding_up_reports_what_does_not_fit() {
        assert_eq!(SIZE_2M.round_up(1), Some(PMD_SIZE));
        assert_eq!(SIZE_2M.round_up(PMD_SIZE), Some(PMD_SIZE));
        assert_eq!(SIZE_1G.round_up(u64::MAX - 5), None);
    }

    #[test]
    fn a_frame_fits_that_is_aligned_and_below_the_limit() {
        let fits = |frame| [SIZE_2M, SIZE_1G].map(|size| HugeFrame(frame).fits(size));
        assert_eq!(fits(0), [true, true]);
        assert_eq!(fits(512), [true, false]);
        assert_eq!(fits(1 << 18), [true, true]);
        assert_eq!(fits(513), [false, false]);
        assert_eq!(fits(FRAMES - 512), [true, false]);
        assert_eq!(fits(FRAMES), [false, false]);
        assert!(TableFrame(FRAMES - 1).fits() && !TableFrame(FRAMES).fits());
    }
}
