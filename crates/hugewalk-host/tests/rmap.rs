//! From a page to the entries that map it.

mod pages;

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, LeafFlags, PMD_SIZE, PUD_SIZE};
use hugewalk::error::Errno;
use hugewalk::fault::{Access, Fault};
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::rmap::PageError;
use pages::*;

#[test]
fn unmapping_a_page_finds_it_wherever_it_is_mapped() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 4);
    let spaces: Vec<_> = (0..3).map(|_| space(&hugetlb)).collect();
    // Shared twice in one address space, at other offsets; shared in another; private and only read in a third.
    map(&mut task, &spaces[0], &file, MapFlags::SHARED);
    let request = MapRequest {
        placement: Placement::Fixed(page(100)),
        length: 2 * PMD_SIZE,
        protection: RW,
        flags: MapFlags::SHARED,
        backing: Backing::File { file: &file, offset: 2 * PMD_SIZE },
    };
    spaces[0].mmap(&mut task, &request).unwrap();
    map(&mut task, &spaces[1], &file, MapFlags::SHARED);
    map(&mut task, &spaces[2], &file, MapFlags::empty());
    let places = [(0, page(3)), (0, page(101)), (1, page(3)), (2, page(3))];
    let mut cpus: Vec<_> = spaces.iter().map(cpu).collect();
    cpus[0].store(&mut task, page(3), 5).unwrap();
    cpus[0].store(&mut task, page(2), 6).unwrap();
    for (space, at) in places {
        assert_eq!(cpus[space].load(&mut task, at), Ok(5));
    }
    let there = frame(&task, &spaces[0], page(3));
    hugetlb.unmap_page(&mut task, there).unwrap();
    for (space, at) in places {
        assert_eq!(entry(&task, &spaces[space], at), Entry::None);
    }
    assert!(matches!(entry(&task, &spaces[0], page(2)), Entry::Leaf(_)));
    assert_eq!(spaces.iter().map(|space| space.mm().resident()).collect::<Vec<_>>(), [1, 0, 0]);
    // It is in the file, and is found there.
    for (space, at) in places {
        assert_eq!(spaces[space].fault(&mut task, at, Access::Read), Ok(Fault::Mapped));
        assert_eq!(cpus[space].load(&mut task, at), Ok(5));
    }
    drop(cpus);
    spaces.iter().for_each(|space| space.exit(&mut task).unwrap());
    drop((spaces, file));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn unmapping_refuses_what_has_no_other_copy_and_finds_what_moved() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 4);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::empty());
    cpu(&space).store(&mut task, page(1), 5).unwrap();
    let private = frame(&task, &space, page(1));
    assert_eq!(hugetlb.unmap_page(&mut task, private), Err(PageError::Private));
    assert_eq!(PageError::Private.errno(), Errno::EINVAL);
    // Moved and split, a mapping keeps the offsets of its pages, by which they are found.
    space.mremap(&mut task, page(0), 4 * PMD_SIZE, 4 * PMD_SIZE, RemapTo::Fixed(page(700))).unwrap();
    space.munmap(&mut task, page(700), PMD_SIZE).unwrap();
    let moved = hugetlb.migrate(&mut task, private).unwrap();
    assert_eq!(frame(&task, &space, page(701)), moved);
    assert_eq!(cpu(&space).load(&mut task, page(701)), Ok(5));
}

#[test]
fn a_private_page_outlives_its_file_and_mapping_when_it_is_pinned() {
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1);
    let space = space(&hugetlb);
    map(&mut task, &space, &file, MapFlags::empty());
    cpu(&space).store(&mut task, page(0), 5).unwrap();
    let private = frame(&task, &space, page(0));
    let pin = space.pin_pages(&mut task, page(0), 1, GupFlags::PIN | GupFlags::WRITE).unwrap();
    space.exit(&mut task).unwrap();
    drop((space, file));
    assert_eq!(hugetlb.referenced(&mut task, private), Ok(0));
    assert_eq!(hugetlb.migrate(&mut task, private), Err(PageError::Held { references: 1 }));
    drop(pin);
    assert_eq!(hugetlb.referenced(&mut task, private), Err(PageError::NotInUse));
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn a_table_that_many_share_counts_once_as_referenced() {
    let (hugetlb, mut task) = system(8);
    let (file, spaces) = sharers(&hugetlb, &mut task, 5);
    let shared = frame(&task, &spaces[0], page(0));
    // Two with tables of their own: at an address where no table can be shared, and private.
    let apart = VirtAddr::new(START + 8 * PUD_SIZE + PMD_SIZE);
    map_at(&mut task, &spaces[1], &file, apart, 4 * PMD_SIZE, MapFlags::SHARED | MapFlags::NORESERVE);
    cpu(&spaces[1]).load(&mut task, apart).unwrap();
    let private = space(&hugetlb);
    map(&mut task, &private, &file, MapFlags::NORESERVE);
    cpu(&private).load(&mut task, page(0)).unwrap();

    assert_eq!(hugetlb.referenced(&mut task, shared), Ok(3));
    assert_eq!(hugetlb.referenced(&mut task, shared), Ok(0));
    assert!(!leaf(&task, &spaces[4], page(0)).flags.contains(LeafFlags::ACCESSED));
    // Used by one of them, it is young for all.
    cpu(&spaces[3]).load(&mut task, page(0)).unwrap();
    assert_eq!(hugetlb.referenced(&mut task, shared), Ok(1));
    // Nothing was unshared for that.
    assert_eq!(users(&mut task, &spaces[0]), 5);
}

#[test]
fn more_shared_tables_than_are_remembered_are_still_visited_once_each() {
    const KINDS: u64 = 12;
    let (hugetlb, mut task) = system(8);
    let file = file(&mut task, 1024);
    // Each pair lies otherwise in its gigabytes than the other pairs, and shares a table of its own.
    let pairs: Vec<_> = (0..2 * KINDS).map(|n| (space(&hugetlb), n / 2)).collect();
    for (space, kind) in &pairs {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        map_at(&mut task, space, &file, page(*kind), 2 * PUD_SIZE, flags);
        cpu(space).load(&mut task, page(kind + 512)).unwrap();
        assert_eq!(
            users(&mut task, space),
            1 + u64::from(!core::ptr::eq(space, &pairs[*kind as usize * 2].0))
        );
    }
    let shared = frame(&task, &pairs[0].0, page(512));
    assert_eq!(hugetlb.referenced(&mut task, shared), Ok(KINDS));
    assert_eq!(hugetlb.referenced(&mut task, shared), Ok(0));
}

#[test]
fn unmapping_a_page_unshares_the_tables_it_lies_in_and_no_more_than_that() {
    let (hugetlb, mut task) = system(8);
    let (file, spaces) = sharers(&hugetlb, &mut task, 4);
    cpu(&spaces[2]).store(&mut task, page(1), 9).unwrap();
    let shared = frame(&task, &spaces[0], page(0));
    hugetlb.unmap_page(&mut task, shared).unwrap();
    let with_table = |task: &mut Task<_>| spaces.iter().filter(|space| users(task, space) > 0).count();
    assert_eq!(with_table(&mut task), 1);
    assert_eq!(hugetlb.platform().event_counts().unshared, 3);
    for space in &spaces {
        assert_eq!(cpu(space).load(&mut task, page(1)), Ok(9));
    }
    assert_eq!(users(&mut task, &spaces[0]), 4);
    assert_eq!(cpu(&spaces[0]).load(&mut task, page(0)), Ok(1));
    spaces.iter().for_each(|space| space.exit(&mut task).unwrap());
    drop((spaces, file));
    assert_unused(&hugetlb, &mut task);
}

/// The try-lock with back-off: the VMA that is busy is left for later, and in the end it is alone with the table.
#[test]
fn a_busy_vma_lock_is_not_waited_for_if_the_others_can_leave_the_table_to_it() {
    let (hugetlb, mut task) = system(8);
    let (_file, spaces) = sharers(&hugetlb, &mut task, 3);
    let shared = frame(&task, &spaces[0], page(0));
    let mut reader = another(&hugetlb);
    let mmap = spaces[1].mmap_read(&mut reader);
    let vma = mmap.find(page(0)).unwrap();
    let locked = mmap.lock_vma(vma, &mut reader).unwrap();
    hugetlb.unmap_page(&mut task, shared).unwrap();
    assert_eq!(entry(&task, &spaces[1], page(0)), Entry::None);
    drop(locked);
}

/// S27 and S25: what is waited for comes after what is held.
#[test]
fn two_busy_vma_locks_are_waited_for_with_i_mmap_free() {
    let (hugetlb, mut task) = system(8);
    let (file, spaces) = sharers(&hugetlb, &mut task, 3);
    let shared = frame(&task, &spaces[0], page(0));
    let mut tasks = [another(&hugetlb), another(&hugetlb)];
    let [first, second] = &mut tasks;
    let mmaps = (spaces[1].mmap_read(first), spaces[2].mmap_read(second));
    let locked = (
        mmaps.0.lock_vma(mmaps.0.find(page(0)).unwrap(), first).unwrap(),
        mmaps.1.lock_vma(mmaps.1.find(page(0)).unwrap(), second).unwrap(),
    );
    let unmapper = {
        let system = hugetlb.clone();
        Worker::start(&hugetlb, move |task| system.unmap_page(task, shared))
    };
    assert!(unmapper.is_waiting());
    // A fault of a holder that shares, or truncation, can go on.
    drop(file.i_mmap_write(&mut task));
    drop(locked);
    unmapper.result().unwrap();
    drop(mmaps);
    for space in &spaces {
        assert_eq!(entry(&task, space, page(0)), Entry::None);
    }
}

#[test]
fn a_vma_that_dies_while_its_lock_is_waited_for_is_forgotten() {
    let (hugetlb, mut task) = system(8);
    for _ in 0..20 {
        let (file, spaces) = sharers(&hugetlb, &mut task, 2);
        let shared = frame(&task, &spaces[0], page(0));
        let held: Vec<_> = spaces
            .iter()
            .map(|space| {
                let space = space.clone();
                Worker::start(&hugetlb, move |task| {
                    let mmap = space.mmap_read(task);
                    let locked = mmap.lock_vma(mmap.find(page(0)).unwrap(), task).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(3));
                    drop(locked);
                    drop(mmap);
                    space.exit(task).unwrap();
                })
            })
            .collect();
        // In use or not, wherever it stands when it is looked for.
        match hugetlb.unmap_page(&mut task, shared) {
            Ok(()) | Err(PageError::NotInUse) => {}
            Err(other) => panic!("{other}"),
        }
        held.into_iter().for_each(Worker::result);
        drop((spaces, file));
        assert_unused(&hugetlb, &mut task);
    }
}

#[test]
fn a_file_that_goes_while_its_pages_are_named_is_not_reached_through_them() {
    let (hugetlb, mut task) = system(16);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (system, stopped) = (hugetlb.clone(), stop.clone());
    let namer = Worker::start(&hugetlb, move |task| {
        let mut found = 0_u64;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for unit in 0..16 {
                let frame = hugewalk::addr::HugeFrame((1 << 28) + unit * 512);
                found += u64::from(system.referenced(task, frame).is_ok());
                found += u64::from(system.unmap_page(task, frame).is_ok());
            }
        }
        found
    });
    for _ in 0..1500 {
        let file = file(&mut task, 3);
        file.allocate(&mut task, 0, 3 * PMD_SIZE, false).unwrap();
        drop(file);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    namer.result();
    assert_unused(&hugetlb, &mut task);
}

#[test]
fn pages_are_found_and_let_go_while_they_are_dropped_everywhere() {
    let (hugetlb, mut task) = system(16);
    let (file, spaces) = sharers(&hugetlb, &mut task, 3);
    let workers: Vec<_> = spaces
        .iter()
        .map(|space| {
            let space = space.clone();
            Worker::start(&hugetlb, move |task| {
                let mut cpu = cpu(&space);
                for _ in 0..300 {
                    cpu.store(task, page(0), 7).unwrap();
                    space.madvise(task, page(0), PMD_SIZE, Advice::DontNeed).unwrap();
                    assert_eq!(cpu.load(task, page(0)), Ok(7));
                }
            })
        })
        .collect();
    while !workers.iter().all(Worker::is_done) {
        if let Some(frame) = entry(&task, &spaces[0], page(0)).page() {
            let _ = hugetlb.unmap_page(&mut task, frame);
        }
    }
    workers.into_iter().for_each(Worker::result);
    spaces.iter().for_each(|space| space.exit(&mut task).unwrap());
    drop((spaces, file));
    assert_unused(&hugetlb, &mut task);
}
