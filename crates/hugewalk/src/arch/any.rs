//! A format that is chosen at run time.

use core::ops::RangeInclusive;

use super::paging::sealed::Sealed;
use super::{Aarch64, Entry, Geometry, Hooks, Paging, Riscv64, X86_64};
use crate::addr::{HugeSize, TableFrame, VirtAddr};

/// Any of the formats, chosen at run time: for emulators, checkers and tests that have several in one program.
///
/// A platform whose processors are known has no use for it. Each step of a walk asks which format it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnyPaging {
    /// x86-64.
    X86_64(X86_64),
    /// arm64.
    Aarch64(Aarch64),
    /// riscv64.
    Riscv64(Riscv64),
}

impl From<X86_64> for AnyPaging {
    fn from(paging: X86_64) -> Self {
        Self::X86_64(paging)
    }
}

impl<const GRANULE: u32> From<Aarch64<GRANULE>> for AnyPaging {
    fn from(paging: Aarch64<GRANULE>) -> Self {
        Self::Aarch64(paging.of_value())
    }
}

impl From<Riscv64> for AnyPaging {
    fn from(paging: Riscv64) -> Self {
        Self::Riscv64(paging)
    }
}

macro_rules! each {
    ($any:ident, $paging:ident => $call:expr) => {
        match $any {
            Self::X86_64($paging) => $call,
            Self::Aarch64($paging) => $call,
            Self::Riscv64($paging) => $call,
        }
    };
}

impl Sealed for AnyPaging {}
impl Paging for AnyPaging {
    const GROUPS: bool = true;
    const LEVELS: RangeInclusive<u8> = 2..=5;

    fn geometry(&self) -> Geometry {
        each!(self, paging => paging.geometry())
    }

    fn task_size(&self) -> VirtAddr {
        each!(self, paging => paging.task_size())
    }

    fn default_window(&self) -> VirtAddr {
        each!(self, paging => paging.default_window())
    }

    fn leaves(&self) -> &'static [HugeSize] {
        each!(self, paging => paging.leaves())
    }

    fn hooks(&self) -> Hooks {
        each!(self, paging => paging.hooks())
    }

    fn encode(&self, entry: Entry, size: HugeSize, member: u16, carried: u64) -> u64 {
        each!(self, paging => paging.encode(entry, size, member, carried))
    }

    fn decode(&self, bits: u64, level: u8) -> Entry {
        each!(self, paging => paging.decode(bits, level))
    }

    fn next_table(&self, bits: u64, level: u8) -> Option<TableFrame> {
        each!(self, paging => paging.next_table(bits, level))
    }

    fn is_valid(&self, bits: u64) -> bool {
        each!(self, paging => paging.is_valid(bits))
    }

    fn leaf_size(&self, bits: u64, level: u8) -> Option<HugeSize> {
        each!(self, paging => paging.leaf_size(bits, level))
    }

    fn carried(&self, bits: u64, level: u8) -> u64 {
        each!(self, paging => paging.carried(bits, level))
    }

    fn ordinary(&self) -> u64 {
        each!(self, paging => paging.ordinary())
    }

    fn needs_break(&self, old: u64, new: u64, level: u8) -> bool {
        each!(self, paging => paging.needs_break(old, new, level))
    }
}
