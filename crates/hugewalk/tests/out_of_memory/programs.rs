//! Programs that between them make every call, with the allocations each of them can need.

use hugewalk::arch::X86_64;
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, MapFlags, Placement, RemapTo};
use hugewalk::vma::Protection;

use crate::common::{GIB, M2, RW, SMALL, at};
use crate::model::{Call, Map, What};

pub(crate) type Program = fn() -> Vec<Call>;

pub(crate) const PROGRAMS: [(&str, Program); 7] = [
    ("shared tables", shared_tables),
    ("private pages", private_pages),
    ("files", files),
    ("mount and surplus", mount_and_surplus),
    ("replacing", replacing),
    ("many pages", many_pages),
    ("several mappings", several_mappings),
];

const SHARED: MapFlags = MapFlags::SHARED;
const PRIVATE: MapFlags = MapFlags::empty();
const HERE: u64 = 64 * GIB;
const THERE: u64 = 70 * GIB;

fn begin(pages: u64, mount: Option<usize>) -> Vec<Call> {
    vec![
        Call::Resize { size: SMALL, pages },
        Call::NewProcess { process: 0 },
        Call::NewFile { slot: 0, size: SMALL, mount },
    ]
}

fn map(process: usize, slot: usize, offset: u64, address: u64, length: u64, flags: MapFlags) -> Call {
    let what = What::File { slot, offset };
    let map = Map { what, placement: Placement::Fixed(at(address)), length, rights: RW, flags };
    Call::Map { process, map }
}

fn anonymous(process: usize, length: u64, flags: MapFlags) -> Call {
    let what = What::Anonymous(X86_64::SIZE_2M);
    Call::Map { process, map: Map { what, placement: Placement::Anywhere, length, rights: RW, flags } }
}

fn store(process: usize, address: u64, value: u8) -> Call {
    Call::Store { process, address, value }
}

fn load(process: usize, address: u64) -> Call {
    Call::Load { process, address, access: Access::Read }
}

fn protect(process: usize, address: u64, length: u64, rights: Protection) -> Call {
    Call::Protect { process, address, length, rights }
}

fn remap(process: usize, old: u64, length: u64, new_length: u64, new: u64) -> Call {
    Call::Remap { process, old, old_length: length, new_length, to: RemapTo::Fixed(at(new)) }
}

fn advise(process: usize, address: u64, length: u64, advice: Advice) -> Call {
    Call::Advise { process, address, length, advice }
}

fn shared_tables() -> Vec<Call> {
    let mut calls = begin(12, None);
    calls.extend([
        map(0, 0, 0, HERE, 2 * GIB, SHARED | MapFlags::NORESERVE),
        store(0, HERE, 1),
        store(0, HERE + GIB + M2, 2),
        Call::Fork { from: 0, to: 1 },
        load(1, HERE),
        load(1, HERE + GIB + M2),
        protect(1, HERE + M2, M2, Protection::READ),
        load(1, HERE),
        store(1, HERE + 2 * M2, 3),
        Call::Fork { from: 1, to: 2 },
        load(2, HERE + GIB + M2),
        remap(2, HERE + GIB, GIB, GIB, THERE),
        load(2, THERE + M2),
        remap(2, HERE, M2, M2, THERE - 3 * M2),
        remap(2, THERE - 3 * M2, M2, M2, 600 * GIB),
        remap(2, THERE, GIB, GIB / 2, 511 * GIB + GIB - 3 * M2),
        store(2, 511 * GIB + GIB - 2 * M2, 4),
        Call::Unmap { process: 1, address: HERE + 4 * M2, length: M2 },
        advise(0, HERE, M2, Advice::DontNeed),
        advise(0, HERE + GIB, 2 * M2, Advice::Remove),
        Call::Exit { process: 1 },
        Call::Truncate { slot: 0, size: GIB },
        Call::Close { slot: 0 },
        Call::Exit { process: 0 },
    ]);
    calls
}

fn private_pages() -> Vec<Call> {
    let mut calls = begin(8, None);
    calls.extend([
        Call::Write { slot: 0, offset: M2 - 1, bytes: vec![1, 2] },
        map(0, 0, 0, HERE, 4 * M2, PRIVATE),
        load(0, HERE),
        store(0, HERE, 3),
        store(0, HERE + 2 * M2, 4),
        Call::Fork { from: 0, to: 1 },
        store(1, HERE, 5),
        store(0, HERE, 6),
        remap(0, HERE + M2, 3 * M2, 2 * M2, 512 * GIB - M2),
        store(0, 512 * GIB - M2, 7),
        protect(0, HERE, M2, Protection::READ),
        protect(1, HERE + M2, 2 * M2, Protection::empty()),
        anonymous(1, 2 * M2, PRIVATE),
        // Nothing is left: the owner takes its page from the child.
        anonymous(0, 2 * M2, PRIVATE),
        Call::Fork { from: 1, to: 2 },
        store(0, 512 * GIB, 8),
        store(0, 512 * GIB - M2, 9),
        Call::Punch { slot: 0, offset: 0, length: M2 },
        Call::Exit { process: 0 },
        Call::Exit { process: 1 },
    ]);
    calls
}

fn files() -> Vec<Call> {
    let mut calls = begin(24, None);
    calls.extend([
        Call::Allocate { slot: 0, offset: M2, length: 3 * M2, keep_size: false },
        Call::Allocate { slot: 0, offset: 600 * M2, length: M2, keep_size: true },
        Call::Write { slot: 0, offset: 5 * M2 - 2, bytes: vec![1, 2, 3, 4] },
        map(0, 0, 0, HERE, 9 * M2, SHARED),
        map(0, 0, 4 * M2, HERE + 20 * M2, 8 * M2, PRIVATE),
        store(0, HERE + 7 * M2, 1),
        store(0, HERE + 21 * M2, 1),
        Call::Punch { slot: 0, offset: M2 + 1, length: 4 * M2 },
        Call::Punch { slot: 0, offset: 5 * M2, length: M2 },
        advise(0, HERE + 2 * M2, 4 * M2, Advice::PopulateWrite),
        Call::Read { slot: 0, offset: 5 * M2 - 4, length: 8 },
        Call::Truncate { slot: 0, size: 3 * M2 },
        Call::Truncate { slot: 0, size: 9 * M2 },
        advise(0, HERE, 9 * M2, Advice::PopulateRead),
        Call::NewFile { slot: 1, size: X86_64::SIZE_1G, mount: None },
        Call::Resize { size: X86_64::SIZE_1G, pages: 2 },
        map(0, 1, 0, THERE, 2 * GIB, SHARED),
        store(0, THERE, 5),
        protect(0, THERE + GIB, GIB, Protection::READ),
        Call::Fork { from: 0, to: 1 },
        load(1, THERE),
    ]);
    calls
}

fn mount_and_surplus() -> Vec<Call> {
    let mut calls = vec![
        Call::Resize { size: SMALL, pages: 3 },
        Call::Overcommit { size: SMALL, pages: 6 },
        Call::NewMount { slot: 0, max: Some(8), min: Some(2) },
        Call::NewFile { slot: 0, size: SMALL, mount: Some(0) },
        Call::NewProcess { process: 0 },
    ];
    calls.extend([
        map(0, 0, 0, HERE, 3 * M2, SHARED),
        map(0, 0, 0, THERE, 4 * M2, PRIVATE),
        store(0, THERE, 1),
        store(0, HERE, 2),
        Call::Fork { from: 0, to: 1 },
        store(1, THERE, 3),
        store(0, THERE, 4),
        Call::Allocate { slot: 0, offset: 4 * M2, length: M2, keep_size: false },
        Call::Unmap { process: 0, address: THERE + M2, length: M2 },
        map(0, 0, 9 * M2, THERE + 9 * M2, 2 * M2, SHARED | MapFlags::NORESERVE),
        store(0, THERE + 9 * M2, 5),
        Call::Resize { size: SMALL, pages: 6 },
        Call::NewMount { slot: 1, max: None, min: Some(1) },
        Call::CloseMount { slot: 0 },
        Call::Close { slot: 0 },
        Call::Exit { process: 1 },
    ]);
    calls
}

fn replacing() -> Vec<Call> {
    let mut calls = begin(40, None);
    calls.push(Call::NewFile { slot: 1, size: SMALL, mount: None });
    for piece in 0..6 {
        calls.push(map(0, (piece % 2) as usize, piece * M2, HERE + 2 * piece * M2, 2 * M2, SHARED));
        calls.push(store(0, HERE + 2 * piece * M2, piece as u8));
    }
    calls.extend([
        map(0, 0, 0, HERE + M2, 10 * M2, PRIVATE),
        map(0, 1, 0, HERE + 4 * M2, 2 * M2, SHARED),
        Call::Unmap { process: 0, address: HERE + 3 * M2, length: 4 * M2 },
        protect(0, HERE, 3 * M2, Protection::READ),
        protect(0, HERE + 7 * M2, 4 * M2, Protection::READ),
        remap(0, HERE + 8 * M2, 2 * M2, M2, HERE + M2),
        anonymous(0, 2 * M2, SHARED),
        Call::Fork { from: 0, to: 1 },
        map(1, 1, 0, HERE, 12 * M2, SHARED),
        Call::Unmap { process: 1, address: HERE, length: GIB },
    ]);
    calls
}

/// More pages than a gather, a page cache's chunk or a region map has room for at once.
fn many_pages() -> Vec<Call> {
    let mut calls = begin(40, None);
    calls.push(map(0, 0, 0, HERE, 600 * M2, SHARED | MapFlags::NORESERVE));
    calls.extend((0..14).map(|page| store(0, HERE + 43 * page * M2, page as u8)));
    calls.extend([
        map(0, 0, 0, THERE, 600 * M2, PRIVATE | MapFlags::NORESERVE),
        advise(0, THERE, 2 * M2, Advice::PopulateWrite),
        Call::Punch { slot: 0, offset: 0, length: 200 * M2 },
        advise(0, HERE, 400 * M2, Advice::DontNeed),
        Call::Fork { from: 0, to: 1 },
        Call::Unmap { process: 0, address: HERE, length: 600 * M2 },
        Call::Truncate { slot: 0, size: 100 * M2 },
    ]);
    calls
}

/// Moves of several mappings, and of some with a hole between them.
fn several_mappings() -> Vec<Call> {
    let mut calls = begin(12, None);
    for piece in 0..3 {
        calls.push(map(0, 0, piece * M2, HERE + 2 * piece * M2, 2 * M2, SHARED));
        calls.push(store(0, HERE + 2 * piece * M2, piece as u8));
    }
    calls.extend([
        protect(0, HERE + 2 * M2, M2, Protection::READ),
        // From the middle of the first to the middle of the last.
        remap(0, HERE + M2, 4 * M2, 4 * M2, THERE),
        load(0, THERE + M2),
        Call::Unmap { process: 0, address: THERE + M2, length: M2 },
        remap(0, THERE, 4 * M2, 4 * M2, 600 * GIB - M2),
        store(0, 600 * GIB + M2, 4),
        Call::Unmap { process: 0, address: 600 * GIB - M2, length: 4 * M2 },
    ]);
    calls
}
