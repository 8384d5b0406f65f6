//! Which address spaces hold a part of which mapping, and which mappings of a file there are at one time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{FileId, Made, MappingId, Space};

const GIB: u64 = 1 << 30;

/// How many address spaces hold each mapping now, and a log of when that changed.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// How many address spaces hold each mapping.
    counts: Vec<u64>,
    /// How many holds there are on any mapping of a file: what `shmctl(IPC_STAT)` calls `nattch`.
    of_file: HashMap<FileId, u64>,
    /// Mappings that are held and could share, by file, and by what two of them have to agree in.
    sharing: HashMap<FileId, BTreeMap<Key, BTreeSet<MappingId>>>,
    log: Vec<Change>,
}

/// What two mappings of a file have to agree in if they are to share: the place of the file's pages in their gigabyte, and
/// the rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    place: u64,
    prot: u64,
}

impl Key {
    fn of(made: &Made) -> Self {
        Self { place: made.place(), prot: made.prot.bits().into() }
    }
}

/// An address space came to hold a mapping, or holds nothing of it any more.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// Before this operation.
    op: usize,
    space: Space,
    mapping: MappingId,
    holds: bool,
}

/// The mappings that are held beside a new one of the same file and cannot share with it; of those that differ from it in
/// the same way, the first.
pub(super) struct Unlike {
    pub(super) other: MappingId,
    pub(super) elsewhere: bool,
}

impl Made {
    /// Where in its gigabyte the first page of the file lies, or would lie.
    pub(super) fn place(&self) -> u64 {
        self.range.start.wrapping_sub(self.offset) % GIB
    }
}

impl Holders {
    /// `space` holds a part of `mapping` from now on. Returns how many do.
    pub(super) fn add(&mut self, op: usize, space: Option<Space>, mapping: MappingId, made: &Made) -> u64 {
        self.note(op, space, mapping, true);
        *self.of_file.entry(made.file).or_default() += 1;
        let place = mapping.0 as usize;
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
        if self.counts[place] == 1 && made.may_share() && made.whole_ranges > 0 {
            self.sharing.entry(made.file).or_default().entry(Key::of(made)).or_default().insert(mapping);
        }
        self.counts[place]
    }

    /// `space` holds nothing of `mapping` any more. True if nobody holds anything of its file.
    pub(super) fn remove(
        &mut self,
        op: usize,
        space: Option<Space>,
        mapping: MappingId,
        made: &Made,
    ) -> bool {
        self.note(op, space, mapping, false);
        if let Some(count) = self.counts.get_mut(mapping.0 as usize) {
            *count = count.saturating_sub(1);
            if *count == 0
                && let Some(keys) = self.sharing.get_mut(&made.file)
                && let Some(held) = keys.get_mut(&Key::of(made))
            {
                held.remove(&mapping);
                if held.is_empty() {
                    keys.remove(&Key::of(made));
                }
            }
        }
        let Some(holds) = self.of_file.get_mut(&made.file) else { return false };
        *holds = holds.saturating_sub(1);
        if *holds == 0 {
            self.of_file.remove(&made.file);
            self.sharing.remove(&made.file);
            return true;
        }
        false
    }

    /// Whether anybody holds a mapping of the file.
    pub(super) fn holds_any(&self, file: FileId) -> bool {
        self.of_file.contains_key(&file)
    }

    /// What keeps `made` from sharing with mappings of its file that are held now.
    pub(super) fn unlike(&self, made: &Made, most: usize) -> Vec<Unlike> {
        let own = Key::of(made);
        let keys = self.sharing.get(&made.file).into_iter().flatten();
        keys.filter(|(key, _)| **key != own)
            .filter_map(|(key, held)| {
                Some(Unlike { other: *held.first()?, elsewhere: key.place != own.place })
            })
            .take(most)
            .collect()
    }

    /// Who held what before operation `op`.
    pub(super) fn at(&self, op: usize) -> HashMap<MappingId, BTreeSet<Space>> {
        let mut held: HashMap<MappingId, BTreeSet<Space>> = HashMap::new();
        for change in self.log.iter().take_while(|change| change.op <= op) {
            let spaces = held.entry(change.mapping).or_default();
            if change.holds {
                spaces.insert(change.space);
            } else {
                spaces.remove(&change.space);
                if spaces.is_empty() {
                    held.remove(&change.mapping);
                }
            }
        }
        held
    }

    fn note(&mut self, op: usize, space: Option<Space>, mapping: MappingId, holds: bool) {
        self.log.extend(space.map(|space| Change { op, space, mapping, holds }));
    }
}
