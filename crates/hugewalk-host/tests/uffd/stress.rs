//! Many threads at once: no wake-up is lost, no page is lost, and no store is.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hugewalk::Task;
use hugewalk::error::Errno;
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Message, Modes, PagefaultFlags, ProtectMode, Userfault,
};
use hugewalk_host::{Contents, Cpu, Host};

use crate::setup::{BASE, KINDS, MIB2, Space, World, at, file_of, map_at, page_of};

/// Ends the test, loudly, if it comes to a standstill: a lost wake-up would be waited for for ever.
struct Progress {
    steps: AtomicU64,
    over: AtomicBool,
}

impl Progress {
    const fn new() -> Self {
        Self { steps: AtomicU64::new(0), over: AtomicBool::new(false) }
    }

    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn watch(&self) {
        let (mut last, mut still) = (0, 0);
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.steps.load(Ordering::Relaxed);
            still = if now == last { still + 1 } else { 0 };
            last = now;
            if still > 600 {
                // Not `eprintln`, which the test harness keeps for later.
                let message =
                    format!("a standstill after {now} steps: a wake-up was lost, or see --nocapture\n");
                let _ = std::io::stderr().write_all(message.as_bytes());
                std::process::abort();
            }
        }
    }
}

/// Reads and resolves faults until the process ends: missing pages with a page of zeroes, protections by taking them back.
fn handle(uffd: &Userfault<Host>, task: &mut Task<Host>, zeroes: &[u8]) {
    while let Ok(message) = uffd.read_event(task) {
        let Message::Pagefault(fault) = message else { panic!("{message:?}") };
        let filled = if fault.flags.contains(PagefaultFlags::WP) {
            uffd.write_protect(task, fault.address, MIB2, ProtectMode::empty()).unwrap();
            Ok(())
        } else if fault.flags.contains(PagefaultFlags::MINOR) {
            uffd.continue_range(task, fault.address, MIB2, ContinueMode::empty())
        } else {
            uffd.copy(task, fault.address, zeroes, CopyMode::empty())
        };
        if let Err(stopped) = filled {
            // Another thread was there first, or the page has gone to the file or out of it meanwhile.
            let errno = stopped.errno();
            assert!([Errno::EEXIST, Errno::EFAULT].contains(&errno), "{stopped}");
            uffd.wake(fault.address, MIB2).unwrap();
        }
    }
}

/// Scenario S19: each thread drops and touches pages of its own, thousands of times, so that faults, resolutions and
/// wake-ups meet in every order.
fn no_wake_up_is_lost(
    kind: MapFlags,
    modes: Modes,
    drop_pages: impl Fn(&Space, &mut Task<Host>, u64) + Sync,
) {
    const THREADS: u64 = 4;
    const HANDLERS: u64 = 2;
    const FAULTS: u64 = 3000;
    let mut world = World::with_contents(Contents::Nothing, THREADS, kind, Features::empty());
    world.register(modes);
    let progress = Progress::new();
    let zeroes = page_of(0);
    let World { hugetlb, task, space, uffd, .. } = &mut world;
    let (hugetlb, space, uffd) = (&*hugetlb, &*space, &*uffd);
    std::thread::scope(|scope| {
        for _ in 0..HANDLERS {
            scope.spawn(|| handle(uffd, &mut hugewalk_host::task(hugetlb).unwrap(), &zeroes));
        }
        let threads: Vec<_> = (0..THREADS)
            .map(|page| {
                let (progress, drop_pages) = (&progress, &drop_pages);
                scope.spawn(move || {
                    let mut task = hugewalk_host::task(hugetlb).unwrap();
                    let mut cpu = Cpu::new(space).unwrap();
                    for _ in 0..FAULTS {
                        cpu.store(&mut task, at(page, 0), 1).unwrap();
                        drop_pages(space, &mut task, page);
                        progress.step();
                    }
                })
            })
            .collect();
        scope.spawn(|| progress.watch());
        for thread in threads {
            thread.join().unwrap();
        }
        progress.over.store(true, Ordering::Relaxed);
        space.exit(task).unwrap();
    });
    assert_eq!(progress.steps.load(Ordering::Relaxed), THREADS * FAULTS);
    assert!(!world.uffd.poll());
    world.end();
}

#[test]
fn no_wake_up_is_lost_on_missing_pages_of_a_private_mapping() {
    no_wake_up_is_lost(MapFlags::empty(), Modes::MISSING, |space, task, page| {
        space.madvise(task, at(page, 0), MIB2, Advice::DontNeed).unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_on_missing_pages_of_a_shared_mapping() {
    no_wake_up_is_lost(MapFlags::SHARED, Modes::MISSING, |space, task, page| {
        space.madvise(task, at(page, 0), MIB2, Advice::Remove).unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_on_minor_faults() {
    no_wake_up_is_lost(MapFlags::SHARED, Modes::MINOR | Modes::MISSING, |space, task, page| {
        let advice = if page % 2 == 0 { Advice::DontNeed } else { Advice::Remove };
        space.madvise(task, at(page, 0), MIB2, advice).unwrap();
    });
}

/// One thread protects all the time, for the others to be stopped.
#[test]
fn no_wake_up_is_lost_on_protected_pages() {
    const THREADS: u64 = 3;
    const STORES: u64 = 3000;
    for kind in KINDS {
        let mut world = World::with_contents(Contents::Nothing, THREADS, kind, Features::empty());
        world.register(Modes::WP);
        let progress = Progress::new();
        let World { hugetlb, task, space, uffd, .. } = &mut world;
        let (hugetlb, space, uffd) = (&*hugetlb, &*space, &*uffd);
        std::thread::scope(|scope| {
            scope.spawn(|| handle(uffd, &mut hugewalk_host::task(hugetlb).unwrap(), &[]));
            let threads: Vec<_> = (0..THREADS)
                .map(|page| {
                    let progress = &progress;
                    scope.spawn(move || {
                        let mut task = hugewalk_host::task(hugetlb).unwrap();
                        let mut cpu = Cpu::new(space).unwrap();
                        for _ in 0..STORES {
                            cpu.store(&mut task, at(page, 0), 1).unwrap();
                            // The own protection, for a store that is sure to meet it.
                            uffd.write_protect(&mut task, at(page, 0), MIB2, ProtectMode::WP).unwrap();
                            progress.step();
                        }
                    })
                })
                .collect();
            scope.spawn(|| progress.watch());
            for thread in threads {
                thread.join().unwrap();
            }
            progress.over.store(true, Ordering::Relaxed);
            space.exit(task).unwrap();
        });
        world.end();
    }
}

/// Faults that are resolved by who has read no message: a fault can be on its way into the queue while its page comes. Nobody
/// wakes it again then, so it has to see the page, or it sleeps for ever.
#[test]
fn no_wake_up_is_lost_when_the_page_comes_on_its_own() {
    const THREADS: u64 = 3;
    const FAULTS: u64 = 5000;
    for kind in KINDS {
        let mut world = World::with_contents(Contents::Nothing, THREADS, kind, Features::empty());
        world.register(Modes::MISSING);
        let (progress, zeroes) = (Progress::new(), page_of(0));
        let advice = if kind == MapFlags::SHARED { Advice::Remove } else { Advice::DontNeed };
        let World { hugetlb, task, space, uffd, .. } = &mut world;
        let (hugetlb, space, uffd) = (&*hugetlb, &*space, &*uffd);
        std::thread::scope(|scope| {
            scope.spawn(|| progress.watch());
            let threads: Vec<_> = (0..THREADS)
                .map(|page| {
                    let progress = &progress;
                    scope.spawn(move || {
                        let mut task = hugewalk_host::task(hugetlb).unwrap();
                        let mut cpu = Cpu::new(space).unwrap();
                        for _ in 0..FAULTS {
                            cpu.store(&mut task, at(page, 0), 1).unwrap();
                            space.madvise(&mut task, at(page, 0), MIB2, advice).unwrap();
                            progress.step();
                        }
                    })
                })
                .collect();
            while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                for page in 0..THREADS {
                    if let Err(stopped) = uffd.copy(task, at(page, 0), &zeroes, CopyMode::empty()) {
                        assert_eq!(stopped.errno(), Errno::EEXIST);
                    }
                }
                std::thread::yield_now();
            }
            progress.over.store(true, Ordering::Relaxed);
        });
        world.end();
    }
}

/// The same for protections: each is taken back once.
#[test]
fn no_wake_up_is_lost_when_a_protection_goes_on_its_own() {
    const THREADS: usize = 3;
    const STORES: u64 = 5000;
    for kind in KINDS {
        let mut world = World::with_contents(Contents::Nothing, THREADS as u64, kind, Features::empty());
        world.register(Modes::WP);
        let progress = Progress::new();
        let protected: [AtomicBool; THREADS] = [const { AtomicBool::new(false) }; THREADS];
        let World { hugetlb, task, space, uffd, .. } = &mut world;
        let (hugetlb, space, uffd) = (&*hugetlb, &*space, &*uffd);
        std::thread::scope(|scope| {
            scope.spawn(|| progress.watch());
            let threads: Vec<_> = (0..THREADS)
                .map(|page| {
                    let (progress, protected) = (&progress, &protected[page]);
                    scope.spawn(move || {
                        let mut task = hugewalk_host::task(hugetlb).unwrap();
                        let mut cpu = Cpu::new(space).unwrap();
                        let address = at(page as u64, 0);
                        for _ in 0..STORES {
                            uffd.write_protect(&mut task, address, MIB2, ProtectMode::WP).unwrap();
                            protected.store(true, Ordering::Release);
                            cpu.store(&mut task, address, 1).unwrap();
                            progress.step();
                        }
                    })
                })
                .collect();
            while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                for (page, protected) in protected.iter().enumerate() {
                    if protected.swap(false, Ordering::Acquire) {
                        let off = ProtectMode::empty();
                        uffd.write_protect(task, at(page as u64, 0), MIB2, off).unwrap();
                    }
                }
                std::thread::yield_now();
            }
            progress.over.store(true, Ordering::Relaxed);
        });
        world.end();
    }
}

/// The stress part of the selftest. A value in each page is counted up under a lock of its own by threads that fault on the
/// way, while the pages are carried from one area to the other by handlers and by threads in the background; then the areas
/// change roles. Each count must be what was written last, wherever the page is.
fn bounce(kind: MapFlags, modes: Modes) {
    const PAGES: u64 = 8;
    const BOUNCES: u64 = 16;
    const COUNTERS: u64 = 2;
    let mut world = World::new(PAGES, kind, Features::empty());
    let other_file = file_of(&mut world.task, PAGES);
    let areas = [BASE, hugewalk::addr::VirtAddr::new(20 << 30)];
    map_at(&world.space, &mut world.task, &other_file, areas[1], kind);
    let counts: Vec<Mutex<u64>> = (0..PAGES).map(|_| Mutex::new(0)).collect();
    let mut cpu = world.cpu();
    for page in 0..PAGES {
        cpu.store_u64(&mut world.task, areas[0].checked_add(page * MIB2).unwrap(), 0).unwrap();
    }
    let progress = Progress::new();
    let (hugetlb, space, task) = (&world.hugetlb, &world.space, &mut world.task);
    std::thread::scope(|scope| {
        scope.spawn(|| progress.watch());
        for bounce in 0..BOUNCES {
            let (from, to) = (areas[bounce as usize % 2], areas[(bounce as usize + 1) % 2]);
            let place = |area: hugewalk::addr::VirtAddr, page| area.checked_add(page * MIB2).unwrap();
            // A handler that was late in the last bounce may have read, and so made, pages in the area that had been dropped.
            let drop_pages = |task: &mut Task<Host>, area| {
                let advice = if kind == MapFlags::SHARED { Advice::Remove } else { Advice::DontNeed };
                space.madvise(task, area, PAGES * MIB2, advice).unwrap();
            };
            drop_pages(task, to);
            let uffd = Userfault::new(space, Features::empty()).unwrap();
            uffd.register(task, to, PAGES * MIB2, modes).unwrap();
            let carried = AtomicBool::new(false);
            let uffd = &uffd;
            let carry = |task: &mut Task<Host>, cpu: &mut Cpu, page: u64| {
                let mut bytes = page_of(0);
                cpu.read_bytes(task, place(from, page), &mut bytes).unwrap();
                let mode = if modes.contains(Modes::WP) { CopyMode::WP } else { CopyMode::empty() };
                if let Err(stopped) = uffd.copy(task, place(to, page), &bytes, mode) {
                    assert_eq!(stopped.errno(), Errno::EEXIST);
                    uffd.wake(place(to, page), MIB2).unwrap();
                }
            };
            let (carry, carried, counts, progress) = (&carry, &carried, &counts, &progress);
            std::thread::scope(|inner| {
                let counters: Vec<_> = (0..COUNTERS)
                    .map(|number| {
                        inner.spawn(move || {
                            let mut task = hugewalk_host::task(hugetlb).unwrap();
                            let mut cpu = Cpu::new(space).unwrap();
                            let mut page = number;
                            while !carried.load(Ordering::Relaxed) {
                                page = (page * 5 + 3) % PAGES;
                                let mut count = counts[page as usize].lock().unwrap();
                                let seen = cpu.load_u64(&mut task, place(to, page)).unwrap();
                                assert_eq!(seen, *count, "page {page} in bounce {bounce}");
                                *count += 1;
                                cpu.store_u64(&mut task, place(to, page), *count).unwrap();
                                progress.step();
                            }
                        })
                    })
                    .collect();
                let finished = AtomicBool::new(false);
                let finished = &finished;
                std::thread::scope(|handlers| {
                    handlers.spawn(move || {
                        let mut task = hugewalk_host::task(hugetlb).unwrap();
                        let mut cpu = Cpu::new(space).unwrap();
                        while !finished.load(Ordering::Relaxed) {
                            match uffd.try_read_event() {
                                Some(Message::Pagefault(fault))
                                    if fault.flags.contains(PagefaultFlags::WP) =>
                                {
                                    uffd.write_protect(&mut task, fault.address, MIB2, ProtectMode::empty())
                                        .unwrap();
                                }
                                Some(Message::Pagefault(fault)) => {
                                    carry(&mut task, &mut cpu, fault.address.offset_from(to) / MIB2);
                                }
                                Some(other) => panic!("{other:?}"),
                                None => std::thread::yield_now(),
                            }
                        }
                    });
                    // In the background: the first half, a protection of everything, the second half.
                    for page in 0..PAGES {
                        if page == PAGES / 2 && modes.contains(Modes::WP) {
                            uffd.write_protect(task, to, PAGES * MIB2, ProtectMode::WP).unwrap();
                        }
                        carry(task, &mut cpu, page);
                    }
                    // The area is dropped at once: nobody may need it any more.
                    drop_pages(task, from);
                    carried.store(true, Ordering::Relaxed);
                    for counter in counters {
                        counter.join().unwrap();
                    }
                    finished.store(true, Ordering::Relaxed);
                });
            });
            uffd.unregister(task, to, PAGES * MIB2).unwrap();
            for page in 0..PAGES {
                let seen = cpu.load_u64(task, place(to, page)).unwrap();
                assert_eq!(seen, *counts[page as usize].lock().unwrap());
            }
        }
        progress.over.store(true, Ordering::Relaxed);
    });
    drop((cpu, other_file));
    world.end();
}

#[test]
fn no_store_is_lost_while_pages_are_carried_between_private_areas() {
    bounce(MapFlags::empty(), Modes::MISSING);
    bounce(MapFlags::empty(), Modes::MISSING | Modes::WP);
}

#[test]
fn no_store_is_lost_while_pages_are_carried_between_shared_areas() {
    bounce(MapFlags::SHARED, Modes::MISSING);
    bounce(MapFlags::SHARED, Modes::MISSING | Modes::WP);
}
