//! What threads do to files and to the pool.

use hugewalk::Task;
use hugewalk::file::FileError;
use hugewalk::mm::{Advice, MapError};

use crate::access::{Writer, word_offset};
use crate::ledger::Zapped;
use crate::process::{Process, at, file_of, offset};
use crate::tag::{PAGES, Random, Tag, WRITERS};
use crate::world::{File, Host, MIB2, POOL, World};

fn check(what: &str, result: Result<(), FileError>) -> bool {
    match result {
        Ok(()) => true,
        Err(FileError::PoolEmpty(_) | FileError::SubPoolFull(_)) => false,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Makes a file shorter, or longer again. Never empty.
pub(crate) fn truncate(world: &World, file: &File, task: &mut Task<Host>, random: &mut Random) {
    if !file.shrinks || random.one_in(3) {
        // Longer, if anything, than it ever has to be.
        let size = file.offsets[PAGES - 1] + 1;
        assert!(check("truncate", file.file.truncate(task, size * MIB2)));
        return;
    }
    let first = 1 + random.below(PAGES - 1);
    let zap = file.ledger.zap(first..PAGES, &world.finished);
    let size = file.offsets[first] * MIB2;
    assert!(check("truncate", file.file.truncate(task, size)));
    zap.end(Zapped::WithCopies);
}

/// Punches a hole: whole pages, or the half of the words of one.
pub(crate) fn punch(world: &World, file: &File, task: &mut Task<Host>, random: &mut Random) {
    let first = random.below(PAGES);
    let start = file.offsets[first] * MIB2;
    if random.one_in(4) {
        let zap = file.ledger.zap(first..first + 1, &world.finished);
        let half = word_offset(WRITERS / 2);
        assert!(check("punch_hole", file.file.punch_hole(task, start, half)));
        zap.end(Zapped::Perhaps);
        return;
    }
    let end = first + 1 + random.below(PAGES - first);
    let zap = file.ledger.zap(first..end, &world.finished);
    let length = (file.offsets[end - 1] + 1) * MIB2 - start;
    assert!(check("punch_hole", file.file.punch_hole(task, start, length)));
    zap.end(Zapped::Surely);
}

/// The same through a mapping.
pub(crate) fn remove(
    world: &World,
    process: &Process,
    region: usize,
    task: &mut Task<Host>,
    random: &mut Random,
) {
    let Some(file) = file_of(world, region) else {
        return;
    };
    let page = random.below(PAGES);
    let view = process.regions[region].view();
    let zap = file.ledger.zap(page..page + 1, &world.finished);
    let address = at(view.state.base + offset(world, region, page));
    let result = process.space.madvise(task, address, MIB2, Advice::Remove);
    let stable = process.regions[region].unchanged(&view);
    match result {
        Ok(()) => zap.end(if stable { Zapped::Surely } else { Zapped::Perhaps }),
        Err(MapError::NotMapped { .. }) if !stable || !view.state.mapped => zap.end(Zapped::Perhaps),
        // Private, or not writable.
        Err(MapError::AccessDenied) => zap.end(Zapped::Perhaps),
        Err(error) => panic!("MADV_REMOVE: {error}"),
    }
}

pub(crate) fn allocate(file: &File, task: &mut Task<Host>, random: &mut Random) {
    let first = file.offsets[random.below(PAGES)];
    check("allocate", file.file.allocate(task, first * MIB2, MIB2, random.one_in(2)));
}

/// Writes words through the file, beyond those of the processors: a copy byte by byte may be seen half done, but for the
/// half that is always the same.
pub(crate) fn write(file: &File, task: &mut Task<Host>, writer: &mut Writer, random: &mut Random) {
    let page = random.below(PAGES);
    let (owner, sequence) = (file.number, writer.next());
    let tag = Tag { private: false, owner, page, writer: writer.number, sequence };
    let offset = file.offsets[page] * MIB2 + word_offset(WRITERS + writer.number);
    check("write_at", file.file.write_at(task, offset, &tag.encode().to_le_bytes()));
}

pub(crate) fn read(file: &File, random: &mut Random) {
    let (page, word) = (random.below(PAGES), random.below(2 * WRITERS));
    let mut bytes = [0; 8];
    let count = file.file.read_at(file.offsets[page] * MIB2 + word_offset(word), &mut bytes).unwrap();
    if count < bytes.len() {
        return;
    }
    let value = u64::from_le_bytes(bytes);
    let expected = Tag { private: false, owner: file.number, page, writer: word % WRITERS, sequence: 0 };
    // Zeroing and writing may be seen half done; but a byte is either the word's own or zero.
    let foreign = (value & !u64::from(u32::MAX)) & !expected.encode();
    assert_eq!(foreign, 0, "read_at finds {:?} where {expected:?} belongs", Tag::decode(value));
}

/// Makes the pool larger or smaller, mostly too small.
pub(crate) fn resize(world: &World, random: &mut Random) {
    let pages = POOL - 60 + random.next() % 80;
    let reached = world.hugetlb.resize_pool(world.size, pages);
    assert!(reached <= pages.max(POOL + 80), "the pool has {reached} pages, {pages} were asked for");
    let pool = world.hugetlb.pool(world.size);
    if random.one_in(4) {
        pool.set_overcommit(random.next() % 6);
    }
    let counters = pool.counters();
    assert!(counters.reserved <= counters.free && counters.free <= counters.total, "{counters:?}");
    assert!(counters.surplus <= counters.total, "{counters:?}");
    let (used, left) = (world.mount.usage().0, world.mount.left());
    assert!(
        used <= 14 && left.is_some_and(|left| left <= 14),
        "the mount is overdrawn: {used}, {left:?} left"
    );
}
