//! Calls that failed when they were recorded, tried again: how many pages they ask for, how many there are, and how to undo
//! one that succeeds here.

use hugewalk::file::HugeFile;
use hugewalk::mm::MapFlags;
use hugewalk::pool::PoolCounters;
use hugewalk::sync::Arc;
use hugewalk_host::Host;

use super::machine::{Machine, page_size};
use super::plan::{Act, Change, Map, Op};
use crate::trace::Outcome;

/// Pages of a file that are looked at one by one. A mapping of more asks for more than any pool has.
const LOOKED_AT: u64 = 1 << 21;

/// What a call that failed for want of memory asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The line of the call.
    pub(super) line: u32,
    /// The size of the pages, as a power of two.
    pub(super) shift: u32,
    /// Pages that had to be reserved for it.
    pub(super) asked: u64,
    /// Pages that could be reserved at that moment.
    pub(super) available: u64,
}

/// Did the recorded call fail for want of memory, as it does when the pool is empty?
pub(super) fn wanted_memory(op: &Op) -> bool {
    let is_reserving = match &op.act {
        Act::Map(map) => map.mapping.is_none(),
        Act::File(act) => matches!(act.change, Change::Segment { .. }),
        _ => false,
    };
    let failed_with = |name: &str| matches!(&op.recorded, Some(Outcome::Failed(errno)) if **errno == *name);
    is_reserving && failed_with("ENOMEM") || is_allocating(op) && failed_with("ENOSPC")
}

/// Does it bring pages into a file? Where it fails, those that it got so far stay there.
fn is_allocating(op: &Op) -> bool {
    matches!(&op.act, Act::File(act) if matches!(act.change, Change::Allocate { .. }))
}

impl Machine {
    /// What the operation is going to ask the pool for.
    pub(super) fn attempt(&mut self, op: &Op) -> Option<Attempt> {
        let (shift, asked) = match &op.act {
            Act::Map(map) => {
                let pages = map.length.div_ceil(1 << map.shift);
                let asked = match self.known(map) {
                    _ if map.flags.contains(MapFlags::NORESERVE) => 0,
                    Some(file) if map.flags.contains(MapFlags::SHARED) && pages <= LOOKED_AT => {
                        let first = map.offset >> map.shift;
                        self.without_reservation(&file, first..first.saturating_add(pages)).len() as u64
                    }
                    _ => pages,
                };
                (map.shift, asked)
            }
            Act::File(act) => match act.change {
                Change::Segment { length, reserved: true } => (act.shift, length >> act.shift),
                Change::Allocate { offset, length, .. } => {
                    let (first, end) =
                        (offset >> act.shift, offset.saturating_add(length).div_ceil(1 << act.shift));
                    let asked = match self.file(act.file, act.shift) {
                        Ok(file) if end - first <= LOOKED_AT => {
                            self.without_reservation(&file, first..end).len() as u64
                        }
                        _ => end - first,
                    };
                    (act.shift, asked)
                }
                _ => (act.shift, 0),
            },
            _ => return None,
        };
        let available = self.available(shift);
        Some(Attempt { line: op.line, shift, asked, available })
    }

    /// Pages of a size that could be reserved now.
    pub(super) fn available(&self, shift: u32) -> u64 {
        let pool = self.hugetlb.pool(page_size(shift));
        let PoolCounters { free, reserved, surplus, .. } = pool.counters();
        free.saturating_sub(reserved).saturating_add(pool.overcommit().saturating_sub(surplus))
    }

    /// The pages of a file that are neither there nor reserved: what mapping them takes from the pool. Changes nothing.
    fn without_reservation(&mut self, file: &Arc<HugeFile<Host>>, pages: std::ops::Range<u64>) -> Vec<u64> {
        let size = file.size_class();
        let shift = size.shift();
        let mut missing = Vec::new();
        for page in pages {
            let Some(at) = page.checked_mul(size.bytes()) else { break };
            let before = self.hugetlb.pool(size).counters().reserved;
            let reserved = file.reserve(&mut self.task, at, 1 << shift);
            match reserved {
                Ok(()) if self.hugetlb.pool(size).counters().reserved == before => continue,
                Ok(()) => give_back(self, file, page),
                Err(_) => {}
            }
            missing.push(page);
        }
        missing
    }

    /// The file that is mapped, if others may know it.
    fn known(&mut self, map: &Map) -> Option<Arc<HugeFile<Host>>> {
        if map.anonymous { None } else { self.file(map.file, map.shift).ok() }
    }

    /// What a mapping is going to leave in its file, to be taken back if it succeeds where the recorded one failed.
    pub(super) fn before_in_vain(&mut self, map: &Map) -> Option<Traces> {
        let file = self.known(map).filter(|_| map.flags.contains(MapFlags::SHARED))?;
        let first = map.offset >> map.shift;
        let pages = map.length.div_ceil(1 << map.shift).min(LOOKED_AT);
        let size = file.size();
        let reserved = self.without_reservation(&file, first..first.saturating_add(pages));
        Some(Traces { file, size, reserved })
    }

    /// The mapping is gone again: what it left behind in its file goes, too.
    pub(super) fn undo(&mut self, traces: Traces) {
        for page in traces.reserved {
            give_back(self, &traces.file, page);
        }
        if traces.file.size() > traces.size {
            let _ = traces.file.truncate(&mut self.task, traces.size);
        }
    }
}

fn give_back(machine: &mut Machine, file: &Arc<HugeFile<Host>>, page: u64) {
    let bytes = file.size_class().bytes();
    let _ = file.unreserve(&mut machine.task, page.saturating_mul(bytes), bytes);
}

/// What a mapping leaves in its file when it goes.
pub(super) struct Traces {
    file: Arc<HugeFile<Host>>,
    size: u64,
    reserved: Vec<u64>,
}
