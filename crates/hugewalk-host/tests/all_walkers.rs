//! All walkers at once, on the same few pages: stores are not lost, pins see the page they were of, and in the end everything
//! is where it came from.

mod pages;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hugewalk::Task;
use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::{Access, FaultError};
use hugewalk::gup::{GupError, GupFlags};
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::pagewalk::{Found, Visitor};
use hugewalk::rmap::PageError;
use hugewalk::uffd::{Features, Modes, Userfault};
use hugewalk::vma::Protection;
use hugewalk_host::Host;

use pages::{
    File, RW, Space, StopAtEnd, System, assert_unused, counters, cpu, file, map, map_at, page, space,
    system_with,
};

const POOL: u64 = 48;
/// Pages whose contents are looked at, of the shared mapping and of the private one.
const HOT: u64 = 3;
/// Pages of the file that come and go, from this one on.
const COLD: u64 = 300;
const LASTS: Duration = Duration::from_millis(1500);
/// Where in a page its number stands.
const MARKER: u64 = 64;
const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);
const PRIVATE_AT: VirtAddr = VirtAddr::new(10 * PUD_SIZE);
const ELSEWHERE: VirtAddr = VirtAddr::new(20 * PUD_SIZE);

/// Where a hot page lies: the shared ones first, then the private ones.
fn hot(number: u64) -> VirtAddr {
    match number.checked_sub(HOT) {
        None => page(number),
        Some(number) => VirtAddr::new(PRIVATE_AT.as_u64() + number * PMD_SIZE),
    }
}

/// The place in a hot page that says which one it is.
fn marker(number: u64) -> VirtAddr {
    VirtAddr::new(hot(number).as_u64() + MARKER)
}

struct World {
    hugetlb: System,
    file: File,
    /// Two that share the table, and do not change their mappings.
    spaces: [Space; 2],
    /// One whose mapping is cut, moved, protected, registered.
    restless: Space,
    over: AtomicBool,
    /// What each thread has done.
    done: [AtomicU64; 8],
    /// Pages out of use, to be found sound.
    bad: Mutex<Vec<HugeFrame>>,
}

impl World {
    /// Runs until the time is over and everybody has done something.
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn run(&self, number: usize, mut work: impl FnMut(&mut Task<Host>, u64)) {
        let mut task = hugewalk_host::task(&self.hugetlb).unwrap();
        let mut round = 0;
        while !self.is_over() {
            work(&mut task, round);
            round += 1;
            self.done[number].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn frame(&self, task: &Task<Host>, number: u64) -> Option<HugeFrame> {
        match pages::entry(task, &self.spaces[0], hot(number)) {
            Entry::Leaf(leaf) => Some(leaf.frame),
            _ => None,
        }
    }

    /// Counts up in each hot page, which nobody else writes to there.
    fn stores(&self) {
        let mut cpu = cpu(&self.spaces[0]);
        let mut counts = [0; 2 * HOT as usize];
        self.run(0, |task, _| {
            for (count, number) in counts.iter_mut().zip(0..) {
                assert_eq!(cpu.load_u64(task, hot(number)), Ok(*count), "page {number}");
                *count += 1;
                cpu.store_u64(task, hot(number), *count).unwrap();
            }
        });
    }

    /// The same through the other process, elsewhere in the page.
    fn other_stores(&self) {
        let mut cpu = cpu(&self.spaces[1]);
        self.run(1, |task, round| {
            let at = VirtAddr::new(hot(round % HOT).as_u64() + 4096);
            // What was stored there last, if anything was.
            assert_eq!(cpu.load_u64(task, at), Ok(round / HOT));
            cpu.store_u64(task, at, round / HOT + 1).unwrap();
        });
    }

    fn forks(&self) {
        self.run(2, |task, round| {
            let child = self.spaces[0].fork(task).unwrap();
            let mut cpu = cpu(&child);
            for number in 0..2 * HOT {
                assert_eq!(cpu.load_u64(task, marker(number)), Ok(number), "page {number} of a child");
            }
            // The parent goes on storing to its private pages; to the child they are what they were.
            let private = hot(HOT + round % HOT);
            let forked = cpu.load_u64(task, private).unwrap();
            thread::yield_now();
            assert_eq!(cpu.load_u64(task, private), Ok(forked), "the parent's store is seen in the child");
            if round % 2 == 0 {
                cpu.store_u64(task, private, u64::MAX).unwrap();
            }
            child.exit(task).unwrap();
        });
    }

    fn pins(&self) {
        let mut cpu = cpu(&self.spaces[0]);
        self.run(3, |task, round| {
            let number = round % (2 * HOT);
            let mut flags = GupFlags::empty();
            flags.set(GupFlags::PIN, round % 3 != 0);
            flags.set(GupFlags::WRITE, round % 2 == 0);
            let look = |read: &dyn Fn(u64, &mut [u8]) -> usize| {
                let mut bytes = [0; 8];
                assert_eq!(read(MARKER, &mut bytes), 8);
                assert_eq!(u64::from_le_bytes(bytes), number, "another page was pinned");
            };
            if round % 4 < 2 {
                let pins = self.spaces[0].pin_pages_fast(task, hot(number), 8, flags).unwrap();
                look(&|offset, into| pins.page(0).unwrap().read(offset, into).unwrap());
            } else {
                let pins = self.spaces[0].pin_pages(task, hot(number), 8, flags).unwrap();
                look(&|offset, into| pins.page(0).unwrap().read(offset, into).unwrap());
                if flags.contains(GupFlags::PIN | GupFlags::WRITE) {
                    // However often others fork meanwhile, the process goes on using the page that is pinned.
                    let device = VirtAddr::new(hot(number).as_u64() + 2 * MARKER);
                    pins.page(0).unwrap().write(2 * MARKER, &round.to_le_bytes()).unwrap();
                    thread::yield_now();
                    assert_eq!(cpu.load_u64(task, device), Ok(round));
                    cpu.store_u64(task, device, !round).unwrap();
                    let mut bytes = [0; 8];
                    pins.page(0).unwrap().read(2 * MARKER, &mut bytes).unwrap();
                    assert_eq!(
                        u64::from_le_bytes(bytes),
                        !round,
                        "stored to another page than the pinned one"
                    );
                }
            }
            let (shared, mut bytes) = (round % HOT, [0; 8]);
            assert_eq!(self.spaces[1].read_bytes(task, marker(shared), &mut bytes), Ok(8));
            assert_eq!(u64::from_le_bytes(bytes), shared);
            assert_eq!(self.spaces[0].write_bytes(task, marker(number), &number.to_le_bytes()), Ok(8));
        });
    }

    fn walks(&self) {
        struct Leaves(u64);
        impl Visitor<Host> for Leaves {
            fn entry(&mut self, found: &Found<'_, Host>) {
                self.0 += u64::from(matches!(found.entry(), Entry::Leaf(_)));
            }
        }
        self.run(4, |task, round| {
            let whole = || page(0)..page(512);
            for space in self.spaces.iter().chain([&self.restless]) {
                match round % 6 {
                    0 => assert_eq!(space.pagemap(task, whole()).unwrap().len() % 512, 0),
                    1 => drop(space.mincore(task, whole())),
                    2 => drop(space.sample_accessed(task, whole()).unwrap()),
                    3 => drop(space.numa_maps(task, whole()).unwrap()),
                    4 => space.residency(task, |_, _| ()).unwrap(),
                    _ => {
                        let mut leaves = Leaves(0);
                        space.walk_range(task, whole(), &mut leaves).unwrap();
                        assert!(leaves.0 <= 512);
                    }
                }
            }
            if round % 10 == 0 {
                self.spaces[1].clear_soft_dirty(task).unwrap();
            }
        });
    }

    fn moves(&self) {
        self.run(5, |task, round| {
            let Some(frame) = self.frame(task, round % (2 * HOT)) else { return };
            let result = match round % 4 {
                0 => self.hugetlb.migrate(task, frame).map(drop),
                1 if round % (2 * HOT) < HOT => self.hugetlb.unmap_page(task, frame),
                2 => self.hugetlb.soft_offline(task, frame),
                _ => self.hugetlb.referenced(task, frame).map(drop),
            };
            match result {
                Ok(()) if round % 4 == 2 => self.bad.lock().unwrap().push(frame),
                Ok(()) | Err(PageError::NotInUse | PageError::OnItsWay | PageError::Held { .. }) => {}
                // The frame is a private page's by now, or free and reserved.
                Err(PageError::Private | PageError::Reserved | PageError::Hwpoison) => {}
                Err(other) => panic!("{other:?}"),
            }
            // Who was looking has let go, or will have next time.
            self.bad.lock().unwrap().retain(|&frame| match self.hugetlb.unpoison(frame) {
                Ok(()) | Err(PageError::Sound) => false,
                Err(PageError::Held { .. } | PageError::OnItsWay) => true,
                Err(other) => panic!("{other:?}"),
            });
        });
    }

    fn changes(&self) {
        let space = &self.restless;
        self.run(6, |task, round| {
            for number in 0..HOT {
                space.fault(task, page(number), Access::Read).unwrap();
            }
            match round % 5 {
                0 => space.madvise(task, page(0), PUD_SIZE, Advice::DontNeed).unwrap(),
                1 => {
                    for rights in [Protection::READ, RW] {
                        space.mprotect(task, page(1), PMD_SIZE, rights).unwrap();
                        space.fault(task, page(1), Access::Read).unwrap();
                    }
                }
                2 => {
                    for (from, to) in [(page(0), ELSEWHERE), (ELSEWHERE, page(0))] {
                        space.mremap(task, from, PUD_SIZE, PUD_SIZE, RemapTo::Fixed(to)).unwrap();
                        space.fault(task, to, Access::Write).unwrap();
                    }
                }
                3 => {
                    let uffd = Userfault::new(space, Features::empty()).unwrap();
                    uffd.register(task, page(0), PUD_SIZE, Modes::WP).unwrap();
                    space.fault(task, page(2), Access::Write).unwrap();
                    uffd.close(task).unwrap();
                }
                _ => {
                    space.munmap(task, page(0), PUD_SIZE).unwrap();
                    map(task, space, &self.file, SHARED);
                }
            }
        });
    }

    fn holes(&self) {
        let mut cpu = cpu(&self.spaces[1]);
        self.run(7, |task, round| {
            let number = COLD + round % 3;
            match cpu.store_u64(task, page(number), round) {
                Ok(()) | Err(FaultError::PoolEmpty(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
            self.file.punch_hole(task, COLD * PMD_SIZE, 2 * PMD_SIZE).unwrap();
            match self.spaces[0].pin_pages(task, page(COLD), 2 * PMD_SIZE, GupFlags::PIN) {
                Ok(_) | Err(GupError::Fault(FaultError::PoolEmpty(_))) => {}
                Err(other) => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn all_walkers_at_once_lose_nothing() {
    all_at_once(X86_64::FOUR_LEVELS);
}

#[test]
fn nor_on_tables_of_five_levels() {
    all_at_once(X86_64::FIVE_LEVELS);
}

fn all_at_once(levels: X86_64) {
    let (hugetlb, mut task) = system_with(levels, POOL);
    let file = file(&mut task, 512);
    let (spaces, restless) = ([space(&hugetlb), space(&hugetlb)], space(&hugetlb));
    for space in spaces.iter().chain([&restless]) {
        map(&mut task, space, &file, SHARED);
    }
    let private = pages::file(&mut task, HOT);
    map_at(&mut task, &spaces[0], &private, PRIVATE_AT, HOT * PMD_SIZE, MapFlags::empty());
    let mut first = cpu(&spaces[0]);
    for number in 0..2 * HOT {
        first.store_u64(&mut task, marker(number), number).unwrap();
    }
    drop((first, private));
    let world = World {
        hugetlb,
        file,
        spaces,
        restless,
        over: AtomicBool::new(false),
        done: [const { AtomicU64::new(0) }; 8],
        bad: Mutex::new(Vec::new()),
    };
    thread::scope(|scope| {
        let stop = StopAtEnd(&world.over);
        let works = [
            World::stores,
            World::other_stores,
            World::forks,
            World::pins,
            World::walks,
            World::moves,
            World::changes,
            World::holes,
        ];
        let threads = works.map(|work| {
            let world = &world;
            scope.spawn(move || work(world))
        });
        let begin = Instant::now();
        let all_have = |rounds| world.done.iter().all(|done| done.load(Ordering::Relaxed) > rounds);
        while begin.elapsed() < LASTS || !all_have(20) {
            assert!(begin.elapsed() < Duration::from_secs(60), "somebody is stuck: {:?}", world.done);
            if threads.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        drop(stop);
    });
    let World { hugetlb, file, spaces, restless, bad, .. } = world;
    drop((spaces, restless, file));
    for frame in bad.into_inner().unwrap() {
        hugetlb.unpoison(frame).unwrap();
    }
    assert_eq!(counters(&hugetlb).total, POOL);
    assert_unused(&hugetlb, &mut task);
}
