//! `hugepage-mremap`: mappings of a gigabyte and more, whose tables are shared, move: to places that are aligned as they were
//! and to others, registered with userfaultfd or not; what is in them stays.

use hugewalk::addr::VirtAddr;
use hugewalk::mm::{MapError, RemapTo};
use hugewalk::uffd::{Features, Message, Modes, Userfault};
use hugewalk_host::Cpu;

use crate::pages::{File, Space, Worker, users};
use crate::setup::{GIB, MIB2, Machine, SHARED, after, check_bytes, cpu, write_bytes};

/// The selftest shares tables from 1024 MB on.
const LENGTH: u64 = GIB + 64 * MIB2;
const PAGES: u64 = LENGTH / MIB2;
const HERE: VirtAddr = VirtAddr::new(0x7e_0000_0000);
const THERE: VirtAddr = VirtAddr::new(0x7d_0000_0000);

/// Two processes that have written all of a file between them, and share the table of its whole gigabyte.
struct Sharers {
    machine: Machine,
    file: File,
    mover: Space,
    cpu: Cpu,
    other: Space,
}

impl Sharers {
    fn new() -> Self {
        let mut machine = Machine::new(PAGES + 2);
        let file = machine.file(PAGES);
        let (mover, other) = (machine.process(), machine.process());
        for space in [&mover, &other] {
            machine.map(space, &file, HERE, LENGTH, SHARED);
        }
        let mut cpu = cpu(&mover);
        write_bytes(&mut cpu, &mut machine.task, HERE, LENGTH);
        let mut others = crate::setup::cpu(&other);
        check_bytes(&mut others, &mut machine.task, HERE, LENGTH);
        assert_eq!(users(&mut machine.task, &mover), 2);
        Self { machine, file, mover, cpu, other }
    }

    fn end(self) {
        let Self { mut machine, file, mover, cpu, other } = self;
        check_bytes(&mut crate::setup::cpu(&other), &mut machine.task, HERE, LENGTH);
        drop((cpu, mover, other, file));
        machine.end();
    }
}

#[test]
fn a_shared_gigabyte_moves_and_what_is_in_it_survives() {
    for (offset, shares_again) in [(0, true), (GIB, true), (MIB2, false), (GIB - 64 * MIB2, false)] {
        let mut sharers = Sharers::new();
        let to = after(THERE, offset);
        let task = &mut sharers.machine.task;
        let moved = sharers.mover.mremap(task, HERE, LENGTH, LENGTH, RemapTo::Fixed(to));
        assert_eq!(moved, Ok(to));
        // The other one is alone with the table.
        assert_eq!(users(task, &sharers.other), 1);
        assert!(sharers.cpu.load(task, HERE).is_err(), "the old place is not mapped any more");
        check_bytes(&mut sharers.cpu, task, to, LENGTH);
        assert_eq!(users(task, &sharers.other), if shares_again { 2 } else { 1 });
        // And back: tables that nobody shared are moved as they are.
        sharers.mover.mremap(task, to, LENGTH, LENGTH, RemapTo::Fixed(HERE)).unwrap();
        check_bytes(&mut sharers.cpu, task, HERE, LENGTH);
        assert_eq!(users(task, &sharers.other), if shares_again { 2 } else { 1 });
        sharers.end();
    }
}

#[test]
fn a_part_of_a_shared_gigabyte_moves_and_leaves_a_hole() {
    let mut sharers = Sharers::new();
    let task = &mut sharers.machine.task;
    let (from, length) = (after(HERE, 100 * MIB2), 300 * MIB2);
    sharers.mover.mremap(task, from, length, length, RemapTo::Fixed(THERE)).unwrap();
    for page in [0, 99, 100, 399, 400, PAGES - 1] {
        let old = sharers.cpu.load(task, after(HERE, page * MIB2));
        let moved = (100..400).contains(&page);
        assert_eq!(old.ok(), (!moved).then_some(page as u8), "page {page}");
        if moved {
            assert_eq!(sharers.cpu.load(task, after(THERE, (page - 100) * MIB2)), Ok(page as u8));
        }
    }
    // With a hole in it the gigabyte cannot share.
    assert_eq!(users(task, &sharers.other), 1);
    sharers.end();
}

#[test]
fn a_mapping_shrinks_on_the_way_and_never_grows_or_moves_onto_itself() {
    let mut sharers = Sharers::new();
    let task = &mut sharers.machine.task;
    let grows = sharers.mover.mremap(task, HERE, LENGTH, LENGTH + MIB2, RemapTo::Anywhere);
    assert_eq!(grows, Err(MapError::Grows));
    let onto = sharers.mover.mremap(task, HERE, LENGTH, LENGTH, RemapTo::Fixed(after(HERE, GIB)));
    assert_eq!(onto, Err(MapError::Overlaps));
    // Refused, and nothing has happened to it.
    assert_eq!(users(task, &sharers.other), 2);
    sharers.mover.mremap(task, HERE, LENGTH, GIB, RemapTo::Fixed(THERE)).unwrap();
    check_bytes(&mut sharers.cpu, task, THERE, GIB);
    assert!(sharers.cpu.load(task, after(THERE, GIB)).is_err());
    assert!(sharers.cpu.load(task, after(HERE, GIB)).is_err());
    sharers.end();
}

/// The selftest registers the range first. Missing faults alone do not forbid to share.
#[test]
fn a_registered_gigabyte_moves_too_and_its_handler_is_told() {
    for features in [Features::empty(), Features::EVENT_REMAP] {
        let mut sharers = Sharers::new();
        let uffd = Userfault::new(&sharers.mover, features).unwrap();
        uffd.register(&mut sharers.machine.task, HERE, LENGTH, Modes::MISSING).unwrap();
        let mover = sharers.mover.clone();
        let moving = Worker::start(&sharers.machine.hugetlb, move |task| {
            mover.mremap(task, HERE, LENGTH, LENGTH, RemapTo::Fixed(THERE))
        });
        let task = &mut sharers.machine.task;
        if features == Features::EVENT_REMAP {
            let message = uffd.read_event(task).unwrap();
            let Message::Remap { from, to, length } = message else { panic!("{message:?}") };
            assert_eq!((from, to, length), (HERE, THERE, LENGTH));
        }
        assert_eq!(moving.result(), Ok(THERE));
        check_bytes(&mut sharers.cpu, task, THERE, LENGTH);
        assert!(!uffd.poll(), "no page is missing");
        // Another mapping of the file with the same flags shares with it; with others it does not.
        let alike = features.is_empty();
        assert_eq!(users(task, &sharers.other), if alike { 2 } else { 1 });
        uffd.close(task).unwrap();
        sharers.end();
    }
}
