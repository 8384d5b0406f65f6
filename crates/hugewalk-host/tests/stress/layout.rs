//! What threads do to the mappings of a process, while others use them.

use hugewalk::Task;
use hugewalk::mm::{Advice, Backing, MapError, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::vma::Protection;

use crate::access::explained;
use crate::ledger::Zapped;
use crate::process::{
    ANONYMOUS, COPY, Process, SHARED, State, at, end_zap, file_of, length, offset, other_place,
};
use crate::tag::{PAGES, Random};
use crate::world::{Host, MIB2, World};

fn check(what: &str, result: Result<(), MapError>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            assert!(explained(&error), "{what}: {error}");
            false
        }
    }
}

fn run_of_pages(random: &mut Random) -> core::ops::Range<usize> {
    if random.one_in(3) {
        return 0..PAGES;
    }
    let start = random.below(PAGES);
    start..start + 1 + random.below(PAGES - start)
}

/// From the first of some pages to the end of the last; whole mappings whole.
fn bytes(world: &World, region: usize, pages: &core::ops::Range<usize>) -> (u64, u64) {
    if *pages == (0..PAGES) {
        return (0, length(region));
    }
    let start = offset(world, region, pages.start);
    (start, offset(world, region, pages.end - 1) + MIB2 - start)
}

/// Maps a region, in place of what is there.
pub(crate) fn map(
    world: &World,
    process: &Process,
    region: usize,
    task: &mut Task<Host>,
    random: &mut Random,
) {
    let change = process.regions[region].change();
    let zap = process.regions[region].zap(world, 0..PAGES);
    let state = change.state();
    let mut flags = MapFlags::empty();
    flags.set(MapFlags::SHARED, process.regions[region].ledger.is_none());
    let reserve = match region {
        SHARED | ANONYMOUS => true,
        COPY => random.one_in(2),
        _ => false,
    };
    flags.set(MapFlags::NORESERVE, !reserve);
    flags.set(MapFlags::POPULATE, region >= ANONYMOUS && length(region) < 1 << 30 && random.one_in(8));
    let writable = !random.one_in(8);
    let protection = if writable { Protection::READ | Protection::WRITE } else { Protection::READ };
    let backing = match file_of(world, region) {
        Some(file) => Backing::File { file: &file.file, offset: 0 },
        None => Backing::Anonymous(world.size),
    };
    let request = MapRequest {
        placement: Placement::Fixed(at(state.base)),
        length: length(region),
        protection,
        flags,
        backing,
    };
    let owner = reserve && region != SHARED;
    change.reserve(owner);
    let result = process.space.mmap(task, &request);
    if check("mmap", result.map(|_| ())) {
        let writable = if writable { u8::MAX } else { 0 };
        change.set(State { mapped: true, writable, owner, ..state });
        end_zap(zap, Zapped::Surely);
    } else {
        // What was there may have given way to what could not be made.
        let gone = process.space.munmap(task, at(state.base), length(region));
        assert!(check("munmap", gone));
        change.set(State { mapped: false, ..state });
        end_zap(zap, Zapped::Surely);
    }
}

pub(crate) fn unmap(world: &World, process: &Process, region: usize, task: &mut Task<Host>) {
    let change = process.regions[region].change();
    let zap = process.regions[region].zap(world, 0..PAGES);
    let state = change.state();
    let result = process.space.munmap(task, at(state.base), length(region));
    assert!(check("munmap", result));
    change.set(State { mapped: false, ..state });
    end_zap(zap, Zapped::Surely);
}

pub(crate) fn protect(
    world: &World,
    process: &Process,
    region: usize,
    task: &mut Task<Host>,
    random: &mut Random,
) {
    let change = process.regions[region].change();
    let state = change.state();
    if !state.mapped {
        return;
    }
    let pages = run_of_pages(random);
    let (start, length) = bytes(world, region, &pages);
    let writable = !random.one_in(3);
    let protection = if writable { Protection::READ | Protection::WRITE } else { Protection::READ };
    let result = process.space.mprotect(task, at(state.base + start), length, protection);
    assert!(check("mprotect", result));
    let bits = pages.fold(0, |bits, page| bits | 1 << page);
    let writable = if writable { state.writable | bits } else { state.writable & !bits };
    change.set(State { writable, ..state });
}

/// Moves a region to its other place, where nothing lies.
pub(crate) fn relocate(process: &Process, region: usize, task: &mut Task<Host>) {
    let change = process.regions[region].change();
    let state = change.state();
    if !state.mapped {
        return;
    }
    let (old, new, length) = (at(state.base), other_place(region, state.base), length(region));
    match process.space.mremap(task, old, length, length, RemapTo::Fixed(at(new))) {
        Ok(_) => change.set(State { base: new, ..state }),
        // It has been split since it was mapped.
        Err(MapError::BadAddress { .. }) => {}
        Err(error) => panic!("mremap: {error}"),
    }
}

pub(crate) fn advise(
    world: &World,
    process: &Process,
    region: usize,
    task: &mut Task<Host>,
    random: &mut Random,
) {
    let place = &process.regions[region];
    let pages = run_of_pages(random);
    let (start, length) = bytes(world, region, &pages);
    let populate = random.below(6);
    let advice = match populate {
        0 => Advice::PopulateRead,
        1 => Advice::PopulateWrite,
        _ => Advice::DontNeed,
    };
    // A whole gibibyte of pages is more than there is.
    if advice != Advice::DontNeed && length > 16 * MIB2 {
        return;
    }
    let zap = (advice == Advice::DontNeed).then(|| place.zap(world, pages.clone())).flatten();
    let view = place.view();
    let mut work = || process.space.madvise(task, at(view.state.base + start), length, advice);
    let result = if zap.is_some() { place.throwing(pages, work) } else { work() };
    let stable = place.unchanged(&view);
    match result {
        Ok(()) if stable && view.state.mapped => end_zap(zap, Zapped::Surely),
        Ok(()) => end_zap(zap, Zapped::Perhaps),
        Err(MapError::NotMapped { .. }) if !stable || !view.state.mapped => end_zap(zap, Zapped::Perhaps),
        Err(MapError::NotAllowed) if advice == Advice::PopulateWrite => {}
        Err(error) => assert!(explained(&error), "{advice:?}: {error} {view:?}"),
    }
}
