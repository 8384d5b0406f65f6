//! Programs of one thread.

use hugewalk::Task;
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, PUD_SIZE};
use hugewalk::fault::{Access, Fault};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, MapFlags, MapRequest};
use hugewalk::platform::Platform;
use hugewalk::walk::{Unshared, huge_pte_offset};

use super::{Handle, PAGE, PAGES, PRIVATE, SHARED, Space, fill, map, page, read, space, system, task};
use crate::checked::Loads;

/// Maps, faults in and exits, twice, so that freed pages are allocated again.
pub fn maps_and_exits<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut task = task(&hugetlb);
    for _ in 0..2 {
        let space = space(&hugetlb);
        for start in [SHARED, PRIVATE] {
            map(&space, start, &mut task);
            for number in 0..8 {
                let at = page(start, number);
                assert_eq!(space.fault(&mut task, at, Access::Write), Ok(Fault::Fresh));
                assert_eq!(space.fault(&mut task, at, Access::Read), Ok(Fault::Present));
            }
        }
        space.munmap(&mut task, PRIVATE, PUD_SIZE).expect("it is mapped");
        space.exit(&mut task).expect("its own task");
        task.rcu_barrier();
    }
    assert_eq!(hugetlb.pool(PAGE).counters().free, PAGES);
    assert_eq!(hugetlb.resize_pool(PAGE, 1), 1);
    assert_eq!(hugetlb.resize_pool(PAGE, PAGES), PAGES);
}

/// The frame that an address space maps here, by a lockless walk.
fn frame_at<P: Platform>(space: &Space<P>, at: VirtAddr, task: &Task<Handle<P>>) -> HugeFrame {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, space.mm(), at, PAGE).expect("our own").expect("a table");
    let Ok(Entry::Leaf(leaf)) = slot.read() else { panic!("no leaf at {at}") };
    leaf.frame
}

/// Shares a table, unshares it under a walk, and shares it again.
pub fn shares_and_unshares<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut task = task(&hugetlb);
    let parent = space(&hugetlb);
    map(&parent, SHARED, &mut task);
    let kept = fill(&parent, SHARED, 7, &mut task);
    let child = parent.fork(&mut task).expect("there is memory");
    for _ in 0..3 {
        assert_eq!(child.fault(&mut task, SHARED, Access::Read), Ok(Fault::Present));
        assert_eq!(frame_at(&parent, SHARED, &task), frame_at(&child, SHARED, &task));
        assert_eq!(read(&child, SHARED, &mut task), if kept { 7 } else { 0 });
        child.madvise(&mut task, SHARED, PUD_SIZE, Advice::DontNeed).expect("it is mapped");
        let section = task.rcu_read_lock();
        let slot = huge_pte_offset(&section, child.mm(), SHARED, PAGE).expect("our own");
        assert!(slot.is_none_or(|slot| slot.read() == Err(Unshared) || slot.read() == Ok(Entry::None)));
    }
    drop(child);
    assert_eq!(parent.fault(&mut task, SHARED, Access::Read), Ok(Fault::Present));
    parent.exit(&mut task).expect("its own task");
}

/// Forks private memory, and writes on both sides.
pub fn copies_on_write<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut task = task(&hugetlb);
    let parent = space(&hugetlb);
    map(&parent, PRIVATE, &mut task);
    let kept = fill(&parent, PRIVATE, 1, &mut task);
    fill(&parent, page(PRIVATE, 1), 1, &mut task);
    let child = parent.fork(&mut task).expect("there is memory");
    assert_eq!(child.fault(&mut task, PRIVATE, Access::Write), Ok(Fault::Copied));
    fill(&child, PRIVATE, 2, &mut task);
    fill(&parent, page(PRIVATE, 1), 3, &mut task);
    if kept {
        let bytes =
            [&parent, &child].map(|space| [0, 1].map(|number| read(space, page(PRIVATE, number), &mut task)));
        assert_eq!(bytes, [[1, 3], [2, 1]], "a copy does not have the contents of the page");
    }
    child.exit(&mut task).expect("its own task");
    parent.exit(&mut task).expect("its own task");
}

/// Writes a file, maps it, truncates it, punches holes into it.
pub fn files_grow_and_shrink<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut task = task(&hugetlb);
    let file = HugeFile::new(&hugetlb, PAGE, None).expect("there is memory");
    let text: Vec<u8> = (0..200).collect();
    let at = 3 * PAGE.bytes() - 100;
    file.write_at(&mut task, at, &text).expect("there are pages");
    let mut bytes = vec![0; 200];
    assert_eq!(file.read_at(at, &mut bytes), Ok(200));
    let kept = bytes == text;
    assert!(kept || bytes.iter().all(|&byte| byte == 0), "bytes were lost across a page boundary");

    let space = space(&hugetlb);
    let request = MapRequest::file(&file, 0, 8 * PAGE.bytes()).shared().at(SHARED).with(MapFlags::NORESERVE);
    assert_eq!(space.mmap(&mut task, &request), Ok(SHARED));
    let last = VirtAddr::new(SHARED.as_u64() + at);
    assert_eq!(space.fault(&mut task, last, Access::Read), Ok(Fault::Mapped));
    if kept {
        assert_eq!(read(&space, last, &mut task), 0);
        assert_eq!(read(&space, VirtAddr::new(last.as_u64() + 1), &mut task), 1);
    }
    file.punch_hole(&mut task, at + 50, 10).expect("part of a page");
    assert_eq!(file.read_at(at + 50, &mut bytes[..10]), Ok(10));
    assert_eq!(bytes[..10], [0; 10], "a hole is not zero");
    file.punch_hole(&mut task, 2 * PAGE.bytes(), PAGE.bytes()).expect("a whole page");
    file.truncate(&mut task, PAGE.bytes()).expect("shorter");
    assert!(space.fault(&mut task, last, Access::Read).is_err(), "beyond the end of the file");
    space.exit(&mut task).expect("its own task");
}

/// Moves a page that two address spaces map, reports that its memory failed, and then that it is
/// sound.
pub fn pages_move_and_fail<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut task = task(&hugetlb);
    let (one, other) = {
        let one = space(&hugetlb);
        map(&one, SHARED, &mut task);
        (one.clone(), one)
    };
    let kept = fill(&one, SHARED, 5, &mut task);
    let old = frame_at(&one, SHARED, &task);
    let new = hugetlb.migrate(&mut task, old).expect("the page is not held");
    assert_ne!(old, new);
    other.fault(&mut task, SHARED, Access::Read).expect("it has arrived");
    assert_eq!(frame_at(&other, SHARED, &task), new);
    if kept {
        assert_eq!(read(&other, SHARED, &mut task), 5, "a page lost its contents when it moved");
    }
    hugetlb.memory_failure(&mut task, new).expect("a page in use");
    assert!(
        one.fault(&mut task, SHARED, Access::Read).is_err(),
        "a page whose memory failed is still mapped"
    );
    one.exit(&mut task).expect("its own task");
    drop((one, other));
    task.rcu_barrier();
    hugetlb.unpoison(new).expect("the page is not in use");
    // Numbers that are not pages.
    for frame in [0, 1, new.0 + 1, 1 << 39, u64::MAX].map(HugeFrame) {
        let known = hugetlb.migrate(&mut task, frame);
        assert!(known.is_err(), "frame {frame:?} was moved");
    }
}

/// Uses all pages, and goes on with those that are freed.
pub fn the_pool_runs_out<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut task = task(&hugetlb);
    let space = space(&hugetlb);
    map(&space, PRIVATE, &mut task);
    for number in 0..PAGES {
        assert_eq!(space.fault(&mut task, page(PRIVATE, number), Access::Write), Ok(Fault::Fresh));
    }
    assert!(space.fault(&mut task, page(PRIVATE, PAGES), Access::Write).is_err());
    space.madvise(&mut task, page(PRIVATE, 3), PAGE.bytes(), Advice::DontNeed).expect("it is mapped");
    assert_eq!(space.fault(&mut task, page(PRIVATE, PAGES), Access::Write), Ok(Fault::Fresh));
    space.exit(&mut task).expect("its own task");
}

/// Unmaps more pages than fit into a batch, and more than one table.
pub fn many_pages_go_at_once<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut task = task(&hugetlb);
    // As many as the platform has, up to a thousand.
    let pages = hugetlb.resize_pool(PAGE, 1000).max(PAGES);
    let space = space(&hugetlb);
    let request = MapRequest::anonymous(PAGE, 2 * PUD_SIZE).shared().at(SHARED).with(MapFlags::NORESERVE);
    assert_eq!(space.mmap(&mut task, &request), Ok(SHARED));
    for number in 0..pages {
        let at = page(SHARED, number);
        assert_eq!(space.fault(&mut task, at, Access::Write), Ok(Fault::Fresh));
    }
    space.munmap(&mut task, SHARED, 2 * PUD_SIZE).expect("it is mapped");
    assert_eq!(hugetlb.pool(PAGE).counters().free, pages);
    space.exit(&mut task).expect("its own task");
}

/// Loads through the TLB, removes the page in each possible way, and loads again.
pub fn flushes_reach_processors<P: Loads>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut task = task(&hugetlb);
    let parent = space(&hugetlb);
    for start in [SHARED, PRIVATE] {
        map(&parent, start, &mut task);
    }
    let kept = [SHARED, PRIVATE].map(|start| fill(&parent, start, 1, &mut task)) == [true; 2];
    let load = |space: &Space<P>, at| {
        let mm = space.mm();
        // SAFETY: root and context are of one address space, and this is the only thread.
        unsafe { platform.inner().load(mm.context(), mm.root_frame(), at) }
    };
    let one = Some(u8::from(kept));
    assert_eq!([SHARED, PRIVATE].map(|at| load(&parent, at)), [one; 2], "a processor loads a wrong value");

    // A copy on write replaces the page under the processor.
    let child = parent.fork(&mut task).expect("there is memory");
    assert_eq!(load(&parent, PRIVATE), one);
    fill(&parent, PRIVATE, 2, &mut task);
    let stale = |what| format!("{what}, but a processor still uses the old translation: a flush is missing");
    if kept {
        assert_eq!(load(&parent, PRIVATE), Some(2), "{}", stale("a page was copied on write"));
    }
    // Unsharing removes a whole table.
    child.fault(&mut task, SHARED, Access::Read).expect("shared");
    assert_eq!(load(&child, SHARED), one);
    child.madvise(&mut task, SHARED, PUD_SIZE, Advice::DontNeed).expect("it is mapped");
    assert_eq!(load(&child, SHARED), None, "{}", stale("a table was unshared"));
    assert_eq!(load(&parent, SHARED), one);
    // Moving maps another page there.
    let frame = frame_at(&parent, SHARED, &task);
    hugetlb.migrate(&mut task, frame).expect("the page is not held");
    fill(&parent, SHARED, 3, &mut task);
    if kept {
        assert_eq!(load(&parent, SHARED), Some(3), "{}", stale("a page was moved"));
    }
    parent.munmap(&mut task, SHARED, PUD_SIZE).expect("it is mapped");
    assert_eq!(load(&parent, SHARED), None, "{}", stale("a mapping was unmapped"));
    child.exit(&mut task).expect("its own task");
    assert_eq!(load(&child, PRIVATE), None, "{}", stale("an address space exited"));
    parent.exit(&mut task).expect("its own task");
}
