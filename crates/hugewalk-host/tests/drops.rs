//! Processes are dropped on all threads, in read sections and with tables locked, while others map, fault and fork. None of
//! it sleeps where it must not, nothing waits for itself, and in the end nothing is left.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gup::{GupFlags, PinnedPage};
use hugewalk::mm::{Advice, MapFlags, MapRequest};
use hugewalk::sync::Arc;
use hugewalk::uffd::{Features, Userfault};
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig};

const SMALL: HugeSize = X86_64::SIZE_2M;
const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE);
const THREADS: usize = 4;
const ROUNDS: u64 = 300;

/// Fails the test if `work` does not end.
fn watched(work: impl FnOnce() + Send + 'static) {
    let (ended, end) = channel();
    let worker = thread::spawn(move || {
        work();
        ended.send(()).unwrap();
    });
    if end.recv_timeout(Duration::from_secs(120)).is_err() {
        assert!(worker.is_finished(), "something waits for itself");
    }
    worker.join().unwrap();
}

fn process(task: &mut Task<Host>, file: &Arc<HugeFile<Host>>) -> Arc<AddressSpace<Host>> {
    let space = AddressSpace::new(task.hugetlb()).unwrap();
    let request = MapRequest::file(file, 0, PUD_SIZE).shared().with(MapFlags::NORESERVE);
    space.mmap(task, &request.at(START)).unwrap();
    space.fault(task, START, Access::Write).unwrap();
    space
}

fn drop_somewhere(
    task: &mut Task<Host>,
    round: u64,
    lasting: &AddressSpace<Host>,
    space: Arc<AddressSpace<Host>>,
) {
    match round % 4 {
        // With the table locked that it shares, if nobody unshares it at this moment.
        0 => {
            let section = task.rcu_read_lock();
            let slot = huge_pte_offset(&section, lasting.mm(), START, SMALL).unwrap();
            let locked = slot.as_ref().and_then(|slot| slot.lock().ok());
            drop(space);
            drop(locked);
        }
        1 => {
            let section = task.rcu_read_lock();
            drop(space);
            drop(section);
        }
        // On a thread that has no task.
        2 => thread::scope(|scope| scope.spawn(|| drop(space)).join().unwrap()),
        _ => drop(space),
    }
}

#[test]
fn processes_are_dropped_anywhere_and_taken_down_by_whoever_comes_next() {
    watched(|| {
        let config = HostConfig::new().huge_bytes(PUD_SIZE).contents(Contents::Nothing).max_tables(50_000);
        let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
        hugetlb.resize_pool(SMALL, 64);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let file = HugeFile::new(&hugetlb, SMALL, None).unwrap();
        let lasting = process(&mut task, &file);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (hugetlb, file, lasting) = (&hugetlb, &file, &lasting);
                scope.spawn(move || {
                    let mut task = hugewalk_host::task(hugetlb).unwrap();
                    for round in thread as u64..thread as u64 + ROUNDS {
                        let space = process(&mut task, file);
                        let child = space.fork(&mut task).unwrap();
                        child.fault(&mut task, START, Access::Read).unwrap();
                        drop_somewhere(&mut task, round, lasting, space);
                        if round % 3 == 0 {
                            // What the next operation takes down has this file's lock to wait for, and does not.
                            let i_mmap = file.i_mmap_read(&mut task);
                            drop(child);
                            task.finish_drops();
                            drop(i_mmap);
                        } else {
                            drop_somewhere(&mut task, round / 2, lasting, child);
                        }
                    }
                });
            }
        });
        task.finish_drops();
        assert_eq!(lasting.tables(&mut task).unwrap()[0].users, 1, "all others have been taken down");
        drop((lasting, file));
        task.rcu_barrier();
        assert_eq!(hugetlb.pool(SMALL).counters().free, 64);
        assert_eq!(hugetlb.platform().usage().tables, 0);
    });
}

/// What one thread does to the files that all of them map, while it has processes to drop.
fn disturb(task: &mut Task<Host>, round: u64, files: &[Arc<HugeFile<Host>>], space: &AddressSpace<Host>) {
    let file = &files[(round % files.len() as u64) as usize];
    let page = |number: u64| START.checked_add(number << 21).unwrap();
    match round % 7 {
        0 => drop(space.munmap(task, page(round % 16), 1 << 21)),
        1 => drop(space.madvise(task, START, PUD_SIZE, Advice::DontNeed)),
        2 => drop(file.punch_hole(task, (round % 4) << 21, 1 << 21)),
        3 => {
            file.truncate(task, 1 << 21).unwrap();
            file.truncate(task, PUD_SIZE).unwrap();
        }
        4 | 5 => {
            // Whatever page is there at this moment moves, or fails to.
            let section = task.rcu_read_lock();
            let slot = huge_pte_offset(&section, space.mm(), START, SMALL).unwrap();
            let entry = slot.as_ref().and_then(|slot| slot.read().ok());
            let frame = entry.and_then(|entry| entry.page());
            drop(section);
            if let Some(frame) = frame {
                let hugetlb = task.hugetlb().clone();
                let _ = hugetlb.migrate(task, frame);
            }
        }
        _ => drop(space.tables(task).unwrap()),
    }
}

/// A pin, a handler or a VMA outlives the process, so that its last reference goes with something else.
fn keep_a_part(task: &mut Task<Host>, round: u64, space: &Arc<AddressSpace<Host>>) -> Box<dyn std::any::Any> {
    match round % 4 {
        0 => Box::new(space.pin_page_fast(task, START, GupFlags::PIN).map(PinnedPage::into_owned)),
        1 => Box::new(Userfault::new(space, Features::empty()).unwrap()),
        2 => Box::new(space.mmap_read(task).find(START).cloned()),
        _ => Box::new(space.mm().clone()),
    }
}

#[test]
fn processes_are_dropped_among_all_that_happens_to_their_files() {
    watched(|| {
        let config = HostConfig::new().huge_bytes(PUD_SIZE).contents(Contents::Nothing).max_tables(50_000);
        let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
        assert_eq!(hugetlb.resize_pool(SMALL, 512), 512);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let files = [(); 2].map(|()| HugeFile::new(&hugetlb, SMALL, None).unwrap());
        let lasting = process(&mut task, &files[0]);
        let others = process(&mut task, &files[1]);
        thread::scope(|scope| {
            for thread in 0..THREADS as u64 {
                let (hugetlb, files, lasting) = (&hugetlb, &files, [&lasting, &others]);
                scope.spawn(move || {
                    let mut task = hugewalk_host::task(hugetlb).unwrap();
                    let mut kept = Vec::new();
                    for round in (thread * 1000..).take(ROUNDS as usize) {
                        let which = (round % 2) as usize;
                        let space = AddressSpace::new(hugetlb).unwrap();
                        let request =
                            MapRequest::file(&files[which], 0, PUD_SIZE).shared().with(MapFlags::NORESERVE);
                        space.mmap(&mut task, &request.at(START)).unwrap();
                        // Truncation may be faster.
                        let _ = space.fault(&mut task, START, Access::Write);
                        let private = MapRequest::anonymous(SMALL, 2 << 21).with(MapFlags::NORESERVE);
                        space.mmap(&mut task, &private.at(VirtAddr::new(8 * PUD_SIZE))).unwrap();
                        let _ = space.fault(&mut task, VirtAddr::new(8 * PUD_SIZE), Access::Write);
                        let child = space.fork(&mut task).unwrap();
                        let _ = child.fault(&mut task, START, Access::Read);
                        disturb(&mut task, round / 2, files, &child);
                        kept.push(keep_a_part(&mut task, round, &space));
                        drop_somewhere(&mut task, round, lasting[which], space);
                        disturb(&mut task, round / 3, files, lasting[which]);
                        drop_somewhere(&mut task, round / 4, lasting[which], child);
                        if round % 5 == 0 {
                            kept.clear();
                        }
                    }
                });
            }
        });
        // All at rest. What was dropped is taken down by the next operation, and no later one.
        files[0].truncate(&mut task, PUD_SIZE).unwrap();
        task.rcu_barrier();
        for (space, file) in [(&lasting, &files[0]), (&others, &files[1])] {
            let tables = space.tables(&mut task).unwrap();
            assert!(tables.iter().all(|table| table.users == 1), "{tables:?}");
            let i_mmap = file.i_mmap_read(&mut task);
            assert_eq!(i_mmap.vmas(0..512).count(), 1, "only the lasting process maps the file");
        }
        // Each page that is not free is a page of a file, held by the file and by at most one entry.
        let pages = files.iter().map(|file| file.pages()).sum::<u64>();
        let counters = hugetlb.pool(SMALL).counters();
        assert_eq!((counters.free + pages, counters.reserved, counters.surplus), (512, 0, 0), "{counters:?}");
        let mut reached = 0;
        for space in [&lasting, &others] {
            space
                .residency(&mut task, |_, residency| {
                    assert_eq!(residency.shared, 0);
                    reached += residency.private;
                })
                .unwrap();
        }
        assert!(reached <= pages);
        drop((lasting, others, files));
        task.rcu_barrier();
        assert_eq!(hugetlb.pool(SMALL).counters().free, 512);
        assert_eq!(hugetlb.platform().usage().tables, 0);
    });
}

#[test]
fn the_last_handle_may_go_on_any_thread() {
    watched(|| {
        for _ in 0..200 {
            let host = std::sync::Arc::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE)).unwrap());
            let hugetlb = Hugetlb::new(host.clone()).unwrap();
            hugetlb.resize_pool(SMALL, 4);
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            let file = HugeFile::new(&hugetlb, SMALL, None).unwrap();
            let spaces = [(); 3].map(|()| {
                let space = AddressSpace::new(&hugetlb).unwrap();
                let request =
                    MapRequest::file(&file, 0, PUD_SIZE).shared().with(MapFlags::NORESERVE).at(START);
                space.mmap(&mut task, &request).unwrap();
                space.fault(&mut task, START, Access::Write).unwrap();
                space
            });
            drop((task, hugetlb));
            // All at once: one of them has the last handle, and the file may be there still, or not.
            thread::scope(|scope| {
                for space in spaces {
                    scope.spawn(move || drop(space));
                }
                scope.spawn(move || drop(file));
            });
            let usage = host.usage();
            assert_eq!((usage.tables, usage.huge(X86_64::SIZE_2M)), (0, 0));
        }
    });
}
