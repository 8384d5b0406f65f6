//! What the model knows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeBounds};

use hugewalk::addr::HugeSize;
use hugewalk::arch::Paging;

use super::format::Format;
use hugewalk::vma::Protection;

use super::{Call, Outcome};
use crate::common::Group;

pub(crate) const PROCESSES: usize = 3;
pub(crate) const FILES: usize = 3;
pub(crate) const MOUNTS: usize = 2;

/// The bytes of a page that were written; the others are 0.
pub(crate) type Bytes = BTreeMap<u64, u8>;

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) format: Format,
    /// The end of user addresses.
    pub(super) top: u64,
    /// The end of those that are given to programs that ask for none.
    pub(super) window: u64,
    pub(crate) processes: [Option<Process>; PROCESSES],
    /// Every file there ever was.
    pub(crate) files: Vec<File>,
    pub(crate) slots: [Option<usize>; FILES],
    pub(crate) mounts: Vec<Mount>,
    pub(crate) mount_slots: [Option<usize>; MOUNTS],
    pub(super) pools: [Pool; 2],
    /// Huge pages in use.
    pub(super) frames: BTreeMap<u64, Frame>,
    pub(super) next_frame: u64,
    pub(super) next_turn: u64,
    /// The group that pays for what is reserved now, if one does.
    pub(super) payer: Option<Group>,
    /// Promised to a private mapping on a mount that is about to be made.
    pub(super) pending: Option<(usize, u64)>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Pool {
    /// The size that was configured.
    pub(super) limit: u64,
    pub(super) overcommit: u64,
}

/// A huge page in use. `holders`: processes that have it in a private mapping, or 1 for a page of a file.
pub(super) struct Frame {
    pub(super) size: HugeSize,
    pub(super) mount: Option<usize>,
    pub(super) holders: u32,
    /// Who has paid for it as for a reserved page, as it was taken without a reservation.
    pub(super) payer: Option<Group>,
}

pub(crate) struct Mount {
    pub(super) open: bool,
    pub(super) size: HugeSize,
    pub(super) max: Option<u64>,
    pub(super) min: Option<u64>,
    /// What is left of the reservation that makes up the minimum.
    pub(super) reserved: u64,
}

pub(crate) struct File {
    pub(crate) size_class: HugeSize,
    pub(crate) mount: Option<usize>,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) pages: BTreeMap<u64, FilePage>,
    /// Pages that are reserved and not there yet.
    pub(crate) reserved: BTreeSet<u64>,
    /// Who has paid for pages that are reserved, or were until they came.
    pub(super) paid: BTreeMap<u64, Group>,
    /// Somebody has it open.
    pub(super) open: bool,
    pub(super) gone: bool,
}

pub(crate) struct FilePage {
    pub(super) frame: u64,
    pub(crate) bytes: Bytes,
}

#[derive(Default)]
pub(crate) struct Process {
    pub(crate) vmas: BTreeMap<u64, Vma>,
    /// What private mappings have, by the address of the page.
    pub(crate) private: BTreeMap<u64, Entry>,
}

/// A page of a private mapping.
#[derive(Clone)]
pub(crate) enum Entry {
    /// The file's, for as long as nobody stores.
    OfFile,
    Own {
        frame: u64,
        bytes: Bytes,
    },
}

#[derive(Clone)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) file: usize,
    /// In pages.
    pub(crate) offset: u64,
    pub(crate) size: HugeSize,
    pub(crate) rights: Protection,
    pub(crate) shared: bool,
    pub(crate) noreserve: bool,
    /// The pages of the file that are reserved for this private mapping and not used, if the process made it.
    pub(crate) reserved: Option<BTreeSet<u64>>,
    /// Who has paid for all of its pages.
    pub(super) payer: Option<Group>,
    pub(crate) robbed: bool,
    /// It has had a page of its own, or was about to.
    pub(crate) anon: bool,
    /// When its turn comes among those of the same offset: a number for each that came last, and one more, falling, for each
    /// copy right behind its original.
    pub(super) turn: Vec<u64>,
}

impl Vma {
    pub(crate) fn index(&self, address: u64) -> u64 {
        self.offset + ((address - self.start) >> self.size.shift())
    }

    pub(crate) fn offsets(&self) -> Range<u64> {
        self.offset..self.index(self.end)
    }

    pub(crate) fn address(&self, index: u64) -> Option<u64> {
        let inside = self.offsets().contains(&index);
        inside.then(|| self.start + ((index - self.offset) << self.size.shift()))
    }

    /// The part from `start` to `end`.
    pub(super) fn part(&self, start: u64, end: u64) -> Self {
        let mut part = Self { start, end, offset: self.index(start), ..self.clone() };
        let offsets = part.offsets();
        if let Some(reserved) = &mut part.reserved {
            reserved.retain(|index| offsets.contains(index));
        }
        part
    }
}

impl Process {
    pub(crate) fn find(&self, address: u64) -> Option<&Vma> {
        self.vmas.range(..=address).next_back().map(|(_, vma)| vma).filter(|vma| address < vma.end)
    }

    pub(super) fn find_mut(&mut self, address: u64) -> Option<&mut Vma> {
        let found = self.vmas.range_mut(..=address).next_back().map(|(_, vma)| vma);
        found.filter(|vma| address < vma.end)
    }

    /// The starts of the VMAs that overlap a range.
    pub(crate) fn overlapping(&self, range: &Range<u64>) -> Vec<u64> {
        let overlaps = |vma: &&Vma| !range.is_empty() && vma.start < range.end && range.start < vma.end;
        self.vmas.values().filter(overlaps).map(|vma| vma.start).collect()
    }
}

impl Model {
    pub(crate) fn new(format: Format) -> Self {
        let (top, window) = (format.paging.task_size(), format.paging.default_window());
        Self { format, top: top.as_u64(), window: window.as_u64(), ..Self::default() }
    }

    /// The turn of who comes last.
    pub(super) fn last_turn(&mut self) -> Vec<u64> {
        self.next_turn += 1;
        vec![self.next_turn]
    }

    pub(crate) fn process(&mut self, process: usize) -> &mut Process {
        self.processes[process].as_mut().expect("calls name processes that live")
    }

    pub(crate) fn slot(&self, slot: usize) -> usize {
        self.slots[slot].expect("calls name files that are open")
    }

    /// Carries a call out. The group of its process pays.
    pub(crate) fn apply(&mut self, call: &Call) -> Outcome {
        self.payer = Some(call.payer());
        match call.clone() {
            Call::NewMount { slot, max, min } => self.new_mount(slot, max, min).into(),
            Call::CloseMount { slot } => {
                let mount = self.mount_slots[slot].take().expect("calls name mounts that are there");
                self.mounts[mount].open = false;
                Outcome::Done
            }
            Call::NewFile { slot, size, mount } => {
                let mount =
                    mount.map(|slot| self.mount_slots[slot].expect("calls name mounts that are there"));
                self.slots[slot] = Some(self.new_file(size, mount, true));
                Outcome::Done
            }
            Call::Close { slot } => {
                let file = self.slots[slot].take().expect("calls name files that are open");
                self.files[file].open = false;
                self.drop_unused_files();
                Outcome::Done
            }
            Call::NewProcess { process } => {
                self.processes[process] = Some(Process::default());
                Outcome::Done
            }
            Call::Fork { from, to } => {
                self.fork(from, to);
                Outcome::Done
            }
            Call::Exit { process } => {
                self.exit(process);
                Outcome::Done
            }
            Call::Map { process, map } => self.map(process, &map).into(),
            Call::Unmap { process, address, length } => self.unmap(process, address, length).into(),
            Call::Protect { process, address, length, rights } => {
                self.protect(process, address, length, rights).into()
            }
            Call::Remap { process, old, old_length, new_length, to } => {
                self.remap(process, old, old_length, new_length, to).into()
            }
            Call::Advise { process, address, length, advice } => {
                self.advise(process, address, length, advice).into()
            }
            Call::Load { process, address, access } => self.load(process, address, access).into(),
            Call::Store { process, address, value } => self.store(process, address, value).into(),
            Call::Truncate { slot, size } => self.truncate(self.slot(slot), size).into(),
            Call::Allocate { slot, offset, length, keep_size } => {
                self.allocate(self.slot(slot), offset, length, keep_size).into()
            }
            Call::Punch { slot, offset, length } => self.punch(self.slot(slot), offset, length).into(),
            Call::Read { slot, offset, length } => Outcome::Bytes(self.read(self.slot(slot), offset, length)),
            Call::Write { slot, offset, bytes } => self.write(self.slot(slot), offset, &bytes).into(),
            Call::Resize { size, pages } => {
                self.pool(size).limit = pages;
                Outcome::Number(pages)
            }
            Call::Overcommit { size, pages } => {
                self.pool(size).overcommit = pages;
                Outcome::Done
            }
        }
    }
}

/// Takes the elements with these keys out of a map.
pub(super) fn take_range<K: Ord + Copy, V>(
    map: &mut BTreeMap<K, V>,
    keys: impl RangeBounds<K>,
) -> Vec<(K, V)> {
    let keys: Vec<K> = map.range(keys).map(|(&key, _)| key).collect();
    keys.into_iter().filter_map(|key| map.remove_entry(&key)).collect()
}
